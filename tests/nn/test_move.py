"""Batches are brought to a device with everything in them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from heatv2x.nn.move import to_device
from tests.scene_factory import GRID

META = torch.device("meta")


@dataclass
class Inner:
    value: Tensor
    name: str


@dataclass
class Outer:
    tensors: dict[str, Tensor]
    parts: list[Inner]
    pair: tuple[Tensor, int]
    grids: list[object] = field(default_factory=list)
    nothing: Tensor | None = None


def test_everything_moves_and_nothing_else_changes() -> None:
    there = to_device(
        Outer({"a": torch.ones(2)}, [Inner(torch.ones(3), "x")], (torch.ones(1), 5), [GRID, "text"]), META
    )
    assert isinstance(there, Outer) and there.tensors["a"].is_meta and there.parts[0].value.is_meta
    assert isinstance(there.pair, tuple) and there.pair[0].is_meta and there.pair[1] == 5
    assert there.parts[0].name == "x" and there.grids == [GRID, "text"] and there.nothing is None


def test_classes_are_left_alone() -> None:
    assert to_device(Outer, META) is Outer and to_device(3, META) == 3
