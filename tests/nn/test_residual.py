"""Trunks keep shapes, and what they refuse they refuse in words."""

from __future__ import annotations

import pytest
import torch

from heatv2x.errors import ConfigError
from heatv2x.nn.residual import Norm, ResidualBlock, TwoScaleNeck, conv_block, norm_layer, residual_trunk


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("stride", [1, 2])
def test_shapes(norm: Norm, stride: int) -> None:
    x = torch.randn(2, 8, 12, 16)
    for block in (conv_block(8, 16, stride=stride, norm=norm), ResidualBlock(8, 16, stride, norm)):
        assert block(x).shape == (2, 16, 12 // stride, 16 // stride) and (block(x) >= 0).all()


def test_a_trunk_of_no_blocks_is_the_identity() -> None:
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(residual_trunk(8, 0)(x), x)
    assert len(residual_trunk(8, 3)) == 3


def test_the_neck_sees_further_than_its_fine_branch() -> None:
    neck = TwoScaleNeck(8, 16).eval()
    x = torch.zeros(1, 8, 16, 16)
    dot = x.clone()
    dot[0, :, 8, 8] = 1
    reach = (neck(dot) - neck(x)).abs().sum(dim=(0, 1)) > 0
    fine = (neck.fine(dot) - neck.fine(x)).abs().sum(dim=(0, 1)) > 0
    assert reach.sum() > fine.sum() and neck(dot).shape == x.shape


def test_group_norm_does_not_depend_on_the_batch() -> None:
    norm = norm_layer("group", 16).train()
    x = torch.randn(4, 16, 5, 5)
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))
    assert not list(norm.buffers())


def test_channels_that_make_no_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels=20: group normalisation needs a multiple of 8"):
        norm_layer("group", 20)
