"""Names in own recordings: agents by their folders, frames by their files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from heatv2x.errors import DataError

FRAME_NAMES = (
    'name frames by their files without the suffix: printable characters, none of them / \\ " $ [ ] < > | ? *, '
    "and no dot at the beginning"
)
"""The way out for an invalid frame name."""
_MAX_FRAME_NAME = 200
_NOT_IN_FRAME_NAMES = re.compile(r'[/\\"$\[\]<>|?*]')
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_ROADSIDE = re.compile(r"(rsu|roadside|infra)", re.IGNORECASE)


def is_integer(name: str) -> bool:
    """Whether a name is an integer that can be an id."""
    return _INTEGER.fullmatch(name) is not None


def agent_id(name: str) -> int:
    """The id of an agent by the name of its folder: the integer it is, or one made of the name's SHA-256.

    The same name gives the same id everywhere. A name that begins with rsu, roadside or infra is a roadside unit, whose
    id is negative.
    """
    if is_integer(name):
        return int(name)
    made = 1_000_000 + int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) % 999_000_000
    return -made if _ROADSIDE.match(name) else made


def is_frame_name(name: str) -> bool:
    """Whether a frame may have this name, which becomes part of file names, titles and tables."""
    strange = not name.isprintable() or name.startswith(".") or _NOT_IN_FRAME_NAMES.search(name) is not None
    return not strange and 0 < len(name) <= _MAX_FRAME_NAME


def sensor_file(folder: Path, frame: str, suffixes: Sequence[str]) -> Path:
    """The one file of a frame in a sensor's folder, with one of the suffixes in small or capital letters.

    Raises:
        DataError: there is none, or more than one.
    """
    names = [f"{frame}{each}" for suffix in suffixes for each in (suffix, suffix.upper())]
    found = [path for name in names if (path := folder / name).is_file()] or _mixed_suffix(folder, frame, suffixes)
    # where a file system takes small and capital letters for the same, one file answers to both names
    found = [path for n, path in enumerate(found) if not any(path.samefile(other) for other in found[:n])]
    if len(found) == 1:
        return found[0]
    if found:
        problem = f"exists {len(found)} times: {', '.join(path.name for path in found)}"
        raise DataError(folder / frame, problem, way_out="remove all but one")
    way_out = f"write one of {', '.join(suffixes)}, or remove the frame from poses.csv"
    if example := _example(folder):
        way_out += f"; the folder holds files such as {example}, which poses.csv must name without the suffix"
    raise DataError(folder / frame, "is missing", way_out=way_out)


def _mixed_suffix(folder: Path, frame: str, suffixes: Sequence[str]) -> list[Path]:
    """Files of a frame whose suffix mixes small and capital letters."""
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.name.startswith(frame))
    except OSError:
        return []
    return [path for path in files if path.name[len(frame) :].lower() in suffixes and path.is_file()]


def _example(folder: Path) -> str | None:
    """One of the files in a folder, by name; None if there are none."""
    try:
        return min((entry.name for entry in folder.iterdir() if entry.is_file()), default=None)
    except OSError:
        return None
