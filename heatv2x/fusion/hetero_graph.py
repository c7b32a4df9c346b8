"""Heterogeneous graph attention between agents that carry different sensors and networks (our design).

Only the paper's abstract is public. In the vocabulary of V2X-ViT and HM-ViT every agent is a node with a type, every
message an edge; per bird's-eye-view cell the ego i attends to the senders j that see the cell. Two mechanisms, both the
identity of maximum fusion at the start:

1. a gate per channel, g_ij = s(3 + edge_ij + content_ij) / s(3) with s the logistic function, where edge_ij comes from
   the relative pose, distance, pose uncertainty, message age and the two types, and content_ij from both features in
   the cell; then max over {x_i, g_ij x_j};
2. typed attention as a residual W^O_t(i) sum_j softmax_j(q_i . k_j / sqrt(d) + b(edge_ij) + tau log confidence_j) v_j,
   with W^O zero at the start. The relation matrix of types s and t is factored, A_st = U_s V_t^T. U and V act directly
   on the typed projections and are therefore folded into them: a new type adds O(1) parameters and touches no deployed
   pair, where V2X-ViT and HM-ViT keep one matrix per pair of types.

A newcomer's projections are low-rank deltas on those of the type it starts from.

Shapes: B egos, K slots, C channels, H heads, d channels per head, E edge features, Y X grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x import config
from heatv2x.errors import ConfigError
from heatv2x.fusion.base import Edges, Fusion, Received, channel_wins, maximum_with

EDGE_FEATURES = 9
_AGE = 8  # of them, the last one
_OPEN = 3.0  # the gate's logit at the start: nearly open, with a usable gradient


class TypedProjection(nn.Module):
    """A 1x1 convolution of one agent type: a full matrix for a base type, a low-rank delta on one for a newcomer."""

    def __init__(self, channels_in: int, channels_out: int, rank: int | None = None) -> None:
        super().__init__()
        if rank is None:
            self.weight = nn.Parameter(torch.empty(channels_out, channels_in))
            nn.init.xavier_uniform_(self.weight)
        else:
            self.left = nn.Parameter(torch.zeros(channels_out, rank))
            self.right = nn.Parameter(torch.randn(rank, channels_in) / channels_in**0.5)

    def matrix(self, base: Tensor | None) -> Tensor:
        """(C_out, C_in) of this type, given its base type's matrix if it is a delta."""
        return self.weight if base is None else base + self.left @ self.right


class AgentTypeParameters(nn.Module):
    """What belongs to one agent type.

    Its codes as sender and receiver, and its query, key, value and output projections.
    """

    def __init__(self, channels: int, inner: int, code: int, rank: int | None) -> None:
        super().__init__()
        self.sender_code = nn.Parameter(torch.randn(code) * 0.1)
        self.receiver_code = nn.Parameter(torch.randn(code) * 0.1)
        self.query = TypedProjection(channels, inner, rank)
        self.key = TypedProjection(channels, inner, rank)
        self.value = TypedProjection(channels, inner, rank)
        self.output = TypedProjection(inner, channels, rank)
        if rank is None:
            nn.init.zeros_(self.output.weight)


class HeteroGraph(Fusion):
    """Edge-conditioned, gated, typed attention that starts as maximum fusion."""

    source = "ours, for HeatV2X, arXiv 2511.10211"

    class Config(config.Config):
        """Attributes:
        heads: attention heads.
        inner: channels of queries, keys and values in all, H * d.
        code: length of a type's code.
        edge_hidden: hidden channels of the edge network.
        content_hidden: hidden channels of the content gate.
        newcomer_rank: rank of a newcomer's projection deltas.
        gate: use the gate.
        attention: use the attention residual.
        """

        heads: int = 2
        inner: int = 24
        code: int = 8
        edge_hidden: int = 32
        content_hidden: int = 16
        newcomer_rank: int = 4
        gate: bool = True
        attention: bool = True

    def __init__(self, config: HeteroGraph.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()
        if config.inner % config.heads:
            raise ConfigError(f"heads={config.heads} does not divide inner={config.inner}")
        self.config = config
        self.channels = channels
        self.types = nn.ModuleDict(
            {name: AgentTypeParameters(channels, config.inner, config.code, None) for name in types}
        )
        self.starts_from: dict[str, str] = {}
        self.edge = nn.Sequential(nn.Linear(EDGE_FEATURES + 2 * config.code, config.edge_hidden), nn.ReLU())
        self.edge_gate = nn.Linear(config.edge_hidden, channels)
        self.edge_bias = nn.Linear(config.edge_hidden, config.heads)
        self.content = nn.Conv2d(2 * channels + 1, config.content_hidden, 1)
        self.content_gate = nn.Conv2d(config.content_hidden, channels, 1, bias=False)
        self.confidence = nn.Conv2d(channels, 1, 1)
        self.temperature = nn.Parameter(torch.ones(()))
        with torch.no_grad():  # training on single instants never shows an age: untrained, it must not matter
            first = self.edge[0]
            assert isinstance(first, nn.Linear)
            first.weight[:, _AGE] = 0.0
        for layer in (self.edge_gate, self.edge_bias):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.content_gate.weight)
        nn.init.constant_(self.confidence.bias, -4.0)  # type: ignore[arg-type]

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X): gate, maximum, typed attention."""
        if received.features.shape[1] == 0:
            return ego
        hidden = self._edge_hidden(received)
        confidence = self.occupancy(received.features.flatten(0, 1)).view(received.visible.shape)
        fused = maximum_with(ego, self._gated(ego, received.features, confidence, hidden), received.visible)
        if self.config.attention:
            fused = fused + self._attend(ego, received, confidence, hidden)
        return fused

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) share of channels that a sender wins after its gate."""
        if received.features.shape[1] == 0:
            return received.visible.float()
        confidence = self.occupancy(received.features.flatten(0, 1)).view(received.visible.shape)
        gated = self._gated(ego, received.features, confidence, self._edge_hidden(received))
        return channel_wins(ego, gated, received.visible)

    def occupancy(self, features: Tensor) -> Tensor:
        """(N, 1, Y, X) logits that a cell holds an object, from one agent's message alone."""
        logits: Tensor = self.confidence(features)
        return logits

    def add_type(self, name: str, like: str) -> None:
        """Give a new type its codes (copied) and low-rank deltas (zero) on the projections of a deployed type."""
        root = self.starts_from.get(like, like)
        added = AgentTypeParameters(self.channels, self.config.inner, self.config.code, self.config.newcomer_rank)
        # a newcomer's deltas have the same shape, a base type's full projections have none: codes are copied from both
        own = added.state_dict()
        added.load_state_dict(own | {k: v for k, v in self._of(like).state_dict().items() if k in own})
        self.types[name] = added.to(self.temperature.device)
        self.starts_from[name] = root

    def typed_module(self, name: str) -> nn.Module:
        """Codes and projections of one type."""
        return self._of(name)

    def _of(self, name: str) -> AgentTypeParameters:
        parameters = self.types[name]
        assert isinstance(parameters, AgentTypeParameters)
        return parameters

    def _matrix(self, role: str, name: str) -> Tensor:
        projection: TypedProjection = getattr(self._of(name), role)
        base = self.starts_from.get(name)
        return projection.matrix(None if base is None else getattr(self._of(base), role).weight)

    def _edge_hidden(self, received: Received) -> Tensor:
        """(B, K, hidden) from geometry, uncertainty, age and the codes of both types."""
        ego_types, sender_types = received.ego_types, received.sender_types
        receiver = torch.stack([self._of(name).receiver_code for name in ego_types])
        empty = receiver.new_zeros(self.config.code)
        sender = torch.stack(
            [torch.stack([self._of(t).sender_code if t else empty for t in row]) for row in sender_types]
        )
        features = edge_features(received.edges).to(receiver)
        receiver = receiver[:, None].expand(-1, sender.shape[1], -1)
        hidden: Tensor = self.edge(torch.cat([features, receiver, sender], dim=-1))
        return hidden

    def _gated(self, ego: Tensor, features: Tensor, confidence: Tensor, hidden: Tensor) -> Tensor:
        """(B, K, C, Y, X) features times their gates, which are exactly 1 at the start."""
        if not self.config.gate:
            return features
        egos = ego[:, None].expand_as(features)
        pair = torch.cat([features, egos, confidence[:, :, None].sigmoid()], dim=2).flatten(0, 1)
        content = self.content_gate(functional.gelu(self.content(pair))).view(features.shape)
        logits = _OPEN + self.edge_gate(hidden)[..., None, None] + content
        gated: Tensor = features * (logits.sigmoid() / torch.sigmoid(logits.new_tensor(_OPEN)))
        return gated

    def _attend(self, ego: Tensor, received: Received, confidence: Tensor, hidden: Tensor) -> Tensor:
        """(B, C, Y, X) residual, zero where no sender sees the cell."""
        batch, slots, _, rows, columns = received.features.shape
        heads, inner = self.config.heads, self.config.inner
        per_sender = [[name or received.ego_types[b] for name in row] for b, row in enumerate(received.sender_types)]
        senders = [name for row in per_sender for name in row]
        query = self._project("query", ego, received.ego_types).view(batch, 1, heads, inner // heads, rows, columns)
        keys = self._project("key", received.features.flatten(0, 1), senders).view(
            batch, slots, heads, -1, rows, columns
        )
        values = self._project("value", received.features.flatten(0, 1), senders).view(
            batch, slots, heads, -1, rows, columns
        )
        score = (query * keys).sum(dim=3) / (inner // heads) ** 0.5
        score = (
            score
            + self.edge_bias(hidden)[..., None, None]
            + (self.temperature * functional.logsigmoid(confidence))[:, :, None]
        )
        unseen = ~received.visible[:, :, None]
        # a cell that nobody sees would be a softmax over nothing: give it any finite weights, the residual is cleared
        # below
        score = score.masked_fill(unseen, -1e4)
        mixed = (score.softmax(dim=1)[:, :, :, None] * values).sum(dim=1).flatten(1, 2)
        residual = self._project("output", mixed, received.ego_types)
        return residual.masked_fill(~received.visible.any(dim=1)[:, None], 0.0)

    def _project(self, role: str, features: Tensor, types: Sequence[str]) -> Tensor:
        """(N, C_in, Y, X) to (N, C_out, Y, X), each row with the matrix of its type."""
        matrices = {name: self._matrix(role, name) for name in sorted(set(types))}
        if len(matrices) == 1:
            return functional.conv2d(features, next(iter(matrices.values()))[:, :, None, None])
        stacked = torch.stack([matrices[name] for name in types])
        projected = stacked @ features.flatten(2)
        return projected.view(*projected.shape[:2], *features.shape[2:])


def edge_features(edges: Edges) -> Tensor:
    """(B, K, E) float32 description of every pair of an ego and a sender.

    Cosine and sine of the relative heading and of twice it, distance, two uncertainties, trust, age. Distances are
    divided by 50 m, so that all features are of order one; trust = exp(-4 sigma) falls fast where a pose gets useless.
    """
    T = edges.T_ego_sender
    yaw = torch.atan2(T[..., 1, 0], T[..., 0, 0])
    distance = torch.hypot(T[..., 0, 3], T[..., 1, 3]) / 50.0
    trust = torch.exp(-4 * edges.sigma_m)
    parts = [yaw.cos(), yaw.sin(), (2 * yaw).cos(), (2 * yaw).sin(), distance]
    parts += [edges.sigma_m, edges.sigma_rad * 57.3, trust, edges.age_s * 2]
    return torch.stack([part.to(torch.float32) for part in parts], dim=-1)
