"""Descriptive files of a split, parsed once and kept in one binary file that is never trusted to be up to date.

Text is slow to parse, so a split is parsed once. A frame is parsed again as soon as one of its files differs: a changed
size or time stamp leads to hashing the content, a changed hash to parsing.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from heatv2x.core.files import atomic_path, read_bytes
from heatv2x.errors import DataError
from heatv2x.formats.frame_record import FileStamp, FrameRecord, ListedFrame
from heatv2x.formats.packed_records import RECENT_NS, VERSION, IndexedRecords, pack_records

_log = logging.getLogger(__name__)
_MAX_INDEX_BYTES = 2_000_000_000
MAX_FILE_BYTES = 64_000_000
"""Of a descriptive file; the largest that is known lists all frames of DAIR-V2X and has some megabytes."""


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
        _log.info("indexed %s, %s: %d frames, %d of them new or changed", root, label, len(records), fresh)
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
    recent = max(stamp.mtime_ns, stamp.ctime_ns) > indexed_at - RECENT_NS
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
        if int(arrays["version"]) != VERSION:
            _log.info("%s was written by another version and is rebuilt", path)
            return None, 0
        return IndexedRecords(arrays), int(arrays["indexed_at_ns"])
    except Exception as error:  # a damaged zip or array raises what it likes, and the index is only a copy
        _log.warning("the index %s is corrupt and is rebuilt: %s", path, error)
        return None, 0


def _save(path: Path, records: Sequence[FrameRecord], started_at: int) -> None:
    try:
        with atomic_path(path) as temporary:
            np.savez(temporary, **pack_records(records, started_at))  # type: ignore[arg-type]
    except DataError as error:
        _log.warning("the index could not be saved, so the next start reads every file again: %s", error)
