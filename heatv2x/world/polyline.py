"""Curves in the plane as evenly spaced points: lanes, kerbs and the paths through a junction."""

from __future__ import annotations

import numpy as np

from heatv2x.structures import Float64

STEP_M = 0.5


def lengths(points: Float64) -> Float64:
    """(P,) arc length from the first point to each of the (P, 2) points, metres."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    return np.concatenate([[0.0], np.cumsum(steps)])


def resample(points: Float64, step_m: float = STEP_M) -> Float64:
    """(Q, 2) points about `step_m` apart along the same curve, both ends kept."""
    arc = lengths(points)
    count = max(round(arc[-1] / step_m), 1) + 1
    at = np.linspace(0.0, arc[-1], count)
    return np.stack([np.interp(at, arc, points[:, 0]), np.interp(at, arc, points[:, 1])], axis=1)


def headings(points: Float64) -> Float64:
    """(P,) direction of travel at each point, radians."""
    tangent = np.gradient(points, axis=0)
    return np.asarray(np.arctan2(tangent[:, 1], tangent[:, 0]))


def offset(points: Float64, left_m: float) -> Float64:
    """(P, 2) the curve moved sideways: to its left for positive `left_m`."""
    heading = headings(points)
    return points + left_m * np.stack([-np.sin(heading), np.cos(heading)], axis=1)


def curvatures(points: Float64) -> Float64:
    """(P,) absolute curvature at each point, 1/metres."""
    turn = np.abs(np.gradient(np.unwrap(headings(points))))
    spacing = np.maximum(np.gradient(lengths(points)), 1e-6)
    return np.asarray(turn / spacing)


def arc(start: Float64, heading: float, length_m: float, curvature: float) -> Float64:
    """(P, 2) points of a circular arc (or straight line) that starts at `start` towards `heading`."""
    s = np.linspace(0.0, length_m, max(int(length_m / STEP_M), 2))
    along = heading + curvature * s
    if abs(curvature) < 1e-9:
        return np.asarray(start + s[:, None] * np.array([np.cos(heading), np.sin(heading)]))
    x = (np.sin(along) - np.sin(heading)) / curvature
    y = (np.cos(heading) - np.cos(along)) / curvature
    return np.asarray(start + np.stack([x, y], axis=1))


def bend(start: Float64, start_heading: float, end: Float64, end_heading: float) -> Float64:
    """(P, 2) a smooth curve between two poses (cubic Bezier): how a car turns from one lane into another."""
    reach = 0.4 * np.hypot(*(end - start))
    first = start + reach * np.array([np.cos(start_heading), np.sin(start_heading)])
    second = end - reach * np.array([np.cos(end_heading), np.sin(end_heading)])
    t = np.linspace(0.0, 1.0, 60)[:, None]
    curve = (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * end
    return resample(curve)
