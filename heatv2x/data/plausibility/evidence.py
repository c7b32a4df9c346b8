"""Everything that is gathered on the way through a split, and what it proves in the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from heatv2x.data.plausibility.box_evidence import judge_boxes
from heatv2x.data.plausibility.box_fit import NEAR_M
from heatv2x.data.plausibility.cameras import Cameras
from heatv2x.data.plausibility.clocks import Clocks
from heatv2x.data.plausibility.ground import judge_ground, odd_units
from heatv2x.data.plausibility.identities import Identities, Sightings
from heatv2x.data.plausibility.overlap import judge_overlap
from heatv2x.data.plausibility.repetition import Repetitions
from heatv2x.data.plausibility.returns import Returns
from heatv2x.data.plausibility.stale import judge_moments
from heatv2x.data.plausibility.sweep import Group, Sweep, take_sweep
from heatv2x.data.plausibility.verdict import Finding, Verdict, verdicts_of
from heatv2x.data.survey import SensorFile
from heatv2x.structures import Camera, Float64, Frame, PointCloud

SAMPLED_FRAMES = 160
"""So many frames of a split are compared with their sweeps, in pairs of consecutive ones; all are read."""


@dataclass
class Evidence:
    """What frames, sweeps and images say about one another.

    Attributes:
        tracked: whether ids follow objects from frame to frame.
        labels_in_world: whether labels that fit an agent's points prove its pose.
    """

    tracked: bool = True
    labels_in_world: bool = True
    groups: dict[Group, list[Sweep]] = field(default_factory=dict)
    returns: Returns = field(default_factory=Returns)
    repetitions: Repetitions = field(default_factory=Repetitions)
    clocks: Clocks = field(default_factory=Clocks)
    identities: Identities = field(default_factory=Identities)
    cameras: Cameras = field(default_factory=Cameras)
    units: list[Finding] = field(default_factory=list)
    odd: set[Group] = field(default_factory=set)

    def add_frame(
        self, split: str, frame: Frame, before: Frame | None, times_us: dict[int, int], sightings: Sightings
    ) -> None:
        """Take in a described frame and the one before it in its scenario."""
        places = {agent.agent_id: (float(agent.pose.xyz[0]), float(agent.pose.xyz[1])) for agent in frame.agents}
        self.clocks.add(split, frame.scenario, times_us, places)
        self.identities.add(split, frame, before, sightings)

    def add_cloud(self, split: str, frame: Frame, file: SensorFile, cloud: PointCloud, compared: bool) -> None:
        """Take in a sweep; `compared` with the labels, or only with other sweeps."""
        agent_id = file.agent
        at, labels = _place(frame, agent_id), frame.objects.T_world_object[:, :3, 3]
        labels = labels[np.linalg.norm(labels[:, :2] - at[:2], axis=1) < NEAR_M]
        where = (split, frame.scenario, frame.timestamp)
        self.returns.add(cloud)
        self.repetitions.add_cloud(where, agent_id, file.kind, cloud, at, labels, file.path)
        if not compared:
            return
        group = (split, frame.scenario, agent_id)
        if (odd := odd_units(cloud.points, at)) is not None:
            if group not in self.odd:
                seen, cause = odd
                self.units.append(Finding(cause, *group, seen, cause))
            self.odd.add(group)
        elif len(cloud):
            self.groups.setdefault(group, []).append(take_sweep(split, frame, agent_id, cloud, self.tracked))

    def add_camera(self, split: str, frame: Frame, file: SensorFile, camera: Camera) -> None:
        """Take in a camera's image."""
        where = (split, frame.scenario, frame.timestamp)
        name = f"{file.kind} of {camera.name}"
        self.repetitions.add_image(where, file.agent, name, camera.image, _place(frame, file.agent), file.path)
        self.cameras.add(where, file.agent, camera)

    def verdicts(self) -> Iterator[Verdict]:
        """What was found, question by question."""
        yield from self.returns.verdicts()
        yield from verdicts_of("units", self.units)
        yield from self.repetitions.verdicts()
        yield from self.clocks.verdicts()
        yield from self.identities.verdicts(self.tracked)
        boxes, wrong, proven = judge_boxes(self.groups, self.labels_in_world)
        yield from boxes
        right = {group: sweeps for group, sweeps in self.groups.items() if group not in wrong}
        yield from judge_moments(right)
        yield from judge_ground(self.groups, wrong)
        yield from judge_overlap(self.groups, wrong, proven)
        yield from self.cameras.verdicts()


def _place(frame: Frame, agent_id: int) -> Float64:
    return np.asarray(next(agent.pose.xyz for agent in frame.agents if agent.agent_id == agent_id))
