"""What a dataset says about its own tree, frame by frame, so that it can be checked before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from heatv2x.errors import HeatError
from heatv2x.structures import Camera, Float64, Frame, Int64, PointCloud

Sensed = PointCloud | Camera | tuple[Camera, ...] | None
"""What a sensor file holds, as far as the check can compare it with the rest."""


@dataclass(frozen=True)
class Recognised:
    """A tree in a dataset's layout.

    Attributes:
        title: the dataset's name in the literature, "OPV2V-H".
        splits: which are there.
        published: frames per split of the published data; empty if nothing was published.
        tracked: whether object ids last from frame to frame.
        labels_in_world: whether labels are given in the world; those in a sensor's frame fit its points whatever its
            pose.
        notes: what is unusual about the tree, for the person who checks it.
    """

    title: str
    splits: tuple[str, ...]
    published: Mapping[str, int] = field(default_factory=dict)
    tracked: bool = True
    labels_in_world: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SensorFile:
    """One file that an agent should have at one time.

    Attributes:
        kind: what it is, "32-beam cloud"; faults are counted by kind.
        agent: the agent's id.
        download: the part of the published data that holds it, "OPV2V-H-LiDAR".
        needed: False if a tree may lack this kind as a whole; where one is, all must be.
        read: reads all of it; a sweep, in the agent's frame, or cameras are given back.
        path: where it should lie; None if only reading tells.
        sensor: "lidar", "camera", or "label" for what describes objects.
    """

    kind: str
    agent: int
    download: str
    needed: bool
    read: Callable[[], Sensed]
    path: Path | None = None
    sensor: str = "lidar"


@dataclass(frozen=True)
class Visit:
    """One frame of a survey.

    Attributes:
        name: "scenario/timestamp", or the place where something is wrong.
        frame: poses and objects, without sensor data; None if the description is broken.
        files: the sensor files it should have.
        faults: what is wrong with the description: kind of file and error.
        sources: the file that describes each agent, by its id.
        of: how many frames the split has, as far as is known.
        times_us: when each agent captured what it senses, microseconds, by its id; empty if a frame has one time.
        sightings: by agent id the objects that it labels itself: ids (N,) and their centres (N, 3) in the world, as
            this agent's description places them; empty if objects have one place for all.
    """

    name: str
    frame: Frame | None = None
    files: tuple[SensorFile, ...] = ()
    faults: tuple[tuple[str, HeatError], ...] = ()
    sources: Mapping[int, Path] = field(default_factory=dict)
    of: int = 0
    times_us: Mapping[int, int] = field(default_factory=dict)
    sightings: Mapping[int, tuple[Int64, Float64]] = field(default_factory=dict)
