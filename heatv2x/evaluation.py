"""Evaluate a model as it would run: encode, pack to bytes, channel, unpack, fuse, detect; then average precision.

With `refine_poses` the ego corrects the senders' poses between unpacking and fusing.

Ground truth is the same for every row of a table: what any agent in communication range sees, in the ego's range,
without the ego's own body. A second score counts only what the ego itself sees.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch

from heatv2x import processes
from heatv2x.assembly import exchanging, reaching
from heatv2x.channel import Channel, ChannelConfig
from heatv2x.config import Config
from heatv2x.datasets.base import Dataset, DatasetConfig, open_dataset, recognise
from heatv2x.errors import ConfigError, HeatError
from heatv2x.files import write_json
from heatv2x.geometry import rotated_iou_bev
from heatv2x.ground_truth import ground_truth, in_range
from heatv2x.message import Message, pack, unpack
from heatv2x.metrics.average_precision import ApAccumulator, ApResult
from heatv2x.metrics.communication import Traffic, measure_traffic
from heatv2x.metrics.protocols import HEATV2X, Protocol, find_protocol
from heatv2x.model import Collaboration
from heatv2x.nn.move import Device, find_device
from heatv2x.pretrained import PackPath
from heatv2x.roster import AssignedRoster, Assignment, Cast, Roster
from heatv2x.structures import Boxes3D, Frame

Progress = Callable[[int, int], None]


@dataclass
class SceneResult:
    """One frame as it was evaluated.

    Attributes:
        frame: the frame with its sensor data.
        ego_message: the ego's own, as encoded.
        heard: indices of the agents whose messages arrived.
        messages: what they sent, unpacked.
        detections, truth: boxes in the ego's frame.
        arrived: SHA-256 over the bytes of the messages, in the order of `heard`.
        ego: index of the ego in `frame.agents`.
    """

    frame: Frame
    ego_message: Message
    heard: list[int]
    messages: list[Message]
    detections: Boxes3D
    truth: Boxes3D
    arrived: bytes = b""
    ego: int = 0

    @property
    def message_bytes(self) -> list[int]:
        """Packed lengths of the messages."""
        return [message.size_bytes for message in self.messages]


@dataclass
class Evaluation:
    """The result of one row.

    Attributes:
        result: against the union of what the agents in range see.
        ego_visible: against what the ego itself sees; detections of other objects that are there do not count.
        traffic: measured message sizes.
        arrived: hex SHA-256 over every byte that the egos received: two channels with the same value did the same.
        found: hex SHA-256 over every box and score that the egos found: two models with the same value did the same.
        by_scenario: average precision by scenario, by threshold: the union's, from that scenario's frames alone.
        scenes: the frames that were kept for pictures, by index.
    """

    result: ApResult
    ego_visible: ApResult
    traffic: Traffic
    arrived: str = ""
    found: str = ""
    scenes: dict[int, SceneResult] = field(default_factory=dict)
    by_scenario: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_row(self, codec: str) -> dict[str, Any]:
        """The measured columns of a row of metrics.json."""
        result = self.result.to_dict()
        return {
            "ap": result["ap"],
            "ap_interval": result["ap_interval"],
            "ap_by_distance": {name: part["score"] for name, part in result["by_distance"].items()},
            "recall_by_hits": {name: part["score"] for name, part in result["by_hits"].items()},
            "ap_visible_to_ego": self.ego_visible.ap,
            "n_frames": self.result.n_frames,
            "n_ground_truth": self.result.n_ground_truth,
            "protocol": self.result.protocol.to_dict(),
            "message_bytes": self.traffic.message_bytes,
            "codec": codec,
        }


@dataclass
class _Tally:
    """What is known of the frames that one process has run, in their order.

    Attributes:
        union, visible: detections against what anybody sees, and against what the ego sees.
        sizes: packed lengths of the messages of each frame.
        arrived: SHA-256 of each frame's messages.
        found: each frame's detections as bytes.
    """

    union: ApAccumulator
    visible: ApAccumulator
    sizes: list[list[int]] = field(default_factory=list)
    arrived: list[bytes] = field(default_factory=list)
    found: list[bytes] = field(default_factory=list)

    def add(self, scene: SceneResult, seen: Boxes3D) -> None:
        """Count one frame; `seen` is what the ego itself sees."""
        self.union.add(scene.detections, scene.truth)
        self.visible.add(without_hidden(scene.detections, seen, scene.truth), seen)
        self.sizes.append(scene.message_bytes)
        self.arrived.append(scene.arrived)
        self.found.append(_as_bytes(scene.detections))


class Evaluator:
    """Evaluates rosters of one model on one split.

    It remembers what agents sent, so rows that share messages share the work.

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
    ) -> None:
        self.dataset = dataset
        self.channel = Channel(channel)
        self.protocol = protocol
        self.indices = list(range(len(dataset)) if only is None else only)[:limit]
        self.keep = set(keep)
        self.refine_poses, self.share_boxes = refine_poses, share_boxes
        self._frames: dict[tuple[int, tuple[tuple[int, str], ...]], Frame] = {}
        self._sent: dict[tuple[int, int, str, str], Message] = {}
        self._speakers: dict[str, Collaboration] = {}

    def forget(self, agent_type: str | None = None) -> None:
        """Drop remembered messages of a type (of all types if None): call it when its networks change."""
        self._sent = {
            key: value for key, value in self._sent.items() if agent_type is not None and key[2] != agent_type
        }

    def use(self, channel: ChannelConfig) -> None:
        """Take another channel; what agents said is remembered, for it lies before the channel."""
        self.channel = Channel(channel)

    def evaluate(
        self,
        model: Collaboration,
        roster: Cast,
        progress: Progress | None = None,
        speakers: Mapping[str, Collaboration] | None = None,
    ) -> Evaluation:
        """Run every frame and score it.

        Several processes take consecutive parts of the frames, and each gets the result of them all, the same to the
        last bit as that of one process (on CPUs alike); kept scenes stay with the process that ran them.

        Args:
            model: with the roster's types; messages are remembered by type, see `forget`.
            roster: who plays what.
            progress: called with (frames done, frames in all) of this process.
            speakers: types that speak with another model's networks: boxes under late fusion need no common base.
        """
        model.eval()
        self._speakers = dict(speakers or {})
        protocol = self._protocol(model)
        tally, scenes = _Tally(ApAccumulator(protocol), ApAccumulator(protocol)), {}
        mine = self.indices[processes.share(len(self.indices))]
        for done, index in enumerate(mine, start=1):
            scene = self.run(model, roster, index)
            tally.add(scene, self._truth(scene.frame, scene.ego, [scene.ego], protocol))
            if index in self.keep:
                scenes[index] = scene
            if progress:
                progress(done, len(mine))
        tallies = processes.gathered(tally)
        union = ApAccumulator.joined([one.union for one in tallies])
        visible = ApAccumulator.joined([one.visible for one in tallies])
        scenarios: dict[str, list[int]] = {}
        for row, index in enumerate(self.indices):
            scenarios.setdefault(self.dataset.name(index).rpartition("/")[0], []).append(row)
        by_scenario = {name: union.subset(rows).ap() for name, rows in scenarios.items()}
        traffic = measure_traffic([sizes for one in tallies for sizes in one.sizes])
        arrived = hashlib.sha256(b"".join(data for one in tallies for data in one.arrived)).hexdigest()
        found = hashlib.sha256(b"".join(data for one in tallies for data in one.found)).hexdigest()
        return Evaluation(union.result(), visible.result(), traffic, arrived, found, scenes, by_scenario)

    def run(self, model: Collaboration, roster: Cast, index: int) -> SceneResult:
        """One frame through the whole line, bytes included."""
        protocol = self._protocol(model)
        agent_ids = self._agent_ids(index)
        ego_id = roster.ego_of(self.dataset.name(index).rpartition("/")[0], agent_ids)
        frame = self._read(index, model, roster, ego_id)
        ego_index = agent_ids.index(ego_id)
        ego = self._send(model, roster, index, ego_id, ego_id)
        # features need a common base, boxes and points do not
        space = ego.feature_space if model.fusion.level == "features" else None
        heard, messages, arrived = [], [], hashlib.sha256()
        taking_part = self._roles(roster, index, ego_id)
        others = [j for j, agent_id in enumerate(agent_ids) if j != ego_index and agent_id in taking_part]
        others = [] if roster.drop else others
        range_m = self._range_m(protocol)
        for near in self.channel.hears(frame.agents[ego_index].pose, [frame.agents[j].pose for j in others], range_m):
            sender = others[near]
            data = self._transmit(model, roster, index, sender, frame, ego_id)
            if data is not None:
                heard.append(sender)
                messages.append(unpack(data, space))
                arrived.update(data)
        messages, heard = self._trusted(messages, heard)
        believed = model.refined(ego, messages) if self.refine_poses else messages
        truth = self._truth(frame, ego_index, list(range(len(agent_ids))), protocol)
        found = model.detect(ego, believed, self.share_boxes)
        whole = protocol.range_rule == "all_corners"
        found = found[in_range(found.boxes.astype(np.float64), protocol.limits, all_corners=whole)]
        return SceneResult(frame, ego, heard, messages, found, truth, arrived.digest(), ego_index)

    def _protocol(self, model: Collaboration) -> Protocol:
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

    def _agent_ids(self, index: int) -> tuple[int, ...]:
        """The agents of a frame that the protocol lets in."""
        return self.dataset.agent_ids(index)[: self.protocol.max_agents]

    def _roles(self, roster: Cast, index: int, ego_id: int) -> dict[int, str]:
        return roster.roles(self._agent_ids(index), ego_id, self.dataset.name(index).rpartition("/")[0])

    def _trusted(self, messages: list[Message], heard: list[int]) -> tuple[list[Message], list[int]]:
        """Messages whose reported position is good enough for this ego, and who sent them."""
        limit = self.channel.config.ignore_above_m
        kept = [i for i, message in enumerate(messages) if limit is None or message.sigma_m < limit]
        return [messages[i] for i in kept], [heard[i] for i in kept]

    def _transmit(
        self, model: Collaboration, roster: Cast, index: int, sender: int, frame: Frame, ego_id: int
    ) -> bytes | None:
        """The bytes that arrive, with the pose as reported; None if they are lost, or the sender was not there yet."""
        agent_id, earlier = frame.agents[sender].agent_id, self._earlier(index)
        if not self.channel.delivers(frame.name, agent_id) or agent_id not in self._roles(roster, earlier, ego_id):
            return None
        message = self._send(model, roster, earlier, agent_id, ego_id)
        pose, sigma_m, sigma_rad = self.channel.reported_pose(frame.name, agent_id, message.pose)
        return pack(replace(message, pose=pose, sigma_m=sigma_m, sigma_rad=sigma_rad))

    def _send(self, model: Collaboration, roster: Cast, index: int, agent_id: int, ego_id: int) -> Message:
        """What an agent said in a frame, in the role it has for this ego."""
        agent_type = self._roles(roster, index, ego_id)[agent_id]
        key = (index, agent_id, agent_type, model.fusion.level)
        if key not in self._sent:
            frame = self._read(index, model, roster, ego_id)
            agent = next(agent for agent in frame.agents if agent.agent_id == agent_id)
            speaker = self._speakers.get(agent_type, model)
            message = speaker.encode(agent, agent_type, self.dataset.capture_us(index, agent_id))
            boxes_too = self.refine_poses or self.share_boxes
            self._sent[key] = speaker.with_boxes(message) if boxes_too else message
        return self._sent[key]

    def _read(self, index: int, model: Collaboration, roster: Cast, ego_id: int) -> Frame:
        """A frame with the sensors that each agent needs in its role for this ego."""
        roles = self._roles(roster, index, ego_id)
        key = (index, tuple(sorted(roles.items())))
        if key not in self._frames:
            wanted = {i: self._speakers.get(name, model).agent(name).sensors for i, name in roles.items()}
            self._frames = {} if len(self._frames) > 4 else self._frames
            self._frames[key] = self.dataset.read(index, wanted)
        return self._frames[key]

    def _earlier(self, index: int) -> int:
        """Index of the frame that was captured `latency` earlier."""
        frames = self.channel.config.latency_frames
        if frames == 0:
            return index
        earlier = self.dataset.earlier(index, frames)
        if earlier is None:
            raise HeatError(
                f"latency_ms={self.channel.config.latency_ms} needs a frame {100 * frames} ms before "
                f"{self.dataset.name(index)}, which the dataset does not have.\n"
                "  Way out: build the world with longer clips of consecutive frames (clip_frames=, stride=1)"
            )
        return earlier


def without_hidden(detections: Boxes3D, seen: Boxes3D, truth: Boxes3D) -> Boxes3D:
    """Detections without those of objects that are there but that the ego itself does not see.

    Finding such an object is no false alarm; it just does not count here. A detection is of the object it overlaps
    most, if by 0.3 or more.

    Args:
        detections: (D) boxes.
        seen: what the ego sees.
        truth: what anybody sees.
    """
    known = set() if seen.ids is None else set(seen.ids.tolist())
    ids = [] if truth.ids is None else truth.ids.tolist()
    hidden = truth[np.array([i not in known for i in ids], dtype=bool)]
    if len(detections) == 0 or len(hidden) == 0:
        return detections
    found = torch.from_numpy(detections.boxes)
    overlap = rotated_iou_bev(found, torch.from_numpy(hidden.boxes)).amax(dim=1)
    if len(seen):
        overlap[rotated_iou_bev(found, torch.from_numpy(seen.boxes)).amax(dim=1) >= overlap] = 0
    return detections[(overlap < 0.3).numpy()]


class EvalConfig(Config):
    """One evaluation from packs.

    Attributes:
        data: the dataset's folder.
        dataset: the dataset part that reads it, where the folder is not recognised; dataset.settings.KEY=VALUE are the
            part's own settings.
        hetero_root: where the second download of OPV2V-H lies, if not below `data`.
        split: which split.
        packs: base, agent and adapter packs, any order.
        ego: the ego's type.
        senders: the senders' type; several types take turns.
        drop: true lets the ego hear nobody.
        assignment: a file that assigns a type to each agent of each scenario; then `plays` says which of our types each
            of its types plays, `ego` is the type the ego must be of, and `senders` is unused.
        plays: the assignment's types to ours, such as plays.m1=lidar64; agents of other types, or of a type that plays
            null, take no part.
        agents: so many agents take part, the ego first; several numbers give one row each (in-order evaluation).
        channel: the link.
        refine_poses: senders send their boxes along, and the ego corrects the reported poses by them.
        share_boxes: senders send their boxes along, and the ego adds them to what the fused features show.
        fusion: exchange boxes ("late") or points ("early") instead of features, or fuse them by another part without
            parameters, such as "maximum".
        share: senders send only this share of their cells, those they are most confident about; several numbers give a
            row each.
        codec: how features travel; by default as the base says.
        protocol: of average precision.
        half_extent_m, half_extent_y_m: evaluate on a grid that reaches so far ahead and aside; by default as far as in
            training.
        frames: evaluate only the first frames.
        device: "auto" takes CUDA if there is one.
        out: folder for metrics.json.
    """

    data: Path
    dataset: str | DatasetConfig | None = None
    hetero_root: Path | None = None
    split: str = "test"
    packs: tuple[PackPath, ...]
    ego: str = "lidar64"
    senders: str | tuple[str, ...] = "lidar64"
    drop: bool = False
    assignment: Path | None = None
    plays: dict[str, str | None] = pydantic.Field(default_factory=dict)
    agents: tuple[pydantic.PositiveInt, ...] = ()
    channel: ChannelConfig = ChannelConfig()
    refine_poses: bool = False
    share_boxes: bool = False
    fusion: str | None = None
    share: float | tuple[float, ...] = ()
    codec: str | None = None
    protocol: str = HEATV2X.name
    half_extent_m: float | None = pydantic.Field(None, gt=0)
    half_extent_y_m: float | None = pydantic.Field(None, gt=0)
    frames: int | None = None
    device: Device = "auto"
    out: Path = Path("runs/eval")


def run_eval(config: EvalConfig, report: Callable[[str, int, int], None] | None = None) -> list[dict[str, Any]]:
    """Evaluate packs on a split and write metrics.json; gives its rows."""
    model = _model(config)
    rosters = _rosters(config)
    for name in next(iter(rosters.values())).types:
        model.agent(name)  # an unknown type is told before the data are read
    config = config.model_copy(update={"dataset": named_dataset(config.dataset, config.data)})
    dataset = open_part(config.dataset, config.data, config.split, config.hetero_root)
    protocol = find_protocol(config.protocol)
    evaluator = Evaluator(
        dataset,
        config.channel,
        protocol,
        config.frames,
        refine_poses=config.refine_poses,
        share_boxes=config.share_boxes,
    )
    tell = None if report is None else lambda done, total: report("evaluating", done, total)
    rows = []
    shares = config.share if isinstance(config.share, tuple) else (config.share,)
    for (who, roster), share in itertools.product(rosters.items(), shares or (None,)):
        name = who if share is None else f"{who}/{100 * share:g}%"
        if share is not None:
            model.fusion.sends_at_most(share)
            evaluator.forget()
        evaluation = evaluator.evaluate(model, roster, tell)
        row = {"name": name, "newcomer": None, "ego_type": config.ego, "seed": config.channel.seed}
        row |= {**evaluation.to_row(model.payload), "trained_parameters": None, "train_seconds": None}
        rows.append({**row, "ap_by_scenario": evaluation.by_scenario})
    content = {"rows": rows, "settings": config.model_dump(mode="json"), "data_fingerprint": dataset.fingerprint}
    if processes.index() == 0:
        write_json(config.out / "metrics.json", content)
    return rows


def _model(config: EvalConfig) -> Collaboration:
    """The model of the packs, on the grid and with the exchange that are asked for."""
    model = Collaboration.from_packs(*config.packs)
    if config.codec is not None:
        model.use_codec(config.codec)
    if config.half_extent_m is not None or config.half_extent_y_m is not None:
        own = model.grid
        model = reaching(model, config.half_extent_m or own.x_max, config.half_extent_y_m or own.y_max)
    if config.fusion is not None:
        model = exchanging(model, config.fusion)
    return model.to(find_device(config.device))


def _as_bytes(boxes: Boxes3D) -> bytes:
    """How many there are, where they are, and how sure they are."""
    assert boxes.scores is not None
    return len(boxes).to_bytes(4, "little") + boxes.boxes.tobytes() + boxes.scores.tobytes()


def open_part(dataset: str | DatasetConfig | None, data: Path, split: str, hetero_root: Path | None) -> Dataset:
    """A split of the dataset that a command names, read by the part it names or else by the one that recognises it."""
    named = named_dataset(dataset, data)
    part = DatasetConfig(part=named) if isinstance(named, str) else named
    assert part.part is not None
    root = {} if hetero_root is None else {"hetero_root": hetero_root}
    return open_dataset(part.part, data, split, {**part.settings, **root})


def named_dataset(dataset: str | DatasetConfig | None, data: Path) -> str | DatasetConfig:
    """The setting `dataset` with the name of a part in it: as it is given, or else of the part that recognises `data`.

    Raises:
        DataError: no such folder, or nobody recognises it.
        ConfigError: several parts do; says how to choose.
    """
    if isinstance(dataset, str) or (dataset is not None and dataset.part is not None):
        return dataset
    reader = recognise(data, dataset)
    return DatasetConfig(part=reader.part, settings=dict(reader.settings)) if reader.settings else reader.part


def _rosters(config: EvalConfig) -> dict[str, Cast]:
    """Who plays what, by the name of the row.

    Raises:
        ConfigError: settings of an assignment without one.
    """
    if config.assignment is None:
        if config.plays or config.agents:
            raise ConfigError("plays and agents need an assignment: write assignment=FILE")
        roster = Roster(config.ego, config.senders, config.drop)
        name = "no_fusion" if config.drop else f"{config.ego}<-{'+'.join(roster.sender_types)}"
        return {name: roster}
    assigned = Assignment.read(config.assignment)
    plays = {name: ours for name, ours in config.plays.items() if ours is not None}
    counts = config.agents or (None,)
    return {
        "no_fusion" if config.drop else "assigned" if count is None else f"assigned/{count}": AssignedRoster(
            assigned, plays, (config.ego,), count, config.drop
        )
        for count in counts
    }
