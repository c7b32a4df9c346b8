"""The Hetero-Aware Adapter's gate looks at where something is, so that a crop and the whole map agree."""

from __future__ import annotations

import pytest
import torch

from heatv2x.adapters.hetero_aware import HeteroAware
from tests.scene_factory import CHANNELS, shaken


@pytest.fixture
def adapter() -> HeteroAware:
    torch.manual_seed(0)
    built: HeteroAware = shaken(HeteroAware(HeteroAware.Config(), CHANNELS), 0.2)
    torch.nn.init.zeros_(built.remix.bias)
    return built


def test_a_crop_around_what_is_there_equals_the_whole_map(adapter: HeteroAware) -> None:
    whole = torch.zeros(1, CHANNELS, 40, 40)
    whole[:, :, 12:22, 14:24] = torch.randn(1, CHANNELS, 10, 10)
    crop = whole[:, :, 6:28, 8:30]
    inner = adapter(crop)[:, :, 3:-3, 3:-3]
    torch.testing.assert_close(inner, adapter(whole)[:, :, 9:25, 11:27], rtol=1e-4, atol=1e-5)


def test_a_kernel_of_one_keeps_cells_apart_in_the_remix() -> None:
    built = HeteroAware(HeteroAware.Config(kernel=1, rank=4), CHANNELS)
    assert built.remix.weight.shape == (CHANNELS, CHANNELS, 1, 1)
    x = torch.randn(2, CHANNELS, 5, 6)
    assert torch.equal(built(x), x)
    assert built.down.weight.shape[0] == 4


def test_an_empty_map_is_no_problem(adapter: HeteroAware) -> None:
    empty = torch.zeros(1, CHANNELS, 8, 8, requires_grad=True)
    adapted = adapter(empty)
    adapted.sum().backward()
    assert adapted.isfinite().all() and empty.grad is not None and empty.grad.isfinite().all()


def test_without_a_bottleneck_only_the_convolution_is_left() -> None:
    adapter = HeteroAware(HeteroAware.Config(rank=0), 8)
    assert [name for name, _ in adapter.named_parameters()] == ["remix.weight", "remix.bias"]
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(adapter(x), adapter.remix(x)) and torch.equal(adapter(x), x)
