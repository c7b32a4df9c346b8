"""A cache of agents' messages as bytes, so that evaluations that share messages share the work.

A message is kept under a name of the networks that made it (`Vehicle.voice`): networks that were trained in between, or
those of another model, do not find it. The least recently used ones go when there is no more room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from heatv2x.link.message import Message


class Sized(Protocol):
    """Something that knows how much memory it takes."""

    @property
    def kept_bytes(self) -> int:
        """Bytes."""


KeptT = TypeVar("KeptT", bound=Sized)


class ByteCache(Generic[KeptT]):
    """A mapping of limited size in bytes that forgets what has not been used for longest.

    Args:
        budget_bytes: of everything in it; something larger than that is not kept at all.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.held_bytes = 0
        self._kept: OrderedDict[Hashable, KeptT] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._kept)

    def get(self, key: Hashable) -> KeptT | None:
        """What was kept under a name, if it still is."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, value: KeptT) -> None:
        """Keep something, in the place of what was used longest ago."""
        self.drop(key)
        if value.kept_bytes > self.budget_bytes:
            return
        self._kept[key] = value
        self.held_bytes += value.kept_bytes
        while self.held_bytes > self.budget_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.held_bytes -= oldest.kept_bytes

    def drop(self, key: Hashable) -> None:
        """Forget one thing, if it is there."""
        if key in self._kept:
            self.held_bytes -= self._kept.pop(key).kept_bytes


@dataclass(frozen=True)
class PackedMessage:
    """A message as it travels, with the pose that its sender truly has.

    Attributes:
        data: the packed bytes.
        message: the same without its content: who, when, and where.
    """

    data: bytes
    message: Message

    @property
    def kept_bytes(self) -> int:
        """Bytes of memory."""
        return len(self.data)


@dataclass(frozen=True)
class OwnMessage:
    """An ego's message to itself, which never travels and is therefore kept exactly.

    Attributes:
        message: with its feature and cells taken out; boxes and points stay.
        feature: the feature's float32 values; None without one.
        shape: of the feature.
        cells: the bits of the cells; None without.
    """

    message: Message
    feature: bytes | None
    shape: tuple[int, ...]
    cells: bytes | None

    @classmethod
    def of(cls, message: Message) -> OwnMessage:
        """Take the tensors of a message off their device."""
        feature, cells = message.feature, message.cells
        return cls(
            replace(message, feature=None, cells=None, codes=None),
            None if feature is None else feature.float().cpu().numpy().tobytes(),
            () if feature is None else tuple(feature.shape),
            None if cells is None else cells.cpu().numpy().tobytes(),
        )

    def whole(self) -> Message:
        """The message again, bit for bit, on the CPU."""
        feature = cells = None
        if self.feature is not None:
            values = np.frombuffer(self.feature, np.float32).reshape(self.shape).copy()
            feature = torch.from_numpy(values)
        if self.cells is not None:
            bits = np.frombuffer(self.cells, np.bool_).reshape(self.shape[1:]).copy()
            cells = torch.from_numpy(bits)
        return replace(self.message, feature=feature, cells=cells)

    @property
    def kept_bytes(self) -> int:
        """Bytes of memory."""
        points, boxes = self.message.points, self.message.boxes
        arrays = (0 if points is None else points.points.nbytes) + (0 if boxes is None else boxes.boxes.nbytes)
        return len(self.feature or b"") + len(self.cells or b"") + arrays
