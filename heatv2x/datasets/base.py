"""What a dataset promises to the rest."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Self

from heatv2x.errors import HeatError
from heatv2x.structures import SENSORS, Frame, PointCloud
from heatv2x.survey import Recognised, SensorFile, Visit

Sensors = Collection[str] | Mapping[int, Collection[str]]
"""Which sensors to decode: the same for all agents, or by agent id. Names: `structures.SENSORS`."""


class Dataset(ABC):
    """One split of a dataset: frames by index, in a fixed order (scenario by scenario, time by time).

    `recognise`, `survey` and `available` are what `heatv2x data check` and `data view` know of a dataset. Their
    defaults read everything and know nothing of files; a dataset that overrides them gets clearer answers, and sooner.
    """

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

    @classmethod
    def open(cls, root: Path, split: str) -> Self:
        """Open a split with every other setting at its default.

        Raises:
            DataError: not a folder of this dataset, or a descriptive file is missing or corrupt.
        """
        build: Callable[..., Self] = cls
        return build(root, split)

    @classmethod
    def recognise(cls, root: Path) -> Recognised | None:
        """What lies in a folder, told from a few names; None if it is not in this dataset's layout."""
        return None

    @classmethod
    def survey(cls, root: Path, split: str) -> Iterator[Visit]:
        """Every frame of a split with the files it should have, whatever is wrong with others.

        By default all sensors of all agents are tried, and a sensor that nobody has is taken to be absent.
        """
        try:
            dataset = cls.open(root, split)
        except HeatError as error:
            yield Visit(split, faults=(("description", error),))
            return
        for index in range(len(dataset)):
            try:
                frame = dataset.read(index, ())
            except HeatError as error:
                yield Visit(dataset.name(index), faults=(("description", error),))
                continue
            files = (
                SensorFile(
                    name,
                    agent.agent_id,
                    cls.__name__,
                    False,
                    functools.partial(dataset._sense, index, agent.agent_id, name),
                )
                for agent in frame.agents
                for name in SENSORS
            )
            yield Visit(dataset.name(index), frame, tuple(files))

    def available(self, index: int) -> dict[int, tuple[str, ...]]:
        """The sensors that each agent of a frame has, by agent id; by default found by reading them."""
        return {
            agent: tuple(name for name in SENSORS if self._has(index, agent, name)) for agent in self.agent_ids(index)
        }

    def _sense(self, index: int, agent_id: int, sensor: str) -> PointCloud | None:
        agent = next(a for a in self.read(index, {agent_id: [sensor]}).agents if a.agent_id == agent_id)
        return None if sensor == "camera" else agent.lidars[sensor]

    def _has(self, index: int, agent_id: int, sensor: str) -> bool:
        try:
            self._sense(index, agent_id, sensor)
        except HeatError:
            return False
        return True
