"""Point clouds as plain arrays: `.npy` (P, 3 or 4) and `.bin` (float32, four a point, as KITTI writes them)."""

from __future__ import annotations

import io
from pathlib import Path
from tokenize import TokenError

import numpy as np

from heatv2x.errors import DataError
from heatv2x.files import read_bytes
from heatv2x.formats.pcd import MAX_BYTES, MAX_POINTS
from heatv2x.structures import Float32

_MISSING, _COMPLETE = "the point cloud is missing", "complete the recording"
_UNREADABLE = (ValueError, EOFError, OSError, TypeError, SyntaxError, TokenError, OverflowError, MemoryError)
_WAY_OUT = "write the file again: points x, y, z, intensity"


def read_npy(path: str | Path, *, intensity_max: float = 1.0) -> Float32:
    """(P, 4) float32 x, y, z in metres and intensity in [0, 1]; three columns give intensity 0.

    Raises:
        DataError: missing, corrupt, no numbers, of another shape, or with values out of range.
    """
    source = Path(path)
    content = read_bytes(source, MAX_BYTES, missing=_MISSING, way_out=_COMPLETE)
    try:
        # not np.load, which takes what begins like a zip file for one
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except _UNREADABLE as error:
        raise DataError(source, f"is not a readable .npy array: {error}", way_out=_WAY_OUT) from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] not in (3, 4):
        shape = getattr(array, "shape", "no array")
        raise DataError(source, f"holds {shape}, expected (points, 3 or 4)", key="shape", way_out=_WAY_OUT)
    if array.dtype.kind not in "fiu" or len(array) > MAX_POINTS:
        problem = f"holds {len(array)} rows of {array.dtype}, expected at most {MAX_POINTS} of numbers"
        raise DataError(source, problem, key="dtype", way_out=_WAY_OUT)
    points = np.zeros((len(array), 4), np.float32)
    points[:, : array.shape[1]] = array
    return _checked(points, intensity_max, source)


def read_bin(path: str | Path, *, intensity_max: float = 1.0) -> Float32:
    """(P, 4) float32 x, y, z in metres and intensity in [0, 1], from little-endian float32.

    Raises:
        DataError: missing, not a whole number of points, or with values out of range.
    """
    source = Path(path)
    content = read_bytes(source, MAX_BYTES, missing=_MISSING, way_out=_COMPLETE)
    if len(content) % 16 or len(content) > 16 * MAX_POINTS:
        problem = f"is {len(content)} bytes, expected 16 for each of at most {MAX_POINTS} points"
        raise DataError(source, problem, way_out=_WAY_OUT)
    return _checked(np.frombuffer(content, "<f4").reshape(-1, 4).astype(np.float32), intensity_max, source)


def _checked(points: Float32, intensity_max: float, source: Path) -> Float32:
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(axis=1).sum())
        raise DataError(source, f"{bad} of {len(points)} points have a NaN or infinite number", way_out=_WAY_OUT)
    points[:, 3] /= intensity_max
    if len(points) and (points[:, 3].min() < 0 or points[:, 3].max() > 1):
        problem = f"values up to {points[:, 3].max() * intensity_max:g}, not 0 to {intensity_max:g}"
        raise DataError(source, problem, key="intensity", way_out="say the right intensity_max")
    return points
