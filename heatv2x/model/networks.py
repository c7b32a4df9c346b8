"""What the networks of a vehicle do: look, and detect alone or from fused features.

Shapes: C channels, Y X shared grid, K senders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence

from torch import Tensor

from heatv2x.agents.base import Agent
from heatv2x.core.config import nearest
from heatv2x.errors import MessageError
from heatv2x.geometry.grid import BevGrid
from heatv2x.link.message import Message
from heatv2x.model.links import Links
from heatv2x.structures import AgentFrame, Boxes3D

ENCODES, HEARS = ("encoder", "sender"), ("receiver",)
"""The parts of a type that are needed to encode as one, and to be one that is heard or that hears (`require`)."""


class Networks(ABC):
    """Everything a vehicle needs networks for, wherever they run.

    Attributes:
        grid: shared by all agents.
    """

    grid: BevGrid

    @property
    @abstractmethod
    def feature_space(self) -> bytes:
        """16 bytes that name the base; features of another one mean nothing here."""

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

    @abstractmethod
    def select(self, feature: Tensor) -> Tensor | None:
        """(1, Y, X) bool cells that are sent of a (1, C, Y, X) feature; None sends all."""

    @abstractmethod
    def feature_of(self, message: Message) -> Tensor:
        """(C, Y, X) feature of a message, where the networks compute.

        Raises:
            MessageError: it belongs to another base, is of an unknown type, or does not fit the grid.
        """

    @abstractmethod
    def detect_alone(self, feature: Tensor, agent_type: str) -> Boxes3D:
        """Boxes of an agent that receives no messages, from its (1, C, Y, X) feature."""

    @abstractmethod
    def detect_fused(self, features: Tensor, types: Sequence[str], links: Links) -> Boxes3D:
        """Boxes of one ego from its own feature and received ones.

        Args:
            features: (1 + K, C, Y, X) in the frame of each agent, the ego's first.
            types: of these agents.
            links: of the one ego.
        """

    def refuse_stranger(self, message: Message, shape: tuple[int, ...]) -> None:
        """Check that a message's feature has this base, this shape and a known type.

        Raises:
            MessageError: it is not.
        """
        have = None if message.feature is None else tuple(message.feature.shape)
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
