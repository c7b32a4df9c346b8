"""Blocks that are computed again: the same gradients and statistics, with less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from heatv2x.nn.bottleneck import bottleneck_stage
from heatv2x.nn.image_trunks import InvertedBottleneck
from heatv2x.nn.recompute import recomputing
from heatv2x.nn.residual import residual_trunk
from heatv2x.training.loop import train
from tests.scene_factory import same_state, state_copy
from tests.training.stages import FAST, STAGES, build_stage

TRUNKS = {
    "residual": lambda: residual_trunk(8, 3),
    "bottleneck": lambda: bottleneck_stage(8, 16, 8, 3, stride=2),
    "inverted": lambda: nn.Sequential(*(InvertedBottleneck(8, 8, 4, 3, 1) for _ in range(3))),
}


def step(trunk: nn.Module, again: bool, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Gradients, state and bytes kept for the backward pass after one step."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    held: list[Tensor] = []
    with recomputing(trunk, again):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = (trunk(x) ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.clone() for name, p in trunk.named_parameters() if p.grad is not None}
    return gradients, state_copy(trunk), sum(kept.values())


@pytest.mark.parametrize("name", TRUNKS)
def test_gradients_and_statistics_are_the_same_and_less_is_kept(name: str) -> None:
    torch.manual_seed(0)
    trunk, x = TRUNKS[name]().train(), torch.randn(2, 8, 16, 16)
    plain, spared = copy.deepcopy(trunk), copy.deepcopy(trunk)
    gradients, state, much = step(plain, False, x)
    again, after, little = step(spared, True, x)
    assert gradients and same_state(gradients, again) and same_state(state, after)
    assert not same_state(state, trunk.state_dict()), "the statistics moved, once"
    assert little < 0.5 * much
    assert not any(getattr(module, "recompute", False) for module in spared.modules())
    momenta = [[m.momentum for m in each.modules() if isinstance(m, nn.BatchNorm2d)] for each in (trunk, spared)]
    assert momenta[0] == momenta[1] and 0.0 not in momenta[1]


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_ends_with_the_same_weights(name: str) -> None:
    kept, spared = build_stage(name), build_stage(name)
    train(kept, FAST)
    train(spared, FAST.model_copy(update={"recompute": True}))
    assert same_state(kept.model.state_dict(), spared.model.state_dict())
