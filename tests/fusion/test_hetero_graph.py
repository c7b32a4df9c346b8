"""Heterogeneous graph attention: what its edges and gates react to, against slow and plain reference code."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError
from heatv2x.fusion.base import Edges, Received, channel_wins, maximum_with
from heatv2x.fusion.hetero_graph import EDGE_FEATURES, HeteroGraph, TypedProjection, edge_features
from heatv2x.model.collaboration import Collaboration
from heatv2x.structures import Pose
from tests.fusion.test_contract import build_fusion, scene
from tests.scene_factory import CHANNELS, model_config, shaken


def edges_of(pose: Pose, sigma_m: float = 0.0, sigma_rad: float = 0.0, age_s: float = 0.0) -> Edges:
    values = (torch.tensor([[value]]) for value in (sigma_m, sigma_rad, age_s))
    return Edges(torch.from_numpy(pose.matrix)[None, None], *values)


def test_edge_features_by_hand() -> None:
    features = edge_features(edges_of(Pose.planar(30.0, -40.0, 0.3), 0.5, 0.02, 0.2))
    wanted = [math.cos(0.3), math.sin(0.3), math.cos(0.6), math.sin(0.6), 1.0, 0.5, 0.02 * 57.3, math.exp(-2.0), 0.4]
    assert features.shape == (1, 1, EDGE_FEATURES) and features.dtype == torch.float32
    torch.testing.assert_close(features[0, 0], torch.tensor(wanted))


def built(gate: bool = True, attention: bool = True) -> HeteroGraph:
    fusion = HeteroGraph(HeteroGraph.Config(gate=gate, attention=attention), CHANNELS, ["lidar64", "camera"])
    shaken_fusion: HeteroGraph = shaken(fusion, 0.3)
    return shaken_fusion


@pytest.mark.parametrize("what", ["pose", "sigma_m", "sigma_rad", "age_s", "ego type", "sender type", "content"])
def test_everything_on_the_edge_matters(what: str) -> None:
    fusion = built(attention=False)
    ego, received = scene([["camera"]], hidden=False)
    received = replace(received, edges=edges_of(Pose.planar(5, 2, 0.3)))
    other = {
        "pose": replace(received, edges=edges_of(Pose.planar(5, 2, 1.3))),
        "sigma_m": replace(received, edges=edges_of(Pose.planar(5, 2, 0.3), sigma_m=0.4)),
        "sigma_rad": replace(received, edges=edges_of(Pose.planar(5, 2, 0.3), sigma_rad=0.02)),
        "age_s": replace(received, edges=edges_of(Pose.planar(5, 2, 0.3), age_s=0.2)),
        "ego type": replace(received, ego_types=["camera"]),
        "sender type": replace(received, sender_types=[["lidar64"]]),
        "content": received,
    }[what]
    before = gates(fusion, ego, received)
    ego_after = ego + 0.1 if what == "content" else ego
    after = gates(fusion, ego_after, other)
    assert (before - after).abs().max() > 1e-3


def gates(fusion: HeteroGraph, ego: Tensor, received: Received) -> Tensor:
    hidden = fusion._edge_hidden(received.edges, fusion._look_up(received))
    return (
        fusion._gated(ego, received.features, fusion._views(received.features, fusion._look_up(received)), hidden)
        / received.features
    )


def test_gates_scale_between_shut_and_a_little_more_than_open() -> None:
    fusion = built()
    ego, received = scene([["camera", "lidar64"]], hidden=False)
    found = gates(fusion, ego, received)
    assert (found > 0).all() and (found <= 1 / torch.sigmoid(torch.tensor(3.0)) + 1e-5).all() and found.std() > 1e-3


def test_a_shut_gate_leaves_the_ego_alone_where_features_are_positive() -> None:
    fusion = built(attention=False)
    with torch.no_grad():
        fusion.edge_gate.bias.fill_(-1e4)
    ego, received = scene([["camera", "lidar64"]])
    ego, received = ego.relu(), replace(received, features=received.features.relu())
    assert torch.equal(fusion(ego, received), ego)
    assert not fusion.contributions(ego, received).any()


def test_switched_off_it_is_maximum_fusion() -> None:
    ego, received = scene([["camera", "lidar64", ""]])
    fused = built(gate=False, attention=False)(ego, received)
    assert torch.equal(fused, maximum_with(ego, received.features, received.visible))


def test_gates_against_plain_loops() -> None:
    """Two egos, senders of three types, cell by cell, as the formula has it; with and without gradients."""
    fusion = built(attention=False)
    fusion.add_type("lidar16", "camera")
    shaken(fusion.typed_module("lidar16"), 0.3)  # type: ignore[arg-type]
    ego, received = scene([["camera", "lidar16"], ["lidar64", ""]], ["lidar64", "camera"], seed=3)
    fused = fusion(ego, received)
    codes = {name: fusion._of(name) for name in ("lidar64", "camera", "lidar16")}
    described = edge_features(received.edges)
    for b, y, x in itertools.product(range(2), (0, 4, 11), (2, 9)):
        own = ego[b, :, y, x]
        offers = [own]
        for k, name in enumerate(received.sender_types[b]):
            if not received.visible[b, k, y, x]:
                continue
            cell = received.features[b, k, :, y, x]
            both = torch.cat([described[b, k], codes[received.ego_types[b]].receiver_code, codes[name].sender_code])
            edge = fusion.edge_gate(fusion.edge(both))
            confidence = torch.sigmoid(fusion.confidence(cell[:, None, None])).flatten()
            hidden = functional.gelu(fusion.content(torch.cat([cell, own, confidence])[:, None, None]))
            content = fusion.content_gate(hidden).flatten()
            offers.append(cell * torch.sigmoid(3 + edge + content) / torch.sigmoid(torch.tensor(3.0)))
        torch.testing.assert_close(fused[b, :, y, x], torch.stack(offers).amax(dim=0), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(fusion(ego, received), fused)


def test_attention_against_plain_loops() -> None:
    """One ego, two senders, cell by cell, with matrices as the paper's formula has them."""
    fusion = built(gate=False)
    fusion.add_type("lidar16", "camera")
    shaken(fusion.typed_module("lidar16"), 0.3)  # type: ignore[arg-type]
    ego, received = scene([["camera", "lidar16"]], ["lidar64"], seed=3)
    fused = fusion(ego, received)
    residual = fused - maximum_with(ego, received.features, received.visible)
    heads, inner = fusion.config.heads, fusion.config.inner
    hidden = fusion._edge_hidden(received.edges, fusion._look_up(received))
    bias = fusion.edge_bias(hidden)[0]
    for y, x in ((0, 0), (3, 7), (9, 11), (5, 5), (2, 9)):
        seen = [j for j in range(2) if received.visible[0, j, y, x]]
        expected = torch.zeros(CHANNELS)
        if seen:
            query = matrix(fusion, "query", "lidar64") @ ego[0, :, y, x]
            mixed = []
            for head in range(heads):
                part = slice(head * inner // heads, (head + 1) * inner // heads)
                scores, values = [], []
                for j in seen:
                    name, cell = ("camera", "lidar16")[j], received.features[0, j, :, y, x]
                    key = matrix(fusion, "key", name) @ cell
                    logit = functional.conv2d(received.features[0, j], fusion.confidence.weight, fusion.confidence.bias)
                    confidence = functional.logsigmoid(logit[0, y, x])
                    score = query[part] @ key[part] / (inner // heads) ** 0.5
                    scores.append(score + bias[j, head] + fusion.temperature * confidence)
                    values.append((matrix(fusion, "value", name) @ cell)[part])
                weights = torch.stack(scores).softmax(dim=0)
                mixed.append((weights[:, None] * torch.stack(values)).sum(dim=0))
            expected = matrix(fusion, "output", "lidar64") @ torch.cat(mixed)
        torch.testing.assert_close(residual[0, :, y, x], expected, rtol=1e-3, atol=1e-4)


def matrix(fusion: HeteroGraph, role: str, name: str) -> Tensor:
    module = fusion.types[name]
    projection: TypedProjection = getattr(module, role)
    if name == "lidar16":
        return getattr(fusion.types["camera"], role).weight + projection.left @ projection.right  # type: ignore[no-any-return]
    return projection.weight


def test_a_newcomer_may_be_of_low_rank_only() -> None:
    fusion = HeteroGraph(HeteroGraph.Config(newcomer_rank=2), 48, ["lidar64"])
    fusion.add_type("lidar16", "lidar64")
    base, added = (sum(p.numel() for p in fusion.types[name].parameters()) for name in ("lidar64", "lidar16"))
    assert added < base / 4
    fusion.typed_module("lidar16").query.left.data.normal_()  # type: ignore[union-attr]
    delta = fusion.matrix("query", "lidar16") - fusion.matrix("query", "lidar64")
    assert torch.linalg.matrix_rank(delta) == 2


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads"):
        Collaboration(model_config(fusion=PartConfig(part="hetero_graph", settings={"heads": 5, "inner": 24})))


def test_the_best_sender_is_shown() -> None:
    ego = torch.zeros(1, 4, 1, 2)
    features = torch.tensor([[1.0, 2.0, -1.0, 3.0], [2.0, 1.0, -2.0, 0.5]])[None, :, :, None, None].expand(
        1, 2, 4, 1, 2
    )
    visible = torch.tensor([[[[True, True]], [[True, False]]]])
    assert channel_wins(ego, features, visible)[0, :, 0].tolist() == [[0.5, 0.75], [0.25, 0.0]]


def test_typed_scenes_do_not_depend_on_how_types_are_grouped() -> None:
    """One type in a batch takes another path through the projections than several; both must agree."""
    fusion = build_fusion("hetero_graph")
    ego, received = scene([["camera", "camera"], ["camera", "camera"]], ["camera", "camera"])
    same = fusion(ego, received)
    mixed = fusion(
        torch.cat([ego, ego[:1]]),
        Received(
            torch.cat([received.features, received.features[:1]]),
            torch.cat([received.visible, received.visible[:1]]),
            Edges(*(torch.cat([value, value[:1]]) for value in vars(received.edges).values())),
            ["camera", "camera", "lidar64"],
            [["camera", "camera"], ["camera", "camera"], ["lidar64", "camera"]],
        ),
    )
    torch.testing.assert_close(mixed[:2], same, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mixed[2], same[0], atol=1e-3)
