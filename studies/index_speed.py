"""How long it takes to open the index of a large split."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heatv2x.formats import frame_index
from heatv2x.formats.frame_index import Contents
from heatv2x.formats.frame_record import CameraRecord, FileStamp, FrameRecord, ListedFrame
from heatv2x.formats.packed_records import RECENT_NS, IndexedRecords
from heatv2x.structures import Objects


@dataclass(frozen=True)
class _MadeUpFrame:
    name: str
    present: tuple[str, ...]


def synthetic_index_seconds(count: int, agents: int = 3, objects: int = 12) -> dict[str, float]:
    """How long an index of so many frames takes to open, its files looked at, and how large it is.

    The index is made up, with `agents` agents of four cameras each; all its stamps are of one real file.
    """
    rng = np.random.default_rng(0)
    cameras = tuple(CameraRecord(f"camera{n}", np.eye(3), rng.normal(size=(4, 4))) for n in range(4))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        stamp, _ = _stamp_of_new_file(root / "frame.yaml")
        stamps = (stamp,) * agents
        listed = [_MadeUpFrame(f"{n // 160}/{n:06d}", (stamp.path,) * agents) for n in range(count)]
        labels = Objects(
            ids=np.arange(objects),
            T_world_object=rng.normal(size=(objects, 4, 4)),
            size=np.ones((objects, 3), np.float32),
            speed=np.ones(objects, np.float32),
            hits=np.ones((objects, agents), np.int32),
            camera_visible=np.ones((objects, agents), np.bool_),
        )
        folders, poses = tuple(str(n) for n in range(agents)), np.tile(np.eye(4), (agents, 1, 1))
        records = [FrameRecord(f.name, folders, poses, (cameras,) * agents, labels, 0, stamps) for f in listed]
        path = frame_index.index_path(root, "synthetic", root)
        frame_index._save(path, records, time.time_ns() + 2 * RECENT_NS)
        wall, cpu = time.perf_counter(), time.process_time()
        opened = frame_index.open_records(root, "synthetic", listed, _refuse_to_parse, root)
        seconds = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        if len(opened) != count or not isinstance(opened, IndexedRecords):
            raise AssertionError("the made-up index was not used")
        return {**{key: round(value, 3) for key, value in seconds.items()}, "megabytes": path.stat().st_size / 1e6}


def _stamp_of_new_file(path: Path) -> tuple[FileStamp, bytes]:
    path.write_bytes(b"made up")
    return frame_index._stamp(path.parent, path.name)


def _refuse_to_parse(frame: ListedFrame, files: Contents) -> FrameRecord:
    raise AssertionError(f"{frame.name} of a current index was parsed again")
