"""Image files: colour, depth in whole metres, and the raster of what an agent's cameras see (OPV2V and OPV2V-H)."""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from heatv2x.errors import DataError
from heatv2x.files import read_bytes
from heatv2x.structures import Bool, Float32, Float64, UInt8

CAMERA_SIZE = (800, 600)
"""Width and height in pixels for which OPV2V's intrinsics hold."""

MAX_PIXELS = 40_000_000
MAX_BYTES = 64_000_000
RASTER_CELLS = 256
RASTER_CELL_M = 0.39
_RASTER_CENTRE = 127
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_COLOUR_MODES = ("RGB", "RGBA")
_RASTER_MODES = ("1", "L", "P", *_COLOUR_MODES)


def read_rgb(
    path: str | Path, size: tuple[int, int] | None = CAMERA_SIZE, formats: tuple[str, ...] = ("PNG",)
) -> UInt8:
    """(H, W, 3) uint8 colour image.

    Args:
        path: the file.
        size: width and height for which the intrinsics hold; None takes what there is, up to `MAX_PIXELS`.
        formats: what the file may be: "PNG", "JPEG".

    Raises:
        DataError: missing, corrupt, not a colour image of one of the formats, or not of `size`.
    """
    return _read_image(Path(path), size, _COLOUR_MODES, "RGB", formats)


def read_depth(path: str | Path, size: tuple[int, int] = CAMERA_SIZE) -> Float32:
    """(H, W) float32 metres along the optical axis from an 8-bit PNG in whole metres; 0 where unknown, 255 saturates.

    Raises:
        DataError: missing, corrupt, not single-channel 8-bit, or not of `size` (width, height).
    """
    return _read_image(Path(path), size, ("L",), "L").astype(np.float32)


def read_visibility(path: str | Path) -> Bool:
    """(256, 256) bool raster around the agent, 0.39 m per cell, heading up: what its cameras see.

    Raises:
        DataError: missing, corrupt or not 256 x 256.
    """
    return _read_image(Path(path), (RASTER_CELLS, RASTER_CELLS), _RASTER_MODES, "L") > 0


def visible_at(raster: Bool, xy: Float64) -> Bool:
    """Whether the raster's cell under each point is visible; a point outside the raster is not.

    Args:
        raster: (256, 256) bool from `read_visibility`.
        xy: (N, 2) positions in the agent's frame, metres, y to the left.

    Returns:
        (N,) bool. Cells by OPV2V's rule: row 127 - trunc(x / 0.39), column 127 + trunc(y to the right / 0.39).
    """
    # Far objects are clipped first, because a float beyond the integers would be cast to an arbitrary cell.
    steps = np.clip(np.trunc(xy / RASTER_CELL_M), -RASTER_CELLS, RASTER_CELLS).astype(np.int64)
    row, column = _RASTER_CENTRE - steps[:, 0], _RASTER_CENTRE - steps[:, 1]
    inside = (row >= 0) & (row < RASTER_CELLS) & (column >= 0) & (column < RASTER_CELLS)
    return inside & raster[np.where(inside, row, 0), np.where(inside, column, 0)]


def _read_image(
    source: Path,
    size: tuple[int, int] | None,
    modes: tuple[str, ...],
    wanted: str,
    formats: tuple[str, ...] = ("PNG",),
) -> UInt8:
    way_out = "complete the download of this agent"
    content = read_bytes(source, MAX_BYTES, missing="the image is missing", way_out=way_out)
    try:
        with warnings.catch_warnings():  # a header of 100 megapixels is only a warning to Pillow
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(content), formats=formats)
        with opened as image:
            # Size and mode come from the header: nothing is decompressed before they are what they should be.
            _check(source, image, size, modes)
            return np.array(image.convert(wanted) if image.mode != wanted else image, np.uint8)
    except (OSError, SyntaxError, ValueError, zlib.error, *_BOMBS) as error:
        problem = f"is not a readable {' or '.join(formats)} image: {error}"
        raise DataError(source, problem, way_out="download or write the file again") from error


def _check(source: Path, image: Image.Image, size: tuple[int, int] | None, modes: tuple[str, ...]) -> None:
    if size is None and image.width * image.height > MAX_PIXELS:
        raise DataError(source, f"has {image.width}x{image.height} pixels, more than {MAX_PIXELS}", key="size")
    if size is not None and image.size != size:
        problem = f"is {image.width}x{image.height} pixels, expected {size[0]}x{size[1]}"
        reason = "with another size the intrinsics or cells would be silently wrong; write it again at that size"
        raise DataError(source, problem, key="size", way_out=reason)
    if image.mode not in modes:
        problem = f"has pixels of kind {image.mode}, expected {' or '.join(modes)}"
        raise DataError(source, problem, key="mode", way_out="write it again as 8-bit PNG of that kind")
