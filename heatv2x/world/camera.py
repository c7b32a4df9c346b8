"""Cameras: colour and depth by one ray per rendered pixel, with sunlight, shadows, haze and a sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Bool, Float32, Float64, Int32, Int64, UInt8
from heatv2x.world.ground import Ground
from heatv2x.world.meshes import GROUND, HEADLIGHT, TAIL_LIGHT, WALL
from heatv2x.world.rays import RayScene, origins_at, rotate, stack
from heatv2x.world.rig import FOCAL_PX, IMAGE_HEIGHT, IMAGE_WIDTH

FAR_M = 255.0
_GROUND_COLOURS = np.array([[92, 112, 62], [158, 154, 148], [78, 79, 82], [92, 91, 92], [225, 225, 220]], np.float32)
_WINDOW = np.array([52, 66, 84], np.float32)


@dataclass(frozen=True)
class Weather:
    """Light and air of one clip.

    Attributes:
        sun: (3,) float32 unit vector towards the sun.
        ambient: share of light that comes from everywhere.
        haze_m: distance at which two thirds of the colour are haze.
        horizon, zenith: (3,) float32 sky colours.
        grain: (256, 256) float32 texture of the ground, about 1.
    """

    sun: Float32
    ambient: float
    haze_m: float
    horizon: Float32
    zenith: Float32
    grain: Float32


@dataclass(frozen=True)
class Views:
    """What the four cameras of one agent saw.

    Attributes:
        image: (4, h, w, 3) uint8 RGB at the render resolution.
        depth: (4, h, w) uint8 metres along the optical axis, 255 is farther or sky.
        points: (4 h w, 3) float32 where each ray ended in the world, NaN for the sky.
        owner: (4 h w,) int32 row of the vehicle that was hit, -1 otherwise.
    """

    image: UInt8
    depth: UInt8
    points: Float32
    owner: Int32


def draw_weather(rng: np.random.Generator) -> Weather:
    """Random light: from noon to late afternoon, clear to hazy."""
    height, azimuth = np.radians(rng.uniform(25, 70)), rng.uniform(-np.pi, np.pi)
    sun = np.array([np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)], np.float32)
    grey = rng.uniform(0, 0.6)
    zenith = (1 - grey) * np.array([84, 132, 196]) + grey * np.array([150, 156, 164])
    grain = rng.normal(1.0, 0.05, (256, 256)).astype(np.float32)
    horizon = np.array([206, 214, 222], np.float32)
    return Weather(
        sun, float(rng.uniform(0.4, 0.6)), float(rng.uniform(150, 400)), horizon, zenith.astype(np.float32), grain
    )


def render(
    scene: RayScene,
    ground: Ground,
    weather: Weather,
    T_world_cameras: Float64,
    resolution: tuple[int, int],
    own: int = -1,
) -> Views:
    """Look through an agent's cameras.

    Args:
        T_world_cameras: (4, 4, 4) float64, x forward, y left, z up.
        resolution: width and height of the rays' grid.
        own: row of the vehicle that carries them, which they see past; -1 for a roadside unit.
    """
    width, height = resolution
    local = _pixel_rays(resolution)
    world = stack([rotate(T, local) for T in T_world_cameras])
    origins = stack([origins_at(T, len(local)) for T in T_world_cameras])
    found = scene.cast(origins, world, own if own >= 0 else None)
    hit = found.any
    points = np.full_like(world, np.nan)
    points[hit] = origins[hit] + world[hit] * found.distance[hit, None]
    colour = _sky(weather, world[:, 2])
    face = found.face[hit]
    lit = _shade(scene, ground, weather, points[hit], world[hit], face)
    haze = np.exp(found.distance[hit, None] * np.float32(-1.0 / weather.haze_m))
    colour[hit] = lit * haze + weather.horizon * (1 - haze)
    along_axis = found.distance * np.tile(local[:, 0], len(T_world_cameras))
    depth = np.minimum(np.rint(along_axis), FAR_M).astype(np.uint8)
    owner = np.full(len(world), -1, np.int32)
    owner[hit] = scene.owner[face]
    shape = (len(T_world_cameras), height, width)
    image = np.clip(colour, 0, 255).astype(np.uint8)
    return Views(image.reshape(*shape, 3), depth.reshape(shape), points, owner)


def _pixel_rays(resolution: tuple[int, int]) -> Float32:
    """(h w, 3) float32 unit vectors through the pixels, a coarse one through the middle of those it stands for."""
    width, height = resolution
    u = (np.arange(width) + 0.5) * IMAGE_WIDTH / width - 0.5 - IMAGE_WIDTH / 2
    v = (np.arange(height) + 0.5) * IMAGE_HEIGHT / height - 0.5 - IMAGE_HEIGHT / 2
    right, down = np.meshgrid(u / FOCAL_PX, v / FOCAL_PX)
    rays = np.stack([np.ones_like(right), -right, -down], axis=-1).reshape(-1, 3)
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True), dtype=np.float32)


def _sky(weather: Weather, up: Float32) -> Float32:
    part = np.clip(up, 0.0, 1.0)[:, None] ** np.float32(0.6)
    return np.asarray(weather.horizon * (1 - part) + weather.zenith * part, dtype=np.float32)


def _shade(
    scene: RayScene, ground: Ground, weather: Weather, points: Float32, directions: Float32, face: Int32
) -> Float32:
    """(R, 3) float32 colours of surfaces under the sun."""
    colour, material = scene.colour[face], scene.material[face]
    _paint_ground(colour, np.flatnonzero(material == GROUND), ground, weather, points)
    normal = scene.normal[face]
    towards_viewer = np.einsum("rc,rc->r", normal, directions) < 0
    normal = np.where(towards_viewer[:, None], normal, -normal)
    _paint_windows(colour, np.flatnonzero((material == WALL) & (np.abs(normal[:, 2]) < 0.5)), normal, points)
    sunlit = np.maximum(normal @ weather.sun, 0.0)
    sunlit[_shadowed(scene, weather, points, normal, sunlit)] = 0.0
    glow = (material == HEADLIGHT) | (material == TAIL_LIGHT)
    from_sky = weather.ambient * (0.8 + 0.2 * normal[:, 2])
    light = np.where(glow, 1.0, from_sky + (1.15 - weather.ambient) * sunlit)
    return np.asarray(colour * light[:, None], dtype=np.float32)


def _shadowed(scene: RayScene, weather: Weather, points: Float32, normal: Float32, sunlit: Float32) -> Bool:
    shadow = np.zeros(len(points), np.bool_)
    facing = np.flatnonzero(sunlit > 0.02)
    start = points[facing] + normal[facing] * np.float32(0.03)
    towards = np.broadcast_to(weather.sun, start.shape).copy()
    shadow[facing] = scene.blocked(start, towards)
    return shadow


def _paint_ground(colour: Float32, rows: Int64, ground: Ground, weather: Weather, points: Float32) -> None:
    row, column = ground.cells(points[rows, :2].astype(np.float64))
    grain = weather.grain[row % 256, column % 256]
    colour[rows] = _GROUND_COLOURS[ground.codes[row, column]] * grain[:, None]


def _paint_windows(colour: Float32, rows: Int64, normal: Float32, points: Float32) -> None:
    along = points[rows, 0] * -normal[rows, 1] + points[rows, 1] * normal[rows, 0]
    height = points[rows, 2]
    window = (np.abs(along % 3.0 - 1.5) < 0.7) & (np.abs(height % 3.0 - 1.7) < 0.75) & (height > 0.5)
    colour[rows[window]] = surface_tint(colour[rows[window]])


def surface_tint(colour: Float32) -> Float32:
    """A window in a wall of that colour."""
    return np.asarray(0.25 * colour + 0.75 * _WINDOW, dtype=np.float32)
