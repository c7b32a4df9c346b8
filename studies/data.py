"""How fast frames are read, against plain PyYAML and naive decoding of the same files in the same run."""

from __future__ import annotations

import functools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
import yaml
from PIL import Image

from heatv2x.core.config import Config
from heatv2x.core.files import write_json
from heatv2x.core.workers import Tell
from heatv2x.data.check import recognise
from heatv2x.data.datasets.base import Dataset, DatasetConfig, open_dataset
from heatv2x.data.survey import Visit
from heatv2x.errors import ConfigError
from heatv2x.evaluation.rows import machine
from heatv2x.structures import LIDARS, Frame
from studies.index_speed import synthetic_index_seconds

TARGET_RATIO = 20.0
TARGET_OPEN_S = 1.0
_NAIVE_FRAMES = 8
_TUPLE = "tag:yaml.org,2002:python/tuple"


class DataBenchConfig(Config):
    """Attributes:
    data: the dataset's folder.
    dataset: the dataset part that reads the folder, where it is not recognised; dataset.settings.KEY=VALUE are the
        part's own settings.
    split: the first one of the folder by default.
    frames: how many reads per measurement; a smaller split is read again.
    epoch: how many reads the memory is watched for.
    index_frames: size of the made-up index that is opened.
    out: the JSON.
    """

    data: Path
    dataset: str | DatasetConfig | None = None
    split: str | None = None
    frames: int = pydantic.Field(40, ge=4)
    epoch: int = pydantic.Field(200, ge=20)
    index_frames: int = pydantic.Field(11_000, ge=1)
    out: Path = Path("runs/bench/data_speed.json")


@dataclass(frozen=True)
class Speed:
    """Frames per second of one way to read.

    Attributes:
        what: "metadata", "LiDAR", "cameras".
        how: "naive", "cold", "warm", "warm, 1 worker", ...
        frames_per_s: on the clock; None where this machine cannot measure it.
        cpu_ms: CPU milliseconds of this process per frame, which other work on the machine does not change.
    """

    what: str
    how: str
    frames_per_s: float | None
    cpu_ms: float | None = None

    @property
    def key(self) -> str:
        """ "LiDAR, warm"."""
        return f"{self.what}, {self.how}"

    def over(self, naive: Speed) -> float | None:
        """How many times as fast as the naive way: by CPU time if both have it, else by the clock."""
        if self is naive or self.frames_per_s is None or naive.frames_per_s is None:
            return None
        if self.cpu_ms and naive.cpu_ms:
            return round(naive.cpu_ms / self.cpu_ms, 2)
        return round(self.frames_per_s / naive.frames_per_s, 2)


def run_data_bench(config: DataBenchConfig, tell: Tell) -> dict[str, Any]:
    """Measure, write the JSON and give its content.

    Raises:
        DataError: the folder is no dataset, or a file is missing or corrupt.
    """
    named, part, tree = recognise(config.data, config.dataset)
    split = config.split or tree.splits[0]
    visits = _some(part.survey(config.data, split), config.frames)
    build = functools.partial(open_dataset, named.part, config.data, split, named.settings)
    speeds = list(_speeds(build, visits, config, tell))
    tell("memory over an epoch", 0, 1)
    memory = memory_over(build(), config.epoch)
    tell("memory over an epoch", 1, 1)
    opened = synthetic_index_seconds(config.index_frames)
    naive = {speed.what: speed for speed in speeds if speed.how == "naive"}
    ratios = {speed.key: ratio for speed in speeds if (ratio := speed.over(naive[speed.what])) is not None}
    content = {
        "data": tree.title,
        "split": split,
        "frames_read": config.frames,
        "agents_per_frame": round(float(np.mean([len(visit.sources) for visit in visits])), 2),
        "frames_per_s": {speed.key: speed.frames_per_s and round(speed.frames_per_s, 2) for speed in speeds},
        "cpu_ms_per_frame": {speed.key: speed.cpu_ms and round(speed.cpu_ms, 3) for speed in speeds},
        "ratio_to_naive": ratios,
        "memory": memory,
        "index": {"frames": config.index_frames, **opened},
        "targets": {
            "metadata with index, ratio": {"target": TARGET_RATIO, "measured": ratios.get("metadata, warm")},
            "index opens, CPU seconds": {"target": TARGET_OPEN_S, "measured": opened["cpu_seconds"]},
        },
        "machine": machine(),
    }
    write_json(config.out, content)
    return content


def _some(visits: Iterator[Visit], count: int) -> list[Visit]:
    found = []
    for visit in visits:
        if visit.faults:
            raise visit.faults[0][1]
        found.append(visit)
        if len(found) == count:
            break
    return found


def _speeds(build: Callable[[], Dataset], visits: list[Visit], config: DataBenchConfig, tell: Tell) -> Iterator[Speed]:
    steps = 3 + 2 * 5
    done = iter(range(1, steps + 1))

    def measured(what: str, how: str, rate: tuple[float, float | None] | None) -> Speed:
        tell("reading speed", next(done, steps), steps)
        return Speed(what, how, None) if rate is None else Speed(what, how, *rate)

    build()  # the index is there from here on
    dataset = build()
    lidar, cameras = (_wanted(dataset, what) for what in ("lidar", "camera"))
    count = min(config.frames, len(dataset))
    rounds = -(-config.frames // count)

    plainly = visits[: min(count, _NAIVE_FRAMES)]
    yield measured("metadata", "naive", _rate(lambda: _each(plainly, _naive_metadata), len(plainly), 1))
    _forget(visits)
    yield measured("metadata", "cold", _rate(lambda: _metadata(build), len(dataset), 1))
    yield measured("metadata", "warm", _rate(lambda: _metadata(build), len(dataset), rounds))
    for what, sensors, kind in (("LiDAR", lidar, "cloud"), ("cameras", cameras, "image")):
        if not any(sensors[index] for index in range(count)):
            continue
        naive = functools.partial(_naive_frame, kind=kind)
        yield measured(what, "naive", _rate(functools.partial(_each, plainly, naive), len(plainly), 1))
        read = functools.partial(_read_all, dataset, sensors, count)
        yield measured(what, "cold", _rate(read, count, 1) if _forget(visits) else None)
        yield measured(what, "warm", _rate(read, count, rounds))
        for workers in (1, 2):
            rate = _rate_of_workers(dataset, sensors, count * rounds, workers)
            yield measured(what, f"warm, {workers} worker{'s' if workers > 1 else ''}", rate)


def _wanted(dataset: Dataset, what: str) -> list[dict[int, list[str]]]:
    """For every frame one sweep, or the cameras, of each agent that has them."""
    wanted = []
    for index in range(len(dataset)):
        chosen = {}
        for agent, names in dataset.available(index).items():
            first = next((name for name in LIDARS if name in names), None) if what == "lidar" else None
            if first or (what == "camera" and "camera" in names):
                chosen[agent] = [first or "camera"]
        wanted.append(chosen)
    return wanted


def _rate(work: Callable[[], object], frames: int, rounds: int) -> tuple[float, float]:
    """Frames per second on the clock, and CPU milliseconds per frame."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        work()
    read = frames * rounds
    return read / (time.perf_counter() - wall), 1000 * (time.process_time() - cpu) / read


def _metadata(build: Callable[[], Dataset]) -> None:
    dataset = build()
    for index in range(len(dataset)):
        dataset.read(index, ())


def _read_all(dataset: Dataset, sensors: Sequence[dict[int, list[str]]], count: int) -> None:
    for index in range(count):
        dataset.read(index, sensors[index])


@dataclass(frozen=True)
class _Frames(torch.utils.data.Dataset[Frame]):
    dataset: Dataset
    sensors: Sequence[dict[int, list[str]]]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Frame:
        index = number % len(self.dataset)
        return self.dataset.read(index, self.sensors[index])


def _rate_of_workers(
    dataset: Dataset, sensors: Sequence[dict[int, list[str]]], count: int, workers: int
) -> tuple[float, None]:
    """Frames per second that reach this process, from the second frame on: starting a worker is not reading."""
    frames = _Frames(dataset, sensors, count)
    loader = torch.utils.data.DataLoader(frames, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    arrived = iter(loader)
    next(arrived)
    start = time.perf_counter()
    rest = sum(1 for _ in arrived)
    return rest / (time.perf_counter() - start), None


def _as_it_is(frame: Any) -> Any:
    return frame


# --- the naive way ----------------------------------------------------------------------------------------------------


def _tuple(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node))


class _PlainLoader(yaml.SafeLoader):
    """PyYAML in Python, as most readers of this format use it, with the one tag that old files carry."""


_PlainLoader.add_constructor(_TUPLE, _tuple)


def _each(visits: Sequence[Visit], work: Callable[[Visit], None]) -> None:
    for visit in visits:
        work(visit)


def _naive_metadata(visit: Visit) -> None:
    for path in set(visit.sources.values()):
        content = path.read_text()
        if path.suffix == ".yaml":
            _PlainLoader(content).get_single_data()
        elif path.suffix == ".json":
            json.loads(content)
        else:
            [line.split(",") for line in content.splitlines()]


def _naive_frame(visit: Visit, kind: str) -> None:
    """Parse the descriptions, then decode one sweep or all images of each agent with general libraries."""
    _naive_metadata(visit)
    swept: set[int] = set()
    for file in visit.files:
        if file.path is None or not file.kind.endswith(kind) or not file.path.exists():
            continue
        if kind == "cloud":
            if file.agent not in swept:
                swept.add(file.agent)
                _naive_cloud(file.path)
        else:
            with Image.open(file.path) as image:
                np.array(image)


def _naive_cloud(path: Path) -> None:
    try:
        from pypcd4.pypcd4 import PointCloud as Pypcd4Cloud  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("comparing with pypcd4 needs it: pip install 'heatv2x[test]'") from error
    cloud = Pypcd4Cloud.from_path(path)
    if "rgb" in cloud.fields:
        red = Pypcd4Cloud.decode_rgb(cloud.numpy(("rgb",)).astype(np.float32))[:, :1]
        np.hstack([cloud.numpy(("x", "y", "z")), red / 255])
    else:
        cloud.numpy(("x", "y", "z", "intensity"))


def _forget(visits: Sequence[Visit]) -> bool:
    """Ask the system to drop the files from its memory; False where that cannot be asked."""
    advise = getattr(os, "posix_fadvise", None)
    if advise is None:
        return False
    paths = {*(path for visit in visits for path in visit.sources.values())}
    paths |= {file.path for visit in visits for file in visit.files if file.path is not None}
    for path in paths:
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # what is not written yet cannot be dropped
                advise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


# --- memory -----------------------------------------------------------------------------------------------------------


def memory_over(dataset: Dataset, reads: int) -> dict[str, Any]:
    """Resident megabytes while frames are read again and again, ten times along the way."""
    sensors = _wanted(dataset, "lidar")
    measured = []
    for number in range(reads):
        index = number % len(dataset)
        dataset.read(index, sensors[index])
        if number % max(reads // 10, 1) == max(reads // 10, 1) - 1:
            measured.append(_resident_mb())
    settled = measured[len(measured) // 5 :]
    return {"reads": reads, "resident_mb": measured, "growth_mb": round(settled[-1] - settled[0], 1)}


def _resident_mb() -> float:
    status = Path("/proc/self/status")
    found = re.search(r"^VmRSS:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return round(int(found[1]) / 1024, 1) if found else float("nan")
