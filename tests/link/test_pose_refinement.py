"""Pose refinement: what two agents both see tells how far a reported pose is off, and nothing else may move it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from heatv2x.core.config import build
from heatv2x.errors import ConfigError
from heatv2x.link.pose_refinement import Refined, RefinementConfig, corrected, refine
from heatv2x.structures import Boxes3D, Pose
from tests.calls import calls_of

SIGMA_M, SIGMA_RAD = 0.6, math.radians(0.6)
SENDER = Pose.planar(25.0, -6.0, 2.5)
CAR = (4.5, 1.9, 1.6)


def boxes_at(places: np.ndarray, score: float = 0.9) -> Boxes3D:
    """Cars at (N, 3) x, y, yaw."""
    rows = np.column_stack([places[:, :2], np.zeros(len(places)), np.tile(CAR, (len(places), 1)), places[:, 2]])
    return Boxes3D(rows.astype(np.float32), scores=np.full(len(rows), score, np.float32))


def seen_by(places: np.ndarray, pose: Pose = SENDER) -> np.ndarray:
    """(N, 3) places of the ego's frame in the frame of an agent that stands at a pose in it."""
    local = (places[:, :2] - pose.xyz[:2]) @ pose.matrix[:2, :2]
    return np.column_stack([local, places[:, 2] - pose.yaw])


def street(seed: int, cars: int = 14) -> np.ndarray:
    """(N, 3) cars along two crossing streets, in the ego's frame, at least six metres apart."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while len(found) < cars:
        along, across = rng.uniform(-45, 45), rng.choice([-5.5, -1.8, 1.8, 5.5]) + rng.normal(0, 0.3)
        crossing = rng.random() < 0.5
        place = np.array([across, along, math.pi / 2] if crossing else [along, across, 0.0])
        if all(np.hypot(*(place - other)[:2]) > 6.0 for other in found):
            place[2] += rng.normal(0, 0.05) + math.pi * rng.integers(2)
            found.append(place)
    return np.array(found)


def off_by(x: float, y: float, yaw: float) -> np.ndarray:
    """T_ego_sender as it is reported when a correction of (x, y, yaw) would put it right."""
    undone = corrected(SENDER.matrix, np.array([0.0, 0.0, -yaw]))
    undone[:2, 3] -= x, y
    return undone


def error(refined: Refined) -> tuple[float, float]:
    """Metres and radians between what was found and where the sender is."""
    T = np.linalg.inv(SENDER.matrix) @ refined.T_ego_sender
    return float(np.hypot(*T[:2, 3])), abs(math.atan2(T[1, 0], T[0, 0]))


def noisy(places: np.ndarray, rng: np.random.Generator, deviation: float = 0.2) -> np.ndarray:
    return places + rng.normal(size=places.shape) * [deviation, deviation, 0.05]


# --- it finds the error ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shift", [(0.0, 0.0, 0.0), (1.1, -0.7, 0.0), (-0.4, 1.3, 0.0), (0.0, 0.0, 0.02), (0.9, 0.8, -0.018)]
)
def test_exact_boxes_give_the_exact_pose_but_for_the_pull_of_the_prior(shift: tuple[float, float, float]) -> None:
    places = street(0)
    refined = refine(boxes_at(places), boxes_at(seen_by(places)), off_by(*shift), SIGMA_M, SIGMA_RAD)
    metres, radians = error(refined)
    assert metres < 0.1 * np.hypot(*shift[:2]) + 0.05 and radians < 0.25 * abs(shift[2]) + 1e-3
    assert refined.matches == pytest.approx(len(places) / 1.05, rel=0.02)
    np.testing.assert_allclose(refined.T_ego_sender[:3, :3] @ refined.T_ego_sender[:3, :3].T, np.eye(3), atol=1e-12)


def test_the_turn_is_about_the_sender_itself() -> None:
    """A heading error moves what is far away by metres and the sender not at all."""
    refined = refine(boxes_at(street(1)), boxes_at(seen_by(street(1))), off_by(0, 0, 0.03), 0.01, math.radians(3))
    metres, radians = error(refined)
    assert metres < 0.01 and radians < 0.002


@pytest.mark.parametrize("seed", range(6))
def test_false_missing_and_noisy_boxes_do_little_harm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places, shift = street(seed, 16), rng.normal(size=3) * [SIGMA_M, SIGMA_M, SIGMA_RAD]
    lies = np.column_stack([rng.uniform(-40, 40, (8, 2)), rng.uniform(-3, 3, 8)])
    own = boxes_at(np.concatenate([noisy(places[:12], rng), lies[:4]]))
    theirs = boxes_at(seen_by(np.concatenate([noisy(places[4:], rng), lies[4:]])))
    metres, radians = error(refine(own, theirs, off_by(*shift), SIGMA_M, SIGMA_RAD))
    assert metres < 0.45 and radians < math.radians(0.8)


def test_on_average_it_helps_and_knows_how_much() -> None:
    before, after, told = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        places, shift = street(seed, 10), rng.normal(size=3) * [SIGMA_M, SIGMA_M, SIGMA_RAD]
        own, theirs = boxes_at(noisy(places, rng, 0.3)), boxes_at(seen_by(noisy(places, rng, 0.3)))
        refined = refine(own, theirs, off_by(*shift), SIGMA_M, SIGMA_RAD)
        before.append(np.hypot(*shift[:2]))
        after.append(error(refined)[0])
        told.append(refined.sigma_m * math.sqrt(2))
    rms = [float(np.sqrt(np.mean(np.square(values)))) for values in (before, after, told)]
    assert rms[1] < 0.4 * rms[0] and 0.5 < rms[2] / rms[1] < 2.0


def test_a_box_is_weighed_against_the_prior() -> None:
    """Two equally certain sources, the reported position and one box: the answer lies between them."""
    config = RefinementConfig(across_m=0.5, along_m=0.5, min_matches=0.0)
    place = np.array([[10.0, 2.0, 0.0]])
    refined = refine(boxes_at(place), boxes_at(seen_by(place)), off_by(0.3, -0.2, 0.0), 0.5, 0.0, config)
    share = refined.matches / (refined.matches + 1)
    moved = refined.T_ego_sender - off_by(0.3, -0.2, 0.0)
    np.testing.assert_allclose(moved[:2, 3], [0.3 * share, -0.2 * share], rtol=1e-4)
    assert refined.sigma_m == pytest.approx(0.5 / math.sqrt(refined.matches + 1))


def test_a_box_has_no_front() -> None:
    places = street(2)
    turned = boxes_at(seen_by(places + np.array([0, 0, math.pi])))
    refined = refine(boxes_at(places), turned, off_by(0.8, -0.5, 0.0), SIGMA_M, SIGMA_RAD)
    assert error(refined)[0] < 0.1


def test_a_box_that_lies_across_is_another_object() -> None:
    places = street(3)
    across = boxes_at(seen_by(places + np.array([0, 0, math.pi / 2])))
    reported = off_by(0.5, 0.5, 0.0)
    assert np.array_equal(refine(boxes_at(places), across, reported, SIGMA_M, SIGMA_RAD).T_ego_sender, reported)


def test_the_order_of_boxes_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    places = street(4)
    own, theirs = boxes_at(noisy(places, rng)), boxes_at(seen_by(noisy(places, rng)))
    mixed = rng.permutation(len(places))
    one = refine(own, theirs, off_by(0.7, 0.2, 0.01), SIGMA_M, SIGMA_RAD)
    other = refine(own[mixed], theirs[mixed[::-1]], off_by(0.7, 0.2, 0.01), SIGMA_M, SIGMA_RAD)
    np.testing.assert_allclose(other.T_ego_sender, one.T_ego_sender, atol=1e-6)
    assert (other.sigma_m, other.sigma_rad) == pytest.approx((one.sigma_m, one.sigma_rad), abs=1e-6)


# --- it leaves alone what it should ---------------------------------------------------------------------------------


def test_a_sender_without_uncertainty_is_believed() -> None:
    places, reported = street(5), off_by(0.8, 0.3, 0.01)
    refined = refine(boxes_at(places), boxes_at(seen_by(places)), reported, 0.0, 0.0)
    assert refined.T_ego_sender is reported and (refined.sigma_m, refined.sigma_rad, refined.matches) == (0, 0, 0)


def test_unless_a_floor_doubts_it() -> None:
    places, doubt = street(5), RefinementConfig(floor_m=0.5, floor_deg=0.5)
    refined = refine(boxes_at(places), boxes_at(seen_by(places)), off_by(0.8, 0.3, 0.01), 0.0, 0.0, doubt)
    assert error(refined)[0] < 0.1 and 0 < refined.sigma_m < 0.5
    alone = refine(boxes_at(places), Boxes3D.empty(), off_by(0.8, 0.3, 0.01), 0.0, 0.0, doubt)
    assert (alone.sigma_m, alone.sigma_rad, alone.matches) == (0, 0, 0)


@pytest.mark.parametrize("sigmas", [(0.6, 0.0), (0.0, 0.02)])
def test_a_part_that_is_certain_stays(sigmas: tuple[float, float]) -> None:
    places = street(6)
    reported = off_by(0.5, -0.4, 0.02)
    refined = refine(boxes_at(places), boxes_at(seen_by(places)), reported, *sigmas)
    moved = corrected(reported, np.zeros(3))
    assert refined.matches > 1
    if sigmas[0] == 0:
        np.testing.assert_allclose(refined.T_ego_sender[:2, 3], moved[:2, 3], atol=1e-4)
    else:
        np.testing.assert_allclose(refined.T_ego_sender[:2, :2], moved[:2, :2], atol=1e-4)
    assert refined.sigma_m <= max(sigmas[0], 0) and refined.sigma_rad <= max(sigmas[1], 0)


@pytest.mark.parametrize("who", ["ego", "sender", "both", "elsewhere", "unsure"])
def test_without_a_shared_box_nothing_changes(who: str) -> None:
    places, reported = street(7), off_by(0.3, 0.3, 0.0)
    own, theirs = boxes_at(places), boxes_at(seen_by(places))
    if who in ("ego", "both"):
        own = Boxes3D.empty()
    if who in ("sender", "both"):
        theirs = Boxes3D.empty()
    if who == "elsewhere":
        theirs = boxes_at(seen_by(places + np.array([300.0, 0, 0])))
    if who == "unsure":
        theirs = replace(theirs, scores=np.full(len(theirs), 0.1, np.float32))
    refined = refine(own, theirs, reported, SIGMA_M, SIGMA_RAD)
    assert refined.T_ego_sender is reported
    assert (refined.sigma_m, refined.sigma_rad, refined.matches) == (SIGMA_M, SIGMA_RAD, 0)


def test_two_boxes_by_chance_are_not_forced_together() -> None:
    """One weak resemblance at the edge of the prior is less likely than no match."""
    own, theirs = boxes_at(np.array([[10.0, 3.0, 0.0]])), boxes_at(seen_by(np.array([[10.0, 6.5, 0.0]])))
    assert refine(own, theirs, SENDER.matrix, 1.0, 0.0).matches == 0


@pytest.mark.parametrize("sigmas", [(1e30, 1e30), (1e-30, 1e30), (3.0, 0.5)])
@pytest.mark.parametrize("scale", [0.1, 30.0, 1e30])
def test_whatever_a_sender_claims_the_answer_is_a_pose_and_comes_soon(
    sigmas: tuple[float, float], scale: float
) -> None:
    """Sixty-four hostile boxes on a crowded street under any claimed uncertainty."""
    rng = np.random.default_rng(0)
    wild = (scale * rng.normal(size=(64, 7))).astype(np.float32)
    own = boxes_at(np.column_stack([rng.uniform(-50, 50, (200, 2)), rng.uniform(-3, 3, 200)]))
    hostile = Boxes3D(wild, scores=np.ones(64, np.float32))
    found = []
    calls = calls_of(lambda: found.append(refine(own, hostile, SENDER.matrix, *sigmas)))
    assert calls < 10_000  # about 1,450, whatever is sent
    refined = found[0]
    assert np.isfinite(Pose(refined.T_ego_sender).matrix).all()
    assert 0 <= refined.sigma_m <= sigmas[0] and 0 <= refined.sigma_rad <= sigmas[1]


# --- parked cars ----------------------------------------------------------------------------------------------------


def parked(missing_ego: int, missing_sender: int) -> tuple[Boxes3D, Boxes3D]:
    """Two rows of ten slots, 2.6 m each; the ego does not see the first slots, the sender not the last."""
    slots = np.arange(10) * 2.6 - 5
    rows = np.concatenate([np.column_stack([slots, np.full(10, y), np.full(10, math.pi / 2)]) for y in (9.0, 20.0)])
    number = np.tile(np.arange(10), 2)
    own, theirs = rows[number >= missing_ego], rows[number < 10 - missing_sender]
    return boxes_at(own), boxes_at(seen_by(theirs))


@pytest.mark.parametrize("missing", [(0, 0), (1, 1), (0, 3)])
@pytest.mark.parametrize("shift", [-0.6, 0.0, 0.5])
def test_a_row_of_parked_cars_does_not_jump_by_a_slot(missing: tuple[int, int], shift: float) -> None:
    metres, _ = error(refine(*parked(*missing), off_by(shift, 0.2, 0.0), 0.4, math.radians(0.4)))
    assert metres < 0.15


def test_a_row_with_another_gap_is_shifted_only_if_the_sender_is_unsure() -> None:
    """Boxes that fit far better one slot on: a sure sender stays, a very unsure one does not."""
    own, _ = parked(1, 0)
    _, theirs = parked(0, 1)
    moved = off_by(2.6, 0.0, 0.0)
    sure = refine(own, theirs, moved, 0.2, math.radians(0.2))
    assert np.hypot(*(sure.T_ego_sender - moved)[:2, 3]) < 0.3
    unsure = refine(own, theirs, moved, 3.0, math.radians(0.2))
    assert unsure.matches > sure.matches


def test_slots_that_fit_equally_well_leave_the_sender_uncertain() -> None:
    """Between two slots, nothing tells which; the deviation that comes back says so."""
    row = np.column_stack([np.arange(12) * 2.6, np.full(12, 9.0), np.full(12, math.pi / 2)])
    own, theirs = boxes_at(row), boxes_at(seen_by(row[1:11]))
    ambiguous = refine(own, theirs, off_by(1.2, 0.0, 0.0), 1.5, 0.001)
    clear = refine(own, boxes_at(seen_by(row)), SENDER.matrix, 0.4, 0.001)
    assert ambiguous.sigma_m > 0.8 and clear.sigma_m < 0.2


# --- the deviation that comes back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_m", [0.02, 0.2, 1.0, 3.0])
def test_the_posterior_is_never_wider_than_the_prior_and_narrows_with_boxes(sigma_m: float) -> None:
    few, many = street(8, 3), street(8, 16)
    sigmas = []
    for places in (few, many):
        refined = refine(boxes_at(places), boxes_at(seen_by(places)), SENDER.matrix, sigma_m, 0.02)
        assert 0 < refined.sigma_m <= sigma_m and 0 < refined.sigma_rad <= 0.02
        sigmas.append(refined.sigma_m)
    assert sigmas[1] < sigmas[0]


def test_along_the_road_less_is_known_than_across_it() -> None:
    """All cars head along x, where detectors are worse; the larger deviation is reported."""
    row = np.array([[0.0, 2.0, 0.0], [9.0, -2.0, 0.0], [31.0, 2.5, 0.0], [44.0, -3.0, 0.0]])
    config = RefinementConfig()
    refined = refine(boxes_at(row), boxes_at(seen_by(row)), SENDER.matrix, 3.0, 1e-6)
    assert refined.sigma_m == pytest.approx(config.along_m / math.sqrt(refined.matches), rel=0.05)


@pytest.mark.parametrize(
    ("key", "value"),
    [("along_m", 0), ("across_m", -1), ("outlier", 0), ("outlier", 1), ("floor_m", -0.1), ("reach", 0)],
)
def test_impossible_settings_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        build(RefinementConfig, {key: value})
