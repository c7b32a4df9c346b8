"""What an agent knows at one time in OPV2V's layout (`<t>.yaml`, `<t>_hits.json`), and the assignment of types.

Everything is converted here to our conventions: right-handed, radians, full sizes, metres per second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heatv2x.core.files import parse_json, read_bytes, read_json
from heatv2x.errors import DataError
from heatv2x.formats.carla import carla_matrix, from_carla, mirror
from heatv2x.formats.frame_record import CameraRecord
from heatv2x.formats.tagged_yaml import MAX_BYTES, load_yaml
from heatv2x.structures import Float32, Float64, Int64, Pose

_WAY_OUT = "download or write the file again"
_KM_PER_H = 1 / 3.6
_CAMERA = re.compile(r"camera\d+")
_INTEGER = re.compile(r"-?\d{1,18}")

_T_BODY_CAMERA = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""OpenCV camera axes (x right, y down, z forward) in a body's axes (x forward, y left, z up)."""


@dataclass(frozen=True)
class AgentRecord:
    """One agent's `<t>.yaml`.

    Attributes:
        T_world_agent: (4, 4) float64 pose of the LiDAR.
        cameras: in the order of their numbers; empty if the file describes none.
        ids: (N,) int64 objects with at least one LiDAR return of this agent, in the file's order.
        T_world_object: (N, 4, 4) float64 pose of the object's geometric centre.
        size: (N, 3) float32 full length, width, height in metres.
        speed: (N,) float32 metres per second, NaN where the file does not say.
        without_center: how many objects lack the key `center`, so that their boxes sit on their reference point.
        labelled: False if the file has no key `vehicles`; nothing below that key means that there is no vehicle.
    """

    T_world_agent: Float64
    cameras: tuple[CameraRecord, ...]
    ids: Int64
    T_world_object: Float64
    size: Float32
    speed: Float32
    without_center: int
    labelled: bool = True


@dataclass(frozen=True)
class Seen:
    """What the sidecar says of one object and one agent: its LiDAR returns, and whether cameras see its centre."""

    hits: int
    camera_visible: bool


def read_agent_yaml(path: str | Path) -> AgentRecord:
    """Read one agent's file.

    Raises:
        DataError: the file is missing or corrupt, or a key is missing or out of range; names file, key and way out.
    """
    source = Path(path)
    record = parse_agent_yaml(read_bytes(source, MAX_BYTES, way_out="complete the download of this agent"), source)
    if not record.labelled:
        raise DataError(source, "the key is missing", key="vehicles", way_out=_WAY_OUT)
    return record


def parse_agent_yaml(content: bytes, source: Path) -> AgentRecord:
    """Parse bytes that were already read, labelled or not; `source` is for messages."""
    data = load_yaml(content, source)
    pose = from_carla(_numbers(data, "lidar_pose", 6, source))
    # no objects: a writer may leave nothing behind the colon, or write an empty list
    vehicles: Mapping[Any, Any] = {} if data.get("vehicles") in (None, []) else _mapping(data, "vehicles", source)
    ids = [_object_id(key, "vehicles", source) for key in vehicles]
    if len(set(ids)) != len(ids):
        raise DataError(source, "an object is listed twice", key="vehicles", way_out=_WAY_OUT)
    rows = [_object(vehicle, f"vehicles.{key}", source) for key, vehicle in vehicles.items()]
    matrices = np.array([matrix for matrix, _, _ in rows]).reshape(-1, 4, 4)
    return AgentRecord(
        T_world_agent=pose,
        cameras=_cameras(data, Pose(pose).inverse(), source),
        ids=np.array(ids, np.int64),
        T_world_object=mirror(matrices),
        size=np.array([size for _, size, _ in rows], np.float32).reshape(-1, 3),
        speed=np.array([speed for _, _, speed in rows], np.float32),
        without_center=sum("center" not in vehicle for vehicle in vehicles.values()),
        labelled="vehicles" in data,
    )


def parse_hits(content: bytes, source: Path) -> dict[int, Seen]:
    """The sidecar `<t>_hits.json`: `{"<object id>": {"hits": 12, "camera_visible": true}, ...}`.

    Raises:
        DataError: not JSON of that form; names file, key and way out.
    """
    data = parse_json(content, source, _WAY_OUT)
    if not isinstance(data, dict):
        raise DataError(source, "is not a mapping by object id", way_out=_WAY_OUT)
    return {_object_id(key, "", source): _seen(entry, key, source) for key, entry in data.items()}


def assignment(path: str | Path) -> dict[str, dict[int, str]]:
    """Read an assignment of agent types: for every scenario the type of each agent by its id.

    Args:
        path: JSON of the form `{"<scenario>": {"<agent id>": "m1", ...}, ...}`.

    Raises:
        DataError: the file is missing or not of that form.
    """
    source = Path(path)
    data = read_json(source)
    if not isinstance(data, dict):
        raise DataError(source, "is not a mapping by scenario", way_out="write {scenario: {agent id: type}}")
    types: dict[str, dict[int, str]] = {}
    for scenario in data:
        agents = _mapping(data, scenario, source)
        for agent, kind in agents.items():
            if not isinstance(kind, str) or not kind:
                raise DataError(
                    source, f"{kind!r} is not a type", key=f"{scenario}.{agent}", way_out='write for example "m1"'
                )
        types[scenario] = {_object_id(agent, scenario, source): kind for agent, kind in agents.items()}
    return types


def _object(vehicle: Any, at: str, source: Path) -> tuple[Float64, list[float], float]:
    if not isinstance(vehicle, dict):
        raise DataError(source, f"is {type(vehicle).__name__}, expected a mapping", key=at, way_out=_WAY_OUT)
    center = _numbers(vehicle, "center", 3, source, at) if "center" in vehicle else [0.0] * 3
    extent = _numbers(vehicle, "extent", 3, source, at)
    if min(extent) <= 0:
        problem = f"half sizes must be above 0, got {extent}"
        raise DataError(source, problem, key=f"{at}.extent", way_out="remove that object from the file, or correct it")
    speed = _numbers(vehicle, "speed", 1, source, at)[0] if "speed" in vehicle else math.nan
    # The offset to the centre is added in the world without turning it with the object: the simulator's own rule.
    location = _numbers(vehicle, "location", 3, source, at)
    place = [base + offset for base, offset in zip(location, center, strict=True)]
    matrix = carla_matrix([*place, *_numbers(vehicle, "angle", 3, source, at)])
    return matrix, [2 * half for half in extent], speed * _KM_PER_H


def _cameras(data: Mapping[Any, Any], T_agent_world: Float64, source: Path) -> tuple[CameraRecord, ...]:
    names = [key for key in data if isinstance(key, str) and _CAMERA.fullmatch(key)]
    cameras = []
    for name in sorted(names, key=lambda name: int(name.removeprefix("camera"))):
        camera = _mapping(data, name, source)
        # `extrinsic` is ignored: it maps LiDAR to camera, the opposite of what OPV2V's documentation says.
        T_world_camera = from_carla(_numbers(camera, "cords", 6, source, name)) @ _T_BODY_CAMERA
        cameras.append(CameraRecord(name, _intrinsics(camera, name, source), T_agent_world @ T_world_camera))
    return tuple(cameras)


def _intrinsics(camera: Mapping[Any, Any], at: str, source: Path) -> Float64:
    rows = _get(camera, "intrinsic", source, at)
    key = f"{at}.intrinsic"
    if not isinstance(rows, list) or len(rows) != 3:
        raise DataError(source, "expected a 3x3 matrix", key=key, way_out=_WAY_OUT)
    K = np.array([_numbers({row: rows[row]}, row, 3, source, key) for row in range(3)])
    if not (K[0, 0] > 0 and K[1, 1] > 0 and np.allclose(K[2], [0, 0, 1])):
        raise DataError(source, f"is not an intrinsic matrix: {K.tolist()}", key=key, way_out=_WAY_OUT)
    return K


def _seen(entry: Any, key: str, source: Path) -> Seen:
    hits = entry.get("hits") if isinstance(entry, dict) else None
    visible = entry.get("camera_visible") if isinstance(entry, dict) else None
    if type(hits) is not int or not 0 <= hits < 2**31 or type(visible) is not bool:
        problem = f'expected {{"hits": count, "camera_visible": true or false}}, got {str(entry)[:80]}'
        raise DataError(
            source, problem, key=key, way_out="write the sidecar again, or delete it to go without hit counts"
        )
    return Seen(hits, visible)


def _get(data: Mapping[Any, Any], key: Any, source: Path, at: str) -> Any:
    if key not in data:
        full = f"{at}.{key}" if at else str(key)
        raise DataError(source, "the key is missing", key=full, way_out=_WAY_OUT)
    return data[key]


def _mapping(data: Mapping[Any, Any], key: Any, source: Path, at: str = "") -> Mapping[Any, Any]:
    value = _get(data, key, source, at)
    if not isinstance(value, dict):
        full = f"{at}.{key}" if at else str(key)
        raise DataError(source, f"is {type(value).__name__}, expected a mapping", key=full, way_out=_WAY_OUT)
    return value


def _numbers(data: Mapping[Any, Any], key: Any, count: int, source: Path, at: str = "") -> list[float]:
    value = _get(data, key, source, at)
    values = value if isinstance(value, list) else [value]
    if len(values) != count or not all(type(number) in (int, float) and abs(number) < 1e9 for number in values):
        full = f"{at}.{key}" if at else str(key)
        expected = f"{count} finite numbers" if count > 1 else "a finite number"
        raise DataError(source, f"expected {expected}, got {str(value)[:80]}", key=full, way_out=_WAY_OUT)
    return [float(number) for number in values]


def _object_id(key: Any, at: str, source: Path) -> int:
    if not _INTEGER.fullmatch(str(key)):
        raise DataError(source, f"'{key}' is not an integer id", key=at or str(key), way_out=_WAY_OUT)
    return int(key)
