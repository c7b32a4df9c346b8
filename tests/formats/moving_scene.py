"""A small street with moving cars, cast ray by ray: what the format writers put on disk, in our conventions.

Cars are boxes on level ground, agents carry a LiDAR above their roof and cameras; roadside units stand on poles.
Rays hit the nearest box or the ground, so clouds, hit counts, images, depth and visibility agree with the labels and
with one another. Written with numpy alone and independent of the package's own synthetic world.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

CAR_M = (4.4, 1.8, 1.6)
LIDAR_ON_CAR = (-0.5, 0.0, 1.1)  # from the car's centre: about half a metre above the roof
CAMERA_AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
NOTHING, GROUND = -2, -1


@dataclass
class Rays:
    """What R rays hit.

    Attributes:
        distance: (R,) metres, infinite where nothing is hit.
        owner: (R,) row of the car, GROUND or NOTHING.
    """

    distance: np.ndarray
    owner: np.ndarray


@dataclass
class Street:
    """Cars on four lanes at one moment; the first ones carry sensors.

    Attributes:
        T_world_car: (N, 4, 4) poses of the cars' centres.
        size: (N, 3) length, width, height.
        speed: (N,) m/s along their heading.
        ids: (N,) object ids; those of agents first.
        poles: sensor poses (4, 4) of roadside units by their negative id.
    """

    T_world_car: np.ndarray
    size: np.ndarray
    speed: np.ndarray
    ids: np.ndarray
    poles: dict[int, np.ndarray] = field(default_factory=dict)

    def at(self, seconds: float) -> Street:
        """The street so many seconds later."""
        moved = self.T_world_car.copy()
        moved[:, :3, 3] += moved[:, :3, 0] * self.speed[:, None] * seconds
        return Street(moved, self.size, self.speed, self.ids, self.poles)

    def lidar_matrix(self, agent: int) -> np.ndarray:
        """(4, 4) pose of an agent's LiDAR, a little tilted on cars."""
        if agent in self.poles:
            return self.poles[agent]
        rng = np.random.default_rng(abs(agent))
        tilt = rotation(0.0, *rng.normal(0, 0.006, 2))
        return self.T_world_car[self.row(agent)] @ place(LIDAR_ON_CAR) @ tilt

    def row(self, object_id: int) -> int | None:
        """Row of a car, None for a roadside unit."""
        rows = np.flatnonzero(self.ids == object_id)
        return int(rows[0]) if len(rows) else None

    def cast(self, origin: np.ndarray, directions: np.ndarray, reach_m: float = 120.0) -> Rays:
        """First hits of rays from (3,) along (R, 3) unit directions of the world."""
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.where(directions[:, 2] < -1e-6, -origin[2] / directions[:, 2], np.inf)
            owner = np.where(np.isfinite(distance), GROUND, NOTHING)
            for number, (T, size) in enumerate(zip(self.T_world_car, self.size, strict=True)):
                start, along = (origin - T[:3, 3]) @ T[:3, :3], directions @ T[:3, :3]
                near, far = (-size / 2 - start) / along, (size / 2 - start) / along
                enter = np.minimum(near, far).max(axis=1)
                leave = np.maximum(near, far).min(axis=1)
                hit = (enter < leave) & (enter > 0) & (enter < distance)
                distance, owner = np.where(hit, enter, distance), np.where(hit, number, owner)
        beyond = distance > reach_m
        return Rays(np.where(beyond, np.inf, distance), np.where(beyond, NOTHING, owner))

    def sweep(
        self, T_world_sensor: np.ndarray, beams: int, steps: int, down_deg: float = -25.0, up_deg: float = 3.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """(P, 4) points in the sensor's frame with intensity in [0, 1], and (N,) how many lie on each car."""
        elevation = np.radians(np.linspace(down_deg, up_deg, beams))[:, None]
        azimuth = np.linspace(-np.pi, np.pi, steps, endpoint=False)[None] + 0.5 / steps
        parts = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)]
        local = np.stack([*parts, np.broadcast_to(np.sin(elevation), parts[0].shape)], axis=-1).reshape(-1, 3)
        rays = self.cast(T_world_sensor[:3, 3], local @ T_world_sensor[:3, :3].T)
        kept = rays.owner != NOTHING
        intensity = np.rint(255 * np.exp(-rays.distance[kept] / 60) * np.where(rays.owner[kept] >= 0, 1, 0.4)) / 255
        points = np.column_stack([local[kept] * rays.distance[kept, None], intensity]).astype(np.float32)
        return points, np.bincount(rays.owner[rays.owner >= 0], minlength=len(self.ids))

    def look(
        self, T_world_camera: np.ndarray, K: np.ndarray, width: int, height: int, block: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8, depth (H, W) float metres along the optical axis (0 unknown), and seen cars (N,).

        Camera axes are OpenCV's. One ray for each block of pixels, through its centre.
        """
        v = (np.arange(height // block) + 0.5) * block - 0.5
        u = (np.arange(width // block) + 0.5) * block - 0.5
        pixels = np.stack([*np.meshgrid(u, v), np.ones((len(v), len(u)))], axis=-1).reshape(-1, 3)
        rays = pixels @ np.linalg.inv(K).T
        length = np.linalg.norm(rays, axis=1)
        seen = self.cast(T_world_camera[:3, 3], rays / length[:, None] @ T_world_camera[:3, :3].T)
        depth = np.where(seen.owner == NOTHING, 0, seen.distance / length)
        palette = np.random.default_rng(5).integers(60, 255, (len(self.ids) + 2, 3)).astype(np.uint8)
        palette[NOTHING], palette[GROUND] = (150, 190, 230), (90, 90, 90)
        shape = (len(v), len(u))
        image = palette[seen.owner].reshape(*shape, 3)
        visible = np.bincount(seen.owner[seen.owner >= 0], minlength=len(self.ids)) > 0
        return _enlarged(image, block), _enlarged(depth.reshape(shape), block), visible


def street(agents: tuple[int, ...], seed: int, parked: int = 7, first_id: int = 300) -> Street:
    """Agents and other cars on four lanes along x, no two in one place; negative agents are poles beside the road."""
    rng = np.random.default_rng(seed)
    vehicles = [agent for agent in agents if agent >= 0]
    spots = [(x, y) for x in np.arange(-32.0, 33.0, 8.0) for y in (-5.4, -1.8, 1.8, 5.4)]
    middle = [spot for spot in spots if abs(spot[0]) < 20]
    chosen = [middle[i] for i in rng.permutation(len(middle))[: len(vehicles)]]
    free = [spot for spot in spots if spot not in chosen]
    chosen += [free[i] for i in rng.permutation(len(free))[:parked]]
    count = len(chosen)
    cars = np.stack([np.eye(4)] * count)
    for number, (x, y) in enumerate(chosen):
        yaw = rng.normal(0, 0.05) + (np.pi if y > 0 else 0)
        cars[number] = place((x + rng.uniform(-1, 1), y, 0)) @ rotation(yaw)
    size = np.array(CAR_M) * rng.uniform(0.92, 1.1, (count, 1))
    cars[:, 2, 3] = size[:, 2] / 2
    speed = rng.uniform(3, 9, count)
    ids = np.array([*vehicles, *range(first_id, first_id + parked)], np.int64)
    poles = {agent: place((4.0 * k, 10.0, 6.0)) @ rotation(-np.pi / 2) for k, agent in enumerate(agents) if agent < 0}
    return Street(cars, size, speed, ids, poles)


def place(xyz: tuple[float, float, float] | np.ndarray) -> np.ndarray:
    """(4, 4) shift."""
    matrix = np.eye(4)
    matrix[:3, 3] = xyz
    return matrix


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """(4, 4) Rz(yaw) Ry(pitch) Rx(roll), right-handed, radians."""
    (cz, cy, cx), (sz, sy, sx) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    matrix = np.eye(4)
    about_z, about_y = (
        np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]),
        np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]),
    )
    matrix[:3, :3] = about_z @ about_y @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return matrix


def camera_at(xyz: tuple[float, float, float], yaw: float, pitch: float = 0.0) -> np.ndarray:
    """(4, 4) T_carrier_camera with OpenCV axes of a camera that looks along yaw; pitch > 0 looks down."""
    turn = np.eye(4)
    turn[:3, :3] = CAMERA_AXES
    return place(xyz) @ rotation(yaw, pitch) @ turn


def _enlarged(image: np.ndarray, block: int) -> np.ndarray:
    return image.repeat(block, axis=0).repeat(block, axis=1)
