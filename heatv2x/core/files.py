"""Writing files so that nothing half-written is left behind, reading them so that nothing hangs or fills the memory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heatv2x.errors import DataError

MAX_JSON_BYTES = 256_000_000


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block ends well, remove it otherwise.

    The temporary name keeps the suffix, because image writers choose their format by it.

    Raises:
        DataError: the file cannot be written (disk full, no permission, not a folder).
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise DataError(
            target, f"cannot be written: {error.strerror}", way_out="free some space or choose another folder"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise DataError(
            target, f"cannot be written: {error.strerror}", way_out="free some space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write the whole file or nothing, UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Write readable JSON (sorted as given, two spaces) as a whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_bytes(path: str | Path, max_bytes: int, *, missing: str = "is missing", way_out: str = "") -> bytes:
    """Read a whole file, if it is a file and not larger than `max_bytes`.

    A pipe would block, a device would never end and a sparse file would fill the memory: none of them is read.

    Args:
        missing: what to say if there is no such file.
        way_out: what to say then.

    Raises:
        DataError: missing, unreadable, not a regular file, too large, or only a pointer to the file (Git LFS).
    """
    source = Path(path)
    try:
        with open(source, "rb", buffering=0, opener=_open_at_once) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise DataError(source, "cannot be read: it is not a file", way_out="remove it, or put the file there")
            if state.st_size > max_bytes:
                problem = f"has {state.st_size:,} bytes, more than the limit of {max_bytes:,}"
                raise DataError(source, problem, way_out="download or write the file again")
            content: bytes = file.readall()
    except FileNotFoundError as error:
        raise DataError(source, missing, way_out=way_out) from error
    except OSError as error:
        raise DataError(source, f"cannot be read: {error.strerror}", way_out=_way_out_of(error)) from error
    except ValueError as error:  # a name with a zero byte
        raise DataError(source, f"cannot be read: {error}") from error
    _refuse_stand_in(content, source)
    return content


def refuse_stand_in(path: Path) -> None:
    """Check the start of a file that another library will read; if it cannot be read, that library reports it.

    Raises:
        DataError: it is only a pointer to the file (Git LFS, git-annex), or the web page of a failed download.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                _refuse_stand_in(file.read(4096), path)
    except OSError:
        return


def _refuse_stand_in(content: bytes, source: Path) -> None:
    """Refuse what a download may leave instead of the file: a pointer to it, or the web page of an error."""
    start = content[:200].lstrip().lower()
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        problem = "is a Git LFS pointer, not the file itself: its content was never downloaded"
        raise DataError(source, problem, way_out="run 'git lfs install' and 'git lfs pull' in that repository")
    if len(content) < 4096 and b"annex/objects/" in start:
        problem = "is a git-annex pointer, not the file itself: its content was never downloaded"
        raise DataError(source, problem, way_out="run 'git annex get' (or 'datalad get') in that repository")
    if start.startswith((b"<!doctype html", b"<html")):
        problem = "is a web page, not the file itself: the download failed or asked for a login"
        raise DataError(source, problem, way_out="download the file again")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would wait for one


def _way_out_of(error: OSError) -> str:
    hints = {errno.EACCES: "give yourself permission to read it", errno.ELOOP: "fix the link: it points back to itself"}
    return hints.get(error.errno or 0, "")


def read_json(path: str | Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing, unreadable, too large or not JSON; the message gives the line.
    """
    source = Path(path)
    return parse_json(read_bytes(source, max_bytes, missing="cannot be read: there is no such file"), source)


def parse_json(content: bytes, source: Path, way_out: str = "") -> Any:
    """Parse JSON from bytes that were already read.

    Raises:
        DataError: not JSON, nested too deep, or a key appears twice.
    """
    try:
        if not content.strip():
            raise DataError(source, "is empty, not JSON", way_out=way_out)
        return json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8, and integers of thousands of digits
        raise DataError(source, f"is not valid JSON: {error}", way_out=way_out) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' appears twice")
    return content
