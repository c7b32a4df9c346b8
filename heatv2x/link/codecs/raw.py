"""float32, unchanged."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from heatv2x.errors import MessageError
from heatv2x.link.codecs.base import Codec


class Raw(Codec):
    """Four bytes a value, little-endian float32."""

    wire_id = 128
    source = "common practice"

    def quantise(self, features: Tensor) -> Tensor:
        """The same features."""
        return features

    def to_bytes(self, feature: Tensor) -> bytes:
        """4 * C * Y * X bytes."""
        return bytes(feature.detach().cpu().contiguous().numpy().astype("<f4").tobytes())

    def from_bytes(self, payload: bytes, shape: tuple[int, int, int]) -> Tensor:
        """(C, Y, X) float32."""
        return dense_from_bytes(payload, shape, "<f4")


def dense_from_bytes(payload: bytes, shape: tuple[int, int, int], dtype: str) -> Tensor:
    """A dense (C, Y, X) array of a numpy dtype as float32.

    Raises:
        MessageError: the length is not that of the shape, or a value is not finite.
    """
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if len(payload) != expected:
        raise MessageError(f"payload has {len(payload)} bytes, but a feature of shape {shape} needs {expected}")
    values = np.frombuffer(payload, dtype).astype(np.float32)
    if not np.isfinite(values).all():
        raise MessageError("payload holds values that are not finite")
    return torch.from_numpy(values.reshape(shape))
