"""The method in one file: agents, adapters, shared backbone, fusion, neck, head, for a batch.

    inputs -> encode (own frames) -> messages -> warp to the egos -> fuse -> neck -> head -> dense predictions

`Collaboration.forward` is that line in training. `vehicle.Vehicle` is the same line for one agent on a road, message by
message; a `Collaboration` is one, too.

Shapes: A agents of a batch in one flat list, B egos, K message slots per ego, C channels, Y X shared grid.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatv2x.agents.base import Agent
from heatv2x.core import plugins
from heatv2x.core.config import build, nearest
from heatv2x.core.plugins import build_part, settings_of_part
from heatv2x.errors import ConfigError, PackError
from heatv2x.fusion.base import Edges, Fusion, Placement, Received, largest_share
from heatv2x.geometry.boxes import inverse_rigid
from heatv2x.geometry.grid import at_origin
from heatv2x.geometry.handedness import agent_on
from heatv2x.link.codecs.base import Codec
from heatv2x.link.message import CODES
from heatv2x.model.assembly import assemble, read_all
from heatv2x.model.codebook import Codebook
from heatv2x.model.config import AdapterConfig, ModelConfig, check_type_name
from heatv2x.model.detector import Detector, DetectorConfig, neck_of
from heatv2x.model.exchange import EXCHANGES
from heatv2x.model.heads.base import Detections, Head
from heatv2x.model.links import Links, in_order, nothing_received, pull_to_windows, rows_of
from heatv2x.model.networks import ENCODES, HEARS
from heatv2x.model.packs import tensors_digest
from heatv2x.model.reader import Reader, hear
from heatv2x.model.vehicle import Vehicle
from heatv2x.model.voice import voice_of
from heatv2x.nn.move import to_device
from heatv2x.nn.residual import residual_trunk
from heatv2x.structures import AgentFrame, Boxes3D


class Collaboration(Vehicle, nn.Module):
    """Agents of several types that perceive together.

    Attributes:
        agents: encoders by type name.
        senders: by type name, its Hetero-Aware Adapters ("before", "after"); base types have none.
        receivers: by type name, its Multi-Cognitive Adapter.
        detectors: by type name, the network that a newcomer detects alone with, if its agent pack brought one; all
            others do it with the base's neck and head.
        lacking: by type name, which of its parts were never loaded although the model came from packs: its "encoder"
            (random weights), its "sender" or its "receiver" adapters (the identity). Using such a part is an error. A
            model that is built from its settings, to be trained, lacks nothing.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.lacking: dict[str, set[str]] = {}
        self.comes_from_packs = False
        self._space_of: tuple[list[Tensor], list[Any], bytes] | None = None
        self.grid = config.grid
        self.agents = nn.ModuleDict()
        self.senders = nn.ModuleDict()
        self.receivers = nn.ModuleDict()
        self.detectors = nn.ModuleDict()
        self.joined: dict[str, AdapterConfig] = {}
        for name, part in config.agents.items():
            self.agents[name] = build_part("agents", part, self.grid, config.channels)
        self.backbone = residual_trunk(config.channels, config.backbone_blocks)
        self.fusion: Fusion = build_part("fusion", config.fusion, config.channels, list(config.agents))
        fused = self.fusion.fused_channels(config.channels)
        self.neck, trunk = neck_of(config.neck, fused, config.neck_channels)
        self.head: Head = build_part("heads", config.head, trunk, self.grid)
        self.codebook: Codebook | None = None
        if config.codebook is not None:
            self.codebook = Codebook(config.codebook, config.channels)
        self.reader: Reader | None = None
        if config.reader is not None:
            self.reader = Reader(config.reader, trunk, self.head.terms, list(config.agents))
        self.exchange = EXCHANGES[config.exchange]
        self._codec: Codec = plugins.find("codecs", config.codec)()

    # --- the line ---------------------------------------------------------------------------------------------------

    def forward(self, inputs: Mapping[str, Any], types: Sequence[str], links: Links) -> dict[str, Tensor]:
        """Dense predictions of B egos from the sensor inputs of A agents; the method, one call per arrow.

        Args:
            inputs: by type, a collated input of that type's agents, in their order in the flat list.
            types: (A,) type of each agent of the flat list.
            links: who hears whom.

        Raises:
            PackError: a type has no encoder weights (see `lacking`).
        """
        features = self.encode_batch(inputs, types)
        return self.collaborate(features, types, links)

    def collaborate(
        self,
        features: Tensor,
        types: Sequence[str],
        links: Links,
        boxes: Sequence[Detections | None] = (),
        share: float = 1.0,
    ) -> dict[str, Tensor]:
        """The part after the encoders: (A, C, Y, X) features in own frames to the B egos' dense predictions.

        Args:
            boxes: what each of the A agents detects alone, in its own frame, for the reader; none by default.
            share: share of their cells that agents send, the most relevant ones; 1 leaves it to the fusion.
        """
        if self.exchange.name == "points" and bool((links.senders >= 0).any()):
            raise ConfigError(
                "early fusion pools points before the encoders, so it has no features to train between; train a "
                "base end to end (heatv2x train base) and whatever joins it alone (heatv2x train encoder)"
            )
        cells = self.fusion.select(features) if share == 1 else largest_share(self.fusion.relevance(features), share)
        messages = self.quantise(features, cells)
        ego, received = self.receive(features, messages, types, links, partly=cells is not None)
        fused = self.fusion(ego, received)
        if self.fusion.frame == "sender" and links.windows:
            fused = torch.stack([self.grid.crop(row, w) for row, w in zip(fused, links.windows, strict=True)])
        return self.predict(fused, boxes, types, links)

    def quantise(self, features: Tensor, cells: Tensor | None = None) -> Tensor:
        """(A, C, Y, X) features as receivers will see them; gradients pass straight through.

        Args:
            cells: (A, Y, X) bool, which are sent; None for all.
        """
        sent = features if cells is None else features * cells[:, None]
        if self.config.codec != CODES or self.codebook is None:
            return self._codec.quantise(sent)
        seen = self.codebook.quantise(features)
        return seen if cells is None else seen * cells[:, None]

    def encode_batch(self, inputs: Mapping[str, Any], types: Sequence[str]) -> Tensor:
        """(A, C, Y, X) shared features in each agent's own frame, adapters included."""
        if not self.training:
            self.require(inputs, ENCODES)
        by_type = {name: self.to_shared_space(name, self.agents[name](batch)) for name, batch in inputs.items()}
        return in_order(by_type, types)

    def to_shared_space(self, agent_type: str, encoded: Tensor) -> Tensor:
        """(N, C, Y, X) encoder outputs of one type to the base's feature space: adapter, shared backbone, adapter."""
        adapters = self.senders[agent_type] if agent_type in self.senders else nn.ModuleDict()
        assert isinstance(adapters, nn.ModuleDict)
        if "before" in adapters:
            encoded = adapters["before"](encoded)
        shared: Tensor = self.backbone(encoded)
        return adapters["after"](shared) if "after" in adapters else shared

    def receive(
        self, features: Tensor, messages: Tensor, types: Sequence[str], links: Links, partly: bool = False
    ) -> tuple[Tensor, Received]:
        """Each ego's own feature and the messages it hears, warped into its frame and window.

        A fusion that computes in the senders' frames is given whole maps.

        Args:
            partly: cells that hold nothing were not sent, and are not seen.
        """
        windows = links.windows if links.windows and self.fusion.frame == "ego" else [self.grid] * len(links.ego)
        ego = torch.stack([self.grid.crop(features[int(i)], w) for i, w in zip(links.ego, windows, strict=True)])
        batch, slots = links.senders.shape
        if slots == 0:
            return ego, nothing_received(ego, links, [types[int(i)] for i in links.ego])
        target, pull = pull_to_windows(links.T_sender_ego, windows)
        senders = links.senders.flatten()
        visible = (
            self.grid.visible(pull, target).to(features.device) & (senders >= 0).to(features.device)[:, None, None]
        )
        names = [[types[int(j)] if j >= 0 else "" for j in row] for row in links.senders]
        flat_names = [name for row in names for name in row]
        sent, placement = rows_of(messages, senders.clamp(min=0)), None
        if self.fusion.frame == "ego":
            warped = self.grid.warp(sent, pull, target)
            if partly or self.fusion.selects:  # before an adapter turns the zeros of unsent cells into something else
                visible = visible & (warped != 0).any(dim=1)
            hidden = ~visible[:, None]
            offered = warped.masked_fill_(hidden, 0.0)  # not a product: 0 times NaN is NaN
            if not self.receivers.keys().isdisjoint(flat_names):
                offered = self._adapt_received(offered, flat_names).masked_fill(hidden, 0.0)
        else:
            offered = self._adapt_received(sent, flat_names)
            placement = Placement(self.grid, target, pull.view(batch, slots, 4, 4))
        edges = Edges(inverse_rigid(links.T_sender_ego), links.sigma_m, links.sigma_rad, links.age_s)
        received = Received(
            offered.view(batch, slots, *offered.shape[1:]),
            visible.view(batch, slots, *visible.shape[1:]),
            edges,
            [types[int(i)] for i in links.ego],
            names,
            placement,
        )
        return ego, received

    def predict(
        self,
        fused: Tensor,
        boxes: Sequence[Detections | None] = (),
        types: Sequence[str] = (),
        links: Links | None = None,
    ) -> dict[str, Tensor]:
        """Dense predictions from (B, C, Y, X) fused features, and the boxes that agents sent if there is a reader."""
        trunk = self.neck(fused)
        maps: dict[str, Tensor] = self.head(trunk)
        if self.reader is None or links is None or not any(boxes):
            return maps
        grids = links.windows or [self.grid] * len(fused)
        heard = hear(boxes, types, links, grids)
        return maps if heard is None else self.reader(trunk, maps, heard, self.head, at_origin(grids[0]))

    def predict_alone(self, features: Tensor, types: Sequence[str]) -> dict[str, Tensor]:
        """Dense predictions of egos that receive no messages, from their own (B, C, Y, X) features."""
        return self.predict(self.fusion.alone(features, types))

    def _adapt_received(self, warped: Tensor, types: Sequence[str]) -> Tensor:
        for name in sorted(set(types) & set(self.receivers)):
            rows = torch.tensor([t == name for t in types], device=warped.device)
            adapter = self.receivers[name]
            if torch.is_grad_enabled():  # training keeps one shape for all steps: every new shape costs new kernels
                warped = torch.where(rows[:, None, None, None], adapter(warped), warped)
            else:
                warped = warped.index_copy(0, rows.nonzero()[:, 0], adapter(warped[rows]).to(warped.dtype))
        return warped

    # --- what runs in a car -----------------------------------------------------------------------------------------

    def look(self, agent_type: str, frame: AgentFrame) -> Tensor:
        return self.to_shared_space(agent_type, self._encoded(agent_type, frame)).contiguous()

    def look_and_detect(self, agent_type: str, frame: AgentFrame) -> tuple[Tensor, Boxes3D]:
        encoded = self._encoded(agent_type, frame)
        feature = self.to_shared_space(agent_type, encoded).contiguous()
        if agent_type not in self.detectors:
            return feature, self.detect_alone(feature, agent_type)
        return feature, self.own_detections(agent_type, encoded)[0].on(self.grid).to_boxes()

    def own_detections(self, agent_type: str, encoded: Tensor) -> list[Detections]:
        """What N agents of a type detect alone, from their (N, C, Y, X) encoder outputs.

        By the network that the type brought along, or by the base's neck and head.
        """
        if agent_type in self.detectors:
            detector = self.detectors[agent_type]
            assert isinstance(detector, Detector)
            return detector.head.decode(detector(encoded), self.grid)
        shared = self.to_shared_space(agent_type, encoded)
        return self.head.decode(self.predict_alone(shared, [agent_type] * len(shared)), self.grid)

    def _encoded(self, agent_type: str, frame: AgentFrame) -> Tensor:
        """(1, C, Y, X) output of a type's encoder."""
        agent = self.agent(agent_type)
        self.require([agent_type], ENCODES)
        encoded: Tensor = agent(to_device(agent.collate([agent.prepare(agent_on(self.grid, frame))]), self.device))
        return encoded

    def select(self, feature: Tensor) -> Tensor | None:
        return self.fusion.select(feature)

    def relevance(self, feature: Tensor) -> Tensor:
        return self.fusion.relevance(feature)

    def detect_alone(self, feature: Tensor, agent_type: str) -> Boxes3D:
        return self.boxes_of(self.predict_alone(feature, [agent_type]))

    def detect_fused(
        self, features: Tensor, types: Sequence[str], links: Links, boxes: Sequence[Boxes3D | None] = ()
    ) -> Boxes3D:
        self.require(types, HEARS)
        ego, received = self.receive(features, features, types, links, partly=self.hears_parts)
        sent = [None if each is None else Detections.of(each).on(self.grid) for each in boxes]
        return self.boxes_of(self.predict(self.fusion(ego, received), sent, types, links))

    def boxes_of(self, maps: dict[str, Tensor]) -> Boxes3D:
        """The boxes of one scene, right-handed."""
        found = self.head.decode(maps, self.grid)[0]
        return found.on(self.grid).to_boxes()

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def budget_bytes(self) -> int | None:
        return self.config.budget_bytes

    @property
    def hears_parts(self) -> bool:
        """Messages may leave out cells, which then hold nothing."""
        return self.budget_bytes is not None or self.codebook is not None

    @property
    def codec(self) -> str:
        return self.config.codec

    @property
    def sends_boxes_above(self) -> float | None:
        return None if self.config.reader is None else self.config.reader.min_score

    def use_codec(self, name: str) -> None:
        """Send features with another codec from now on; receivers read it from each message.

        Raises:
            ConfigError: there is no such codec, or it needs a codebook that this base lacks.
        """
        codec = plugins.find("codecs", name)()
        self.config = build(ModelConfig, {**self.config.model_dump(), "codec": name}, "the wanted codec", complete=True)
        self._codec = codec

    def use_budget(self, budget_bytes: int | None) -> None:
        """Send messages of at most so many bytes from now on; None sends all.

        Raises:
            ConfigError: that is too few.
        """
        wanted = {**self.config.model_dump(), "budget_bytes": budget_bytes}
        self.config = build(ModelConfig, wanted, "the wanted budget", complete=True)

    @property
    def device(self) -> torch.device:
        """The device that the networks are on."""
        return next(self.parameters()).device

    @classmethod
    def from_packs(cls, *paths: str | Path, sides: Collection[str] = ("sender", "receiver")) -> Collaboration:
        """A model, ready to use, from a base pack, agent packs and adapter packs in any order.

        Raises:
            PackError: a pack is damaged, does not fit, or there is not exactly one base.
        """
        return assemble(cls, *read_all(paths), sides)

    # --- types and their parts --------------------------------------------------------------------------------------

    def agent(self, name: str) -> Agent:
        """The encoder of a type.

        Raises:
            ConfigError: this model has no such type.
        """
        if name not in self.agents:
            raise ConfigError(f"unknown agent type '{name}'; {nearest(name, self.agents)}")
        agent = self.agents[name]
        assert isinstance(agent, Agent)
        return agent

    def require(self, agent_types: Iterable[str], parts: Collection[str]) -> None:
        if not self.lacking:
            return
        missing = {name: self.lacking.get(name, set()) & set(parts) for name in dict.fromkeys(agent_types)}
        if lines := [_lack(name, part) for name, lacks in missing.items() for part in sorted(lacks)]:
            raise PackError("\n".join(lines))

    def has_trained(self, parameters: Collection[str]) -> None:
        """Record which parameters were trained, by name; an encoder among them no longer counts as lacking weights."""
        for name, parts in self.lacking.items():
            if any(parameter.startswith(f"agents.{name}.") for parameter in parameters):
                parts.discard("encoder")

    def encoded_types(self) -> list[str]:
        return list(self.agents)

    def known_types(self) -> list[str]:
        return sorted({*self.config.agents, *self.joined})

    def join(self, name: str, config: AdapterConfig) -> None:
        """Let a new type join: its encoder, identity adapters and typed fusion parameters. Nothing deployed changes.

        What is new is made on the CPU, where a seed gives the same values on every machine, and goes to this model's
        device.
        In a model that came from packs the new type cannot encode before its agent pack is loaded or its encoder is
        trained.

        Raises:
            ConfigError: the name is taken, or `like` is unknown.
        """
        if name in self.known_types():
            raise ConfigError(f"agent type '{name}' has already joined")
        if config.like not in self.known_types():
            raise ConfigError(
                f"like='{config.like}' is not a deployed type; {nearest(config.like, self.known_types())}"
            )
        try:
            check_type_name(name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        device = self.device
        # everything is built before anything is registered: a wrong part leaves no half-joined type behind
        channels = self.config.channels
        agent = build_part("agents", config.agent, self.grid, channels)
        sides = {"before": config.before, "after": config.after}
        sender = nn.ModuleDict({s: build_part("adapters", p, channels) for s, p in sides.items() if p})
        receiver = build_part("adapters", config.received, channels) if config.received else None
        self.agents[name] = agent
        self.senders[name] = sender
        if receiver is not None:
            self.receivers[name] = receiver
        self.fusion.add_type(name, config.like)
        if self.reader is not None:
            self.reader.add_type(name, config.like)
        self.joined[name] = config
        if self.comes_from_packs:
            self.lacking[name] = {"encoder"}
        trust = None if self.reader is None else self.reader.types[name]
        for module in (agent, sender, receiver, self.fusion.typed_module(name), trust):
            if module is not None:
                module.to(device)

    def bring(self, name: str, config: DetectorConfig) -> Detector:
        """Give a newcomer a detector of its own, still untrained."""
        self.detectors[name] = detector = Detector(config, self.config.channels, self.grid).to(self.device)
        return detector

    def voice(self, agent_type: str) -> str:
        parts = {**self.base_modules(), "agent": self.agent(agent_type)}
        if agent_type in self.detectors:
            parts["detector"] = self.detectors[agent_type]
        if agent_type in self.senders:
            parts["sender"] = self.senders[agent_type]
        about = {
            "type": agent_type,
            "space": self.feature_space.hex(),
            "grid": repr(self.grid),
            "codec": self.codec,
            "exchange": self.exchange.name,
            "sends_boxes_above": self.sends_boxes_above,
            "budget_bytes": self.budget_bytes,
        }
        if self.codebook is not None:
            parts["codebook"] = self.codebook
        return voice_of(parts, about, tuple(f"fusion.types.{name}." for name in self.joined if name != agent_type))

    def base_modules(self) -> dict[str, nn.Module]:
        """The modules that a base pack holds and that every message relies on."""
        return {"backbone": self.backbone, "fusion": self.fusion, "neck": self.neck, "head": self.head}

    def base_state(self) -> dict[str, Tensor]:
        """The base's tensors by name, without newcomers' parameters: backbone, fusion, neck, head, codebook, reader."""
        extras = {"codebook": self.codebook, "reader": self.reader}
        return self._state_of({**self.base_modules(), **{k: part for k, part in extras.items() if part is not None}})

    def _state_of(self, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        newcomers = tuple(f"{part}.types.{name}." for name in self.joined for part in ("fusion", "reader"))
        state = {f"{part}.{k}": v for part, module in modules.items() for k, v in module.state_dict().items()}
        return {key: value for key, value in state.items() if not key.startswith(newcomers)}

    @property
    def feature_space(self) -> bytes:
        """16 bytes that name the base.

        The first half of a SHA-256 over its tensors, the grid, the number of channels, and the parts that compute with
        them: their names, and those of their settings that are not the part's defaults (so that a setting which is
        added later changes nothing). The reader does not count: features mean the same with and without it. It is taken
        again only after a tensor of the base was changed.
        """
        tensors = [
            tensor for module in self.base_modules().values() for tensor in (*module.parameters(), *module.buffers())
        ]
        state = [(id(tensor), tensor._version, tensor.data_ptr(), tensor.dtype) for tensor in tensors]
        if self._space_of is None or self._space_of[1] != state:
            parts = {"fusion": self.config.fusion, "heads": self.config.head}
            described = {
                kind: {"part": part.part, "settings": settings_of_part(kind, part, defaults=False)}
                for kind, part in parts.items()
            }
            # keep the tensors alive, so that no other one can take their addresses
            self._space_of = tensors, state, self._named({"parts": described, "neck": self.config.neck})
        return self._space_of[2]

    @property
    def former_feature_space(self) -> bytes:
        """The name that this base had before its parts' names and settings were covered; see `pack_rewriting`."""
        return self._named({})

    def _named(self, more: Mapping[str, Any]) -> bytes:
        about = {"grid": self.grid.to_dict(), "channels": self.config.channels, **more}
        state = self._state_of(self.base_modules())
        return bytes.fromhex(tensors_digest(state, json.dumps(about, sort_keys=True)))[:16]


def _lack(agent_type: str, part: str) -> str:
    """Which weights of a type are missing, and how to get them."""
    if part == "encoder":
        return (
            f"agent type '{agent_type}' has no encoder weights: its agent pack was not given, so its encoder would "
            f"run with random weights.\n  Way out: add the agent pack of '{agent_type}' to the packs, or name a type "
            "whose agent pack is among them"
        )
    return (
        f"agent type '{agent_type}' was loaded without the {part} side of its adapter pack, which is needed here.\n"
        f"  Way out: load its adapter pack with '{part}' among the sides"
    )
