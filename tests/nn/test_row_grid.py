"""Warping by rows gives what the grid's own warp gives."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.row_grid import RowGrid
from heatv2x.structures import Pose

GRID = BevGrid(-8.0, 12.0, -6.0, 6.0, 0.5)


def rows(grid: BevGrid) -> RowGrid:
    return RowGrid(**dataclasses.asdict(grid))


def poses(*xyyaw: tuple[float, float, float]) -> Tensor:
    return torch.stack([torch.from_numpy(Pose.planar(*one).matrix) for one in xyyaw])


def maps(count: int, grid: BevGrid = GRID) -> Tensor:
    values = torch.randn(count, 5, *grid.shape, generator=torch.Generator().manual_seed(0))
    return values.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("target", [None, BevGrid(0.0, 7.0, -2.0, 3.0, 0.5), GRID.coarser(2)])
def test_as_the_grid_itself(target: BevGrid | None) -> None:
    T = poses((0, 0, 0), (3.3, -2.1, 0.7), (-11.7, 4.0, 3.0), (1e5, 0, 0))
    wanted, found = GRID.warp(maps(4), T, target), rows(GRID).warp(maps(4), T, target)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_staying_where_one_is_changes_nothing() -> None:
    assert torch.equal(rows(GRID).warp(maps(1), poses((0, 0, 0))), maps(1))


def test_in_bfloat16() -> None:
    T, given = poses((3.3, -2.1, 0.7)), maps(1).bfloat16()
    found = rows(GRID).warp(given, T)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), GRID.warp(given.float(), T), rtol=0, atol=3e-2)


def test_nobody_sent_anything() -> None:
    assert rows(GRID).warp(maps(0), poses((0, 0, 0))[:0]).shape == (0, 5, *GRID.shape)


def test_maps_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="the grid is"):
        rows(GRID).warp(maps(1, GRID.coarser(2)), poses((0, 0, 0)))


def test_grids_derived_from_it_warp_by_rows_too() -> None:
    assert isinstance(rows(GRID).coarser(2), RowGrid)
