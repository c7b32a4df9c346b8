"""Whether points lie where labels say, agent by agent; if not, which common mistake would explain it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from heatv2x.data.plausibility import box_mistakes
from heatv2x.data.plausibility.box_fit import NEAR_M, Fit, Sight
from heatv2x.data.plausibility.box_mistakes import MIRRORED, Explanation
from heatv2x.data.plausibility.box_search import (
    SHIFTED,
    Tried,
    as_labelled,
    attempt,
    better,
    headings,
    others,
    own,
    step_of,
)
from heatv2x.data.plausibility.box_search import shifts as searched_shifts
from heatv2x.data.plausibility.pose_mistakes import pose_mistakes, turned_poses
from heatv2x.data.plausibility.sweep import Group, Sweep, spread
from heatv2x.data.plausibility.verdict import Finding, Verdict, verdicts_of
from heatv2x.structures import Float64

# Measured on the synthetic world (16 and 64 beams, sloped roads) and on streets of boxes: boxes as labelled have a mean
# share of 0.62 to 1, wrong ones 0 to 0.5, and no box as labelled is seen through (docs/data_check.md).
FITTING = 0.6
ENOUGH_BOXES = 8
_TOLD_APART = 0.25
_HANDED = (MIRRORED, "left-handed pose", "left-handed boxes")
_UNKNOWN = "labels and points do not match, and none of the common mistakes explains it"
_SAME_SHIFT_M = 0.8
_STRONG = 0.75
_MANY_BOXES = 6
_LIKE_SHIFTS = ("centre at the top", "centre at the bottom", "points upside down")


def judge_boxes(
    groups: dict[Group, list[Sweep]], labels_in_world: bool = True
) -> tuple[list[Verdict], set[Group], set[Group]]:
    """Verdicts on points and labels, the groups whose points do not fit, and those whose labels prove their poses.

    Each agent of a scenario is judged alone; those with too few labels for that are judged together.
    """
    findings: list[Finding] = []
    shifts: dict[Group, Float64] = {}
    seen, told_apart, fit = Sight(), 0, Fit()
    rest: list[Sweep] = []
    known: set[str] = set()
    proven: set[Group] = set()
    for group, sweeps in groups.items():
        some = spread(sweeps)
        actual = attempt(some, as_labelled, own)["as labelled"]
        if (found := _judge(some, actual, known)) is not None:
            known.add(found[0].key)
            findings.append(Finding(found[0].key, *group, found[1], found[0].cause))
            if found[0].key == SHIFTED:
                shifts[group] = some[0].T_world_agent[:3, :3] @ step_of(found[0])
            continue
        if actual.fit.boxes < ENOUGH_BOXES:
            rest += some
        seen += actual.sight(own)
        fit += actual.fit
        mirrored = attempt(some, box_mistakes.plain_mistakes, own).get(MIRRORED, actual)
        told_apart += actual.fit.explained - mirrored.fit.explained > _TOLD_APART * max(actual.fit.boxes, 1)
        if (other := _judge_labels_of_others(some, actual)) is not None:
            findings.append(Finding(other[0].key, *group, other[1], other[0].cause))
        elif actual.fit.boxes >= ENOUGH_BOXES and (labels_in_world or _seen_by_others(some)):
            proven.add(group)
    if len({sweep.group for sweep in rest}) > 1:
        actual = attempt(rest, as_labelled, own)["as labelled"]
        if (found := _judge(rest, actual, known)) is not None:
            findings.append(Finding(found[0].key, rest[0].split, "all scenarios", None, found[1], found[0].cause))
    findings = [_shift_told(each, shifts) for each in findings]
    wrong = {(each.split, each.scenario, each.agent_id) for each in findings if each.agent_id is not None}
    return [*_summary(findings, seen, fit, told_apart)], wrong, proven


def _summary(findings: list[Finding], seen: Sight, fit: Fit, told_apart: int) -> Iterator[Verdict]:
    yield from verdicts_of("handedness", [each for each in findings if each.key in _HANDED])
    yield from verdicts_of("points and labels", [each for each in findings if each.key not in _HANDED])
    if not findings and fit.boxes < ENOUGH_BOXES:
        few = f"not judged: {fit.boxes} labelled boxes within {NEAR_M:.0f} m of a sweep are too few to judge"
        yield Verdict("points and labels", "note", few)
        yield Verdict("handedness", "note", few)
        return
    told = (
        f"{seen.hold} of {seen.boxes} labelled boxes within {NEAR_M:.0f} m hold points, {seen.empty} are seen through"
    )
    if seen.boxes and all(each.key in _HANDED for each in findings):
        yield Verdict("points and labels", "ok", told)
    if findings:
        return
    if told_apart:
        yield Verdict("handedness", "ok", "labels fit the points clearly worse with left and right swapped")
    else:
        yield Verdict("handedness", "note", "undecided: labels fit the points equally well with left and right swapped")


def _judge(sweeps: list[Sweep], actual: Tried, known: set[str]) -> tuple[Tried, str] | None:
    """What explains these sweeps better than the boxes as labelled, and what was seen; None if they fit.

    Args:
        known: mistakes that were found at other agents, which are tried first.
    """
    if sum(int(own(sweep).sum()) for sweep in sweeps) < ENOUGH_BOXES or not any(len(s.points) for s in sweeps):
        return None
    best = _explained(sweeps, actual, known)
    now = actual.sight(own)
    seen = _told(now)
    if best is not None:
        then = best.sight(own)
        return best, f"{seen}; {then.hold} of {then.boxes} would hold points if corrected"
    unheld = now.boxes >= 2 * ENOUGH_BOXES and not now.hold
    if unheld or (now.empty >= ENOUGH_BOXES // 2 and now.empty > now.hold):
        return Tried("points and labels", _UNKNOWN), seen
    return None


def _explained(sweeps: list[Sweep], actual: Tried, known: set[str]) -> Tried | None:
    fits = actual.fit.share >= FITTING
    tried = attempt(sweeps, box_mistakes.plain_mistakes, own)
    best = better(actual, tried, own)
    if fits or (best is not None and best.fit.share >= _STRONG and best.key not in _LIKE_SHIFTS):
        return best
    few = spread(sweeps, 2 if actual.fit.boxes >= _MANY_BOXES * len(sweeps) else 4)
    actual = attempt(few, as_labelled, own)["as labelled"]
    named = attempt(few, lambda sweep: _named(sweep, known), own) if known else {}
    if (best := better(actual, named, own)) is not None and best.fit.share >= _STRONG:
        return best
    tried = attempt(few, box_mistakes.plain_mistakes, own) | attempt(few, box_mistakes.mistakes, own)
    best = better(actual, tried, own)
    if best is not None and best.fit.share >= _STRONG and best.key not in _LIKE_SHIFTS:
        return best
    return better(actual, tried | headings(few, own) | searched_shifts(few, own), own)


def _named(sweep: Sweep, known: set[str]) -> Iterator[Explanation]:
    return (each for each in box_mistakes.mistakes(sweep) if each.key in known)


def _seen_by_others(sweeps: list[Sweep]) -> bool:
    """Whether objects that only other agents label hold this agent's points, which proves its pose."""
    theirs = attempt(sweeps, as_labelled, others)["as labelled"].sight(others)
    return theirs.hold >= ENOUGH_BOXES // 2 and theirs.hold > 2 * theirs.empty


def _judge_labels_of_others(sweeps: list[Sweep], actual: Tried) -> tuple[Tried, str] | None:
    """The same for objects that only other agents label, which fit where both agents' poses are right.

    An agent's own labels always fit its points where a dataset labels in the frame of each sensor.
    """
    theirs = attempt(sweeps, as_labelled, others)["as labelled"]
    now = theirs.sight(others)
    if actual.fit.share < FITTING or now.empty < ENOUGH_BOXES // 2 or now.empty <= now.hold:
        return None
    few = spread(sweeps, 2)
    best = better(attempt(few, as_labelled, others)["as labelled"], attempt(few, _relative_poses, others), others)
    seen = f"of the objects that only other agents label: {_told(now)}"
    if best is None:
        return Tried("labels of others", "the poses of the agents do not match"), seen
    then = best.sight(others)
    return best, f"{seen}; {then.hold} of {then.boxes} would hold points if corrected"


def _relative_poses(sweep: Sweep) -> Iterator[Explanation]:
    """Mistakes in the poses of both agents of a frame, of this agent, or of the only other one, whose boxes move."""
    if len(sweep.poses) == 2:
        (other,) = [agent for agent in sweep.poses if agent != sweep.agent_id]
        theirs = {each.key: each for each in pose_mistakes(sweep.poses[other])}
        for each in pose_mistakes(sweep.T_world_agent):
            if (same := theirs.get(each.key)) is not None:
                boxes = np.linalg.inv(each.matrix) @ same.matrix @ np.linalg.inv(sweep.poses[other])
                key, cause = f"{each.key} of all agents", f"{each.cause} (all agents)"
                yield Explanation(key, cause, boxes @ sweep.T_world_object, sweep.size)
    for agent_id, T in sweep.poses.items():
        if agent_id != sweep.agent_id and len(sweep.poses) != 2:
            continue
        rest = {other: each for other, each in sweep.poses.items() if other != agent_id}
        for each in (*pose_mistakes(T, rest), *turned_poses(T, 10)):
            T_right_wrong = each.matrix @ np.linalg.inv(T)
            moves = np.linalg.inv(T_right_wrong) if agent_id == sweep.agent_id else T_right_wrong
            boxes = sweep.T_agent_world @ moves @ sweep.T_world_object
            if agent_id == sweep.agent_id:
                boxes = np.linalg.inv(each.matrix) @ sweep.T_world_object
            yield Explanation(f"{each.key} of agent {agent_id}", f"{each.cause} (agent {agent_id})", boxes, sweep.size)


def _shift_told(finding: Finding, shifts: dict[Group, Float64]) -> Finding:
    """A shift that all agents of a scenario share in the world is the boxes', another one is the pose's."""
    if finding.key != SHIFTED or finding.agent_id is None:
        return finding
    mine = shifts[finding.split, finding.scenario, finding.agent_id]
    same = [step for group, step in shifts.items() if group[:2] == (finding.split, finding.scenario)]
    common = len(same) > 1 and all(np.abs(step - mine).max() < _SAME_SHIFT_M for step in same)
    told = f"({mine[0]:+.1f}, {mine[1]:+.1f}, {mine[2]:+.1f}) m in the world"
    if common and np.abs(mine[:2]).max() > 0.4:
        return replace(finding, key="boxes shifted", cause=f"the boxes are shifted: they would fit if moved by {told}")
    cause = (
        "the pose is not that of the LiDAR but of another point, such as the vehicle's body: "
        f"the boxes would fit if moved by {told}"
    )
    if common:
        cause += ", which is the same for all agents, so that the boxes may be shifted instead"
    return replace(finding, key="pose of another point", cause=cause)


def _told(seen: Sight) -> str:
    return (
        f"{seen.boxes} labelled boxes within {NEAR_M:.0f} m, {seen.hold} hold points and {seen.empty} are seen through"
    )
