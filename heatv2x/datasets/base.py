"""What a dataset promises to the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar

from heatv2x.structures import Frame

Sensors = Collection[str] | Mapping[int, Collection[str]]
"""Which sensors to decode: the same for all agents, or by agent id. Names: `structures.SENSORS`."""


class Dataset(ABC):
    """One split of a dataset: frames by index, in a fixed order (scenario by scenario, time by time).

    Attributes:
        source: who published it.
    """

    source: ClassVar[str]

    @abstractmethod
    def __len__(self) -> int:
        """Number of labelled frames."""

    @abstractmethod
    def name(self, index: int) -> str:
        """ "scenario/timestamp" of a frame, without reading it."""

    @abstractmethod
    def agent_ids(self, index: int) -> tuple[int, ...]:
        """The agents of a frame in the order of `Frame.agents`, without reading sensor data."""

    @abstractmethod
    def read(self, index: int, sensors: Sensors) -> Frame:
        """Read a frame and decode only the sensors asked for.

        Raises:
            DataError: a file is missing or corrupt; names file, key and way out.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex SHA-256 over the split's metadata content: the same data gives the same value on every machine."""
