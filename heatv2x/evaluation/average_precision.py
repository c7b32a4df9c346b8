"""Average precision under a named protocol (`metrics.protocols`): matching, ranking, intervals, breakdowns.

Shapes: D detections, G ground-truth boxes of a frame; K pairs; F frames; R bootstrap resamples; H thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from heatv2x.evaluation.protocols import HEATV2X, Protocol
from heatv2x.geometry.boxes import corners_bev, rotated_iou_3d, rotated_iou_bev
from heatv2x.structures import Bool, Boxes3D, Float32, Float64, Int32, Int64

DISTANCE_BINS_M = ((0, 20), (20, 35), (35, 50), (50, None))
HIT_BINS = ((0, 1), (1, 5), (5, 20), (20, 100), (100, None))
_RESAMPLE_CHUNK = 1_000_000  # entries of a block of the bootstrap: a few megabytes, stays in cache


@dataclass(frozen=True)
class BinScore:
    """The score of a part of the ground truth.

    Attributes:
        score: in [0, 1]; None where the part is empty.
        n_ground_truth: how many boxes it holds.
    """

    score: float | None
    n_ground_truth: int


@dataclass(frozen=True)
class ApResult:
    """Average precision of a whole evaluation. All scores lie in [0, 1].

    Attributes:
        protocol: what the numbers mean.
        ap: average precision by threshold, keys "0.3", "0.5", ...; None without any ground truth.
        ap_interval: low and high end of the 95 % bootstrap interval, by threshold; None without ground truth, and where
            there is only one scenario to draw from. It holds the spread of the test data only, not that of the
            training seed.
        ap_interval_over: what is resampled for the interval: whole "scenarios", whose frames are not
            independent of one another, or "frames", where the scenario of a frame is not known.
        by_distance: average precision at `protocol.breakdown_threshold` by distance of the box centre from the ego,
            metres. A matched detection belongs to its ground truth's part, an unmatched one to that of its own centre.
        by_hits: *recall* at that threshold by the number of LiDAR returns on the ground truth, over all detections
            delivered (a false detection has no returns, so there is no precision). Ground truth without a known
            number is left out.
        n_scenarios, n_frames, n_ground_truth, n_detections: what went in; no scenarios where none were named.
    """

    protocol: Protocol
    ap: dict[str, float | None]
    ap_interval: dict[str, tuple[float, float] | None]
    ap_interval_over: Literal["scenarios", "frames"]
    by_distance: dict[str, BinScore]
    by_hits: dict[str, BinScore]
    n_scenarios: int
    n_frames: int
    n_ground_truth: int
    n_detections: int

    def to_dict(self) -> dict[str, Any]:
        """Everything by name, for JSON."""
        return {
            **asdict(self),
            "ap_interval": {key: None if ends is None else list(ends) for key, ends in self.ap_interval.items()},
            "protocol": self.protocol.to_dict(),
            "breakdown_threshold": self.protocol.breakdown_threshold,
        }


@dataclass(frozen=True)
class _MatchedFrame:
    """One frame after matching; detections in descending score, `matches[h, d]` the ground truth's row or -1."""

    scenario: str | None
    scores: Float64
    distances: Float64
    matches: Int64
    gt_distances: Float64
    gt_hits: Int64


class ApAccumulator:
    """Collects detections and ground truth frame by frame, then tells the average precision.

    Args:
        protocol: which overlap, order and matching.
        resamples: bootstrap resamples of the interval.
        seed: of the bootstrap.
    """

    def __init__(self, protocol: Protocol = HEATV2X, *, resamples: int = 300, seed: int = 0) -> None:
        self.protocol = protocol
        self._resamples = resamples
        self._seed = seed
        self._frames: list[_MatchedFrame] = []

    def add(self, detections: Boxes3D, ground_truth: Boxes3D, scenario: str | None = None) -> None:
        """Match one frame. Either side may be empty; leaving a frame out instead would flatter the result.

        Args:
            detections: boxes with scores, in any order, in the ego's frame.
            ground_truth: boxes in the same frame; `hits` are used for the breakdown if they are there.
            scenario: which recording the frame is from; its frames stay together in the interval. Without names every
                frame stands for itself.

        Raises:
            ValueError: detections without scores, or a value that is not finite.
        """
        if detections.scores is None:
            raise ValueError("detections have no scores, so they cannot be ranked")
        for name, values in (
            ("detection boxes", detections.boxes),
            ("detection scores", detections.scores),
            ("ground-truth boxes", ground_truth.boxes),
        ):
            if not np.isfinite(values).all():
                raise ValueError(f"{name} hold a NaN or infinite value; has the training diverged?")
        self._frames.append(_match(_select(detections, self.protocol), ground_truth, self.protocol, scenario))

    def average_precision(self, threshold: float) -> float | None:
        """Average precision in [0, 1] at one of the protocol's thresholds; None where there is no ground truth."""
        return self._ranking(threshold).average_precision()

    def ap(self) -> dict[str, float | None]:
        """Average precision by threshold, keys "0.3", "0.5", ...; None where there is no ground truth at all."""
        return {f"{threshold:g}": self.average_precision(threshold) for threshold in self.protocol.thresholds}

    def subset(self, rows: Sequence[int]) -> ApAccumulator:
        """An accumulator of some of the frames, by the order in which they were added."""
        part = ApAccumulator(self.protocol, resamples=self._resamples, seed=self._seed)
        part._frames = [self._frames[row] for row in rows]
        return part

    @classmethod
    def joined(cls, parts: Sequence[ApAccumulator]) -> ApAccumulator:
        """One accumulator from several of the same protocol, frames in their order."""
        whole = parts[0].subset([])
        whole._frames = [frame for part in parts for frame in part._frames]
        return whole

    def result(self) -> ApResult:
        """Scores, intervals and breakdowns of everything added so far."""
        rankings = {f"{threshold:g}": self._ranking(threshold) for threshold in self.protocol.thresholds}
        return ApResult(
            protocol=self.protocol,
            ap={key: ranking.average_precision() for key, ranking in rankings.items()},
            ap_interval={key: ranking.interval(self._resamples, self._seed) for key, ranking in rankings.items()},
            ap_interval_over="frames" if self._scenarios() is None else "scenarios",
            by_distance=self._by_distance(),
            by_hits=self._by_hits(),
            n_scenarios=len(set(self._scenarios() or ())),
            n_frames=len(self._frames),
            n_ground_truth=sum(len(frame.gt_distances) for frame in self._frames),
            n_detections=sum(len(frame.scores) for frame in self._frames),
        )

    def _scenarios(self) -> list[str] | None:
        """The scenario of every frame; None if one of them came without."""
        names = [frame.scenario for frame in self._frames if frame.scenario is not None]
        return names if names and len(names) == len(self._frames) else None

    def _row(self, threshold: float) -> int:
        if threshold not in self.protocol.thresholds:
            raise ValueError(
                f"threshold {threshold} is not in protocol '{self.protocol.name}': {self.protocol.thresholds}"
            )
        return self.protocol.thresholds.index(threshold)

    def _ranking(self, threshold: float, gt_distance: tuple[float, float | None] = (0, None)) -> _Ranking:
        """All detections in ranking order, or only those that belong to a part of the distances."""
        row = self._row(threshold)
        parts = [_part_at_distance(frame, row, gt_distance) for frame in self._frames]
        scores = _concatenate([frame.scores[part] for frame, (part, _) in zip(self._frames, parts, strict=True)], float)
        correct = [frame.matches[row, part] >= 0 for frame, (part, _) in zip(self._frames, parts, strict=True)]
        sizes = [int(part.sum()) for part, _ in parts]
        frames = np.repeat(np.arange(len(parts)), sizes)
        order = np.argsort(-scores, kind="stable") if self.protocol.sort == "global" else np.arange(len(scores))
        return _Ranking(
            correct=_concatenate(correct, bool)[order],
            frames=frames[order],
            gt_counts=np.array([count for _, count in parts], dtype=np.int64),
            groups=self._groups(),
            first_recall_step=self.protocol.first_recall_step,
        )

    def _groups(self) -> Int64:
        """(F,) number of the scenario of every frame, or of the frame itself."""
        names = self._scenarios()
        if names is None:
            return np.arange(len(self._frames))
        return np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64)

    def _by_distance(self) -> dict[str, BinScore]:
        scores = {}
        for low, high in DISTANCE_BINS_M:
            ranking = self._ranking(self.protocol.breakdown_threshold, (low, high))
            count = int(ranking.gt_counts.sum())
            scores[_bin_name(low, high)] = BinScore(ranking.average_precision(), count)
        return scores

    def _by_hits(self) -> dict[str, BinScore]:
        row = self._row(self.protocol.breakdown_threshold)
        hits = _concatenate([frame.gt_hits for frame in self._frames], np.int64)
        found = _concatenate([_found(frame, row) for frame in self._frames], bool)
        scores = {}
        for low, high in HIT_BINS:
            part = (hits >= low) & (hits < (np.inf if high is None else high))
            name = _bin_name(low, None if high is None else high - 1)
            scores[name] = BinScore(float(found[part].mean()) if part.any() else None, int(part.sum()))
        return scores


@dataclass(frozen=True)
class _Ranking:
    """Detections in the order in which precision is taken.

    Attributes:
        correct: (D,) matched to a ground truth.
        frames: (D,) the frame of each.
        gt_counts: (F,) ground truth of each frame.
        groups: (F,) numbers from 0; frames of the same number are drawn together.
        first_recall_step: see `Protocol`.
    """

    correct: Bool
    frames: Int64
    gt_counts: Int64
    groups: Int64
    first_recall_step: bool

    def average_precision(self) -> float | None:
        """Area under the precision made monotone from the right, all points (VOC 2010); None without ground truth."""
        if not self.gt_counts.any():
            return None
        return float(self._weighted(np.ones((1, len(self.gt_counts)), dtype=np.int32))[0])

    def interval(self, resamples: int, seed: int) -> tuple[float, float] | None:
        """2.5 % and 97.5 % points of the average precision over resampled groups of frames.

        None without ground truth, and with one group only: its spread cannot be known.
        """
        n_groups = int(self.groups.max(initial=-1)) + 1
        if n_groups < 2 or not self.gt_counts.any():
            return None
        draw = np.random.default_rng(seed)
        chance = np.full(n_groups, 1 / n_groups)
        block = max(1, _RESAMPLE_CHUNK // max(len(self.correct), len(self.groups)))
        sampled = []
        for first in range(0, resamples, block):
            drawn = draw.multinomial(n_groups, chance, size=min(block, resamples - first))
            weights = drawn[:, self.groups]
            sampled.append(self._weighted(weights.astype(np.int32))[weights @ self.gt_counts > 0])
        low, high = np.quantile(np.concatenate(sampled), (0.025, 0.975))
        return float(low), float(high)

    def _weighted(self, weights: Int32) -> Float64:
        """(R,) average precision with frame f counted weights[r, f] times.

        Recall moves at correct detections only, and precision is highest there, so only they are looked at. Copies of
        a correct detection stand next to one another, and the monotone precision is the same for all of them.
        """
        total = weights @ self.gt_counts
        hits = np.flatnonzero(self.correct)
        if len(hits) == 0 or not total.any():
            return np.zeros(len(weights))
        frames = self.frames[: hits[-1] + 1]
        ranks = np.cumsum(weights.take(frames, axis=1), axis=1, dtype=np.int32).take(hits, axis=1)
        gained = weights.take(self.frames[hits], axis=1)
        precision = np.cumsum(gained, axis=1, dtype=np.int32) / np.maximum(ranks, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        area = (gained * envelope).sum(axis=1)
        if not self.first_recall_step:
            # The top of the ranking is correct exactly where the first hit has the ranks 1 to its own weight.
            first = (gained > 0).argmax(axis=1)
            rows = np.arange(len(weights))
            leads = (ranks[rows, first] == gained[rows, first]) & (gained[rows, first] > 0)
            area -= np.where(leads, envelope[rows, first], 0.0)
        return np.asarray(area / np.maximum(total, 1))


def _select(detections: Boxes3D, protocol: Protocol) -> Boxes3D:
    """The detections that the protocol lets count, in descending score; of equal scores the earlier row comes first."""
    assert detections.scores is not None
    if protocol.max_extent_m is not None:
        corners = corners_bev(_tensor(detections.boxes)).numpy()
        sides = corners.max(axis=1, initial=-np.inf) - corners.min(axis=1, initial=np.inf)
        detections = detections[(sides <= protocol.max_extent_m).all(axis=1)]
    assert detections.scores is not None
    return detections[np.argsort(-detections.scores, kind="stable")[: protocol.max_detections]]


def _match(detections: Boxes3D, ground_truth: Boxes3D, protocol: Protocol, scenario: str | None) -> _MatchedFrame:
    assert detections.scores is not None
    overlap = rotated_iou_3d if protocol.iou == "3d" else rotated_iou_bev
    boxes, truth = (_tensor(side.boxes) for side in (detections, ground_truth))
    iou = overlap(boxes, truth).numpy()
    matches = np.stack([_greedy(iou, threshold, protocol.matching) for threshold in protocol.thresholds])
    hits = ground_truth.hits
    return _MatchedFrame(
        scenario=scenario,
        scores=detections.scores.astype(np.float64),
        distances=np.hypot(*detections.boxes[:, :2].T).astype(np.float64),
        matches=matches,
        gt_distances=np.hypot(*ground_truth.boxes[:, :2].T).astype(np.float64),
        gt_hits=np.full(len(ground_truth), -1) if hits is None else hits.astype(np.int64),
    )


def _greedy(iou: Float64, threshold: float, matching: Literal["score", "gt_centric"]) -> Int64:
    """(D,) matched ground truth of each detection, -1 for none; rows of `iou` (D, G) in descending score.

    Only pairs over the threshold are visited: the best one left is over it, or there is no match.
    """
    detection, truth = np.nonzero(iou >= threshold)
    chooser, chosen = (detection, truth) if matching == "score" else (truth, detection)
    order = np.lexsort((chosen, -iou[detection, truth], chooser))
    matches = np.full(len(iou), -1, dtype=np.int64)
    taken = np.zeros(iou.shape[1], dtype=bool)
    for d, t in zip(detection[order].tolist(), truth[order].tolist(), strict=True):
        if matches[d] < 0 and not taken[t]:
            matches[d] = t
            taken[t] = True
    return matches


def _part_at_distance(frame: _MatchedFrame, row: int, limits: tuple[float, float | None]) -> tuple[Bool, int]:
    """(D,) which detections belong to the ground truth between two distances, and how many ground truths do."""
    low, high = limits[0], np.inf if limits[1] is None else limits[1]
    matches = frame.matches[row]
    distances = frame.distances.copy()
    distances[matches >= 0] = frame.gt_distances[matches[matches >= 0]]
    within = (frame.gt_distances >= low) & (frame.gt_distances < high)
    return (distances >= low) & (distances < high), int(within.sum())


def _found(frame: _MatchedFrame, row: int) -> Bool:
    """(G,) which ground truths were matched."""
    found = np.zeros(len(frame.gt_hits), dtype=bool)
    found[frame.matches[row][frame.matches[row] >= 0]] = True
    return found


def _tensor(boxes: Float32) -> torch.Tensor:
    """(N, 7) float64. Copied, because torch takes neither reversed nor read-only arrays."""
    return torch.from_numpy(np.array(boxes, dtype=np.float64, order="C"))


def _bin_name(low: float, high: float | None) -> str:
    return f"{low}+" if high is None else f"{low}" if low == high else f"{low}-{high}"


def _concatenate(arrays: list[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The arrays one after another; an empty one where there are none."""
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype)
