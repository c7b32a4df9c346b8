"""What an evaluation gives back: one scene, one row, and what is added up on the way to it."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from heatv2x.errors import HeatError
from heatv2x.evaluation.average_precision import ApAccumulator, ApResult
from heatv2x.evaluation.communication import LinkLoad, measure_link_load
from heatv2x.evaluation.coverage import Coverage
from heatv2x.evaluation.detections import FoundFrame
from heatv2x.evaluation.protocols import Protocol
from heatv2x.geometry.boxes import rotated_iou_bev
from heatv2x.link.message import Message
from heatv2x.structures import Boxes3D, Frame


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

    def found(self, index: int) -> FoundFrame:
        """The detections, with all that is needed to use them elsewhere; `index` is the frame's in its split."""
        ego = self.frame.agents[self.ego]
        heard = tuple((message.sender, message.agent_type, message.size_bytes) for message in self.messages)
        return FoundFrame(self.frame.name, index, ego.agent_id, ego.pose.matrix, heard, self.detections)

    @property
    def ages_ms(self) -> list[float]:
        """How long before the ego's own sensors those of each message looked, milliseconds."""
        return [(self.ego_message.captured_us - message.captured_us) / 1000 for message in self.messages]


@dataclass
class Evaluation:
    """The result of one row.

    Attributes:
        result: against the union of what the agents in range see.
        ego_visible: against what the ego itself sees; detections of other objects that are there do not count.
        traffic: measured message sizes.
        arrived: hex SHA-256 over every byte that the egos received: two channels with the same value did the same.
        found: hex SHA-256 over every box and score that the egos found: two models with the same value did the same.
        by_scenario: average precision by scenario, by threshold: the union's, from that scenario's frames alone; None
            where it has no ground truth.
        scenes: the frames that were kept for pictures, by index.
        coverage: which frames it stands on.
        message_age_ms: mean age of the messages when they were used; None without any.
        frames: the detections of every frame, in order.
    """

    result: ApResult
    ego_visible: ApResult
    traffic: LinkLoad
    arrived: str = ""
    found: str = ""
    scenes: dict[int, SceneResult] = field(default_factory=dict)
    by_scenario: dict[str, dict[str, float | None]] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    message_age_ms: float | None = None
    frames: list[FoundFrame] = field(default_factory=list)

    def to_row(self, codec: str) -> dict[str, Any]:
        """The measured columns of a row of metrics.json."""
        result = self.result.to_dict()
        return {
            "ap": result["ap"],
            "ap_interval": result["ap_interval"],
            "ap_interval_over": result["ap_interval_over"],
            "ap_by_distance": {name: part["score"] for name, part in result["by_distance"].items()},
            "recall_by_hits": {name: part["score"] for name, part in result["by_hits"].items()},
            "ap_visible_to_ego": self.ego_visible.ap,
            "n_scenarios": self.result.n_scenarios,
            "n_frames": self.result.n_frames,
            "n_ground_truth": self.result.n_ground_truth,
            **self.coverage.to_dict(),
            "protocol": self.result.protocol.to_dict(),
            "message_bytes": self.traffic.message_bytes,
            "message_age_ms": self.message_age_ms,
            "codec": codec,
        }


@dataclass
class Tally:
    """What is known of the frames that one process has run, in their order.

    Attributes:
        union, visible: detections against what anybody sees, and against what the ego sees.
        sizes: packed lengths of the messages of each frame.
        ages_ms: age of each message.
        arrived: SHA-256 of each frame's messages.
        found: each frame's detections as bytes.
        frames: each frame's detections.
    """

    union: ApAccumulator
    visible: ApAccumulator
    sizes: list[list[int]] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    arrived: list[bytes] = field(default_factory=list)
    found: list[bytes] = field(default_factory=list)
    frames: list[FoundFrame] = field(default_factory=list)

    @classmethod
    def under(cls, protocol: Protocol) -> Tally:
        """An empty one."""
        return cls(ApAccumulator(protocol), ApAccumulator(protocol))

    def add(self, index: int, scene: SceneResult, seen: Boxes3D) -> None:
        """Count one frame; `seen` is what the ego itself sees."""
        scenario = scene.frame.scenario
        self.union.add(scene.detections, scene.truth, scenario)
        self.visible.add(without_hidden(scene.detections, seen, scene.truth), seen, scenario)
        self.sizes.append(scene.message_bytes)
        self.ages_ms += scene.ages_ms
        self.arrived.append(scene.arrived)
        self.found.append(_as_bytes(scene.detections))
        self.frames.append(scene.found(index))


def summed_up(
    tallies: Sequence[Tally], scenarios: Sequence[str], coverage: Coverage, scenes: dict[int, SceneResult]
) -> Evaluation:
    """One row from what several processes counted.

    Args:
        tallies: of the processes, in the order of their frames.
        scenarios: of every frame.
        coverage: which frames these are.
        scenes: those that were kept.

    Raises:
        HeatError: there is no ground truth in any of the frames, so that no average precision means anything.
    """
    union = ApAccumulator.joined([one.union for one in tallies])
    visible = ApAccumulator.joined([one.visible for one in tallies])
    result = union.result()
    if result.n_ground_truth == 0:
        raise HeatError(
            f"none of the {result.n_frames} frames has a labelled object in the evaluation range, so there is no "
            "average precision.\n  Way out: set a wider range (protocol=, half_extent_m=, channel.range_m=), or "
            "choose frames with labelled objects"
        )
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(scenarios):
        rows.setdefault(name, []).append(row)
    ages = [age for one in tallies for age in one.ages_ms]
    return Evaluation(
        result,
        visible.result(),
        measure_link_load([sizes for one in tallies for sizes in one.sizes]),
        hashlib.sha256(b"".join(data for one in tallies for data in one.arrived)).hexdigest(),
        hashlib.sha256(b"".join(data for one in tallies for data in one.found)).hexdigest(),
        scenes,
        {name: union.subset(part).ap() for name, part in rows.items()},
        coverage,
        statistics.fmean(ages) if ages else None,
        [frame for one in tallies for frame in one.frames],
    )


def without_hidden(detections: Boxes3D, seen: Boxes3D, truth: Boxes3D) -> Boxes3D:
    """Detections, minus those of real objects that the ego itself does not see.

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


def _as_bytes(boxes: Boxes3D) -> bytes:
    """How many there are, where they are, and how sure they are."""
    assert boxes.scores is not None
    return len(boxes).to_bytes(4, "little") + boxes.boxes.tobytes() + boxes.scores.tobytes()
