"""What the reference code costs: facts that the speed benchmark compares with, in this one place.

Source: HEAL (yifanlu0227/HEAL, snapshot 96812ed5), its LiDAR type m1 (PointPillars) with pyramid fusion and anchor
head, random weights, run for comparison on synthetic 64-beam clouds of about 60 thousand points and 8 to 10 thousand
pillars per agent, +-102.4 m both ways, float32, torch 2.13 on two shared EPYC cores with AVX-512, one thread. CPU
seconds, medians of 3 to 7 runs. Only these numbers were taken; none of its code is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOURCE = (
    "HEAL (snapshot 96812ed5), m1 PointPillars with pyramid fusion, ±102.4 m both ways, float32, one thread, torch "
    "2.13 on EPYC cores with AVX-512; medians of 3 to 7 runs of that code on clouds made as ours are"
)
SIDE_BY_SIDE = (
    "**These ratios are estimates**: the two were not run on one machine. Where they once were (AVX2, float32, one "
    "thread, separate processes, the same weights and frames, forward pass and post-processing), the network as "
    "published took 12.9 CPU s in HEAL and 6.1 here for two agents (2.1 ×), 26.9 and 11.1 for five (2.4 ×), with "
    "`optimised`; as trained 1.8 × and 2.0 ×. That comparison is no part of this benchmark, for it needs HEAL's own "
    "code."
)
"""Measured by hand on 27 November 2026, with HEAL's code beside ours."""

PEAK_GFLOPS: Mapping[str, float] = {"float32": 90.0, "bfloat16": 204.0}
"""What its machine multiplied matrices at, 10^9 operations a second on one thread."""

FORWARD_S: Mapping[int, float] = {1: 5.6, 2: 8.6, 3: 11.1, 5: 20.0}
"""The whole forward pass by the number of agents, CPU seconds: all encoders, fusion and head, without decoding."""

STAGES_S: Mapping[str, Mapping[int, float]] = {
    "encode": {1: 0.34, 2: 0.56, 3: 0.87, 5: 1.6},
    "backbone": {1: 0.50, 2: 1.1, 3: 1.9, 5: 3.5},
    "fuse": {1: 2.34, 2: 4.53, 3: 6.31, 5: 12.4},
    "neck": {1: 2.2, 2: 2.1, 3: 1.9, 5: 2.1},
    "head": {1: 0.05, 2: 0.05, 3: 0.05, 5: 0.05},
    "decode": {1: 0.16, 2: 0.16, 3: 0.11, 5: 0.15},
}
"""CPU seconds by our names of the stages: `fuse` is its pyramid stages, warp, weighted mean and deconvolutions; `neck`
its shrink convolution; encode and backbone are of all agents together."""

MATCHING_S: Mapping[int, float] = {1: 0.04, 2: 0.04, 3: 0.02, 5: 0.03}
"""Matching of one frame for average precision, three thresholds."""

FURTHER_AGENT_S = 3.6
"""What one more agent costs its ego, which runs backbone and pyramid for everybody."""

PEAK_MEMORY_GB: Mapping[int, float] = {1: 1.2, 2: 1.2, 3: 1.4, 5: 1.8}
"""Most memory of the process by the number of agents."""

STEP = {"agents": 2, "seconds": 27.7, "forward_s": 8.9, "backward_s": 18.7, "memory_gb": 5.5}
"""A training step."""

FOUR_TYPES = {"seconds": 24.0, "memory_gb": 2.7}
"""One agent of each of the four published types, one frame."""


def facts() -> dict[str, Any]:
    """Everything above, for JSON."""
    return {
        "source": SOURCE,
        "peak_gflops": dict(PEAK_GFLOPS),
        "forward_s": by_agents(FORWARD_S),
        "stages_s": {stage: by_agents(seconds) for stage, seconds in STAGES_S.items()},
        "matching_s": by_agents(MATCHING_S),
        "further_agent_s": FURTHER_AGENT_S,
        "peak_memory_gb": by_agents(PEAK_MEMORY_GB),
        "step": STEP,
        "four_types": FOUR_TYPES,
    }


def by_agents(values: Mapping[int, float]) -> dict[str, float]:
    """The same with the keys that JSON has."""
    return {str(agents): value for agents, value in values.items()}
