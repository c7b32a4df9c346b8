"""What the ground is made of, as a raster: where the road is, where paint is, where something may be built."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from heatv2x.structures import Bool, Float64, Int64, UInt8
from heatv2x.world import polyline
from heatv2x.world.roads import RoadNetwork, Street

GRASS, PAVEMENT, ASPHALT, BAY, MARKING = range(5)
CELL_M = 0.25
HALF_M = 128.0
_CELLS = int(2 * HALF_M / CELL_M)


class Ground:
    """A square raster about the origin, rows along y.

    Attributes:
        codes: (1024, 1024) uint8, one of this module's constants.
        taken: same shape, bool: something stands there already.
    """

    def __init__(self, codes: UInt8) -> None:
        self.codes = codes
        self.taken: Bool = np.zeros(codes.shape, np.bool_)

    def cells(self, points: Float64) -> tuple[Int64, Int64]:
        """Row and column of each of the (P, 2) points; points outside fall on the border cells."""
        index = np.clip(((points + HALF_M) / CELL_M).astype(np.int64), 0, len(self.codes) - 1)
        return index[:, 1], index[:, 0]

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
    canvas = _Canvas()
    for street in network.streets:
        edge = street.sidewalk_m
        canvas.strip(street.centre, -street.half_width(-1) - edge, street.half_width(1) + edge, PAVEMENT)
    if network.connectors:
        inner = max(float(np.hypot(*street.centre[0])) for street in network.streets)
        canvas.disc(inner + 1.0, PAVEMENT)
    for path in network.connectors:
        canvas.strip(path, -2.6, 2.6, ASPHALT)
    for street in network.streets:
        canvas.strip(street.centre, -street.half_width(-1), street.half_width(1), ASPHALT)
    if network.island_m:
        canvas.disc(network.island_m, GRASS)
    for street in network.streets:
        _mark(canvas, street)
    return Ground(np.array(canvas.image, np.uint8))


class _Canvas:
    """The raster while it is painted."""

    def __init__(self) -> None:
        self.image = Image.new("L", (_CELLS, _CELLS), GRASS)
        self._draw = ImageDraw.Draw(self.image)

    def strip(self, line: Float64, right_m: float, left_m: float, code: int) -> None:
        """Paint the band between two offsets of a curve, left positive."""
        border = np.concatenate([polyline.offset(line, left_m), polyline.offset(line, right_m)[::-1]])
        self._draw.polygon(_pixels(border), fill=code)

    def stroke(self, line: Float64, left_m: float, dash_m: float = 0.0) -> None:
        """Paint a marking one cell wide along a curve's offset, dashed if `dash_m` is given."""
        points = polyline.offset(line, left_m)
        step = max(int(dash_m / polyline.STEP_M), 1) if dash_m else len(points)
        for start in range(0, len(points) - 1, 2 * step):
            self._draw.line(_pixels(points[start : start + step + 1]), fill=MARKING)

    def disc(self, radius_m: float, code: int) -> None:
        """Paint a disc about the origin."""
        middle, radius = _CELLS / 2, radius_m / CELL_M
        self._draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=code)


def _pixels(points: Float64) -> list[tuple[float, float]]:
    return [(x, y) for x, y in ((points + HALF_M) / CELL_M - 0.5).tolist()]


def _mark(canvas: _Canvas, street: Street) -> None:
    width = street.lane_width_m
    for side, lanes in ((1, street.inward), (-1, street.outward)):
        kerb = side * lanes * width
        if street.parking_m:
            low, high = sorted((kerb, kerb + side * street.parking_m))
            canvas.strip(street.centre, low, high, BAY)
        for lane in range(1, lanes):
            canvas.stroke(street.centre, side * lane * width, dash_m=3.0)
        canvas.stroke(street.centre, kerb - side * 0.15)
    if street.outward and street.inward:
        canvas.stroke(street.centre, 0.0, dash_m=0.0 if street.outward > 1 else 4.0)
