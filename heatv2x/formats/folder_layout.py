"""Own recordings: poses and boxes as CSV, calibration as JSON, one file per cloud and image (docs/datasets/folder.md).

<split>/<recording>/boxes.csv                     frame,id,x,y,z,length,width,height,yaw[,speed], in the world; optional
                                                  (a line with nothing but the frame: labelled, and empty)
<split>/<recording>/<agent id>/poses.csv          frame,time_s,x,y,z and roll,pitch,yaw or qx,qy,qz,qw
<split>/<recording>/<agent id>/calibration.json   {"camera0": {"size": [w, h], "K": 3x3, "T_agent_camera": 4x4}}
<split>/<recording>/<agent id>/lidar/<frame>.pcd, .npy or .bin
<split>/<recording>/<agent id>/camera0/<frame>.png or .jpg
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heatv2x.errors import DataError
from heatv2x.files import parse_json, read_bytes
from heatv2x.formats.opv2v_layout import agent_order
from heatv2x.structures import LIDARS, Float32, Float64, Int64, Pose

CLOUDS = (".pcd", ".npy", ".bin")
IMAGES = (".png", ".jpg", ".jpeg")
MAX_BYTES = 256_000_000
_STEM = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z_.-]{0,63}")
_AGENT = re.compile(r"-?\d{1,18}")
_CAMERA = re.compile(r"camera\d{1,3}")
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
        folder: its folder; named by its integer id, negative for roadside units.
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
        """The integer its folder is named by."""
        return int(self.folder.name)

    def sensor_file(self, sensor: str, frame: str, suffixes: Sequence[str]) -> Path:
        """The file of a sensor at a frame.

        Raises:
            DataError: there is none, or more than one.
        """
        found = [path for suffix in suffixes if (path := self.folder / sensor / f"{frame}{suffix}").is_file()]
        if len(found) != 1:
            problem = "is missing" if not found else f"is there {len(found)} times: {', '.join(p.name for p in found)}"
            way_out = f"write one of {', '.join(suffixes)}, or take the frame out of poses.csv"
            raise DataError(self.folder / sensor / frame, problem, way_out=way_out)
        return found[0]


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
        raise DataError(folder, f"is no folder; {expected}", way_out=way_out)
    digest = hashlib.sha256()
    recordings = [_recording(path, folder, digest) for path in _folders(folder)]
    if not any(recording.frames() for recording in recordings):
        raise DataError(folder, f"holds no frames; {expected}", way_out="give the folder that holds the splits")
    return recordings, digest.hexdigest()


def _recording(path: Path, split: Path, digest: Any) -> Recording:
    names = agent_order(folder.name for folder in _folders(path) if _AGENT.fullmatch(folder.name))
    if not names:
        raise DataError(path, "has no agent folders (named by an integer id)", way_out="remove it or complete it")
    if len({int(name) for name in names}) != len(names):
        raise DataError(path, f"two agent folders are the same number: {', '.join(names)}", way_out="rename one")
    agents = tuple(_agent(path / name, split, digest) for name in names)
    boxes_file = path / "boxes.csv"
    boxes = _boxes(_table(boxes_file, split, digest), boxes_file) if boxes_file.exists() else {}
    return Recording(path.name, agents, boxes)


def _agent(folder: Path, split: Path, digest: Any) -> RecordedAgent:
    poses = folder / "poses.csv"
    stances: dict[str, Stance] = {}
    for line, row in _table(poses, split, digest):
        frame = _frame(row, line, poses)
        if frame in stances:
            raise DataError(poses, f"lists frame {frame} twice", key=f"line {line}", way_out="remove one")
        stances[frame] = Stance(_pose(row, line, poses), _number(row, "time_s", line, poses))
    calibration = folder / "calibration.json"
    cameras = _cameras(_content(calibration, split, digest), calibration) if calibration.exists() else ()
    return RecordedAgent(folder, stances, cameras, tuple(name for name in LIDARS if (folder / name).is_dir()))


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
        raise DataError(source, "an angle is beyond 7", key=f"line {line}", way_out="write radians, not degrees")
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    matrix[:3, :3] = about_z @ about_y @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return Pose(matrix)


def _boxes(rows: list[tuple[int, dict[str, str]]], source: Path) -> dict[str, RecordedBoxes]:
    """The boxes by frame. A line of which only the frame is written says that the frame was labelled and is empty."""
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
        if not _AGENT.fullmatch(row["id"]):
            raise DataError(
                source, f"'{row['id'][:40]}' is not an integer id", key=f"line {line}, id", way_out="mend it"
            )
        if int(row["id"]) in boxes:
            raise DataError(
                source, f"object {row['id']} is listed twice in one frame", key=f"line {line}", way_out="mend it"
            )
        numbers = [_number(row, name, line, source) for name in _BOX]
        if min(numbers[3:6]) <= 0:
            problem = f"sizes must be above 0, got {numbers[3:6]}"
            raise DataError(source, problem, key=f"line {line}", way_out="mend or remove that box")
        speed = _number(row, "speed", line, source) if row.get("speed") else math.nan
        boxes[int(row["id"])] = [*numbers, speed]
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
    header = [name.strip() for name in lines[0]] if lines else []
    common = ("frame", "id", *_BOX) if path.name == "boxes.csv" else ("frame", "time_s", "x", "y", "z")
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
            problem = f"has {len(line)} values for {len(header)} columns"
            raise DataError(path, problem, key=f"line {number}", way_out="complete or remove that line")
        rows.append((number, dict(zip(header, (value.strip() for value in line), strict=True))))
    return rows


def _content(path: Path, split: Path, digest: Any) -> bytes:
    content = read_bytes(path, MAX_BYTES, way_out="write it (docs/datasets/folder.md)")
    digest.update(f"{path.relative_to(split).as_posix()}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return content


def _frame(row: Mapping[str, str], line: int, source: Path) -> str:
    if not _STEM.fullmatch(row["frame"]):
        way_out = "name frames by the stems of their files"
        raise DataError(
            source, f"'{row['frame'][:40]}' is no name of a frame", key=f"line {line}, frame", way_out=way_out
        )
    return row["frame"]


def _number(row: Mapping[str, str], name: str, line: int, source: Path) -> float:
    try:
        number = float(row[name])
    except ValueError:
        number = math.nan
    if not abs(number) < 1e12:
        problem = f"expected a finite number, got '{row[name][:40]}'"
        raise DataError(source, problem, key=f"line {line}, {name}", way_out="mend that line")
    return number


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(path, f"cannot be listed: {error.strerror}") from error
