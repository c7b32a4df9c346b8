"""The field's fusions at their published sizes, and what each one is known for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from heatv2x.errors import ConfigError
from heatv2x.fusion.attention import Attention
from heatv2x.fusion.base import Received
from heatv2x.fusion.disco import Disco
from heatv2x.fusion.where2comm import Where2comm
from tests.fusion.test_contract import scene
from tests.scene_factory import CHANNELS, shaken

TYPES = ["lidar64", "camera"]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def one_sender(hidden: bool = False) -> tuple[torch.Tensor, Received]:
    return scene([["camera"]], hidden=hidden)


class TestAttention:
    def test_agrees_with_scaled_dot_product_attention_over_agents(self) -> None:
        """The ego's row of a self-attention over agents, cell by cell, with torch's own attention."""
        ego, received = scene([["camera", "lidar64"], ["camera", "camera"]], hidden=False)
        stacked = torch.cat([ego[:, None], received.features], dim=1).permute(0, 3, 4, 1, 2)
        wanted = nn.functional.scaled_dot_product_attention(stacked, stacked, stacked)[..., 0, :].permute(0, 3, 1, 2)
        fused = Attention(Attention.Config(), CHANNELS, TYPES)(ego, received)
        torch.testing.assert_close(fused, wanted, rtol=1e-5, atol=1e-5)

    def test_a_sender_that_says_the_same_gets_half(self) -> None:
        ego, received = one_sender()
        received.features[:, 0] = ego
        fusion = Attention(Attention.Config(), CHANNELS, TYPES)
        torch.testing.assert_close(fusion(ego, received), ego)
        assert torch.equal(fusion.contributions(ego, received), torch.full((1, 1, 10, 12), 0.5))


class TestDisco:
    def test_weights_are_of_a_cell_and_not_of_an_agent(self) -> None:
        ego, received = one_sender()
        fusion = shaken(Disco(Disco.Config(), CHANNELS, TYPES), 0.2)
        weights = fusion.contributions(ego, received)
        assert weights.std() > 1e-3 and weights.shape == (1, 1, 10, 12)
        wanted = (1 - weights) * ego + weights * received.features[:, 0]
        torch.testing.assert_close(fusion(ego, received), wanted)

    def test_size_at_the_published_width(self) -> None:
        """HEAL's table lists DiscoNet at 49.29 M and AttFusion, which has no parameters, at 49.22 M, at C = 256."""
        added = parameters(Disco(Disco.Config(), 256, TYPES))
        assert added == 70_064
        assert added / 1e6 == pytest.approx(49.29 - 49.22, abs=0.01)


class TestWhere2comm:
    def fusion(self, **settings: float) -> Where2comm:
        fusion: Where2comm = shaken(Where2comm(Where2comm.Config(**settings), CHANNELS, TYPES), 0.2)
        return fusion

    @pytest.mark.parametrize(("share", "cells"), [(0.1, 12), (0.5, 60), (1.0, 120), (0.001, 1)])
    def test_the_budget_is_kept_by_every_sender(self, share: float, cells: int) -> None:
        chosen = self.fusion(share=share).select(torch.randn(3, CHANNELS, 10, 12))
        assert chosen.dtype == torch.bool and chosen.flatten(1).sum(dim=1).tolist() == [cells] * 3

    def test_the_most_confident_cells_are_sent(self) -> None:
        features = torch.randn(2, CHANNELS, 10, 12)
        fusion = self.fusion(smooth=0.0)
        chosen, confidence = fusion.select(features), fusion.occupancy(features)[:, 0]
        for row in range(2):
            assert confidence[row][chosen[row]].min() >= confidence[row][~chosen[row]].max()

    def test_a_filter_gives_them_context(self) -> None:
        """One confident cell takes its neighbours with it."""
        fusion = Where2comm(Where2comm.Config(share=5 / 120), CHANNELS, TYPES)
        nn.init.ones_(fusion.confidence.weight)
        features = torch.zeros(1, CHANNELS, 10, 12)
        features[0, :, 4, 6] = 1.0
        assert fusion.select(features)[0].nonzero().tolist() == [[3, 6], [4, 5], [4, 6], [4, 7], [5, 6]]

    def test_a_confident_sender_weighs_more(self) -> None:
        """With attention that likes everybody alike the weights are the confidences."""
        ego, received = scene([["camera", "lidar64"]], hidden=False)
        fusion = self.fusion()
        nn.init.zeros_(fusion.query.weight)
        nn.init.zeros_(fusion.query.bias)  # type: ignore[arg-type]
        everybody = torch.cat([ego[:, None], received.features], dim=1)[0]
        confidence = fusion.occupancy(everybody)[:, 0].sigmoid()
        torch.testing.assert_close(fusion.contributions(ego, received)[0], (confidence / confidence.sum(dim=0))[1:])

    def test_heads_must_fit(self) -> None:
        with pytest.raises(ConfigError, match="heads=5 does not divide the 16 shared channels"):
            self.fusion(heads=5)
