"""Point Cloud Data files (`.pcd`) of any common writer: PCL, ROS, Open3D, CloudCompare, pypcd, simulators.

Only x, y, z and the intensity are read, whatever else there is (docs/point_clouds.md). The intensity is a field of that
name or a like one, or else the red byte of packed colours, as OPV2V has it.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lzf
import numpy as np
import numpy.typing as npt

from heatv2x.core.files import read_bytes
from heatv2x.core.plurals import counted
from heatv2x.errors import DataError
from heatv2x.formats.pcd_header import WAY_OUT, Field, Header, parse_header, point_bytes
from heatv2x.formats.returns import MAX_BYTES, intensity_name, usable
from heatv2x.structures import Float32, PointCloud

_LZF_RATIO = 128
"""Three bytes of LZF stand for 264 at most."""
_MAX_PADDING_BYTES = 65_536
"""Zeros behind the data: old versions of PCL left files as long as a whole number of memory pages."""
_COLOURS = ("rgb", "rgba")
_BLOCK = "x y z and a fourth"
"""Key of the columns as one block of four floats, where the file has them so."""
_RED_TO_INTENSITY = (np.arange(256) / 255).astype(np.float32)
_WINDOWS_NAN = re.compile(rb"(?i)[+-]?(?:nan\([^)\s]*\)|1\.#(?:qnan|snan|ind)\w*)")
_WINDOWS_INFINITY = re.compile(rb"(?i)1\.#inf\w*")
_COMPLETE = "complete the download or the recording of this agent"

Column = npt.NDArray[Any]


def read_pcd(path: str | Path, *, intensity_max: float | None = None) -> Float32:
    """(P, 4) float32 points of one LiDAR sweep; the same as `read_pcd_cloud`, without its counts."""
    return read_pcd_cloud(path, intensity_max=intensity_max).points


def read_pcd_cloud(path: str | Path, *, intensity_max: float | None = None) -> PointCloud:
    """Read the points of one LiDAR sweep.

    Args:
        path: an ascii, binary or binary_compressed PCD file.
        intensity_max: the value of the intensity field that means 1, larger ones are clipped; None: 255 if the field is
            one byte wide, otherwise 1, and larger ones are an error. Colours have 255 always.

    Returns:
        x, y, z in metres in the FILE's axes (OPV2V: y to the right) and intensity in [0, 1]. Points without a position
        (NaN, infinite) are left out and counted. Without any intensity all are 0.

    Raises:
        DataError: the file is missing, truncated or corrupt, has no point with a position, or intensities whose scale
            is unknown.
    """
    source = Path(path)
    content = read_bytes(source, MAX_BYTES, missing="the point cloud is missing", way_out=_COMPLETE)
    header = parse_header(content, source)
    wanted, intensity = _wanted(header, source)
    columns = _DECODERS[header.encoding](content, header, wanted, source)
    points = _points(columns, header.points)
    if intensity is None:
        return replace(usable(points, source), has_intensity=False)
    values = columns[intensity.name]
    if intensity.name.lower() in _COLOURS:
        points[:, 3] = _RED_TO_INTENSITY[_packed(values, header) >> 16 & 0xFF]
        return usable(points, source)
    with np.errstate(over="ignore", invalid="ignore"):
        points[:, 3] = values
    is_byte = intensity.size == 1 and intensity.kind == "U"
    return usable(points, source, intensity_max=intensity_max, full=255.0 if is_byte else 1.0)


def _wanted(header: Header, source: Path) -> tuple[dict[str, str], Field | None]:
    """The fields to decode by "x", "y", "z" and the intensity's own name, and the intensity."""
    names = tuple(each.name for each in header.fields)
    wanted: dict[str, str] = {}
    for axis in "xyz":
        name = axis if axis in names else axis.upper()
        if name not in names:
            problem = f"has no field {axis}; its fields are {' '.join(names)[:200]}"
            raise DataError(source, problem, key=axis, way_out=WAY_OUT)
        wanted[axis] = name
    chosen = intensity_name(names) or next((name for name in names if name.lower() in _COLOURS), None)
    if chosen is not None:
        wanted[chosen] = chosen
    for name in wanted.values():
        if names.count(name) > 1:
            raise DataError(source, f"names the field {name} twice", key="FIELDS", way_out=WAY_OUT)
    field = next((each for each in header.fields if each.name == chosen), None)
    if field is not None and field.name.lower() in _COLOURS and field.size != 4:
        problem = f"holds colours of {counted(field.size, 'byte')}, expected 4 (packed red, green and blue)"
        raise DataError(source, problem, key=field.name, way_out=WAY_OUT)
    for each in header.fields:
        if each.name in wanted.values():
            replace(each, count=each.count or 1).dtype(source)
    return wanted, field


# --- decoding: the columns of the wanted fields ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a field's value lies in a point, in bytes and in words of text."""

    byte: int
    word: int
    dtype: np.dtype[np.generic]


def _places(fields: tuple[Field, ...], wanted: Mapping[str, str], source: Path) -> dict[str, _Place]:
    places, byte, word = {}, 0, 0
    for field in fields:
        for key, name in wanted.items():
            if name == field.name:
                places[key] = _Place(byte, word, field.dtype(source))
        byte += field.size * field.count
        word += field.count
    return places


def _declared(header: Header, unit: str, each: int) -> str:
    return f"is truncated or corrupt: declares {counted(header.points, 'point')} of {counted(each, unit)}"


def _binary(content: bytes, header: Header, wanted: Mapping[str, str], source: Path) -> dict[str, Column]:
    held = len(content) - header.data_start
    fields = next((each for each in header.variants() if header.points * point_bytes(each) == held), header.fields)
    size = point_bytes(fields)
    rest = held - header.points * size
    # some files end with a line break, or only at the end of a memory page
    if size == 0 or rest < 0 or (rest >= size and not _is_blank(content[len(content) - rest :])):
        problem = f"{_declared(header, 'byte', size)} and holds {counted(held, 'byte')} instead of {held - rest:,}"
        raise DataError(source, problem, key="POINTS", way_out=WAY_OUT)
    places = _places(fields, wanted, source)
    point = np.dtype(
        {
            "names": list(places),
            "formats": [place.dtype for place in places.values()],
            "offsets": [place.byte for place in places.values()],
            "itemsize": size,
        }
    )
    records = np.frombuffer(content, point, header.points, header.data_start)
    columns: dict[str, Column] = {key: records[key] for key in places}
    if size == 16 and all(places[axis] == _Place(4 * n, n, np.dtype("<f4")) for n, axis in enumerate("xyz")):
        columns[_BLOCK] = np.frombuffer(content, "<f4", 4 * header.points, header.data_start).reshape(-1, 4)
    return columns


def _is_blank(rest: bytes) -> bool:
    return len(rest) <= _MAX_PADDING_BYTES and not rest.strip(b"\0\r\n \t")


def _compressed(content: bytes, header: Header, wanted: Mapping[str, str], source: Path) -> dict[str, Column]:
    """LZF over all values of the first field, then of the second, ..."""
    if header.points == 0:
        return _nothing(header, wanted, source)
    start = header.data_start + 8
    packed, size = struct.unpack_from("<II", content[header.data_start : start].ljust(8, b"\0"))
    fields = next((each for each in header.variants() if header.points * point_bytes(each) == size), None)
    # A wrong size would make the decompressor allocate whatever four bytes say.
    if fields is None or packed > len(content) - start or size > min(MAX_BYTES, _LZF_RATIO * packed):
        problem = (
            f"{_declared(header, 'byte', point_bytes(header.fields))}, and a block of {packed:,} bytes that unpacks to"
        )
        problem += f" {size:,}; {max(len(content) - start, 0):,} bytes follow"
        raise DataError(source, problem, key="DATA", way_out=WAY_OUT)
    try:
        unpacked = lzf.decompress(content[start : start + packed], size)
    except ValueError:
        unpacked = None
    if unpacked is None or len(unpacked) != size:
        raise DataError(source, "is corrupt: its compressed data cannot be unpacked", key="DATA", way_out=WAY_OUT)
    return {
        key: np.frombuffer(unpacked, place.dtype, header.points, header.points * place.byte)
        for key, place in _places(fields, wanted, source).items()
    }


def _ascii(content: bytes, header: Header, wanted: Mapping[str, str], source: Path) -> dict[str, Column]:
    body = content[header.data_start :]
    held = _count_words(body)
    words = [sum(field.count for field in fields) for fields in header.variants()]
    fields = next((each for each, n in zip(header.variants(), words, strict=True) if header.points * n == held), None)
    if fields is None:
        problem = f"{_declared(header, 'value', words[0])} and holds {counted(held, 'value')}"
        raise DataError(source, problem, key="POINTS", way_out=WAY_OUT)
    if header.points == 0:
        return _nothing(header, wanted, source)
    if b"(" in body or b"#" in body:
        body = _WINDOWS_INFINITY.sub(b"inf", _WINDOWS_NAN.sub(b"nan", body))
    places = _places(fields, wanted, source)
    try:
        used = [place.word for place in places.values()]
        table = np.loadtxt(io.BytesIO(body), np.float64, comments=None, usecols=used, ndmin=2)
    except (ValueError, OverflowError):
        table = np.zeros((0, len(places)))
    if len(table) != header.points:
        problem = "is corrupt: a line does not hold one number for each field"
        raise DataError(source, problem, key="DATA", way_out=WAY_OUT)
    return {key: table[:, column] for column, key in enumerate(places)}


def _nothing(header: Header, wanted: Mapping[str, str], source: Path) -> dict[str, Column]:
    return {key: np.zeros(0, place.dtype) for key, place in _places(header.fields, wanted, source).items()}


def _count_words(body: bytes) -> int:
    """How many words the text has; counted in pieces, because a file may be large."""
    count, after_space = 0, True
    for start in range(0, len(body), 1 << 22):
        letters = np.frombuffer(body, np.uint8, min(1 << 22, len(body) - start), start) > 32
        count += int((letters[1:] & ~letters[:-1]).sum()) + int(letters[0] and after_space)
        after_space = not letters[-1]
    return count


_DECODERS = {"ascii": _ascii, "binary": _binary, "binary_compressed": _compressed}


# --- from columns to points -------------------------------------------------------------------------------------------


def _points(columns: Mapping[str, Column], count: int) -> Float32:
    """(P, 4) float32 with x, y, z; the last column is 0."""
    if _BLOCK in columns:  # one block copy, four times as fast as column by column
        points: Float32 = columns[_BLOCK].astype(np.float32)
        points[:, 3] = 0
        return points
    points = np.zeros((count, 4), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for number, axis in enumerate("xyz"):
            points[:, number] = columns[axis]
    return points


def _packed(colours: Column, header: Header) -> npt.NDArray[np.uint32]:
    """Colours as 0xAARRGGBB. In text, PCL writes that number even where the header calls it a float."""
    if header.encoding != "ascii":
        return np.ascontiguousarray(colours).view(np.uint32)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.where((colours >= 1) & (colours < 2**32), colours, 0).astype(np.int64).astype(np.uint32)
        bits = np.nan_to_num(colours, nan=0.0).astype(np.float32).view(np.uint32)
    return np.where(colours >= 1, numbers, bits)
