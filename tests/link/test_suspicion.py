"""What an ego does not believe: other places and times, features that hide what it sees, boxes in place of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heatv2x.errors import MessageError
from heatv2x.link.message import Message
from heatv2x.link.pose_refinement import refine
from heatv2x.link.suspicion import Loss, concerns, stands_out, survives
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.exchange import _merged
from heatv2x.model.heads.base import Detections
from heatv2x.model.variants import exchanging
from heatv2x.structures import Boxes3D, Frame, Pose
from tests.scene_factory import SmallScenes, joined, small_model

PLACE = {"position": Pose.planar(500.0, 0.0, 0.0), "nearby": Pose.planar(20.0, 0.0, 0.0)}


@pytest.fixture(scope="module")
def model() -> Collaboration:
    return joined(small_model(), shake=0.02)


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SmallScenes().read(0, ["lidar64", "lidar16"])


@pytest.fixture(scope="module")
def spoken(model: Collaboration, frame: Frame) -> list[Message]:
    """The ego's message and those of the others."""
    return [model.encode(agent, "lidar64") for agent in frame.agents]


def same(first: Boxes3D, second: Boxes3D) -> bool:
    return np.array_equal(first.boxes, second.boxes) and np.array_equal(first.scores, second.scores)  # type: ignore[arg-type]


class TestPlaceAndTime:
    @pytest.mark.parametrize("change", [{"pose": PLACE["position"]}, {"captured_us": 11_000_000}])
    def test_what_does_not_concern_the_ego_changes_nothing(
        self, change: dict[str, Any], model: Collaboration, spoken: list[Message]
    ) -> None:
        ego, other, *_ = spoken
        elsewhere = replace(other, **change)
        assert concerns(ego, other, model.grid) and not concerns(ego, elsewhere, model.grid)
        alone, heard = model.detect(ego), model.detect(ego, [other])
        assert same(model.detect(ego, [elsewhere]), alone) and not same(heard, alone)
        assert same(model.detect(ego, [elsewhere, other]), heard)
        assert model.refined(ego, [elsewhere]) == []

    def test_points_reach_further_than_maps(self, model: Collaboration, spoken: list[Message], frame: Frame) -> None:
        early = exchanging(small_model(), "points")
        ego, other = (early.encode(agent, "lidar64") for agent in frame.agents[:2])
        away = replace(other, pose=Pose.planar(200.0, 0.0, 0.0))
        assert concerns(ego, away, early.grid)
        assert not concerns(ego, replace(away, pose=PLACE["position"]), early.grid)
        assert not concerns(spoken[0], replace(spoken[1], pose=away.pose), model.grid)


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "sigma": {"sigma_m": 1e38},
    "position": {"pose": Pose.planar(1e30, 0.0, 0.0)},
    "not a number": {"feature": torch.full((16, 16, 16), torch.nan)},
    "infinite": {"feature": torch.full((16, 16, 16), torch.inf)},
    "bright": {"feature": torch.full((16, 16, 16), 2e4)},
    "score": {"boxes": Boxes3D(np.ones((1, 7), np.float32), scores=np.float32([9.0]))},
    "flat": {"boxes": Boxes3D(np.zeros((1, 7), np.float32), scores=np.float32([0.5]))},
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_is_refused_without_bytes_too(case: str, model: Collaboration, spoken: list[Message]) -> None:
    ego, other, *_ = spoken
    for method in (model.detect, model.refined):
        with pytest.raises(MessageError):
            method(ego, [replace(other, **IMPOSSIBLE[case])])


class TestFeatures:
    def test_honest_ones_do_not_stand_out(self, model: Collaboration, spoken: list[Message]) -> None:
        features = [message.feature for message in spoken if message.feature is not None]
        assert not any(stands_out(theirs, own) for theirs in features for own in features)

    @pytest.mark.parametrize(
        "change",
        [lambda x: 20 * x, lambda x: torch.full_like(x, 3 * float(x.abs().max())), lambda x: x + 50 * (x == x.max())],
        ids=["scaled", "constant", "one cell"],
    )
    def test_what_stands_out(self, change: Any, spoken: list[Message]) -> None:
        feature = spoken[1].feature
        assert feature is not None and stands_out(change(feature), feature)

    @pytest.mark.parametrize("value", [50.0, 9e3])
    def test_a_feature_that_hides_what_the_ego_sees_is_left_out(
        self, value: float, spoken: list[Message], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("heatv2x.link.suspicion._BELIEVED", 0.0)  # the small model believes in nothing
        model = joined(small_model(), shake=0.02)
        ego, other, *_ = spoken
        assert other.feature is not None
        hostile = replace(other, feature=torch.full_like(other.feature, value))
        assert same(model.detect(ego, [hostile]), model.detect(ego))
        assert "messages ignored: they hide what the ego detects by itself" in caplog.text

    def test_one_that_stands_out_and_does_no_harm_is_used(
        self, model: Collaboration, spoken: list[Message], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("heatv2x.model.exchange.stands_out", lambda *_: True)
        monkeypatch.setattr("heatv2x.model.exchange.survives", lambda *_: True)
        ego, *others = spoken
        odd = model.detect(ego, others)
        monkeypatch.undo()
        assert same(odd, model.detect(ego, others))

    @pytest.mark.parametrize(
        ("shift", "lost", "fine"),
        [(0.0, 0, True), (0.0, 2, True), (0.0, 5, False), (2.1, 5, False), (1.6, 5, True), (1.6, 20, False)],
    )
    def test_survival(self, shift: float, lost: int, fine: bool) -> None:
        """Of 20 boxes of 4 m some are gone (0.0: not there; 2.1 m: overlap 0.31), or moved (1.6 m: overlap 0.43)."""
        rows = np.float32([[10 * n, 0, 0, 4, 2, 1.5, 0] for n in range(20)])
        alone = Boxes3D(rows, scores=np.full(20, 0.6, np.float32))
        found = rows.copy()
        found[:lost, 0] += shift
        heard = Boxes3D(found if shift else found[lost:], scores=np.full(20 if shift else 20 - lost, 0.6, np.float32))
        assert survives(alone, heard, Loss(gone=0.1, moved=0.25 if shift != 2.1 else 0.2)) == fine

    def test_faint_detections_count_where_they_are_asked_for(self) -> None:
        rows = np.float32([[10 * n, 0, 0, 4, 2, 1.5, 0] for n in range(20)])
        alone = Boxes3D(rows, scores=np.full(20, 0.1, np.float32))
        assert survives(alone, Boxes3D.empty(), Loss(gone=0.1, moved=0.1))
        assert not survives(alone, Boxes3D.empty(), Loss(gone=0.1, moved=0.1, faint=0.5))


def detections(*rows: tuple[float, float]) -> Detections:
    """Cars along x by (x, score)."""
    boxes = torch.tensor([[x, 0, 0, 4, 2, 1.5, 0] for x, _ in rows]).view(-1, 7)
    return Detections(boxes, torch.tensor([score for _, score in rows]))


def scored(found: Boxes3D) -> list[tuple[float, float]]:
    assert found.scores is not None
    return [(round(float(x), 2), round(float(s), 2)) for x, s in zip(found.boxes[:, 0], found.scores, strict=True)]


class TestBoxes:
    @pytest.mark.parametrize(
        ("own", "theirs", "wanted"),
        [
            ((0, 0.5), (0.5, 0.9), [(0.5, 0.9)]),  # agrees, and is surer
            ((0, 0.9), (0.5, 0.95), [(0, 0.9)]),  # the ego is sure
            ((0, 0.5), (2.5, 0.9), [(0, 0.5)]),  # touches, but lies elsewhere
            ((0, 0.2), (2.5, 0.9), [(2.5, 0.9)]),  # the ego has hardly seen it
            ((0, 0.5), (9, 0.9), [(9, 0.9), (0, 0.5)]),  # another object
        ],
    )
    def test_who_gives_way(self, own: Any, theirs: Any, wanted: list[tuple[float, float]]) -> None:
        assert scored(_merged(detections(own), [detections(theirs)], guard=True)) == wanted

    def test_among_honest_agents_the_surer_box_stays(self) -> None:
        assert scored(_merged(detections((0, 0.9)), [detections((0.5, 0.95))], guard=False)) == [(0.5, 0.95)]

    def test_a_flood_does_not_crowd_the_ego_out(self) -> None:
        own = detections(*[(20.0 * n, 0.75) for n in range(5)])
        flood = detections(*[(200 + 0.01 * n, 1.0) for n in range(1000)])
        found = _merged(own, [flood] * 8, guard=True)
        assert {(x, s) for x, s in scored(found) if s < 0.9} == {(20.0 * n, 0.75) for n in range(5)}

    def test_the_order_of_senders_does_not_matter(self) -> None:
        generator = torch.Generator().manual_seed(0)
        one, two, own = (
            detections(*[(float(x), float(s)) for x, s in torch.rand(30, 2, generator=generator) * Tensor([60, 1])])
            for _ in range(3)
        )
        assert scored(_merged(own, [one, two], guard=True)) == scored(_merged(own, [two, one], guard=True))


def test_many_boxes_do_not_slow_refinement_down() -> None:
    """As many pairs as 256 boxes on either side give, however many there are."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.uniform(-50, 50, (20_000, 2)), np.zeros(20_000), np.tile([4, 2, 1.5, 0], (20_000, 1))])
    scores = rng.uniform(0.3, 1, 20_000).astype(np.float32)
    best = np.sort(np.argsort(-scores, kind="stable")[:256])
    own = Boxes3D(rows[:40].astype(np.float32), scores=scores[:40])
    many = Boxes3D(rows.astype(np.float32), scores=scores)
    found, wanted = (refine(own, boxes, np.eye(4), 0.4, 0.01) for boxes in (many, many[best]))
    assert np.array_equal(found.T_ego_sender, wanted.T_ego_sender) and found.matches == wanted.matches
