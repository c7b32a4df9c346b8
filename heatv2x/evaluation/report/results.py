"""metrics.json: every number of a run, each beside the protocol that produced it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pydantic

from heatv2x.evaluation.report import contract

FILE_NAME = "metrics.json"
WAY_OUT = "evaluate the run first (heatv2x eval), or give the folder of a finished run"


@dataclass
class Row:
    """One method on one test set: a line of the table.

    A number that was not measured is None and shown as a dash, never as zero.

    Attributes:
        name: unique; a bare name ("lhft_gcft") is about the first newcomer with a base ego, others are prefixed:
            "camera/lhft_gcft", "ego_lidar16/lhft_gcft", "control/...".
        newcomer: agent type that joins, None where nobody does.
        ego_type: agent type of the ego.
        seed: of training and sampling.
        ap: average precision in 0-1 by IoU threshold, keys "0.3", "0.5", "0.7".
        ap_interval: [low, high] in 0-1 by the same keys.
        ap_by_distance: AP at IoU 0.5 in 0-1 by distance from the ego, keys as shown, e.g. "0-20 m", in reading order.
        recall_by_hits: recall in 0-1 by how many LiDAR returns an object got, keys as shown, e.g. "1-5", in order.
        ap_visible_to_ego: like `ap`, on the ground truth that the ego's own sensors see.
        protocol: what the AP means: "name" and its settings (iou, sort, range, ground truth, split ...).
        trained_parameters: tensors' elements trained in this row's last stage.
        cumulative_parameters: elements of all distinct tensors trained since encoder pretraining.
        train_seconds: process CPU-seconds, None for a row that comes from a shipped pack.
        train_wall_seconds: the same work by the clock on the wall.
        provenance_seconds: CPU-seconds that the shipped pack once took, where `train_seconds` is None.
        peak_memory_mb: of the training process, megabytes.
        message_bytes: mean packed bytes per sender and frame.
        codec: name of the codec of those bytes.
        n_frames: evaluated frames.
        n_ground_truth: objects in them.
    """

    name: str
    ap: dict[str, float | None]
    newcomer: str | None = None
    ego_type: str | None = None
    seed: int | None = None
    ap_interval: dict[str, list[float | None] | None] | None = None
    ap_by_distance: dict[str, float | None] | None = None
    recall_by_hits: dict[str, float | None] | None = None
    ap_visible_to_ego: dict[str, float | None] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    trained_parameters: int | None = None
    cumulative_parameters: int | None = None
    train_seconds: float | None = None
    train_wall_seconds: float | None = None
    provenance_seconds: float | None = None
    peak_memory_mb: float | None = None
    message_bytes: float | None = None
    codec: str | None = None
    n_frames: int | None = None
    n_ground_truth: int | None = None

    @property
    def prefix(self) -> str:
        """What stands before the last slash of the name: "" for the main story, "camera", "control" ..."""
        return self.name.rpartition("/")[0]

    @property
    def method(self) -> str:
        """The name without its prefix: "lhft_gcft"."""
        return self.name.rpartition("/")[2]

    def points(self, iou: str = "0.5") -> float | None:
        """AP in points (0-100) at an IoU threshold, None if not measured."""
        value = self.ap.get(iou)
        return None if value is None else 100 * value

    def interval(self, iou: str = "0.5") -> tuple[float, float] | None:
        """(low, high) of the AP in points, None if not measured."""
        pair = (self.ap_interval or {}).get(iou)
        if not pair or len(pair) != 2 or pair[0] is None or pair[1] is None:
            return None
        return 100 * pair[0], 100 * pair[1]

    @property
    def seconds(self) -> float | None:
        """CPU-seconds of training, from the shipped pack's provenance if nothing was trained in this run."""
        return self.provenance_seconds if self.train_seconds is None else self.train_seconds


@dataclass
class CurvePoint:
    """One logged moment of a training stage.

    Attributes:
        step: optimiser steps so far in this stage.
        seconds: CPU-seconds so far in this stage.
        loss: training loss.
        ap50: validation AP at IoU 0.5 in 0-1, where it was measured.
    """

    step: int
    seconds: float | None = None
    loss: float | None = None
    ap50: float | None = None


@dataclass
class FrozenProof:
    """What was compared before and after training.

    Attributes:
        tensors: how many frozen tensors (BatchNorm statistics too).
        bit_identical: whether every one of them is unchanged.
        sha256: hash over all of them after training.
    """

    tensors: int
    bit_identical: bool
    sha256: str = ""


@dataclass
class StageResult:
    """One training stage of the run.

    Attributes:
        name: "local" (LHFT), "collaborative" (GCFT), "full_finetune", "base" ...; for other newcomers prefixed like
            rows.
        cpu_seconds: process CPU-seconds, reading and caching included.
        wall_seconds: the same work by the clock on the wall.
        trained_parameters: elements of the tensors that learn in this stage.
        steps: optimiser steps.
        curve: in order of steps; may be empty.
        frozen_proof: None (or empty) where nothing is frozen.
    """

    name: str
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    trained_parameters: int | None = None
    steps: int | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    frozen_proof: Annotated[FrozenProof | None, pydantic.BeforeValidator(lambda proof: proof or None)] = None


@dataclass
class Results:
    """The whole of metrics.json.

    Attributes:
        title: shown above the page's headline.
        story: who joins whom: "base_type" and "newcomer" are agent types ("lidar64", "lidar16", "camera" ...).
        rows: in the order of the table.
        stages: in the order they ran.
        world: the data set: counts, seed, version; shown as it is.
        machine: cpu, cores, torch, python ...; shown as it is.
        code_version: of heatv2x, e.g. "0.1.0+g0712c6b".
        command: that regenerates this run.
        date: ISO 8601.
        pending: parts of the run whose rows are not here yet: "full_finetune", or the type of a newcomer.
    """

    rows: list[Row]
    title: str = ""
    story: dict[str, Any] = field(default_factory=dict)
    stages: list[StageResult] = field(default_factory=list)
    world: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    code_version: str = ""
    command: str = ""
    date: str = ""
    pending: list[str] = field(default_factory=list)

    def row(self, name: str) -> Row | None:
        """The row of that full name, None if the run has no such row."""
        return next((row for row in self.rows if row.name == name), None)

    def stage(self, name: str) -> StageResult | None:
        """The stage of that name, None if the run has no such stage."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """The content of metrics.json, ready for `heatv2x.core.files.write_json`."""
        content: dict[str, Any] = contract.plain(self)
        return content

    @classmethod
    def read(cls, run_folder: Path) -> Results:
        """Read a run folder's metrics.json.

        Raises:
            DataError: it is missing or broken; the message names the key.
        """
        return contract.read(cls, run_folder / FILE_NAME, WAY_OUT)
