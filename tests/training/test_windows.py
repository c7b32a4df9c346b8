"""Windows of the shared grid for training."""

from __future__ import annotations

import numpy as np
import pytest

from heatv2x.core.config import build
from heatv2x.errors import ConfigError
from heatv2x.geometry.grid import BevGrid
from heatv2x.training.windows import WindowConfig, draw_window
from tests.scene_factory import GRID


def corners(grid: BevGrid, config: WindowConfig, draws: int = 300) -> set[tuple[int, int]]:
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(draws):
        window = draw_window(grid, config, rng)
        assert window.shape == (min(config.cells, grid.shape[0]), min(config.cells, grid.shape[1]))
        found.add((round((window.y_min - grid.y_min) / grid.cell), round((window.x_min - grid.x_min) / grid.cell)))
    return found


def test_every_even_corner_is_drawn_and_no_other() -> None:
    assert corners(GRID, WindowConfig(cells=12, margin=1)) == {
        (row, column) for row in (0, 2, 4) for column in (0, 2, 4)
    }


@pytest.mark.parametrize("cells", [16, 40])
def test_a_small_grid_is_taken_whole(cells: int) -> None:
    rng = np.random.default_rng(0)
    assert corners(GRID, WindowConfig(cells=cells)) == {(0, 0)}
    assert draw_window(GRID, WindowConfig(cells=cells), rng) == GRID


def test_a_grid_that_is_not_square() -> None:
    long = BevGrid(-12.8, 12.8, -3.2, 3.2, 1.6)
    assert corners(long, WindowConfig(cells=8, margin=1)) == {(0, column) for column in (0, 2, 4, 6, 8)}


def test_the_seed_decides() -> None:
    one, other = (
        [draw_window(GRID, WindowConfig(cells=8, margin=1), np.random.default_rng(5)) for _ in range(3)]
        for _ in range(2)
    )
    assert one == other


@pytest.mark.parametrize("wrong", [{"cells": 7}, {"cells": 0}, {"margin": -1}, {"cells": 8, "margin": 4}])
def test_a_window_of_which_nothing_counts_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        build(WindowConfig, wrong)
