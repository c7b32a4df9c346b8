"""8 bits a value of the cells that hold anything, and a bit map of where they are: for fusions that send few cells.

The values are those of `int8`, the layout is another: a cell in which every level is zero costs one bit before
zstandard, not C bytes.
"""

from __future__ import annotations

import struct

import numpy as np
import torch
import zstandard
from torch import Tensor

from heatv2x.errors import MessageError
from heatv2x.link.codecs.base import Codec, straight_through
from heatv2x.link.codecs.int8 import levels_of, scales_from_bytes, unpacked

_ZSTD_LEVEL = 1


class Sparse(Codec):
    """Symmetric per-channel quantisation to -127..127, written for the n cells that are not zero.

    The payload is C float32 scales, n as u32, and one zstandard frame of the bit map (Y * X bits, row by row, most
    significant bit first, padded with zeros to a whole byte) and the levels (C, n).
    """

    wire_id = 4
    source = "ours; sparse messages after Where2comm, Hu et al. 2022"
    compact = True

    def quantise(self, features: Tensor) -> Tensor:
        """Rounded to 255 levels per channel and agent."""
        levels, scale = levels_of(features)
        return straight_through(features, levels * scale)

    def to_bytes(self, feature: Tensor) -> bytes:
        """4 * C + 4 bytes, then zstandard of Y * X / 8 + C * n."""
        quantised, scale = levels_of(feature.detach().cpu().float()[None])
        levels = quantised[0].to(torch.int8).numpy()
        used = levels.any(axis=0)
        content = np.packbits(used).tobytes() + levels[:, used].tobytes()
        head = scale.flatten().numpy().astype("<f4").tobytes() + struct.pack("<I", used.sum())
        return head + zstandard.compress(content, _ZSTD_LEVEL)

    def from_bytes(self, payload: bytes, shape: tuple[int, int, int]) -> Tensor:
        """(C, Y, X) float32; never unpacks more than the shape needs."""
        channels, rows, columns = shape
        scales = scales_from_bytes(payload, channels)
        if len(payload) < 4 * channels + 4:
            raise MessageError(f"payload of {len(payload)} bytes is too short to say how many cells it holds")
        (count,) = struct.unpack_from("<I", payload, 4 * channels)
        if count > rows * columns:
            raise MessageError(f"payload claims {count} cells, but the map has {rows * columns}")
        map_bytes = -(-rows * columns // 8)
        content = unpacked(payload[4 * channels + 4 :], map_bytes + channels * count)
        bits = np.unpackbits(np.frombuffer(content, np.uint8, map_bytes))
        used, levels = bits[: rows * columns].astype(bool), np.frombuffer(content, np.int8, offset=map_bytes)
        if used.sum() != count or bits[rows * columns :].any():
            raise MessageError(f"the payload's bit map does not mark the {count} cells it claims")
        if levels.min(initial=0) < -127:
            raise MessageError("payload holds a level below -127")
        feature = np.zeros((channels, rows * columns), np.float32)
        feature[:, used] = levels.reshape(channels, count).astype(np.float32) * scales[:, None]
        return torch.from_numpy(feature.reshape(shape))
