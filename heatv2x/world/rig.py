"""Connected agents: which vehicles they are, and where their LiDAR and cameras are mounted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Float64

IMAGE_WIDTH, IMAGE_HEIGHT, FOCAL_PX = 800, 600, 335.639852
ROADSIDE_ID = -1

# facts, OPV2V cameras: position in the LiDAR's frame (y turned to the left), yaw to the left in degrees, pitch down
_CAR_CAMERAS = (
    (3.0, 0.0, -1.1, 0.0, 0.0),
    (0.5, -0.3, -0.3, -100.0, 0.0),
    (0.5, 0.3, -0.3, 100.0, 0.0),
    (-1.5, 0.0, -0.6, 180.0, 0.0),
)
_ROADSIDE_CAMERAS = tuple((0.0, 0.0, -0.3, yaw, 18.0) for yaw in (0.0, -90.0, 90.0, 180.0))


@dataclass(frozen=True)
class Rig:
    """The sensors of one agent.

    Attributes:
        agent_id: the id of the object that carries them, or `ROADSIDE_ID`.
        T_carrier_lidar: (4, 4) float64 mount of the LiDAR on the vehicle, or on the foot of the roadside pole.
        T_lidar_cameras: (4, 4, 4) float64 mounts of camera 0 to 3; camera axes here are x forward, y left, z up.
        foot: (4, 4) float64 T_world_carrier of a roadside unit, None for a vehicle.
        tilt_deg: added to every LiDAR beam's elevation.
    """

    agent_id: int
    T_carrier_lidar: Float64
    T_lidar_cameras: Float64
    foot: Float64 | None = None
    tilt_deg: float = 0.0


def car_rig(agent_id: int, lidar_height_m: float) -> Rig:
    """OPV2V's mounts on a car."""
    return Rig(agent_id, _mount(-0.5, 0.0, lidar_height_m), np.stack([_mount(*place) for place in _CAR_CAMERAS]))


def roadside_rig(foot: Float64, height_m: float) -> Rig:
    """A pole with a LiDAR and four cameras that look down a little."""
    cameras = np.stack([_mount(*place) for place in _ROADSIDE_CAMERAS])
    return Rig(ROADSIDE_ID, _mount(0.0, 0.0, height_m), cameras, foot, tilt_deg=-6.0)


def intrinsic() -> Float64:
    """(3, 3) pinhole matrix in pixels of the 800 x 600 image."""
    return np.array([[FOCAL_PX, 0, IMAGE_WIDTH / 2], [0, FOCAL_PX, IMAGE_HEIGHT / 2], [0, 0, 1]])


def _mount(x: float, y: float, z: float, yaw_deg: float = 0.0, down_deg: float = 0.0) -> Float64:
    (cy, cp), (sy, sp) = np.cos(np.radians([yaw_deg, down_deg])), np.sin(np.radians([yaw_deg, down_deg]))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    mount = np.eye(4)
    mount[:3, :3] = about_z @ about_y
    mount[:3, 3] = x, y, z
    return mount
