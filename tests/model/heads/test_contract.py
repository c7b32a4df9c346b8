"""What every head promises; a new file in heatv2x/model/heads/ is tested by being there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from heatv2x.core import plugins
from heatv2x.model.heads.base import Head
from tests.parts import parts
from tests.scene_factory import CHANNELS, GRID, shaken

BOXES = torch.tensor(
    [
        [4.3, 5.1, -1.0, 4.2, 1.8, 1.6, 0.4],
        [-6.2, -3.3, -0.9, 8.0, 2.5, 3.0, 2.0],
        [0.4, 9.0, -1.1, 4.0, 1.9, 1.5, -1.4],
    ]
)
NOTHING = torch.zeros(0, 7)


def build_head(part: str, **settings: object) -> Head:
    head_class = plugins.find("heads", part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head: Head = head_class(head_class.Config(**settings), CHANNELS, GRID)
    return head


def features(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, CHANNELS, *GRID.shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=parts("heads"))
def head(request: pytest.FixtureRequest) -> Head:
    return build_head(request.param)


def total(head: Head, maps: dict[str, Tensor], boxes: list[Tensor], margin: int = 0) -> Tensor:
    return torch.stack(list(head.loss(maps, boxes, [GRID] * len(boxes), margin).values())).sum()


def test_losses_are_finite_with_and_without_objects(head: Head) -> None:
    for boxes in ([BOXES, NOTHING], [NOTHING, NOTHING], [BOXES[:1], BOXES]):
        terms = head.loss(head(features()), boxes, [GRID, GRID])
        assert terms and all(value.shape == () and value.isfinite() and value >= 0 for value in terms.values())


def test_learns_to_find_the_boxes_and_nothing_else(head: Head) -> None:
    """Two maps learned by heart: what comes out of `decode` is what went into `loss`, up to a box's front."""
    x = features()
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss = total(head, head(x), [BOXES, NOTHING])
        loss.backward()
        optimizer.step()
    first, second = head.decode(head(x), GRID)
    sure = first.scores > 0.5
    assert int(sure.sum()) == len(BOXES) and not (second.scores > 0.3).any()
    found = first.boxes[sure]
    for box in BOXES:
        nearest = found[(found[:, :2] - box[:2]).norm(dim=1).argmin()]
        assert (nearest[:3] - box[:3]).abs().max() < 0.5
        assert (nearest[3:6] / box[3:6]).log().abs().max() < 0.25
        assert abs(np.sin(float(nearest[6] - box[6]))) < 0.25


def test_every_parameter_learns(head: Head) -> None:
    total(head, head(features()), [BOXES, NOTHING]).backward()
    silent = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent, silent


def test_detections_come_best_first(head: Head) -> None:
    shaken(head, 0.5)
    for found in head.eval().decode(head(features()), GRID):
        assert len(found.boxes) == len(found.scores) > 1 and found.boxes.shape[1] == 7
        assert (found.scores.diff() <= 0).all() and (found.scores >= 0).all() and (found.scores <= 1).all()


def test_finds_nothing_at_the_start(head: Head) -> None:
    for found in head.eval().decode(head(torch.zeros(1, CHANNELS, *GRID.shape)), GRID):
        assert found.boxes.shape == (0, 7) and found.scores.shape == (0,)


def test_scenes_of_a_batch_do_not_touch_one_another(head: Head) -> None:
    head.eval()
    maps = head(features(3))
    for row, alone in enumerate(head.decode(maps, GRID)):
        single = head.decode({name: value[row : row + 1] for name, value in maps.items()}, GRID)[0]
        assert torch.equal(alone.boxes, single.boxes) and torch.equal(alone.scores, single.scores)


def test_a_window_gives_boxes_in_the_same_frame(head: Head) -> None:
    """The same feature on two windows of the grid: the boxes move with the window."""
    maps = shaken(head, 0.5).eval()(features(1)[:, :, :8, :8])
    here, there = (head.decode(maps, GRID.window(row, column, (8, 8)))[0] for row, column in ((4, 2), (0, 0)))
    assert len(here.boxes) > 1
    torch.testing.assert_close(here.boxes[:, :2], there.boxes[:, :2] + torch.tensor([3.2, 6.4]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(here.boxes[:, 2:], there.boxes[:, 2:])


@pytest.mark.parametrize("margin", [1, 3])
def test_what_is_predicted_at_the_border_of_a_window_does_not_count(head: Head, margin: int) -> None:
    maps = {name: value.detach().requires_grad_() for name, value in head(features(1)).items()}
    loss = total(head, maps, [BOXES], margin)
    loss.backward()
    louder = {name: value.detach().clone() for name, value in maps.items()}
    for name, value in maps.items():
        assert value.grad is not None
        cut = margin * (value.shape[-1] // GRID.shape[1])
        border = torch.ones(value.shape[-2:], dtype=torch.bool)
        border[cut:-cut, cut:-cut] = False
        assert not value.grad[..., border].any() and value.grad[..., ~border].any()
        louder[name][..., border] += 3
    torch.testing.assert_close(total(head, louder, [BOXES], margin), loss.detach())
    assert float(total(head, louder, [BOXES]).detach()) != pytest.approx(float(total(head, maps, [BOXES]).detach()))


def test_what_stands_in_the_middle_of_the_border_does_not_count(head: Head) -> None:
    small = torch.tensor([[-12.0, 0.3, -1.0, 1.0, 0.6, 1.5, 0.0], [0.3, 12.1, -1.0, 1.0, 0.6, 1.5, 0.0]])
    maps = head(features(1))
    for margin, counts in ((4, False), (0, True)):
        with_them, without = (total(head, maps, [boxes], margin) for boxes in (torch.cat([BOXES, small]), BOXES))
        assert torch.equal(with_them, without) != counts


def test_half_precision_maps_are_no_problem(head: Head) -> None:
    maps = head(features())
    half = {name: value.bfloat16() for name, value in maps.items()}
    loss = total(head, half, [BOXES, NOTHING])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, total(head, maps, [BOXES, NOTHING]), rtol=0.05, atol=0.05)
    assert head.decode(half, GRID)[0].boxes.dtype == torch.float32


def test_foreground_is_where_objects_are(head: Head) -> None:
    """What a fusion's confidence learns from, if the head tells: cells at centres hold something, far ones nothing."""
    told = head.foreground([BOXES, NOTHING], GRID)
    if told is None:
        return
    (positive, none), (negative, everywhere) = told
    assert positive.shape == negative.shape == GRID.shape and not (positive & negative).any()
    distance = (GRID.centres()[:, :, None] - BOXES[:, :2]).norm(dim=-1)
    assert negative[distance.amin(dim=-1) > 6].all()
    for index in range(len(BOXES)):
        assert positive[distance[..., index] < 4].any()  # a long box may claim any anchor inside it
    assert not none.any() and everywhere.all()


class TestSlots:
    """The language that the reader of received boxes speaks with every head."""

    def test_a_box_that_is_written_is_decoded(self, head: Head) -> None:
        maps = head(features(1))
        quiet = {name: values - 50 if name in ("heatmap", "score") else values for name, values in maps.items()}
        slots = head.slots_of(BOXES, GRID)
        assert slots.shape[0] == len(BOXES) and (slots >= 0).all()
        for box, mine in zip(BOXES, slots, strict=True):
            for slot in mine[[0, 4, 8]]:  # a corner, the centre, another corner
                where = torch.zeros(1, dtype=torch.long), slot[None]
                terms = head.terms_of(box[None], slot[None], GRID)
                assert terms.shape == (1, head.terms)
                written = head.rewritten(quiet, *where, torch.tensor([5.0]), terms)
                (found,) = head.decode(written, GRID)
                assert len(found.boxes) == 1
                np.testing.assert_allclose(found.boxes[0, :6], box[:6], atol=1e-4)
                assert abs(torch.sin(found.boxes[0, 6] - box[6])) < 1e-4

    def test_what_is_read_is_what_was_written(self, head: Head) -> None:
        maps, scenes = head(features()), torch.tensor([0, 1, 1])
        slots = head.slots_of(BOXES, GRID)[:, 4]
        logits, terms = torch.tensor([1.0, -2.0, 0.5]), torch.randn(3, head.terms)
        written = head.rewritten(maps, scenes, slots, logits, terms)
        again = head.read(written, scenes, slots)
        assert torch.equal(again[0], logits) and torch.equal(again[1], terms)
        back = head.rewritten(written, scenes, slots, *head.read(maps, scenes, slots))
        for name, values in maps.items():
            assert torch.equal(back[name], values) and written[name].shape == values.shape
            assert not torch.equal(written[name], values)

    def test_slots_lie_in_the_cells_around_the_centre(self, head: Head) -> None:
        slots = head.slots_of(BOXES, GRID)
        for box, mine in zip(BOXES, slots, strict=True):
            cells = head.cells_of(mine, GRID)
            centre = torch.stack([(box[1] - GRID.y_min) / GRID.cell, (box[0] - GRID.x_min) / GRID.cell]).floor()
            assert ((cells - centre).abs() <= 1).all() and (cells[4] == centre).all()

    def test_beyond_the_grid_there_is_no_slot(self, head: Head) -> None:
        corner = torch.tensor([[GRID.x_max - 0.1, GRID.y_max - 0.1, *BOXES[0, 2:]], [99.0, 0, *BOXES[0, 2:]]])
        slots = head.slots_of(corner, GRID)
        assert int((slots[0] >= 0).sum()) == 4 and (slots[1] < 0).all()
        cells = head.cells_of(slots[0][slots[0] >= 0], GRID)
        assert (cells >= 0).all() and (cells < torch.tensor(GRID.shape)).all()
