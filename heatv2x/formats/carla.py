"""CARLA's convention (OPV2V, V2XSet) and ours.

CARLA is left-handed: x forward, y right, z up, degrees, yaw from x towards y. Ours is right-handed (y left). The mirror
S = diag(1, -1, 1) maps one to the other: T = S T_carla S. A pose is six numbers [x, y, z, roll, yaw, pitch], mind the
order; its rotation is Rz(yaw) Ry(-pitch) Rx(-roll) (tests/golden/a_pose.npz, from
opencood/utils/transformation_utils.py of HEAL).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heatv2x.structures import Float64

_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


def carla_matrix(pose: Sequence[float]) -> Float64:
    """(4, 4) float64 T_world_frame in CARLA's own left-handed axes, of a six-number pose in metres and degrees."""
    x, y, z, roll, yaw, pitch = (float(value) for value in pose)
    (cr, cy, cp), (sr, sy, sp) = np.cos(np.radians([roll, yaw, pitch])), np.sin(np.radians([roll, yaw, pitch]))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, -sp], [0, 1, 0], [sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, sr], [0, -sr, cr]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x
    matrix[:3, 3] = x, y, z
    return matrix


def carla_pose(matrix: Float64) -> list[float]:
    """The six-number pose (metres, degrees) of a (4, 4) matrix in CARLA's axes; inverse of `carla_matrix`."""
    yaw = np.arctan2(matrix[1, 0], matrix[0, 0])
    pitch = np.arctan2(matrix[2, 0], np.hypot(matrix[2, 1], matrix[2, 2]))
    roll = np.arctan2(-matrix[2, 1], matrix[2, 2])
    return [*(float(value) for value in matrix[:3, 3]), *(float(value) for value in np.degrees([roll, yaw, pitch]))]


def mirror(matrix: Float64) -> Float64:
    """Change the handedness of a (..., 4, 4) transform: CARLA to ours and ours to CARLA, S T S."""
    return np.asarray(_MIRROR @ matrix @ _MIRROR)


def from_carla(pose: Sequence[float]) -> Float64:
    """(4, 4) float64 right-handed T_world_frame of a CARLA pose."""
    return mirror(carla_matrix(pose))


def to_carla(T_world_frame: Float64) -> list[float]:
    """The CARLA pose [x, y, z, roll, yaw, pitch] of a right-handed (4, 4) T_world_frame."""
    return carla_pose(mirror(T_world_frame))
