"""Lift and splat against geometry: a point that a camera sees lands in the cell it stands in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.lift import depth_bin, depth_edges, image_rays, splat, splat_cells
from tests.scene_factory import GRID, camera_mount

K = torch.tensor([[32.0, 0.0, 31.5], [0.0, 32.0, 23.5], [0.0, 0.0, 1.0]])


@settings(max_examples=100, deadline=None)
@given(depth=st.floats(0.1, 80.0), d_min=st.floats(0.5, 3.0), bins=st.integers(2, 60))
def test_a_depth_lies_between_the_edges_of_its_bin(depth: float, d_min: float, bins: int) -> None:
    edges = [*depth_edges(d_min, 50.0, bins).tolist(), 50.0]
    index, valid = depth_bin(torch.tensor([depth]), d_min, 50.0, bins)
    assert 0 <= int(index) < bins
    assert bool(valid) == (np.float32(d_min) <= np.float32(depth) < 50.0)
    if valid:
        assert edges[int(index)] - 1e-3 <= depth <= edges[int(index) + 1] + 1e-3


def test_bins_grow_linearly() -> None:
    edges = depth_edges(2.0, 50.0, 10)
    widths = torch.cat([edges, torch.tensor([50.0])]).diff()
    assert float(edges[0]) == 2.0
    torch.testing.assert_close(widths, widths[0] * torch.arange(1.0, 11.0))


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_rays_go_through_the_centres_of_feature_cells(stride: int) -> None:
    rays = image_rays(48, 64, stride, K)
    assert rays.shape == (48 // stride, 64 // stride, 3)
    pixels = rays @ K.T
    assert torch.allclose(pixels[..., 2], torch.ones(()))
    assert pixels[0, 0, 0].item() == pytest.approx(stride / 2 - 0.5)
    assert pixels[-1, -1, 1].item() == pytest.approx(48 - stride / 2 - 0.5, rel=1e-5)


@pytest.mark.parametrize("yaw", [0.0, 0.5, -2.0, math.pi])
@pytest.mark.parametrize("depth", [3.0, 9.0])
def test_a_lifted_pixel_stands_where_it_was_seen(yaw: float, depth: float) -> None:
    """The central column looks along the camera's heading; left of it in the image is left of it in the world."""
    mount = torch.from_numpy(camera_mount(yaw)).float()
    cells = splat_cells(image_rays(48, 64, 1, K), torch.tensor([depth]), mount, GRID, (-3, 3))
    for u, v in ((31, 23), (8, 20), (60, 30)):
        side, forward = -(u - 31.5) / 32 * depth, depth
        x = forward * math.cos(yaw) - side * math.sin(yaw)
        y = forward * math.sin(yaw) + side * math.cos(yaw)
        inside = abs(x) < 12.8 and abs(y) < 12.8
        row, column = math.floor((y + 12.8) / 1.6), math.floor((x + 12.8) / 1.6)
        assert int(cells[0, v, u]) == (row * 16 + column if inside else -1)


def test_heights_outside_the_range_are_dropped() -> None:
    mount = torch.from_numpy(camera_mount(0.0)).float()
    rays = image_rays(48, 64, 1, K)
    cells = splat_cells(rays, torch.tensor([10.0]), mount, GRID, (-1.0, 0.5))[0]
    heights = -rays[..., 1] * 10.0
    kept = (heights >= -1.0) & (heights < 0.5) & (rays[..., 0].abs() * 10.0 < 12.8)
    assert kept.any() and torch.equal(cells >= 0, kept)


def test_splat_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    agents, cameras, channels, bins, height, width = 2, 2, 3, 4, 2, 3
    features = torch.randn(agents * cameras, channels, height, width, generator=generator)
    depth = torch.rand(agents * cameras, bins, height, width, generator=generator)
    cells = torch.randint(-1, 6, (agents * cameras, bins, height, width), generator=generator)
    owners = torch.arange(agents).repeat_interleave(cameras)
    bev = splat(features, depth, cells, owners, agents, GRID)
    expected = torch.zeros(agents, channels, 256)
    for image in range(agents * cameras):
        for d in range(bins):
            for v in range(height):
                for u in range(width):
                    if (cell := int(cells[image, d, v, u])) >= 0:
                        expected[image // cameras, :, cell] += features[image, :, v, u] * depth[image, d, v, u]
    torch.testing.assert_close(bev.flatten(2), expected, rtol=1e-4, atol=1e-5)


def test_splat_under_half_precision_sums_in_float32() -> None:
    features, depth = torch.full((1, 1, 40, 40), 1.0).bfloat16(), torch.full((1, 1, 40, 40), 1.0).bfloat16()
    cells = torch.zeros(1, 1, 40, 40, dtype=torch.long)
    bev = splat(features, depth, cells, torch.zeros(1, dtype=torch.long), 1, GRID)
    assert bev.dtype == torch.float32 and float(bev.max()) == 1600.0


@pytest.fixture(scope="module")
def vectors(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "k_lss.npz") as file:
        return {name: file[name] for name in file.files}


class TestReferenceVectors:
    """The reference's lift (tests/golden/README.md, k_lss): its pixel grid, its transforms, our splat."""

    def rays(self, vectors: dict[str, np.ndarray], b: int, n: int) -> np.ndarray:
        """(h, w, 3) directions of the reference's pixels, its image augmentation undone."""
        pixels = vectors["frustum"][0] * [1, 1, 0] + [0, 0, 1]
        shift = np.append(vectors["all_post_trans"][b, n, :2], 0)
        K = vectors["all_intrins"][b, n]
        rays: np.ndarray = (pixels - shift) @ np.linalg.inv(vectors["all_post_rots"][b, n]).T @ np.linalg.inv(K).T
        return rays

    def mount(self, vectors: dict[str, np.ndarray], b: int, n: int) -> np.ndarray:
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = vectors["all_rots"][b, n], vectors["all_trans"][b, n]
        return T

    def points(self, vectors: dict[str, np.ndarray], b: int, n: int) -> np.ndarray:
        """(D, h, w, 3) lifted points in the agent's frame."""
        depths, T = vectors["frustum"][:, 0, 0, 2], self.mount(vectors, b, n)
        lifted: np.ndarray = depths[:, None, None, None] * self.rays(vectors, b, n) @ T[:3, :3].T + T[:3, 3]
        return lifted

    @pytest.mark.parametrize(("d_max", "bins"), [(20.0, 8), (50.0, 48)])
    def test_edges_of_depth_bins(self, vectors: dict[str, np.ndarray], d_max: float, bins: int) -> None:
        theirs = vectors[f"depth_bins_LID_2_{d_max:g}_{bins}"]
        np.testing.assert_allclose(depth_edges(2.0, d_max, bins), theirs, atol=2e-6 * d_max)

    def test_bins_of_depths(self, vectors: dict[str, np.ndarray]) -> None:
        """Where a depth is in range. In training the reference puts nearer ones into the last bin; ours are masked."""
        index, valid = depth_bin(torch.from_numpy(vectors["depth_map"]), 2.0, 20.0, 8)
        assert np.array_equal(valid.numpy(), vectors["depth_bin_infer_mask"]) and 0 < valid.float().mean() < 1
        for theirs in (vectors["depth_bin_infer"], vectors["depth_bin_target"]):
            assert np.array_equal(index.numpy()[valid.numpy()], theirs[valid.numpy()])

    def test_lifted_points(self, vectors: dict[str, np.ndarray]) -> None:
        theirs = vectors["geom_one_camera"]
        single = {f"all_{name}": vectors[name] for name in ("rots", "trans", "intrins", "post_rots", "post_trans")}
        for b in range(len(theirs)):
            ours = self.points({**vectors, **single}, b, 0)
            np.testing.assert_allclose(ours, theirs[b, 0], atol=2e-6 * np.abs(theirs).max())

    def test_splat(self, vectors: dict[str, np.ndarray]) -> None:
        """The reference truncates towards zero, so its first row and column swallow points of one cell further out."""
        features = torch.from_numpy(vectors["pool_features"])  # (B, cameras, D, h, w, C)
        batch, cameras, depths = features.shape[:3]
        grid = BevGrid(-12.8, 12.8, -6.4, 6.4, 0.8)
        assert grid.shape == (vectors["nx"][1], vectors["nx"][0])
        cells, beside = [], torch.zeros(batch, features.shape[-1], *grid.shape)
        for b in range(batch):
            for n in range(cameras):
                rays, T = self.rays(vectors, b, n), self.mount(vectors, b, n)
                depth = torch.from_numpy(vectors["frustum"][:, 0, 0, 2])
                cells.append(splat_cells(torch.from_numpy(rays).float(), depth, torch.from_numpy(T), grid, (-10, 10)))
                place = (self.points(vectors, b, n) - [-12.8, -6.4, -10.0]) / vectors["dx"]
                x, y, z = np.moveaxis(np.trunc(place).astype(int), -1, 0)
                swallowed = (x >= 0) & (x < 32) & (y >= 0) & (y < 16) & (z == 0) & (place < 0).any(axis=-1)
                for d, v, u in np.argwhere(swallowed & (place > -1).all(axis=-1)):
                    beside[b, :, y[d, v, u], x[d, v, u]] += features[b, n, d, v, u]
        owners = torch.arange(batch).repeat_interleave(cameras)
        flat = features.flatten(0, 1)
        ours = beside
        for d in range(depths):
            only = torch.zeros(len(flat), *features.shape[2:5])
            only[:, d] = 1.0
            ours = ours + splat(flat[:, d].permute(0, 3, 1, 2), only, torch.stack(cells), owners, batch, grid)
        np.testing.assert_allclose(ours, vectors["pooled"], atol=2e-5 * np.abs(vectors["pooled"]).max())
        assert beside.abs().sum() > 0 and not beside[:, :, 1:, 1:].abs().sum()
