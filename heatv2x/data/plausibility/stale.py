"""Whether labels, poses and sweeps belong to the same moment: moving things tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from heatv2x.data.plausibility.box_fit import near_boxes, shares
from heatv2x.data.plausibility.sweep import Group, Sweep
from heatv2x.data.plausibility.verdict import Finding, Verdict, verdicts_of

_CHANGED_M = 0.4
_CLEARLY = 0.05
_ENOUGH = 5
_MOST = 12
_STEPS = (1, -1, 2, -2, 3, -3, 4, -4)


@dataclass
class _Votes:
    """How many moving boxes fit better and worse at another moment."""

    better: int = 0
    worse: int = 0

    @property
    def sure(self) -> bool:
        return self.better >= _ENOUGH and self.better >= 3 * self.worse


def judge_moments(groups: dict[Group, list[Sweep]]) -> Iterator[Verdict]:
    """Sweeps whose moving boxes fit better where they are some frames earlier or later."""
    findings, voted = [], 0
    for group, sweeps in groups.items():
        votes = {(steps, fixed): _votes(sweeps, steps, fixed) for steps in _STEPS for fixed in (True, False)}
        voted += any(each.better + each.worse >= _ENOUGH for each in votes.values())
        sure = {key: each for key, each in votes.items() if each.sure}
        if not sure:
            continue
        (steps, _), best = max(sure.items(), key=lambda item: item[1].better - item[1].worse)
        when = f"{abs(steps)} frame{'s' if abs(steps) > 1 else ''} {'later' if steps > 0 else 'earlier'}"
        seen = f"{best.better} moving boxes fit its points better where they are {when}, {best.worse} fit worse"
        findings.append(Finding(f"stale {steps}", *group, seen))
    told = []
    for each in findings:
        agents = {group[2] for group in groups if group[:2] == (each.split, each.scenario)}
        same = {other.agent_id for other in findings if (other.split, other.scenario) == (each.split, each.scenario)}
        if same == agents and len(agents) > 1:
            cause = "the labels are those of another frame"
        else:
            cause = "the sweeps, or the labels, are those of another frame, or this agent's clock is off by that much"
        told.append(Finding(each.key, each.split, each.scenario, each.agent_id, each.seen, cause))
    yield from verdicts_of("moments", told)
    if voted and not told:
        yield Verdict("moments", "ok", "moving objects are where the points of the same frame are")
    elif not told:
        yield Verdict("moments", "note", "undecided: too few labelled objects move near an agent")


def _votes(sweeps: list[Sweep], steps: int, fixed: bool) -> _Votes:
    """Votes for labels of the frame `steps` later; `fixed` in the world, otherwise relative to the agent."""
    votes = _Votes()
    for number, sweep in enumerate(sweeps[:_MOST]):
        other = sweeps[number + steps] if 0 <= number + steps < len(sweeps) else None
        if other is None or not len(other.ids) or not sweep.own.any():
            continue
        there = (sweep.T_agent_world if fixed else other.T_agent_world) @ other.T_world_object
        here = sweep.T_agent_object
        rows, columns = _matched(sweep, other)
        apart = np.linalg.norm(here[rows, :3, 3] - there[columns, :3, 3], axis=1)
        changed = (apart > _CHANGED_M) & sweep.own[rows]
        rows, columns = rows[changed], columns[changed]
        near = near_boxes(here[rows], sweep.agent_id < 0)
        now = shares(sweep.points, here[rows[near]], sweep.size[rows[near]])[:, 1]
        then = shares(sweep.points, there[columns[near]], other.size[columns[near]])[:, 1]
        votes.better += int((then > now + _CLEARLY).sum())
        votes.worse += int((then < now - _CLEARLY).sum())
    return votes


def _matched(one: Sweep, other: Sweep) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the same objects in both: by id, where these last; else the nearest of the same size."""
    if one.tracked:
        _, rows, columns = np.intersect1d(one.ids, other.ids, return_indices=True)
        return rows, columns
    apart = np.linalg.norm(one.T_world_object[:, None, :3, 3] - other.T_world_object[None, :, :3, 3], axis=2)
    apart += 10 * np.abs(one.size[:, None] - other.size[None]).max(axis=2)
    columns = apart.argmin(axis=1)
    rows = np.flatnonzero(
        (apart[np.arange(len(columns)), columns] < 5) & (apart[:, columns].argmin(axis=0) == np.arange(len(columns)))
    )
    return rows, columns[rows]
