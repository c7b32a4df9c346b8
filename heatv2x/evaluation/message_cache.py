"""What agents said, kept as bytes, so that evaluations that share messages share the work.

A message is kept under a name of the networks that made it (`line_digest`): networks that were trained in between, or
those of another model, do not find it. The least recently used ones go when there is no more room.
"""

from __future__ import annotations

import itertools
import json
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from heatv2x.link.message import Message
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import tensors_digest


class Sized(Protocol):
    """Something that knows how much memory it takes."""

    @property
    def kept_bytes(self) -> int:
        """Bytes."""


KeptT = TypeVar("KeptT", bound=Sized)


class ByteCache(Generic[KeptT]):
    """A mapping that holds no more than so many bytes and forgets what was not used for longest.

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
            replace(message, feature=None, cells=None),
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


def line_digest(model: Collaboration, agent_type: str) -> str:
    """A name of everything in a model that decides what a type says: the same name, the same bytes.

    It covers the values of the tensors (the type's encoder, its adapters and typed fusion parameters, and the base),
    so that training in place changes it, and the settings of these parts, the grid, the codec and the exchange.
    A model whose networks are elsewhere (in onnxruntime) is named by itself: those cannot change.
    """
    parts: dict[str, nn.Module] = {**model.base_modules(), "agent": model.agent(agent_type)}
    if agent_type in model.senders:
        parts["sender"] = model.senders[agent_type]
    others = tuple(f"fusion.types.{name}." for name in model.joined if name != agent_type)
    tensors = {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in itertools.chain(module.named_parameters(), module.named_buffers())
        if not f"{part}.{name}".startswith(others)
    }
    about: dict[str, Any] = {
        "model": type(model).__qualname__,
        "type": agent_type,
        "space": model.feature_space.hex(),
        "grid": repr(model.grid),
        "codec": model.config.codec,
        "modules": {
            f"{part}.{name}": _settings_of(module)
            for part, whole in parts.items()
            for name, module in whole.named_modules()
            if not f"{part}.{name}.".startswith(others)
        },
    }
    if any(value.is_meta for value in tensors.values()):
        about["instance"] = _NUMBERS.setdefault(model, next(_COUNT))
        tensors = {}
    return tensors_digest(tensors, json.dumps(about, sort_keys=True, default=repr))


_COUNT = itertools.count()
_NUMBERS: weakref.WeakKeyDictionary[Collaboration, int] = weakref.WeakKeyDictionary()


def _settings_of(module: nn.Module) -> dict[str, Any]:
    """The class of a module and its plain attributes: a changed threshold changes what is said."""
    found: dict[str, Any] = {"class": f"{type(module).__module__}.{type(module).__qualname__}"}
    for name, value in vars(module).items():
        if name == "training" or name.startswith("_"):
            continue
        if isinstance(value, BaseModel):
            found[name] = value.model_dump(mode="json")
        elif isinstance(value, bool | int | float | str | tuple | torch.dtype) or value is None:
            found[name] = repr(value)
    return found
