"""Evaluate a model as it would run: encode, pack to bytes, channel, unpack, fuse, detect; then average precision.

With `refine_poses` the ego corrects the senders' poses between unpacking and fusing.

Ground truth is the same for every row of a table: what any agent in communication range sees, in the ego's range,
without the ego's own body. A second score counts only what the ego itself sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from heatv2x.core import distributed
from heatv2x.data.datasets.base import Dataset
from heatv2x.data.ground_truth import ground_truth, in_range
from heatv2x.errors import HeatError
from heatv2x.evaluation.coverage import BeforeFirst, Selection, Turn
from heatv2x.evaluation.message_cache import ByteCache, OwnMessage, PackedMessage
from heatv2x.evaluation.protocols import HEATV2X, Protocol
from heatv2x.evaluation.results import Evaluation, SceneResult, Tally, summed_up
from heatv2x.evaluation.roster import Cast
from heatv2x.link.channel import Channel, ChannelConfig
from heatv2x.link.message import Message, pack, unpack, with_reported_pose
from heatv2x.model.networks import ENCODES, HEARS
from heatv2x.model.vehicle import Vehicle
from heatv2x.structures import Boxes3D, Frame

Progress = Callable[[int, int], None]
CACHE_BYTES = 1 << 30
"""Of remembered messages."""
_FRAMES_KEPT = 4


@dataclass
class _Voices:
    """Which agents send, and with which networks.

    Attributes:
        model: the model of every type without a speaker of its own.
        speakers: by type, another model to send with.
    """

    model: Vehicle
    speakers: Mapping[str, Vehicle] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)
    _sensors: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, agent_type: str) -> Vehicle:
        """The model that a type encodes and sends with."""
        return self.speakers.get(agent_type, self.model)

    def sensors(self, agent_type: str) -> tuple[str, ...]:
        """What a type senses with."""
        if agent_type not in self._sensors:
            self._sensors[agent_type] = tuple(self.of(agent_type).agent(agent_type).sensors)
        return self._sensors[agent_type]

    def digest(self, agent_type: str) -> str:
        """A digest of the networks that a type sends with, taken once: nothing is trained while frames run."""
        if agent_type not in self._digests:
            self._digests[agent_type] = self.of(agent_type).voice(agent_type)
        return self._digests[agent_type]

    def allow(self, roster: Cast) -> None:
        """Check that every type that will encode has its weights, and that all types are known.

        Raises:
            ConfigError: a type is unknown.
            PackError: a part of a type that is needed was never loaded.
        """
        for agent_type in roster.types:
            self.of(agent_type).agent(agent_type)
        senders = roster.sender_types if self.model.exchange.senders_encode else ()
        by_voice: dict[int, list[str]] = {}
        for agent_type in dict.fromkeys((*roster.ego_types, *senders)):
            by_voice.setdefault(id(self.of(agent_type)), []).append(agent_type)
        for names in by_voice.values():
            self.of(names[0]).require(names, ENCODES)
        if self.model.exchange.needs_common_base:
            self.model.require((*roster.ego_types, *senders), HEARS)


def require_types(model: Vehicle, roster: Cast) -> None:
    """Check that a model has the types of a roster, with the weights they need.

    Raises:
        ConfigError: a type is unknown.
        PackError: a part of a type that is needed was never loaded; names the missing packs.
    """
    _Voices(model).allow(roster)


class Evaluator:
    """Evaluates rosters of one model or several on one split.

    It remembers what agents said as packed bytes, so rows that share messages share the work. What is remembered
    belongs to the networks that said it: another model, or the same one after more training, never gets it.

    Args:
        dataset: the split.
        channel: the link; also sets the communication range of the ground truth.
        protocol: of average precision, and what it is measured on; where it has no range, the model's grid is written
            into it as the range.
        limit: evaluate only the first frames.
        only: evaluate only the frames with these indices; the others are there for late messages.
        keep: indices of frames whose scenes are kept in the results.
        refine_poses: senders send their boxes along, and the ego corrects the reported poses by them.
        share_boxes: senders send their boxes along, and the ego adds them to what the fused features show.
        before_first: what becomes of a frame that has no frame `latency_ms` before it. "clamp" takes the messages of
            the oldest frame that is there, as OpenCOOD does: every row of a table stands on the same frames.
            "leave_out" does not score it: every message is as old as the link makes it.
        skip_scenarios_without_ego: leave out scenarios in which nobody plays the ego's type.
        cache_bytes: how much memory remembered messages may take.
        guard: the ego defends what it sees itself (see `Vehicle.detect`); the agents of a split are honest.

    Raises:
        ConfigError: `limit` is not above 0.
    """

    def __init__(
        self,
        dataset: Dataset,
        channel: ChannelConfig | None = None,
        protocol: Protocol = HEATV2X,
        limit: int | None = None,
        keep: Sequence[int] = (),
        refine_poses: bool = False,
        only: Sequence[int] | None = None,
        share_boxes: bool = False,
        before_first: BeforeFirst = "clamp",
        skip_scenarios_without_ego: bool = False,
        cache_bytes: int = CACHE_BYTES,
        guard: bool = False,
    ) -> None:
        self.dataset = dataset
        self.channel = Channel(channel)
        self.protocol = protocol
        self.selection = Selection(dataset, only, limit, protocol.max_agents)
        self.keep = set(keep)
        self.refine_poses, self.share_boxes = refine_poses, share_boxes
        self.before_first: BeforeFirst = before_first
        self.skip_scenarios_without_ego, self.guard = skip_scenarios_without_ego, guard
        self._frames: dict[tuple[int, tuple[tuple[int, tuple[str, ...]], ...]], Frame] = {}
        self._sent: ByteCache[PackedMessage] = ByteCache(cache_bytes // 2)
        self._own: ByteCache[OwnMessage] = ByteCache(cache_bytes - cache_bytes // 2)

    @property
    def indices(self) -> list[int]:
        """Indices of the frames that may be evaluated: the labelled ones.

        Raises:
            HeatError: none of them is labelled.
        """
        return self.selection.indices

    def forget(self, agent_type: str | None = None) -> None:
        """Free the memory of a type's messages (of all types if None). Never needed for a right result."""
        for cache in (self._sent, self._own):
            for key in list(cache):
                if agent_type is None or (isinstance(key, tuple) and key[0] == agent_type):
                    cache.drop(key)

    def use(self, channel: ChannelConfig) -> None:
        """Switch to another channel; cached messages are kept, because they are made before the channel."""
        self.channel = Channel(channel)

    def evaluate(
        self,
        model: Vehicle,
        roster: Cast,
        progress: Progress | None = None,
        speakers: Mapping[str, Vehicle] | None = None,
    ) -> Evaluation:
        """Run every frame and score it.

        Several processes take consecutive parts of the frames, and each gets the result of them all, the same to the
        last bit as that of one process (on CPUs alike); kept scenes stay with the process that ran them.

        Args:
            model: with the roster's types.
            roster: who plays what.
            progress: called with (frames done, frames in all) of this process.
            speakers: types that speak with another model's networks: boxes under late fusion need no common base.

        Raises:
            ConfigError: a type is unknown, or a scenario has nobody who can be the ego.
            PackError: a type's encoder was never loaded.
            HeatError: no frame is left to evaluate, or there is no ground truth in any.
        """
        voices = _Voices(model, dict(speakers or {}))
        voices.allow(roster)
        turns, coverage = self.selection.turns(
            roster, self.channel.config.latency_ms, self.before_first, self.skip_scenarios_without_ego
        )
        for each in (model, *voices.speakers.values()):
            if isinstance(each, nn.Module):
                each.eval()
        protocol = self._protocol(model)
        tally, scenes = Tally.under(protocol), {}
        mine = turns[distributed.own_share(len(turns))]
        for done, turn in enumerate(mine, start=1):
            scene = self._run(voices, roster, turn)
            tally.add(turn.index, scene, self._truth(scene.frame, scene.ego, [scene.ego], protocol))
            if turn.index in self.keep:
                scenes[turn.index] = scene
            if progress:
                progress(done, len(mine))
        scenarios = [self.selection.scenario(turn.index) for turn in turns]
        return summed_up(distributed.all_gather_objects(tally), scenarios, coverage, scenes)

    def run(
        self,
        model: Vehicle,
        roster: Cast,
        index: int,
        speakers: Mapping[str, Vehicle] | None = None,
    ) -> SceneResult:
        """Run one frame end to end, bytes included.

        Raises:
            ConfigError: a type is unknown, or nobody in its scenario can be the ego.
            PackError: a type's encoder was never loaded.
            HeatError: the frame is one that is left out.
        """
        voices = _Voices(model, dict(speakers or {}))
        voices.allow(roster)
        turn = self.selection.turn(roster, index, self.channel.config.latency_ms, self.before_first)
        if isinstance(turn, str):
            latency = self.channel.config.latency_ms
            why = {
                "left out": f"the recording has no frame {latency} ms before it, and before_first=leave_out",
                "without ego": "none of its agents has the ego's type",
            }
            raise HeatError(
                f"{self.dataset.name(index)} is not evaluated: {why[turn]}.\n  Way out: choose another frame"
            )
        return self._run(voices, roster, turn)

    def _run(self, voices: _Voices, roster: Cast, turn: Turn) -> SceneResult:
        model, index = voices.model, turn.index
        protocol = self._protocol(model)
        agent_ids = self.selection.agent_ids(index)
        frame = self._read(voices, turn, index)
        ego_index = agent_ids.index(turn.ego)
        ego = self._own_message(voices, turn)
        space = ego.feature_space if model.exchange.needs_common_base else None
        heard, messages, arrived = [], [], hashlib.sha256()
        others = [j for j, agent_id in enumerate(agent_ids) if j != ego_index and agent_id in turn.roles]
        others = [] if roster.drop else others
        range_m = self._range_m(protocol)
        for near in self.channel.hears(frame.agents[ego_index].pose, [frame.agents[j].pose for j in others], range_m):
            sender = others[near]
            data = self._transmit(voices, turn, frame.name, agent_ids[sender])
            if data is not None:
                heard.append(sender)
                messages.append(unpack(data, space))
                arrived.update(data)
        messages, heard = self._trusted(messages, heard)
        believed = model.refined(ego, messages) if self.refine_poses else messages
        truth = self._truth(frame, ego_index, list(range(len(agent_ids))), protocol)
        found = model.detect(ego, believed, self.share_boxes, guard=self.guard)
        whole = protocol.range_rule == "all_corners"
        found = found[in_range(found.boxes.astype(np.float64), protocol.limits, all_corners=whole)]
        return SceneResult(frame, ego, heard, messages, found, truth, arrived.digest(), ego_index)

    def _protocol(self, model: Vehicle) -> Protocol:
        """The protocol with a range: its own, or the model's grid."""
        grid = model.grid
        return replace(
            self.protocol,
            x_range_m=self.protocol.x_range_m or (grid.x_min, grid.x_max),
            y_range_m=self.protocol.y_range_m or (grid.y_min, grid.y_max),
        )

    def _range_m(self, protocol: Protocol) -> float:
        """The communication range: the protocol's, or else the channel's."""
        return self.channel.config.range_m if protocol.comm_range_m is None else protocol.comm_range_m

    def _truth(self, frame: Frame, ego: int, participants: Sequence[int], protocol: Protocol) -> Boxes3D:
        """What the participants in communication range see, by the protocol's rules."""
        return ground_truth(
            frame,
            ego,
            participants,
            limits=protocol.limits,
            comm_range_m=self._range_m(protocol),
            visible_to=protocol.visible_to,
            all_corners=protocol.range_rule == "all_corners",
            own_body=protocol.own_body,
        )

    def _trusted(self, messages: list[Message], heard: list[int]) -> tuple[list[Message], list[int]]:
        """Messages whose reported position is good enough for this ego, and who sent them."""
        limit = self.channel.config.ignore_above_m
        kept = [i for i, message in enumerate(messages) if limit is None or message.sigma_m < limit]
        return [messages[i] for i in kept], [heard[i] for i in kept]

    def _transmit(self, voices: _Voices, turn: Turn, frame: str, agent_id: int) -> bytes | None:
        """The bytes that arrive, with the pose as reported; None if they are lost, or the sender was not there yet."""
        if not self.channel.delivers(frame, agent_id) or agent_id not in self.selection.agent_ids(turn.sent):
            return None
        key = self._key(voices, turn, turn.sent, agent_id)
        packed = self._sent.get(key)
        if packed is None:
            message = self._say(voices, turn, turn.sent, agent_id)
            bare = replace(message, feature=None, boxes=None, points=None, cells=None, codes=None)
            packed = PackedMessage(pack(message), bare)
            self._sent.put(key, packed)
        pose, sigma_m, sigma_rad = self.channel.reported_pose(frame, agent_id, packed.message.pose)
        return with_reported_pose(packed.data, pose, sigma_m, sigma_rad)

    def _own_message(self, voices: _Voices, turn: Turn) -> Message:
        """The ego's message to itself."""
        key = self._key(voices, turn, turn.index, turn.ego)
        own = self._own.get(key)
        if own is not None:
            return own.whole()
        message = self._say(voices, turn, turn.index, turn.ego)
        self._own.put(key, OwnMessage.of(message))
        return message

    def _key(self, voices: _Voices, turn: Turn, index: int, agent_id: int) -> tuple[str, str, int, int, bool]:
        """The name under which a message is remembered, its type first."""
        agent_type = turn.roles[agent_id]
        return agent_type, voices.digest(agent_type), index, agent_id, self.refine_poses or self.share_boxes

    def _say(self, voices: _Voices, turn: Turn, index: int, agent_id: int) -> Message:
        """An agent's message in a frame, in its role."""
        frame, agent_type = self._read(voices, turn, index), turn.roles[agent_id]
        agent = next(agent for agent in frame.agents if agent.agent_id == agent_id)
        speaker = voices.of(agent_type)
        message = speaker.encode(agent, agent_type, self.dataset.capture_us(index, agent_id))
        return speaker.with_boxes(message) if self.refine_poses or self.share_boxes else message

    def _read(self, voices: _Voices, turn: Turn, index: int) -> Frame:
        """A frame with the sensors that each agent needs in its role."""
        wanted = {
            agent_id: voices.sensors(turn.roles[agent_id])
            for agent_id in self.selection.agent_ids(index)
            if agent_id in turn.roles
        }
        key = (index, tuple(sorted(wanted.items())))
        if key not in self._frames:
            self._frames = {} if len(self._frames) > _FRAMES_KEPT else self._frames
            self._frames[key] = self.dataset.read(index, wanted)
        return self._frames[key]
