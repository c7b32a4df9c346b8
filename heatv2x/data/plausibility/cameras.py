"""Whether a camera's calibration can be true: upright, near its agent, and for images of this size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from heatv2x.data.plausibility.verdict import Finding, Verdict, verdicts_of
from heatv2x.structures import Camera, Float64

_MAX_AWAY_M = 10.0
_UPRIGHT = 0.35
_STEEP = -0.9
_OFF_CENTRE = 0.2
_VIEW_DEG = (8.0, 175.0)
_T_BODY_CAMERA = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass
class Cameras:
    """Calibrations, gathered over a dataset: each is judged once per scenario, agent and camera."""

    seen: set[tuple[str, str, int, str]] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def add(self, where: tuple[str, str, str], agent_id: int, camera: Camera) -> None:
        """Take in a camera of an agent at `where`: split, scenario, timestamp."""
        key = (where[0], where[1], agent_id, camera.name)
        if key in self.seen:
            return
        self.seen.add(key)
        for kind, seen, cause in (*_intrinsics(camera), *_extrinsics(camera)):
            self.findings.append(Finding(kind, where[0], where[1], agent_id, f"{camera.name} {seen}", cause))

    def verdicts(self) -> Iterator[Verdict]:
        """Calibrations that cannot be true."""
        yield from verdicts_of("cameras", self.findings)
        if self.seen and not self.findings:
            yield Verdict(
                "cameras",
                "ok",
                f"{len(self.seen):,} cameras stand upright near their agents, with intrinsics of their images' size",
            )


def _intrinsics(camera: Camera) -> Iterator[tuple[str, str, str]]:
    height, width = camera.image.shape[:2]
    K = camera.K
    shares = np.array([2 * (K[0, 2] + 0.5) / width, 2 * (K[1, 2] + 0.5) / height])
    if np.abs(shares - 1).max() > _OFF_CENTRE:
        seen = f"has its principal point at ({K[0, 2]:.0f}, {K[1, 2]:.0f}) in images of {width} x {height} pixels"
        if np.ptp(shares) < 0.15 * shares.max():
            cause = f"K belongs to images of about {width * shares.mean():.0f} x {height * shares.mean():.0f} pixels"
            yield "intrinsics of another size", seen, cause
        elif np.abs(shares[::-1] * [height / width, width / height] - 1).max() < _OFF_CENTRE:
            yield "intrinsics swapped", seen, "x and y are swapped in K, or the image was turned by 90°"
        elif np.abs(shares - 1).max() > 2 * _OFF_CENTRE:
            yield (
                "intrinsics of another image",
                seen,
                "K is that of another camera, or of the image before it was cropped",
            )
    for name, focal, pixels in (("wide", K[0, 0], width), ("high", K[1, 1], height)):
        view = float(np.degrees(2 * np.arctan2(pixels / 2, focal)))
        if not _VIEW_DEG[0] <= view <= _VIEW_DEG[1]:
            yield "focal length", f"sees {view:.1f}° {name} (focal length {focal:.4g} pixels)", "K is not in pixels"
    if max(K[0, 0], K[1, 1]) > 1.5 * min(K[0, 0], K[1, 1]):
        yield (
            "focal lengths",
            f"has focal lengths of {K[0, 0]:.0f} and {K[1, 1]:.0f} pixels",
            "K was scaled in one direction only",
        )


def _extrinsics(camera: Camera) -> Iterator[tuple[str, str, str]]:
    T = camera.T_agent_camera
    away = float(np.linalg.norm(T[:3, 3]))
    if away > _MAX_AWAY_M:
        unit = "centimetres" if away < 1000 else "millimetres"
        cause = (
            f"its position is in {unit}, or it is given in the world"
            if away < 20_000
            else "its pose is given in the world"
        )
        yield "camera far away", f"stands {away:,.0f} m from its agent's LiDAR", cause
    if _upright(T):
        return
    tilt = float(np.degrees(np.arccos(np.clip(-T[2, 1], -1, 1))))
    seen = f"does not stand upright: the top of its image points {tilt:.0f}° away from up"
    causes: tuple[tuple[str, Float64], ...] = (
        ("T_agent_camera is inverted: it maps the agent to the camera", np.asarray(np.linalg.inv(T), np.float64)),
        (
            "T_agent_camera is given for axes x forward, y left, z up; expected x right, y down, z forward (optical)",
            T @ _T_BODY_CAMERA,
        ),
        (
            "T_agent_camera is given for axes with y up and z backward (OpenGL); expected y down, z forward",
            T @ np.diag([1.0, -1, -1, 1]),
        ),
    )
    for cause, other in causes:
        if _upright(other):
            yield "camera axes", seen, cause
            return
    yield "camera axes", seen, "the rotation of T_agent_camera is wrong"


def _upright(T: Float64) -> bool:
    """The image's top points up, or the camera looks steeply down."""
    return bool(-T[2, 1] > _UPRIGHT or T[2, 2] < _STEEP)
