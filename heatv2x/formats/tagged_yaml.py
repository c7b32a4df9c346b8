"""YAML of simulated datasets, read from parser events: plain data only, and nothing in the file can blow up.

PyYAML's own C loader is recursive (a file of 200,000 brackets ends the process) and three times slower, because it
resolves and constructs every scalar in Python. OPV2V files carry one foreign tag, python/tuple, which becomes a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from heatv2x.errors import DataError

TUPLE_TAG = "tag:yaml.org,2002:python/tuple"
MAX_BYTES = 16_000_000
MAX_NODES = 2_000_000
MAX_DEPTH = 50
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = ("", "~", "null")
_NO_KEY = object()


@dataclass
class _Open:
    """A mapping or list whose end has not come yet; `nodes` counts what it holds, aliases written out."""

    content: dict[Any, Any] | list[Any]
    anchor: str | None
    key: Any = _NO_KEY
    nodes: int = 1


@dataclass
class _Reader:
    source: Path
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    documents: list[Any] = field(default_factory=list)

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._refuse_tag(event.tag, event, allowed=())
            value = _plain(event.value) if event.implicit[0] else event.value
            self._add(value, 1, event.anchor)
        elif isinstance(event, yaml.CollectionStartEvent):
            is_list = isinstance(event, yaml.SequenceStartEvent)
            self._refuse_tag(event.tag, event, allowed=(TUPLE_TAG,) if is_list else ())
            if len(self.stack) >= MAX_DEPTH:
                self.fail(f"is nested more than {MAX_DEPTH} deep")
            self.stack.append(_Open([] if is_list else {}, event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self.stack.pop()
            self._add(closed.content, closed.nodes, closed.anchor)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                self.fail(f"the alias *{event.anchor} refers to itself or to nothing")
            self._add(*self.anchors[event.anchor], anchor=None)

    def path(self) -> str | None:
        parts = [str(_position(level)) for level in self.stack]
        return ".".join(part for part in parts if part) or None

    def fail(self, problem: str) -> NoReturn:
        raise DataError(self.source, problem, key=self.path(), way_out="download or write the file again")

    def _refuse_tag(self, tag: str | None, event: Any, allowed: tuple[str, ...]) -> None:
        if tag is not None and tag != "!" and tag not in allowed:
            line = event.start_mark.line + 1
            self.fail(f"line {line} carries the tag '{tag}'; only data without tags (and python/tuple) is read")

    def _add(self, value: Any, nodes: int, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, nodes)
        if not self.stack:
            self.documents.append(value)
            return
        parent = self.stack[-1]
        parent.nodes += nodes
        if parent.nodes > MAX_NODES:
            self.fail(f"holds more than {MAX_NODES} values once its aliases are written out")
        if isinstance(parent.content, list):
            parent.content.append(value)
        elif parent.key is _NO_KEY:
            if isinstance(value, dict | list):
                self.fail("a key is itself a list or a mapping")
            parent.key = value
            if value in parent.content:
                self.fail("appears twice")
        else:
            parent.content[parent.key] = value
            parent.key = _NO_KEY


def load_yaml(content: bytes, source: Path) -> dict[Any, Any]:
    """The mapping a YAML file holds: dicts, lists, numbers, strings (true and false stay strings) and None.

    Args:
        content: the bytes of the file.
        source: where they came from, for messages.

    Raises:
        DataError: not one YAML mapping, a tag other than python/tuple, a key twice, or beyond the size limits.
    """
    if len(content) > MAX_BYTES:
        raise DataError(source, f"is larger than {MAX_BYTES // 1_000_000} MB, more than any frame's description")
    reader = _Reader(source)
    try:
        for event in _events(content):
            reader.take(event)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reader.fail(f"is not valid YAML: {_reason(error)}")
    if not content.strip():
        raise DataError(source, "is empty, not YAML", way_out="download or write the file again")
    if len(reader.documents) != 1 or not isinstance(reader.documents[0], dict):
        raise DataError(source, "is not a mapping of keys to values", way_out="download or write the file again")
    return reader.documents[0]


def _reason(error: Exception) -> str:
    """What the parser objects to and in which line, as far as it says."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return "it is not text" if isinstance(error, yaml.reader.ReaderError | UnicodeDecodeError) else "it is cut short"


def _events(content: bytes) -> Iterator[Any]:
    events: Iterator[Any] = yaml.parse(content, Loader=_PARSER)
    return events


def _position(level: _Open) -> Any:
    if isinstance(level.content, list):
        return len(level.content)
    return "" if level.key is _NO_KEY else level.key


def _plain(text: str) -> Any:
    try:
        return float(text) if not text.lstrip("-").isdecimal() else int(text)
    except ValueError:
        return None if text in _NULL else text
