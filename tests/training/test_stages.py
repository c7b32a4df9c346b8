"""Every stage changes exactly the tensors it declares, on the scenes it promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from heatv2x.data.ground_truth import ground_truth
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.heads.base import Detections
from heatv2x.model.links import in_order
from heatv2x.training.end_to_end import CollaborativeTraining
from heatv2x.training.gcft import CollaborativeFineTuning
from heatv2x.training.lhft import LocalFineTuning
from heatv2x.training.loop import frozen_digest, train
from heatv2x.training.reader import ReaderTraining
from heatv2x.training.stage import Stage
from tests.scene_factory import GRID, changed, state_copy
from tests.training.stages import FAST, STAGES, WINDOW, build_stage

MINE = ("senders.lidar16.", "receivers.lidar16.", "fusion.types.lidar16.")
DECLARED = {"local": MINE[:1], "collaborative": MINE, "base": ("",), "full": ("",), "reader": ("reader.",)}


def drawn(stage: Stage, seed: int = 0) -> object:
    return stage.batch(np.random.default_rng(seed))


@pytest.mark.parametrize("name", STAGES)
def test_exactly_the_declared_tensors_change(name: str) -> None:
    stage = build_stage(name)
    model, before = stage.model, state_copy(stage.model)
    record = train(stage, FAST.model_copy(update={"steps": 4}))
    moved = changed(before, model.state_dict())
    parameters = {key for key, _ in model.named_parameters()}
    wanted = {key for key in parameters if key.startswith(DECLARED[name])}
    assert set(stage.trainable()) == wanted and wanted
    if name in ("local", "collaborative", "reader"):
        assert moved == wanted
        assert record.frozen_proof["tensors"] == len(before) - len(wanted)
        assert record.frozen_proof["bit_identical"] and record.frozen_proof["sha256"] == frozen_digest(model)[1]
    else:
        assert {key for key in moved if key in parameters} == wanted
        assert moved - wanted == {key for key in before if key not in parameters}, "statistics move with them"
        assert record.frozen_proof["tensors"] == 0
    assert record.trained_parameters == sum(dict(model.named_parameters())[key].numel() for key in wanted)
    assert not model.training


@pytest.mark.parametrize("name", STAGES)
def test_batches_come_from_the_generator_alone(name: str) -> None:
    stage, twin = build_stage(name), build_stage(name)
    drawn(stage, 5)
    torch.manual_seed(99)
    np.random.seed(99)
    stage.set_mode()
    twin.set_mode()
    one, other, third = (float(s(drawn(s, seed)).detach()) for s, seed in ((stage, 1), (twin, 1), (stage, 2)))
    assert one == other != third


@pytest.mark.parametrize("name", STAGES)
def test_the_loss_is_the_sum_of_its_terms(name: str) -> None:
    stage = build_stage(name)
    stage.set_mode()
    loss = stage(drawn(stage))
    assert loss.requires_grad and float(loss.detach()) == pytest.approx(float(sum(stage.last_terms.values())), rel=1e-5)
    assert set(stage.last_terms) >= {"heatmap", "box"}


@pytest.mark.parametrize("name", STAGES)
def test_the_loss_falls_on_a_batch_learned_by_heart(name: str) -> None:
    stage = build_stage(name)
    for key, parameter in stage.model.named_parameters():
        parameter.requires_grad_(key in set(stage.trainable()))
    stage.set_mode()
    batch = drawn(stage)
    optimizer = torch.optim.Adam([p for p in stage.model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(12):
        loss = stage(batch)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0], losses


def test_frozen_stages_leave_every_part_in_evaluation_mode() -> None:
    for name in ("local", "collaborative"):
        stage = build_stage(name)
        stage.model.train()
        stage.set_mode()
        assert not any(module.training for module in stage.model.modules())
    stage = build_stage("base")
    stage.set_mode()
    assert all(module.training for module in stage.model.modules())


class TestLocal:
    def test_a_batch_is_crops_of_the_cache_with_what_each_agent_sees(self) -> None:
        stage = build_stage("local")
        assert isinstance(stage, LocalFineTuning)
        batch, cache = stage.batch(np.random.default_rng(3)), stage.cache
        assert batch.encoded.shape == (3, 16, 12, 12) and batch.encoded.dtype == torch.float32
        for encoded, boxes, window in zip(batch.encoded, batch.boxes, batch.windows, strict=True):
            row = next(
                row for row, whole in enumerate(cache.features["lidar16"])
                if torch.equal(GRID.crop(whole, window).float(), encoded)
            )  # fmt: skip
            where, member = divmod(row, 3)
            frame = cache.frame_as(where, {member: "lidar16"})
            truth = ground_truth(frame, member, [member]).boxes
            inside = (np.abs(truth[:, :2]) <= 12.8).all(axis=1)
            np.testing.assert_allclose(boxes.numpy(), truth[inside], atol=1e-6)

    def test_it_needs_no_other_agent(self) -> None:
        """Only the newcomer's own features are in its cache; the fusion and other encoders could be absent."""
        stage = build_stage("local")
        stage.model.fusion.forward = None  # type: ignore[assignment, method-assign]
        assert torch.isfinite(stage(drawn(stage)))


class TestCollaborative:
    def test_every_scene_holds_the_newcomer(self) -> None:
        stage = build_stage("collaborative")
        assert isinstance(stage, CollaborativeFineTuning)
        seats = set()
        for seed in range(8):
            batch = stage.batch(np.random.default_rng(seed))
            assert not batch.inputs and len(batch.links.windows) == 3
            assert all(isinstance(w, BevGrid) and w.shape == (12, 12) for w in batch.links.windows)
            first = [*batch.links.ego.tolist(), len(batch.types)]
            for start, end in itertools.pairwise(first):
                assert "lidar16" in batch.types[start:end]
                seats.add(batch.types[start] == "lidar16")
            assert {name: len(value) for name, value in batch.features.items()} == {
                name: batch.types.count(name) for name in set(batch.types)
            }
        assert seats == {True, False}, "the newcomer is sometimes the ego and sometimes not"

    def test_the_loss_is_that_of_the_whole_line(self) -> None:
        """From cached features, but the same warp, fusion, neck and head as in use."""
        stage = build_stage("collaborative")
        assert isinstance(stage, CollaborativeFineTuning)
        model, batch = stage.model, stage.batch(np.random.default_rng(1))
        shared = {
            name: model.to_shared_space(name, feature) if name == "lidar16" else feature
            for name, feature in batch.features.items()
        }
        maps = model.collaborate(in_order(shared, batch.types), batch.types, batch.links)
        terms = model.head.loss(maps, batch.boxes, batch.links.windows, WINDOW.margin)
        losses = stage.losses(batch)
        assert all(torch.equal(losses[name], value) for name, value in terms.items())

    def test_cached_rows_are_those_of_the_scenes(self) -> None:
        stage = build_stage("collaborative")
        assert isinstance(stage, CollaborativeFineTuning)
        batch = stage.batch(np.random.default_rng(4))
        rng = np.random.default_rng(4)
        scenes = [stage.cache.draw_scene(stage.scenes, stage.types, rng, "lidar16") for _ in range(3)]
        rows = [row for scene in scenes for row in stage.cache.rows(scene)]
        together = in_order(batch.features, batch.types)
        for row, name, feature in zip(rows, batch.types, together, strict=True):
            assert torch.equal(stage.cache.features[name][row].float(), feature)


class TestEndToEnd:
    def test_full_fine_tuning_always_has_the_newcomer(self) -> None:
        stage = build_stage("full")
        for seed in range(6):
            batch = drawn(stage, seed)
            first = [*batch.links.ego.tolist(), len(batch.types)]  # type: ignore[attr-defined]
            for start, end in itertools.pairwise(first):
                assert "lidar16" in batch.types[start:end]  # type: ignore[attr-defined]

    def test_terms(self) -> None:
        stage = build_stage("base")
        assert isinstance(stage, CollaborativeTraining)
        assert set(stage.losses(stage.batch(np.random.default_rng(0)))) == {"heatmap", "box", "auxiliary", "occupancy"}

    def test_confidence_learns_from_each_agents_own_labels(self) -> None:
        stage = build_stage("base")
        assert isinstance(stage, CollaborativeTraining)
        batch = stage.batch(np.random.default_rng(0))
        term = stage.losses(batch)["occupancy"]
        stage.occupancy_weight = 1.0
        assert float(stage.losses(batch)["occupancy"].detach()) == pytest.approx(5 * float(term.detach()), rel=1e-4)
        term.backward()
        confidence = stage.model.fusion.confidence.weight  # type: ignore[union-attr]
        assert confidence.grad is not None and confidence.grad.any()  # type: ignore[union-attr]
        batch.own_boxes = [boxes[:0] for boxes in batch.own_boxes]
        assert float(stage.losses(batch)["occupancy"].detach()) != pytest.approx(5 * float(term.detach()), rel=1e-3)


def test_a_reader_learns_nothing_where_nobody_sends_a_box() -> None:
    """As after a base that was hardly trained: a step without anything to read is no error."""
    stage = build_stage("reader")
    assert isinstance(stage, ReaderTraining)
    nothing = Detections(torch.zeros(0, 7), torch.zeros(0))
    stage.boxes = {name: [nothing] * len(found) for name, found in stage.boxes.items()}
    before = state_copy(stage.model)
    record = train(stage, FAST.model_copy(update={"steps": 2, "weight_decay": 0.0}))
    assert record.steps == 2 and not changed(before, stage.model.state_dict())
