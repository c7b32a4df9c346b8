"""Check a dataset before training: what it is, and what in it is missing, broken or impossible.

`inspect` walks the survey of whatever dataset recognises the folder (`datasets/base.py`), reads what is
there, and sums it up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydantic

from heatv2x.core.config import Config, build
from heatv2x.core.plugins import PartConfig
from heatv2x.core.plurals import counted
from heatv2x.data.datasets import base as datasets
from heatv2x.data.datasets.base import Dataset, DatasetConfig, open_dataset
from heatv2x.data.findings import Fault, FileCount, Indexed, Inspection, SplitCount
from heatv2x.data.plausibility.absurdity import absurd_objects, absurd_poses
from heatv2x.data.plausibility.evidence import SAMPLED_FRAMES, Evidence
from heatv2x.data.plausibility.verdict import Verdict
from heatv2x.data.survey import Recognised, Sensed, SensorFile, Visit
from heatv2x.errors import ConfigError, DataError, HeatError
from heatv2x.structures import Camera, Frame, PointCloud

Tell = Callable[[str, int, int], None]
_SHOWN = 50
_NO_SENSORS = frozenset({"visibility raster", "hit counts"})


class _SplitsConfig(Config):
    """Attributes:
    dataset: the dataset part that reads the folder, if it is not recognised; dataset.settings.KEY=VALUE are the
        part's own settings.
    splits: check or index only these; by default all.
    split: check or index only this one.
    """

    dataset: str | DatasetConfig | None = None
    splits: tuple[str, ...] = ()
    split: str | None = None

    @pydantic.model_validator(mode="after")
    def _one_choice(self) -> _SplitsConfig:
        if self.split is not None and self.splits:
            raise ValueError(f"split={self.split} and splits={list(self.splits)} are both given; choose one")
        return self

    @property
    def chosen(self) -> tuple[str, ...]:
        """The requested splits; empty for all."""
        return self.splits if self.split is None else (self.split,)


class CheckConfig(_SplitsConfig):
    """Attributes:
    sensors: "lidar" or "camera" checks the files of that sensor only.
    every: read the sensor files of every n-th frame and only look for the others; descriptions are always read.
    json: also write the result to this file.
    """

    sensors: Literal["all", "lidar", "camera"] = "all"
    every: int = pydantic.Field(1, ge=1)
    json_: Path | None = pydantic.Field(None, alias="json")


class IndexConfig(_SplitsConfig):
    """What to index: the folder's dataset and its splits."""


def recognise(
    root: Path, dataset: str | PartConfig | DatasetConfig | None = None
) -> tuple[PartConfig, type[Dataset], Recognised]:
    """The dataset part that reads a folder, with its settings; see `datasets.base.recognise`."""
    wanted = DatasetConfig(**dataset.model_dump()) if isinstance(dataset, PartConfig) else dataset
    reader = datasets.recognise(root, wanted)
    return PartConfig(part=reader.part, settings=dict(reader.settings)), reader.dataset_class, reader.tree


def build_indexes(root: Path, config: IndexConfig, tell: Tell) -> list[Indexed]:
    """Open every split of a dataset twice: the first time parses what is not indexed yet.

    Raises:
        DataError: the folder is not a dataset, or a descriptive file is missing or corrupt.
        ConfigError: a setting names what is not there.
    """
    part, _, tree = recognise(root, config.dataset)
    splits = _chosen(root, tree, config.chosen)
    found = []
    for number, split in enumerate(splits):
        tell("indexing", number, len(splits))
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            dataset = open_dataset(part.part, root, split, part.settings)
            seconds.append(time.perf_counter() - start)
        found.append(Indexed(split, len(dataset), *seconds))
    tell("indexing", len(splits), len(splits))
    return found


def _chosen(root: Path, tree: Recognised, splits: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := sorted(set(splits) - set(tree.splits)):
        raise ConfigError(f"{root} has no split '{unknown[0]}'; it has {', '.join(tree.splits)}")
    return splits or tree.splits


def inspect(root: Path, config: CheckConfig | None = None, tell: Tell | None = None) -> Inspection:
    """Check a dataset.

    Raises:
        DataError: the folder is not a dataset at all; faults inside one are part of the result.
        ConfigError: a setting names what is not there.
    """
    config = config or CheckConfig()
    named, part, tree = recognise(root, config.dataset)
    checked = build(part.Config, named.settings, f"dataset part '{named.part}'")
    settings = {key: getattr(checked, key) for key in named.settings}
    inspector = _Inspector(root, config.every, config.sensors, Evidence(tree.tracked, tree.labels_in_world))
    for split in _chosen(root, tree, config.chosen):
        inspector.walk(part, split, settings, tree.published.get(split), tell or _silent)
    inspector.settle()
    notes = [Verdict("layout", "note", note) for note in tree.notes if not settings]
    verdicts = [*notes, inspector.poses(), *inspector.sensing(), *inspector.evidence.verdicts()]
    return Inspection(
        str(root),
        named.part,
        tree.title,
        inspector.splits,
        list(inspector.files.values()),
        verdicts,
        list(inspector.faults.values()),
    )


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


@dataclass(frozen=True)
class _Lacking:
    """A file that could not be found, or not be read if only reading shows whether it exists."""

    split: str
    scenario: str
    file: SensorFile
    error: HeatError


@dataclass
class _Inspector:
    root: Path
    every: int
    sensors: str
    evidence: Evidence
    splits: list[SplitCount] = field(default_factory=list)
    files: dict[str, FileCount] = field(default_factory=dict)
    faults: dict[tuple[str, str], Fault] = field(default_factory=dict)
    lacking: list[_Lacking] = field(default_factory=list)
    kinds_of_split: set[tuple[str, str]] = field(default_factory=set)
    kinds_of_agent: dict[tuple[str, str, int], set[str]] = field(default_factory=dict)
    absurd: int = 0
    posed: int = 0

    def walk(
        self, part: type[Dataset], split: str, settings: dict[str, Any], published: int | None, tell: Tell
    ) -> None:
        """Visit every frame of a split."""
        count = SplitCount(split, published)
        self.splits.append(count)
        scenarios: set[str] = set()
        before: Frame | None = None
        for number, visit in enumerate(part.survey(self.root, split, settings)):
            tell(f"reading {split}", number + 1, max(visit.of, number + 1))
            for kind, error in visit.faults:
                self.fault(kind, error)
            if visit.files:
                count.frames += 1
                scenarios.add(visit.name.rpartition("/")[0])
            if visit.frame is not None:
                same = before is not None and before.scenario == visit.frame.scenario
                self.judge(visit, before if same else None)
                count.described += 1
                count.agent_frames += len(visit.frame.agents)
                count.objects += len(visit.frame.objects)
                times, sightings = dict(visit.times_us), visit.sightings
                self.evidence.add_frame(split, visit.frame, before if same else None, times, sightings)
                before = visit.frame
            step = max(2, 2 * (visit.of // SAMPLED_FRAMES))  # pairs of consecutive frames, spread over the split
            self.look(split, visit, number % self.every == 0, number // self.every % step < 2)
        count.scenarios = len(scenarios)

    def judge(self, visit: Visit, before: Frame | None) -> None:
        """What cannot be true in a frame."""
        assert visit.frame is not None
        self.posed += len(visit.frame.agents)
        for found in (*absurd_poses(visit.frame, before), *absurd_objects(visit.frame)):
            path = (
                self.root / visit.name
                if found.agent is None
                else visit.sources.get(found.agent, self.root / visit.name)
            )
            self.absurd += 1
            self.fault(found.kind, DataError(path, found.problem, key=found.key), what="absurd")

    def look(self, split: str, visit: Visit, read: bool, compared: bool) -> None:
        """Look for the files of a frame, read them, and compare its sweeps with its labels."""
        scenario = visit.name.rpartition("/")[0]
        judged: set[int] = set()
        for file in visit.files:
            if self.sensors != "all" and file.sensor not in (self.sensors, "label"):
                continue
            has = self.kinds_of_agent.setdefault((split, scenario, file.agent), set())
            count = self.files.setdefault(file.kind, FileCount(file.kind, file.download, file.needed))
            count.expected += 1
            sensed: Sensed = None
            try:
                if file.path is not None and not os.path.lexists(file.path):
                    raise DataError(file.path, "is missing", way_out=f"complete {file.download}")
                if read or file.path is None:
                    sensed = file.read()
                    count.read += 1
            except HeatError as error:
                if _is_missing(file, error):
                    self.lacking.append(_Lacking(split, scenario, file, error))
                    continue
                count.broken += 1
                self.fault(file.kind, error)
            count.present += 1
            has.add(file.kind)
            self.kinds_of_split.add((split, file.kind))
            if sensed is not None and visit.frame is not None:
                self.compare(split, visit.frame, file, sensed, compared and file.agent not in judged)
                if isinstance(sensed, PointCloud):
                    judged.add(file.agent)

    def compare(self, split: str, frame: Frame, file: SensorFile, sensed: Sensed, compared: bool) -> None:
        """Take what a sensor file holds as evidence."""
        if isinstance(sensed, PointCloud):
            self.evidence.add_cloud(split, frame, file, sensed, compared)
            return
        for camera in (sensed,) if isinstance(sensed, Camera) else sensed or ():
            self.evidence.add_camera(split, frame, file, camera)

    def settle(self) -> None:
        """A missing file is a fault if others have it; a kind of file that no agent has is not expected."""
        for each in self.lacking:
            file = each.file
            nobody = not file.needed and (each.split, file.kind) not in self.kinds_of_split
            # a roadside unit may do without a sensor that vehicles have
            own = self.kinds_of_agent[each.split, each.scenario, file.agent]
            if nobody or (file.agent < 0 and not file.needed and file.kind not in own):
                self.files[file.kind].expected -= 1
            else:
                self.fault(file.kind, each.error)

    def fault(self, kind: str, error: HeatError, what: str | None = None) -> None:
        """Note a fault; the first of its kind stands for all."""
        path = str(error.path) if isinstance(error, DataError) else str(self.root)
        missing = isinstance(error, DataError) and not os.path.lexists(error.path)
        what = what or ("missing" if missing else "broken")
        if (known := self.faults.get((kind, what))) is not None:
            known.count += 1
            if len(known.further) < _SHOWN:
                known.further.append(path)
            return
        problem, key, way_out = (
            (error.problem, error.key, error.way_out) if isinstance(error, DataError) else (str(error), None, "")
        )
        self.faults[kind, what] = Fault(kind, what, path, problem, key, way_out)

    def poses(self) -> Verdict:
        """Whether poses and labelled objects can be true."""
        if not self.posed:
            return Verdict("poses and objects", "note", "not judged: no frame could be read")
        objects = sum(split.objects for split in self.splits)
        seen = f"{counted(self.posed, 'pose')} and {counted(objects, 'object')} checked"
        if self.absurd:
            return Verdict("poses and objects", "fault", f"{self.absurd} cannot be true; {seen}")
        return Verdict("poses and objects", "ok", seen)

    def sensing(self) -> Iterator[Verdict]:
        """Whether every agent has sensor data, and which agents have none."""
        bare = sorted(key for key, kinds in self.kinds_of_agent.items() if not kinds - _NO_SENSORS)
        if not self.kinds_of_agent:
            yield Verdict("sensors", "note", "not judged: no frame was found")
        elif bare:
            split, scenario, agent = bare[0]
            first = f"agent {agent} of {split}/{scenario}"
            others = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
            yield Verdict("sensors", "fault", f"without any sensor data: {first}{others}")
        else:
            agents = counted(len(self.kinds_of_agent), "agent")
            yield Verdict("sensors", "ok", f"every agent of the scenarios has sensor data ({agents})")


def _is_missing(file: SensorFile, error: HeatError) -> bool:
    """Whether an error means that there is no such file; what exists and cannot be read is broken."""
    if file.path is not None:
        return not os.path.lexists(file.path)
    return not isinstance(error, DataError) or not os.path.lexists(error.path)
