"""A PNG writer for rendered images: every row stored as its difference to the row above, then the fastest deflate.

For smooth upsampled images this takes a third of the time of a general encoder, which tries five filters per row.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from heatv2x.structures import UInt8

_UP = 2  # PNG specification, filter type 2: difference to the row above


def png_bytes(image: UInt8) -> bytes:
    """The PNG file of an (H, W) grey or (H, W, 3) RGB image."""
    height, width = image.shape[:2]
    rows = image.reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colour_type = 2 if image.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(filtered.data, 1)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
