"""What the networks of a vehicle do: look, and detect alone or from fused features.

Shapes: C channels, Y X shared grid, K senders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from heatv2x.agents.base import Agent
from heatv2x.core.config import nearest
from heatv2x.errors import MessageError
from heatv2x.geometry.grid import BevGrid
from heatv2x.link.message import CODES, Message
from heatv2x.model.codebook import Codebook
from heatv2x.model.links import Links
from heatv2x.structures import AgentFrame, Boxes3D

ENCODES, HEARS = ("encoder", "sender"), ("receiver",)
"""The parts of a type that are needed to encode as one, and to be one that is heard or that hears (`require`)."""


class Networks(ABC):
    """Everything a vehicle needs networks for, wherever they run.

    Attributes:
        grid: shared by all agents.
        codebook: of the base; None without.
    """

    grid: BevGrid

    codebook: Codebook | None

    @property
    @abstractmethod
    def channels(self) -> int:
        """C."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they compute."""

    @property
    @abstractmethod
    def budget_bytes(self) -> int | None:
        """How long a message with a feature may be; None for any length."""

    @property
    @abstractmethod
    def feature_space(self) -> bytes:
        """16 bytes that name the base; features of another one mean nothing here."""

    @property
    @abstractmethod
    def sends_boxes_above(self) -> float | None:
        """Least score of an agent's own boxes that ride on its features; None sends none: nobody would read them."""

    @property
    @abstractmethod
    def codec(self) -> str:
        """Name of the codec that features travel with."""

    @abstractmethod
    def known_types(self) -> list[str]:
        """Types whose messages can be fused."""

    @abstractmethod
    def encoded_types(self) -> Iterable[str]:
        """Types that have an encoder here."""

    @abstractmethod
    def agent(self, name: str) -> Agent:
        """The encoder of a type.

        Raises:
            ConfigError: there is no such type.
        """

    @abstractmethod
    def require(self, agent_types: Iterable[str], parts: Collection[str]) -> None:
        """Check that the weights of some types were loaded.

        Args:
            agent_types: the types that are going to encode or to be heard.
            parts: what they need: `ENCODES` or `HEARS`.

        Raises:
            PackError: some were not; names every such type and the pack that is missing.
        """

    @abstractmethod
    def voice(self, agent_type: str) -> str:
        """A digest of everything that decides what a type sends: the same digest means the same messages.

        Networks that were trained in between, or those of another model, have another one.
        """

    @abstractmethod
    def look(self, agent_type: str, frame: AgentFrame) -> Tensor:
        """(1, C, Y, X) shared feature of one agent.

        Raises:
            PackError: the type's encoder or sender adapters were never loaded.
        """

    def look_and_detect(self, agent_type: str, frame: AgentFrame) -> tuple[Tensor, Boxes3D]:
        """The shared feature of one agent as `look` gives it, and what it detects alone, by its own detector if any.

        Raises:
            PackError: the type's encoder or sender adapters were never loaded.
        """
        feature = self.look(agent_type, frame)
        return feature, self.detect_alone(feature, agent_type)

    @abstractmethod
    def select(self, feature: Tensor) -> Tensor | None:
        """(1, Y, X) bool cells that are sent of a (1, C, Y, X) feature; None sends all."""

    @abstractmethod
    def relevance(self, feature: Tensor) -> Tensor:
        """(1, Y, X) which cells of a (1, C, Y, X) feature are sent first where not all can be: the greatest."""

    def codes_of(self, feature: Tensor, cells: Tensor | None) -> Tensor | None:
        """(S, Y, X) codes that a (1, C, Y, X) feature travels as; None if its values do.

        Args:
            cells: (Y, X) bool, those that may be sent; None for all.
        """
        if self.codec != CODES:
            return None
        assert self.codebook is not None, "the settings ask for one"
        return self.codebook.encode(feature, None if cells is None else cells[None])[0]

    def feature_of(self, message: Message) -> Tensor:
        """(C, Y, X) feature of a message, where the networks compute.

        Raises:
            MessageError: it belongs to another base, is of an unknown type, or does not fit the grid or the codebook.
        """
        if message.feature is not None or message.codes is None:
            self._refuse_stranger(message, message.feature, self.channels)
            assert message.feature is not None
            return message.feature.to(self.device)
        if self.codebook is None:
            raise MessageError(
                f"agent {message.sender} sent codes, but this base has no codebook: load the same base pack on both"
            )
        self._refuse_stranger(message, message.codes, self.codebook.config.stages)
        return self.codebook.decode(message.codes[None].to(self.device))[0]

    @abstractmethod
    def detect_alone(self, feature: Tensor, agent_type: str) -> Boxes3D:
        """Boxes of an agent that receives no messages, from its (1, C, Y, X) feature."""

    @abstractmethod
    def detect_fused(
        self, features: Tensor, types: Sequence[str], links: Links, boxes: Sequence[Boxes3D | None] = ()
    ) -> Boxes3D:
        """Boxes of one ego from its own feature and received ones.

        Args:
            features: (1 + K, C, Y, X) in the frame of each agent, the ego's first.
            types: of these agents.
            links: of the one ego.
            boxes: what each of these agents detects alone, in its own frame; None where it did not say.
        """

    def _refuse_stranger(self, message: Message, sent: Tensor | None, channels: int) -> None:
        """Check that a message is of this base and of a known type, and that what it sent has the right shape.

        Raises:
            MessageError: it is not.
        """
        have, shape = None if sent is None else tuple(sent.shape), (channels, *self.grid.shape)
        if have != shape:
            raise MessageError(f"agent {message.sender} sent a feature of shape {have}, but this base needs {shape}")
        ours, theirs = self.feature_space, message.feature_space
        if theirs != ours:
            raise MessageError(
                f"agent {message.sender} uses base {theirs.hex()}, not {ours.hex()}: load the same base pack on both"
            )
        if message.agent_type not in (known := self.known_types()):
            raise MessageError(
                f"agent {message.sender} has unknown type '{message.agent_type}'; {nearest(message.agent_type, known)}"
            )
