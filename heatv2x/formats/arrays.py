"""Point clouds as plain arrays: NumPy's `.npy`, and `.bin` of float32 as KITTI and nuScenes write them."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from heatv2x.core.files import read_bytes
from heatv2x.core.plurals import counted
from heatv2x.errors import DataError
from heatv2x.formats.returns import MAX_BYTES, MAX_POINTS, intensity_name, usable
from heatv2x.structures import Float32, PointCloud

MAX_COLUMNS = 16
_MISSING, _COMPLETE = "the point cloud is missing", "complete the recording"
_WAY_OUT = "write the file again: one row per point, its columns x, y, z, intensity"
_HEADER_ERRORS = (
    *(ValueError, TypeError, KeyError, SyntaxError, TokenError),
    *(EOFError, OSError, OverflowError, MemoryError, RecursionError),
)


def read_npy(path: str | Path, *, intensity_max: float | None = None) -> Float32:
    """(P, 4) float32 points of a `.npy` file; the same as `read_npy_cloud`, without its counts."""
    return read_npy_cloud(path, intensity_max=intensity_max).points


def read_bin(path: str | Path, *, intensity_max: float | None = None, columns: int = 4) -> Float32:
    """(P, 4) float32 points of a `.bin` file; the same as `read_bin_cloud`, without its counts."""
    return read_bin_cloud(path, intensity_max=intensity_max, columns=columns).points


def read_npy_cloud(path: str | Path, *, intensity_max: float | None = None) -> PointCloud:
    """Read the points of one LiDAR sweep from an array of numbers.

    Args:
        path: an array (P, C) or, organised, (H, W, C) of any integer or float type with columns x, y, z, intensity and
            more that are not read, C from 3 to 16; or a structured array with fields x, y, z and, by any of the usual
            names, intensity. Objects are refused: nothing is unpickled.
        intensity_max: the intensity that means 1, larger ones are clipped; None: 255 for a field of one unsigned byte,
            otherwise 1, and larger ones are an error.

    Returns:
        x, y, z in metres and intensity in [0, 1]. Points without a position (NaN, infinite) are left out and counted.
        Without intensity all are 0.

    Raises:
        DataError: missing, corrupt, of another shape or type, no point with a position, or intensities out of range.
    """
    source = Path(path)
    array = _array(read_bytes(source, MAX_BYTES, missing=_MISSING, way_out=_COMPLETE), source)
    if array.dtype.names is not None:
        return _structured(array.reshape(-1), intensity_max, source)
    rows = array.reshape(-1, array.shape[-1])
    points = np.zeros((len(rows), 4), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        points[:, : min(4, rows.shape[1])] = rows[:, :4]
    if rows.shape[1] == 3:
        return replace(usable(points, source), has_intensity=False)
    return usable(points, source, intensity_max=intensity_max, full=1.0)


def read_bin_cloud(path: str | Path, *, intensity_max: float | None = None, columns: int = 4) -> PointCloud:
    """Read the points of one LiDAR sweep from little-endian float32.

    Args:
        path: the file; it says nothing about itself.
        intensity_max: the intensity that means 1, larger ones are clipped; None: 1, and larger ones are an error.
        columns: numbers of a point: x, y, z, intensity (4, KITTI) and more that are not read (5, nuScenes), or 3.

    Raises:
        DataError: missing, not a whole number of points, no point with a position, or intensities out of range.
    """
    source = Path(path)
    content = read_bytes(source, MAX_BYTES, missing=_MISSING, way_out=_COMPLETE)
    if not content:
        raise DataError(source, "is empty", way_out=_WAY_OUT)
    size = 4 * columns
    if len(content) % size or len(content) > size * MAX_POINTS:
        problem = f"is {counted(len(content), 'byte')}, expected {size} for each of at most {MAX_POINTS:,} points"
        fits = [str(each) for each in (3, 4, 5, 6) if each != columns and len(content) % (4 * each) == 0]
        way_out = (
            f"if a point has {' or '.join(fits)} float32 numbers, set dataset.settings.bin_columns to that"
            if fits
            else "write the file again: float32 numbers, x, y, z and intensity of one point after the other"
        )
        raise DataError(source, problem, way_out=way_out)
    rows = np.frombuffer(content, "<f4").reshape(-1, columns)
    points = np.zeros((len(rows), 4), np.float32)
    points[:, : min(4, columns)] = rows[:, :4]
    if columns == 3:
        return replace(usable(points, source), has_intensity=False)
    return usable(points, source, intensity_max=intensity_max, full=1.0)


def _array(content: bytes, source: Path) -> npt.NDArray[Any]:
    """The array, as a view of the bytes: nothing in its header is trusted before it is checked."""
    if not content:
        raise DataError(source, "is empty", way_out=_WAY_OUT)
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
            # version 3.0 differs in the alphabet of field names, which its reader for 2.0 takes as well
            (3, 0): np.lib.format.read_array_header_2_0,
        }[version]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header in the form of Python 2, which is as good
            shape, fortran, dtype = read_header(stream)
    except _HEADER_ERRORS as error:
        kind = "a zip archive (.npz?), not a .npy array" if content.startswith(b"PK") else "not a readable .npy array"
        raise DataError(source, f"is {kind}", way_out=_WAY_OUT) from error
    if dtype.hasobject:
        problem = "holds pickled Python objects, which are never unpickled here"
        raise DataError(
            source, problem, key="dtype", way_out="write an array of numbers: np.save(path, array.astype('f4'))"
        )
    _check_shape(shape, dtype, source)
    needed = math.prod(shape) * dtype.itemsize
    held = len(content) - stream.tell()
    if held < needed:
        problem = f"is truncated: an array of shape {shape} takes {counted(needed, 'byte')}, but only {held:,} follow"
        raise DataError(source, problem, key="shape", way_out=_WAY_OUT)
    flat = np.frombuffer(content, dtype, math.prod(shape), stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], source: Path) -> None:
    structured = dtype.names is not None
    expected = "(P,) or (H, W)" if structured else f"(P, C) or (H, W, C) with 3 to {MAX_COLUMNS} columns C"
    fits = len(shape) in ((1, 2) if structured else (2, 3)) and min(shape) >= 0
    if not fits or not (structured or 3 <= shape[-1] <= MAX_COLUMNS):
        turned = len(shape) == 2 and shape[0] in (3, 4, 5) and not structured
        way_out = "transpose it: one row per point" if turned else _WAY_OUT
        raise DataError(source, f"has the shape {_shown(shape)}, expected {expected}", key="shape", way_out=way_out)
    if not structured and dtype.kind not in "fiu":
        raise DataError(source, f"holds values of type {dtype}, expected numbers", key="dtype", way_out=_WAY_OUT)
    points = math.prod(shape if structured else shape[:-1])
    if points > MAX_POINTS:
        problem = f"declares {_shown(points)} points, more than the limit of {MAX_POINTS:,}"
        raise DataError(source, problem, key="shape", way_out=_WAY_OUT)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) < 100 else f"{text[:100]}..."


def _structured(records: npt.NDArray[Any], intensity_max: float | None, source: Path) -> PointCloud:
    names = records.dtype.names or ()
    intensity = intensity_name(names)
    points = np.zeros((len(records), 4), np.float32)
    for column, name in enumerate(("x", "y", "z", intensity)):
        if name is None:
            continue
        if name not in names:
            problem = f"has no field {name}; its fields are {', '.join(names)[:200]}"
            raise DataError(source, problem, key=name, way_out=_WAY_OUT)
        values = records[name]
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            problem = f"holds {_shown(records.dtype[name])}, expected one number per point"
            raise DataError(source, problem, key=name, way_out=_WAY_OUT)
        with np.errstate(over="ignore", invalid="ignore"):
            points[:, column] = values
    if intensity is None:
        return replace(usable(points, source), has_intensity=False)
    full = 255.0 if records.dtype[intensity] == np.uint8 else 1.0
    return usable(points, source, intensity_max=intensity_max, full=full)
