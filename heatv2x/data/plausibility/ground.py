"""Whether a LiDAR stands above a road that is level in the world, and whether its points are in metres."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from heatv2x.data.plausibility.plane import ground_plane
from heatv2x.data.plausibility.pose_mistakes import pose_mistakes
from heatv2x.data.plausibility.sweep import Group, Sweep, spread
from heatv2x.data.plausibility.verdict import Finding, Verdict, verdicts_of
from heatv2x.structures import Float32, Float64

_HEIGHT_M = (0.3, 15.0)
_ENOUGH_POINTS = 100
_STEEP_DEG = 15.0
_LEVEL_DEG = 8.0
_SPREAD_M = (0.5, 500.0)
_AWAY_M = 150.0


def odd_units(points: Float32, position: Float64) -> tuple[str, str] | None:
    """Why a raw sweep (P, 4) is not in metres around its sensor: what was seen, and the cause; None if it may be."""
    if len(points) < _ENOUGH_POINTS:
        return None
    middle = np.median(points[:, :2], axis=0)
    spread_m = float(np.percentile(np.hypot(*(points[:, :2] - middle).T), 90))
    if spread_m > _SPREAD_M[1]:
        unit = "centimetres" if spread_m < 20_000 else "millimetres"
        seen = f"90 % of its points reach {spread_m:,.0f} m from their middle"
        return seen, f"the points are in {unit}, expected metres"
    if spread_m < _SPREAD_M[0]:
        seen = f"90 % of its points lie within {spread_m:.2g} m"
        return seen, "the points are in kilometres or normalised, expected metres"
    if np.hypot(*middle) > _AWAY_M and np.hypot(*(middle - position[:2])) < _AWAY_M:
        away = float(np.hypot(*middle))
        seen = f"its points lie {away:,.0f} m away from the sensor, about where the pose puts it in the world"
        return seen, "the points are in world coordinates, expected the LiDAR's own frame"
    return None


def judge_ground(groups: dict[Group, list[Sweep]], silent: set[Group]) -> Iterator[Verdict]:
    """Verdicts on the height of the LiDARs and on the slope of the ground.

    Args:
        silent: groups that are known to be wrong already.
    """
    findings, heights, slopes = [], [], []
    for group, sweeps in groups.items():
        if group in silent:
            continue
        grounds = [(sweep, found) for sweep in spread(sweeps) if (found := ground_plane(sweep)) is not None]
        if not grounds:
            continue
        height = float(np.median([height for _, (height, _) in grounds]))
        slope = float(np.median([_slope(sweep.T_world_agent, normal) for sweep, (_, normal) in grounds]))
        if group[2] >= 0:
            heights.append(height)
        slopes.append(slope)
        if group[2] >= 0 and not _HEIGHT_M[0] <= height <= _HEIGHT_M[1]:
            below = f"{height:.1f} m below" if height > 0 else f"{-height:.1f} m above"
            seen = f"the ground lies {below} the LiDAR ({len(grounds)} sweeps)"
            findings.append(
                Finding(
                    "height",
                    *group,
                    seen,
                    "up and down are swapped in the points, or they are not in metres or not in the LiDAR's frame",
                )
            )
        elif slope > _STEEP_DEG:
            findings.append(_steep(group, grounds, slope))
    yield from verdicts_of("ground plane", findings)
    if slopes and not findings:
        stand = (
            f"LiDARs stand {min(heights):.1f} to {max(heights):.1f} m above the ground, which"
            if heights
            else "the ground"
        )
        yield Verdict("ground plane", "ok", f"{stand} slopes by at most {max(slopes):.0f}°")
    elif not findings:
        yield Verdict("ground plane", "note", "not judged: no sweep shows enough ground")


def _steep(group: Group, grounds: list[tuple[Sweep, tuple[float, Float64]]], slope: float) -> Finding:
    seen = f"the ground, as placed by its points and its pose, slopes by {slope:.0f}° ({len(grounds)} sweeps)"
    slopes: dict[str, tuple[str, list[float]]] = {}
    for sweep, (_, normal) in grounds:
        for each in pose_mistakes(sweep.T_world_agent):
            slopes.setdefault(each.key, (each.cause, []))[1].append(_slope(each.matrix, normal))
    level = [(cause, float(np.median(found))) for cause, found in slopes.values() if np.median(found) < _LEVEL_DEG]
    if level:
        cause, then = level[0]
        return Finding("steep", *group, f"{seen}, by {then:.0f}° if corrected", cause)
    return Finding("steep", *group, seen, "roll or pitch of the pose, or the axes of the points, are wrong")


def _slope(T: Float64, normal: Float64) -> float:
    """Degrees between the ground's normal and the vertical of the world."""
    return float(np.degrees(np.arccos(np.clip((T[:3, :3] @ normal)[2], -1, 1))))
