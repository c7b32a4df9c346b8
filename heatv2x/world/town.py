"""A town: roads, scenery, and the cars that are parked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Float64, Pose
from heatv2x.world import polyline, roads
from heatv2x.world.ground import Ground, pave
from heatv2x.world.meshes import Mesh
from heatv2x.world.roads import RoadNetwork, Street
from heatv2x.world.scenery import build_scenery
from heatv2x.world.styles import TownStyle
from heatv2x.world.vehicles import LONG, Vehicle, draw_vehicle


@dataclass(frozen=True)
class Parked:
    """A parked vehicle and where it stands."""

    vehicle: Vehicle
    pose: Pose


@dataclass(frozen=True)
class Town:
    """Everything that does not move.

    Attributes:
        style: what it was drawn from.
        network: the roads.
        ground: the ground raster.
        scenery: buildings, trees, walls, hedges and poles as one mesh.
        parked: the parked vehicles.
        density: 0-1, how busy this town is within its style.
    """

    style: TownStyle
    network: RoadNetwork
    ground: Ground
    scenery: Mesh
    parked: tuple[Parked, ...]
    density: float


def build_town(rng: np.random.Generator, style: TownStyle) -> Town:
    """Draw a town."""
    network = draw_network(rng, style)
    ground = pave(network)
    density = float(rng.uniform())
    parked = _park(rng, style, network)
    scenery = build_scenery(rng, style, network, ground)
    return Town(style, network, ground, scenery, tuple(parked), density)


def draw_network(rng: np.random.Generator, style: TownStyle) -> RoadNetwork:
    """Draw the roads alone."""
    layout = str(
        rng.choice(list(style.layouts), p=np.array(list(style.layouts.values())) / sum(style.layouts.values()))
    )
    width = float(rng.uniform(*style.lane_width_m))
    major, minor = (_draw_street(rng, style, width, lanes) for lanes in (int(rng.integers(1, 3)), 1))
    turn = rng.uniform(-np.pi, np.pi)
    if layout == "straight":
        return roads.straight(rng, _draw_street(rng, style, width, int(rng.integers(1, 4))))
    if layout == "car_park":
        return roads.car_park(rng, minor, aisles=int(rng.integers(2, 4)))
    if layout == "roundabout":
        arms = np.arange(4) * np.pi / 2 + rng.uniform(-0.15, 0.15, 4) + turn
        keep = 3 if rng.uniform() < 0.3 else 4
        return roads.roundabout(rng, arms[:keep], minor, float(rng.uniform(13.0, 18.0)))
    angles = np.arange(4) * np.pi / 2 + rng.uniform(-0.2, 0.2, 4) + turn
    if layout == "crossing":
        return roads.junction(rng, angles, major, minor)
    return roads.junction(rng, angles[:3], major, minor)


def _draw_street(rng: np.random.Generator, style: TownStyle, width: float, lanes: int) -> Street:
    parking = "parallel" if rng.uniform() < style.parallel_parking else "none"
    speed = float(rng.uniform(8.5, 14.0))
    return Street(np.zeros((2, 2)), lanes, lanes, width, parking, speed, sidewalk_m=float(rng.uniform(1.6, 3.0)))


def _park(rng: np.random.Generator, style: TownStyle, network: RoadNetwork) -> list[Parked]:
    taken = rng.uniform(*style.parked)
    parked = []
    for street in network.streets:
        share = taken * (0.42 if street.parking == "stalls" else 1.0)  # a full car park would outnumber all else
        for side in (1, -1):
            for place, yaw in _places(street, side):
                if rng.uniform() < share:
                    parked.append(_park_one(rng, style, street, place, yaw))
    return parked


def _places(street: Street, side: int) -> list[tuple[Float64, float]]:
    """Parking places on one side of a street: position and heading."""
    if street.parking == "none":
        return []
    lanes = street.inward if side > 0 else street.outward
    depth = lanes * street.lane_width_m + street.parking_m / 2
    line = polyline.resample(polyline.offset(street.centre, side * depth))
    step, turn = (13, 0.0 if side < 0 else np.pi) if street.parking == "parallel" else (5, side * np.pi / 2)
    heading = polyline.headings(line)
    return [(line[k], float(heading[k] + turn)) for k in range(12, len(line) - 6, step)]


def _park_one(rng: np.random.Generator, style: TownStyle, street: Street, place: Float64, yaw: float) -> Parked:
    wide = {kind: weight for kind, weight in style.kinds.items() if kind not in LONG}
    vehicle = draw_vehicle(rng, wide)
    while vehicle.size[0] > (5.0 if street.parking == "stalls" else 5.9):
        vehicle = draw_vehicle(rng, wide)
    reverse = np.pi if street.parking == "stalls" and rng.uniform() < 0.35 else 0.0
    spot = place + rng.uniform(-0.12, 0.12, 2)
    return Parked(vehicle, Pose.planar(spot[0], spot[1], yaw + reverse + rng.normal(0, 0.025)))
