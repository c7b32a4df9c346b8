"""Sparse convolution against dense convolution and the reference vectors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from heatv2x.errors import ConfigError
from heatv2x.geometry.grid import BevGrid
from heatv2x.interop.heal.names import SPARSE, renamed
from heatv2x.nn.sparse import Sites, SparseBlock, SparseConvolution, SparseMap, SparseStages, Triple
from heatv2x.nn.spconv_backend import flat_image
from heatv2x.nn.voxels import collate_voxels, voxels_of
from tests.golden_weights import reference_weights

SHAPE, TALL = (6, 8, 10), (11, 8, 10)


def occupied(share: float = 0.1, maps: int = 2, channels: int = 3, seed: int = 0, shape: Triple = SHAPE) -> SparseMap:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.nonzero(torch.rand(maps * shape[0] * shape[1] * shape[2], generator=generator) < share)[:, 0]
    features = torch.randn(len(keys), channels, generator=generator)
    return SparseMap(features, Sites(keys, shape, maps))


def at_sites(dense: Tensor, sites: Sites) -> Tensor:
    n, z, y, x = sites.coordinates().T
    return dense[n, :, z, y, x]


def dense_weight(layer: SparseConvolution) -> Tensor:
    return layer.weight.permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 1, 1)])
def test_submanifold_is_dense_convolution_at_the_sites(kernel: Triple) -> None:
    x, layer = occupied(), SparseConvolution(3, 5, kernel)
    result = layer(x)
    dense = functional.conv3d(x.dense(), dense_weight(layer), padding=[side // 2 for side in kernel])
    assert torch.equal(result.sites.keys, x.sites.keys)
    torch.testing.assert_close(result.features, at_sites(dense, x.sites), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((3, 3, 3), (2, 2, 2), (0, 1, 1)), ((3, 1, 1), (2, 1, 1), (0, 0, 0))],
)
def test_strided_is_dense_convolution(kernel: Triple, stride: Triple, padding: Triple) -> None:
    """Where the result has no site, no input lies in the window, and the dense result is zero."""
    x, layer = occupied(), SparseConvolution(3, 5, kernel, stride, padding)
    dense = functional.conv3d(x.dense(), dense_weight(layer), stride=stride, padding=padding)
    torch.testing.assert_close(layer(x).dense(), dense, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_dense_convolution() -> None:
    x = occupied()
    layers = [SparseConvolution(3, 4), SparseConvolution(4, 2, (3, 3, 3), (2, 2, 2), (1, 1, 1))]
    features = x.features.requires_grad_()
    hidden = layers[0](x)
    layers[1](hidden).dense().square().sum().backward()
    ours = [features.grad, *(layer.weight.grad for layer in layers)]
    again = x.features.detach().requires_grad_()
    copies = [dense_weight(layer).detach().requires_grad_() for layer in layers]
    mask = SparseMap(torch.ones(len(again), 1), x.sites).dense()
    inner = functional.conv3d(SparseMap(again, x.sites).dense(), copies[0], padding=1) * mask
    functional.conv3d(inner, copies[1], stride=2, padding=1).square().sum().backward()
    theirs = [again.grad, *(copy.grad.permute(0, 2, 3, 4, 1) for copy in copies)]  # type: ignore[union-attr]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine is not None and other is not None
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_maps_do_not_touch_one_another() -> None:
    layer, x = SparseConvolution(3, 2), occupied(0.4)
    alone = x.sites.keys < SHAPE[0] * SHAPE[1] * SHAPE[2]
    first = SparseMap(x.features[alone], Sites(x.sites.keys[alone], SHAPE, 1))
    torch.testing.assert_close(layer(x).features[alone], layer(first).features)


@pytest.mark.parametrize("share", [0.0, 1e-4])
def test_little_or_nothing_there(share: float) -> None:
    """No site at all, or a single one, trains without a complaint."""
    x = (
        occupied(share, maps=1, seed=1)
        if share == 0
        else SparseMap(torch.ones(1, 3), Sites(torch.tensor([7]), SHAPE, 1))
    )
    for layer in (SparseBlock(3, 4), SparseBlock(3, 4, (3, 3, 3), (2, 2, 2), (1, 1, 1))):
        result = layer.train()(x)
        assert result.features.isfinite().all() and result.dense().shape[1] == 4


def test_too_few_layers_are_refused() -> None:
    stages = SparseStages(4, (8, 8, 8))
    assert [SparseStages(4, (16, 32, 64, 64)).heights(layers) for layers in (41, 51)] == [2, 2]
    with pytest.raises(ConfigError, match="layers"):
        stages.heights(4)


class TestReference:
    GRID = BevGrid(-6.4, 6.4, -6.4, 6.4, 0.1)

    def test_second(self, golden: Path) -> None:
        with np.load(golden / "n_second_encoder.npz") as vectors:
            points, count, image = vectors["points"], int(vectors["num_voxels"]), vectors["bev"]
        voxels = voxels_of(points, self.GRID, (-3.0, 1.0), 0.1, 5, 70000)
        assert len(voxels.keys) == count and voxels.shape == (41, 128, 128)
        state, unknown = renamed(reference_weights("n_second_encoder_state_dict_shapes.json", "encoder_m3."), SPARSE)
        stages = SparseStages(4, (16, 32, 64, 64)).eval()
        stages.load_state_dict(state)
        assert not unknown and sum(p.numel() for p in stages.parameters()) == 699_456
        with torch.no_grad():
            ours = stages(voxels.sparse())
            two = stages(collate_voxels([voxels, voxels]).sparse())
        torch.testing.assert_close(ours, torch.from_numpy(image), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two, ours.expand(2, -1, -1, -1))

    def test_only_so_many_points_and_voxels(self) -> None:
        points = np.float32([[0.01, 0.01, 0.01, 1.0], [0.02, 0.02, 0.02, 0.0], [1, 1, 0, 0.5], [0.03, 0.03, 0.03, 1.0]])
        voxels = voxels_of(points, self.GRID, (-3.0, 1.0), 0.1, 2, 1)
        np.testing.assert_allclose(voxels.features, [[0.015, 0.015, 0.015, 0.5]], rtol=1e-5)


class TestSpconv:
    def test_it_computes_the_same(self) -> None:
        pytest.importorskip("spconv.pytorch")
        x, stages = occupied(0.2, channels=4, shape=TALL), SparseStages(4, (8, 16)).eval()
        with torch.no_grad():
            torch.testing.assert_close(flat_image(stages, x), stages(x), rtol=1e-4, atol=1e-4)
        with pytest.raises(ConfigError, match="CUDA"):
            flat_image(stages, x)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    def test_on_cuda_gradients_too(self) -> None:
        pytest.importorskip("spconv.pytorch")
        x, stages = occupied(0.2, channels=4, shape=TALL), SparseStages(4, (8, 16)).cuda()
        there = SparseMap(x.features.cuda(), Sites(x.sites.keys.cuda(), TALL, 2))
        gradients = []
        for run in (stages, lambda sites: flat_image(stages, sites)):
            stages.zero_grad()
            run(there).square().mean().backward()
            gradients.append([p.grad.clone() for p in stages.parameters() if p.grad is not None])
        for mine, other in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-4)

    def test_without_it_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "spconv.pytorch", None)
        with pytest.raises(ConfigError, match=r"heatv2x\[cuda\]"):
            flat_image(SparseStages(3, (4, 4)), occupied())
