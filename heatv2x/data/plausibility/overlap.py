"""Whether sweeps of several agents, and of one agent on the move, show the same walls, poles and cars in the world."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from heatv2x.data.plausibility.pose_mistakes import pose_mistakes, turned_poses
from heatv2x.data.plausibility.sweep import Group, Sweep
from heatv2x.data.plausibility.verdict import Finding, Verdict, verdicts_of
from heatv2x.structures import Bool, Float64

_REACH_M = 40.0
_CELL_M = 0.5
_HALF = 100  # cells from the middle of a map to its edge
_GROUND_CELL_M = 4.0
_HIGH_M = (0.6, 4.0)
_APART_M = 45.0
_MOVED_M = (1.5, 15.0)
_ENOUGH_CELLS = 60
_PAIRS = 3
_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
# Measured on the synthetic world and on streets of boxes: right poses share 0.2 to 0.9 more cells than shifted ones.
_ALIKE, _SURELY_ALIKE = 0.12, 0.3
_EXPLAINED, _TURNED = 0.35, 0.5
_MIRRORED = "mirrored"


@dataclass(frozen=True)
class _Shape:
    """What stands around a sweep's sensor: (P, 3) a point of every cell, in its frame, and a map of the cells."""

    sweep: Sweep
    points: Float64
    raster: Bool

    def share(self, xy: Float64) -> float:
        """The share of points (P, 2) in or beside its cells."""
        cells = np.floor(xy / _CELL_M).astype(np.int64) + _HALF
        inside = ((cells >= 0) & (cells < 2 * _HALF)).all(axis=1)
        return float(self.raster[cells[inside, 0], cells[inside, 1]].sum()) / max(len(xy), 1)


def judge_overlap(groups: dict[Group, list[Sweep]], silent: set[Group], proven: set[Group]) -> Iterator[Verdict]:
    """Verdicts on agents against each other and on each agent's own motion.

    Args:
        silent: groups that are known to be wrong already.
        proven: groups whose poses labels prove to be right: streets look alike when turned, so labels tell more.
    """
    findings: list[Finding] = []
    found: list[float] = []
    shapes = {g: {s.timestamp: _shape(s) for s in sweeps} for g, sweeps in groups.items() if g not in silent}
    for group, mine in shapes.items():
        for other, theirs in shapes.items():
            if other[:2] == group[:2] and other > group:
                pairs = [(mine[t], theirs[t]) for t in mine if t in theirs and _near(mine[t], theirs[t])]
                findings += _judge_pairs(pairs, {group, other} - proven, found)
        steps = list(mine.values())
        moved = [(one, two) for one, two in itertools.pairwise(steps) if _moved(one, two)]
        findings += _judge_pairs(moved, {group} - proven, found)
    yield from verdicts_of("agents together", findings)
    if found and not findings:
        more = f"{np.median(found):.0%} more than by chance (median)"
        yield Verdict("agents together", "ok", f"what stands around the agents overlaps in the world: {more}")
    elif not findings:
        reason = "not judged: no two sweeps show the same things from different places"
        yield Verdict("agents together", "note", reason)


def _judge_pairs(pairs: list[tuple[_Shape, _Shape]], accused: set[Group], found: list[float]) -> Iterator[Finding]:
    """Whether pairs of sweeps overlap as their poses say; if not, which mistake of an accused group would make them."""
    pairs = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _PAIRS)).astype(int))]
    if not pairs:
        return
    actual = float(np.mean([_alike(one, two, *_matrices(one, two)) for one, two in pairs]))
    if actual > _ALIKE:
        found.append(actual)
    if actual > _SURELY_ALIKE:
        return
    tried: dict[tuple[str, str, Group], list[float]] = {}
    for one, two in pairs:
        for group, key, cause, T_one, T_two in _mistakes(one, two):
            likeness = _alike(one, two, T_one, T_two, _MIRROR if key == _MIRRORED else None)
            tried.setdefault((key, cause, group), []).append(likeness)
    means = {key: float(np.mean(each)) for key, each in tried.items() if key[2] in accused and len(each) == len(pairs)}
    if not means:
        return
    best = max(means, key=lambda key: means[key])
    if means[best] > max(_TURNED if best[0].startswith("heading") else _EXPLAINED, 2 * actual):
        other = pairs[0][0 if pairs[0][1].sweep.group == best[2] else 1].sweep
        which = "of another frame" if other.group == best[2] else f"of agent {other.agent_id}"
        seen = (
            f"its points and those {which} overlap by {actual:+.0%} more than by chance where the poses put them, "
            f"and by {means[best]:+.0%} if corrected"
        )
        yield Finding(best[0], *best[2], seen, best[1])


def _mistakes(one: _Shape, two: _Shape) -> Iterator[tuple[Group, str, str, Float64, Float64]]:
    """Whose mistake, which, and both poses without it: of both sweeps at once, or of one of two agents."""
    T_one, T_two = _matrices(one, two)
    theirs = {key: T for key, _, T in _poses(T_two)}
    yield one.sweep.group, _MIRRORED, "left and right are swapped in its points or its poses", T_one, T_two
    for key, cause, T in _poses(T_one):
        if key in theirs:
            yield one.sweep.group, key, cause, T, theirs[key]
    if one.sweep.group != two.sweep.group:
        for key, cause, T in _poses(T_one):
            yield one.sweep.group, key, cause, T, T_two
        for key, cause, T in _poses(T_two):
            yield two.sweep.group, key, cause, T_one, T


def _matrices(one: _Shape, two: _Shape) -> tuple[Float64, Float64]:
    return one.sweep.T_world_agent, two.sweep.T_world_agent


def _poses(T: Float64) -> list[tuple[str, str, Float64]]:
    return [(each.key, each.cause, each.matrix) for each in (*pose_mistakes(T), *turned_poses(T, 5))]


def _alike(one: _Shape, two: _Shape, T_one: Float64, T_two: Float64, mirror: Float64 | None = None) -> float:
    """How many more of the first one's cells are the second one's, too, than if it were shifted; -1 to 1."""
    T = np.linalg.inv(T_two) @ T_one
    if mirror is not None:
        T = mirror @ T @ mirror
    moved = one.points @ T[:3, :3].T + T[:3, 3]
    there = moved[np.hypot(moved[:, 0], moved[:, 1]) < _REACH_M, :2]
    if len(there) < _ENOUGH_CELLS:
        return 0.0
    shares = [two.share(there + shift) for shift in ((0, 0), (6, 4), (-4, 6), (-6, -4), (4, -6))]
    return shares[0] - float(np.mean(shares[1:]))


def _shape(sweep: Sweep) -> _Shape:
    """Cells with points well above the lowest ones around them."""
    upright = sweep.points @ sweep.T_world_agent[:3, :3].T
    cells = np.floor(sweep.points[:, :2] / _GROUND_CELL_M).astype(np.int64)
    _, place = np.unique(cells[:, 0] * 100_000 + cells[:, 1], return_inverse=True)
    lowest = np.full(place.max() + 1 if len(place) else 0, np.inf)
    np.minimum.at(lowest, place, upright[:, 2])
    above = upright[:, 2] - lowest[place]
    reach = np.hypot(sweep.points[:, 0], sweep.points[:, 1])
    standing = sweep.points[(above > _HIGH_M[0]) & (above < _HIGH_M[1]) & (reach < _REACH_M) & (reach > 3.0)]
    fine, first = np.unique(np.floor(standing[:, :2] / _CELL_M).astype(np.int64), axis=0, return_index=True)
    raster = np.zeros((2 * _HALF, 2 * _HALF), np.bool_)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            raster[fine[:, 0] + _HALF + row, fine[:, 1] + _HALF + column] = True
    return _Shape(sweep, standing[first].astype(np.float64), raster)


def _near(one: _Shape, two: _Shape) -> bool:
    return float(np.hypot(*(one.sweep.T_world_agent - two.sweep.T_world_agent)[:2, 3])) < _APART_M


def _moved(one: _Shape, two: _Shape) -> bool:
    way = float(np.linalg.norm((one.sweep.T_world_agent - two.sweep.T_world_agent)[:3, 3]))
    return _MOVED_M[0] < way < _MOVED_M[1]
