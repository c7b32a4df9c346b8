"""The heterogeneous graph with types as numbers, so that one file serves every mixture of senders.

Everywhere else a type is a name, and what belongs to it is looked up while the network runs; a file needs an index. So
this is `fusion.hetero_graph` written once more, for one ego, on the same parameters. Every export compares the two.

Shapes: K senders, T types, C channels, h hidden, H heads, d channels per head, P cells, Y X grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.fusion.base import Edges, maximum_with
from heatv2x.fusion.hetero_graph import _OPEN, HeteroGraph, edge_features


class NumberedGraph(nn.Module):
    """Gate, maximum and attention of one ego.

    Args:
        graph: whose parameters are used.
        names: the types in the order of their numbers.
    """

    def __init__(self, graph: HeteroGraph, names: Sequence[str]) -> None:
        super().__init__()
        self.graph = graph
        self.names = list(names)

    def forward(
        self, ego: Tensor, features: Tensor, visible: Tensor, edges: Edges, ego_type: Tensor, sender_types: Tensor
    ) -> Tensor:
        """(1, C, Y, X).

        Args:
            ego: (1, C, Y, X).
            features: (K, C, Y, X) in the ego's frame.
            visible: (K, Y, X) bool.
            edges: of one ego, so (1, K) and (1, K, 4, 4).
            ego_type: (1,) int64.
            sender_types: (K,) int64.
        """
        graph, flat = self.graph, features.flatten(2)
        codes = [
            self._all("receiver_code")[ego_type].expand(len(sender_types), -1),
            self._all("sender_code")[sender_types],
        ]
        hidden = graph.edge(torch.cat([edge_features(edges)[0].to(codes[0]), *codes], dim=-1))
        confidence = graph.confidence.weight.flatten(1) @ flat + graph.confidence.bias[:, None]
        gated = self._gated(ego.flatten(2), flat, confidence, hidden) if graph.config.gate else flat
        fused = maximum_with(ego, gated.view(features.shape)[None], visible[None])
        if graph.config.attention:
            fused = fused + self._attend(ego, flat, visible, confidence, hidden, ego_type, sender_types)
        return fused

    def _gated(self, ego: Tensor, flat: Tensor, confidence: Tensor, hidden: Tensor) -> Tensor:
        """(K, C, P) features times their gates."""
        graph, channels = self.graph, flat.shape[1]
        of_sender, of_ego, of_confidence = graph.content.weight.flatten(1).split([channels, channels, 1], dim=1)
        own = of_ego @ ego + graph.content.bias[:, None]
        content = functional.gelu(of_sender @ flat + own + of_confidence * confidence.sigmoid())
        logits = graph.content_gate.weight.flatten(1) @ content + (_OPEN + graph.edge_gate(hidden))[..., None]
        return flat * (logits.sigmoid() / torch.sigmoid(logits.new_tensor(_OPEN)))

    def _attend(
        self,
        ego: Tensor,
        flat: Tensor,
        visible: Tensor,
        confidence: Tensor,
        hidden: Tensor,
        ego_type: Tensor,
        sender_types: Tensor,
    ) -> Tensor:
        """(1, C, Y, X) residual, zero where no sender sees the cell."""
        heads = self.graph.config.heads
        query = (self._matrices("query")[ego_type] @ ego.flatten(2)).unflatten(1, (heads, -1))
        key = (self._matrices("key")[sender_types] @ flat).unflatten(1, (heads, -1))
        value = (self._matrices("value")[sender_types] @ flat).unflatten(1, (heads, -1))
        score = (query * key).sum(dim=2) / key.shape[2] ** 0.5
        score = score + self.graph.edge_bias(hidden)[..., None]
        score = score + self.graph.temperature * functional.logsigmoid(confidence)
        weights = score.masked_fill(~visible.flatten(1)[:, None], -1e4).softmax(dim=0)
        mixed = (weights[:, :, None] * value).sum(dim=0).flatten(0, 1)
        residual = (self._matrices("output")[ego_type] @ mixed).view(ego.shape)
        return residual.masked_fill(~visible.any(dim=0)[None, None], 0.0)

    def _all(self, role: str) -> Tensor:
        """(T, code) of all types, as "receiver_code" or "sender_code"."""
        return torch.stack([getattr(self.graph.typed_module(name), role) for name in self.names])

    def _matrices(self, role: str) -> Tensor:
        """(T, C_out, C_in) of all types."""
        return torch.stack([self.graph._matrix(role, name) for name in self.names])
