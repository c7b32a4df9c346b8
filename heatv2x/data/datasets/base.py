"""What a dataset promises to the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from heatv2x.core import config, plugins
from heatv2x.data.survey import Recognised, SensorFile, Visit
from heatv2x.errors import ConfigError, DataError, HeatError
from heatv2x.structures import SENSORS, Camera, Frame, PointCloud

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
        expected_layout: what its folder holds, shown if a user's folder is not recognised.
        stem_step: how much the time stem of a frame grows in 100 ms, where stems are numbers and nothing else tells
            when a frame was captured.
    """

    source: ClassVar[str]
    expected_layout: ClassVar[str] = "see its page"
    stem_step = 2

    class Config(config.Config):
        """A dataset without settings of its own."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames, unlabelled ones included (see `labelled`)."""

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

    def labelled(self, index: int) -> bool:
        """Whether somebody labelled a frame, be it as empty. A frame that is not labelled is neither scored nor trained
        on; what its agents sensed may still arrive late in another frame.
        """
        return True

    def capture_us(self, index: int, agent_id: int) -> int:
        """When an agent captured what it senses in a frame, microseconds on the recording's clock.

        Raises:
            ConfigError: the time stem is not a number, and the dataset has no other clock.
        """
        stem = self.name(index).rpartition("/")[2]
        if not stem.isdigit():
            raise ConfigError(f"time stem '{stem}' is not a number of simulator ticks")
        return int(stem) * 100_000 // self.stem_step

    def age_ms(self, earlier: int, index: int) -> float:
        """How much earlier one frame of a scenario was captured than another, milliseconds.

        By the clock of an agent that is in both: the agents' clocks need not agree.
        """
        there = self.agent_ids(earlier)
        agent = next((agent for agent in self.agent_ids(index) if agent in there), None)
        now, then = (self.agent_ids(index)[0], there[0]) if agent is None else (agent, agent)
        return (self.capture_us(index, now) - self.capture_us(earlier, then)) / 1000

    def clip(self, index: int) -> range:
        """All frames of the scenario of a frame, in the order of time."""
        return self._clip_of(index)[0]

    def step_ms(self, index: int) -> float:
        """The median time between two frames of the scenario of a frame, milliseconds; 0 where it has one frame."""
        clip, step = self._clip_of(index)
        if step is None:
            steps = [self.age_ms(first, second) for first, second in itertools.pairwise(clip)]
            step = statistics.median(steps) if steps else 0.0
            self._clips.update(dict.fromkeys(clip, (clip, step)))
        return step

    def earlier(self, index: int, latency_ms: float) -> int | None:
        """Index of the newest frame of the same scenario that was captured at least `latency_ms` before a frame.

        That is what a message with this latency shows at any frame rate: at 20 Hz and 100 ms the frame before the last
        one, at 5 Hz the last one. Capture times may jitter by 20 ms, or a quarter of the time between two frames if
        that is less.

        Returns:
            None if there is no such frame: the scenario begins later, or has a gap of more than a frame there.
        """
        clip, step = self.clip(index), self.step_ms(index)
        for other in range(index, clip.start - 1, -1):
            age = self.age_ms(other, index)
            if age >= latency_ms - _jitter_ms(step):
                return other if age <= latency_ms + 1.5 * step else None
        return None

    def oldest_within(self, index: int, latency_ms: float) -> int:
        """Index of the first frame of the same scenario that was captured no more than `latency_ms` before a frame."""
        clip, step = self.clip(index), self.step_ms(index)
        oldest = index
        for other in range(index - 1, clip.start - 1, -1):
            if self.age_ms(other, index) > latency_ms + _jitter_ms(step):
                break
            oldest = other
        return oldest

    @classmethod
    def recognise(cls, root: Path) -> Recognised | None:
        """What lies in a folder, told from a few names; None if it is not in this dataset's layout."""
        return None

    @classmethod
    def survey(cls, root: Path, split: str, settings: Mapping[str, Any] | None = None) -> Iterator[Visit]:
        """Every frame of a split with the files it should have, whatever is wrong with others.

        By default all sensors of all agents are tried, and a sensor that nobody has is taken to be absent.

        Args:
            settings: fields of the part's `Config` that differ from their defaults.
        """
        try:
            build: Callable[..., Dataset] = cls
            dataset = build(root, split, **(settings or {}))
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
                SensorFile(
                    sensor,
                    agent,
                    cls.__name__,
                    False,
                    functools.partial(dataset._sense, index, agent, sensor),
                    sensor="camera" if sensor == "camera" else "lidar",
                )
                for agent in dataset.agent_ids(index)
                for sensor in SENSORS
            )
            yield Visit(dataset.name(index), frame, files, of=len(dataset))

    def available(self, index: int) -> dict[int, tuple[str, ...]]:
        """The sensors that each agent of a frame has, by agent id; by default found by reading them."""
        return {
            agent: tuple(name for name in SENSORS if self._has(index, agent, name)) for agent in self.agent_ids(index)
        }

    def _sense(self, index: int, agent_id: int, sensor: str) -> PointCloud | tuple[Camera, ...]:
        agent = next(a for a in self.read(index, {agent_id: [sensor]}).agents if a.agent_id == agent_id)
        return agent.cameras if sensor == "camera" else agent.lidars[sensor]

    def _has(self, index: int, agent_id: int, sensor: str) -> bool:
        try:
            self._sense(index, agent_id, sensor)
        except HeatError:
            return False
        return True

    def _clip_of(self, index: int) -> tuple[range, float | None]:
        """The frames of the scenario of a frame, and the time between two of them where it is known already."""
        if index not in self._clips:
            scenario, clip = self.name(index).rpartition("/")[0], range(index, index + 1)
            while clip.start > 0 and self.name(clip.start - 1).rpartition("/")[0] == scenario:
                clip = range(clip.start - 1, clip.stop)
            while clip.stop < len(self) and self.name(clip.stop).rpartition("/")[0] == scenario:
                clip = range(clip.start, clip.stop + 1)
            self._clips.update(dict.fromkeys(clip, (clip, None)))
        return self._clips[index]

    @functools.cached_property
    def _clips(self) -> dict[int, tuple[range, float | None]]:
        return {}


def labelled_frames(dataset: Dataset) -> list[int]:
    """Indices of the frames that somebody labelled.

    Raises:
        HeatError: there is none, so nothing can be scored or learned.
    """
    found = [index for index in range(len(dataset)) if dataset.labelled(index)]
    if not found:
        raise HeatError(
            f"none of the {len(dataset)} frames ({dataset.name(0)} to {dataset.name(len(dataset) - 1)}) is labelled, "
            "so there is nothing to score or to train on.\n  Way out: label some of them (own recordings: boxes.csv, "
            "docs/datasets/folder.md), or choose another split"
        )
    return found


def _jitter_ms(step_ms: float) -> float:
    """How far capture times may be off in frames that are `step_ms` apart."""
    return min(20.0, step_ms / 4)


class DatasetConfig(config.Config):
    """Which part reads a dataset, and the settings of that part, which its own `Config` checks.

    Attributes:
        part: file name in `heatv2x/data/datasets/`, or "package.module:Class"; null recognises the folder.
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
    """The part that reads a folder: the requested one, or else the only one that recognises it.

    Args:
        root: the dataset's folder.
        wanted: the part's name, or its settings with or without a name.

    Raises:
        DataError: no such folder, or no part recognises it.
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
        raise ConfigError(f"{root} looks like {titles}: choose one with, for example, dataset={known[0][0]}")
    if not known:
        raise _unrecognised(root, dict(found))
    name, part, tree = known[0]
    return Reader(name, given.settings, part, tree)


def _unrecognised(root: Path, parts: Mapping[str, type[Dataset]]) -> DataError:
    """Say what a folder holds, what the known datasets hold, and which folder above or below was meant."""
    inside = sorted(entry.name for entry in root.iterdir())
    problem = f"is not in the layout of {' or '.join(parts)}; it holds {', '.join(inside[:8]) or 'nothing'}"
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
