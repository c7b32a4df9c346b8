"""The field's fusions at their published sizes, and what each one is known for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from heatv2x.errors import ConfigError
from heatv2x.fusion.attention import Attention
from heatv2x.fusion.base import Received
from heatv2x.fusion.disco import Disco
from heatv2x.fusion.hm_vit import HmVit
from heatv2x.fusion.v2x_vit import V2XViT, sinusoids
from heatv2x.fusion.where2comm import Where2comm
from tests.fusion.test_contract import MIXED, SIZE, scene
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
        assert torch.equal(fusion.contributions(ego, received), torch.full((1, 1, *SIZE), 0.5))


class TestDisco:
    def test_weights_are_of_a_cell_and_not_of_an_agent(self) -> None:
        ego, received = one_sender()
        fusion = shaken(Disco(Disco.Config(), CHANNELS, TYPES), 0.2)
        weights = fusion.contributions(ego, received)
        assert weights.std() > 1e-3 and weights.shape == (1, 1, *SIZE)
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

    def test_a_budget_from_outside_goes_before_its_own(self) -> None:
        fusion = self.fusion(share=0.5)
        fusion.sends_at_most(0.1)
        assert fusion.select(torch.randn(1, CHANNELS, 10, 12)).sum() == 12

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


class TestV2XViT:
    def fusion(self, types: list[str] = TYPES, **settings: object) -> V2XViT:
        torch.manual_seed(0)
        fusion: V2XViT = shaken(V2XViT(V2XViT.Config(**settings), CHANNELS, types), 0.2)  # type: ignore[arg-type]
        return fusion

    def test_size_at_the_published_width(self) -> None:
        """HEAL's four-type model has 5.395 M parameters in this part, at C = 256 with its setting of two types."""
        fusion = V2XViT(V2XViT.Config(), 256, TYPES)
        assert parameters(fusion) == pytest.approx(5.395e6, rel=5e-4)

    def test_age_matters(self) -> None:
        ego, received = one_sender()
        older = replace(received, edges=replace(received.edges, age_s=received.edges.age_s + 0.3))
        assert not torch.allclose(self.fusion()(ego, received), self.fusion()(ego, older))

    def test_types_matter_on_both_ends(self) -> None:
        ego, received = one_sender()
        fused = self.fusion()(ego, received)
        assert not torch.allclose(self.fusion()(ego, replace(received, sender_types=[["lidar64"]])), fused)
        assert not torch.allclose(self.fusion()(ego, replace(received, ego_types=["camera"])), fused)

    def test_the_zero_prior_knows_neither_type_nor_age(self) -> None:
        fusion = self.fusion(prior="zero")
        ego, received = one_sender()
        fused = fusion(ego, received)
        for other in (
            replace(received, edges=replace(received.edges, age_s=received.edges.age_s + 0.3)),
            replace(received, sender_types=[["lidar64"]], ego_types=["camera"]),
        ):
            assert torch.equal(fusion(ego, other), fused)
        own = self.fusion()
        own.load_state_dict(fusion.state_dict())
        assert not torch.allclose(own(ego, received), fused)

    def test_the_zero_prior_gives_a_newcomer_nothing(self) -> None:
        fusion = self.fusion(prior="zero")
        before = parameters(fusion)
        fusion.add_type("lidar16", "camera")
        assert parameters(fusion) == before and fusion.typed_module("lidar16") is None
        ego, received = one_sender()
        assert torch.equal(fusion(ego, replace(received, sender_types=[["lidar16"]])), fusion(ego, received))

    def test_the_papers_own_changes_a_lonely_ego_and_ours_does_not(self) -> None:
        ego, received = scene([["", ""]])
        assert not torch.allclose(self.fusion(everywhere=True)(ego, received), ego)
        assert torch.equal(self.fusion()(ego, received), ego)

    def test_both_agree_where_everybody_sees(self) -> None:
        ego, received = scene(MIXED)
        ours, theirs = self.fusion()(ego, received), self.fusion(everywhere=True)(ego, received)
        seen = received.visible.any(dim=1)[:, None].expand_as(ego)
        assert torch.equal(ours[seen], theirs[seen]) and not torch.equal(ours, theirs)

    def test_the_encoding_of_delays(self) -> None:
        """p[2c] = sin(t / 10000^(2c / C)), p[2c + 1] = cos of the same."""
        encoded = sinusoids(torch.tensor([0.0, 2.5]), 6)
        assert encoded[0].tolist() == [0, 1, 0, 1, 0, 1]
        angle = torch.tensor(2.5 / 10000 ** (2 / 6))
        torch.testing.assert_close(encoded[1, 2:4], torch.stack([angle.sin(), angle.cos()]))

    def test_heads_must_fit(self) -> None:
        with pytest.raises(ConfigError, match="heads=5 does not divide"):
            self.fusion(heads=5)
        with pytest.raises(ConfigError, match="same length"):
            self.fusion(windows=(4, 8))


class TestHmVit:
    def fusion(self, types: list[str] = TYPES, **settings: int) -> HmVit:
        torch.manual_seed(0)
        fusion: HmVit = shaken(HmVit(HmVit.Config(**settings), CHANNELS, types), 0.2)
        return fusion

    def test_a_sender_reaches_its_window_and_then_the_map(self) -> None:
        """One cell of a sender changes the ego's cells of its window after a local pass, spread ones after both."""
        ego, received = scene([["camera"]], hidden=False)
        louder = replace(received, features=received.features.clone())
        louder.features[0, 0, :, 1, 1] *= -3.0  # a normalisation over channels would take a plain shift away
        fusion = self.fusion(blocks=1, window=4)
        differs = (fusion(ego, louder) != fusion(ego, received)).any(dim=1)[0]
        for name in TYPES:  # silence the second pass
            nn.init.zeros_(fusion.types[name][1].projections.output.weight)  # type: ignore[index]
        local = (fusion(ego, louder) != fusion(ego, received)).any(dim=1)[0]
        assert local[:4, :4].all() and not local[4:].any() and not local[:, 4:].any()
        assert differs[4:].any() and differs[:, 4:].any()

    def test_types_matter_on_both_ends(self) -> None:
        ego, received = one_sender()
        fused = self.fusion()(ego, received)
        assert not torch.allclose(self.fusion()(ego, replace(received, sender_types=[["lidar64"]])), fused)
        assert not torch.allclose(self.fusion()(ego, replace(received, ego_types=["camera"])), fused)

    def test_relations_are_the_square_of_the_types_and_a_newcomer_adds_none(self) -> None:
        fusions = [self.fusion([f"type{n}" for n in range(count)]) for count in (2, 4)]
        per_type, head = parameters(fusions[0].types["type0"]), CHANNELS // 8
        for count, fusion in zip((2, 4), fusions, strict=True):
            relations = 4 * (2 * count**2 * 8 * head**2 + 8 * 15**2)
            assert parameters(fusion) == count * per_type + relations
            fusion.add_type("newcomer", "type1")
            assert parameters(fusion) == (count + 1) * per_type + relations

    def test_heads_must_fit(self) -> None:
        with pytest.raises(ConfigError, match="heads=5 does not divide"):
            self.fusion(heads=5)
