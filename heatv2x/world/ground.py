"""What the ground is made of, as a raster: where the road is, where paint is, where something may be built."""

from __future__ import annotations

import numpy as np

from heatv2x.structures import Bool, Float64, UInt8
from heatv2x.world import polyline
from heatv2x.world.roads import RoadNetwork, Street

GRASS, PAVEMENT, ASPHALT, BAY, MARKING = range(5)
CELL_M = 0.25
HALF_M = 128.0


class Ground:
    """A square raster about the origin, rows along y.

    Attributes:
        codes: (1024, 1024) uint8, one of this module's constants.
        taken: same shape, bool: something stands there already.
    """

    def __init__(self) -> None:
        cells = int(2 * HALF_M / CELL_M)
        self.codes: UInt8 = np.full((cells, cells), GRASS, np.uint8)
        self.taken: Bool = np.zeros((cells, cells), np.bool_)

    def cells(self, points: Float64) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], ...]:
        """Row and column of each of the (P, 2) points; points outside fall on the border cells."""
        last = len(self.codes) - 1
        index = np.clip(((points + HALF_M) / CELL_M).astype(np.intp), 0, last)
        return index[:, 1], index[:, 0]

    def strip(self, line: Float64, right_m: float, left_m: float, code: int, dash_m: float = 0.0) -> None:
        """Paint a band along a curve, between two offsets (left positive); dashed if `dash_m` is given."""
        points = polyline.resample(line, 0.2)
        heading = polyline.headings(points)
        if dash_m:
            keep = (np.arange(len(points)) * 0.2 / dash_m).astype(int) % 2 == 0
            points, heading = points[keep], heading[keep]
        normal = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
        across = np.arange(right_m, left_m + 1e-6, 0.2) if left_m > right_m else np.array([right_m])
        band = points[:, None] + across[:, None] * normal[:, None]
        self.codes[self.cells(band.reshape(-1, 2))] = code

    def disc(self, radius_m: float, code: int) -> None:
        """Paint a disc about the origin."""
        axis = (np.arange(len(self.codes)) + 0.5) * CELL_M - HALF_M
        self.codes[axis[:, None] ** 2 + axis[None] ** 2 < radius_m**2] = code

    def claim(
        self, centre: Float64, half: tuple[float, float], yaw: float, allowed: tuple[int, ...] = (GRASS,)
    ) -> bool:
        """Reserve a rectangle for something that stands; False if it would touch a road or another thing."""
        x, y = (np.arange(-h, h + 0.2, 0.24) for h in half)
        local = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        c, s = np.cos(yaw), np.sin(yaw)
        points = local @ np.array([[c, s], [-s, c]]) + centre
        if np.abs(points).max() > HALF_M - 1.0:
            return False
        cells = self.cells(points)
        if self.taken[cells].any() or not np.isin(self.codes[cells], allowed).all():
            return False
        self.taken[cells] = True
        return True


def pave(network: RoadNetwork) -> Ground:
    """The ground of a road network: sidewalks first, roads over them, paint last."""
    ground = Ground()
    for street in network.streets:
        edge = street.sidewalk_m
        ground.strip(street.centre, -street.half_width(-1) - edge, street.half_width(1) + edge, PAVEMENT)
    if network.connectors:
        inner = max(float(np.hypot(*street.centre[0])) for street in network.streets)
        ground.disc(inner + 1.0, PAVEMENT)
    for path in network.connectors:
        ground.strip(path, -2.6, 2.6, ASPHALT)
    for street in network.streets:
        ground.strip(street.centre, -street.half_width(-1), street.half_width(1), ASPHALT)
    if network.island_m:
        ground.disc(network.island_m, GRASS)
    for street in network.streets:
        _mark(ground, street)
    return ground


def _mark(ground: Ground, street: Street) -> None:
    width = street.lane_width_m
    for side, lanes in ((1, street.inward), (-1, street.outward)):
        kerb = side * lanes * width
        if street.parking_m:
            low, high = sorted((kerb, kerb + side * street.parking_m))
            ground.strip(street.centre, low, high, BAY)
        for lane in range(1, lanes):
            ground.strip(street.centre, side * lane * width, side * lane * width, MARKING, dash_m=3.0)
        ground.strip(street.centre, kerb - side * 0.15, kerb - side * 0.15, MARKING)
    if street.outward and street.inward:
        ground.strip(street.centre, -0.1, 0.1, MARKING, dash_m=0.0 if street.outward > 1 else 4.0)
