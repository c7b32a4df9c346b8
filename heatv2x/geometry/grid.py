"""The bird's-eye-view grid that all agents share, and how a feature map moves from one agent's frame to another's.

Features are (N, C, Y, X): row 0 lies at y_min, column 0 at x_min, values belong to cell centres. A transform is named
`T_source_target`: it maps coordinates of the target (ego) frame to the source (sender) frame, because resampling asks
of every target cell where in the sender's map it lies (a "pull" matrix). Height, roll and pitch are dropped.

Shapes: N maps; C channels; Y, X cells of the source grid; Yt, Xt cells of the target grid.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from heatv2x.errors import ConfigError

_TOLERANCE_CELLS = 1e-6
MAX_CELLS = 2**24
"""Published ranges in cells of 0.1 m have half as many."""


@dataclass(frozen=True)
class BevGrid:
    """A rectangle of square cells in an agent's x-y plane.

    Attributes:
        x_min, x_max, y_min, y_max: the outer edges, metres; the agent need not stand in the middle.
        cell: side of a cell, metres.
        y_right: what lies on this grid is left-handed, y to the right; see `heatv2x.geometry.handedness`.

    Raises:
        ConfigError: a side is empty or not a whole number of cells.
    """

    x_min: float
    x_max: float
    y_min: float
    y_max: float
    cell: float
    y_right: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.cell < float("inf"):
            raise ConfigError(f"grid cell is {self.cell}; expected a positive size in metres")
        for axis, low, high in (("x", self.x_min, self.x_max), ("y", self.y_min, self.y_max)):
            cells = (high - low) / self.cell
            if not 0.5 < cells < float("inf"):
                raise ConfigError(f"grid {axis}_min {low} and {axis}_max {high}: expected {axis}_min below {axis}_max")
            if abs(cells - round(cells)) > _TOLERANCE_CELLS:
                nearest = round(low + round(cells) * self.cell, 6)
                raise ConfigError(
                    f"grid {axis} from {low} to {high} m is {cells:.6g} cells of {self.cell} m; "
                    f"expected a whole number, e.g. {axis}_max={nearest}"
                )
        if (count := self.shape[0] * self.shape[1]) > MAX_CELLS:
            raise ConfigError(
                f"a grid of {count:,} cells is larger than the largest supported one ({MAX_CELLS:,}): use larger cells"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X), number of rows and columns."""
        return round((self.y_max - self.y_min) / self.cell), round((self.x_max - self.x_min) / self.cell)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """x_min, x_max, y_min, y_max in metres (matplotlib's order)."""
        return self.x_min, self.x_max, self.y_min, self.y_max

    def centres(self, device: torch.device | str | None = None) -> Tensor:
        """(Y, X, 2) float64 x, y of the cell centres, metres."""
        rows, columns = self.shape
        x = self.x_min + (torch.arange(columns, dtype=torch.float64, device=device) + 0.5) * self.cell
        y = self.y_min + (torch.arange(rows, dtype=torch.float64, device=device) + 0.5) * self.cell
        return torch.stack((x.expand(rows, -1), y[:, None].expand(-1, columns)), dim=-1)

    def coarser(self, factor: int) -> BevGrid:
        """The same rectangle with cells `factor` times as large (the grid behind a stride).

        Raises:
            ConfigError: `factor` does not divide the number of rows and columns.
        """
        if factor < 1 or any(cells % factor for cells in self.shape):
            raise ConfigError(f"a grid of {self.shape} (Y, X) cells has no coarser grid by factor {factor}")
        # Rounded to a nanometre, so that grids reached by different factors compare equal.
        return replace(self, cell=round(self.cell * factor, 9))

    def finer(self, factor: int) -> BevGrid:
        """The same rectangle with cells 1 / `factor` as large."""
        return replace(self, cell=self.cell / factor)

    def window(self, row: int, column: int, shape: tuple[int, int]) -> BevGrid:
        """The grid of a crop of features: `shape` (rows, columns) cells from cell (row, column) on."""
        (rows, columns), (all_rows, all_columns) = shape, self.shape
        if min(row, column) < 0 or min(shape) < 1 or row + rows > all_rows or column + columns > all_columns:
            raise ConfigError(
                f"window of {shape} cells at ({row}, {column}) leaves the grid of {self.shape} (Y, X) cells"
            )
        x_min, y_min = self.x_min + column * self.cell, self.y_min + row * self.cell
        x_max, y_max = x_min + columns * self.cell, y_min + rows * self.cell
        return replace(self, x_min=x_min, x_max=x_max, y_min=y_min, y_max=y_max)

    def crop(self, features: Tensor, window: BevGrid) -> Tensor:
        """The (..., Yw, Xw) part of (..., Y, X) features of this grid that a window (see `window`) covers."""
        row, column = round((window.y_min - self.y_min) / self.cell), round((window.x_min - self.x_min) / self.cell)
        rows, columns = window.shape
        return features[..., row : row + rows, column : column + columns]

    def placed(self, features: Tensor, target: BevGrid) -> Tensor:
        """(..., Yt, Xt) features of this grid on another one in the same frame: cut off, and zero where this one ends.

        Raises:
            ConfigError: the cells of the two do not lie on one another.
        """
        if target == self:
            return features
        offsets = [(self.y_min - target.y_min) / self.cell, (self.x_min - target.x_min) / self.cell]
        if self.cell != target.cell or any(abs(offset - round(offset)) > _TOLERANCE_CELLS for offset in offsets):
            raise ConfigError(f"cells of {self.extent} at {self.cell} m do not align with those of {target.extent}")
        placed = features.new_zeros(*features.shape[:-2], *target.shape)
        here, there = [], []
        for offset, cells, all_cells in zip(map(round, offsets), self.shape, target.shape, strict=True):
            first, last = max(offset, 0), min(offset + cells, all_cells)
            there.append(slice(first, max(last, first)))
            here.append(slice(first - offset, max(last, first) - offset))
        placed[..., there[0], there[1]] = features[..., here[0], here[1]]
        return placed

    def to_dict(self) -> dict[str, float]:
        """The fields by name, for JSON and manifests; usual axes are not mentioned."""
        return {name: value for name, value in asdict(self).items() if name != "y_right" or value}

    def sampling_matrix(self, T_source_target: Tensor, target: BevGrid | None = None) -> Tensor:
        """Matrices for `torch.nn.functional.affine_grid`, from normalised target to normalised source coordinates.

        The range need not be symmetric about the agent: HEAL's and OpenCOOD's matrices hold for symmetric ranges only,
        and there these are the same.

        Args:
            T_source_target: (..., 4, 4); maps target-frame coordinates to the frame of this (source) grid.
            target: the grid to resample on, this one if None.

        Returns:
            (..., 2, 3) float64; -1 and 1 are the outer edges of the grids (`align_corners=False`).
        """
        target = target or self
        T = T_source_target.double()
        scale_target, centre_target = target._normalisation(T)
        scale_source, centre_source = self._normalisation(T)
        rotation = T[..., :2, :2]
        shift = rotation @ centre_target + T[..., :2, 3] - centre_source
        return torch.cat((rotation * scale_target, shift[..., None]), dim=-1) / scale_source[:, None]

    def warp(self, features: Tensor, T_source_target: Tensor, target: BevGrid | None = None) -> Tensor:
        """Resample feature maps of this grid in the senders' frames on the target grid in the ego's frame.

        Bilinear between cell centres, zeros outside. Positions are computed in float64; 16-bit features are
        interpolated in float32, since 16-bit positions would be off by a good part of a cell.

        Args:
            features: (N, C, Y, X).
            T_source_target: (N, 4, 4) float64; maps ego-frame coordinates to the sender's frame.
            target: the grid of the result, this one if None; another one crops, shifts or changes the cell.

        Returns:
            (N, C, Yt, Xt) in the dtype of `features`.
        """
        if features.shape[-2:] != self.shape:
            raise ValueError(f"features are {tuple(features.shape)} (N, C, Y, X), the grid is {self.shape} (Y, X)")
        precision = features.dtype if features.dtype in (torch.float32, torch.float64) else torch.float32
        positions = self._positions(T_source_target.to(features.device), target or self).to(precision)
        warped = functional.grid_sample(features.to(precision), positions, align_corners=False)
        return warped.to(features.dtype)

    def visible(self, T_source_target: Tensor, target: BevGrid | None = None) -> Tensor:
        """(N, Yt, Xt) bool: cells of the target grid whose centre lies inside this (source) grid; see `warp`."""
        return (self._positions(T_source_target, target or self).abs() <= 1).all(dim=-1)

    def _positions(self, T_source_target: Tensor, target: BevGrid) -> Tensor:
        """(N, Yt, Xt, 2) float64 normalised positions of the target's cell centres in this grid."""
        # affine_grid would do the same, but it refuses an empty batch, as when no agent sent anything.
        theta = self.sampling_matrix(T_source_target, target)
        half_size, centre = target._normalisation(theta)
        cells = ((target.centres(theta.device) - centre) / half_size).flatten(0, 1)
        positions = cells @ theta[..., :2].mT + theta[..., None, :, 2]
        return positions.reshape(*theta.shape[:-2], *target.shape, 2)

    def _normalisation(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Half sizes (2,) and centre (2,) in metres: a normalised coordinate is (metric - centre) / half size."""
        half_size = like.new_tensor(((self.x_max - self.x_min) / 2, (self.y_max - self.y_min) / 2))
        return half_size, like.new_tensor(((self.x_max + self.x_min) / 2, (self.y_max + self.y_min) / 2))


def at_origin(grid: BevGrid) -> BevGrid:
    """A grid of the same shape whose corner is the origin."""
    return BevGrid(0.0, grid.x_max - grid.x_min, 0.0, grid.y_max - grid.y_min, grid.cell)
