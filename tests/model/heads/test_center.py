"""The centre head's targets and its code for boxes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heatv2x.geometry.grid import BevGrid
from heatv2x.model.heads.center import Center, decode_boxes, encode_boxes, heatmap_targets
from tests.model.heads.test_contract import BOXES, NOTHING, build_head
from tests.scene_factory import CHANNELS, GRID

FINE = GRID.finer(2)


def cells_of(boxes: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
    row = torch.floor((boxes[:, 1] - grid.y_min) / grid.cell).long()
    return row, torch.floor((boxes[:, 0] - grid.x_min) / grid.cell).long()


def perfect_maps(boxes: Tensor, grid: BevGrid = FINE) -> dict[str, Tensor]:
    """What a head that knows everything would say: sure of the centres, with the terms in every cell around."""
    heat = torch.full((1, 1, *grid.shape), -20.0)
    terms = torch.zeros(1, 8, *grid.shape)
    row, column = cells_of(boxes, grid)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            r, c = (row + dy).clamp(0, grid.shape[0] - 1), (column + dx).clamp(0, grid.shape[1] - 1)
            terms[0, :, r, c] = encode_boxes(boxes, r, c, grid).T
    heat[0, 0, row, column] = 20.0
    return {"heatmap": heat, "box": terms}


def same_box(one: Tensor, other: Tensor) -> None:
    """Equal up to half a turn: these boxes have no front."""
    torch.testing.assert_close(one[:, :6], other[:, :6], rtol=1e-4, atol=1e-4)
    assert (one[:, 6] - other[:, 6]).sin().abs().max() < 1e-4


def test_perfect_maps_are_decoded_to_the_boxes() -> None:
    found = build_head("center").decode(perfect_maps(BOXES), GRID)[0]
    assert (found.scores > 0.99).all()
    order = [int((found.boxes[:, :2] - box[:2]).norm(dim=1).argmin()) for box in BOXES]
    assert sorted(order) == [0, 1, 2]
    same_box(found.boxes[order], BOXES)


def test_perfect_maps_cost_nothing() -> None:
    terms = build_head("center").loss(perfect_maps(BOXES), [BOXES], [GRID])
    assert float(terms["heatmap"]) < 1e-3 and float(terms["box"]) < 1e-5
    empty = build_head("center").loss(perfect_maps(NOTHING), [NOTHING], [GRID])
    assert float(empty["heatmap"]) < 1e-3 and float(empty["box"]) == 0
    wrong = build_head("center").loss(perfect_maps(BOXES[:2]), [BOXES], [GRID])
    assert float(wrong["heatmap"]) > 1


def test_a_wrong_front_costs_nothing_but_a_wrong_axis_does() -> None:
    head = build_head("center")
    half, quarter = BOXES.clone(), BOXES.clone()
    half[:, 6] += math.pi
    quarter[:, 6] += math.pi / 2
    assert float(head.loss(perfect_maps(half), [BOXES], [GRID])["box"]) < 1e-5
    assert float(head.loss(perfect_maps(quarter), [BOXES], [GRID])["box"]) > 0.5


@settings(max_examples=80, deadline=None)
@given(
    x=st.floats(-12, 12),
    y=st.floats(-12, 12),
    z=st.floats(-3, 3),
    yaw=st.floats(-7, 7),
    size=st.tuples(st.floats(0.5, 20), st.floats(0.3, 4), st.floats(0.3, 5)),
    off=st.tuples(st.integers(-1, 1), st.integers(-1, 1)),
)
def test_terms_and_boxes_are_two_ways_to_say_the_same(
    x: float, y: float, z: float, yaw: float, size: tuple[float, float, float], off: tuple[int, int]
) -> None:
    box = torch.tensor([[x, y, z, *size, yaw]])
    row, column = cells_of(box, FINE)
    row, column = row + off[0], column + off[1]
    decoded = decode_boxes(encode_boxes(box, row, column, FINE), row, column, FINE)
    torch.testing.assert_close(decoded[:, :6], box[:, :6], rtol=1e-4, atol=1e-4)
    assert float((decoded[:, 6] - box[:, 6]).sin().abs()) < 1e-4


def heatmap_target(boxes: Tensor, grid: BevGrid) -> Tensor:
    """(Y', X') the heatmap of one scene."""
    return heatmap_targets([boxes], [grid])[0]


class TestHeatmap:
    def test_peaks_are_exactly_one_at_the_centres(self) -> None:
        heat = heatmap_target(BOXES, FINE)
        assert heat.shape == FINE.shape and int((heat == 1).sum()) == 3
        assert (heat[cells_of(BOXES, FINE)] == 1).all() and heat.max() == 1 and heat.min() >= 0

    def test_gaussians_lie_along_the_objects(self) -> None:
        long = torch.tensor([[0.4, 0.4, 0, 12.0, 2.0, 2.0, 0.0]])
        heat = heatmap_target(long, FINE)
        row, column = (int(v) for v in (cells_of(long, FINE)[0][0], cells_of(long, FINE)[1][0]))
        assert heat[row, column + 3] > 0.2 > heat[row + 3, column]
        turned = long.clone()
        turned[0, 6] = math.pi / 2
        heat = heatmap_target(turned, FINE)
        assert heat[row + 3, column] > 0.2 > heat[row, column + 3]
        turned[0, 6] = math.pi / 4
        heat = heatmap_target(turned, FINE)
        assert heat[row + 2, column + 2] > 0.2 > heat[row + 2, column - 2]

    @pytest.mark.parametrize("yaw", [0.0, 0.5, -1.1, 2.6])
    def test_by_hand(self, yaw: float) -> None:
        """In every cell the gaussian of the cell's offset from the centre cell, turned into the object's axes."""
        box = torch.tensor([[0.4, 0.4, 0, 12.0, 3.6, 2.0, yaw]])
        heat = heatmap_target(box, FINE)
        row, column = (int(index[0]) for index in cells_of(box, FINE))
        for dy, dx in itertools.product(range(-7, 8), repeat=2):
            along, across = (
                0.8 * (dx * math.cos(yaw) + dy * math.sin(yaw)),
                0.8 * (dy * math.cos(yaw) - dx * math.sin(yaw)),
            )
            wanted = math.exp(-0.5 * ((along / 2.0) ** 2 + (across / 0.6) ** 2))
            assert float(heat[row + dy, column + dx]) == pytest.approx(wanted, rel=1e-3, abs=1e-7)

    def test_overlapping_objects_take_the_maximum(self) -> None:
        near = torch.tensor([[0.4, 0.4, 0, 4.0, 2.0, 2.0, 0.0], [2.0, 0.4, 0, 4.0, 2.0, 2.0, 0.0]])
        both = heatmap_target(near, FINE)
        assert torch.equal(both, torch.maximum(heatmap_target(near[:1], FINE), heatmap_target(near[1:], FINE)))

    def test_of_a_window_is_the_crop_of_the_whole(self) -> None:
        rng = np.random.default_rng(0)
        boxes = torch.from_numpy(
            np.column_stack(
                [rng.uniform(-14, 14, (60, 2)), np.zeros(60), np.tile([9.0, 2.5, 2], (60, 1)), rng.uniform(-3, 3, 60)]
            )
        ).float()
        whole = heatmap_target(boxes, FINE)
        for row, column, shape in ((0, 0, (8, 8)), (4, 6, (8, 10)), (2, 0, (14, 16))):
            window = GRID.window(row, column, shape)
            crop = whole[2 * row : 2 * (row + shape[0]), 2 * column : 2 * (column + shape[1])]
            torch.testing.assert_close(heatmap_target(boxes, window.finer(2)), crop)

    def test_no_objects_no_heat(self) -> None:
        assert not heatmap_target(NOTHING, FINE).any()

    def test_objects_far_away_do_not_reach_in(self) -> None:
        far = torch.tensor([[100.0, 0, 0, 4, 2, 2, 0], [0, -300.0, 0, 4, 2, 2, 0]])
        assert not heatmap_target(far, FINE).any()


def test_objects_off_the_window_are_not_regressed() -> None:
    head = build_head("center")
    maps = perfect_maps(BOXES)
    off = torch.tensor([[100.0, 0.0, -1, 4, 2, 1.5, 0.3]])
    terms = head.loss(maps, [torch.cat([BOXES, off])], [GRID])
    assert float(terms["box"]) < 1e-5
    assert float(head.loss(maps, [off], [GRID])["box"]) == 0


def test_duplicates_are_suppressed() -> None:
    head = build_head("center", nms_iou=0.15)
    twice = torch.cat([BOXES[:1], BOXES[:1] + torch.tensor([[1.7, 0.8, 0, 0, 0, 0, 0]])])
    maps = perfect_maps(twice)
    maps["heatmap"][0, 0, *[v[1] for v in cells_of(twice, FINE)]] = 2.0
    found = head.decode(maps, GRID)[0]
    assert len(found.boxes) == 1 and float(found.scores[0]) > 0.99
    assert len(build_head("center", nms_iou=0.99).decode(maps, GRID)[0].boxes) == 2


def test_only_so_many_are_kept() -> None:
    head = build_head("center", max_detections=2)
    assert len(head.decode(perfect_maps(BOXES), GRID)[0].boxes) == 2


def test_the_prior_is_what_it_starts_with() -> None:
    head = Center(Center.Config(prior=0.2), CHANNELS, GRID)
    torch.nn.init.zeros_(head.output.weight)
    heat = head.eval()(torch.randn(1, CHANNELS, *GRID.shape))["heatmap"]
    torch.testing.assert_close(heat.sigmoid(), torch.full_like(heat, 0.2))


@pytest.mark.parametrize("upsample", [1, 2, 4])
def test_the_output_grid_is_finer(upsample: int) -> None:
    head = build_head("center", upsample=upsample)
    maps = head(torch.randn(1, CHANNELS, 8, 10))
    assert maps["heatmap"].shape == (1, 1, 8 * upsample, 10 * upsample)
    assert maps["box"].shape == (1, 8, 8 * upsample, 10 * upsample)
    fine = GRID.finer(upsample)
    terms = head.loss(perfect_maps(BOXES[:1], fine), [BOXES[:1]], [GRID])
    assert float(terms["box"]) < 1e-5
