"""Average precision of many frames, against loops over polygons as the field's evaluations have them.

Both count the same detections and give the same number; that is checked. The loops follow public descriptions of such
evaluations: at every threshold, detections by descending score, each against every ground truth that is left, one
polygon intersection over one polygon union at a time. Two kinder ones take the union from the areas, and compute each
frame's overlaps once for all thresholds.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from heatv2x.core.workers import Tell
from heatv2x.errors import HeatError
from heatv2x.evaluation.average_precision import ApAccumulator
from heatv2x.evaluation.protocols import HEATV2X
from heatv2x.geometry.boxes import corners_bev
from heatv2x.structures import Bool, Boxes3D, Float64
from studies import sweeps

LOOPS = ("unions", "areas", "once")
_FOUND, _HALF_EXTENT_M = 0.8, 100.0


def measure_matching(frames: int, boxes: int, loop_frames: int, seed: int, tell: Tell) -> dict[str, Any]:
    """Time the whole evaluation of `frames` frames, and the loops on the first `loop_frames` of them.

    Returns:
        CPU seconds per frame of matching and per evaluation of all ranking; of the loops, or None where shapely is not
        installed.

    Raises:
        HeatError: the loops' average precision is another.
    """
    torch.set_num_threads(1)
    accumulator = ApAccumulator()
    one_by_one = []
    for number in range(frames):
        scene = detections(number, boxes, seed)
        start = time.process_time()
        accumulator.add(*scene)
        one_by_one.append(time.process_time() - start)
        if number % 100 == 0:
            tell("average precision", number, frames)
    start = time.process_time()
    accumulator.ap()
    ranking = time.process_time() - start
    loops = _loops(boxes, loop_frames, seed, tell) if importlib.util.find_spec("shapely") else None
    tell("average precision", frames, frames)
    return {
        "frames": frames,
        "boxes": boxes,
        "matching_s": float(np.sum(one_by_one)),
        "matching_s_per_frame": float(np.median(one_by_one)),
        "ranking_s": ranking,
        "loop_frames": loop_frames,
        "loops": loops,
    }


def _loops(boxes: int, frames: int, seed: int, tell: Tell) -> dict[str, float]:
    """CPU seconds per frame of every kind of loop."""
    accumulator = ApAccumulator()
    spent: dict[str, list[float]] = {how: [] for how in LOOPS}
    correct: dict[float, list[Bool]] = {threshold: [] for threshold in HEATV2X.thresholds}
    scores, truths = [], 0
    for number in range(frames):
        found, truth = detections(number, boxes, seed)
        accumulator.add(found, truth)
        for how in LOOPS:
            start = time.process_time()
            told = loop(found, truth, HEATV2X.thresholds, how)
            spent[how].append(time.process_time() - start)
        for threshold, marks in told.items():
            correct[threshold].append(marks)
        assert found.scores is not None
        scores.append(np.sort(found.scores)[::-1])
        truths += len(truth)
        tell("average precision in loops", number + 1, frames)
    for threshold in HEATV2X.thresholds:
        theirs = average_precision(np.concatenate(scores), np.concatenate(correct[threshold]), truths)
        ours = accumulator.average_precision(threshold)
        if ours is None or abs(theirs - ours) > 1e-9:
            raise HeatError(f"the loops give AP{100 * threshold:.0f} {theirs}, ours is {ours}: they do not compare")
    return {how: float(np.mean(seconds)) for how, seconds in spent.items()}


def loop(found: Boxes3D, truth: Boxes3D, thresholds: Sequence[float], how: str) -> dict[float, Bool]:
    """(D,) which detections of a frame are correct at each threshold, in descending score.

    Args:
        how: one of `LOOPS`.
    """
    import shapely  # noqa: PLC0415 - an extra of the tests

    assert found.scores is not None
    order = np.argsort(-found.scores, kind="stable")
    polygons = [shapely.Polygon(corners) for corners in _corners(found)[order]]
    truths = [shapely.Polygon(corners) for corners in _corners(truth)]
    known: dict[tuple[int, int], float] = {}

    def overlap(detection: int, box: int) -> float:
        if how != "once" or (detection, box) not in known:
            a, b = polygons[detection], truths[box]
            shared = a.intersection(b).area
            known[detection, box] = shared / (a.union(b).area if how == "unions" else a.area + b.area - shared)
        return known[detection, box]

    return {threshold: _greedy(len(polygons), len(truths), threshold, overlap) for threshold in thresholds}


def _greedy(detections: int, truths: int, threshold: float, overlap: Callable[[int, int], float]) -> Bool:
    left, correct = list(range(truths)), np.zeros(detections, bool)
    for detection in range(detections):
        overlaps = [overlap(detection, box) for box in left]
        if overlaps and max(overlaps) >= threshold:
            left.pop(int(np.argmax(overlaps)))
            correct[detection] = True
    return correct


def average_precision(scores: Float64, correct: Bool, truths: int) -> float:
    """Area under the monotone precision over all points (VOC 2010), in the plainest way."""
    hits = correct[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / truths)


def detections(number: int, boxes: int, seed: int) -> tuple[Boxes3D, Boxes3D]:
    """What a fair detector says of one frame, and what is there: as many boxes on either side."""
    rng = np.random.default_rng([seed, number])
    truth = sweeps.scene_boxes(boxes, seed + number, _HALF_EXTENT_M)
    shaken = truth + rng.normal(0, [0.3, 0.2, 0.1, 0.2, 0.1, 0.1, 0.05], truth.shape)
    elsewhere = sweeps.scene_boxes(boxes, seed + number + 1_000_000, _HALF_EXTENT_M)
    hit = rng.random(boxes) < _FOUND
    found = np.where(hit[:, None], shaken, elsewhere).astype(np.float32)
    scores = np.where(hit, rng.beta(4, 2, boxes), rng.beta(2, 4, boxes)).astype(np.float32)
    return Boxes3D(found, scores=scores), Boxes3D(truth)


def _corners(boxes: Boxes3D) -> Float64:
    corners: Float64 = corners_bev(torch.from_numpy(boxes.boxes.astype(np.float64))).numpy()
    return corners
