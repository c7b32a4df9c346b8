"""8 bits a value with one scale per channel, then zstandard: the compact default for a link.

Features of this framework are mostly zero, which zstandard squeezes; level 1 costs about 4 ms per megabyte.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import zstandard
from torch import Tensor

from heatv2x.errors import MessageError
from heatv2x.link.codecs.base import Codec, straight_through

_ZSTD_LEVEL = 1
_LARGEST_SCALE = np.finfo(np.float32).max / np.float32(127.1)  # times a level it is still a number


class Int8(Codec):
    """Symmetric per-channel quantisation to -127..127; the payload is C float32 scales and the compressed integers."""

    wire_id = 1
    source = "common practice"
    compact = True

    def quantise(self, features: Tensor) -> Tensor:
        """Rounded to 255 levels per channel and agent."""
        levels, scale = levels_of(features)
        return straight_through(features, levels * scale)

    def to_bytes(self, feature: Tensor) -> bytes:
        """4 * C bytes of scales, then zstandard."""
        levels, scale = levels_of(feature.detach().cpu().float()[None])
        scales = scale.flatten().numpy().astype("<f4").tobytes()
        return scales + zstandard.compress(levels[0].to(torch.int8).numpy().tobytes(), _ZSTD_LEVEL)

    def from_bytes(self, payload: bytes, shape: tuple[int, int, int]) -> Tensor:
        """(C, Y, X) float32; never unpacks more than the shape needs."""
        channels, size = shape[0], int(np.prod(shape))
        scales = scales_from_bytes(payload, channels)
        levels = np.frombuffer(unpacked(payload[4 * channels :], size), np.int8).reshape(shape)
        if levels.min(initial=0) < -127:
            raise MessageError("payload holds a level below -127")
        return torch.from_numpy(levels.astype(np.float32) * scales[:, None, None])


def scales_from_bytes(payload: bytes, channels: int) -> npt.NDArray[np.float32]:
    """(C,) scales at the start of a payload.

    Raises:
        MessageError: it is too short, or a scale makes no number of a level.
    """
    if len(payload) < 4 * channels:
        raise MessageError(f"payload of {len(payload)} bytes is too short for {channels} scales")
    scales = np.frombuffer(payload[: 4 * channels], "<f4").astype(np.float32)
    if not ((scales >= 0) & (scales <= _LARGEST_SCALE)).all():
        raise MessageError("payload holds a scale that is negative, not finite or too large")
    return scales


def levels_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers (N, C, Y, X) in -127..127 and their scales (N, C, 1, 1)."""
    scale = features.detach().abs().amax(dim=(2, 3), keepdim=True) / 127.0
    return (features.detach() / scale.clamp(min=1e-12)).round().clamp(-127, 127), scale


def unpacked(compressed: bytes, size: int) -> bytes:
    """The content of one zstandard frame of exactly `size` bytes; never unpacks more.

    Raises:
        MessageError: the frame is damaged, or holds or claims another size.
    """
    try:
        declared = zstandard.frame_content_size(compressed)
        if declared != size:
            raise MessageError(f"payload unpacks to {declared} bytes, but the feature needs {size}")
        content: bytes = zstandard.ZstdDecompressor().decompress(
            compressed, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise MessageError(f"payload cannot be unpacked: {error}") from error
    if len(content) != size:
        raise MessageError(f"payload unpacked to {len(content)} bytes, but the feature needs {size}")
    return content
