"""Nobody overlaps, nobody jumps, everybody keeps moving."""

from __future__ import annotations

import numpy as np
import pytest

from heatv2x.world.roads import RoadNetwork
from heatv2x.world.styles import STYLES
from heatv2x.world.town import build_town, draw_network
from heatv2x.world.traffic import TICK_S, Traffic


def corners(xy: np.ndarray, yaw: float, size: np.ndarray) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    half = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * size[:2] / 2
    return half @ np.array([[c, s], [-s, c]]) + xy


def apart(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two rectangles are disjoint (separating axes)."""
    for shape in (a, b):
        for axis in (shape[1] - shape[0], shape[2] - shape[1]):
            p, q = a @ axis, b @ axis
            if p.max() < q.min() or q.max() < p.min():
                return True
    return False


def town_traffic(split: str, seed: int) -> tuple[RoadNetwork, list[np.ndarray], Traffic]:
    rng = np.random.default_rng([3, seed])
    town = build_town(rng, STYLES[split])
    traffic = Traffic(town.network, dict(town.style.kinds), town.style.moving[1], rng)
    parked = [corners(p.pose.xyz[:2], p.pose.yaw, p.vehicle.size) for p in town.parked]
    return town.network, parked, traffic


@pytest.mark.parametrize("split", list(STYLES))
@pytest.mark.parametrize("seed", range(4))
def test_no_two_vehicles_overlap(split: str, seed: int) -> None:
    _, parked, traffic = town_traffic(split, seed)
    for _ in range(12):
        traffic.run(9)
        now = traffic.snapshot()
        moving = [
            corners(now.xy[k], now.yaw[k], traffic.fleet[int(key)].size) for k, key in enumerate(now.keys.tolist())
        ]
        for k, shape in enumerate(moving):
            near = [o for o in moving[k + 1 :] + parked if np.abs(o.mean(0) - shape.mean(0)).max() < 13]
            assert all(apart(shape, other) for other in near)


def test_vehicles_move_smoothly() -> None:
    _, _, traffic = town_traffic("train", 1)
    traffic.run(30)
    before = traffic.snapshot()
    driven = np.zeros(len(before.keys))
    for _ in range(80):
        traffic.step()
        now = traffic.snapshot()
        shared, i, j = np.intersect1d(before.keys, now.keys, return_indices=True)
        step = np.hypot(*(now.xy[j] - before.xy[i]).T)
        assert (step < 16 * TICK_S).all()
        assert np.allclose(step, now.speed[j] * TICK_S, atol=0.12)
        before, driven[: len(shared)] = now, driven[: len(shared)] + step
    assert driven.mean() > 8


def test_every_layout_appears() -> None:
    layouts = {draw_network(np.random.default_rng(k), STYLES["test"]).layout for k in range(60)}
    assert layouts == {"straight", "t_junction", "crossing", "roundabout", "car_park"}
