"""The heterogeneous graph with types as numbers, so that one file serves every mixture of senders.

Everywhere else a type is a name, and its codes are looked up while the network runs; a graph needs an index.

Shapes: K senders, C channels, E edge features, Y X grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heatv2x.fusion.base import Received
from heatv2x.fusion.hetero_graph import HeteroGraph, edge_features


class Numbered(str):
    """Stands where a type's name is expected, and holds the numbers of all the types in its place.

    Attributes:
        numbers: (K,) int64 positions in `NumberedGraph.names`.
    """

    numbers: Tensor

    def __new__(cls, numbers: Tensor) -> Numbered:
        """A name that is only ever handed on."""
        name = super().__new__(cls, "numbered")
        name.numbers = numbers
        return name


class NumberedGraph(HeteroGraph):
    """The same computation for one ego whose `ego_types` and `sender_types` hold one `Numbered` each.

    Attributes:
        names: the types in the order of their numbers.
    """

    names: list[str]

    def _edge_hidden(self, received: Received) -> Tensor:
        """(1, K, hidden)."""
        receiver = self._numbered_codes("receiver_code", received.ego_types)
        sender = self._numbered_codes("sender_code", received.sender_types[0])
        features = edge_features(received.edges).to(receiver)
        both = torch.cat([receiver.expand(sender.shape[0], -1), sender], dim=-1)[None]
        hidden: Tensor = self.edge(torch.cat([features, both], dim=-1))
        return hidden

    def _project(self, role: str, features: Tensor, types: Sequence[str]) -> Tensor:
        """(K, C_in, Y, X) to (K, C_out, Y, X), each row with the matrix of its type."""
        matrices = torch.stack([self._matrix(role, name) for name in self.names])[_numbers(types)]
        projected = matrices @ features.flatten(2)
        return projected.view(*projected.shape[:2], *features.shape[2:])

    def _numbered_codes(self, role: str, types: Sequence[str]) -> Tensor:
        """(K, code) of the given types as "receiver_code" or "sender_code"."""
        return torch.stack([getattr(self.typed_module(name), role) for name in self.names])[_numbers(types)]


def numbered(graph: HeteroGraph, channels: int, base: Sequence[str], joined: dict[str, str]) -> NumberedGraph:
    """A copy of a graph that takes numbers.

    Args:
        graph: the model's fusion.
        channels: C.
        base: names of the base types.
        joined: by name of a newcomer, the type it started from.
    """
    copy = NumberedGraph(graph.config, channels, base)
    for name, like in joined.items():
        copy.add_type(name, like)
    copy.load_state_dict(graph.state_dict())
    copy.names = [*base, *joined]
    return copy.eval()


def _numbers(types: Sequence[str]) -> Tensor:
    (only,) = types
    assert isinstance(only, Numbered)
    return only.numbers
