"""The ways in which a pose is commonly wrong: each as the pose that would be right if that mistake was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Float64

_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
_SWAP = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_TO_RADIANS = np.pi / 180
_NAMES = ("roll", "pitch", "yaw")


@dataclass(frozen=True)
class Candidate:
    """A pose that would be right if a certain mistake was made.

    Attributes:
        key: names the mistake; the same for all agents that share it.
        cause: the mistake, a clause.
        matrix: (4, 4) the pose that would be right.
    """

    key: str
    cause: str
    matrix: Float64


def pose_mistakes(T: Float64, others: Mapping[int, Float64] | None = None) -> Iterator[Candidate]:
    """Candidates for a pose (4, 4), the plainest mistakes first.

    Args:
        others: poses of the other agents of the frame, by id.
    """
    yield Candidate(
        "inverse pose",
        "the pose is inverted: it maps the world to the agent (T_agent_world), expected T_world_agent",
        np.asarray(np.linalg.inv(T), np.float64),
    )
    yield Candidate("inverse rotation", "the rotation of the pose is inverted (transposed)", _posed(T[:3, :3].T, T))
    yield from _angles(T)
    yield from _quaternions(T)
    yield Candidate("left-handed pose", "the pose is left-handed (y and yaw count to the right)", _MIRROR @ T @ _MIRROR)
    yield Candidate(
        "pose with x and y swapped", "x and y of the pose are swapped", _moved(T, (T[1, 3], T[0, 3], T[2, 3]))
    )
    yield Candidate(
        "pose in another axis order", "x and y of the pose are swapped and its yaw counts from y", _SWAP @ T @ _SWAP
    )
    yield Candidate("pose with z down", "the pose belongs to axes with y to the right and z down", T @ _FLIP)
    for factor, unit in ((0.01, "centimetres"), (0.001, "millimetres")):
        yield Candidate(
            f"pose in {unit}", f"the position of the pose is in {unit}, expected metres", _moved(T, T[:3, 3] * factor)
        )
    for agent, other in (others or {}).items():
        yield Candidate(
            f"sensor data of agent {agent}",
            f"the sensor data of this agent are those of agent {agent}, or their poses are swapped",
            other,
        )


def turned_poses(T: Float64, step_deg: int) -> Iterator[Candidate]:
    """The pose turned about its own z axis by every multiple of `step_deg`."""
    for degrees in range(-180 + step_deg, 181, step_deg):
        if degrees:
            turned = T @ about_z(degrees)
            yield Candidate(
                f"heading off by {-degrees}°", f"the heading of the pose is off by about {-degrees}°", turned
            )


def about_z(degrees: float) -> Float64:
    """(4, 4) turn about z."""
    return _posed(_rotation(np.array([0.0, 0.0, np.radians(degrees)])), np.eye(4))


def _angles(T: Float64) -> Iterator[Candidate]:
    found = _roll_pitch_yaw(T)
    for factor, read, meant in ((_TO_RADIANS, "degrees", "degrees"), (1 / _TO_RADIANS, "radians", "radians")):
        for axes in ((2,), (1,), (0,), (0, 1), (0, 1, 2)):
            scaled = found.copy()
            scaled[list(axes)] *= factor
            if np.abs(scaled - found).max() < np.radians(0.5) or np.abs(scaled).max() > 2.2 * np.pi:
                continue
            names = "angles" if len(axes) == 3 else " and ".join(_NAMES[axis] for axis in axes)
            verb = "are" if len(axes) > 1 else "is"
            cause = f"{names} of the pose {verb} in {read} where the other unit is expected"
            yield Candidate(f"{names} in {meant}", cause, _posed(_rotation(scaled), T))
    for axis, name in enumerate(_NAMES):
        if abs(found[axis]) > np.radians(1.0):
            flipped = found.copy()
            flipped[axis] *= -1
            yield Candidate(
                f"{name} with the wrong sign",
                f"the {name} of the pose has the wrong sign",
                _posed(_rotation(flipped), T),
            )
    counted = found.copy()
    counted[2] = np.pi / 2 - found[2]
    yield Candidate(
        "yaw counted from north",
        "the yaw of the pose is a compass heading (clockwise from y)",
        _posed(_rotation(counted), T),
    )


def _quaternions(T: Float64) -> Iterator[Candidate]:
    x, y, z, w = _quaternion(T)
    yield Candidate(
        "quaternion order",
        "the quaternion is written w, x, y, z where x, y, z, w is expected",
        _posed(_from_quaternion(y, z, w, x), T),
    )


def _posed(rotation: Float64, T: Float64) -> Float64:
    matrix = np.asarray(T, np.float64).copy()
    matrix[:3, :3] = rotation
    return matrix


def _moved(T: Float64, xyz: Float64 | tuple[float, ...]) -> Float64:
    matrix = T.copy()
    matrix[:3, 3] = xyz
    return matrix


def _roll_pitch_yaw(T: Float64) -> Float64:
    return np.array([np.arctan2(T[2, 1], T[2, 2]), -np.arcsin(np.clip(T[2, 0], -1, 1)), np.arctan2(T[1, 0], T[0, 0])])


def _rotation(roll_pitch_yaw: Float64) -> Float64:
    (cr, cp, cy), (sr, sp, sy) = np.cos(roll_pitch_yaw), np.sin(roll_pitch_yaw)
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    return np.asarray(about_z @ about_y @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]]))


def _quaternion(T: Float64) -> tuple[float, float, float, float]:
    R = T[:3, :3]
    four = np.array(
        [
            1 + R[0, 0] - R[1, 1] - R[2, 2],
            1 - R[0, 0] + R[1, 1] - R[2, 2],
            1 - R[0, 0] - R[1, 1] + R[2, 2],
            1 + np.trace(R),
        ]
    )
    size = np.sqrt(np.maximum(four, 0)) / 2
    largest = int(size.argmax())
    pairs = np.array(
        [
            [four[0], R[0, 1] + R[1, 0], R[0, 2] + R[2, 0], R[2, 1] - R[1, 2]],
            [R[0, 1] + R[1, 0], four[1], R[1, 2] + R[2, 1], R[0, 2] - R[2, 0]],
            [R[0, 2] + R[2, 0], R[1, 2] + R[2, 1], four[2], R[1, 0] - R[0, 1]],
            [R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1], four[3]],
        ]
    )
    x, y, z, w = pairs[largest] / (4 * size[largest])
    return float(x), float(y), float(z), float(w)


def _from_quaternion(x: float, y: float, z: float, w: float) -> Float64:
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
