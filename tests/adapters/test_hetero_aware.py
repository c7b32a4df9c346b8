"""The Hetero-Aware Adapter is one convolution, of an odd size."""

from __future__ import annotations

import pytest
import torch

from heatv2x.adapters.hetero_aware import HeteroAware
from heatv2x.core.config import build
from heatv2x.errors import ConfigError
from tests.scene_factory import CHANNELS, shaken


def test_it_is_one_convolution() -> None:
    adapter: HeteroAware = shaken(HeteroAware(HeteroAware.Config(), CHANNELS), 0.2)
    assert {name: tuple(p.shape) for name, p in adapter.named_parameters()} == {
        "remix.weight": (CHANNELS, CHANNELS, 3, 3),
        "remix.bias": (CHANNELS,),
    }
    x = torch.randn(2, CHANNELS, 6, 7)
    wanted = torch.nn.functional.conv2d(x, adapter.remix.weight, adapter.remix.bias, padding=1)
    torch.testing.assert_close(adapter(x), wanted)


def test_a_kernel_of_one_keeps_cells_apart() -> None:
    adapter: HeteroAware = shaken(HeteroAware(HeteroAware.Config(kernel=1), CHANNELS), 0.2)
    x = torch.randn(1, CHANNELS, 5, 6)
    other = x.clone()
    other[:, :, 2, 3] += 1
    changed = (adapter(x) - adapter(other)).abs().amax(dim=1)[0] > 1e-6
    assert changed[2, 3] and changed.sum() == 1


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ConfigError, match="odd"):
        build(HeteroAware.Config, {"kernel": 2})
