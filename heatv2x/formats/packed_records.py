"""Many frames' records as a few flat arrays, so that thousands of frames open in a moment."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from heatv2x.formats.frame_record import CameraRecord, FileStamp, FrameRecord, ListedFrame
from heatv2x.structures import Bool, Int32, Int64, Objects

VERSION = 3


RECENT_NS = 2_000_000_000
"""A file written this shortly before it was indexed may change again without its time stamp changing."""


Arrays = dict[str, npt.NDArray[Any]]


def pack_records(records: Sequence[FrameRecord], started_at: int) -> Arrays:
    """Flat arrays of all frames, agents, cameras, objects and files, and how many belong to each frame or agent."""
    cameras = [camera for record in records for agent in record.cameras for camera in agent]
    stamps = [stamp for record in records for stamp in record.stamps]
    objects = [record.objects for record in records]
    return {
        "version": np.array(VERSION),
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
        if len(stamps) and stamps[:, 1:].max() > indexed_at - RECENT_NS:
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
    """Check that the flat arrays of an index are as long as its counts say."""
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
