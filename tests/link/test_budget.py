"""Messages of a given size: the most relevant cells first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from heatv2x.link.budget import most_relevant, within
from heatv2x.link.message import Message, pack, packed_size, unpack
from heatv2x.structures import Boxes3D, Pose

SHAPE = (3, 20, 20)
CODES = torch.randint(1, 256, SHAPE, generator=torch.Generator().manual_seed(0)).float()
FEATURE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
MESSAGE = Message(1, "lidar64", 0, Pose(np.eye(4)), 0.0, 0.0, b"x" * 16, FEATURE, codec="codes", codes=CODES)
RELEVANCE = torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(2))
BOXES = Boxes3D(np.tile(np.float32([1, 2, 0, 4, 2, 1.5, 0.3]), (40, 1)), scores=np.linspace(0.9, 0.2, 40, dtype="f4"))


@pytest.mark.parametrize("budget", [300, 500, 800, 1200])
@pytest.mark.parametrize("codec", ["codes", "int8", "sparse"])
def test_it_fits_and_uses_what_there_is(budget: int, codec: str) -> None:
    message = MESSAGE if codec == "codes" else replace(MESSAGE, codes=None, codec=codec)
    cut = within(message, RELEVANCE, budget)
    assert len(pack(cut)) == packed_size(cut) <= budget and cut.cells is not None
    sent = int(cut.cells.sum())
    assert 0 < sent < 400
    order = RELEVANCE.flatten().argsort(descending=True)
    assert torch.equal(cut.cells.flatten().nonzero()[:, 0], order[:sent].sort().values)
    one_more = torch.zeros(400, dtype=torch.bool)
    one_more[order[: sent + 1]] = True
    if codec == "codes":
        assert len(pack(replace(message, cells=one_more.view(SHAPE[1:])))) > budget


def test_more_room_is_more_cells() -> None:
    counts = [within(MESSAGE, RELEVANCE, budget).cells.sum() for budget in (300, 600, 900)]  # type: ignore[union-attr]
    assert counts == sorted(counts) and len(set(map(int, counts))) == 3


def test_what_fits_is_left_as_it_is() -> None:
    assert within(MESSAGE, RELEVANCE, 10_000) is MESSAGE


def test_cells_that_the_sender_keeps_back_stay_there() -> None:
    kept = RELEVANCE < 0.5
    cut = within(replace(MESSAGE, cells=kept), RELEVANCE, 400)
    assert cut.cells is not None and not (cut.cells & ~kept).any()


def test_boxes_go_first_and_the_best_of_them() -> None:
    cut = within(replace(MESSAGE, boxes=BOXES), RELEVANCE, 600)
    arrived = unpack(pack(cut))
    assert arrived.boxes is not None and cut.boxes is not None and 0 < len(arrived.boxes) < 40
    assert np.array_equal(cut.boxes.scores, BOXES.scores[: len(cut.boxes)])  # type: ignore[index]
    assert arrived.size_bytes <= 600
    whole = within(replace(MESSAGE, boxes=BOXES), RELEVANCE, 1200)
    assert whole.boxes is not None and len(whole.boxes) == 40


def test_with_hardly_any_room_no_box_is_sent() -> None:
    cut = within(replace(MESSAGE, boxes=BOXES), RELEVANCE, 176 + 24)
    assert cut.boxes is not None and not len(cut.boxes) and len(pack(cut)) <= 200


def test_the_most_relevant_cells_of_those_that_may_be_sent() -> None:
    order = RELEVANCE.flatten().argsort(descending=True)
    chosen = most_relevant(RELEVANCE, None, 30)
    assert chosen is not None and torch.equal(chosen.flatten().nonzero()[:, 0], order[:30].sort().values)
    kept = RELEVANCE.flatten()[order[9]] > RELEVANCE
    assert torch.equal(most_relevant(RELEVANCE, kept, 30), chosen & kept)  # type: ignore[arg-type]
    assert most_relevant(RELEVANCE, None, 400) is None and most_relevant(RELEVANCE, kept, 999) is kept
