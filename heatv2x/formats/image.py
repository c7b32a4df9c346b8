"""Image files: colour, depth in whole metres, and the raster of what an agent's cameras see (OPV2V and OPV2V-H)."""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from heatv2x.core.files import read_bytes
from heatv2x.errors import DataError
from heatv2x.structures import Bool, Float32, Float64, UInt8

CAMERA_SIZE = (800, 600)
"""Width and height in pixels of OPV2V's images; recordings in its layout may have others."""

SIMULATED_OFFSET = 0.05
"""Of half an image: a simulated camera's optical axis meets the middle of its image."""
REAL_OFFSET = 0.5
_REAL_SCALE = 0.1

MAX_PIXELS = 40_000_000
MAX_BYTES = 64_000_000
RASTER_CELLS = 256
RASTER_CELL_M = 0.39
_RASTER_CENTRE = 127
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_COLOUR_MODES = ("RGB", "RGBA")
_RASTER_MODES = ("1", "L", "P", *_COLOUR_MODES)


def read_rgb(
    path: str | Path,
    size: tuple[int, int] | None = None,
    formats: tuple[str, ...] = ("PNG",),
    *,
    K: Float64 | None = None,
    simulated: bool = False,
) -> UInt8:
    """(H, W, 3) uint8 colour image.

    Args:
        path: the file.
        size: width and height that the image must have; None takes what there is, up to `MAX_PIXELS`.
        formats: what the file may be: "PNG", "JPEG".
        K: (3, 3) intrinsics of the camera in pixels: they must be for an image of this size (`intrinsics_fault`).
        simulated: the camera's optical axis is known to meet the middle of the image.

    Raises:
        DataError: missing, corrupt, not a colour image of one of the formats, not of `size`, or not of the size that
            the intrinsics are for.
    """
    return _read_image(Path(path), size, _COLOUR_MODES, "RGB", formats, K, simulated)


def read_depth(path: str | Path, size: tuple[int, int] | None = None, *, K: Float64 | None = None) -> Float32:
    """(H, W) float32 metres along the optical axis from an 8-bit PNG in whole metres; 0 where unknown, 255 saturates.

    Args:
        path: the file.
        size: width and height that the image must have; None takes what there is, up to `MAX_PIXELS`.
        K: (3, 3) intrinsics of the simulated camera: they must be for an image of this size.

    Raises:
        DataError: missing, corrupt, not single-channel 8-bit, not of `size` or not of the size that `K` is for.
    """
    return _read_image(Path(path), size, ("L",), "L", K=K, simulated=True).astype(np.float32)


def intrinsics_fault(K: Float64, size: tuple[int, int], *, simulated: bool = False) -> str | None:
    """What is wrong if intrinsics do not match images of a size; None if they can.

    The principal point (cx, cy) of a simulated camera is the middle of its image. A real camera's lies near it; only
    cropping moves it, and resizing an image without its intrinsics moves it in x and y by the same factor.

    Args:
        K: (3, 3) intrinsics in pixels.
        size: width and height of the images.
        simulated: the principal point must be the middle, to 5 %.
    """
    x, y = 2 * K[0, 2] / size[0], 2 * K[1, 2] / size[1]  # 1 is the middle
    away = max(abs(x - 1), abs(y - 1))
    both_ways = min(abs(x - 1), abs(y - 1)) > _REAL_SCALE and (x > 1) == (y > 1)
    if away <= SIMULATED_OFFSET or (not simulated and away <= REAL_OFFSET and not both_ways):
        return None
    meant = f"{2 * K[0, 2]:.0f}x{2 * K[1, 2]:.0f}"
    return (
        f"images of {size[0]}x{size[1]} pixels contradict the camera's intrinsics, which are for about {meant} pixels "
        f"(cx {K[0, 2]:.6g}, cy {K[1, 2]:.6g})"
    )


SAME_SIZE = (
    "keep images and intrinsics of the same size: if you resize images, scale fx and cx by the new width over the old "
    "one, fy and cy by the new height over the old one"
)
"""The way out of `intrinsics_fault`."""


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
    K: Float64 | None = None,
    simulated: bool = False,
) -> UInt8:
    way_out = "complete the download or the recording of this agent"
    content = read_bytes(source, MAX_BYTES, missing="the image is missing", way_out=way_out)
    if not content:
        raise DataError(source, "is empty, not an image", way_out="download or write the file again")
    try:
        with warnings.catch_warnings():  # a header of 100 megapixels is only a warning to Pillow
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(content), formats=formats)
        with opened as image:
            # Size and mode come from the header: nothing is decompressed before they are what they should be.
            _check(source, image, size, modes)
            if K is not None and (fault := intrinsics_fault(K, image.size, simulated=simulated)) is not None:
                raise DataError(source, fault, key="size", way_out=SAME_SIZE)
            return np.array(image.convert(wanted) if image.mode != wanted else image, np.uint8)
    except _BOMBS as error:
        problem = f"has more pixels than the limit of {MAX_PIXELS:,}"
        raise DataError(source, problem, key="size", way_out="write a smaller image") from error
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        kind = f"is not a readable {' or '.join(formats)} image"
        problem = f"{kind}: it is {_other_kind(content, formats) or 'cut short or corrupt'}"
        raise DataError(source, problem, way_out="download or write the file again") from error


_KINDS = {
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
}


def _other_kind(content: bytes, wanted: tuple[str, ...]) -> str | None:
    """What kind of file it is by its first bytes, if that is known and not the wanted one."""
    kind = next((kind for start, kind in _KINDS.items() if content.startswith(start)), None)
    return None if kind is None or kind in wanted else f"a {kind} file"


def _check(source: Path, image: Image.Image, size: tuple[int, int] | None, modes: tuple[str, ...]) -> None:
    if size is None and image.width * image.height > MAX_PIXELS:
        problem = f"has {image.width}x{image.height} pixels, more than the limit of {MAX_PIXELS:,}"
        raise DataError(source, problem, key="size", way_out="write a smaller image")
    if size is not None and image.size != size:
        problem = f"is {image.width}x{image.height} pixels, expected {size[0]}x{size[1]}"
        reason = (
            "write it again at that size; if it is resized, its intrinsics must be scaled as well: "
            "fx and cx by the new width over the old one, fy and cy by the new height over the old one"
        )
        raise DataError(source, problem, key="size", way_out=reason)
    if image.mode not in modes:
        problem = f"has pixels of kind {image.mode}, expected {' or '.join(modes)}"
        raise DataError(source, problem, key="mode", way_out="save it again in that format with 8 bits per channel")
