"""Average precision against HEAL's and OpenCOOD's numbers, against a plain loop, and by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heatv2x.errors import ConfigError
from heatv2x.evaluation.average_precision import ApAccumulator, ApResult
from heatv2x.evaluation.protocols import (
    DAIR_OFFICIAL_3D,
    DAIR_OFFICIAL_BEV,
    HEAL,
    HEATV2X,
    OPENCOOD_UNSORTED,
    PROTOCOLS,
    Protocol,
    find_protocol,
)
from heatv2x.geometry.boxes import boxes_from_corners, rotated_iou_bev
from heatv2x.structures import Boxes3D
from tests.calls import calls_of

Frames = list[tuple[Boxes3D, Boxes3D]]
GOLDEN = Path(__file__).parents[1] / "golden" / "f_ap.npz"


def at(*x: float, scores: list[float] | None = None, hits: list[int] | None = None, z: float = 0) -> Boxes3D:
    """Cars along the x axis."""
    boxes = np.array([[value, 0, z, 4, 2, 1.5, 0] for value in x], dtype=np.float32).reshape(-1, 7)
    return Boxes3D(
        boxes,
        scores=None if scores is None else np.array(scores, dtype=np.float32),
        hits=None if hits is None else np.array(hits, dtype=np.int32),
    )


def evaluate(frames: Frames, protocol: Protocol = HEATV2X) -> ApAccumulator:
    accumulator = ApAccumulator(protocol)
    for detections, ground_truth in frames:
        accumulator.add(detections, ground_truth)
    return accumulator


def random_frames(seed: int, count: int, truths: int = 6, decimals: int = 6) -> Frames:
    draw = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        truth = np.zeros((int(draw.integers(0, truths + 1)), 7), np.float32)
        truth[:, :2] = draw.uniform(-12, 12, (len(truth), 2))
        truth[:, 3:6] = 4.5, 2, 1.6
        truth[:, 6] = draw.uniform(-3, 3, len(truth))
        found = np.concatenate([truth, truth])[: int(draw.integers(0, 2 * len(truth) + 1))]
        found = found + draw.normal(0, [0.4, 0.4, 0.2, 0.1, 0.1, 0.1, 0.05], found.shape)
        scores = draw.random(len(found)).round(decimals)
        hits = draw.integers(0, 200, len(truth))
        detections = Boxes3D(found.astype(np.float32), scores=scores.astype(np.float32))
        frames.append((detections, Boxes3D(truth, hits=hits.astype(np.int32))))
    return frames


def golden_frames() -> tuple[Frames, dict[str, np.ndarray]]:
    with np.load(GOLDEN) as arrays:
        vectors = {key: arrays[key] for key in arrays.files}
    found, truth = (boxes_from_corners(torch.from_numpy(vectors[key])).numpy() for key in ("det_corners", "gt_corners"))
    counts, gt_counts = np.maximum(vectors["det_count"], 0), vectors["gt_count"]
    ends, gt_ends = counts.cumsum(), gt_counts.cumsum()
    frames = [
        (
            Boxes3D(found[end - count : end], scores=vectors["det_scores"][end - count : end]),
            Boxes3D(truth[gt_end - gt_count : gt_end]),
        )
        for count, end, gt_count, gt_end in zip(counts, ends, gt_counts, gt_ends, strict=True)
    ]
    return frames, vectors


def average_precision_by_loop(frames: Frames, protocol: Protocol, threshold: float) -> float:
    """The definition, one detection at a time."""
    ranking: list[tuple[float, bool]] = []
    for detections, ground_truth in frames:
        assert detections.scores is not None
        order = sorted(range(len(detections)), key=lambda i: (-detections.scores[i], i))
        iou = rotated_iou_bev(
            torch.from_numpy(detections.boxes).double(), torch.from_numpy(ground_truth.boxes).double()
        ).numpy()
        correct = dict.fromkeys(order, False)
        if protocol.matching == "score":
            left = set(range(len(ground_truth)))
            for d in order:
                best = max(left, key=lambda g: iou[d, g], default=None)
                if best is not None and iou[d, best] >= threshold:
                    correct[d] = True
                    left.remove(best)
        else:
            for g in range(len(ground_truth)):
                best = max((d for d in order if not correct[d]), key=lambda d: iou[d, g], default=None)
                if best is not None and iou[best, g] >= threshold:
                    correct[best] = True
        ranking += [(float(detections.scores[d]), correct[d]) for d in order]
    if protocol.sort == "global":
        ranking.sort(key=lambda entry: -entry[0])
    total = sum(len(ground_truth) for _, ground_truth in frames)
    precision = [sum(c for _, c in ranking[: i + 1]) / (i + 1) for i in range(len(ranking))]
    first = 0 if protocol.first_recall_step else 1
    area = sum(max(precision[i:]) for i in range(first, len(ranking)) if ranking[i][1])
    return area / total if total else 0.0


def test_agrees_with_heal_and_opencood() -> None:
    frames, vectors = golden_frames()
    for threshold in (0.3, 0.5, 0.7):
        name = f"{100 * threshold:.0f}"
        assert evaluate(frames).average_precision(threshold) == pytest.approx(
            vectors[f"ap_global_heal_{name}"].item(), abs=1e-12
        )
        assert evaluate(frames, OPENCOOD_UNSORTED).average_precision(threshold) == pytest.approx(
            vectors[f"ap_local_opencood_{name}"].item(), abs=1e-12
        )
    result = evaluate(frames).result()
    assert (result.n_frames, result.n_ground_truth, result.n_detections) == (10, 72, 109)


def test_the_sort_matters_as_facts_say() -> None:
    far = 100.0
    frames = [
        (at(10, far, scores=[0.9, 0.3]), at(10, 20)),
        (at(10, far, scores=[0.7, 0.8]), at(10, 20)),
    ]
    assert evaluate(frames, OPENCOOD_UNSORTED).average_precision(0.5) == pytest.approx(0.375)
    assert evaluate(frames).average_precision(0.5) == pytest.approx(0.41667, abs=1e-5)
    # By hand: ranking hit, miss, hit, miss; precision 1, 2/3 at the hits; the first one is not integrated.
    assert evaluate(frames, DAIR_OFFICIAL_BEV).average_precision(0.5) == pytest.approx((2 / 3) / 4)


PLAIN = sorted(name for name, each in PROTOCOLS.items() if each.iou == "bev" and each.max_extent_m is None)
"""What the plain loop knows: footprints, and no box dropped by its length."""


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(PLAIN))
def test_equals_the_plain_loop(seed: int, name: str) -> None:
    frames = random_frames(seed, 5, decimals=1)
    accumulator = evaluate(frames, PROTOCOLS[name])
    for threshold in (0.3, 0.5, 0.7):
        expected = average_precision_by_loop(frames, PROTOCOLS[name], threshold)
        assert accumulator.average_precision(threshold) == pytest.approx(expected, abs=1e-12)


def test_a_better_score_takes_the_ground_truth_first() -> None:
    # The better-scored detection takes the only box although the other one lies better on it.
    frames = [(at(10.5, 10, scores=[0.9, 0.8]), at(10))]
    assert evaluate(frames).average_precision(0.5) == pytest.approx(1)
    assert evaluate(frames, replace(DAIR_OFFICIAL_BEV, first_recall_step=True)).average_precision(0.5) == pytest.approx(
        0.5
    )


def test_a_detection_takes_the_best_box_that_is_left() -> None:
    frames = [(at(10, 10.1, scores=[0.9, 0.8]), at(10, 11))]
    assert evaluate(frames).average_precision(0.5) == pytest.approx(1)


def test_a_second_detection_of_a_box_is_false() -> None:
    frames = [(at(10, 10, 30, scores=[0.9, 0.8, 0.7]), at(10, 30))]
    assert evaluate(frames).average_precision(0.5) == pytest.approx((1 + 2 / 3) / 2)


def test_overlap_in_space_sees_height() -> None:
    frames = [(at(10, 30, scores=[0.9, 0.8], z=1.0), at(10, 30))]
    in_space = replace(DAIR_OFFICIAL_3D, first_recall_step=True)
    assert evaluate(frames).average_precision(0.7) == pytest.approx(1)
    assert evaluate(frames, in_space).average_precision(0.3) == 0
    assert evaluate([(at(10, scores=[0.9]), at(10))], in_space).average_precision(0.7) == pytest.approx(1)


def test_heal_drops_long_boxes() -> None:
    bus = Boxes3D(np.array([[10, 0, 0, 11, 2.5, 3, 0]], np.float32), scores=np.ones(1, np.float32))
    assert evaluate([(bus, bus)]).average_precision(0.5) == pytest.approx(1)
    assert evaluate([(bus, bus)], HEAL).average_precision(0.5) == 0
    car = at(10, scores=[0.5])
    assert evaluate([(car, car)], HEAL).average_precision(0.5) == pytest.approx(1)


def test_max_detections_keeps_the_best() -> None:
    frames = [(at(80, 10, 30, scores=[0.1, 0.8, 0.9]), at(10, 30))]
    assert evaluate(frames, replace(HEATV2X, max_detections=1)).average_precision(0.5) == pytest.approx(0.5)
    assert evaluate(frames, replace(HEATV2X, max_detections=1)).result().n_detections == 1


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_empty_frames_count(name: str) -> None:
    nothing, truth, found = Boxes3D.empty(), at(10, 20), at(10, 20, scores=[0.9, 0.8])
    protocol = replace(PROTOCOLS[name], first_recall_step=True)
    for frames in ([], [(nothing, nothing)], [(found, nothing)]):
        assert evaluate(frames, protocol).average_precision(0.5) is None, "no ground truth: there is no such number"
    assert evaluate([(nothing, truth)], protocol).average_precision(0.5) == 0
    assert evaluate([(found, truth), (nothing, truth)], protocol).average_precision(0.5) == pytest.approx(0.5)
    false_first = [(at(90, scores=[0.95]), nothing), (found, truth)]
    assert evaluate(false_first, protocol).average_precision(0.5) == pytest.approx(2 / 3)
    for frames in ([], [(nothing, nothing)], [(found, nothing)]):
        result = evaluate(frames, protocol).result()
        assert set(result.ap.values()) == {None} and set(result.ap_interval.values()) == {None}
        assert all(part.score is None for part in (*result.by_distance.values(), *result.by_hits.values()))


def test_by_distance() -> None:
    truth = at(10, 19.8, 30, 60)
    # The second is matched beyond 20 m to a box below it; the last one is matched to nothing, 40 m away.
    found = at(10, 20.2, 40, scores=[0.9, 0.8, 0.95])
    parts = evaluate([(found, truth)]).result().by_distance
    assert list(parts) == ["0-20", "20-35", "35-50", "50+"]
    assert [parts[name].n_ground_truth for name in parts] == [2, 1, 0, 1]
    assert [parts[name].score for name in parts] == [pytest.approx(1), 0, None, 0]


def test_by_hits_is_recall() -> None:
    truth = at(0, 10, 20, 30, 40, 50, hits=[0, 1, 4, 5, 99, 100])
    found = at(10, 30, 50, 200, scores=[0.9, 0.8, 0.7, 1.0])
    parts = evaluate([(found, truth), (found, at(10, 20))]).result().by_hits
    assert list(parts) == ["0", "1-4", "5-19", "20-99", "100+"]
    assert [parts[name].n_ground_truth for name in parts] == [1, 2, 1, 1, 1]
    assert [parts[name].score for name in parts] == [0, 0.5, 1, 0, 1]


@pytest.mark.parametrize("protocol", [HEATV2X, DAIR_OFFICIAL_BEV])
def test_weighted_frames_equal_repeated_frames(protocol: Protocol) -> None:
    frames = random_frames(3, 8)
    weights = np.random.default_rng(1).multinomial(8, np.full(8, 1 / 8), size=20).astype(np.int32)
    weighted = evaluate(frames, protocol)._ranking(0.5)._weighted(weights)
    for row, expected in zip(weights, weighted, strict=True):
        repeated = [frame for frame, count in zip(frames, row, strict=True) for _ in range(count)]
        assert evaluate(repeated, protocol).average_precision(0.5) == pytest.approx(expected, abs=1e-12)
    assert len(set(weighted)) > 10


def test_interval_holds_the_score_and_narrows_with_frames() -> None:
    few, many = (evaluate(random_frames(5, count)).result() for count in (10, 90))
    assert width_of(many) < 0.6 * width_of(few)
    assert evaluate(random_frames(5, 10)).result() == few, "same seed, same numbers"
    alone = evaluate([(at(10, scores=[0.9]), at(10, 20))]).result()
    assert alone.ap == dict.fromkeys(alone.ap, 0.5) and alone.ap_interval["0.5"] is None, "one frame has no spread"
    assert few.ap_interval_over == "frames" and few.n_scenarios == 0


def width_of(result: ApResult) -> float:
    """How wide the interval is; the score lies in it."""
    score, ends = result.ap["0.5"], result.ap_interval["0.5"]
    assert score is not None and ends is not None and 0 <= ends[0] < score < ends[1] <= 1
    return ends[1] - ends[0]


def test_frames_of_a_scenario_are_drawn_together() -> None:
    """Nine frames of each scenario say the same thing: they are as good as one."""
    one_each = random_frames(5, 10)
    accumulators = [ApAccumulator() for _ in range(4)]
    for number, (found, truth) in enumerate(one_each):
        accumulators[0].add(found, truth, f"s{number}")
        for _ in range(9):
            accumulators[1].add(found, truth, f"s{number}")
            accumulators[2].add(found, truth)
            accumulators[3].add(found, truth, "the only one")
    one, nine, as_frames, alone = (accumulator.result() for accumulator in accumulators)
    assert width_of(nine) == pytest.approx(width_of(one)) and width_of(as_frames) < 0.6 * width_of(nine)
    assert (nine.ap_interval_over, nine.n_scenarios, as_frames.ap_interval_over) == ("scenarios", 10, "frames")
    assert alone.n_scenarios == 1 and set(alone.ap_interval.values()) == {None} and alone.ap == nine.ap


def test_the_interval_follows_a_slow_bootstrap_over_scenarios() -> None:
    frames = random_frames(7, 12)
    scenarios = [frames[:1], frames[1:4], frames[4:5], frames[5:9], frames[9:12]]
    draw, slow = np.random.default_rng(2), []
    for _ in range(80):
        picked = [frame for i in draw.integers(0, len(scenarios), len(scenarios)) for frame in scenarios[i]]
        slow.append(average_precision_by_loop(picked, HEATV2X, 0.7))
    accumulator = ApAccumulator(resamples=500, seed=4)
    for number, scenario in enumerate(scenarios):
        for detections, ground_truth in scenario:
            accumulator.add(detections, ground_truth, str(number))
    assert accumulator.result().ap_interval["0.7"] == pytest.approx(tuple(np.quantile(slow, (0.025, 0.975))), abs=0.06)


def test_interval_covers_a_slow_bootstrap() -> None:
    frames = random_frames(7, 8)
    draw, slow = np.random.default_rng(2), []
    for _ in range(80):
        picked = [frames[i] for i in draw.integers(0, len(frames), len(frames))]
        slow.append(average_precision_by_loop(picked, HEATV2X, 0.7))
    accumulator = ApAccumulator(resamples=500, seed=4)
    for detections, ground_truth in frames:
        accumulator.add(detections, ground_truth)
    assert accumulator.result().ap_interval["0.7"] == pytest.approx(tuple(np.quantile(slow, (0.025, 0.975))), abs=0.06)


def test_order_of_frames_and_rows_does_not_matter() -> None:
    frames = random_frames(11, 10)
    turned = [(found[::-1], truth[::-1]) for found, truth in reversed(frames)]
    for threshold in (0.3, 0.7):
        assert evaluate(turned).average_precision(threshold) == evaluate(frames).average_precision(threshold)


def test_result_is_json_with_its_protocol() -> None:
    protocol = replace(HEATV2X, x_range_m=(-51.2, 51.2), y_range_m=(-51.2, 51.2))
    written = json.loads(json.dumps(evaluate(random_frames(1, 4), protocol).result().to_dict(), allow_nan=False))
    assert list(written["ap"]) == ["0.3", "0.5", "0.7"]
    assert written["protocol"]["name"] == "heatv2x"
    assert written["protocol"]["thresholds"] == [0.3, 0.5, 0.7]
    assert written["protocol"]["x_range_m"] == [-51.2, 51.2]
    assert written["breakdown_threshold"] == 0.5
    assert set(written["by_distance"]["0-20"]) == {"score", "n_ground_truth"}
    assert len(written["ap_interval"]["0.7"]) == 2


def test_unknown_names_are_refused() -> None:
    assert find_protocol("heal") is HEAL
    with pytest.raises(ConfigError, match="did you mean 'opencood_opv2v'"):
        find_protocol("opencood")
    with pytest.raises(ValueError, match=r"threshold 0\.6 .*heatv2x"):
        ApAccumulator().average_precision(0.6)
    with pytest.raises(ConfigError, match="thresholds"):
        replace(HEATV2X, thresholds=(0.5, 1.5))
    with pytest.raises(ConfigError, match="only once"):
        replace(HEATV2X, thresholds=(0.5, 0.5))


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="scores"):
        ApAccumulator().add(at(10), at(10))
    with pytest.raises(ValueError, match="detection scores hold a NaN"):
        ApAccumulator().add(at(10, scores=[math.nan]), at(10))
    with pytest.raises(ValueError, match="ground-truth boxes hold a NaN"):
        ApAccumulator().add(at(10, scores=[0.5]), at(math.inf))


def test_ten_thousand_frames_are_feasible() -> None:
    """A frame takes as many calls with many boxes as with few: all of it is array arithmetic."""

    def calls(truths: int) -> int:
        (detections, ground_truth), *_ = random_frames(2, 1, truths=truths)
        accumulator = ApAccumulator()
        return calls_of(lambda: accumulator.add(detections, ground_truth))

    calls(5)  # what is imported and cached at the first time
    few, many = calls(5), calls(100)
    assert many < few + 100


def test_a_subset_is_what_these_frames_alone_would_give() -> None:
    frames = random_frames(3, 6, decimals=2)
    whole = evaluate(frames)
    assert whole.subset(range(6)).ap() == whole.result().ap
    assert whole.subset([1, 4]).ap() == evaluate([frames[1], frames[4]]).result().ap


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_stored_protocol_says_all_that_differs_from_ours(name: str) -> None:
    protocol, stored = PROTOCOLS[name], PROTOCOLS[name].to_dict()
    scope = ("z_range_m", "range_rule", "comm_range_m", "max_agents", "visible_to", "own_body")
    for key in scope:
        value = getattr(protocol, key)
        assert (key in stored) == (value != getattr(HEATV2X, key))
    low, high = protocol.limits[:3], protocol.limits[3:]
    assert all(a < b for a, b in zip(low, high, strict=True))
    assert protocol.x_range_m is None or (low[0], high[0]) == protocol.x_range_m
    assert (protocol.range_rule == "all_corners") <= (protocol.z_range_m is not None)
