"""What a dataset promises to the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from heatv2x import config, plugins
from heatv2x.errors import ConfigError, DataError, HeatError
from heatv2x.structures import SENSORS, Frame, PointCloud
from heatv2x.survey import Recognised, SensorFile, Visit

_SPLITS = ("train", "validate", "val", "test")

Sensors = Collection[str] | Mapping[int, Collection[str]]
"""Which sensors to decode: the same for all agents, or by agent id. Names: `structures.SENSORS`."""


class Dataset(ABC):
    """One split of a dataset: frames by index, in a fixed order (scenario by scenario, time by time).

    The constructor takes the dataset's folder, the split's name, and the fields of the part's `Config` by keyword.

    `recognise`, `survey` and `available` are what `heatv2x data check` and `data view` know of a dataset. Their
    defaults read everything and know nothing of files; a dataset that overrides them gets clearer answers, and sooner.

    Attributes:
        source: who published it.
        expected_layout: what its folder holds, for a user whose folder is not recognised.
        stem_step: how much the time stem of a frame grows in 100 ms, where stems are numbers.
    """

    source: ClassVar[str]
    expected_layout: ClassVar[str] = "see its page"
    stem_step = 2

    class Config(config.Config):
        """A dataset without settings of its own."""

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

    def capture_us(self, index: int, agent_id: int) -> int:
        """When an agent captured what it senses in a frame, microseconds on the recording's clock.

        Raises:
            ConfigError: the time stem is no number, and the dataset knows no better.
        """
        stem = self.name(index).rpartition("/")[2]
        if not stem.isdigit():
            raise ConfigError(f"time stem '{stem}' is not a number of simulator ticks")
        return int(stem) * 100_000 // self.stem_step

    def earlier(self, index: int, frames: int) -> int | None:
        """Index of the frame of the same scenario that was captured `frames` times 100 ms before, None without one."""
        scenario, _, stem = self.name(index).rpartition("/")
        wanted = f"{scenario}/{int(stem) - self.stem_step * frames:0{len(stem)}d}"
        return self._by_name.get(wanted)

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
            build: Callable[..., Dataset] = cls
            dataset = build(root, split)
        except HeatError as error:
            yield Visit(split, faults=(("description", error),))
            return
        for index in range(len(dataset)):
            try:
                frame = dataset.read(index, ())
            except HeatError as error:
                yield Visit(dataset.name(index), faults=(("description", error),))
                continue
            files = tuple(
                SensorFile(sensor, agent, cls.__name__, False, functools.partial(dataset._sense, index, agent, sensor))
                for agent in dataset.agent_ids(index)
                for sensor in SENSORS
            )
            yield Visit(dataset.name(index), frame, files, of=len(dataset))

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

    @functools.cached_property
    def _by_name(self) -> dict[str, int]:
        return {self.name(index): index for index in range(len(self))}


class DatasetConfig(config.Config):
    """Which part reads a dataset, and the settings of that part, which its own `Config` checks.

    Attributes:
        part: file name in `heatv2x/datasets/`, or "package.module:Class"; without it the folder is recognised.
        settings: what differs from the part's defaults.
    """

    part: str | None = None
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reader:
    """The part that reads a folder.

    Attributes:
        part: its name.
        settings: its settings.
        dataset_class: itself.
        tree: what it recognised.
    """

    part: str
    settings: Mapping[str, Any]
    dataset_class: type[Dataset]
    tree: Recognised


def recognise(root: Path, wanted: str | DatasetConfig | None = None) -> Reader:
    """The part that reads a folder: the one that is wanted, or else the only one that recognises it.

    Args:
        root: the dataset's folder.
        wanted: the part's name, or its settings with or without a name.

    Raises:
        DataError: no such folder, or nobody recognises it.
        ConfigError: no such part, or several recognise the folder; says how to choose.
    """
    if not root.is_dir():
        raise DataError(root, "is not a folder", way_out="give the folder that holds the dataset")
    given = DatasetConfig(part=wanted) if isinstance(wanted, str) else wanted or DatasetConfig()
    names = plugins.available("datasets") if given.part is None else [given.part]
    found = [(name, plugins.find("datasets", name)) for name in names]
    known = [(name, part, tree) for name, part in found if (tree := part.recognise(root)) is not None]
    if len(known) > 1:
        titles = " and ".join(f"{tree.title} (dataset={name})" for name, _, tree in known)
        raise ConfigError(f"{root} looks like {titles}: say which it is, such as dataset={known[0][0]}")
    if not known:
        raise _unrecognised(root, dict(found))
    name, part, tree = known[0]
    return Reader(name, given.settings, part, tree)


def _unrecognised(root: Path, parts: Mapping[str, type[Dataset]]) -> DataError:
    """What a folder holds, what the known datasets hold, and the folder above or below that was meant."""
    inside = sorted(entry.name for entry in root.iterdir())
    problem = f"is not in a layout of {' or '.join(parts)}; it holds {', '.join(inside[:8]) or 'nothing'}"
    near = [root / name for name in inside[:50] if (root / name).is_dir()]
    near += [root.parent] if root.name in _SPLITS else []  # not any parent: it may be the root of a disk
    for folder in near:
        for part in parts.values():
            with contextlib.suppress(HeatError):
                if (tree := part.recognise(folder)) is not None:
                    return DataError(root, problem, way_out=f"give {folder}, which holds {tree.title}")
    layouts = "".join(f"\n    {name}: {part.expected_layout}" for name, part in parts.items())
    return DataError(root, problem, way_out=f"give the topmost folder of the dataset:{layouts}")


def open_dataset(part: str, root: str | Path, split: str, settings: Mapping[str, Any] | None = None) -> Dataset:
    """One split by the name of the dataset part and its settings, which the part's `Config` checks.

    Raises:
        ConfigError: no such part, or a setting it does not know.
        DataError: the folder is not such a dataset.
    """
    dataset_class = plugins.find("datasets", part)
    checked = config.build(dataset_class.Config, settings or {}, f"dataset part '{part}'")
    dataset: Dataset = dataset_class(root, split, **dict(checked))
    return dataset


def wanted_sensors(sensors: Sensors, agent_id: int) -> frozenset[str]:
    """Names of the sensors asked for of one agent; an agent that a mapping does not name gets none.

    Raises:
        ConfigError: a name is unknown.
    """
    wanted = sensors.get(agent_id, ()) if isinstance(sensors, Mapping) else sensors
    names = frozenset([wanted] if isinstance(wanted, str) else wanted)
    for name in names - set(SENSORS):
        raise ConfigError(f"unknown sensor '{name}'; {config.nearest(name, SENSORS)}")
    return names
