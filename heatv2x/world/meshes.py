"""Small triangle meshes with a colour and a material per face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Float64, Int32, UInt8

GROUND, PAINT, GLASS, TYRE, RIM, HEADLIGHT, TAIL_LIGHT, WALL, ROOF, LEAVES, WOOD, METAL = range(12)

# What a LiDAR gets back from a material at right angles, in [0, 1]
REFLECTIVITY = np.array([0.18, 0.62, 0.12, 0.06, 0.35, 0.95, 0.80, 0.50, 0.38, 0.42, 0.30, 0.70])
_COLOURS = np.array(
    [[110, 110, 110], [200, 200, 200], [38, 46, 56], [22, 22, 24], [70, 70, 74], [250, 246, 225], [190, 18, 18],
     [180, 170, 155], [120, 84, 70], [62, 98, 44], [92, 70, 50], [120, 124, 128]],
    dtype=np.float64,
)  # fmt: skip


@dataclass(frozen=True)
class Mesh:
    """Triangles.

    Attributes:
        vertices: (V, 3) float64 metres.
        faces: (F, 3) int32 indices into `vertices`.
        colour: (F, 3) float64 RGB in 0-255.
        material: (F,) uint8, one of this module's constants.
    """

    vertices: Float64
    faces: Int32
    colour: Float64
    material: UInt8

    def moved(self, T: Float64) -> Mesh:
        """The mesh under a (4, 4) transform."""
        return Mesh(self.vertices @ T[:3, :3].T + T[:3, 3], self.faces, self.colour, self.material)


_QUADS = np.array([[0, 2, 3, 1], [4, 5, 7, 6], [1, 3, 7, 5], [0, 4, 6, 2], [2, 6, 7, 3], [0, 1, 5, 4]])
_BOX_FACES = np.concatenate([_QUADS[:, [0, 1, 2]], _QUADS[:, [0, 2, 3]]]).astype(np.int32)


def _painted(vertices: Float64, faces: Int32, material: int, colour: Sequence[float] | Float64 | None) -> Mesh:
    shade = _COLOURS[material] if colour is None else np.asarray(colour, dtype=np.float64)
    return Mesh(vertices, faces, np.tile(shade, (len(faces), 1)), np.full(len(faces), material, np.uint8))


def frustum(
    x: tuple[float, float],
    y: tuple[float, float],
    z: tuple[float, float],
    material: int,
    colour: Sequence[float] | Float64 | None = None,
    inset: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Mesh:
    """A box whose top is smaller than its bottom by `inset` at the front, the rear and each side."""
    front, rear, side = inset
    corners = np.array([[px, py, z[0]] for py in y for px in x] + [[px, py, z[1]] for py in y for px in x], np.float64)
    corners[4:, 0] += np.array([rear, -front, rear, -front])
    corners[4:, 1] += np.array([side, side, -side, -side])
    return _painted(corners, _BOX_FACES, material, colour)


def gable(x: float, y: float, base_m: float, rise_m: float, material: int, colour: Float64) -> Mesh:
    """A pitched roof over a rectangle of half sizes x, y; its ridge runs along x."""
    vertices = np.array(
        [
            [-x, -y, base_m],
            [x, -y, base_m],
            [-x, y, base_m],
            [x, y, base_m],
            [-x, 0, base_m + rise_m],
            [x, 0, base_m + rise_m],
        ]
    )
    faces = np.array([[0, 1, 5], [0, 5, 4], [3, 2, 4], [3, 4, 5], [0, 4, 2], [1, 3, 5]], np.int32)
    return _painted(vertices, faces, material, colour)


def crown(radius: Float64, height_m: float, rng: np.random.Generator, colour: Float64) -> Mesh:
    """The leaves of a tree: a lumpy ball of 24 triangles with radii (3,) about a centre `height_m` up."""
    azimuth = np.arange(6) * np.pi / 3
    rings = [(0.85, -0.45), (0.9, 0.35)]
    points = [np.stack([r * np.cos(azimuth + h), r * np.sin(azimuth + h), np.full(6, h)], 1) for r, h in rings]
    vertices = np.concatenate([[[0, 0, -1.0]], *points, [[0, 0, 1.0]]])
    vertices = vertices * rng.uniform(0.8, 1.15, (len(vertices), 1)) * radius + np.array([0, 0, height_m])
    faces = []
    for k in range(6):
        a, b, c, d = 1 + k, 1 + (k + 1) % 6, 7 + k, 7 + (k + 1) % 6
        faces += [[0, b, a], [a, b, d], [a, d, c], [c, d, 13]]
    return _painted(vertices, np.array(faces, np.int32), LEAVES, colour)


def merge_meshes(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of all triangles, in order."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]).astype(np.int32),
        np.concatenate([mesh.colour for mesh in meshes]),
        np.concatenate([mesh.material for mesh in meshes]),
    )
