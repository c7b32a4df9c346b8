"""Made-up sweeps of a 64-beam LiDAR for timing: seeded, and as dense as those that the reference was timed on.

Nothing is drawn here to be detected: level ground, walls and car-high things, each ray ends at the first of them.
Points per sweep (about 60 thousand) and occupied pillars of 0.4 m (8 to 10 thousand) are what costs.
"""

from __future__ import annotations

import numpy as np

from heatv2x.structures import LIDARS, AgentFrame, Camera, Float32, PointCloud, Pose

MADE_AS = (
    "64 beams from -25 to 2 degrees, 1,040 rays each, from 1.9 m above level ground, among seeded walls and things as "
    "high as cars; 4 % of the returns dropped, 2 cm of noise"
)
_BEAMS, _RAYS, _HEIGHT_M, _REACH_M = 64, 1040, 1.9, 120.0
_WALLS, _CARS = 8, 27
_NEIGHBOURS_M = 60.0


def sweep(seed: int) -> Float32:
    """(P, 4) x, y, z, intensity of one sweep in the sensor's frame."""
    rng = np.random.default_rng([seed, 64])
    elevation = np.radians(np.linspace(-25, 2, _BEAMS))[:, None]
    azimuth = np.linspace(-np.pi, np.pi, _RAYS, endpoint=False)
    slope = np.tan(elevation)
    distance = _HEIGHT_M / np.maximum(-slope, 1e-6) + np.zeros_like(azimuth)
    for there, height in _obstacles(rng, azimuth):
        hit = (there < distance) & (there * slope + _HEIGHT_M < height)
        distance = np.where(hit, there, distance)
    returned = (distance < _REACH_M) & (rng.random(distance.shape) > 0.04)
    distance = distance + rng.normal(0, 0.02, distance.shape)
    points = np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth), distance * slope], axis=-1)[returned]
    intensity = rng.uniform(0, 1, (len(points), 1))
    return np.concatenate([points, intensity], axis=1)[rng.permutation(len(points))].astype(np.float32)


def _obstacles(rng: np.random.Generator, azimuth: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """(R,) distance of each thing along every ray (none: farther than any ray), and its height above the ground."""
    found = []
    for number in range(_WALLS + _CARS):
        wall = number < _WALLS
        away = rng.uniform(30, 80) if wall else rng.uniform(8, 60)
        centre, half_width = rng.uniform(-np.pi, np.pi), (rng.uniform(4, 14) if wall else 1.6) / away
        off = np.abs((azimuth - centre + np.pi) % (2 * np.pi) - np.pi)
        found.append((np.where(off < half_width, away / np.cos(np.minimum(off, 1.2)), 1e9), 8.0 if wall else 1.6))
    return found


def pillars(points: Float32, half_extent_m: float = 102.4, cell_m: float = 0.4) -> int:
    """Occupied cells of a square."""
    inside = points[(np.abs(points[:, :2]) < half_extent_m).all(axis=1)]
    return len(np.unique(np.floor(inside[:, :2] / cell_m).astype(np.int64), axis=0))


def agent_frames(count: int, seed: int, cameras: bool = False) -> list[AgentFrame]:
    """Agents that stand around the first one, each with a sweep of its own; every LiDAR holds the same points."""
    frames = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        away, bearing = (rng.uniform(10, _NEIGHBOURS_M), rng.uniform(-np.pi, np.pi)) if number else (0.0, 0.0)
        pose = Pose.planar(away * np.cos(bearing), away * np.sin(bearing), rng.uniform(-np.pi, np.pi), _HEIGHT_M)
        cloud = PointCloud(sweep(1000 * seed + number))
        seen = _cameras() if cameras else ()
        frames.append(AgentFrame(number + 1, "000000", pose, dict.fromkeys(LIDARS, cloud), seen))
    return frames


def _cameras() -> tuple[Camera, ...]:
    """Four cameras around a vehicle; what they show is one grey, which costs as much as any other image."""
    K = np.array([[400.0, 0, 400], [0, 400, 300], [0, 0, 1]])
    axes = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # columns: right, down, forward
    found = []
    for number, yaw in enumerate(np.radians([0, 90, -90, 180])):
        mount = Pose.planar(0.0, 0.0, yaw).matrix.copy()
        mount[:3, :3] = mount[:3, :3] @ axes
        image, depth = np.full((600, 800, 3), 90, np.uint8), np.full((600, 800), 20.0, np.float32)
        found.append(Camera(f"camera{number}", image, K, mount, depth))
    return tuple(found)


def scene_boxes(count: int, seed: int, half_extent_m: float) -> Float32:
    """(N, 7) vehicles at random places of a square, as labels of a training step and for matching."""
    rng = np.random.default_rng([seed, 7])
    places = rng.uniform(-half_extent_m, half_extent_m, (count, 2))
    sizes = rng.normal([4.5, 1.9, 1.6], [0.4, 0.1, 0.1], (count, 3))
    heights, yaws = np.full((count, 1), -1.1), rng.uniform(-np.pi, np.pi, (count, 1))
    return np.concatenate([places, heights, sizes, yaws], axis=1).astype(np.float32)
