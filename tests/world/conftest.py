"""One tiny world for all tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heatv2x.core.config import build
from heatv2x.world.build import WorldConfig, WorldSummary, build_world

TINY = {
    "train": 3,
    "validate": 1,
    "test": 2,
    "clip_frames": 2,
    "azimuth_steps": 240,
    "render_resolution": (80, 60),
    "min_agents": 2,
    "max_agents": 3,
    "roadside": 0.5,
    "seed": 5,
    "workers": 1,
}


def tiny(out: Path, **changes: Any) -> WorldConfig:
    return build(WorldConfig, {**TINY, "out": out, **changes})


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished world; do not write into it."""
    return build_world(tiny(tmp_path_factory.mktemp("world"))).out


@pytest.fixture(scope="session")
def summary(world: Path) -> WorldSummary:
    """The summary of a finished world, which is read from its files."""
    return build_world(tiny(world))
