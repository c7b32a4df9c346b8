"""The heterogeneous graph with types as numbers, so that one file serves every mixture of senders.

Elsewhere a type is a name, and what belongs to it is looked up while the network runs; a file needs an index.

Shapes: K senders, T types, C channels, Y X grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from heatv2x.fusion.base import Edges
from heatv2x.fusion.hetero_graph import HeteroGraph, Typed


class NumberedGraph(nn.Module):
    """The fusion of one ego.

    Args:
        graph: the fusion.
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
        graph, attends = self.graph, self.graph.config.attention
        of_sender = torch.stack(list(graph.of_senders(self.names).values()))[sender_types]
        typed = Typed(
            self._codes("receiver_code")[ego_type],
            self._codes("sender_code")[sender_types][None],
            of_sender[None],
            self._matrices("query")[ego_type] if attends else None,
            self._matrices("output")[ego_type] if attends else None,
        )
        return graph.fuse(ego, features[None], visible[None], edges, typed)

    def _codes(self, role: str) -> Tensor:
        """(T, code) of all types, as "receiver_code" or "sender_code"."""
        return torch.stack([getattr(self.graph.typed_module(name), role) for name in self.names])

    def _matrices(self, role: str) -> Tensor:
        """(T, C_out, C_in) of all types."""
        return torch.stack([self.graph.matrix(role, name) for name in self.names])
