"""Sensor data that are empty, or the same again: frozen sensors, frames twice, copies under another agent's name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from heatv2x.data.plausibility.verdict import Finding, Verdict, verdicts_of
from heatv2x.structures import Float64, PointCloud, UInt8

_FEW_POINTS = 10
_MOVED_M = 0.3
_COLOURS = 100
_TWICE = "the frame was written twice: the sweeps of all agents, poses and labels are those of another frame"
Stream = tuple[str, str, int, str]


@dataclass(frozen=True)
class _Taken:
    """One piece of sensor data: where it belongs, what was labelled around it, and the hash of its path."""

    split: str
    scenario: str
    timestamp: str
    agent_id: int
    sensor: str
    position: tuple[float, float, float]
    moving: Float64
    source: int | None


@dataclass
class Repetitions:
    """Checksums of all sweeps and images, gathered over a dataset."""

    first: dict[tuple[bytes, str], _Taken] = field(default_factory=dict)
    count: dict[Stream, int] = field(default_factory=dict)
    empty: dict[Stream, int] = field(default_factory=dict)
    frozen: dict[Stream, list[tuple[_Taken, _Taken]]] = field(default_factory=dict)
    start: dict[Stream, _Taken] = field(default_factory=dict)
    moves: set[Stream] = field(default_factory=set)
    copied: dict[tuple[Stream, Stream], int] = field(default_factory=dict)

    def add_cloud(
        self,
        where: tuple[str, str, str],
        agent_id: int,
        sensor: str,
        cloud: PointCloud,
        at: Float64,
        labels: Float64,
        source: Path | None = None,
    ) -> None:
        """Take in a sweep; see `_add`. `sensor` names its kind of file."""
        if len(cloud) <= _FEW_POINTS:
            stream = (where[0], where[1], agent_id, sensor)
            self.count[stream] = self.count.get(stream, 0) + 1
            self.empty[stream] = self.empty.get(stream, 0) + 1
            return
        self._add(where, agent_id, sensor, cloud.points, at, labels, source)

    def add_image(
        self,
        where: tuple[str, str, str],
        agent_id: int,
        sensor: str,
        image: UInt8,
        at: Float64,
        source: Path | None = None,
    ) -> None:
        """Take in an image (H, W, 3); a drawn one of few colours, sky and road, may well come twice."""
        colours = image[::4, ::4].astype(np.int32) @ np.array([65536, 256, 1], np.int32)
        if len(np.unique(colours)) >= _COLOURS:
            self._add(where, agent_id, sensor, image, at, np.zeros((0, 3)), source)

    def _add(
        self,
        where: tuple[str, str, str],
        agent_id: int,
        sensor: str,
        data: npt.NDArray[np.generic],
        at: Float64,
        labels: Float64,
        source: Path | None,
    ) -> None:
        """Take in sensor data.

        Args:
            where: split, scenario and timestamp.
            agent_id: whose data.
            sensor: their kind.
            data: points or pixels.
            at: (3,) where the agent stands.
            labels: (N, 3) where the labelled objects around it are.
            source: their file; one file that belongs to several frames repeats nothing.
        """
        content = np.ascontiguousarray(data)
        stream = (where[0], where[1], agent_id, sensor)
        self.count[stream] = self.count.get(stream, 0) + 1
        code = (hashlib.blake2b(content.tobytes(), digest_size=8).digest(), sensor)
        x, y, z = (float(number) for number in at)
        taken = _Taken(*where, agent_id, sensor, (x, y, z), labels, None if source is None else hash(source))
        start = self.start.setdefault(stream, taken)
        if max(_way(start, taken), _labels_moved(start, taken)) > _MOVED_M:
            self.moves.add(stream)
        known = self.first.setdefault(code, taken)
        if known is taken or (known.source is not None and known.source == taken.source):
            return
        other = (known.split, known.scenario, known.agent_id, sensor)
        if stream == other:
            self.frozen.setdefault(stream, []).append((known, taken))
        else:
            self.copied[other, stream] = self.copied.get((other, stream), 0) + 1

    def verdicts(self) -> Iterator[Verdict]:
        """What is empty, frozen or copied."""
        empty = [
            Finding(
                "empty",
                *stream[:3],
                f"{count} of {self.count[stream]} clouds ({stream[3]}) are empty or hold at most {_FEW_POINTS} points",
                "the sensor or its recording failed, or the points were filtered away",
            )
            for stream, count in self.empty.items()
        ]
        yield from verdicts_of("sensors", empty)
        frozen: list[Finding] = []
        twice: list[Finding] = []
        still: list[Finding] = []
        for stream, pairs in self.frozen.items():
            told, moved = _frozen(stream, pairs)
            (frozen if moved else twice if self._all_repeat(stream, pairs) else still).append(told)
        yield from verdicts_of("repeated data", frozen)
        yield from verdicts_of("repeated data", [replace(each, key="twice", cause=_TWICE) for each in twice])
        yield from verdicts_of("repeated data", still, "note")
        copied = [
            Finding(
                "copied",
                *stream[:3],
                f"{count} of its {stream[3]} files equal those of agent {other[2]} of {other[0]}/{other[1]}",
                "files were copied to the wrong place, or the same recording exists twice",
            )
            for (other, stream), count in self.copied.items()
        ]
        yield from verdicts_of("repeated data", copied)
        if self.first and not (frozen or twice or still or copied):
            yield Verdict("repeated data", "ok", f"{len(self.first):,} sweeps and images differ from one another")

    def _all_repeat(self, stream: Stream, pairs: list[tuple[_Taken, _Taken]]) -> bool:
        """Whether all sweeps of a frame repeat an earlier frame's, though things move between other frames."""
        together = [other for other in self.count if other[:2] == stream[:2] and other[3] == stream[3]]
        if not any(other in self.moves for other in together):
            return False
        times = {(one.timestamp, other.timestamp) for one, other in pairs}
        for other in together:
            times &= {(one.timestamp, two.timestamp) for one, two in self.frozen.get(other, [])}
        return bool(times)


def _frozen(stream: Stream, pairs: list[tuple[_Taken, _Taken]]) -> tuple[Finding, bool]:
    """What repeats, and whether the agent or a labelled object moved meanwhile, so that it cannot be true."""
    moved = [max(_way(one, other), _labels_moved(one, other)) for one, other in pairs]
    first, again = pairs[int(np.argmax(moved))]
    seen = (
        f"{len(pairs) + 1} frames have the same {stream[3]}, frames {first.timestamp} and {again.timestamp} for example"
    )
    if max(moved) > _MOVED_M:
        what = "the agent" if _way(first, again) > _MOVED_M else "a labelled object"
        seen += f", although {what} moved by {max(moved):.1f} m meanwhile"
        return Finding("frozen", *stream[:3], seen, "the sensor is frozen: its last data are repeated"), True
    seen += "; nothing moved meanwhile"
    return Finding(
        "repeated", *stream[:3], seen, "frames that were written twice, or a simulation without noise that stands still"
    ), False


def _way(one: _Taken, other: _Taken) -> float:
    return float(np.linalg.norm(np.subtract(one.position, other.position)))


def _labels_moved(one: _Taken, other: _Taken) -> float:
    """How far the labelled object moved that moved most, by the nearest label."""
    if not len(one.moving) or len(one.moving) != len(other.moving):
        return 0.0
    apart = np.linalg.norm(one.moving[:, None] - other.moving[None], axis=2)
    return float(apart.min(axis=1).max())
