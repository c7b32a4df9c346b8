"""Kinds of vehicles, their sizes, and how they look as small meshes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Float64
from heatv2x.world.meshes import GLASS, HEADLIGHT, PAINT, RIM, TAIL_LIGHT, TYRE, Mesh, frustum, merge_meshes

# length, width, height: smallest and largest, metres
SIZES: Mapping[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "hatchback": ((3.7, 4.3), (1.68, 1.84), (1.42, 1.56)),
    "sedan": ((4.4, 5.0), (1.78, 1.94), (1.38, 1.50)),
    "suv": ((4.3, 4.9), (1.84, 1.99), (1.60, 1.78)),
    "van": ((4.9, 6.0), (1.92, 2.08), (1.95, 2.55)),
    "truck": ((7.0, 9.5), (2.35, 2.50), (2.8, 3.6)),
    "bus": ((10.0, 12.0), (2.48, 2.55), (3.0, 3.3)),
}
CARS = ("hatchback", "sedan", "suv")
LONG = ("truck", "bus")
_COLOURS = np.array(
    [[235, 235, 232], [28, 29, 32], [128, 132, 136], [186, 190, 194], [160, 26, 26], [30, 62, 130], [58, 84, 62],
     [200, 170, 60], [110, 72, 48], [70, 120, 160]],
    dtype=np.float64,
)  # fmt: skip


@dataclass(frozen=True)
class Vehicle:
    """What does not change about a vehicle.

    Attributes:
        kind: a key of `SIZES`.
        size: (3,) float64 length, width, height, metres.
        colour: (3,) float64 RGB in 0-255.
    """

    kind: str
    size: Float64
    colour: Float64

    def mesh(self) -> Mesh:
        """Its mesh about the middle of its footprint on the ground."""
        shape = SHAPES[self.kind]
        colours = np.where((shape.material == PAINT)[:, None], self.colour, shape.colour)
        return Mesh(shape.vertices * self.size, shape.faces, colours, shape.material)


def draw_vehicle(rng: np.random.Generator, kinds: Mapping[str, float]) -> Vehicle:
    """A random vehicle; `kinds` gives the weight of each kind."""
    weights = np.array(list(kinds.values()))
    kind = str(rng.choice(list(kinds), p=weights / weights.sum()))
    size = np.array([rng.uniform(*limits) for limits in SIZES[kind]])
    colour = _COLOURS[rng.integers(len(_COLOURS))] * rng.uniform(0.85, 1.08)
    return Vehicle(kind, size.round(3), np.clip(colour, 0, 255).round())


def _wheels(height: float, *along: float) -> list[Mesh]:
    return [
        frustum((x - 0.065, x + 0.065), (y - 0.05, y + 0.05), (0.0, height), TYRE) for x in along for y in (-0.44, 0.44)
    ]


def _lamps(low: float, high: float) -> list[Mesh]:
    pieces = [frustum((0.49, 0.5), (y - 0.09, y + 0.09), (low, high), HEADLIGHT) for y in (-0.38, 0.38)]
    return pieces + [frustum((-0.5, -0.49), (y - 0.09, y + 0.09), (low, high), TAIL_LIGHT) for y in (-0.38, 0.38)]


def _car(back: float, hood: float, top_back: float, top_hood: float, waist: float) -> Mesh:
    """Body, cabin with windows, wheels and lamps in a box of size 1; x from -0.5 to 0.5, z from 0 to 1."""
    body = frustum((-0.5, 0.5), (-0.5, 0.5), (0.17, waist), PAINT, inset=(0.015, 0.015, 0.03))
    front, rear = hood - top_hood, top_back - back
    cabin = frustum((back, hood), (-0.46, 0.46), (waist, 0.96), GLASS, inset=(front, rear, 0.08))
    roof = frustum((top_back, top_hood), (-0.38, 0.38), (0.96, 1.0), PAINT)
    return merge_meshes([body, cabin, roof, *_wheels(0.42, -0.3, 0.31), *_lamps(0.40, 0.5)])


def _van() -> Mesh:
    body = frustum((-0.5, 0.5), (-0.5, 0.5), (0.13, 0.5), PAINT)
    box = frustum((-0.5, 0.2), (-0.49, 0.49), (0.5, 1.0), PAINT, inset=(0.0, 0.01, 0.04))
    cab = frustum((0.2, 0.42), (-0.48, 0.48), (0.5, 0.92), GLASS, inset=(0.16, 0.0, 0.06))
    return merge_meshes([body, box, cab, *_wheels(0.3, -0.31, 0.31), *_lamps(0.30, 0.4)])


def _truck() -> Mesh:
    chassis = frustum((-0.5, 0.5), (-0.42, 0.42), (0.14, 0.26), RIM)
    cargo = frustum((-0.5, 0.25), (-0.5, 0.5), (0.26, 1.0), PAINT)
    cab = frustum((0.29, 0.5), (-0.48, 0.48), (0.16, 0.45), PAINT)
    window = frustum((0.29, 0.5), (-0.47, 0.47), (0.45, 0.72), GLASS, inset=(0.03, 0.0, 0.02))
    return merge_meshes([chassis, cargo, cab, window, *_wheels(0.29, -0.36, -0.22, 0.38), *_lamps(0.17, 0.23)])


def _bus() -> Mesh:
    lower = frustum((-0.5, 0.5), (-0.5, 0.5), (0.1, 0.42), PAINT)
    windows = frustum((-0.495, 0.495), (-0.49, 0.49), (0.42, 0.8), GLASS)
    roof = frustum((-0.5, 0.5), (-0.5, 0.5), (0.8, 1.0), PAINT, inset=(0.01, 0.01, 0.05))
    return merge_meshes([lower, windows, roof, *_wheels(0.29, -0.28, 0.33), *_lamps(0.2, 0.27)])


SHAPES: Mapping[str, Mesh] = {
    "hatchback": _car(-0.48, 0.27, -0.42, 0.06, 0.60),
    "sedan": _car(-0.40, 0.24, -0.24, 0.06, 0.62),
    "suv": _car(-0.49, 0.27, -0.44, 0.10, 0.58),
    "van": _van(),
    "truck": _truck(),
    "bus": _bus(),
}
