"""What arrives at the ego, and with which pose: communication range, loss, latency, pose noise.

Seeded per frame and sender: noise is drawn from (seed, frame name, sender), never from the order of calls, so any
number of workers sees the same draws. By default only senders are disturbed and report the true standard deviation;
nothing after the channel sees a clean pose.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import pydantic

from heatv2x.core.config import Config
from heatv2x.structures import Pose


class ChannelConfig(Config):
    """A link between agents.

    Attributes:
        range_m: farther senders are not heard (planar distance, metres).
        loss: probability that a message is lost.
        latency_ms: how long a message is under way: the ego uses the newest one captured at least this long ago.
        sigma_m, sigma_deg: standard deviation of the senders' position (x and y) and heading.
        precise_share: this share of the senders, drawn for each scenario, has a tenth of those deviations.
        reported: "true" reports that deviation, "hidden" reports zero.
        ignore_above_m: the ego ignores messages that report a position deviation of this much or more.
        max_senders: how many senders the ego hears: the nearest ones; the rest are dropped.
        seed: seed of all random draws.
    """

    range_m: float = pydantic.Field(70.0, gt=0)
    loss: float = pydantic.Field(0.0, ge=0, le=1)
    latency_ms: int = pydantic.Field(0, ge=0)
    sigma_m: float = pydantic.Field(0.0, ge=0)
    sigma_deg: float = pydantic.Field(0.0, ge=0)
    precise_share: float = pydantic.Field(0.0, ge=0, le=1)
    reported: Literal["true", "hidden"] = "true"
    ignore_above_m: float | None = pydantic.Field(None, gt=0)
    max_senders: int = pydantic.Field(8, ge=0)
    seed: int = 0


class Channel:
    """Applies a `ChannelConfig`."""

    def __init__(self, config: ChannelConfig | None = None) -> None:
        self.config = config or ChannelConfig()

    def delivers(self, frame: str, sender: int) -> bool:
        """Whether this sender's message of this frame gets through."""
        return bool(self._draw(frame, sender, "loss").random() >= self.config.loss)

    def reported_pose(self, frame: str, sender: int, pose: Pose) -> tuple[Pose, float, float]:
        """The pose a sender believes it has, and the deviations it reports (metres, radians)."""
        config = self.config
        scale = 0.1 if self.precise(frame, sender) else 1.0
        sigma_m, sigma_rad = scale * config.sigma_m, scale * float(np.radians(config.sigma_deg))
        reported = (sigma_m, sigma_rad) if config.reported == "true" else (0.0, 0.0)
        if config.sigma_m == 0 and config.sigma_deg == 0:
            return pose, *reported
        x, y, yaw = self._draw(frame, sender, "pose").normal(size=3) * [sigma_m, sigma_m, sigma_rad]
        return disturbed(pose, x, y, yaw), *reported

    def precise(self, frame: str, sender: int) -> bool:
        """Whether this sender is one of those that know their pose well, in this frame's whole scenario."""
        scenario = frame.rpartition("/")[0]
        return bool(self._draw(scenario, sender, "precise").random() < self.config.precise_share)

    def hears(self, ego: Pose, others: list[Pose], range_m: float | None = None) -> list[int]:
        """Indices of the agents in range (`range_m`, by default the link's), nearest first, at most `max_senders`."""
        range_m = self.config.range_m if range_m is None else range_m
        distances = [ego.planar_distance(other) for other in others]
        order = sorted(range(len(others)), key=lambda index: distances[index])
        return [index for index in order if distances[index] <= range_m][: self.config.max_senders]

    def _draw(self, frame: str, sender: int, what: str) -> np.random.Generator:
        key = hashlib.sha256(f"{self.config.seed}/{frame}/{sender}/{what}".encode()).digest()
        return np.random.default_rng(int.from_bytes(key[:8], "little"))


def disturbed(pose: Pose, x: float, y: float, yaw: float) -> Pose:
    """The pose shifted by (x, y) metres in the world and turned by yaw radians about its own position."""
    matrix = pose.matrix.copy()
    matrix[:3, :3] = Pose.planar(0, 0, yaw).matrix[:3, :3] @ matrix[:3, :3]
    matrix[:2, 3] += x, y
    return Pose(matrix)
