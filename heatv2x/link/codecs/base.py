"""What a codec promises.

Shapes: C channels, Y X grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor


class Codec(ABC):
    """Turns one feature into bytes and back.

    A receiver finds a codec by its `wire_id` among the files in `heatv2x/link/codecs/`; one from outside the package
    serves training only.

    `quantise` is what training sees; `from_bytes(to_bytes(x))` equals `quantise(x)` exactly, which the tests check for
    every part.

    Attributes:
        source: the paper, or "ours".
        wire_id: the number in a message's header; unique among codecs and never reused.
        compact: True if meant for a radio link; other codecs are for training and files.
    """

    source: ClassVar[str]
    wire_id: ClassVar[int]
    compact: ClassVar[bool] = False

    @abstractmethod
    def quantise(self, features: Tensor) -> Tensor:
        """(N, C, Y, X) as the receiver will see it; gradients pass straight through."""

    @abstractmethod
    def to_bytes(self, feature: Tensor) -> bytes:
        """Bytes of one (C, Y, X) float32 feature."""

    @abstractmethod
    def from_bytes(self, payload: bytes, shape: tuple[int, int, int]) -> Tensor:
        """(C, Y, X) float32 feature of the given shape.

        Raises:
            MessageError: the payload is not what `to_bytes` writes for that shape.
        """


def straight_through(features: Tensor, quantised: Tensor) -> Tensor:
    """The quantised value, exactly, with the gradient of the original one."""
    passed: Tensor = _StraightThrough.apply(features, quantised)  # type: ignore[no-untyped-call]
    return passed


class _StraightThrough(torch.autograd.Function):
    """`features + (quantised - features).detach()` would do, but it rounds where the two are far apart."""

    @staticmethod
    def forward(_: Any, features: Tensor, quantised: Tensor) -> Tensor:
        return quantised

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
