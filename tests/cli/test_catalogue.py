"""The list of parts: read from the parts, counted and not looked up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from heatv2x.cli import catalogue
from heatv2x.core import plugins
from heatv2x.evaluation.cost import FlopCount


@pytest.mark.parametrize("kind", plugins.CONTRACTS)
def test_every_part_is_listed_with_what_it_says_of_itself(kind: str) -> None:
    entries = catalogue.catalogue(kind)
    assert [entry.name for entry in entries] == plugins.available(kind)
    for entry in entries:
        assert entry.source == plugins.find(kind, entry.name).source
        assert len(entry.about) > 10
        counted = kind in ("agents", "adapters", "fusion", "heads")
        assert (entry.parameters is not None, entry.flops is not None) == (counted, counted)
        if kind in ("agents", "adapters", "heads"):
            assert entry.parameters and entry.flops


def test_what_is_counted_does_not_depend_on_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device computes nothing; a real run counts the same."""
    parts = [("agents", "lidar_pillar"), ("adapters", "hetero_aware"), ("fusion", "hetero_graph"), ("heads", "center")]
    measure = {"agents": catalogue._agent, "adapters": catalogue._adapter, "fusion": catalogue._fusion}
    measure["heads"] = catalogue._head
    counted = [measure[kind](name) for kind, name in parts]
    monkeypatch.setattr(catalogue, "_META", torch.device("cpu"))
    assert [measure[kind](name) for kind, name in parts] == counted


def test_what_moves_the_numbers() -> None:
    """A fusion without parameters has none; attention in windows costs more than attention in a cell."""
    found = {entry.name: entry for entry in catalogue.catalogue("fusion")}
    assert (found["maximum"].parameters, found["maximum"].flops) == (0, 0)
    assert (found["v2x_vit"].flops or 0) > (found["where2comm"].flops or 0) > 0


def test_operations_by_hand() -> None:
    grouped, linear = nn.Conv2d(8, 16, 3, groups=4, stride=2, padding=1), nn.Linear(25, 7)
    with torch.no_grad(), FlopCount() as count:
        y = linear(grouped(torch.zeros(3, 8, 10, 10)).flatten(2)) @ torch.zeros(3, 7, 5)
        y.relu().sum()
    assert count.flops == 2 * 3 * (25 * 16 * 2 * 9 + 16 * 25 * 7 + 16 * 7 * 5)


def test_the_reference_size_is_said() -> None:
    said = catalogue.reference()
    assert "64 x 64 cells" in said and "20,000 points" in said and "2 types with 2 senders" in said
