"""Training on windows of the shared grid: most of a map is empty, and a step costs what its area costs."""

from __future__ import annotations

import numpy as np
import pydantic

from heatv2x.core.config import Config
from heatv2x.geometry.grid import BevGrid


class WindowConfig(Config):
    """Attributes:
    cells: side of a window in shared cells; even, because the neck halves it.
    margin: cells at its border whose loss does not count; without it, the missing context costs accuracy.
    """

    cells: int = pydantic.Field(40, gt=0, multiple_of=2)
    margin: int = pydantic.Field(4, ge=0)

    @pydantic.model_validator(mode="after")
    def _something_counts(self) -> WindowConfig:
        if 2 * self.margin >= self.cells:
            raise ValueError(f"margin={self.margin} leaves nothing of a window of {self.cells} cells")
        return self


def draw_window(grid: BevGrid, config: WindowConfig, rng: np.random.Generator) -> BevGrid:
    """A random window whose corner lies on an even cell, or the whole grid if that is smaller."""
    rows, columns = (min(config.cells, size) for size in grid.shape)
    row = 2 * int(rng.integers((grid.shape[0] - rows) // 2 + 1))
    column = 2 * int(rng.integers((grid.shape[1] - columns) // 2 + 1))
    return grid.window(row, column, (rows, columns))
