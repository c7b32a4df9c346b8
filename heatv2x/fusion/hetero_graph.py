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

Shapes: B egos, K slots, C channels, H heads, d channels per head, E edge features, h hidden, Y X grid, P = Y * X cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.core import config
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


@dataclass
class Typed:
    """What belongs to the types of the agents of a batch. Whoever looks it up, by name or by number, the rest is alike.

    Attributes:
        receiver: (B, code) of the egos.
        sender: (B, K, code), zero in an empty slot.
        of_sender: (B, K, h + 1 + 2 * H * d, C) everything linear in a sender's cell: hidden layer of the content
            network, confidence, and with attention keys and values.
        query: (B, H * d, C) of the egos; None without attention.
        output: (B, C, H * d) of the egos; None without attention.
    """

    receiver: Tensor
    sender: Tensor
    of_sender: Tensor
    query: Tensor | None
    output: Tensor | None


@dataclass
class _Views:
    """Linear views of the senders' features; P cells in a row.

    Attributes:
        content: (B, K, h, P) the sender's part of the content network's hidden layer.
        confidence: (B, K, 1, P) logits that a cell holds an object.
        key, value: (B, K, H * d, P), without rows if there is no attention.
    """

    content: Tensor
    confidence: Tensor
    key: Tensor
    value: Tensor


class HeteroGraph(Fusion):
    """Edge-conditioned, gated, typed attention that starts as maximum fusion.

    The product that looks at every sender's cells has the fusion's `precision`.
    """

    source = "ours, for HeatV2X, arXiv 2511.10211"
    convolves = False  # its 1x1 convolutions are matrices of products, on maps that lie channel by channel

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
        return self.fuse(ego, received.features, received.visible, received.edges, self._look_up(received))

    def fuse(self, ego: Tensor, features: Tensor, visible: Tensor, edges: Edges, typed: Typed) -> Tensor:
        """(B, C, Y, X) with at least one slot.

        Args:
            ego: (B, C, Y, X).
            features: (B, K, C, Y, X) in the egos' frames.
            visible: (B, K, Y, X) bool.
            edges: between them.
            typed: what belongs to the agents' types.
        """
        views = self._views(features, typed)
        hidden = self._edge_hidden(edges, typed)
        fused = maximum_with(ego, self._gated(ego, features, views, hidden), visible)
        return fused + self._attend(ego, visible, views, hidden, typed) if self.config.attention else fused

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) share of channels that a sender wins after its gate."""
        if received.features.shape[1] == 0:
            return received.visible.float()
        typed = self._look_up(received)
        views = self._views(received.features, typed)
        gated = self._gated(ego, received.features, views, self._edge_hidden(received.edges, typed))
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

    def matrix(self, role: str, name: str) -> Tensor:
        """(C_out, C_in) of a type's "query", "key", "value" or "output" projection."""
        projection: TypedProjection = getattr(self._of(name), role)
        base = self.starts_from.get(name)
        return projection.matrix(None if base is None else getattr(self._of(base), role).weight)

    def _look_up(self, received: Received) -> Typed:
        """What belongs to the types of a batch, by their names."""
        ego_types, sender_types = received.ego_types, received.sender_types
        # an empty slot is seen nowhere: any type will do
        names = [[name or ego_types[b] for name in row] for b, row in enumerate(sender_types)]
        matrices = self.of_senders(sorted({name for row in names for name in row}))
        of_sender = torch.stack([torch.stack([matrices[name] for name in row]) for row in names])
        receiver = torch.stack([self._of(name).receiver_code for name in ego_types])
        empty = receiver.new_zeros(self.config.code)
        sender = torch.stack(
            [torch.stack([self._of(t).sender_code if t else empty for t in row]) for row in sender_types]
        )
        if not self.config.attention:
            return Typed(receiver, sender, of_sender, None, None)
        query, output = (
            {name: self.matrix(role, name) for name in sorted(set(ego_types))} for role in ("query", "output")
        )
        return Typed(
            receiver,
            sender,
            of_sender,
            torch.stack([query[name] for name in ego_types]),
            torch.stack([output[name] for name in ego_types]),
        )

    def of_senders(self, names: Sequence[str]) -> dict[str, Tensor]:
        """(h + 1 + 2 * H * d, C) of each of these types; see `Typed`."""
        shared = [self.content.weight[:, : self.channels, 0, 0], self.confidence.weight[:, :, 0, 0]]
        typed = ("key", "value") if self.config.attention else ()
        return {name: torch.cat([*shared, *(self.matrix(role, name) for role in typed)]) for name in names}

    def _edge_hidden(self, edges: Edges, typed: Typed) -> Tensor:
        """(B, K, hidden) from geometry, uncertainty, age and the codes of both types."""
        features = edge_features(edges).to(typed.receiver)
        receiver = typed.receiver[:, None].expand(-1, typed.sender.shape[1], -1)
        hidden: Tensor = self.edge(torch.cat([features, receiver, typed.sender], dim=-1))
        return hidden

    def _views(self, features: Tensor, typed: Typed) -> _Views:
        """What all cells of all senders look like, by one product for all linear layers on a sender's feature."""
        rows = typed.of_sender.to(self.precision) @ features.flatten(3).to(self.precision)
        hidden, inner = self.config.content_hidden, self.config.inner if self.config.attention else 0
        content, confidence, key, value = torch.split(rows, [hidden, 1, inner, inner], dim=2)
        assert self.confidence.bias is not None
        return _Views(content, confidence + self.confidence.bias, key, value)

    def _gated(self, ego: Tensor, features: Tensor, views: _Views, hidden: Tensor) -> Tensor:
        """(B, K, C, Y, X) features times their gates, which are exactly 1 at the start."""
        if not self.config.gate:
            return features
        channels = ego.shape[1]
        assert self.content.bias is not None
        of_ego, of_confidence = torch.split(self.content.weight[:, channels:, 0, 0], [channels, 1], dim=1)
        own = of_ego @ ego.flatten(2) + self.content.bias[:, None]  # once for all senders
        content = functional.gelu(
            torch.addcmul(views.content + own[:, None], of_confidence, views.confidence.sigmoid())
        )
        # the edge's part is the same in all cells: one more column beside the hidden channels, over ones
        batch, slots, width, cells = content.shape
        matrix = self.content_gate.weight[:, :, 0, 0].expand(batch, slots, -1, width)
        edge = (_OPEN + self.edge_gate(hidden))[..., None].to(matrix.dtype)
        ones = content.new_ones(batch, slots, 1, cells)
        logits = torch.cat([matrix, edge], dim=3) @ torch.cat([content, ones], dim=2)
        opened = torch.sigmoid(logits.new_tensor(_OPEN))
        if torch.is_grad_enabled():
            gated = features.flatten(3) * (logits.sigmoid() / opened)
        else:  # the same numbers in place: on large maps fresh memory costs more than the arithmetic
            gated = logits.sigmoid_().div_(opened).mul_(features.flatten(3))
        return gated.view(features.shape)

    def _attend(self, ego: Tensor, visible: Tensor, views: _Views, hidden: Tensor, typed: Typed) -> Tensor:
        """(B, C, Y, X) residual, zero where no sender sees the cell."""
        assert typed.query is not None and typed.output is not None
        heads, depth = self.config.heads, self.config.inner // self.config.heads
        batch, slots, _, cells = views.key.shape
        query = (typed.query @ ego.flatten(2)).view(batch, 1, heads, depth, cells)
        score = (query * views.key.reshape(batch, slots, heads, depth, cells)).sum(dim=3) / depth**0.5
        bias = self.edge_bias(hidden)[..., None]
        score = score + bias + self.temperature * functional.logsigmoid(views.confidence)
        # a cell that nobody sees would be a softmax over nothing: give it any finite weights, the residual is cleared
        # below
        score = score.masked_fill(~visible.flatten(2)[:, :, None], -1e4)
        mixed = (
            (score.softmax(dim=1)[:, :, :, None] * views.value.reshape(batch, slots, heads, depth, cells))
            .sum(dim=1)
            .flatten(1, 2)
        )
        residual: Tensor = (typed.output @ mixed).view(ego.shape)
        return residual.masked_fill(~visible.any(dim=1)[:, None], 0.0)


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
