"""Spinning LiDARs with 64, 32 or 16 beams: noise in range, intensity by material and angle, lost returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Float32, Float64, Int64
from heatv2x.world.meshes import REFLECTIVITY
from heatv2x.world.rays import RayScene, origins_at, rotate

RANGE_NOISE_M = 0.02


@dataclass(frozen=True)
class LidarModel:
    """What a LiDAR is built like.

    Attributes:
        beams: number of rings.
        lowest_deg, highest_deg: elevation of the outer rings.
        range_m: farthest return.
    """

    beams: int
    lowest_deg: float
    highest_deg: float
    range_m: float


MODELS: Mapping[str, LidarModel] = {
    "lidar64": LidarModel(64, -24.8, 2.0, 120.0),
    "lidar32": LidarModel(32, -25.0, 7.0, 100.0),
    "lidar16": LidarModel(16, -15.0, 15.0, 80.0),
}


@dataclass(frozen=True)
class Sweep:
    """One turn of a LiDAR.

    Attributes:
        points: (P, 4) float32 x, y, z in the LiDAR's frame, intensity in [0, 1].
        hits: (N,) int64 returns on each vehicle of the moment.
    """

    points: Float32
    hits: Int64


def directions(model: LidarModel, azimuth_steps: int, phase: float, tilt_deg: float = 0.0) -> Float32:
    """(beams * azimuth_steps, 3) float32 unit vectors; `phase` in [0, 1) shifts the first step."""
    up = np.radians(np.linspace(model.lowest_deg, model.highest_deg, model.beams) + tilt_deg)[:, None]
    around = (np.arange(azimuth_steps) + phase) * (2 * np.pi / azimuth_steps)
    x, y = np.cos(up) * np.cos(around), np.cos(up) * np.sin(around)
    z = np.broadcast_to(np.sin(up), x.shape)
    return np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)


def sweep(
    scene: RayScene,
    model: LidarModel,
    T_world_lidar: Float64,
    rng: np.random.Generator,
    *,
    azimuth_steps: int,
    vehicles: int,
    own: int = -1,
    tilt_deg: float = 0.0,
) -> Sweep:
    """Turn the LiDAR once.

    Args:
        vehicles: how many vehicles the moment has.
        own: row of the vehicle that carries it, whose returns are dropped; -1 for a roadside unit.
        tilt_deg: added to every beam's elevation.
    """
    local = directions(model, azimuth_steps, rng.uniform(), tilt_deg)
    world = rotate(T_world_lidar, local)
    found = scene.cast(origins_at(T_world_lidar, len(world)), world)
    rows = np.flatnonzero(found.distance < model.range_m)
    owner = scene.owner[found.face[rows]]
    if own >= 0:
        rows, owner = rows[owner != own], owner[owner != own]
    face, distance = found.face[rows], found.distance[rows]
    upright = np.abs(np.einsum("rc,rc->r", scene.normal[face], world[rows]))
    intensity = REFLECTIVITY.astype(np.float32)[scene.material[face]] * (0.3 + 0.7 * upright)
    intensity *= np.exp(distance * np.float32(-0.006))
    # weak echoes are lost most often: dark or grazed surfaces far away
    kept = rng.random(len(rows), np.float32) > 0.02 + 0.5 * np.exp(intensity * np.float32(-30.0))
    rows, owner, distance, intensity = rows[kept], owner[kept], distance[kept], intensity[kept]
    distance = distance + rng.standard_normal(len(rows), np.float32) * np.float32(RANGE_NOISE_M)
    intensity = np.clip(intensity + rng.standard_normal(len(rows), np.float32) * np.float32(0.015), 0.0, 1.0)
    points = np.concatenate([local[rows] * distance[:, None], intensity[:, None]], axis=1, dtype=np.float32)
    return Sweep(points, np.bincount(owner[owner >= 0], minlength=vehicles))
