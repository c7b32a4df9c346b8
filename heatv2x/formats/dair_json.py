"""DAIR-V2X's JSON files: calibration, labels of one side, cooperative labels.

Axes are right-handed as ours; numbers may come as strings; nothing is trusted to be complete.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heatv2x.core.files import parse_json
from heatv2x.errors import DataError
from heatv2x.structures import Float64

VEHICLES = frozenset({"car", "truck", "van", "bus"})
"""Labelled types that are kept, in small letters: the official tool's class "car"."""

_WAY_OUT = "download or write the file again"
_ROTATION_TOLERANCE = 1e-2
_EDGES = (((0, 1, 4, 5), (3, 2, 7, 6)), ((1, 2, 5, 6), (0, 3, 4, 7)), ((4, 5, 6, 7), (0, 1, 2, 3)))
"""Corners between which the four edges of each direction run: along, across and up."""
_EDGE_TOLERANCE_M = 0.2
_NO_BOX = "the eight corners are not those of a box with its bottom face first"


@dataclass(frozen=True)
class Labels:
    """Vehicles that a label file lists.

    Attributes:
        T_frame_object: (N, 4, 4) float64 poses of the boxes' centres in the file's frame (LiDAR, or world).
        size: (N, 3) float64 full length, width, height in metres.
    """

    T_frame_object: Float64
    size: Float64

    def __len__(self) -> int:
        return len(self.size)


def parse_transform(content: bytes, source: Path) -> Float64:
    """(4, 4) float64 of a calibration file: `rotation` and `translation`, at the top or below `transform`.

    The rotation is made exactly orthonormal, which HEAL's detour over angles does, too.

    Raises:
        DataError: a key is missing, or the rotation is none by more than 1e-2.
    """
    data = parse_json(content, source, _WAY_OUT)
    if isinstance(data, dict) and "transform" in data:
        data = data["transform"]
    matrix = np.eye(4)
    matrix[:3, :3] = _numbers(data, "rotation", 9, source).reshape(3, 3)
    matrix[:3, 3] = _numbers(data, "translation", 3, source)
    left, _, right = np.linalg.svd(matrix[:3, :3])
    nearest = left @ right
    if np.linalg.det(nearest) < 0 or np.abs(nearest - matrix[:3, :3]).max() > _ROTATION_TOLERANCE:
        raise DataError(source, "is not a rotation", key="rotation", way_out=_WAY_OUT)
    matrix[:3, :3] = nearest
    return matrix


def parse_intrinsics(content: bytes, source: Path) -> Float64:
    """(3, 3) float64 `cam_K` of a camera's file.

    Raises:
        DataError: the key is missing or no intrinsic matrix.
    """
    K = _numbers(parse_json(content, source, _WAY_OUT), "cam_K", 9, source).reshape(3, 3)
    if not (K[0, 0] > 0 and K[1, 1] > 0 and np.allclose(K[2], [0, 0, 1])):
        raise DataError(source, f"is not an intrinsic matrix: {K.tolist()}", key="cam_K", way_out=_WAY_OUT)
    return K


def parse_side_labels(content: bytes, source: Path) -> Labels:
    """The vehicles of one side's label file, in that side's LiDAR frame; boxes without extent are left out.

    Raises:
        DataError: not a list of labels, or a number is missing; names the entry.
    """
    poses, sizes = [], []
    for number, label in _vehicles(content, source):
        size = [_number(label, f"3d_dimensions.{key}", number, source) for key in "lwh"]
        if min(size) <= 0:
            continue  # the release has boxes without extent; every code base skips them
        yaw = _number(label, "rotation", number, source)
        pose = np.eye(4)
        pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
        pose[:3, 3] = [_number(label, f"3d_location.{key}", number, source) for key in "xyz"]
        poses.append(pose)
        sizes.append(size)
    return Labels(np.array(poses).reshape(-1, 4, 4), np.array(sizes).reshape(-1, 3))


def parse_cooperative_labels(content: bytes, source: Path) -> Labels:
    """The vehicles of a cooperative label file, in the world, from their eight corners.

    Corners 0 to 3 are the bottom face, 4 to 7 the top face above them; 3 to 0 is the direction of travel. The release
    goes around clockwise as seen from above (front left, front right, rear right, rear left); the other turn is read as
    well, and gives the same box. Where the side from 3 to 0 is the shorter one, the corners begin elsewhere, and the
    longer side is taken as the length.

    Raises:
        DataError: not a list of labels, or the corners are not those of a box; names the entry.
    """
    poses, sizes = [], []
    for number, label in _vehicles(content, source):
        corners = _numbers(label, "world_8_points", 24, source, f"[{number}].").reshape(8, 3)
        edges = np.stack([corners[list(end)] - corners[list(start)] for end, start in _EDGES])
        along, across, up = edges.mean(axis=1)
        if np.abs(edges - edges.mean(axis=1, keepdims=True)).max() > _EDGE_TOLERANCE_M:
            raise DataError(source, _NO_BOX, key=f"[{number}].world_8_points", way_out=_WAY_OUT)
        if np.linalg.norm(across) > np.linalg.norm(along):
            along, across = across, -along
        size = [float(np.linalg.norm(side)) for side in (along, across, up)]
        if min(size) < 1e-6:
            continue
        axes = np.column_stack([along, across, up]) / size
        if np.linalg.det(axes) < 0:
            axes[:, 1] *= -1  # clockwise: the sides of a box look the same, only left and right change their names
        left, _, right = np.linalg.svd(axes)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = left @ right, corners.mean(axis=0)
        if axes[2, 2] <= 0 or np.abs(pose[:3, :3] - axes).max() > 0.1:
            raise DataError(source, _NO_BOX, key=f"[{number}].world_8_points", way_out=_WAY_OUT)
        poses.append(pose)
        sizes.append(size)
    return Labels(np.array(poses).reshape(-1, 4, 4), np.array(sizes).reshape(-1, 3))


def parse_offset(entry: Any, source: Path, at: str) -> tuple[float, float]:
    """`system_error_offset` of a pair in metres; a missing or empty one is zero, as the release leaves it.

    Raises:
        DataError: it is there and not a pair of numbers.
    """
    return _deltas(entry, "system_error_offset", source, at)


def parse_relative_error(content: bytes, source: Path) -> tuple[float, float]:
    """`relative_error` of `virtuallidar_to_world` in metres; a missing or empty one is zero.

    Raises:
        DataError: it is there and not a pair of numbers.
    """
    return _deltas(parse_json(content, source, _WAY_OUT), "relative_error", source, "relative_error")


def _deltas(entry: Any, name: str, source: Path, at: str) -> tuple[float, float]:
    offset = entry.get(name) if isinstance(entry, dict) else None
    if offset in (None, ""):
        return 0.0, 0.0
    if not isinstance(offset, dict):
        raise DataError(source, f"is {type(offset).__name__}, expected a mapping", key=at, way_out=_WAY_OUT)
    x, y = (
        0.0 if offset.get(key) in (None, "") else _finite(offset[key], source, f"{at}.{key}")
        for key in ("delta_x", "delta_y")
    )
    return x, y


def _vehicles(content: bytes, source: Path) -> list[tuple[int, dict[str, Any]]]:
    """The entries of kept types with their number in the file."""
    data = parse_json(content, source, _WAY_OUT)
    if not isinstance(data, list):
        raise DataError(source, f"is {type(data).__name__}, expected a list of labels", way_out=_WAY_OUT)
    kept = []
    for number, label in enumerate(data):
        kind = label.get("type") if isinstance(label, dict) else None
        if not isinstance(kind, str):
            raise DataError(source, "has no type", key=f"[{number}].type", way_out=_WAY_OUT)
        if kind.lower() in VEHICLES:
            kept.append((number, label))
    return kept


def _number(label: dict[str, Any], path: str, number: int, source: Path) -> float:
    value: Any = label
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return _finite(value, source, f"[{number}].{path}")


def _numbers(data: Any, key: str, count: int, source: Path, at: str = "") -> Float64:
    if not isinstance(data, dict) or key not in data:
        raise DataError(source, "the key is missing", key=at + key, way_out=_WAY_OUT)
    flat: list[Any] = []
    for row in data[key] if isinstance(data[key], list) else [data[key]]:
        flat += row if isinstance(row, list) else [row]
    if len(flat) != count:
        raise DataError(source, f"expected {count} numbers, got {len(flat)}", key=at + key, way_out=_WAY_OUT)
    return np.array([_finite(value, source, at + key) for value in flat])


def _finite(value: Any, source: Path, key: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < 1e9:
        raise DataError(source, f"expected a finite number, got {str(value)[:80]}", key=key, way_out=_WAY_OUT)
    return number
