"""Casting rays into one moment of a town, and what they hit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from heatv2x.structures import Bool, Float32, Float64, Int32, Int64, UInt8
from heatv2x.world.meshes import GROUND, Mesh, merge_meshes
from heatv2x.world.vehicles import Vehicle

SCENERY = -1
_GROUND_HALF_M = 400.0


@dataclass(frozen=True)
class Moment:
    """All vehicles at one tick, moving and parked.

    Attributes:
        ids: (N,) int64 object ids.
        vehicles: N descriptions.
        T_world_vehicle: (N, 4, 4) float64, the middle of the footprint on the ground, x forward.
        speed: (N,) float64 m/s.
    """

    ids: Int64
    vehicles: tuple[Vehicle, ...]
    T_world_vehicle: Float64
    speed: Float64

    @property
    def size(self) -> Float64:
        """(N, 3) full length, width, height."""
        return np.array([vehicle.size for vehicle in self.vehicles])

    def row(self, object_id: int) -> int:
        """Row of an object, or -1."""
        rows = np.flatnonzero(self.ids == object_id)
        return int(rows[0]) if len(rows) else -1


@dataclass(frozen=True)
class Hits:
    """First hits of R rays.

    Attributes:
        distance: (R,) float32 metres, infinite where nothing was hit.
        face: (R,) int32 face of the scene, -1 where nothing was hit.
    """

    distance: Float32
    face: Int32

    @property
    def any(self) -> Bool:
        """(R,) whether something was hit."""
        return self.face >= 0


def flat_ground() -> Mesh:
    """Two large triangles at height zero."""
    h = _GROUND_HALF_M
    corners = np.array([[-h, -h, 0], [h, -h, 0], [h, h, 0], [-h, h, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    return Mesh(corners, faces, np.full((2, 3), 110.0), np.full(2, GROUND, np.uint8))


class RayScene:
    """Scenery and vehicles of one moment, ready for rays.

    Attributes:
        colour: (F, 3) float32 RGB of each face, 0-255.
        material: (F,) uint8 of each face.
        normal: (F, 3) float32 unit normal of each face, of either sign.
        owner: (F,) int32 row of the moment's vehicle that the face belongs to, `SCENERY` for the rest.
    """

    def __init__(self, scenery: Mesh, moment: Moment) -> None:
        bodies = [vehicle.mesh().moved(T) for vehicle, T in zip(moment.vehicles, moment.T_world_vehicle, strict=True)]
        whole = merge_meshes([scenery, *bodies])
        counts = [len(scenery.faces), *(len(body.faces) for body in bodies)]
        self.owner: Int32 = np.repeat(np.arange(-1, len(bodies), dtype=np.int32), counts)
        self.colour: Float32 = whole.colour.astype(np.float32)
        self.material: UInt8 = whole.material
        corners = whole.vertices[whole.faces]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        size = np.linalg.norm(normal, axis=1, keepdims=True)
        self.normal: Float32 = (normal / np.maximum(size, 1e-12)).astype(np.float32)
        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(
            self._scene, vertices=whole.vertices.astype(np.float32), indices=np.ascontiguousarray(whole.faces)
        )

    def cast(self, origins: Float32, directions: Float32, through: int | None = None) -> Hits:
        """The first thing each ray hits.

        Args:
            origins, directions: (R, 3) float32; directions have unit length.
            through: row of a vehicle that rays pass through, as a camera sees past the body it is mounted on.
        """
        distance, face = self._run(origins, directions)
        if through is not None:
            self._pass_through(through, origins, directions, distance, face)
        return Hits(distance, face)

    def blocked(self, origins: Float32, directions: Float32) -> Bool:
        """(R,) whether each ray hits anything at all; for shadows."""
        return np.asarray(self._scene.run(origins, directions, query="OCCLUDED")) >= 0

    def _run(self, origins: Float32, directions: Float32) -> tuple[Float32, Int32]:
        result = self._scene.run(origins, directions, output=True)
        face: Int32 = result["primID"]
        distance: Float32 = np.where(face >= 0, result["tfar"], np.float32(np.inf))
        return distance, face

    def _pass_through(self, own: int, origins: Float32, directions: Float32, distance: Float32, face: Int32) -> None:
        for _ in range(12):
            rows = np.flatnonzero((face >= 0) & (self.owner[face] == own))
            if not len(rows):
                return
            skipped = distance[rows] + np.float32(1e-3)
            further, behind = self._run(origins[rows] + directions[rows] * skipped[:, None], directions[rows])
            distance[rows], face[rows] = skipped + further, behind


def rotate(T: Float64, directions: Float32) -> Float32:
    """(R, 3) float32 directions under the rotation of a (4, 4) transform."""
    return directions @ T[:3, :3].T.astype(np.float32)


def origins_at(T: Float64, count: int) -> Float32:
    """(count, 3) float32, all at the origin of a frame."""
    return np.broadcast_to(T[:3, 3].astype(np.float32), (count, 3)).copy()


def stack(parts: Sequence[Float32]) -> Float32:
    """One (sum R, 3) array of several."""
    return np.ascontiguousarray(np.concatenate(parts))
