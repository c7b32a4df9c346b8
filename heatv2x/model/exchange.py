"""Ways to exchange what agents perceive: features, boxes (late fusion) or points (early fusion).

A way to exchange decides what a message holds and what an ego does with those that it hears. It needs a vehicle for
everything that networks do. Features of different agents meet in a part of kind `fusion`; boxes and points need none.

Late fusion is common practice. Early fusion: Cooper (Chen et al. 2019, arXiv 1905.05265); the points are pooled before
the ego's own encoder, so that no common base is needed, but every agent must have one LiDAR, and a message takes
hundreds of kilobytes.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from heatv2x.agents.base import sweep
from heatv2x.errors import ConfigError, MessageError
from heatv2x.geometry.boxes import nms, rotated_iou_bev, transform_boxes
from heatv2x.geometry.grid import BevGrid
from heatv2x.link.budget import most_relevant, within
from heatv2x.link.message import CODES, MAX_BOXES, Message
from heatv2x.link.points import pooled
from heatv2x.link.suspicion import LOSSES, stands_out, survives
from heatv2x.model.heads.base import Detections
from heatv2x.model.links import links_of
from heatv2x.model.networks import Networks
from heatv2x.structures import LIDARS, AgentFrame, Boxes3D

_log = logging.getLogger(__name__)
T = TypeVar("T")
_BOX_BELIEF, _BOX_SIGMA_M = 0.8, 0.4
"""What a received box counts beside a fused one, halved at this position deviation; chosen on validation towns."""
_SAME, _AGREE = 0.15, 0.3  # overlaps: above the first two boxes are one object, above the second they agree on it
_BELIEVED, _SURE = 0.3, 0.7
"""Scores of the ego's boxes: one that is believed gives way to one that agrees with it, one that is sure to none.
Chosen on a generated validation split: late fusion loses 0.1 AP50 on exact poses and gains 1.4 at 0.4 m."""
_CELLS_PER_CODE = 2  # codes are not compressed to half their size
_OWN_BODY_M = 2.0  # a received box whose centre lies nearer than this is the ego itself


class Exchange(ABC):
    """One way to exchange.

    Attributes:
        name: "features", "boxes" or "points".
        needs_common_base: only agents with the same base can use what is sent.
        senders_encode: senders need their encoders.
    """

    name: ClassVar[str]
    needs_common_base: ClassVar[bool] = False
    senders_encode: ClassVar[bool] = True

    @abstractmethod
    def said(self, networks: Networks, about: Message, frame: AgentFrame) -> Message:
        """What an agent sends.

        Args:
            networks: the agent's.
            about: who says it, when and where; it holds nothing yet.
            frame: what the agent senses.
        """

    @abstractmethod
    def detect(
        self, networks: Networks, own: Message, messages: Sequence[Message], share_boxes: bool, guard: bool
    ) -> Boxes3D:
        """Boxes in the ego's frame; the arguments are those of `Vehicle.detect`."""

    @abstractmethod
    def sees_alone(self, networks: Networks, message: Message) -> Boxes3D:
        """What the sender of a message detects by itself, in its own frame."""


class Features(Exchange):
    """Features in the base's space, fused by the base's part of kind `fusion`."""

    name = "features"
    needs_common_base = True

    def said(self, networks: Networks, about: Message, frame: AgentFrame) -> Message:
        boxes = None
        if (least := networks.sends_boxes_above) is None:
            feature = networks.look(about.agent_type, frame)
        else:
            feature, found = networks.look_and_detect(about.agent_type, frame)
            boxes = worthwhile(found, least)
        selected, budget = networks.select(feature), networks.budget_bytes
        cells = None if selected is None else selected[0]
        said = replace(about, feature=feature[0], boxes=boxes, codec=networks.codec)
        if budget is None:
            return replace(said, cells=cells, codes=networks.codes_of(feature, cells))
        relevance = networks.relevance(feature)[0]
        if networks.codec == CODES and networks.codebook is not None:  # what cannot fit need not be encoded
            cells = most_relevant(relevance, cells, _CELLS_PER_CODE * budget // networks.codebook.config.stages)
        return within(replace(said, cells=cells, codes=networks.codes_of(feature, cells)), relevance, budget)

    def detect(
        self, networks: Networks, own: Message, messages: Sequence[Message], share_boxes: bool, guard: bool
    ) -> Boxes3D:
        mine = networks.feature_of(own)
        heard = [networks.feature_of(m) if m.cells is None else networks.feature_of(m) * m.cells for m in messages]
        reads = networks.sends_boxes_above is not None and any(message.boxes is not None for message in messages)
        if reads and own.boxes is None:
            own = replace(own, boxes=self.sees_alone(networks, own))

        def together(spoken: Sequence[tuple[Message, Tensor]]) -> Boxes3D:
            others = [message for message, _ in spoken]
            features = torch.stack([mine, *(feature for _, feature in spoken)])
            types = [message.agent_type for message in (own, *others)]
            boxes = [message.boxes for message in (own, *others)] if reads else []
            return networks.detect_fused(features, types, links_of(own, others, networks.grid), boxes)

        spoken = list(zip(messages, heard, strict=True))
        if guard and (reads or any(stands_out(feature, mine) for feature in heard)):
            spoken, found = _harmless(spoken, together, self.name, own.boxes if reads else None)
        else:
            found = together(spoken)
        if not share_boxes:
            return found
        received = []
        for message, _ in spoken:
            if message.boxes is not None and message.boxes.scores is not None:
                theirs = _in_egos_frame(own, message, networks.grid)
                belief = _BOX_BELIEF / (1 + (message.sigma_m / _BOX_SIGMA_M) ** 2)
                received.append(Detections(theirs.boxes, theirs.scores * belief))
        return _merged(Detections.of(found), received, guard)

    def sees_alone(self, networks: Networks, message: Message) -> Boxes3D:
        return networks.detect_alone(networks.feature_of(message)[None], message.agent_type)


class Boxes(Exchange):
    """Late fusion: every agent detects alone and sends boxes; the ego merges them and suppresses duplicates."""

    name = "boxes"

    def said(self, networks: Networks, about: Message, frame: AgentFrame) -> Message:
        feature = networks.look(about.agent_type, frame)
        return replace(about, boxes=networks.detect_alone(feature, about.agent_type), codec=self.name)

    def detect(
        self, networks: Networks, own: Message, messages: Sequence[Message], share_boxes: bool, guard: bool
    ) -> Boxes3D:
        for message in (own, *messages):
            if message.boxes is None or message.boxes.scores is None:
                raise MessageError(f"late fusion needs boxes with scores, but agent {message.sender} sent none")
        assert own.boxes is not None
        mine = Detections.of(own.boxes)

        def together(some: Sequence[Message]) -> Boxes3D:
            return _merged(mine, [_in_egos_frame(own, message, networks.grid) for message in some], guard)

        return _harmless(messages, together, self.name)[1] if guard else together(messages)

    def sees_alone(self, networks: Networks, message: Message) -> Boxes3D:
        assert message.boxes is not None, "it was sent with them"
        return message.boxes


class Points(Exchange):
    """Early fusion: every agent sends a LiDAR sweep; the ego detects once from all points."""

    name = "points"
    senders_encode = False

    def said(self, networks: Networks, about: Message, frame: AgentFrame) -> Message:
        return replace(about, points=sweep(frame, only_lidar(networks, about.agent_type)), codec=self.name)

    def detect(
        self, networks: Networks, own: Message, messages: Sequence[Message], share_boxes: bool, guard: bool
    ) -> Boxes3D:
        def together(some: Sequence[Message]) -> Boxes3D:
            frame = _pooled_frame(own, some, only_lidar(networks, own.agent_type))
            return networks.detect_alone(networks.look(own.agent_type, frame), own.agent_type)

        return _harmless(messages, together, self.name)[1] if guard else together(messages)

    def sees_alone(self, networks: Networks, message: Message) -> Boxes3D:
        frame = _pooled_frame(message, [], only_lidar(networks, message.agent_type))
        return networks.detect_alone(networks.look(message.agent_type, frame), message.agent_type)


EXCHANGES: dict[str, Exchange] = {each.name: each for each in (Features(), Boxes(), Points())}
"""By name, as `ModelConfig.exchange` says it."""


def only_lidar(networks: Networks, agent_type: str) -> str:
    """The one LiDAR of a type that takes part in early fusion.

    Raises:
        ConfigError: it has other sensors.
    """
    sensors = networks.agent(agent_type).sensors
    if len(sensors) != 1 or sensors[0] not in LIDARS:
        raise ConfigError(
            f"early fusion pools the points of agents with one LiDAR; '{agent_type}' has {', '.join(sensors)}"
        )
    return sensors[0]


def _pooled_frame(ego: Message, messages: Sequence[Message], lidar: str) -> AgentFrame:
    """The ego's sweep with all agents' points added; senders in the order of their ids."""
    clouds = []
    for message in (ego, *sorted(messages, key=lambda m: (m.sender, m.captured_us))):
        if message.points is None:
            raise MessageError(f"early fusion needs points, but agent {message.sender} sent none")
        clouds.append((message.pose.relative_to(ego.pose), message.points))
    return AgentFrame(ego.sender, "", ego.pose, {lidar: pooled(clouds[0][1], clouds[1:])})


def worthwhile(found: Boxes3D, min_score: float) -> Boxes3D:
    """The boxes that are worth sending behind a feature or points: the best ones above a score."""
    assert found.scores is not None
    return found[found.scores >= min_score][:MAX_BOXES]


def _harmless(
    spoken: Sequence[T], detect: Callable[[Sequence[T]], Boxes3D], exchanged: str, alone: Boxes3D | None = None
) -> tuple[list[T], Boxes3D]:
    """What was sent, minus whatever would cost the ego its own detections; and what the ego detects with that.

    Args:
        alone: what the ego detects by itself, if that is known.
    """
    alone, loss = detect([]) if alone is None else alone, LOSSES[exchanged]
    found = detect(spoken)
    if not spoken or survives(alone, found, loss):
        return list(spoken), found
    kept = [one for one in spoken if survives(alone, detect([one]), loss)]
    if len(kept) < len(spoken):
        _log.warning(
            "%d of %d messages ignored: they hide what the ego detects by itself", len(spoken) - len(kept), len(spoken)
        )
    return kept, detect(kept)


def _in_egos_frame(ego: Message, message: Message, grid: BevGrid) -> Detections:
    """A message's boxes in the ego's frame that lie on its grid and are not the ego itself."""
    assert message.boxes is not None
    theirs = Detections.of(message.boxes)
    boxes = transform_boxes(theirs.boxes, torch.from_numpy(message.pose.relative_to(ego.pose)))
    x, y = boxes[:, 0], boxes[:, 1]
    keep = (x >= grid.x_min) & (x <= grid.x_max) & (y >= grid.y_min) & (y <= grid.y_max)
    if ego.sender >= 0:  # a roadside unit has no body: cars drive below it
        keep &= torch.hypot(x, y) > _OWN_BODY_M
    return Detections(boxes[keep], theirs.scores[keep])


def _merged(own: Detections, received: Sequence[Detections], guard: bool) -> Boxes3D:
    """The ego's own and received boxes, keeping the stronger of any two that overlap.

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
    return Detections(boxes[best], scores[best]).to_boxes()


def _agreeing(own: Detections, theirs: Detections) -> Detections:
    """Received boxes, minus those that touch one of the ego's boxes without agreeing with it."""
    believed = own.boxes[own.scores >= _BELIEVED]
    overlap = rotated_iou_bev(believed, theirs.boxes)
    fine = ~((overlap > _SAME) & (overlap < _AGREE)).any(dim=0)
    return Detections(theirs.boxes[fine], theirs.scores[fine])
