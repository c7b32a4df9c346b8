"""Errors that a user can fix. The command line prints one as a single message and exits with code 2."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class HeatError(Exception):
    """A mistake or a bad input that the user can fix; its text says what is wrong, where, and how to fix it."""


class ConfigError(HeatError):
    """A setting is unknown, of the wrong type or contradicts another one."""


class DataError(HeatError):
    """A dataset file is missing, corrupt or not what its format says.

    Args:
        path: the file or folder at fault.
        problem: what is wrong with it, one sentence without the path.
        key: the key, field or record inside the file, if there is one.
        way_out: what the user can do about it.
    """

    def __init__(self, path: str | Path, problem: str, *, key: str | None = None, way_out: str = "") -> None:
        self.path = Path(path)
        self.problem = problem
        self.key = key
        self.way_out = way_out
        where = f"{path}, key '{key}'" if key else f"{path}"
        super().__init__(f"{where}: {problem}" + (f"\n  Way out: {way_out}" if way_out else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments, not the finished text, so that worker processes can pass the error on."""
        return functools.partial(DataError, key=self.key, way_out=self.way_out), (self.path, self.problem)


class PackError(HeatError):
    """A pack is corrupt, or made for another base."""


class MessageError(HeatError):
    """Bytes that came over a link are not a message this receiver can use."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names)}" if names else "there are none to choose from"
