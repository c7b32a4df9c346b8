"""Descriptive files of a split, parsed once and kept in one binary file that is never trusted to be up to date.

Text is slow to parse, so a split is parsed once. A frame is parsed again as soon as one of its files differs: a changed
size or time stamp leads to hashing the content, a changed hash to parsing.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import numpy as np
import numpy.typing as npt

from heatv2x.core.files import atomic_path, read_bytes
from heatv2x.errors import DataError
from heatv2x.structures import Bool, Float64, Int32, Int64, Objects

_log = logging.getLogger(__name__)
_VERSION = 3
_MAX_INDEX_BYTES = 2_000_000_000
MAX_FILE_BYTES = 64_000_000
"""Of a descriptive file; the largest that is known lists all frames of DAIR-V2X and has some megabytes."""
_RECENT_NS = 2_000_000_000
"""A file written this shortly before it was indexed may change again without its time stamp changing."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class CameraRecord:
    """Where a camera is and how it projects.

    Attributes:
        name: "camera0" (front), "camera1", ...
        K: (3, 3) float64 intrinsics in pixels of the dataset's image.
        T_agent_camera: (4, 4) float64 from OpenCV camera axes to the agent's LiDAR frame.
    """

    name: str
    K: Float64
    T_agent_camera: Float64


@dataclass(frozen=True)
class FileStamp:
    """What identifies the content of a file: cheap (size, times) and certain (hash)."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    digest: bytes


@dataclass(frozen=True)
class FrameRecord:
    """Everything a frame's descriptive files say, in our conventions.

    Attributes:
        name: "scenario/timestamp".
        folders: (A) names that lead to the agents' files, in the order of `Frame.agents`.
        T_world_agent: (A, 4, 4) float64.
        cameras: (A) tuples of cameras.
        objects: union over the agents by id; the first agent that lists an object describes it.
        without_center: objects that lack the key `center`, summed over agents.
        stamps: the files this was read from.
        labelled: somebody labelled it, be it as empty.
    """

    name: str
    folders: tuple[str, ...]
    T_world_agent: Float64
    cameras: tuple[tuple[CameraRecord, ...], ...]
    objects: Objects
    without_center: int
    stamps: tuple[FileStamp, ...]
    labelled: bool = True


class ListedFrame(Protocol):
    """A frame that a dataset's layout holds."""

    @property
    def name(self) -> str:
        """ "scenario/timestamp"."""

    @property
    def present(self) -> tuple[str, ...]:
        """Its descriptive files, as paths relative to the root."""


ListedT = TypeVar("ListedT", bound=ListedFrame)


@dataclass
class Contents:
    """Reads a frame's descriptive files and keeps what identifies them.

    Attributes:
        root: what the paths are relative to.
        stamps: of the files read so far.
    """

    root: Path
    stamps: list[FileStamp]

    def read(self, path: str) -> bytes:
        """The bytes of one file.

        Raises:
            DataError: it cannot be read.
        """
        stamp, content = _stamp(self.root, path)
        self.stamps.append(stamp)
        return content


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/heatv2x/index`, by default `~/.cache/heatv2x/index`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heatv2x" / "index"


def open_records(
    root: Path,
    label: str,
    frames: Sequence[ListedT],
    read: Callable[[ListedT, Contents], FrameRecord],
    cache_dir: Path | None = None,
) -> Sequence[FrameRecord]:
    """The records of all frames of a split, from the index where it is current, from the files where it is not.

    Args:
        root: the dataset's folder.
        label: names the index of this split (and of the settings that decide what is in it) among those of the dataset.
        frames: what the layout lists.
        read: parses one frame; it takes the stamps of `Contents` into the record.
        cache_dir: where the index is kept; `default_cache_dir()` if None.

    Raises:
        DataError: a descriptive file is missing or corrupt; names file, key and way out.
    """
    path = index_path(root, label, cache_dir)
    known, indexed_at = _load(path)
    started_at = time.time_ns()
    if known is not None and known.is_current(root, frames, indexed_at):
        return known
    olds = [None if known is None else known.find(frame.name) for frame in frames]
    records = [_current(root, frame, old, indexed_at, read) for frame, old in zip(frames, olds, strict=True)]
    fresh = sum(record is not old for record, old in zip(records, olds, strict=True))
    if fresh or known is None or len(known) != len(records):
        _log.info("indexed %s, %s: %d frames, %d of them new or touched", root, label, len(records), fresh)
        _save(path, records, started_at)
    return records


def index_path(root: Path, label: str, cache_dir: Path | None = None) -> Path:
    """Where the index of a split is kept; arguments as in `open_records`."""
    digest = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return (default_cache_dir() if cache_dir is None else cache_dir) / f"{label}-{digest}.npz"


def fingerprint(records: Iterable[FrameRecord]) -> str:
    """Hex SHA-256 over the sorted relative paths and content hashes of the descriptive files."""
    if isinstance(records, IndexedRecords):
        digests = records.digests()
    else:
        digests = ((stamp.path, stamp.digest) for record in records for stamp in record.stamps)
    lines = sorted(f"{path}\0{digest.hex()}\n" for path, digest in digests)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _current(
    root: Path,
    frame: ListedT,
    known: FrameRecord | None,
    indexed_at: int,
    read: Callable[[ListedT, Contents], FrameRecord],
) -> FrameRecord:
    if known is None or tuple(stamp.path for stamp in known.stamps) != frame.present:
        return read(frame, Contents(root, []))
    stamps = tuple(_restamped(root, stamp, indexed_at) for stamp in known.stamps)
    if any(new.digest != old.digest for new, old in zip(stamps, known.stamps, strict=True)):
        return read(frame, Contents(root, []))
    unchanged = all(new is old for new, old in zip(stamps, known.stamps, strict=True))
    return known if unchanged else replace(known, stamps=stamps)


def _restamped(root: Path, stamp: FileStamp, indexed_at: int) -> FileStamp:
    state = _stat(root / stamp.path)
    same = (state.st_size, state.st_mtime_ns, state.st_ctime_ns) == (stamp.size, stamp.mtime_ns, stamp.ctime_ns)
    recent = max(stamp.mtime_ns, stamp.ctime_ns) > indexed_at - _RECENT_NS
    return stamp if same and not recent else _stamp(root, stamp.path)[0]


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}", way_out="complete the download") from error


def _stamp(root: Path, path: str) -> tuple[FileStamp, bytes]:
    state = _stat(root / path)
    content = read_bytes(root / path, MAX_FILE_BYTES, way_out="complete the download")
    digest = hashlib.sha256(content).digest()
    return FileStamp(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, digest), content


def _load(path: Path) -> tuple[IndexedRecords | None, int]:
    if not os.path.lexists(path):
        return None, 0
    try:
        content = read_bytes(path, _MAX_INDEX_BYTES)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(member.file_size > len(content) for member in archive.infolist()):
                raise ValueError("it holds packed arrays")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if int(arrays["version"]) != _VERSION:
            _log.info("%s was written by another version and is rebuilt", path)
            return None, 0
        return IndexedRecords(arrays), int(arrays["indexed_at_ns"])
    except Exception as error:  # a damaged zip or array raises what it likes, and the index is only a copy
        _log.warning("the index %s is corrupt and is rebuilt: %s", path, error)
        return None, 0


def _save(path: Path, records: Sequence[FrameRecord], started_at: int) -> None:
    try:
        with atomic_path(path) as temporary:
            np.savez(temporary, **_pack(records, started_at))  # type: ignore[arg-type]
    except DataError as error:
        _log.warning("the index could not be saved, so the next start reads every file again: %s", error)


def _pack(records: Sequence[FrameRecord], started_at: int) -> Arrays:
    """Flat arrays of all frames, agents, cameras, objects and files, and how many belong to each frame or agent."""
    cameras = [camera for record in records for agent in record.cameras for camera in agent]
    stamps = [stamp for record in records for stamp in record.stamps]
    objects = [record.objects for record in records]
    return {
        "version": np.array(_VERSION),
        "indexed_at_ns": np.array(started_at),
        "frame_name": _texts(record.name for record in records),
        "frame_agents": np.array([len(record.folders) for record in records]),
        "frame_objects": np.array([len(record.objects) for record in records]),
        "frame_files": np.array([len(record.stamps) for record in records]),
        "frame_without_center": np.array([record.without_center for record in records]),
        "frame_counted": np.array([record.objects.counted for record in records]),
        "frame_labelled": np.array([record.labelled for record in records]),
        "agent_folder": _texts(folder for record in records for folder in record.folders),
        "agent_pose": np.concatenate([record.T_world_agent for record in records]),
        "agent_cameras": np.array([len(agent) for record in records for agent in record.cameras]),
        "camera_name": _texts(camera.name for camera in cameras),
        "camera_K": np.array([camera.K for camera in cameras]).reshape(-1, 3, 3),
        "camera_pose": np.array([camera.T_agent_camera for camera in cameras]).reshape(-1, 4, 4),
        "object_id": np.concatenate([each.ids for each in objects]),
        "object_pose": np.concatenate([each.T_world_object for each in objects]),
        "object_size": np.concatenate([each.size for each in objects]),
        "object_speed": np.concatenate([each.speed for each in objects]),
        "object_hits": np.concatenate([each.hits.ravel() for each in objects]),
        "object_visible": np.concatenate([each.camera_visible.ravel() for each in objects]),
        "file_path": _texts(stamp.path for stamp in stamps),
        "file_stamp": np.array([[stamp.size, stamp.mtime_ns, stamp.ctime_ns] for stamp in stamps], np.int64),
        "file_digest": np.array([list(stamp.digest) for stamp in stamps], np.uint8),
    }


class IndexedRecords(Sequence[FrameRecord]):
    """The records of an index, made when they are asked for; their arrays are views into the flat ones."""

    def __init__(self, arrays: Arrays) -> None:
        _check_lengths(arrays)
        self._arrays = arrays
        self._frame = {name: _slices(arrays[f"frame_{name}"]) for name in ("agents", "objects", "files")}
        self._cells = _slices(arrays["frame_agents"] * arrays["frame_objects"])
        self._cameras = _slices(arrays["agent_cameras"])
        self.names = _strings(arrays["frame_name"])
        self.paths = _strings(arrays["file_path"])
        self._folders, self._camera_names = _strings(arrays["agent_folder"]), _strings(arrays["camera_name"])
        self._rows = {name: row for row, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> FrameRecord: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[FrameRecord]: ...
    def __getitem__(self, row: int | slice) -> FrameRecord | Sequence[FrameRecord]:
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        row = range(len(self))[row]
        arrays, agents, objects = self._arrays, self._frame["agents"][row], self._frame["objects"][row]
        hits: Int32 = arrays["object_hits"]
        visible: Bool = arrays["object_visible"]
        count = agents.stop - agents.start
        return FrameRecord(
            name=self.names[row],
            folders=tuple(self._folders[agents]),
            T_world_agent=arrays["agent_pose"][agents],
            cameras=tuple(self._cameras_of(agent) for agent in range(agents.start, agents.stop)),
            objects=Objects(
                ids=arrays["object_id"][objects],
                T_world_object=arrays["object_pose"][objects],
                size=arrays["object_size"][objects],
                speed=arrays["object_speed"][objects],
                hits=hits[self._cells[row]].reshape(-1, count),
                camera_visible=visible[self._cells[row]].reshape(-1, count),
                counted=bool(arrays["frame_counted"][row]),
            ),
            without_center=int(arrays["frame_without_center"][row]),
            stamps=tuple(self._stamp(file) for file in range(*self._frame["files"][row].indices(len(self.paths)))),
            labelled=bool(arrays["frame_labelled"][row]),
        )

    def find(self, name: str) -> FrameRecord | None:
        """The record of a frame by name."""
        row = self._rows.get(name)
        return None if row is None else self[row]

    @property
    def without_center(self) -> int:
        """Objects that lack the key `center`, in all frames."""
        return int(self._arrays["frame_without_center"].sum())

    def digests(self) -> Iterator[tuple[str, bytes]]:
        """Path and hash of every file."""
        hashes = self._arrays["file_digest"].tobytes()
        return ((path, hashes[32 * n : 32 * n + 32]) for n, path in enumerate(self.paths))

    def is_current(self, root: Path, frames: Sequence[ListedFrame], indexed_at: int) -> bool:
        """Whether the index holds exactly these frames, and none of their files looks changed."""
        if [frame.name for frame in frames] != self.names:
            return False
        counts = np.array([len(frame.present) for frame in frames])
        if not np.array_equal(counts, self._arrays["frame_files"]):
            return False
        if [path for frame in frames for path in frame.present] != self.paths:
            return False
        stamps: Int64 = self._arrays["file_stamp"]
        if len(stamps) and stamps[:, 1:].max() > indexed_at - _RECENT_NS:
            return False
        try:
            states = [os.stat(f"{root}/{path}") for path in self.paths]  # noqa: PTH116 - half the time of Path.stat
        except OSError:
            return False  # opening the frame says which file is missing
        found = [(state.st_size, state.st_mtime_ns, state.st_ctime_ns) for state in states]
        return bool(np.array_equal(np.array(found, np.int64).reshape(-1, 3), stamps))

    def _cameras_of(self, agent: int) -> tuple[CameraRecord, ...]:
        rows, K, pose = self._cameras[agent], self._arrays["camera_K"], self._arrays["camera_pose"]
        return tuple(CameraRecord(self._camera_names[row], K[row], pose[row]) for row in range(rows.start, rows.stop))

    def _stamp(self, file: int) -> FileStamp:
        size, mtime_ns, ctime_ns = self._arrays["file_stamp"][file].tolist()
        return FileStamp(self.paths[file], size, mtime_ns, ctime_ns, self._arrays["file_digest"][file].tobytes())


def _check_lengths(arrays: Arrays) -> None:
    """Whatever lies in an index, the flat arrays must be as long as the counts say."""
    frames = {
        name: arrays[f"frame_{name}"]
        for name in ("agents", "objects", "files", "without_center", "counted", "labelled")
    }
    lengths = {
        "frame": len(arrays["frame_name"]),
        "agent": int(frames["agents"].sum()),
        "object": int(frames["objects"].sum()),
        "camera": int(arrays["agent_cameras"].sum()),
        "file": int(frames["files"].sum()),
    }
    cells = int((frames["agents"] * frames["objects"]).sum())
    for name, array in arrays.items():
        kind = name.partition("_")[0]
        wanted = cells if name in ("object_hits", "object_visible") else lengths.get(kind)
        if wanted is not None and len(array) != wanted:
            raise ValueError(f"{name} has {len(array)} rows, expected {wanted}")
    if any(count.min(initial=0) < 0 for count in (frames["agents"], frames["objects"], frames["files"])):
        raise ValueError("a count is negative")
    shapes = {
        "agent_pose": (4, 4),
        "camera_K": (3, 3),
        "camera_pose": (4, 4),
        "object_pose": (4, 4),
        "object_size": (3,),
    }
    for name, shape in {**shapes, "file_stamp": (3,), "file_digest": (32,)}.items():
        if arrays[name].shape[1:] != shape:
            raise ValueError(f"{name} has rows of shape {arrays[name].shape[1:]}")


def _slices(counts: Int64) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]


def _texts(texts: Iterable[str]) -> npt.NDArray[np.bytes_]:
    return np.array([text.encode("utf-8", "surrogateescape") for text in texts], np.bytes_)


def _strings(texts: npt.NDArray[np.bytes_]) -> list[str]:
    return [text.decode("utf-8", "surrogateescape") for text in texts.tolist()]
