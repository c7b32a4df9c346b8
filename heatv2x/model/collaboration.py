"""The method in one file: agents, adapters, shared backbone, messages, fusion, head.

    AgentFrame -> encode (own frame) -> message -> warp to the ego -> fuse -> neck -> head -> boxes

`Collaboration.forward` is that line for a batch in training; `encode` and `detect` are the same line for one vehicle on
a road.

Shapes: A agents of a batch in one flat list, B egos, K message slots per ego, C channels, Y X shared grid.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from heatv2x.agents.base import Agent, sweep
from heatv2x.core import plugins
from heatv2x.core.config import nearest
from heatv2x.core.plugins import build_part, settings_of_part
from heatv2x.errors import ConfigError, MessageError, PackError
from heatv2x.fusion.base import Edges, Fusion, Placement, Received
from heatv2x.fusion.early import pooled
from heatv2x.geometry.boxes import inverse_rigid, nms, rotated_iou_bev, transform_boxes
from heatv2x.geometry.grid import BevGrid
from heatv2x.geometry.handedness import agent_on, boxes_on, transforms_on
from heatv2x.link.message import MAX_BOXES, Message, check_contents, check_header
from heatv2x.link.pose_refinement import RefinementConfig, refine
from heatv2x.link.suspicion import LOSSES, concerns, stands_out, survives
from heatv2x.model.config import AdapterConfig, ModelConfig, check_type_name
from heatv2x.model.heads.base import Detections, Head
from heatv2x.model.packs import tensors_digest
from heatv2x.nn.move import ON_HOST, to_device
from heatv2x.nn.residual import TwoScaleNeck, residual_trunk, shrink_neck
from heatv2x.structures import LIDARS, AgentFrame, Boxes3D, Pose

_log = logging.getLogger(__name__)
T = TypeVar("T")
_BOX_BELIEF, _BOX_SIGMA_M = 0.8, 0.4
"""What a received box counts beside a fused one, halved at this position deviation; chosen on validation towns."""
_SAME, _AGREE = 0.15, 0.3  # overlaps: above the first two boxes are one object, above the second they agree on it
_BELIEVED, _SURE = 0.3, 0.7
"""Scores of the ego's boxes: one that is believed gives way to one that agrees with it, one that is sure to none.
Chosen on a generated validation split: late fusion loses 0.1 AP50 on exact poses and gains 1.4 at 0.4 m."""
ENCODES, HEARS = ("encoder", "sender"), ("receiver",)
"""The parts of a type that are needed to encode as one, and to be one that is heard or that hears (see `require`)."""
_OWN_BODY_M = 2.0  # a received box whose centre lies nearer than this is the ego itself


@dataclass
class Links:
    """Who hears whom in a batch.

    Attributes:
        ego: (B,) int64 index of each ego in the flat list of agents; stays on the CPU.
        senders: (B, K) int64 indices, -1 in an empty slot; stays on the CPU.
        T_sender_ego: (B, K, 4, 4) float64, identity in an empty slot; maps ego coordinates to the sender's, as
            reported, in the grid's axes.
        sigma_m, sigma_rad, age_s: (B, K) float32.
        windows: (B,) grids to compute on: the shared grid, or windows of it of one common shape.
    """

    ego: Tensor = field(metadata=ON_HOST)
    senders: Tensor = field(metadata=ON_HOST)
    T_sender_ego: Tensor
    sigma_m: Tensor
    sigma_rad: Tensor
    age_s: Tensor
    windows: list[BevGrid] = field(default_factory=list)


class Collaboration(nn.Module):
    """Agents of several types that perceive together.

    Attributes:
        agents: encoders by type name.
        senders: by type name, its Hetero-Aware Adapters ("before", "after"); base types have none.
        receivers: by type name, its Multi-Cognitive Adapter.
        lacking: by type name, which of its parts were never loaded although the model came from packs: its "encoder"
            (random weights), its "sender" or its "receiver" adapters (the identity). Using such a part is an error. A
            model that is built from its settings, to be trained, lacks nothing.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.lacking: dict[str, set[str]] = {}
        self.comes_from_packs = False
        self.grid = config.grid
        self.agents = nn.ModuleDict()
        self.senders = nn.ModuleDict()
        self.receivers = nn.ModuleDict()
        self.joined: dict[str, AdapterConfig] = {}
        for name, part in config.agents.items():
            self.agents[name] = build_part("agents", part, self.grid, config.channels)
        self.backbone = residual_trunk(config.channels, config.backbone_blocks)
        self.fusion: Fusion = build_part("fusion", config.fusion, config.channels, list(config.agents))
        fused = self.fusion.fused_channels(config.channels)
        shrink = config.neck == "shrink"
        self.neck = shrink_neck(fused, config.neck_channels) if shrink else TwoScaleNeck(fused, config.neck_channels)
        self.head: Head = build_part("heads", config.head, config.neck_channels if shrink else fused, self.grid)
        self.codec = plugins.find("codecs", config.codec)()

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

    def collaborate(self, features: Tensor, types: Sequence[str], links: Links) -> dict[str, Tensor]:
        """The part after the encoders: (A, C, Y, X) features in own frames to the B egos' dense predictions."""
        if self.fusion.level == "points" and bool((links.senders >= 0).any()):
            raise ConfigError(
                "early fusion pools points before the encoders, so nothing can be trained between features; a base is "
                "trained end to end (heatv2x train base), and what joins it is trained alone (heatv2x train encoder)"
            )
        cells = self.fusion.select(features)
        messages = self.codec.quantise(features if cells is None else features * cells[:, None])
        ego, received = self.receive(features, messages, types, links)
        fused = self.fusion(ego, received)
        if self.fusion.frame == "sender" and links.windows:
            fused = torch.stack([self.grid.crop(row, w) for row, w in zip(fused, links.windows, strict=True)])
        return self.predict(fused)

    def encode_batch(self, inputs: Mapping[str, Any], types: Sequence[str]) -> Tensor:
        """(A, C, Y, X) shared features in each agent's own frame, adapters included."""
        if not self.training:
            self.require(inputs, ENCODES)
        by_type = {name: self.share(name, self.agents[name](batch)) for name, batch in inputs.items()}
        return in_order(by_type, types)

    def share(self, agent_type: str, encoded: Tensor) -> Tensor:
        """(N, C, Y, X) encoder outputs of one type to the base's feature space: adapter, shared backbone, adapter."""
        adapters = self.senders[agent_type] if agent_type in self.senders else nn.ModuleDict()
        assert isinstance(adapters, nn.ModuleDict)
        if "before" in adapters:
            encoded = adapters["before"](encoded)
        shared: Tensor = self.backbone(encoded)
        return adapters["after"](shared) if "after" in adapters else shared

    def receive(
        self, features: Tensor, messages: Tensor, types: Sequence[str], links: Links
    ) -> tuple[Tensor, Received]:
        """Each ego's own feature and the messages it hears, warped into its frame and window.

        A fusion that computes in the senders' frames is given whole maps.
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
            if self.fusion.selects:  # before any adapter makes something of the zeros that stand for what was not sent
                visible = visible & (warped != 0).any(dim=1)
            hidden = ~visible[:, None]
            offered = warped.masked_fill_(hidden, 0.0)  # not a product: 0 times what is not a number is no number
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

    def predict(self, fused: Tensor) -> dict[str, Tensor]:
        """Dense predictions from (B, C, Y, X) fused features."""
        return self.head(self.neck(fused))  # type: ignore[no-any-return]

    def predict_alone(self, features: Tensor, types: Sequence[str]) -> dict[str, Tensor]:
        """Dense predictions of egos that hear nobody, from their (B, C, Y, X) own features."""
        return self.predict(self.fusion.alone(features, types))

    def _adapt_received(self, warped: Tensor, types: Sequence[str]) -> Tensor:
        for name in sorted(set(types) & set(self.receivers)):
            rows = torch.tensor([t == name for t in types], device=warped.device)
            adapter = self.receivers[name]
            if torch.is_grad_enabled():  # training keeps one shape for all steps: kernels are made anew for others
                warped = torch.where(rows[:, None, None, None], adapter(warped), warped)
            else:
                warped = warped.index_copy(0, rows.nonzero()[:, 0], adapter(warped[rows]).to(warped.dtype))
        return warped

    # --- one vehicle on a road --------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, frame: AgentFrame, agent_type: str | None = None, captured_us: int = 0) -> Message:
        """What one agent sends: its feature in the base's space (late fusion: boxes, early: points), in its own frame.

        Args:
            frame: the agent's sensors, in its own frame.
            agent_type: its type; None takes the only type whose sensors the frame holds.
            captured_us: capture time, microseconds.

        Raises:
            ConfigError: the type is unknown, or None and not clear.
            PackError: the type's encoder or sender adapters were never loaded.
        """
        name = agent_type or self._type_of(frame)
        about = (frame.agent_id, name, captured_us, frame.pose, 0.0, 0.0, self.feature_space)
        if self.fusion.level == "points":
            return Message(*about, points=sweep(frame, self.only_lidar(name)), codec="points")
        feature = self._look(name, frame)
        if self.fusion.level == "boxes":
            return Message(*about, boxes=self._boxes(self.predict_alone(feature, [name])), codec="boxes")
        cells = self.fusion.select(feature)
        chosen = None if cells is None else cells[0]
        return Message(*about, feature=feature[0], cells=chosen, codec=self.config.codec)

    @torch.no_grad()
    def detect(
        self,
        ego: AgentFrame | Message,
        messages: Sequence[Message] = (),
        share_boxes: bool = False,
        guard: bool = True,
    ) -> Boxes3D:
        """Boxes in the ego's frame from its own sensors and what it received.

        Args:
            ego: its frame, or its own message as `encode` gives it (never sent, so not quantised).
            messages: received ones, any order.
            share_boxes: add the boxes that ride on messages (`with_boxes`) to what the fused features show. A sender
                far from the ego sees its own surroundings more sharply than the fused map does.
            guard: leave out messages that cost the ego what it sees itself, and let no foreign box remove one that the
                ego is sure of (`suspicion`). For a link on which anybody may speak; among agents that are known to be
                honest, as in an evaluation, it takes time and changes late fusion a little.

        Messages of another place or time are left out.

        Raises:
            MessageError: a message belongs to another base, its feature does not fit the grid, or it says what cannot
                be (`message.Limits`).
            PackError: a part that is needed here was never loaded (see `lacking`).
        """
        own = ego if isinstance(ego, Message) else self.encode(ego)
        messages = self._heeded(own, messages)
        if self.fusion.level != "features":
            together = self._merge_boxes if self.fusion.level == "boxes" else self._see_pooled
            if guard:
                messages = self._harmless(messages, lambda some: together(own, some, guard), self.fusion.level)
            return together(own, messages, guard)
        space = self.feature_space
        mine = self._checked(own, space)
        heard = [self._checked(m, space) if m.cells is None else self._checked(m, space) * m.cells for m in messages]
        spoken = list(zip(messages, heard, strict=True))
        if guard and any(stands_out(feature, mine) for feature in heard):
            spoken = self._harmless(spoken, lambda some: self._fused(own, mine, some), "features")
        found = self._fused(own, mine, spoken)
        return self._with_received(found, own, [message for message, _ in spoken], guard) if share_boxes else found

    def _harmless(self, spoken: Sequence[T], detect: Callable[[Sequence[T]], Boxes3D], level: str) -> list[T]:
        """What was said, without that which costs the ego what it detects by itself."""
        alone, loss = detect([]), LOSSES[level]
        if not spoken or survives(alone, detect(spoken), loss):
            return list(spoken)
        kept = [one for one in spoken if survives(alone, detect([one]), loss)]
        if len(kept) < len(spoken):
            _log.warning(
                "%d of %d messages hide what the ego itself sees: left out", len(spoken) - len(kept), len(spoken)
            )
        return kept

    def _see_pooled(self, own: Message, messages: Sequence[Message], guard: bool = True) -> Boxes3D:
        """What the ego detects in its own points and those of others."""
        feature = self._look(own.agent_type, self._pool_points(own, messages))
        return self._boxes(self.predict_alone(feature, [own.agent_type]))

    def _fused(self, own: Message, mine: Tensor, spoken: Sequence[tuple[Message, Tensor]]) -> Boxes3D:
        """What the ego detects with its own feature and those of some messages."""
        messages = [message for message, _ in spoken]
        features = torch.stack([mine, *(feature for _, feature in spoken)])
        types = [message.agent_type for message in (own, *messages)]
        self.require(types, HEARS)
        ego_feature, received = self.receive(features, features, types, links_of(own, messages, self.grid))
        return self._boxes(self.predict(self.fusion(ego_feature, received)))

    def _heeded(self, ego: Message, messages: Sequence[Message]) -> list[Message]:
        """The messages that concern the ego.

        Raises:
            MessageError: one says what cannot be; `unpack` has refused those that came as bytes.
        """
        for message in messages:
            check_header(message)
            check_contents(message)
        heeded = [message for message in messages if concerns(ego, message, self.grid)]
        if len(heeded) < len(messages):
            _log.info("%d of %d messages are of another place or time", len(messages) - len(heeded), len(messages))
        return heeded

    @torch.no_grad()
    def with_boxes(self, message: Message, config: RefinementConfig | None = None) -> Message:
        """The message with what its sender finds alone, for `refined`; as it is if it holds boxes already.

        Args:
            message: as `encode` gives it.
            config: `min_score` says which boxes are worth sending; at most the best `message.MAX_BOXES` are.
        """
        if message.boxes is not None:
            return message
        if message.points is not None:
            feature = self._look(message.agent_type, self._pool_points(message, []))
        else:
            feature = self._checked(message, self.feature_space)[None]
        found = self._boxes(self.predict_alone(feature, [message.agent_type]))
        assert found.scores is not None
        worthwhile = found[found.scores >= (config or RefinementConfig()).min_score]
        return replace(message, boxes=worthwhile[:MAX_BOXES])

    def refined(
        self, ego: Message, messages: Sequence[Message], config: RefinementConfig | None = None
    ) -> list[Message]:
        """The messages with their senders' poses and deviations as the ego knows them after comparing boxes.

        Each sender is compared with the ego alone, so order and company do not matter. A message without boxes, of a
        sender that reports no uncertainty, or that shares no box with the ego, stays as it is.

        Args:
            ego: its own message as `encode` gives it.
            messages: received ones, any order.
            config: how boxes are compared.
        """
        own = self.with_boxes(ego, config).boxes
        assert own is not None
        messages = self._heeded(ego, messages)
        return [message if message.boxes is None else _corrected(ego, own, message, config) for message in messages]

    def _look(self, agent_type: str, frame: AgentFrame) -> Tensor:
        """(1, C, Y, X) shared feature of one agent."""
        agent = self.agent(agent_type)
        self.require([agent_type], ENCODES)
        inputs = to_device(agent.collate([agent.prepare(agent_on(self.grid, frame))]), self._device)
        return self.share(agent_type, agent(inputs)).contiguous()

    def _pool_points(self, ego: Message, messages: Sequence[Message]) -> AgentFrame:
        """The ego's sweep with everybody's points in it; the senders in the order of their ids."""
        clouds = []
        for message in (ego, *sorted(messages, key=lambda m: (m.sender, m.captured_us))):
            if message.points is None:
                raise MessageError(f"early fusion needs points from agent {message.sender}")
            clouds.append((message.pose.relative_to(ego.pose), message.points))
        cloud = pooled(clouds[0][1], clouds[1:])
        return AgentFrame(ego.sender, "", ego.pose, {self.only_lidar(ego.agent_type): cloud})

    def only_lidar(self, agent_type: str) -> str:
        """The one LiDAR of a type that takes part in early fusion.

        Raises:
            ConfigError: it has other sensors.
        """
        sensors = self.agent(agent_type).sensors
        if len(sensors) != 1 or sensors[0] not in LIDARS:
            raise ConfigError(
                f"early fusion pools the points of agents with one LiDAR; '{agent_type}' has {', '.join(sensors)}"
            )
        return sensors[0]

    def _boxes(self, maps: dict[str, Tensor]) -> Boxes3D:
        """The boxes of one scene, right-handed."""
        found = self.head.decode(maps, self.grid)[0]
        return _as_boxes(Detections(boxes_on(self.grid, found.boxes), found.scores))

    def _merge_boxes(self, ego: Message, messages: Sequence[Message], guard: bool) -> Boxes3D:
        """All boxes in the ego's frame, overlapping ones thinned out."""
        for message in (ego, *messages):
            if message.boxes is None or message.boxes.scores is None:
                raise MessageError(f"late fusion needs boxes with scores from agent {message.sender}")
        assert ego.boxes is not None
        return _merged(_as_detections(ego.boxes), [self._received_boxes(ego, message) for message in messages], guard)

    def _with_received(self, found: Boxes3D, ego: Message, messages: Sequence[Message], guard: bool) -> Boxes3D:
        """What the fused features show, and what the messages' own boxes add to it."""
        received = []
        for message in messages:
            if message.boxes is not None and message.boxes.scores is not None:
                theirs = self._received_boxes(ego, message)
                belief = _BOX_BELIEF / (1 + (message.sigma_m / _BOX_SIGMA_M) ** 2)
                received.append(Detections(theirs.boxes, theirs.scores * belief))
        return _merged(_as_detections(found), received, guard)

    def _received_boxes(self, ego: Message, message: Message) -> Detections:
        """A message's boxes in the ego's frame that lie on its grid and are not the ego itself."""
        assert message.boxes is not None
        theirs = _as_detections(message.boxes)
        boxes = transform_boxes(theirs.boxes, torch.from_numpy(message.pose.relative_to(ego.pose)))
        keep = self._concerns(boxes, has_body=ego.sender >= 0)
        return Detections(boxes[keep], theirs.scores[keep])

    def _concerns(self, boxes: Tensor, has_body: bool) -> Tensor:
        """Which (N, 7) received boxes lie on the ego's grid and are not the ego itself.

        A roadside unit has no body: cars drive below it.
        """
        grid, x, y = self.grid, boxes[:, 0], boxes[:, 1]
        inside = (x >= grid.x_min) & (x <= grid.x_max) & (y >= grid.y_min) & (y <= grid.y_max)
        return inside & (torch.hypot(x, y) > _OWN_BODY_M) if has_body else inside

    def _checked(self, message: Message, space: bytes) -> Tensor:
        """The feature of a message that fits this model and its feature space."""
        expected = (self.config.channels, *self.grid.shape)
        if message.feature is None or tuple(message.feature.shape) != expected:
            have = None if message.feature is None else tuple(message.feature.shape)
            raise MessageError(f"agent {message.sender} sent a feature of shape {have}, this base needs {expected}")
        if message.feature_space != space:
            theirs = message.feature_space.hex()
            raise MessageError(
                f"agent {message.sender} speaks for base {theirs}, not {space.hex()}: load the same base pack"
            )
        if message.agent_type not in self.known_types():
            hint = nearest(message.agent_type, self.known_types())
            raise MessageError(f"agent {message.sender} has unknown type '{message.agent_type}'; {hint}")
        return message.feature.to(self._device)

    def use_codec(self, name: str) -> None:
        """Let features travel in another way from now on; receivers find the codec in each message.

        Raises:
            ConfigError: there is no such codec.
        """
        self.codec = plugins.find("codecs", name)()
        self.config = self.config.model_copy(update={"codec": name})

    @property
    def payload(self) -> str:
        """How the content of a message travels: the codec of features, or "boxes", or "points"."""
        return self.config.codec if self.fusion.level == "features" else self.fusion.level

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _type_of(self, frame: AgentFrame) -> str:
        """The only type whose sensors a frame holds."""
        have = {*frame.lidars, *(("camera",) if frame.cameras else ())}
        fitting = [name for name in self.agents if set(self.agent(name).sensors) <= have]
        if len(fitting) != 1:
            found = ", ".join(fitting) or "none"
            raise ConfigError(f"agent {frame.agent_id}: types that fit its sensors are {found}; say agent_type=")
        return fitting[0]

    @classmethod
    def from_packs(cls, *paths: str | Path, sides: Collection[str] = ("sender", "receiver")) -> Collaboration:
        """A model, ready to use, from a base pack, agent packs and adapter packs in any order.

        Raises:
            PackError: a pack is damaged, does not fit, or there is not exactly one base.
        """
        from heatv2x.model.assembly import assemble, read_all  # noqa: PLC0415 - assembly builds this class

        base, agents, adapters = read_all(paths)
        return assemble(base, agents, adapters, sides)

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
        """See that the weights of some types were loaded.

        Args:
            agent_types: the types that are going to encode or to be heard.
            parts: what they need: `ENCODES` or `HEARS`.

        Raises:
            PackError: some were not; names every such type and the pack that is missing.
        """
        if not self.lacking:
            return
        missing = {name: self.lacking.get(name, set()) & set(parts) for name in dict.fromkeys(agent_types)}
        if lines := [_lack(name, part) for name, lacks in missing.items() for part in sorted(lacks)]:
            raise PackError("\n".join(lines))

    def has_trained(self, parameters: Collection[str]) -> None:
        """Take note of parameters that were trained, by name: an encoder among them lacks its weights no more."""
        for name, parts in self.lacking.items():
            if any(parameter.startswith(f"agents.{name}.") for parameter in parameters):
                parts.discard("encoder")

    def known_types(self) -> list[str]:
        """Types whose messages can be fused."""
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
            raise ConfigError(f"like='{config.like}' is no deployed type; {nearest(config.like, self.known_types())}")
        try:
            check_type_name(name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        device = next(self.parameters()).device  # where the networks stand, not where messages are worked on
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
        self.joined[name] = config
        if self.comes_from_packs:
            self.lacking[name] = {"encoder"}
        for module in (agent, sender, receiver, self.fusion.typed_module(name)):
            if module is not None:
                module.to(device)

    def base_modules(self) -> dict[str, nn.Module]:
        """What a base pack holds and every message relies on."""
        return {"backbone": self.backbone, "fusion": self.fusion, "neck": self.neck, "head": self.head}

    def base_state(self) -> dict[str, Tensor]:
        """The base's tensors by name: backbone, fusion without newcomers' parameters, neck, head."""
        newcomers = tuple(f"fusion.types.{name}." for name in self.joined)
        state = {
            f"{part}.{k}": v for part, module in self.base_modules().items() for k, v in module.state_dict().items()
        }
        return {key: value for key, value in state.items() if not key.startswith(newcomers)}

    @property
    def feature_space(self) -> bytes:
        """16 bytes that name the base.

        The first half of a SHA-256 over its tensors, the grid, the number of channels, and the parts that compute with
        them: their names, and those of their settings that are not the part's defaults (so that a setting which is
        added later changes nothing).
        """
        parts = {"fusion": self.config.fusion, "heads": self.config.head}
        described = {
            kind: {"part": part.part, "settings": settings_of_part(kind, part, defaults=False)}
            for kind, part in parts.items()
        }
        return self._named({"parts": described, "neck": self.config.neck})

    @property
    def former_feature_space(self) -> bytes:
        """The name that this base had before its parts' names and settings were covered; see `pack_rewriting`."""
        return self._named({})

    def _named(self, more: Mapping[str, Any]) -> bytes:
        about = {"grid": self.grid.to_dict(), "channels": self.config.channels, **more}
        return bytes.fromhex(tensors_digest(self.base_state(), json.dumps(about, sort_keys=True)))[:16]


def _lack(agent_type: str, part: str) -> str:
    """Which weights of a type are missing, and how to get them."""
    if part == "encoder":
        return (
            f"agent type '{agent_type}' has no encoder weights: its agent pack was not given, so its encoder would see "
            f"through random weights.\n  Way out: add the agent pack of '{agent_type}' to the packs, or name a type "
            "whose agent pack is among them"
        )
    return (
        f"agent type '{agent_type}' was loaded without the {part} side of its adapter pack, which this needs.\n"
        f"  Way out: load its adapter pack with sides including '{part}'"
    )


def links_of(ego: Message, messages: Sequence[Message], grid: BevGrid) -> Links:
    """The links of one ego with the given messages; the ego is agent 0 of the flat list, the messages follow."""
    T = np.stack([ego.pose.relative_to(m.pose) for m in messages]) if messages else np.zeros((0, 4, 4))
    ages = [(ego.captured_us - m.captured_us) / 1e6 for m in messages]
    return Links(
        torch.zeros(1, dtype=torch.long),
        torch.arange(1, len(messages) + 1)[None],
        transforms_on(grid, torch.from_numpy(T)[None]),
        torch.tensor([[m.sigma_m for m in messages]]),
        torch.tensor([[m.sigma_rad for m in messages]]),
        torch.tensor([ages]),
    )


def nothing_received(ego: Tensor, links: Links, ego_types: list[str]) -> Received:
    """What an ego has that hears nobody."""
    batch, _, rows, columns = ego.shape
    edges = Edges(links.T_sender_ego, links.sigma_m, links.sigma_rad, links.age_s)
    visible = torch.zeros(batch, 0, rows, columns, dtype=torch.bool, device=ego.device)
    return Received(ego[:, None][:, :0], visible, edges, ego_types, [[] for _ in ego_types])


def pull_to_windows(T_sender_ego: Tensor, windows: Sequence[BevGrid]) -> tuple[BevGrid, Tensor]:
    """One grid for windows of a common shape, and matrices that pull from the senders' frames to each window's corner.

    Args:
        T_sender_ego: (B, K, 4, 4) float64.
        windows: B grids in the ego's frame.

    Returns:
        A grid that starts at the origin, and (B * K, 4, 4) float64 T_sender_window.
    """
    first = windows[0]
    target = BevGrid(0.0, first.x_max - first.x_min, 0.0, first.y_max - first.y_min, first.cell)
    T_ego_window = torch.eye(4, dtype=torch.float64).repeat(len(windows), 1, 1, 1)
    T_ego_window[:, 0, :2, 3] = torch.tensor([[w.x_min, w.y_min] for w in windows], dtype=torch.float64)
    return target, (T_sender_ego @ T_ego_window.to(T_sender_ego.device)).flatten(0, 1)


def rows_of(tensor: Tensor, indices: Tensor) -> Tensor:
    """Rows of a tensor by (N,) indices; a view where they follow one another, as an ego's senders do on a road."""
    count = len(indices)
    first = int(indices[0]) if count else 0
    if not torch.equal(indices, torch.arange(first, first + count, device=indices.device)):
        return tensor[indices]
    return tensor[first : first + count]


def in_order(by_type: Mapping[str, Tensor], types: Sequence[str]) -> Tensor:
    """(A, ...) rows of several types put into the order of the flat list."""
    names = list(by_type)
    rows = torch.cat([by_type[name] for name in names])
    position = [index for name in names for index, t in enumerate(types) if t == name]
    order = torch.empty(len(types), dtype=torch.long)
    order[torch.tensor(position, dtype=torch.long)] = torch.arange(len(types))
    return rows[order.to(rows.device)]


def _corrected(ego: Message, own: Boxes3D, message: Message, config: RefinementConfig | None) -> Message:
    """A message with the pose that lays its boxes on the ego's own."""
    assert message.boxes is not None
    reported = message.pose.relative_to(ego.pose)
    known = refine(own, message.boxes, reported, message.sigma_m, message.sigma_rad, config)
    if known.matches == 0:
        return message
    pose = Pose(ego.pose.matrix @ known.T_ego_sender)
    return replace(message, pose=pose, sigma_m=known.sigma_m, sigma_rad=known.sigma_rad)


def _merged(own: Detections, received: Sequence[Detections], guard: bool) -> Boxes3D:
    """The ego's boxes and those it received without the weaker of two that overlap.

    With a guard, what others say neither removes a box that the ego is sure of, nor one that it has reason to believe
    in for one that merely touches it: that is another object, a wrong pose, or a lie.
    """
    found = [own, *(_agreeing(own, theirs) if guard else theirs for theirs in received)]
    boxes, scores = torch.cat([one.boxes for one in found]), torch.cat([one.scores for one in found])
    rank = scores.clone()
    if guard:
        rank[: len(own.scores)][own.scores >= _SURE] += 1
    best = nms(boxes, rank, _SAME)
    best = best[scores[best].argsort(descending=True, stable=True)]
    return _as_boxes(Detections(boxes[best], scores[best]))


def _agreeing(own: Detections, theirs: Detections) -> Detections:
    """Received boxes without those that touch a box of the ego's but are not where it is."""
    believed = own.boxes[own.scores >= _BELIEVED]
    overlap = rotated_iou_bev(believed, theirs.boxes)
    fine = ~((overlap > _SAME) & (overlap < _AGREE)).any(dim=0)
    return Detections(theirs.boxes[fine], theirs.scores[fine])


def _as_detections(boxes: Boxes3D) -> Detections:
    assert boxes.scores is not None
    return Detections(torch.from_numpy(boxes.boxes), torch.from_numpy(boxes.scores))


def _as_boxes(found: Detections) -> Boxes3D:
    return Boxes3D(found.boxes.float().cpu().numpy(), scores=found.scores.float().cpu().numpy())
