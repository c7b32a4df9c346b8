"""The warp between agents, by first principles and against the vectors in tests/golden."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from heatv2x.errors import ConfigError
from heatv2x.geometry.grid import BevGrid

SQUARE = BevGrid(-8, 8, -8, 8, 0.5)
AHEAD = BevGrid(-4, 20, -6, 10, 0.5)  # sees more to the front and to the left, as a camera's grid may


def planar(x: float, y: float, yaw: float) -> Tensor:
    T = torch.eye(4, dtype=torch.float64)
    T[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    T[:2, 3] = torch.tensor([x, y])
    return T


def cell_of(grid: BevGrid, x: float, y: float) -> tuple[int, int]:
    return math.floor((y - grid.y_min) / grid.cell), math.floor((x - grid.x_min) / grid.cell)


def marker(grid: BevGrid, x: float, y: float) -> Tensor:
    features = torch.zeros(1, 1, *grid.shape)
    features[(0, 0, *cell_of(grid, x, y))] = 1
    return features


def golden() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[1] / "golden" / "g_warp.npz") as arrays:
        return {key: torch.from_numpy(arrays[key].copy()) for key in arrays.files}


def transform_behind(theta: Tensor, source: BevGrid, target: BevGrid) -> Tensor:
    """The (N, 4, 4) transform whose sampling matrix is `theta`, for grids symmetric about their origin."""
    T = torch.eye(4, dtype=torch.float64).repeat(len(theta), 1, 1)
    half_source = torch.tensor([source.x_max, source.y_max], dtype=torch.float64)
    half_target = torch.tensor([target.x_max, target.y_max], dtype=torch.float64)
    T[:, :2, :2] = theta[:, :, :2] * half_source[:, None] / half_target
    T[:, :2, 3] = theta[:, :, 2] * half_source
    return T


def test_shape_extent_and_centres() -> None:
    assert AHEAD.shape == (32, 48)
    assert AHEAD.extent == (-4, 20, -6, 10)
    centres = AHEAD.centres()
    assert centres.shape == (32, 48, 2)
    assert centres.dtype == torch.float64
    assert centres[0, 0].tolist() == [-3.75, -5.75]
    assert centres[0, 1].tolist() == [-3.25, -5.75]
    assert centres[-1, -1].tolist() == [19.75, 9.75]


def test_decimal_cells_count_right() -> None:
    assert BevGrid(-51.2, 51.2, -25.6, 25.6, 0.1).shape == (512, 1024)
    assert BevGrid(-140.8, 140.8, -38.4, 38.4, 0.4).shape == (192, 704)


@pytest.mark.parametrize(
    ("extent", "cell", "named"),
    [
        ((-8, 8, -8, 8), 0.7, "x_max"),
        ((-8, 8, -8, 8.2), 0.5, "y_max=8.0"),
        ((8, -8, -8, 8), 0.5, "x_min"),
        ((-8, 8, 3, 3), 0.5, "y_min"),
        ((-8, 8, -8, 8), 0.0, "cell"),
        ((-8, 8, -8, 8), -1.0, "cell"),
        ((-8, 8, -8, 8), float("nan"), "cell"),
        ((-8, float("inf"), -8, 8), 0.5, "x_max"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(extent: tuple[float, ...], cell: float, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        BevGrid(*extent, cell)


def test_coarser_grids() -> None:
    grid = BevGrid(-51.2, 51.2, -25.6, 25.6, 0.1)
    assert grid.coarser(8).shape == (64, 128)
    assert grid.coarser(2).coarser(4) == grid.coarser(8)
    assert grid.coarser(1) == grid
    assert BevGrid(-3, 3, -6, 6, 0.1).coarser(3) == BevGrid(-3, 3, -6, 6, 0.3)
    with pytest.raises(ConfigError, match="factor 3"):
        grid.coarser(3)
    with pytest.raises(ConfigError, match="factor 0"):
        grid.coarser(0)


def test_to_dict_builds_the_same_grid() -> None:
    assert BevGrid(**AHEAD.to_dict()) == AHEAD


def test_sampling_matrix_of_a_quarter_turn() -> None:
    # FACTS 1.6: 90 degrees, (20, -10) m on a map of 204.8 x 102.4 m.
    grid = BevGrid(-102.4, 102.4, -51.2, 51.2, 0.8)
    expected = torch.tensor([[0, -0.5, 0.1953125], [2, 0, -0.1953125]], dtype=torch.float64)
    torch.testing.assert_close(grid.sampling_matrix(planar(20, -10, math.pi / 2)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "grid"),
    [
        ("norm_H51p2_W81p92_ratio1", BevGrid(-40.96, 40.96, -25.6, 25.6, 0.64)),
        ("norm_H12_W20_ratio0p4_down2", BevGrid(-8, 8, -4.8, 4.8, 0.8)),
    ],
)
def test_sampling_matrices_agree_with_heal(key: str, grid: BevGrid) -> None:
    vectors = golden()
    torch.testing.assert_close(grid.sampling_matrix(vectors["pairwise"]), vectors[key], rtol=1e-9, atol=1e-12)


def test_sampling_matrices_feed_affine_grid() -> None:
    T = torch.stack([planar(1, 2, 0.3), planar(-4, 1, 2)])
    features = torch.randn(2, 3, *AHEAD.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    grid = functional.affine_grid(AHEAD.sampling_matrix(T, SQUARE), [2, 3, *SQUARE.shape], align_corners=False)
    sampled = functional.grid_sample(features, grid, align_corners=False)
    torch.testing.assert_close(AHEAD.warp(features, T, SQUARE), sampled, rtol=0, atol=1e-9)


def test_warp_agrees_with_heal() -> None:
    vectors = golden()
    source, target = BevGrid(-10, 10, -6, 6, 1), BevGrid(-7, 7, -4.5, 4.5, 1)
    theta, features = vectors["theta"], vectors["x"]
    warped = source.warp(features, transform_behind(theta, source, source))
    torch.testing.assert_close(warped, vectors["warp_noalign"], rtol=0, atol=2e-5)
    smaller = source.warp(features, transform_behind(theta, source, target), target)
    torch.testing.assert_close(smaller, vectors["warp_noalign_out9x14"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("source", [SQUARE, AHEAD])
@pytest.mark.parametrize("target", [SQUARE, AHEAD])
@pytest.mark.parametrize(("x", "y", "quarter_turns"), [(0, 0, 0), (3, -2, 0), (2, 1, 1), (-1.5, 2.5, 2), (4, 0.5, 3)])
def test_a_marker_lands_where_the_world_says(
    source: BevGrid, target: BevGrid, x: float, y: float, quarter_turns: int
) -> None:
    T_target_source = planar(x, y, quarter_turns * math.pi / 2)
    seen = torch.tensor([1.75, 0.25, 0, 1], dtype=torch.float64)  # a cell centre, in the sender's frame
    there = T_target_source @ seen
    warped = source.warp(marker(source, 1.75, 0.25), torch.linalg.inv(T_target_source)[None], target)
    torch.testing.assert_close(warped, marker(target, float(there[0]), float(there[1])), rtol=0, atol=1e-4)


def test_no_motion_on_the_same_grid_changes_nothing() -> None:
    features = torch.randn(2, 3, *AHEAD.shape, generator=torch.Generator().manual_seed(0))
    still = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    torch.testing.assert_close(AHEAD.warp(features, still), features, rtol=0, atol=1e-4)
    assert AHEAD.visible(still).all()


def test_height_roll_and_pitch_are_dropped() -> None:
    T = planar(2, 1, 0.3)
    tilted = T.clone()
    tilted[2] = torch.tensor([0.1, 0.2, 0.97, 5.0])
    tilted[:2, 2] = torch.tensor([0.1, -0.1])
    assert torch.equal(SQUARE.sampling_matrix(tilted), SQUARE.sampling_matrix(T))


def test_a_ramp_stays_a_ramp_between_cells() -> None:
    # Bilinear resampling is exact for a feature that is linear in the sender's coordinates.
    T = planar(1.3, -0.7, 0.4)[None]
    ramp = (SQUARE.centres() @ torch.tensor([2.0, -3.0], dtype=torch.float64)).float()[None, None]
    warped = SQUARE.warp(ramp, T)[0, 0]
    centres = SQUARE.centres()
    seen = centres @ T[0, :2, :2].T + T[0, :2, 3]
    inner = (seen.abs() < 7.7).all(dim=-1)
    assert int(inner.sum()) > 500
    expected = (seen @ torch.tensor([2.0, -3.0], dtype=torch.float64)).float()
    torch.testing.assert_close(warped[inner], expected[inner], rtol=0, atol=1e-4)


def test_a_window_is_a_crop() -> None:
    features = torch.randn(1, 2, *AHEAD.shape, generator=torch.Generator().manual_seed(1))
    T = planar(1.3, -0.7, 0.4)[None]
    window = AHEAD.window(5, 10, (12, 20))
    assert window.shape == (12, 20)
    torch.testing.assert_close(window.centres(), AHEAD.centres()[5:17, 10:30])
    whole = AHEAD.warp(features, T)
    assert torch.equal(AHEAD.crop(features, window), features[:, :, 5:17, 10:30])
    torch.testing.assert_close(AHEAD.warp(features, T, window), whole[:, :, 5:17, 10:30], rtol=0, atol=1e-4)
    assert torch.equal(AHEAD.visible(T, window), AHEAD.visible(T)[:, 5:17, 10:30])
    with pytest.raises(ConfigError, match="window"):
        AHEAD.window(25, 10, (12, 20))


@pytest.mark.parametrize("source", [SQUARE, AHEAD])
def test_visible_is_what_the_sender_covers(source: BevGrid) -> None:
    T_source_target = planar(5.1, -3.3, 0.9)
    visible = source.visible(T_source_target[None], SQUARE)[0]
    assert 100 < int(visible.sum()) < visible.numel() - 100
    for row, column in np.ndindex(*SQUARE.shape):
        x, y = SQUARE.centres()[row, column].tolist() if (row + column) % 7 == 0 else (None, None)
        if x is None:
            continue
        there = T_source_target @ torch.tensor([x, y, 0, 1], dtype=torch.float64)
        inside = source.x_min <= there[0] <= source.x_max and source.y_min <= there[1] <= source.y_max
        assert bool(visible[row, column]) == inside
    ones = source.warp(torch.ones(1, 1, *source.shape), T_source_target[None], SQUARE)[0, 0]
    assert bool((ones[visible] >= 0.25 - 1e-5).all())
    far = source.visible(planar(500, 0, 0)[None])
    assert not far.any()


def test_sixteen_bit_features_are_sampled_at_exact_positions() -> None:
    grid = BevGrid(-64, 64, -64, 64, 0.5)
    T = planar(3.2, -1.7, 0.6)[None]
    features = torch.randn(1, 4, *grid.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    warped = grid.warp(features, T)
    assert warped.dtype == torch.bfloat16
    exact = grid.warp(features.double(), T)
    torch.testing.assert_close(warped.double(), exact, rtol=2**-8, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(grid.warp(features, T), warped)


def test_gradients_reach_the_features() -> None:
    features = torch.ones(1, 1, *SQUARE.shape, requires_grad=True)
    SQUARE.warp(features, planar(4, 0, 0)[None]).sum().backward()
    assert features.grad is not None
    used = features.grad[0, 0].sum(dim=0) > 0.5
    assert used.tolist() == [False] * 8 + [True] * 24  # the sender's rearmost 4 m lie outside the ego's grid


def test_features_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4\)"):
        SQUARE.warp(torch.zeros(1, 1, 4, 4), torch.eye(4, dtype=torch.float64)[None])


def test_no_senders() -> None:
    none = torch.zeros(0, 4, 4, dtype=torch.float64)
    assert SQUARE.warp(torch.zeros(0, 3, *SQUARE.shape), none, AHEAD).shape == (0, 3, *AHEAD.shape)
    assert SQUARE.visible(none).shape == (0, *SQUARE.shape)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    features = torch.randn(2, 3, *AHEAD.shape, generator=torch.Generator().manual_seed(3))
    T = torch.stack([planar(1, 2, 0.3), planar(-4, 1, 2)])
    warped = AHEAD.warp(features.cuda(), T, SQUARE).cpu()
    torch.testing.assert_close(warped, AHEAD.warp(features, T, SQUARE), rtol=0, atol=1e-4)


class TestPlaced:
    SMALL, LARGE = BevGrid(-2.0, 2.0, -1.0, 1.0, 0.5), BevGrid(-3.0, 1.0, -2.0, 2.0, 0.5)

    def test_on_another_grid_the_same_places_keep_their_values(self) -> None:
        features = torch.rand(2, 3, *self.SMALL.shape)
        placed = self.SMALL.placed(features, self.LARGE)
        assert placed.shape == (2, 3, *self.LARGE.shape)
        assert (
            torch.equal(placed[..., 2:6, 2:8], features[..., :6])
            and placed.count_nonzero() == features[..., :6].numel()
        )
        back = self.LARGE.placed(placed, self.SMALL)
        assert torch.equal(back[..., :6], features[..., :6]) and not back[..., 6:].any()

    def test_apart_there_is_nothing(self) -> None:
        away = BevGrid(5.0, 7.0, -1.0, 1.0, 0.5)
        assert not self.SMALL.placed(torch.ones(1, *self.SMALL.shape), away).any()

    @pytest.mark.parametrize("other", [BevGrid(-2.0, 2.0, -1.0, 1.0, 0.25), BevGrid(-2.2, 1.8, -1.0, 1.0, 0.5)])
    def test_cells_must_lie_on_one_another(self, other: BevGrid) -> None:
        with pytest.raises(ConfigError, match="do not align"):
            self.SMALL.placed(torch.ones(1, *self.SMALL.shape), other)
