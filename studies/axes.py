"""What a sender's axes cost: average precision by the heading of the sender relative to the ego's.

A feature map is computed on a lattice along its sender's axes. The ego turns it and samples it on its own lattice, but
what the channels say of a box, its heading and its offset from the cell, still belongs to the sender's axes. Every pair
of agents in range is evaluated by itself: the map as it is sent, resampled bilinearly or from the nearest cell; the map
that the sender's network makes of the same points when it is given the ego's axes and lattice, which nobody could send
to several egos; and boxes, which move exactly. With and without the reader.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from heatv2x.core.workers import Tell
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.data.ground_truth import ground_truth, in_range
from heatv2x.evaluation.average_precision import ApAccumulator
from heatv2x.evaluation.protocols import HEATV2X
from heatv2x.evaluation.rows import OneBar
from heatv2x.geometry.grid import BevGrid
from heatv2x.link.channel import ChannelConfig
from heatv2x.link.message import Message, pack, unpack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.variants import exchanging
from heatv2x.structures import AgentFrame, Boxes3D, Frame, PointCloud, Pose
from heatv2x.world.build import build_world
from studies import bandwidth
from studies.adaptation import world_of
from studies.cells import Cell, Content, run_cells
from studies.config import BASE, OnItsNetworks
from studies.experiments import Place

BINS = ((0, 10), (10, 45), (45, 80), (80, 100), (100, 135), (135, 170), (170, 180))
"""Degrees between the headings, without their sign."""
WAYS = {
    "bilinear": "features, as sent",
    "nearest": "features, nearest cell",
    "ego_axes": "features in the ego's axes",
    "late": "boxes (late fusion)",
    "read": "with the reader",
    "read_ego_axes": "with the reader, ego's axes",
}


class AxesConfig(OnItsNetworks):
    """Attributes:
    split: whose towns.
    """

    split: str = "test"


def quick(config: AxesConfig) -> AxesConfig:
    """One seed and little of everything: shows that every line can be drawn."""
    return config.small("axes", frames=3)


class NearestGrid(BevGrid):
    """A grid that takes the value of the nearest cell where others interpolate."""

    def warp(self, features: Tensor, T_source_target: Tensor, target: BevGrid | None = None) -> Tensor:
        """(N, C, Yt, Xt), as `BevGrid.warp` but for the interpolation."""
        positions = self._positions(T_source_target.to(features.device), target or self)
        return torch.nn.functional.grid_sample(
            features, positions.to(features.dtype), mode="nearest", align_corners=False
        )


def run_axes(config: AxesConfig, tell: Tell) -> dict[str, Content]:
    """Measure every seed that is not finished; gives the contents of the cells."""
    build_world(world_of(config.networks_here), OneBar(tell, "building the world").of(1))
    about = {
        **config.networks.decisive(),
        "reader": [config.reader_frames, config.reader_steps],
        "split": config.split,
        "frames": config.frames,
        "ways": list(WAYS),
        "bins": BINS,
    }
    cells = [
        Cell(f"seed{seed}", measure, (config, seed), {**about, "seed": seed}, seconds=600.0) for seed in config.seeds
    ]
    return run_cells(cells, config.docs / "axes_cells", config.processes, tell)


def measure(config: AxesConfig, seed: int, tell: Tell) -> Content:
    """All pairs of one seed."""
    place = Place(config.networks_here, seed)
    bandwidth.prepare(place, tell)
    bandwidth.train_reader(config, place, tell)
    plain = Collaboration.from_packs(place.pack("base", "base"), place.pack("base", BASE))
    read = Collaboration.from_packs(place.pack("reader", "base"), place.pack("base", BASE))
    read.use_budget(None)
    data = Opv2v(place.world, config.split)
    count = len(data) if config.frames is None else min(config.frames, len(data))
    bar = OneBar(tell, "evaluating pairs").of(1)
    tallies = {way: {index: ApAccumulator(HEATV2X) for index in range(len(BINS))} for way in WAYS}
    pairs = [0] * len(BINS)
    for index in range(count):
        listener = Listener(plain, read)
        for heading, pair in pairs_of(data.read(index, plain.agent(BASE).sensors), plain.grid):
            where = bin_of(heading)
            pairs[where] += 1
            for way, found in listener.detections(pair).items():
                tallies[way][where].add(found, pair.truth, data.name(index))
        bar(index + 1, count)
    rows = [
        {"way": way, "bin": list(BINS[where]), "pairs": pairs[where], "seed": seed, "ap": tally.ap()}
        for way, by_bin in tallies.items()
        for where, tally in by_bin.items()
        if pairs[where]
    ]
    rows += [
        {"way": way, "bin": None, "pairs": sum(pairs), "seed": seed, "ap": ApAccumulator.joined(list(b.values())).ap()}
        for way, b in tallies.items()
    ]
    return {"seed": seed, "rows": rows, "stages": place.stages}


@dataclasses.dataclass(frozen=True)
class Pair:
    """An ego, one sender, and what either sees.

    Attributes:
        ego, sender: with their sensors.
        turned: the sender's sensors along the ego's axes, on the ego's lattice.
        truth: in the ego's frame.
        limits: of the evaluation.
    """

    ego: AgentFrame
    sender: AgentFrame
    turned: AgentFrame
    truth: Boxes3D
    limits: tuple[float, float, float, float, float, float]


def pairs_of(frame: Frame, grid: BevGrid) -> list[tuple[float, Pair]]:
    """Every ordered pair of agents in communication range, with the degrees between their headings."""
    limits = (grid.x_min, grid.y_min, -np.inf, grid.x_max, grid.y_max, np.inf)
    range_m = ChannelConfig().range_m
    found = []
    for i, j in itertools.permutations(range(len(frame.agents)), 2):
        ego, sender = frame.agents[i], frame.agents[j]
        if ego.pose.planar_distance(sender.pose) > range_m:
            continue
        T = sender.pose.relative_to(ego.pose)
        truth = ground_truth(frame, i, [i, j], limits=limits, comm_range_m=range_m)
        pair = Pair(ego, sender, along(sender, ego.pose, grid.cell), truth, limits)
        found.append((math.degrees(math.atan2(T[1, 0], T[0, 0])), pair))
    return found


def along(sender: AgentFrame, ego: Pose, cell: float) -> AgentFrame:
    """The sender's sweeps in a frame along the ego's axes, whole cells away from the ego."""
    T = sender.pose.relative_to(ego)
    place = np.eye(4)
    place[:2, 3], place[2, 3] = np.rint(T[:2, 3] / cell) * cell, T[2, 3]
    pose = Pose(ego.matrix @ place)
    T_new_old = sender.pose.relative_to(pose).astype(np.float32)
    lidars = {}
    for name, cloud in sender.lidars.items():
        points = cloud.points.copy()
        points[:, :3] = points[:, :3] @ T_new_old[:3, :3].T + T_new_old[:3, 3]
        lidars[name] = PointCloud(points)
    return replace(sender, pose=pose, lidars=lidars)


def bin_of(heading: float) -> int:
    """Which bin a heading in degrees belongs to."""
    turned = abs(math.remainder(heading, 360.0))
    return next(index for index, (_, end) in enumerate(BINS) if turned <= end)


class Listener:
    """An ego that hears one sender at a time, each way; what it and others say in a frame is encoded once."""

    def __init__(self, plain: Collaboration, read: Collaboration) -> None:
        self.plain, self.read, self.late = plain, read, exchanging(plain, "boxes")
        self._own: dict[tuple[int, int], Message] = {}
        self._sent: dict[tuple[int, int], Message] = {}

    def detections(self, pair: Pair) -> dict[str, Boxes3D]:
        """What the ego finds in its range, by way."""
        plain, grid = self.plain, self.plain.grid
        turned = {model: unpack(pack(model.encode(pair.turned, BASE))) for model in (plain, self.read)}
        found = {
            "bilinear": self._hears(plain, pair, self._said(plain, pair.sender)),
            "ego_axes": self._hears(plain, pair, turned[plain]),
            "late": self._hears(self.late, pair, self._said(self.late, pair.sender)),
            "read": self._hears(self.read, pair, self._said(self.read, pair.sender)),
            "read_ego_axes": self._hears(self.read, pair, turned[self.read]),
        }
        plain.grid = NearestGrid(**dataclasses.asdict(grid))
        try:
            found["nearest"] = self._hears(plain, pair, self._said(plain, pair.sender))
        finally:
            plain.grid = grid
        return {way: boxes[in_range(boxes.boxes.astype(np.float64), pair.limits)] for way, boxes in found.items()}

    def _hears(self, model: Collaboration, pair: Pair, message: Message) -> Boxes3D:
        key = id(model), pair.ego.agent_id
        if key not in self._own:
            self._own[key] = model.encode(pair.ego, BASE)
        return model.detect(self._own[key], [message], guard=False)

    def _said(self, model: Collaboration, frame: AgentFrame) -> Message:
        key = id(model), frame.agent_id
        if key not in self._sent:
            self._sent[key] = unpack(pack(model.encode(frame, BASE)))
        return self._sent[key]
