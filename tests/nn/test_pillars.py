"""Points to columns: the fast sorted way against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heatv2x.nn.pillars import PillarEncoder, collate_pillars, flat_cells, pillars_of
from heatv2x.structures import Float32
from tests.scene_factory import GRID, shaken

Z_RANGE = (-3.0, 2.0)


def cloud(count: int = 400, seed: int = 0) -> Float32:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform([-14, -14, -4], [14, 14, 3], (count, 3))
    return np.column_stack([xyz, rng.random(count)]).astype(np.float32)


def columns_by_hand(points: Float32, max_points: int) -> dict[int, list[Float32]]:
    rows, columns = GRID.shape
    found: dict[int, list[Float32]] = {}
    for point in points:
        x, y = int(np.floor((point[0] - GRID.x_min) / GRID.cell)), int(np.floor((point[1] - GRID.y_min) / GRID.cell))
        if 0 <= x < columns and 0 <= y < rows and Z_RANGE[0] <= point[2] < Z_RANGE[1]:
            column = found.setdefault(y * columns + x, [])
            if len(column) < max_points:
                column.append(point)
    return found


@pytest.mark.parametrize("max_points", [1, 3, 100])
@pytest.mark.parametrize("absolute_xy", [False, True])
def test_pillars_by_hand(max_points: int, absolute_xy: bool) -> None:
    points = cloud()
    pillars = pillars_of(points, GRID, max_points, Z_RANGE, absolute_xy)
    by_hand = columns_by_hand(points, max_points)
    assert pillars.cells.tolist() == sorted(by_hand)
    assert pillars.counts.tolist() == [len(by_hand[cell]) for cell in sorted(by_hand)]
    expected = []
    for cell in sorted(by_hand):
        column = np.array(by_hand[cell])
        row, col = divmod(cell, GRID.shape[1])
        centre = [GRID.x_min + (col + 0.5) * GRID.cell, GRID.y_min + (row + 0.5) * GRID.cell, -0.5]
        for point in column:
            about = [*(point[:3] - column[:, :3].mean(axis=0)), *(point[:3] - centre)]
            expected.append([*(point if absolute_xy else point[2:]), *about])
    np.testing.assert_allclose(pillars.features.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_points_on_the_edges() -> None:
    points = np.float32([[-12.8, -12.8, 0], [12.8, 0, 0], [0, 12.8, 0], [12.79, 12.79, 0], [-12.81, 0, 0]])
    inside, cells = flat_cells(points, GRID)
    assert inside.tolist() == [0, 3] and cells.tolist() == [0, 255]


def test_the_image_is_the_maximum_of_every_column() -> None:
    encoder: PillarEncoder = shaken(PillarEncoder(8, 6, GRID), 0.3).eval()
    pillars = pillars_of(cloud(), GRID, 5, Z_RANGE, False)
    image = encoder(pillars)
    assert image.shape == (1, 6, *GRID.shape)
    points = torch.relu(encoder.norm(encoder.linear(pillars.features)))
    first = 0
    expected = torch.zeros(6, GRID.shape[0] * GRID.shape[1])
    for cell, count in zip(pillars.cells.tolist(), pillars.counts.tolist(), strict=True):
        expected[:, cell] = points[first : first + count].amax(dim=0)
        first += count
    torch.testing.assert_close(image[0].flatten(1), expected)


def test_the_order_of_points_does_not_matter() -> None:
    encoder: PillarEncoder = shaken(PillarEncoder(10, 6, GRID), 0.3).eval()
    points = cloud()
    one, other = (encoder(pillars_of(order, GRID, 1000, Z_RANGE, True)) for order in (points, points[::-1].copy()))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_agents_in_a_batch_have_an_image_each() -> None:
    encoder: PillarEncoder = shaken(PillarEncoder(8, 6, GRID), 0.3).eval()
    sweeps = [pillars_of(points, GRID, 5, Z_RANGE, False) for points in (cloud(seed=1), cloud(0), cloud(30, seed=2))]
    together = encoder(collate_pillars(sweeps, GRID))
    assert together.shape == (3, 6, *GRID.shape) and not together[1].any()
    for row, sweep in zip(together, sweeps, strict=True):
        torch.testing.assert_close(row, encoder(sweep)[0])
    nested = collate_pillars([collate_pillars(sweeps[:2], GRID), sweeps[2]], GRID)
    assert nested.agents == 3 and torch.equal(nested.cells, collate_pillars(sweeps, GRID).cells)
