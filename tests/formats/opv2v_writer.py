"""Whole small datasets in the layout of OPV2V, OPV2V-H and V2XSet, with contents that agree with one another.

Left-handed CARLA axes, degrees, half sizes and km/h are made here with formulas of their own (`opv2v_tree`), not with
the package's.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.formats.moving_scene import Street, camera_at, street
from tests.formats.opv2v_tree import MOUNTS, K, carla, carla_pose, pcd_bytes

_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
_BLOCK = 10  # pixels of an 800 x 600 image that share a ray
_BEAMS = {"": (64, 180), "_32": (32, 180), "_16": (16, 180)}
EXCLUDED = ("2021_08_20_21_10_24", "000265")


@dataclass(frozen=True)
class Scenario:
    """One recording.

    Attributes:
        split, name: where it lies.
        agents: integer ids; negative ones are roadside units.
        stems: file stems, ticks of 0.05 s.
        old: the form of early dumps, with tagged tuples in the yaml.
    """

    split: str
    name: str
    agents: tuple[int, ...]
    stems: tuple[str, ...]
    old: bool = False


OPV2V = (
    Scenario("train", "2021_08_16_22_26_54", (641, 650), ("000069", "000071", "000073"), old=True),
    Scenario("train", "2021_08_18_19_48_05", (1045, 1054, 641), ("000068", "000070", "000072")),
    Scenario("validate", "2021_08_21_17_30_41", (7, 16), ("000102", "000104")),
    Scenario("test", "2021_08_18_19_11_02", (102, 111, 120, 13), ("000090", "000092")),
    Scenario("test", EXCLUDED[0], (1996, 2005), ("000263", EXCLUDED[1], "000267")),
)
CULVER = (Scenario("test_culvercity", "2021_09_03_09_32_17", (311, 320), ("000071",)),)
V2XSET = (
    Scenario("train", "2021_08_22_07_52_02", (-1, 5274, 5292), ("000070", "000072")),
    Scenario("train", "2021_08_23_17_22_47", (48, 57), ("000068", "000070")),
    Scenario("validate", "2021_08_24_07_45_41", (-1, 302), ("000069",)),
    Scenario("test", "2021_09_09_19_27_35", (-1, 193, 202, 211), ("000068", "000070")),
)


def write_opv2v(out: Path, scenarios: tuple[Scenario, ...] = OPV2V + CULVER, *, images: bool = True) -> None:
    """OPV2V with the separate download `additional/`."""
    for scenario in scenarios:
        _write(scenario, out / "OPV2V", None, images=images, rasters=images)


def write_opv2v_h(out: Path, scenarios: tuple[Scenario, ...] = OPV2V, *, images: bool = True) -> None:
    """OPV2V and the additions of OPV2V-H beside it, with HEAL's two assignment files."""
    for scenario in scenarios:
        _write(scenario, out / "OPV2V", out / "OPV2V_Hetero", images=images, rasters=images)
    write_assignments(out, scenarios)


def write_v2xset(out: Path, scenarios: tuple[Scenario, ...] = V2XSET, *, images: bool = True) -> None:
    """V2XSet: splits at the top, roadside units, no depth and no visibility rasters."""
    for scenario in scenarios:
        _write(scenario, out, None, images=images, rasters=False)


def write_assignments(out: Path, scenarios: tuple[Scenario, ...]) -> None:
    """`opv2v_4modality.json` (random permutation per scenario) and `..._in_order.json` (test scenarios)."""
    rng = np.random.RandomState(303)
    shuffled, ordered = {}, {}
    for scenario in sorted(scenarios, key=lambda each: each.name):
        agents = sorted(map(str, scenario.agents))
        agents = [a for a in agents if not a.startswith("-")] + [a for a in agents if a.startswith("-")]
        types = rng.permutation(4) + 1
        shuffled[scenario.name] = {agent: f"m{types[k % 4]}" for k, agent in enumerate(agents)}
        if scenario.split == "test":
            ordered[scenario.name] = {agent: f"m{k % 4 + 1}" for k, agent in enumerate(agents)}
    out.mkdir(parents=True, exist_ok=True)
    (out / "opv2v_4modality.json").write_text(json.dumps(shuffled))
    (out / "opv2v_4modality_in_order.json").write_text(json.dumps(ordered))


def mirrored(matrix: np.ndarray) -> np.ndarray:
    """A right-handed transform in CARLA's axes, or the other way round."""
    return _MIRROR @ matrix @ _MIRROR


def _write(scenario: Scenario, root: Path, hetero: Path | None, *, images: bool, rasters: bool) -> None:
    start = street(scenario.agents, seed=int(scenario.name.replace("_", "")) % 2**31)
    folder = root / scenario.split / scenario.name
    folder.mkdir(parents=True, exist_ok=True)
    protocol = {"CARLA_client_host": "localhost", "world": {"sync_mode": True, "fixed_delta_seconds": 0.05}}
    (folder / "data_protocol.yaml").write_text(yaml.safe_dump(protocol))
    for stem in scenario.stems:
        moment = start.at((int(stem) - int(scenario.stems[0])) * 0.05)
        for agent in scenario.agents:
            own = folder / str(agent)
            own.mkdir(exist_ok=True)
            seen_by_camera = np.zeros(len(moment.ids), bool)
            T_world_lidar = moment.lidar_matrix(agent)
            extra_sensors = (hetero or root) / scenario.split / scenario.name / str(agent)
            extra_sensors.mkdir(parents=True, exist_ok=True)
            hits = np.zeros(len(moment.ids), np.int64)
            for suffix, (beams, steps) in _BEAMS.items():
                if suffix and hetero is None:
                    continue
                points, counts = moment.sweep(T_world_lidar, beams, steps)
                hits = hits if suffix else counts
                points[:, 1] *= -1
                place = own if not suffix else extra_sensors
                (place / f"{stem}{suffix}.pcd").write_bytes(pcd_bytes(points))
            content = agent_content(moment, agent, hits, old=scenario.old)
            (own / f"{stem}.yaml").write_text(yaml.dump(content, Dumper=getattr(yaml, "CDumper", yaml.Dumper)))
            for number in range(4 if images else 0):
                image, depth, seen = moment.look(T_world_lidar @ mount(number), np.array(K), 800, 600, _BLOCK)
                seen_by_camera |= seen
                (own / f"{stem}_camera{number}.png").write_bytes(png(image))
                if hetero is not None:
                    metres = np.minimum(np.rint(depth), 255).astype(np.uint8)
                    (extra_sensors / f"{stem}_depth{number}.png").write_bytes(png(metres))
            if rasters:
                extra = root / "additional" / scenario.split / scenario.name / str(agent)
                extra.mkdir(parents=True, exist_ok=True)
                own_row = moment.row(agent)
                if own_row is not None:
                    seen_by_camera[own_row] = False
                raster = visibility_raster(moment, T_world_lidar, seen_by_camera)
                (extra / f"{stem}_bev_visibility.png").write_bytes(png(raster))


def mount(number: int) -> np.ndarray:
    """(4, 4) right-handed T_lidar_camera with OpenCV axes of OPV2V's camera of that number."""
    x, y, z, _, yaw, _ = MOUNTS[number]
    return camera_at((x, -y, z), -np.radians(yaw))


def agent_content(moment: Street, agent: int, hits: np.ndarray, *, old: bool = False) -> dict[str, Any]:
    """What the agent's `<t>.yaml` holds."""
    T_world_lidar = moment.lidar_matrix(agent)
    lidar_pose = carla_pose(mirrored(T_world_lidar))
    content: dict[str, Any] = {"lidar_pose": lidar_pose}
    row = moment.row(agent)
    if row is not None:  # roadside units do not drive
        body = carla_pose(mirrored(moment.T_world_car[row]))
        content |= {
            "ego_speed": float(moment.speed[row] * 3.6),
            "true_ego_pos": body,
            "predicted_ego_pos": [body[0] + 0.2, body[1] - 0.1, *body[2:]],
            "plan_trajectory": [[body[0] + step, body[1], 30.0] for step in range(3)],
        }
    if old:
        content["current_time"] = 5.4
    for number, carla_mount in enumerate(MOUNTS):
        T_world_camera = carla(lidar_pose) @ carla(list(carla_mount))
        extrinsic = np.linalg.inv(T_world_camera) @ carla(lidar_pose)
        content[f"camera{number}"] = {
            "cords": carla_pose(T_world_camera),
            "extrinsic": extrinsic.tolist(),
            "intrinsic": K,
        }
    content["vehicles"] = {
        int(moment.ids[n]): _vehicle(moment, n, old) for n in np.flatnonzero(hits) if moment.ids[n] != agent
    }
    return content


def _vehicle(moment: Street, n: int, old: bool) -> dict[str, Any]:
    x, y, z, roll, yaw, pitch = carla_pose(mirrored(moment.T_world_car[n]))
    half = (moment.size[n] / 2).tolist()
    entry: dict[str, Any] = {
        "angle": [roll, yaw, pitch],
        "center": [0.02, -0.01, half[2]],
        "extent": half,
        "location": [x - 0.02, y + 0.01, z - half[2]],
        "speed": float(moment.speed[n] * 3.6),
    }
    if old:
        entry |= {"observations": [(x, y), (x, y)], "predictions": [(x + 1.0, y)]}
    return entry


def visibility_raster(moment: Street, T_world_lidar: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(256, 256) uint8: footprints of the cars that the cameras see, 0.39 m per cell, heading up."""
    raster = np.zeros((256, 256), np.uint8)
    spread = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 41), np.linspace(-0.5, 0.5, 41)), axis=-1).reshape(-1, 2)
    for n in np.flatnonzero(seen):
        footprint = np.column_stack([spread * moment.size[n, :2], np.zeros(len(spread)), np.ones(len(spread))])
        local = footprint @ (np.linalg.inv(T_world_lidar) @ moment.T_world_car[n]).T
        rows = 127 - np.trunc(local[:, 0] / 0.39).astype(int)
        columns = 127 + np.trunc(-local[:, 1] / 0.39).astype(int)
        inside = (rows >= 0) & (rows < 256) & (columns >= 0) & (columns < 256)
        raster[rows[inside], columns[inside]] = 255
    return raster


def png(image: np.ndarray) -> bytes:
    """A PNG of (H, W, 3) or (H, W) uint8."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
