"""A town: roads, what stands beside them, and the cars that are parked. Each split has its own style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from heatv2x.structures import Float64, Pose
from heatv2x.world import polyline, roads
from heatv2x.world.ground import GRASS, PAVEMENT, Ground, pave
from heatv2x.world.meshes import LEAVES, METAL, ROOF, WALL, WOOD, Mesh, crown, frustum, gable, join
from heatv2x.world.roads import RoadNetwork, Street
from heatv2x.world.vehicles import Vehicle, draw_vehicle

_TRAFFIC = {"hatchback": 0.3, "sedan": 0.3, "suv": 0.2, "van": 0.2, "truck": 0.08, "bus": 0.06}


@dataclass(frozen=True)
class TownStyle:
    """How the towns of a split look and how full they are.

    Attributes:
        layouts: weight of each road layout.
        lane_width_m, building_height_m, building_depth_m, setback_m, gap_m: ranges, metres.
        gabled: share of houses with a pitched roof.
        trees, hedges: chance per 10 m of kerb.
        moving: range of the number of vehicles in motion at first.
        parked: range of the share of parking places that are taken.
        parallel_parking: chance that a street has parking along the kerb.
        kinds: weight of each vehicle kind.
        walls: (K, 3) RGB colours of buildings.
    """

    layouts: Mapping[str, float]
    lane_width_m: tuple[float, float] = (3.3, 3.7)
    building_height_m: tuple[float, float] = (8.0, 24.0)
    building_depth_m: tuple[float, float] = (10.0, 16.0)
    setback_m: tuple[float, float] = (0.0, 1.5)
    gap_m: tuple[float, float] = (1.0, 9.0)
    gabled: float = 0.1
    trees: float = 0.35
    hedges: float = 0.15
    moving: tuple[int, int] = (28, 52)
    parked: tuple[float, float] = (0.4, 0.85)
    parallel_parking: float = 0.85
    kinds: Mapping[str, float] = field(default_factory=lambda: _TRAFFIC)
    walls: tuple[tuple[int, int, int], ...] = ((196, 182, 160), (168, 110, 88), (150, 150, 148), (206, 200, 190))


STYLES: Mapping[str, TownStyle] = {
    "train": TownStyle({"straight": 0.08, "t_junction": 0.3, "crossing": 0.44, "car_park": 0.1, "roundabout": 0.08}),
    "validate": TownStyle(
        {"straight": 0.08, "t_junction": 0.3, "crossing": 0.38, "car_park": 0.1, "roundabout": 0.14},
        building_height_m=(5.0, 14.0),
        gap_m=(2.0, 12.0),
        gabled=0.4,
        trees=0.5,
        moving=(26, 50),
        walls=((214, 196, 150), (120, 128, 140), (186, 150, 120)),
    ),
    "test": TownStyle(
        {"straight": 0.06, "t_junction": 0.26, "crossing": 0.36, "car_park": 0.1, "roundabout": 0.22},
        lane_width_m=(3.1, 3.5),
        building_height_m=(4.0, 11.0),
        building_depth_m=(7.0, 13.0),
        setback_m=(0.5, 3.5),
        gap_m=(1.5, 7.0),
        gabled=0.7,
        trees=0.6,
        hedges=0.4,
        moving=(26, 56),
        parked=(0.35, 0.95),
        kinds={"hatchback": 0.36, "sedan": 0.16, "suv": 0.24, "van": 0.2, "truck": 0.07, "bus": 0.06},
        walls=((225, 214, 196), (178, 80, 62), (208, 190, 120), (142, 160, 150)),
    ),
}


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
    network = _draw_network(rng, style)
    ground = pave(network)
    density = float(rng.uniform())
    parked = _park(rng, style, network)
    pieces = [
        piece for street in network.streets for side in (1, -1) for piece in _frontage(rng, style, ground, street, side)
    ]
    if network.island_m:
        mound = 0.7 * network.island_m
        pieces.append(crown(np.array([mound, mound, 2.6]), 0.3, rng, np.array([70.0, 104, 50])))
    pieces.append(frustum((-0.1, 0.1), (-0.1, 0.1), (-1.0, -0.9), METAL))  # never empty
    return Town(style, network, ground, join(pieces), tuple(parked), density)


def _draw_network(rng: np.random.Generator, style: TownStyle) -> RoadNetwork:
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
    wide = {kind: weight for kind, weight in style.kinds.items() if kind not in ("truck", "bus")}
    vehicle = draw_vehicle(rng, wide)
    while vehicle.size[0] > (5.0 if street.parking == "stalls" else 5.9):
        vehicle = draw_vehicle(rng, wide)
    reverse = np.pi if street.parking == "stalls" and rng.uniform() < 0.35 else 0.0
    spot = place + rng.uniform(-0.12, 0.12, 2)
    return Parked(vehicle, Pose.planar(spot[0], spot[1], yaw + reverse + rng.normal(0, 0.025)))


def _frontage(rng: np.random.Generator, style: TownStyle, ground: Ground, street: Street, side: int) -> list[Mesh]:
    """What stands along one side of a street: a row of buildings, then hedges and walls, then trees and poles."""
    kerb = street.half_width(side) + street.sidewalk_m
    line = polyline.resample(polyline.offset(street.centre, side * kerb))
    heading = polyline.headings(line) + (0.0 if side > 0 else np.pi)  # local +y points away from the road
    pieces, at = [], rng.uniform(-8, 0)
    while at < len(line) * polyline.STEP_M:
        width = float(rng.uniform(8.0, 24.0))
        k = min(int((at + width / 2) / polyline.STEP_M), len(line) - 1)
        house = _building(rng, style, ground, line[k], heading[k], width)
        pieces += house
        at += width + rng.uniform(*style.gap_m) if house else 3.0
    for k in range(5, len(line), 20):
        if rng.uniform() < style.hedges:
            pieces += _hedge_or_wall(rng, ground, line[k], heading[k])
        if rng.uniform() < style.trees:
            pieces += _tree(rng, ground, line[k], heading[k])
        elif rng.uniform() < 0.2:
            pieces += _pole(rng, ground, line[k], heading[k])
    return pieces


def _stand(pieces: list[Mesh], centre: Float64, yaw: float) -> list[Mesh]:
    pose = Pose.planar(float(centre[0]), float(centre[1]), yaw).matrix
    return [piece.moved(pose) for piece in pieces]


def _away(point: Float64, heading: float, distance_m: float) -> Float64:
    return point + distance_m * np.array([-np.sin(heading), np.cos(heading)])


def _building(
    rng: np.random.Generator, style: TownStyle, ground: Ground, front: Float64, heading: float, width: float
) -> list[Mesh]:
    depth, height = rng.uniform(*style.building_depth_m), rng.uniform(*style.building_height_m)
    centre = _away(front, heading, rng.uniform(*style.setback_m) + depth / 2 + 0.3)
    if not ground.claim(centre, (width / 2, depth / 2), heading):
        return []
    colour = np.array(style.walls[rng.integers(len(style.walls))], dtype=np.float64) * rng.uniform(0.8, 1.05)
    x, y = width / 2, depth / 2
    body = frustum((-x, x), (-y, y), (0.0, height), WALL, colour.clip(0, 255))
    if rng.uniform() < style.gabled:
        tiles = np.array([150.0, 72, 52]) * rng.uniform(0.7, 1.1)
        return _stand([body, gable(x + 0.3, y + 0.3, height, 0.35 * depth, ROOF, tiles)], centre, heading)
    top = frustum((-x * 0.4, x * 0.3), (-y * 0.4, y * 0.4), (height, height + 2.0), ROOF, colour * 0.7)
    return _stand([body, top], centre, heading)


def _hedge_or_wall(rng: np.random.Generator, ground: Ground, edge: Float64, heading: float) -> list[Mesh]:
    length = rng.uniform(4.0, 12.0) / 2
    centre = _away(edge, heading, rng.uniform(0.5, 0.9))
    if not ground.claim(centre, (length, 0.4), heading, (GRASS, PAVEMENT)):
        return []
    if rng.uniform() < 0.6:
        hedge = np.array([58.0, 92, 40]) * rng.uniform(0.8, 1.2)
        piece = frustum((-length, length), (-0.4, 0.4), (0.0, rng.uniform(0.9, 2.0)), LEAVES, hedge, (0.1, 0.1, 0.08))
    else:
        piece = frustum((-length, length), (-0.14, 0.14), (0.0, rng.uniform(1.0, 2.2)), WALL)
    return _stand([piece], centre, heading)


def _tree(rng: np.random.Generator, ground: Ground, edge: Float64, heading: float) -> list[Mesh]:
    centre = _away(edge, heading, rng.uniform(-1.2, 2.0))
    if not ground.claim(centre, (0.4, 0.4), heading, (GRASS, PAVEMENT)):
        return []
    trunk, thick, wide = rng.uniform(1.8, 3.0), rng.uniform(0.12, 0.25), rng.uniform(1.2, 2.4)
    green = np.array([66.0, 104, 46]) * rng.uniform(0.75, 1.25)
    bole = frustum((-thick, thick), (-thick, thick), (0.0, trunk + 0.8), WOOD)
    tall = rng.uniform(1.3, 2.4)
    return _stand(
        [bole, crown(np.array([wide, wide, tall]), trunk + 0.75 * tall, rng, green)], centre, rng.uniform(0, 6.0)
    )


def _pole(rng: np.random.Generator, ground: Ground, edge: Float64, heading: float) -> list[Mesh]:
    centre = _away(edge, heading, -rng.uniform(1.0, 1.6))
    if not ground.claim(centre, (0.2, 0.2), heading, (GRASS, PAVEMENT)):
        return []
    if rng.uniform() < 0.7:
        return _stand([frustum((-0.08, 0.08), (-0.08, 0.08), (0.0, rng.uniform(4.0, 7.0)), METAL)], centre, heading)
    return _stand([frustum((-0.4, 0.4), (-0.3, 0.3), (0.0, rng.uniform(0.9, 1.3)), METAL)], centre, heading)
