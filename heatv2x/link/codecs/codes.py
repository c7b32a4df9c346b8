"""Whole numbers from 1 to 255 in the cells that are sent: what a base's codebook makes of a feature map.

The payload is the number n of cells that are sent as u32, and one zstandard frame of a bit map of them (Y * X bits, row
by row, most significant bit first, padded with zeros to a whole byte) and their codes (C, n).
"""

from __future__ import annotations

import struct

import numpy as np
import torch
import zstandard
from torch import Tensor

from heatv2x.errors import MessageError
from heatv2x.link.codecs.base import Codec, straight_through
from heatv2x.link.codecs.int8 import unpacked

_ZSTD_LEVEL = 12  # of some thousand bytes: a tenth of a millisecond


class Codes(Codec):
    """A byte per channel and cell that is sent; a cell with a zero in it is not."""

    wire_id = 5
    source = "ours"
    compact = True

    def quantise(self, features: Tensor) -> Tensor:
        """Rounded to whole numbers up to 255, cells with anything below 1 emptied."""
        codes = features.detach().round().clamp(0, 255)
        return straight_through(features, codes * (codes > 0).all(dim=1, keepdim=True))

    def to_bytes(self, feature: Tensor) -> bytes:
        """4 bytes, then zstandard of Y * X / 8 + C * n."""
        codes = self.quantise(feature.detach().cpu().float()[None])[0].to(torch.uint8).numpy()
        used = codes.any(axis=0)
        content = np.packbits(used).tobytes() + codes[:, used].tobytes()
        return struct.pack("<I", used.sum()) + zstandard.compress(content, _ZSTD_LEVEL)

    def from_bytes(self, payload: bytes, shape: tuple[int, int, int]) -> Tensor:
        """(C, Y, X) float32; never unpacks more than the shape needs."""
        channels, rows, columns = shape
        if len(payload) < 4:
            raise MessageError(f"payload of {len(payload)} bytes is too short to say how many cells it holds")
        (count,) = struct.unpack_from("<I", payload)
        if count > rows * columns:
            raise MessageError(f"payload claims {count} cells, but the map has {rows * columns}")
        map_bytes = -(-rows * columns // 8)
        content = unpacked(payload[4:], map_bytes + channels * count)
        bits = np.unpackbits(np.frombuffer(content, np.uint8, map_bytes))
        used, codes = bits[: rows * columns].astype(bool), np.frombuffer(content, np.uint8, offset=map_bytes)
        if used.sum() != count or bits[rows * columns :].any():
            raise MessageError(f"the payload's bit map does not mark the {count} cells it claims")
        if count and codes.min(initial=255) == 0:
            raise MessageError("the payload sends a cell without a code")
        feature = np.zeros((channels, rows * columns), np.float32)
        feature[:, used] = codes.reshape(channels, count)
        return torch.from_numpy(feature.reshape(shape))
