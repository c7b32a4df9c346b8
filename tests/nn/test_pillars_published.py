"""Pillars as published, against the reference vectors: grouping, the network with its empty slots, its gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from heatv2x.geometry.grid import BevGrid
from heatv2x.nn.pillars import PillarEncoder, Pillars, collate_pillars, pillars_of, without_own_body

GRID = BevGrid(-6.4, 6.4, -3.2, 3.2, 0.4)
SLOTS = 8


@pytest.fixture(scope="module")
def voxels() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "golden" / "i_voxelize.npz") as vectors:
        return dict(vectors)


@pytest.fixture(scope="module")
def network() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "golden" / "i_pillar_scatter.npz") as vectors:
        return dict(vectors)


def grouped(points: np.ndarray, slots: int = SLOTS, limit: int | None = None) -> Pillars:
    return pillars_of(points, GRID, slots, (-3.0, 1.0), absolute_xy=True, max_pillars=limit)


def by_cell(vectors: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, counts and points of the reference's voxels, by ascending cell."""
    coords, counts = vectors[f"{name}_voxel_coords"], vectors[f"{name}_voxel_num_points"]
    cells = coords[:, -2] * GRID.shape[1] + coords[:, -1]
    order = np.argsort(cells)
    rows = [vectors[f"{name}_voxel_features"][i, : counts[i]] for i in order]
    return cells[order], counts[order], np.concatenate(rows)


@pytest.mark.parametrize(
    ("points", "name", "slots", "limit"),
    [("points0", "v0", 8, None), ("points1", "v1", 8, None), ("points0", "limit50x3", 3, 50)],
)
def test_points_are_grouped_as_the_reference_does(
    voxels: dict[str, np.ndarray], points: str, name: str, slots: int, limit: int | None
) -> None:
    pillars = grouped(voxels[points], slots, limit)
    cells, counts, rows = by_cell(voxels, name)
    assert pillars.cells.tolist() == cells.tolist() and pillars.counts.tolist() == counts.tolist()
    assert np.array_equal(pillars.features[:, :4].numpy(), rows)


def test_the_vehicles_own_returns_are_cut(voxels: dict[str, np.ndarray]) -> None:
    assert len(without_own_body(voxels["points0"])) == int(voxels["ego_masked_count"])


def encoder_of(network: dict[str, np.ndarray]) -> PillarEncoder:
    encoder = PillarEncoder(10, 16, GRID, slots=SLOTS, momentum=0.01)
    state = {
        ours: torch.from_numpy(network[f"sd.pfn_layers.0.{theirs}"])
        for ours, theirs in [("linear.weight", "linear.weight")]
        + [(f"norm.{k}", f"norm.{k}") for k in ("weight", "bias", "running_mean", "running_var")]
    }
    encoder.load_state_dict({**encoder.state_dict(), **state})
    return encoder


@pytest.fixture
def pillars(voxels: dict[str, np.ndarray]) -> Pillars:
    return collate_pillars([grouped(voxels["points0"]), grouped(voxels["points1"])], GRID)


def order_of(network: dict[str, np.ndarray]) -> np.ndarray:
    """The reference's pillars in our order."""
    batch, _, row, column = network["voxel_coords"].T
    return np.argsort((batch * GRID.shape[0] + row) * GRID.shape[1] + column)


def test_the_network_in_evaluation(pillars: Pillars, network: dict[str, np.ndarray]) -> None:
    encoder = encoder_of(network).eval()
    expected = network["pillar_features_eval"][order_of(network)]
    np.testing.assert_allclose(encoder.of_pillars(pillars).detach(), expected, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(encoder(pillars).detach(), network["bev_eval"], rtol=1e-5, atol=5e-6)


def test_the_network_in_training(pillars: Pillars, network: dict[str, np.ndarray]) -> None:
    """Empty slots count in the statistics of the batch, in the running statistics and in the gradient."""
    encoder = encoder_of(network).train()
    expected = network["pillar_features_train"][order_of(network)]
    np.testing.assert_allclose(encoder.of_pillars(pillars).detach(), expected, rtol=1e-4, atol=1e-5)
    encoder = encoder_of(network).train()
    (encoder(pillars) * torch.from_numpy(network["train_cotangent"])).sum().backward()
    assert encoder.linear.weight.grad is not None
    scale = np.abs(network["train_grad_linear"]).max()
    np.testing.assert_allclose(encoder.linear.weight.grad, network["train_grad_linear"], atol=1e-4 * scale)
    np.testing.assert_allclose(encoder.norm.running_mean, network["after_train_running_mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoder.norm.running_var, network["after_train_running_var"], rtol=1e-5, atol=1e-6)


def test_statistics_are_kept_in_float32_under_autocast(pillars: Pillars, network: dict[str, np.ndarray]) -> None:
    encoder = encoder_of(network).train()
    with torch.autocast("cpu", torch.bfloat16):
        encoder(pillars).sum().backward()
    scale = np.abs(network["after_train_running_mean"]).max()
    np.testing.assert_allclose(encoder.norm.running_mean, network["after_train_running_mean"], atol=2e-3 * scale)
    np.testing.assert_allclose(encoder.norm.running_var, network["after_train_running_var"], rtol=2e-3)


def test_without_any_points(network: dict[str, np.ndarray]) -> None:
    nothing = grouped(np.zeros((0, 4), np.float32))
    for mode in (True, False):
        assert not encoder_of(network).train(mode)(nothing).any()
