"""Own recordings: poses and boxes as CSV, calibration as JSON, one file per cloud and image (docs/datasets/folder.md).

<split>/<recording>/boxes.csv                     frame,id,x,y,z,length,width,height,yaw[,speed], in the world; optional
                                                  (a line with nothing but the frame: labelled, and empty)
<split>/<recording>/<agent>/poses.csv          frame,time_s,x,y,z and roll,pitch,yaw or qx,qy,qz,qw
<split>/<recording>/<agent>/calibration.json   {"camera0": {"size": [w, h], "K": 3x3, "T_agent_camera": 4x4}}
<split>/<recording>/<agent>/lidar/<frame>.pcd, .npy or .bin
<split>/<recording>/<agent>/camera0/<frame>.png or .jpg
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heatv2x.core.files import parse_json, read_bytes
from heatv2x.core.plurals import counted
from heatv2x.errors import DataError
from heatv2x.formats.folder_names import FRAME_NAMES, agent_id, is_frame_name, is_integer, sensor_file
from heatv2x.formats.image import SAME_SIZE, intrinsics_fault
from heatv2x.formats.opv2v_layout import agent_order
from heatv2x.structures import LIDARS, Float32, Float64, Int64, Pose

_log = logging.getLogger(__name__)
IMAGES = (".png", ".jpg", ".jpeg")
MAX_BYTES = 256_000_000
_CAMERA = re.compile(r"camera\d{1,3}", re.ASCII)
_TIMES = {"time_s": 1.0, "time_ms": 1e-3, "time_us": 1e-6, "time_ns": 1e-9}
_LATEST_S = 1e11
"""Seconds since 1970 have ten digits, milliseconds thirteen."""
_ANGLES, _QUATERNION = ("roll", "pitch", "yaw"), ("qx", "qy", "qz", "qw")
_BOX = ("x", "y", "z", "length", "width", "height", "yaw")


@dataclass(frozen=True)
class FolderCamera:
    """One camera of `calibration.json`.

    Attributes:
        name: "camera0", ...
        size: width and height of its images, pixels.
        K: (3, 3) float64.
        T_agent_camera: (4, 4) float64, camera axes as OpenCV's.
    """

    name: str
    size: tuple[int, int]
    K: Float64
    T_agent_camera: Float64


@dataclass(frozen=True)
class Stance:
    """Where an agent's LiDAR frame was at a frame, and when (seconds)."""

    pose: Pose
    time_s: float


@dataclass(frozen=True)
class RecordedAgent:
    """One agent of a recording.

    Attributes:
        folder: its folder; `agent_id` tells the id by its name.
        stances: by frame.
        cameras: of `calibration.json`, in the order of their numbers.
        lidars: names of the LiDARs it has a folder of.
    """

    folder: Path
    stances: Mapping[str, Stance]
    cameras: tuple[FolderCamera, ...]
    lidars: tuple[str, ...]

    @property
    def agent_id(self) -> int:
        """The integer its folder is named by, or one that stands for the name."""
        return agent_id(self.folder.name)

    def ignored(self) -> list[Path]:
        """Folders in the agent's folder that no sensor of it is read from."""
        known = {*self.lidars, *(camera.name for camera in self.cameras)}
        return [path for path in _folders(self.folder) if path.name not in known]

    def sensor_file(self, sensor: str, frame: str, suffixes: Sequence[str]) -> Path:
        """The file of a sensor at a frame.

        Raises:
            DataError: there is none, or more than one.
        """
        return sensor_file(self.folder / sensor, frame, suffixes)


@dataclass(frozen=True)
class RecordedBoxes:
    """The labelled objects of one frame, in the world: (N,) ids, (N, 7) boxes, (N,) speed (NaN where not given)."""

    ids: Int64
    boxes: Float64
    speed: Float32


@dataclass(frozen=True)
class Recording:
    """One recording: agents in the order of `Frame.agents`, and boxes by labelled frame."""

    name: str
    agents: tuple[RecordedAgent, ...]
    boxes: Mapping[str, RecordedBoxes]

    def frames(self) -> list[str]:
        """Frames of all agents by time: that of the first agent that has the frame."""
        times: dict[str, float] = {}
        for agent in self.agents:
            for frame, stance in agent.stances.items():
                times.setdefault(frame, stance.time_s)
        return sorted(times, key=lambda frame: (times[frame], frame))


def read_recordings(root: str | Path, split: str) -> tuple[list[Recording], str]:
    """All recordings of a split, and the hex SHA-256 over their descriptive files.

    Raises:
        DataError: not such a folder, or a descriptive file is missing or corrupt; names file, line or key.
    """
    folder = Path(root) / split
    expected = "expected <recording>/<agent id>/poses.csv below it (docs/datasets/folder.md)"
    if not split or not folder.is_dir():
        splits = [path.name for path in _folders(Path(root))] if Path(root).is_dir() else []
        way_out = f"choose one of {', '.join(splits)}" if splits else "give the folder that holds the splits"
        raise DataError(folder, f"is not a folder; {expected}", way_out=way_out)
    digest = hashlib.sha256()
    recordings = [_recording(path, folder, digest) for path in _folders(folder)]
    if ignored := [path for recording in recordings for agent in recording.agents for path in agent.ignored()]:
        names = ", ".join(sorted({path.name for path in ignored}))
        _log.warning(
            "%s: ignored sensor folders: %s (first: %s); LiDAR folders are named %s, cameras as in calibration.json",
            folder,
            names,
            ignored[0],
            ", ".join(LIDARS),
        )
    if not any(recording.frames() for recording in recordings):
        raise DataError(folder, f"holds no frames; {expected}", way_out="give the folder that holds the splits")
    return recordings, digest.hexdigest()


def _recording(path: Path, split: Path, digest: Any) -> Recording:
    names = agent_order([folder.name for folder in _folders(path) if _is_agent(folder)], agent_id)
    if not names:
        raise DataError(path, "has no agent folders (those that hold poses.csv)", way_out="remove it or complete it")
    ids = {name: agent_id(name) for name in names}
    for name, number in ids.items():
        if same := [other for other in names if other != name and ids[other] == number]:
            problem = f"its agent folders {name} and {same[0]} both stand for the id {number}"
            raise DataError(path, problem, way_out="rename one")
    if made := [f"{name} is agent {number}" for name, number in ids.items() if not is_integer(name)]:
        _log.info("%s: %s", path, ", ".join(made))
    agents = tuple(_agent(path / name, split, digest) for name in names)
    boxes_file = path / "boxes.csv"
    boxes = _boxes(_table(boxes_file, split, digest), boxes_file, ids) if boxes_file.exists() else {}
    return Recording(path.name, agents, boxes)


def _is_agent(folder: Path) -> bool:
    """Whether a folder of a recording is an agent's: by its name, or by what it holds."""
    if is_integer(folder.name) or (folder / "poses.csv").exists():
        return True
    inside = sorted(entry.name for entry in _folders(folder) if entry.name in LIDARS or _CAMERA.fullmatch(entry.name))
    if inside or (folder / "calibration.json").exists():
        problem = f"is missing, but the folder holds {', '.join(inside) or 'calibration.json'}, as an agent's does"
        raise DataError(
            folder / "poses.csv", problem, way_out="write it (docs/datasets/folder.md), or move the folder away"
        )
    _log.warning("%s is ignored: it is not an agent's folder, because it holds no poses.csv", folder)
    return False


def _agent(folder: Path, split: Path, digest: Any) -> RecordedAgent:
    poses = folder / "poses.csv"
    stances: dict[str, Stance] = {}
    for line, row in _table(poses, split, digest):
        frame = _frame(row, line, poses)
        if frame in stances:
            raise DataError(poses, f"lists frame {frame} twice", key=f"line {line}", way_out="remove one")
        stances[frame] = Stance(_pose(row, line, poses), _time_s(row, line, poses))
    calibration = folder / "calibration.json"
    cameras = _cameras(_content(calibration, split, digest), calibration) if calibration.exists() else ()
    return RecordedAgent(folder, stances, cameras, tuple(name for name in LIDARS if (folder / name).is_dir()))


def _time_s(row: Mapping[str, str], line: int, source: Path) -> float:
    """Seconds, from whichever column gives the time."""
    name = next(name for name in _TIMES if name in row)
    time_s = _number(row, name, line, source, 1e20) * _TIMES[name]
    if abs(time_s) > _LATEST_S:
        digits = abs(time_s)
        unit = "nanoseconds" if digits > 1e17 else "microseconds" if digits > 1e14 else "milliseconds"
        problem = f"'{row[name][:40]}' is not a time in seconds; it looks like {unit}"
        column = {"nanoseconds": "time_ns", "microseconds": "time_us", "milliseconds": "time_ms"}[unit]
        way_out = f"write seconds, or name the column {column}"
        raise DataError(source, problem, key=f"line {line}, {name}", way_out=way_out)
    return time_s


def _pose(row: Mapping[str, str], line: int, source: Path) -> Pose:
    matrix = np.eye(4)
    matrix[:3, 3] = [_number(row, axis, line, source) for axis in "xyz"]
    if _QUATERNION[0] in row:
        x, y, z, w = (_number(row, name, line, source) for name in _QUATERNION)
        length = math.sqrt(x * x + y * y + z * z + w * w)
        if not 0.99 < length < 1.01:
            problem = f"the quaternion has length {length:.4g}, expected 1"
            raise DataError(source, problem, key=f"line {line}", way_out="write qx, qy, qz, qw of a unit quaternion")
        x, y, z, w = x / length, y / length, z / length, w / length
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        return Pose(matrix)
    roll, pitch, yaw = (_number(row, name, line, source) for name in _ANGLES)
    if max(abs(roll), abs(pitch), abs(yaw)) > 7:
        raise DataError(source, "an angle is larger than 7", key=f"line {line}", way_out="write radians, not degrees")
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    matrix[:3, :3] = about_z @ about_y @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return Pose(matrix)


def _boxes(rows: list[tuple[int, dict[str, str]]], source: Path, agents: Mapping[str, int]) -> dict[str, RecordedBoxes]:
    """The boxes by frame. A line with nothing but the frame says that the frame was labelled and is empty."""
    by_frame: dict[str, dict[int, list[float]]] = {}
    empty: dict[str, int] = {}
    for line, row in rows:
        frame = _frame(row, line, source)
        if labelled_empty := not any(value for name, value in row.items() if name != "frame"):
            empty[frame] = line
        if frame in empty and (by_frame.get(frame) or not labelled_empty):
            problem = f"frame {frame} is labelled as empty in line {empty[frame]} and has boxes as well"
            raise DataError(source, problem, key=f"line {line}", way_out="remove the line without a box")
        boxes = by_frame.setdefault(frame, {})
        if labelled_empty:
            continue
        if row["id"] not in agents and not is_integer(row["id"]):
            problem = f"'{row['id'][:40]}' is neither an integer id nor the folder of an agent"
            raise DataError(
                source, problem, key=f"line {line}, id", way_out="give every object an integer id that stays the same"
            )
        number = agents[row["id"]] if row["id"] in agents else int(row["id"])
        if number in boxes:
            problem = f"object {row['id']} is listed twice in one frame"
            raise DataError(source, problem, key=f"line {line}", way_out="remove one of the two lines")
        numbers = [_number(row, name, line, source) for name in _BOX]
        if min(numbers[3:6]) <= 0:
            problem = f"sizes must be above 0, got {numbers[3:6]}"
            raise DataError(source, problem, key=f"line {line}", way_out="correct or remove that box")
        speed = _number(row, "speed", line, source) if row.get("speed") else math.nan
        boxes[number] = [*numbers, speed]
    tables = {frame: np.array(list(boxes.values())).reshape(-1, 8) for frame, boxes in by_frame.items()}
    return {
        frame: RecordedBoxes(np.array(list(by_frame[frame]), np.int64), table[:, :7], table[:, 7].astype(np.float32))
        for frame, table in tables.items()
    }


def _cameras(content: bytes, source: Path) -> tuple[FolderCamera, ...]:
    data = parse_json(content, source, "write it again")
    if not isinstance(data, dict) or not all(_CAMERA.fullmatch(name) for name in data):
        problem = 'expected {"camera0": {"size": ..., "K": ..., "T_agent_camera": ...}, ...}'
        raise DataError(source, problem, way_out="name cameras camera0, camera1, ...")
    cameras = []
    for name in sorted(data, key=lambda name: int(name.removeprefix("camera"))):
        K = _matrix(data[name], "K", (3, 3), name, source)
        size = _matrix(data[name], "size", (2,), name, source)
        T = _matrix(data[name], "T_agent_camera", (4, 4), name, source)
        if not (K[0, 0] > 0 and K[1, 1] > 0 and np.allclose(K[2], [0, 0, 1])):
            raise DataError(source, "is not an intrinsic matrix", key=f"{name}.K", way_out="write pixels, row by row")
        orthonormal = np.allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-4)
        if not orthonormal or np.linalg.det(T) < 0 or not np.allclose(T[3], [0, 0, 0, 1]):
            problem = "is not a rigid right-handed transform"
            raise DataError(source, problem, key=f"{name}.T_agent_camera", way_out="see docs/conventions.md")
        width, height = (int(number) for number in size)
        if width < 1 or height < 1 or (width, height) != tuple(size):
            raise DataError(source, "is not a size in pixels", key=f"{name}.size", way_out="write [width, height]")
        if (fault := intrinsics_fault(K, (width, height))) is not None:
            raise DataError(source, fault, key=f"{name}.K", way_out=SAME_SIZE)
        cameras.append(FolderCamera(name, (width, height), K, T))
    return tuple(cameras)


def _matrix(camera: Any, key: str, shape: tuple[int, ...], name: str, source: Path) -> Float64:
    value = camera.get(key) if isinstance(camera, dict) else None
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape != shape or not np.isfinite(matrix).all():
        expected = " x ".join(map(str, shape))
        raise DataError(source, f"expected {expected} finite numbers", key=f"{name}.{key}", way_out="write it again")
    return matrix


def _table(path: Path, split: Path, digest: Any) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with their line numbers; all columns are known ones and all rows are complete."""
    text = _content(path, split, digest)
    try:
        lines = list(csv.reader(io.StringIO(text.decode("utf-8-sig")), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(path, f"is not a CSV file: {error}", way_out="write UTF-8 with commas") from error
    if not text.strip():
        raise DataError(path, "is empty", key="line 1", way_out="write it (docs/datasets/folder.md)")
    header = [name.strip() for name in lines[0]] if lines else []
    time = next((name for name in _TIMES if name in header), "time_s")
    common = ("frame", "id", *_BOX) if path.name == "boxes.csv" else ("frame", time, "x", "y", "z")
    turned = ((),) if path.name == "boxes.csv" else (_ANGLES, _QUATERNION)
    optional = {"speed"} if path.name == "boxes.csv" else set()
    wanted = [{*common, *more} for more in turned]
    if len(set(header)) != len(header) or not any(set(header) - optional == columns for columns in wanted):
        columns = " or ".join(",".join((*common, *more)) for more in turned)
        raise DataError(path, f"has the columns {','.join(header)[:200]}", key="line 1", way_out=f"write {columns}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(header):
            problem = f"has {counted(len(line), 'value')} for {counted(len(header), 'column')}"
            raise DataError(path, problem, key=f"line {number}", way_out="complete or remove that line")
        rows.append((number, dict(zip(header, (value.strip() for value in line), strict=True))))
    return rows


def _content(path: Path, split: Path, digest: Any) -> bytes:
    content = read_bytes(path, MAX_BYTES, way_out="write it (docs/datasets/folder.md)")
    digest.update(f"{path.relative_to(split).as_posix()}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return content


def _frame(row: Mapping[str, str], line: int, source: Path) -> str:
    frame = row["frame"]
    if not is_frame_name(frame):
        raise DataError(
            source, f"{frame[:40]!r} is not a valid frame name", key=f"line {line}, frame", way_out=FRAME_NAMES
        )
    return frame


def _number(row: Mapping[str, str], name: str, line: int, source: Path, limit: float = 1e12) -> float:
    try:
        number = float(row[name])
    except ValueError:
        number = math.nan
    if not abs(number) < limit:
        problem = f"expected a finite number, got '{row[name][:40]}'"
        if math.isfinite(number):
            problem = f"expected a number below {limit:g}, got '{row[name][:40]}'"
        raise DataError(source, problem, key=f"line {line}, {name}", way_out="correct that line")
    return number


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(path, f"cannot be listed: {error.strerror}") from error
