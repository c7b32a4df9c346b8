"""Trying explanations on sweeps: named ones, and searches for the turn or the shift that fits best."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from heatv2x.data.plausibility import box_mistakes
from heatv2x.data.plausibility.box_fit import Fit, Sight, near_boxes, shares, sight
from heatv2x.data.plausibility.box_mistakes import Explanation
from heatv2x.data.plausibility.plane import ground_plane
from heatv2x.data.plausibility.sweep import Sweep
from heatv2x.structures import Bool, Float64

SHIFTED = "shifted"
_LEAST_SHIFT_M = 0.6
_LEAST_TURN_DEG = 3.0
_FLOATS_M = 0.4
_SCANNED = 7
"""Boxes of a sweep on which turns and shifts are searched; the best is tried on all."""

Way = Callable[[Sweep], Iterable[Explanation]]
Rows = Callable[[Sweep], Bool]


@dataclass
class Tried:
    """How well one explanation fits all sweeps of a group."""

    key: str
    cause: str
    fit: Fit = field(default_factory=Fit)
    explanations: list[tuple[Sweep, Explanation]] = field(default_factory=list)

    def sight(self, rows: Rows) -> Sight:
        """How many of the boxes hold points, and how many are seen through."""
        total = Sight()
        for sweep, each in self.explanations:
            boxes, size = each.T_agent_object[rows(sweep)], each.size[rows(sweep)]
            near = near_boxes(boxes, sweep.agent_id < 0)
            total += sight(sweep.points, boxes[near], size[near])
        return total

    def float_m(self, rows: Rows) -> float:
        """How far the boxes' bottoms are from the ground plane of their sweeps, metres (median); 0 if unknown."""
        gaps: list[Float64] = []
        for sweep, each in self.explanations:
            if (plane := ground_plane(sweep)) is not None:
                boxes, size = each.T_agent_object[rows(sweep)], each.size[rows(sweep)]
                near = near_boxes(boxes, sweep.agent_id < 0)
                gaps.append(boxes[near, :3, 3] @ plane[1] + plane[0] - size[near, 2] / 2)
        found = np.concatenate(gaps) if gaps else np.zeros(0)
        return float(abs(np.median(found))) if len(found) else 0.0


def better(actual: Tried, tried: dict[str, Tried], rows: Rows) -> Tried | None:
    """What explains clearly more than the boxes as labelled; the plainest of those that fit equally well."""
    needed = max(1.3 * actual.fit.explained + 2.0, 0.15 * actual.fit.boxes + actual.fit.explained)
    good = [each for each in tried.values() if each.fit.explained >= needed and each.fit.share >= 0.5]
    if not good:
        return None
    most = max(each.fit.explained for each in good)
    close = [each for each in good if each.fit.explained >= 0.9 * most]
    tight = max(each.fit.tight for each in close)
    equal = [each for each in close if each.fit.tight >= 0.97 * tight]
    return min(equal, key=lambda each: each.float_m(rows) > _FLOATS_M)


def attempt(sweeps: list[Sweep], ways: Way, rows: Rows, most: int | None = None) -> dict[str, Tried]:
    """How well each of several explanations fits, by key; on the `most` nearest boxes of each sweep."""
    tried: dict[str, Tried] = {}
    for sweep in sweeps:
        wanted = rows(sweep)
        for each in ways(sweep):
            known = tried.setdefault(each.key, Tried(each.key, each.cause))
            boxes, size = each.T_agent_object[wanted], each.size[wanted]
            near = near_boxes(boxes, sweep.agent_id < 0)[:most]
            explained, tight = shares(sweep.points, boxes[near], size[near]).sum(axis=0)
            known.fit += Fit(len(near), float(explained), float(tight))
            known.explanations.append((sweep, each))
    return tried


def own(sweep: Sweep) -> Bool:
    """(N,) objects that the agent labels itself."""
    return sweep.own


def others(sweep: Sweep) -> Bool:
    """(N,) objects that only other agents label."""
    return np.asarray(~sweep.own)


def as_labelled(sweep: Sweep) -> list[Explanation]:
    """The boxes as they are."""
    return [box_mistakes.as_labelled(sweep)]


def headings(sweeps: list[Sweep], rows: Rows) -> dict[str, Tried]:
    """The turn of the agent about its own z axis that fits best, coarsely and then by degrees."""
    best = 0.0
    for steps in (np.arange(-180.0, 180.0, 5.0), np.arange(-4.0, 4.1, 1.0)):
        turns = steps + best
        tried = attempt(sweeps, functools.partial(box_mistakes.turned, degrees=turns), rows, _SCANNED)
        found = max(tried.values(), key=lambda each: each.fit.explained + each.fit.tight)
        best = float(turns[int(found.key.split()[1])])
    if abs(best) < _LEAST_TURN_DEG:
        return {}
    (found,) = attempt(sweeps, functools.partial(box_mistakes.turned, degrees=np.array([best])), rows).values()
    off = (180 - best) % 360 - 180
    cause = f"the heading of the pose is off by about {off:.0f}°"
    return {"heading": replace(found, key=f"heading off by {round(off, -1):.0f}°", cause=cause)}


def shifts(sweeps: list[Sweep], rows: Rows) -> dict[str, Tried]:
    """The shift of the boxes that fits best: up and down or sideways, then both, then finely."""
    up = np.zeros((11, 3))
    up[:, 2] = np.arange(-2.5, 2.6, 0.5)
    side = np.zeros((11, 11, 3))
    side[..., 0], side[..., 1] = np.meshgrid(np.arange(-3.75, 3.8, 0.75), np.arange(-3.75, 3.8, 0.75))
    near = np.stack(np.meshgrid(*[[-0.35, 0.0, 0.35]] * 3), axis=-1).reshape(-1, 3)
    best = np.zeros(3)
    found = Tried(SHIFTED, "")
    for steps in (np.concatenate([up, side.reshape(-1, 3)]), up, near, near / 2):
        tried = attempt(sweeps, functools.partial(box_mistakes.shifted, steps=steps + best), rows, _SCANNED)
        found = max(tried.values(), key=lambda each: _standing(each, rows))
        best = best + steps[int(found.key.split()[1])]
    if np.abs(best).max() < _LEAST_SHIFT_M:
        return {}
    (found,) = attempt(sweeps, functools.partial(box_mistakes.shifted, steps=best[None]), rows).values()
    return {SHIFTED: replace(found, key=SHIFTED)}


def _standing(tried: Tried, rows: Rows) -> float:
    """How well boxes fit, and stand on the ground."""
    return tried.fit.explained + tried.fit.tight - tried.fit.boxes * min(tried.float_m(rows), 1.0)


def step_of(tried: Tried) -> Float64:
    """(3,) by how much a shift moves the boxes, in the agent's frame."""
    sweep, explanation = tried.explanations[0]
    return np.asarray(explanation.T_agent_object[0, :3, 3] - sweep.T_agent_object[0, :3, 3])
