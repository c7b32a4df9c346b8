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
        # the length by shape: len() would fix it to that of the example
        receiver = self._all("receiver_code")[ego_type].expand(sender_types.shape[0], -1)
        about = [edge_features(edges)[0].to(receiver), receiver, self._all("sender_code")[sender_types]]
        hidden: Tensor = graph.edge(torch.cat(about, dim=-1))
        confidence = _weight(graph.confidence) @ flat + _bias(graph.confidence)
        gated = self._gated(ego.flatten(2), flat, confidence, hidden) if graph.config.gate else flat
        fused = maximum_with(ego, gated.view(features.shape)[None], visible[None])
        if graph.config.attention:
            fused = fused + self._attend(ego, flat, visible, confidence, hidden, ego_type, sender_types)
        return fused

    def _gated(self, ego: Tensor, flat: Tensor, confidence: Tensor, hidden: Tensor) -> Tensor:
        """(K, C, P) features times their gates."""
        graph, channels = self.graph, flat.shape[1]
        of_sender, of_ego, of_confidence = torch.split(_weight(graph.content), [channels, channels, 1], dim=1)
        own = of_ego @ ego + _bias(graph.content)
        content = functional.gelu(of_sender @ flat + own + of_confidence * confidence.sigmoid())
        edge: Tensor = _OPEN + graph.edge_gate(hidden)
        logits = _weight(graph.content_gate) @ content + edge[..., None]
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
        shape = (-1, self.graph.config.heads, self.graph.config.inner // self.graph.config.heads, flat.shape[2])
        query = (self._matrices("query")[ego_type] @ ego.flatten(2)).view(shape)
        key = (self._matrices("key")[sender_types] @ flat).view(shape)
        value = (self._matrices("value")[sender_types] @ flat).view(shape)
        score = (query * key).sum(dim=2) / shape[2] ** 0.5
        score = score + self.graph.edge_bias(hidden)[..., None]
        score = score + self.graph.temperature * functional.logsigmoid(confidence)
        weights = score.masked_fill(~visible.flatten(1)[:, None], -1e4).softmax(dim=0)
        mixed = (weights[:, :, None] * value).sum(dim=0).flatten(0, 1)
        residual: Tensor = (self._matrices("output")[ego_type] @ mixed).view(ego.shape)
        return residual.masked_fill(~visible.any(dim=0)[None, None], 0.0)

    def _all(self, role: str) -> Tensor:
        """(T, code) of all types, as "receiver_code" or "sender_code"."""
        return torch.stack([getattr(self.graph.typed_module(name), role) for name in self.names])

    def _matrices(self, role: str) -> Tensor:
        """(T, C_out, C_in) of all types."""
        return torch.stack([self.graph._matrix(role, name) for name in self.names])


def _weight(layer: nn.Conv2d) -> Tensor:
    """(C_out, C_in) of a 1x1 convolution."""
    return layer.weight.flatten(1)


def _bias(layer: nn.Conv2d) -> Tensor:
    """(C_out, 1)."""
    assert layer.bias is not None
    return layer.bias[:, None]
