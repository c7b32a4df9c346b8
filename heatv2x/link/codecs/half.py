"""float16, half the bytes of float32."""

from __future__ import annotations

from torch import Tensor

from heatv2x.link.codecs.base import Codec, straight_through
from heatv2x.link.codecs.raw import dense_from_bytes


class Half(Codec):
    """Two bytes a value, little-endian float16; values beyond its range are clamped."""

    wire_id = 129
    source = "common practice"
    _LARGEST = 65504.0

    def quantise(self, features: Tensor) -> Tensor:
        """Rounded to float16."""
        return straight_through(features, features.clamp(-self._LARGEST, self._LARGEST).half().to(features.dtype))

    def to_bytes(self, feature: Tensor) -> bytes:
        """2 * C * Y * X bytes."""
        half = feature.detach().clamp(-self._LARGEST, self._LARGEST).half()
        return bytes(half.cpu().contiguous().numpy().astype("<f2").tobytes())

    def from_bytes(self, payload: bytes, shape: tuple[int, int, int]) -> Tensor:
        """(C, Y, X) float32."""
        return dense_from_bytes(payload, shape, "<f2")
