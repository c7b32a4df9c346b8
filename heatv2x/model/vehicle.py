"""What runs in a car: sensors and received messages in, boxes out.

    message = vehicle.encode(frame)              # goes over the link
    boxes = vehicle.detect(frame, received)      # in the ego's frame

`Vehicle` is the contract that a model in torch (`collaboration.Collaboration`), a faster copy of it (`deploy.Deployed`)
and its ONNX files (`interop.onnx.collaboration.OnnxCollaboration`) fulfil: they bring networks, and get this line.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from heatv2x.errors import ConfigError
from heatv2x.link.message import Message, check_contents, check_header
from heatv2x.link.pose_refinement import RefinementConfig, refine
from heatv2x.link.suspicion import concerns
from heatv2x.model.exchange import Exchange, worthwhile
from heatv2x.model.networks import Networks
from heatv2x.structures import AgentFrame, Boxes3D, Pose

_log = logging.getLogger(__name__)


class Vehicle(Networks):
    """Encodes what one agent senses, and detects with what it hears.

    Attributes:
        exchange: what messages carry.
    """

    exchange: Exchange

    @torch.no_grad()
    def encode(self, frame: AgentFrame, agent_type: str | None = None, captured_us: int = 0) -> Message:
        """What one agent sends, in its own frame.

        Args:
            frame: the agent's sensors, in its own frame.
            agent_type: its type; None takes the only type whose sensors the frame holds.
            captured_us: capture time, microseconds.

        Raises:
            ConfigError: the type is unknown, or None and not clear.
            PackError: the type's encoder or sender adapters were never loaded.
        """
        name = agent_type or self._type_of(frame)
        about = Message(frame.agent_id, name, captured_us, frame.pose, 0.0, 0.0, self.feature_space)
        return self.exchange.said(self, about, frame)

    @torch.no_grad()
    def detect(
        self,
        ego: AgentFrame | Message,
        messages: Sequence[Message] = (),
        share_boxes: bool = False,
        guard: bool = True,
    ) -> Boxes3D:
        """Boxes in the ego's frame from its own sensors and what it received.

        Messages of another place or time are left out.

        Args:
            ego: its frame, or its own message as `encode` gives it (never sent, so not quantised).
            messages: received ones, any order.
            share_boxes: add the boxes that ride on messages (`with_boxes`) to what the fused features show. A sender
                far from the ego sees its own surroundings more sharply than the fused map does.
            guard: leave out messages that cost the ego what it sees itself, and let no foreign box remove one that the
                ego is sure of (`link.suspicion`). For a link on which anybody may speak; among agents that are known
                to be honest, as in an evaluation, it takes time and changes late fusion a little.

        Raises:
            MessageError: a message belongs to another base, its feature does not fit the grid, or it says what cannot
                be (`link.limits`).
            PackError: the packs of a part that is needed here were never loaded.
        """
        own = ego if isinstance(ego, Message) else self.encode(ego)
        return self.exchange.detect(self, own, self._heeded(own, messages), share_boxes, guard)

    @torch.no_grad()
    def with_boxes(self, message: Message, config: RefinementConfig | None = None) -> Message:
        """The message plus the boxes its sender detects alone, for `refined`; unchanged if it has boxes already.

        Args:
            message: as `encode` gives it.
            config: `min_score` says which boxes are worth sending; at most the best `message.MAX_BOXES` are.
        """
        if message.boxes is not None:
            return message
        found = self.exchange.sees_alone(self, message)
        return replace(message, boxes=worthwhile(found, (config or RefinementConfig()).min_score))

    def refined(
        self, ego: Message, messages: Sequence[Message], config: RefinementConfig | None = None
    ) -> list[Message]:
        """Copies of the messages with the senders' poses and deviations as corrected by comparing boxes with the ego's.

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

    @property
    def payload(self) -> str:
        """How the content of a message travels: the codec of features, or "boxes", or "points"."""
        return self.codec if self.exchange.needs_common_base else self.exchange.name

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
            _log.info(
                "%d of %d messages ignored: too far away, too old, or from the future",
                len(messages) - len(heeded),
                len(messages),
            )
        return heeded

    def _type_of(self, frame: AgentFrame) -> str:
        """The only type whose sensors a frame holds."""
        have = {*frame.lidars, *(("camera",) if frame.cameras else ())}
        fitting = [name for name in self.encoded_types() if set(self.agent(name).sensors) <= have]
        if len(fitting) != 1:
            found = ", ".join(fitting) or "none"
            raise ConfigError(
                f"agent {frame.agent_id}: expected one type that fits its sensors, found {found}; "
                "pass agent_type to encode()"
            )
        return fitting[0]


def _corrected(ego: Message, own: Boxes3D, message: Message, config: RefinementConfig | None) -> Message:
    """A copy of a message with the pose that best aligns its boxes with the ego's own."""
    assert message.boxes is not None
    reported = message.pose.relative_to(ego.pose)
    known = refine(own, message.boxes, reported, message.sigma_m, message.sigma_rad, config)
    if known.matches == 0:
        return message
    pose = Pose(ego.pose.matrix @ known.T_ego_sender)
    return replace(message, pose=pose, sigma_m=known.sigma_m, sigma_rad=known.sigma_rad)
