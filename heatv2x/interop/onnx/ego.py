"""The ego's side: warp, Multi-Cognitive Adapters, fusion, neck and head. Decoding to boxes stays outside.

With nobody to hear an ego skips warp and fusion: its own feature goes straight into the head.

Shapes: K senders (at least one), C channels, Y X shared grid.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from heatv2x.fusion.base import Edges, Received
from heatv2x.fusion.hetero_graph import HeteroGraph
from heatv2x.interop.onnx.numbered_graph import NumberedGraph
from heatv2x.interop.onnx.stage import Example, ExportError, ExportStage, Outputs, Port
from heatv2x.model.collaboration import Collaboration


class EgoStage(ExportStage):
    """What the stages of the ego's side share."""

    counted = "senders"

    def __init__(self, model: Collaboration, name: str, about: str, part: str) -> None:
        super().__init__()
        self.model = model
        self.name, self.about, self.part = name, about, part

    def map_of(self, name: str, count: int | str, about: str) -> Port:
        """A port for features on the shared grid."""
        return Port(name, (count, self.model.config.channels, *self.model.grid.shape), about)

    def seen(self) -> Port:
        """The port for what the senders see."""
        return Port("visible", ("senders", *self.model.grid.shape), "the sender's map covers the cell")

    def transforms(self, number: int, random: torch.Generator) -> Tensor:
        """(number, 4, 4) float64 of agents on the nearer half of the grid."""
        return random_transforms(number, self.model.grid.x_max / 2, random)

    def random_maps(self, number: int, random: torch.Generator) -> Tensor:
        """(number, C, Y, X) features that look like those of a trained backbone: many zeros, the rest positive."""
        shape = (number, self.model.config.channels, *self.model.grid.shape)
        return torch.randn(shape, generator=random).relu()


class Warp(EgoStage):
    """From the senders' frames to the ego's."""

    def __init__(self, model: Collaboration) -> None:
        super().__init__(model, "warp", "received features resampled on the ego's grid", "the grid")

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Features and where their senders are."""
        T = Port("T_sender_ego", ("senders", 4, 4), "maps the ego's coordinates to the sender's, metres")
        return (self.map_of("features", "senders", "as received, in the senders' frames"), T)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Features in the ego's frame, and where they say anything."""
        return self.map_of("warped", "senders", "in the ego's frame, zero where not visible"), self.seen()

    def forward(self, features: Tensor, T_sender_ego: Tensor) -> Outputs:
        """(K, C, Y, X) and (K, Y, X)."""
        visible = self.model.grid.visible(T_sender_ego)
        return self.model.grid.warp(features, T_sender_ego) * visible[:, None], visible

    def example(self, number: int, random: torch.Generator) -> Example:
        """Senders all around."""
        inputs = self.random_maps(number, random), self.transforms(number, random)
        return Example(inputs, lambda: self(*inputs))


class ReceivedAdapter(EgoStage):
    """A newcomer type's Multi-Cognitive Adapter on its warped contributions."""

    def __init__(self, model: Collaboration, agent_type: str) -> None:
        about = f"Multi-Cognitive Adapter of {agent_type}, for the warped features of its senders alone"
        super().__init__(model, f"received_{agent_type}", about, f"the adapter of '{agent_type}'")
        self.adapter = model.receivers[agent_type]

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What `warp` gives."""
        return self.map_of("warped", "senders", "as `warp` gives it"), self.seen()

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What takes its place."""
        return (self.map_of("adapted", "senders", "for `fusion`"),)

    def forward(self, warped: Tensor, visible: Tensor) -> Outputs:
        """(K, C, Y, X)."""
        return (self.adapter(warped) * visible[:, None],)

    def example(self, number: int, random: torch.Generator) -> Example:
        """Senders all around."""
        visible = self.model.grid.visible(self.transforms(number, random))
        inputs = self.random_maps(number, random) * visible[:, None], visible
        return Example(inputs, lambda: self(*inputs))


class PlainFusion(EgoStage):
    """A fusion that looks at features and at nothing else."""

    def __init__(self, model: Collaboration) -> None:
        super().__init__(model, "fusion", "the ego's feature and the received ones to one", fusion_part(model))

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Features in the ego's frame."""
        own = self.map_of("ego", 1, "the ego's own feature")
        return own, self.map_of("features", "senders", "in the ego's frame"), self.seen()

    @property
    def outputs(self) -> tuple[Port, ...]:
        """One feature."""
        channels = self.model.fusion.fused_channels(self.model.config.channels)
        return (Port("fused", (1, channels, *self.model.grid.shape), "for `head`"),)

    def forward(self, ego: Tensor, features: Tensor, visible: Tensor) -> Outputs:
        """(1, C', Y, X)."""
        unknown: Any = Unknown(self.part)
        return (self.model.fusion(ego, Received(features[None], visible[None], unknown, unknown, unknown)),)

    def example(self, number: int, random: torch.Generator) -> Example:
        """Senders all around; their types do not matter."""
        visible = self.model.grid.visible(self.transforms(number, random))
        inputs = self.random_maps(1, random), self.random_maps(number, random) * visible[:, None], visible
        return Example(inputs, lambda: self(*inputs))


class GraphFusion(PlainFusion):
    """The heterogeneous graph, which also asks who sends, from where, how sure of it and how long ago."""

    def __init__(self, model: Collaboration, graph: HeteroGraph) -> None:
        super().__init__(model)
        self.graph = NumberedGraph(graph, [*model.config.agents, *model.joined])

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Besides the features, the edges."""
        types = ", ".join(f"{number} {name}" for number, name in enumerate(self.graph.names))
        return (
            *super().inputs,
            Port("T_ego_sender", ("senders", 4, 4), "maps the sender's coordinates to the ego's, metres, as reported"),
            Port("sigma_m", ("senders",), "reported standard deviation of the sender's position, metres"),
            Port("sigma_rad", ("senders",), "reported standard deviation of its heading, radians"),
            Port("age_s", ("senders",), "age of the message, seconds"),
            Port("ego_type", (1,), f"the ego's type: {types}"),
            Port("sender_types", ("senders",), "the senders' types"),
        )

    def forward(  # type: ignore[override]
        self,
        ego: Tensor,
        features: Tensor,
        visible: Tensor,
        T_ego_sender: Tensor,
        sigma_m: Tensor,
        sigma_rad: Tensor,
        age_s: Tensor,
        ego_type: Tensor,
        sender_types: Tensor,
    ) -> Outputs:
        """(1, C', Y, X)."""
        edges = Edges(T_ego_sender[None], sigma_m[None], sigma_rad[None], age_s[None])
        return (self.graph(ego, features, visible, edges, ego_type, sender_types),)

    def example(self, number: int, random: torch.Generator) -> Example:
        """Senders of all types in turn, all around, with any uncertainty and age."""
        T = self.transforms(number, random)
        ego, features, visible = PlainFusion.example(self, number, random).inputs
        about = [torch.rand(number, generator=random) * most for most in (0.6, 0.02, 0.5)]
        names = self.graph.names
        own, theirs = number % len(names), [slot % len(names) for slot in range(number)]
        # onnxruntime has no arctangent of float64; a heading is as good in float32
        inputs = (ego, features, visible, T.float(), *about, torch.tensor([own]), torch.tensor(theirs))
        edges = Edges(T[None], *(part[None] for part in about))
        received = Received(features[None], visible[None], edges, [names[own]], [[names[i] for i in theirs]])
        return Example(inputs, lambda: (self.model.fusion(ego, received),))


class HeadStage(EgoStage):
    """Neck and head: dense maps, which the head's `decode` turns to boxes."""

    counted = "egos"

    def __init__(self, model: Collaboration) -> None:
        super().__init__(model, "head", "neck and head: dense maps for `decode`", f"head '{model.config.head.part}'")
        self.channels = model.fusion.fused_channels(model.config.channels)
        with torch.no_grad():
            self.maps = {k: tuple(v.shape[1:]) for k, v in model.predict(self._nothing()).items()}

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What `fusion` gives, or the ego's own feature if it receives no messages."""
        return (Port("fused", ("egos", self.channels, *self.model.grid.shape), "fused feature, or the ego's own"),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The head's maps by name."""
        return tuple(Port(name, ("egos", *shape), f"`{name}` of `decode`") for name, shape in self.maps.items())

    def forward(self, fused: Tensor) -> Outputs:
        """One tensor per map."""
        maps = self.model.predict(fused)
        return tuple(maps[name] for name in self.maps)

    def example(self, number: int, random: torch.Generator) -> Example:
        """Egos that are not related."""
        fused = torch.randn(number, self.channels, *self.model.grid.shape, generator=random).relu()
        return Example((fused,), lambda: self(fused))

    def _nothing(self) -> Tensor:
        return torch.zeros(1, self.channels, *self.model.grid.shape)


class Unknown:
    """A placeholder for inputs that an exported fusion must not use; any use raises an error."""

    def __init__(self, part: str) -> None:
        self._part = part

    def _refuse(self, *_: object) -> NoReturn:
        raise ExportError(
            f"{self._part} cannot be exported to ONNX: it uses the senders' poses or types, and of such fusions only "
            "hetero_graph can be exported"
        )

    __getattr__ = __getitem__ = __iter__ = __len__ = _refuse


def fusion_of(model: Collaboration) -> PlainFusion:
    """The stage of a model's fusion.

    Raises:
        ExportError: it exchanges no features, selects cells, or computes in the senders' frames.
    """
    fusion, part = model.fusion, fusion_part(model)
    refused = ""
    if model.exchange.name != "features":
        refused = f"its agents exchange {model.exchange.name}, not features"
    elif fusion.frame == "sender":
        refused = "it computes in the senders' frames"
    elif fusion.selects:
        refused = "its senders choose which cells they send"
    if refused:
        raise ExportError(f"{part} cannot be exported to ONNX: {refused}")
    return GraphFusion(model, fusion) if isinstance(fusion, HeteroGraph) else PlainFusion(model)


def fusion_part(model: Collaboration) -> str:
    """The fusion's name in messages."""
    return f"fusion '{model.config.fusion.part}'"


def random_transforms(number: int, reach_m: float, random: torch.Generator) -> Tensor:
    """(number, 4, 4) float64 of agents that stand within a square of `reach_m` to each side and look anywhere."""
    yaw = torch.rand(number, generator=random, dtype=torch.float64) * 2 * torch.pi
    T = torch.eye(4, dtype=torch.float64).repeat(number, 1, 1)
    T[:, 0, 0], T[:, 0, 1], T[:, 1, 0], T[:, 1, 1] = yaw.cos(), -yaw.sin(), yaw.sin(), yaw.cos()
    T[:, :2, 3] = torch.rand(number, 2, generator=random, dtype=torch.float64) * 2 * reach_m - reach_m
    return T
