"""The header of a Point Cloud Data file (`.pcd`): fields, number of points, encoding (the PCL project's file format).

Real headers differ from the specification: VERSION, VIEWPOINT, COUNT, POINTS or WIDTH may be missing, FIELDS was once
COLUMNS, padding is a field `_`, and a converter of ROS wrote COUNT 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from heatv2x.errors import DataError
from heatv2x.formats.returns import MAX_POINTS

WAY_OUT = "download or write the file again"
MAX_POINT_BYTES = 65_536
_MAX_HEADER_BYTES = 65_536
_NUMBER = re.compile(r"\d{1,12}", re.ASCII)
_KINDS = {"F": "f", "U": "u", "I": "i"}
_SIZES = {"F": (4, 8), "U": (1, 2, 4, 8), "I": (1, 2, 4, 8)}

Encoding = Literal["ascii", "binary", "binary_compressed"]
_ENCODINGS: tuple[Encoding, ...] = ("ascii", "binary", "binary_compressed")


@dataclass(frozen=True)
class Field:
    """One column: its name, type letter (F, U or I), bytes of one value, and how many values a point has of it."""

    name: str
    kind: str
    size: int
    count: int

    @property
    def is_padding(self) -> bool:
        """True for `_`, which stands for bytes that mean nothing."""
        return self.name == "_"

    def dtype(self, source: Path) -> np.dtype[np.generic]:
        """How numpy calls one value.

        Raises:
            DataError: such a type does not exist, or the field has several values.
        """
        if self.size not in _SIZES.get(self.kind, ()) or self.count != 1:
            problem = (
                f"is a field of type {self.kind}, size {self.size}, count {self.count}, which is not a single number"
            )
            raise DataError(source, problem, key=self.name, way_out=WAY_OUT)
        return np.dtype(f"<{_KINDS[self.kind]}{self.size}")


@dataclass(frozen=True)
class Header:
    """What the lines before the data say; `data_start` is the offset of the first byte of data."""

    fields: tuple[Field, ...]
    points: int
    encoding: Encoding
    data_start: int

    def variants(self) -> tuple[tuple[Field, ...], ...]:
        """What the fields can mean where writers disagree, the likeliest first; the size of the data decides.

        As written; COUNT 0 meaning 1 for fields with a name, or for all; without padding, which PCL leaves out of text
        and of compressed data.
        """
        named = tuple(each if each.is_padding else replace(each, count=each.count or 1) for each in self.fields)
        found = [self.fields, named, tuple(replace(each, count=each.count or 1) for each in self.fields)]
        if self.encoding != "binary":
            found.append(tuple(each for each in named if not each.is_padding))
        return tuple(dict.fromkeys(found))


def point_bytes(fields: tuple[Field, ...]) -> int:
    """Bytes of one point."""
    return sum(each.size * each.count for each in fields)


def parse_header(content: bytes, source: Path) -> Header:
    """Read the lines up to and including DATA.

    Raises:
        DataError: not a PCD file, or a line is missing or contradicts another one.
    """
    lines, start = _lines(content, source)
    encoding = " ".join(lines["DATA"]).lower()
    known = next((each for each in _ENCODINGS if each == encoding), None)
    if known is None:
        problem = f"'{encoding[:40]}' is not an encoding of PCD files ({', '.join(_ENCODINGS)})"
        raise DataError(source, problem, key="DATA", way_out=WAY_OUT)
    return Header(_fields(lines, known, source), _points(lines, source), known, start)


def _lines(content: bytes, source: Path) -> tuple[dict[str, list[str]], int]:
    lines: dict[str, list[str]] = {}
    start = 3 if content.startswith(b"\xef\xbb\xbf") else 0  # a mark that Windows editors put
    while "DATA" not in lines:
        end = content.find(b"\n", start, _MAX_HEADER_BYTES)
        if end < 0:
            problem = "is empty" if not content else "is not a PCD file, or is cut short: its header has no DATA line"
            raise DataError(source, problem, key="DATA", way_out=WAY_OUT)
        words = content[start:end].decode("ascii", "replace").split()
        if words and not words[0].startswith("#"):
            key = words[0].upper()
            lines["FIELDS" if key == "COLUMNS" else key] = words[1:]
        start = end + 1
    return lines, start


def _points(lines: dict[str, list[str]], source: Path) -> int:
    """POINTS, or WIDTH times HEIGHT; 0 in WIDTH or HEIGHT says nothing, as PCL takes it."""
    width = _whole_number(lines, "WIDTH", source)
    height = _whole_number(lines, "HEIGHT", source)
    declared = _whole_number(lines, "POINTS", source)
    if declared is None and width is None:
        raise DataError(source, "the header gives neither POINTS nor WIDTH", key="POINTS", way_out=WAY_OUT)
    area = None if width is None else width * (1 if height is None else height)
    points = area if declared is None else declared
    assert points is not None
    if area and area != points:
        problem = f"WIDTH times HEIGHT is {area:,}, not POINTS ({points:,})"
        raise DataError(source, problem, key="POINTS", way_out=WAY_OUT)
    if points > MAX_POINTS:
        problem = f"declares {points:,} points, more than the limit of {MAX_POINTS:,}"
        raise DataError(source, problem, key="POINTS", way_out=WAY_OUT)
    return points


def _whole_number(lines: dict[str, list[str]], key: str, source: Path) -> int | None:
    words = lines.get(key)
    if words is None:
        return None
    if len(words) != 1 or not _NUMBER.fullmatch(words[0]):
        raise DataError(source, f"the header needs '{key} <whole number>'", key=key, way_out=WAY_OUT)
    return int(words[0])


def _fields(lines: dict[str, list[str]], encoding: Encoding, source: Path) -> tuple[Field, ...]:
    names = lines.get("FIELDS", [])
    if encoding == "ascii" and not {"SIZE", "TYPE"} & set(lines):  # older than the types
        lines = {**lines, "SIZE": ["4"] * len(names), "TYPE": ["F"] * len(names)}
    types, sizes = lines.get("TYPE", []), lines.get("SIZE", [])
    counts = lines.get("COUNT", ["1"] * len(names))
    if not len(names) == len(types) == len(sizes) == len(counts):
        problem = (
            f"FIELDS, TYPE, SIZE and COUNT differ in length: {len(names)}, {len(types)}, {len(sizes)}, {len(counts)}"
        )
        raise DataError(source, problem, key="FIELDS", way_out=WAY_OUT)
    fields = []
    for name, kind, size, count in zip(names, types, sizes, counts, strict=True):
        if not (_NUMBER.fullmatch(size) and _NUMBER.fullmatch(count)):
            problem = f"is a field of size {size[:20]} and count {count[:20]}, which are not whole numbers"
            raise DataError(source, problem, key=name, way_out=WAY_OUT)
        fields.append(Field(name, kind.upper(), int(size), int(count)))
    if (size_of_point := point_bytes(tuple(fields))) > MAX_POINT_BYTES:
        problem = f"declares {size_of_point:,} bytes for one point, more than the limit of {MAX_POINT_BYTES:,}"
        raise DataError(source, problem, key="SIZE", way_out=WAY_OUT)
    return tuple(fields)
