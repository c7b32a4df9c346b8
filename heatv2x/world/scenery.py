"""What stands beside the roads and hides vehicles from each other: buildings, hedges, walls, trees, poles, medians."""

from __future__ import annotations

import numpy as np

from heatv2x.structures import Float64, Pose
from heatv2x.world import polyline
from heatv2x.world.ground import GRASS, PAVEMENT, Ground
from heatv2x.world.meshes import LEAVES, METAL, ROOF, WALL, WOOD, Mesh, crown, frustum, gable, merge_meshes
from heatv2x.world.roads import RoadNetwork, Street
from heatv2x.world.styles import TownStyle


def build_scenery(rng: np.random.Generator, style: TownStyle, network: RoadNetwork, ground: Ground) -> Mesh:
    """Everything that stands in a town, as one mesh; claims its place on the ground."""
    pieces = [frustum((-0.1, 0.1), (-0.1, 0.1), (-1.0, -0.9), METAL)]  # a mesh is never empty
    if network.island_m:
        mound = 0.7 * network.island_m
        pieces.append(crown(np.array([mound, mound, 2.6]), 0.3, rng, np.array([70.0, 104, 50])))
    for street in network.streets:
        pieces += _medians(rng, style, street)
        for side in (1, -1):
            pieces += _frontage(rng, style, ground, street, side)
    return merge_meshes(pieces)


def _medians(rng: np.random.Generator, style: TownStyle, street: Street) -> list[Mesh]:
    """A hedge between the directions of a wide street, or behind the stalls of a car park."""
    if rng.uniform() >= style.medians:
        return []
    if street.parking == "stalls":
        return _hedgerow(rng, polyline.offset(street.centre, street.half_width(1) + 0.3))
    return _hedgerow(rng, street.centre) if min(street.outward, street.inward) > 1 else []


def _hedgerow(rng: np.random.Generator, line: Float64) -> list[Mesh]:
    points = polyline.resample(line)
    heading, height = polyline.headings(points), rng.uniform(1.3, 2.1)
    green = np.array([62.0, 92, 44]) * rng.uniform(0.8, 1.2)
    bush = frustum((-2.6, 2.6), (-0.22, 0.22), (0.0, height), LEAVES, green, (0.05, 0.05, 0.04))
    every = range(16, len(points) - 8, int(rng.integers(11, 15)))
    return [piece for k in every for piece in _stand([bush], points[k], float(heading[k]))]


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
