"""The anchor head against the reference vectors: assignment, terms, losses, decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from heatv2x.geometry.boxes import boxes_from_corners, corners_3d, wrap_angle
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.heads.anchor import PUBLISHED, Anchor, AnchorTargets, anchor_losses, box_terms, per_anchor
from heatv2x.nn.anchors import (
    AnchorAssignment,
    anchors_of,
    assign,
    decode_terms,
    direction_of,
    encode_terms,
    upright,
    upright_iou,
    with_direction,
)

SIZE = (3.9, 1.6, 1.56)
LWH = [0, 1, 2, 5, 4, 3, 6]  # the references order sizes height, width, length


def load(golden: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(golden / f"{name}.npz") as vectors:
        return dict(vectors)


def grid_of(limits: np.ndarray, cell: float = 0.8) -> BevGrid:
    low, high = limits[:3], limits[3:]
    return BevGrid(float(low[0]), float(high[0]), float(low[1]), float(high[1]), cell)


def assigned_alone(grid: BevGrid, boxes: Tensor) -> AnchorAssignment:
    """The assignment of one scene, with the published thresholds."""
    return assign([grid], SIZE, [boxes], 0.6, 0.45)


def assigned_one_by_one(anchors: Tensor, boxes: Tensor, positive: float, negative: float) -> tuple[Tensor, Tensor]:
    """(A,) matched box or -1, and whether negative, as the rule is written: every anchor against every box."""
    matched = torch.full((len(anchors),), -1, dtype=torch.long)
    overlap = upright_iou(upright(anchors), upright(boxes))
    if len(boxes) == 0:
        return matched, matched < 0
    best, claimed = overlap.max(dim=0)
    for index in reversed(range(len(boxes))):
        if best[index] > 0:
            matched[claimed[index]] = index
    far = (overlap < negative).all(dim=1) & (matched < 0)
    above = overlap > positive
    return torch.where(above.any(dim=1), above.int().argmax(dim=1), matched), far


@pytest.mark.parametrize("cell", [0.4, 0.8, 3.2])
@pytest.mark.parametrize("thresholds", [(0.6, 0.45), (0.3, 0.1)])
def test_a_batch_is_assigned_as_the_rule_is_written(cell: float, thresholds: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(round(10 * cell))
    grids = [BevGrid(-25.6 + shift, 25.6 + shift, -12.8, 12.8, cell) for shift in (0.0, 6.4, -3.2, 0.0)]
    spread = torch.tensor([70.0, 40.0, 2.0, 14.0, 3.0, 2.0, 7.0])
    low = torch.tensor([-35.0, -20.0, -2.0, 0.5, 0.5, 1.0, -3.5])
    scenes = [torch.rand(n, 7, generator=generator) * spread + low for n in (30, 0, 1, 7)]
    scenes[3] = torch.cat([scenes[3], scenes[3][:3], torch.tensor([[1e7, -1e7, 0, 4, 2, 1.5, 0]])])  # twins, far away
    assigned = assign(grids, SIZE, scenes, *thresholds)
    for scene, (grid, boxes) in enumerate(zip(grids, scenes, strict=True)):
        matched, negative = assigned_one_by_one(anchors_of(grid, SIZE, -1.0), boxes, *thresholds)
        assert torch.equal(assigned.matched[scene], matched)
        assert torch.equal(assigned.negative[scene], negative)
        assert torch.equal(assigned.positive[scene], matched >= 0)
    assert int(assigned.positive.sum()) > 10


@pytest.mark.parametrize("name", ["m1_full", "m1_train", "small"])
def test_assignment_and_terms_are_the_references(golden: Path, name: str) -> None:
    vectors = load(golden, f"c_anchor_target_{name}")
    grid = grid_of(vectors["range"])
    anchors = anchors_of(grid, SIZE, -1.0)
    shape = (*grid.shape, 2)
    assert shape == tuple(vectors["shape"][:3])
    np.testing.assert_allclose(anchors.view(*shape, 7)[0, :, 0, 0], vectors["anchor_x"], atol=1e-5)
    np.testing.assert_allclose(anchors.view(*shape, 7)[:, 0, 0, 1], vectors["anchor_y"], atol=1e-5)
    boxes = torch.from_numpy(vectors["gt"][vectors["mask"] > 0][:, LWH])
    assigned = assigned_alone(grid, boxes)
    assert torch.nonzero(assigned.positive.view(shape)).tolist() == vectors["pos_index_yxa"].tolist()
    negative = np.unpackbits(vectors["neg_bits"])[: assigned.negative.numel()]
    assert np.array_equal(assigned.negative[0].numpy(), negative.astype(bool))
    terms = box_terms(assigned, anchors[None])
    np.testing.assert_allclose(terms[assigned.positive], vectors["targets_at_pos"], rtol=1e-5, atol=1e-5)
    assert not terms[~assigned.positive].any()


def test_among_tied_anchors_any_may_be_claimed(golden: Path) -> None:
    vectors = load(golden, "c_anchor_target_small_ties")
    anchors = anchors_of(grid_of(vectors["range"]), SIZE, -1.0)
    boxes = torch.from_numpy(vectors["gt"][vectors["mask"] > 0][:, LWH])
    overlap = upright_iou(upright(anchors), upright(boxes))
    np.testing.assert_allclose(overlap.amax(dim=0), vectors["best_iou_per_gt"], rtol=1e-5)
    assigned = assigned_alone(grid_of(vectors["range"]), boxes)
    for index in range(len(boxes)):  # the claimed anchor may belong to another box that overlaps it more than 0.6
        assert assigned.positive[0, overlap[:, index] > overlap[:, index].max() - 1e-4].any()
    assert int(assigned.positive.sum()) == int(vectors["num_pos"])


def test_nothing_to_find_makes_every_anchor_negative(golden: Path) -> None:
    vectors = load(golden, "c_anchor_target_small")
    assigned = assigned_alone(grid_of(vectors["range"]), torch.zeros(0, 7))
    assert int(assigned.positive.sum()) == int(vectors["empty_num_pos"])
    assert int(assigned.negative.sum()) == int(vectors["empty_num_neg"])


def test_overlap_follows_the_rule_of_pixels(golden: Path) -> None:
    vectors = load(golden, "c_standup_iou")
    ours = upright_iou(torch.from_numpy(vectors["boxes"]), torch.from_numpy(vectors["query"]))
    np.testing.assert_allclose(ours, vectors["iou"], rtol=2e-6, atol=2e-6)


def test_terms_and_directions_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(50, 7, generator=generator) * torch.tensor([20, 20, 2, 5, 2, 2, 6.2]) + 0.05
    anchors = anchors_of(BevGrid(0, 4, 0, 4, 0.8), SIZE, -1.0)
    again = decode_terms(encode_terms(boxes, anchors), anchors)
    torch.testing.assert_close(again, boxes, rtol=1e-5, atol=1e-5)
    half_turned = boxes[:, 6] + torch.pi * torch.arange(50)
    restored = with_direction(half_turned, direction_of(boxes[:, 6]))
    assert wrap_angle(restored - boxes[:, 6]).abs().max() < 1e-4


class TestDecoding:
    @pytest.fixture
    def vectors(self, golden: Path) -> dict[str, np.ndarray]:
        return load(golden, "d_decode")

    @pytest.fixture
    def head(self, vectors: dict[str, np.ndarray]) -> Anchor:
        return Anchor(Anchor.Config(**PUBLISHED), 4, grid_of(vectors["range"]))

    def test_boxes_of_all_anchors(self, vectors: dict[str, np.ndarray]) -> None:
        terms = per_anchor(torch.from_numpy(vectors["reg"]))[0]
        anchors = anchors_of(grid_of(vectors["range"]), SIZE, -1.0)
        np.testing.assert_allclose(
            decode_terms(terms, anchors), vectors["all_boxes_no_dir"][0][:, LWH], rtol=2e-5, atol=2e-5
        )

    def test_what_is_found(self, head: Anchor, vectors: dict[str, np.ndarray]) -> None:
        maps = {
            ours: torch.from_numpy(vectors[theirs])
            for ours, theirs in (("score", "cls"), ("box", "reg"), ("direction", "dir"))
        }
        found = head.decode(maps, head.grid)[0]
        np.testing.assert_allclose(found.scores, vectors["final_scores"], rtol=2e-6)
        np.testing.assert_allclose(corners_3d(found.boxes), vectors["final_corners"], rtol=1e-5, atol=5e-5)

    def test_a_batch_of_two(self, head: Anchor, vectors: dict[str, np.ndarray]) -> None:
        terms = per_anchor(torch.from_numpy(vectors["batch2_deltas"]))
        anchors = torch.from_numpy(vectors["batch2_anchors"].reshape(-1, 7)[:, LWH]).float()
        for row in range(2):
            theirs = vectors["batch2_boxes"][row][:, LWH]
            np.testing.assert_allclose(decode_terms(terms[row], anchors), theirs, rtol=2e-5, atol=2e-5)

    def test_boxes_too_large_or_too_high_are_dropped(self, head: Anchor, vectors: dict[str, np.ndarray]) -> None:
        corners = torch.from_numpy(vectors["filt_corners"])
        flat = (corners[..., 1].amax(dim=1) - corners[..., 1].amin(dim=1)) == 0
        theirs = vectors["filt_keep_large"] & vectors["filt_keep_z"]
        assert np.array_equal(head._possible(boxes_from_corners(corners))[~flat].numpy(), theirs[~flat])


class TestLosses:
    @pytest.fixture
    def vectors(self, golden: Path) -> dict[str, np.ndarray]:
        return load(golden, "j_loss")

    def maps(self, vectors: dict[str, np.ndarray]) -> dict[str, Tensor]:
        named = (("score", "cls"), ("box", "reg"), ("direction", "dir"))
        return {ours: torch.from_numpy(vectors[theirs]).requires_grad_() for ours, theirs in named}

    def test_losses_and_gradients(self, vectors: dict[str, np.ndarray]) -> None:
        maps = self.maps(vectors)
        targets = AnchorTargets(
            torch.from_numpy(vectors["pos"]).float().flatten(1),
            torch.from_numpy(vectors["neg"]).float().flatten(1),
            torch.from_numpy(vectors["targets"]).float().view(2, -1, 7),
        )
        losses = anchor_losses(maps, targets)
        for ours, theirs in (("score", "cls_loss"), ("box", "reg_loss"), ("direction", "dir_loss")):
            np.testing.assert_allclose(losses[ours].detach(), vectors[theirs], rtol=2e-6)
        torch.stack(list(losses.values())).sum().backward()
        for ours, theirs in (("score", "grad_cls"), ("box", "grad_reg"), ("direction", "grad_dir")):
            np.testing.assert_allclose(maps[ours].grad, vectors[theirs], rtol=1e-4, atol=2e-6)

    def test_directions(self, vectors: dict[str, np.ndarray]) -> None:
        yaw = torch.from_numpy(vectors["dir_reg_targets"])[0, :, 6]
        anchor_yaw = torch.tensor([0.0, torch.pi / 2]).double().repeat(20)
        assert direction_of(yaw + anchor_yaw).tolist() == vectors["dir_onehot"][0].argmax(axis=1).tolist()
