"""A small run written with the report's own dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from heatv2x.core.files import write_json
from heatv2x.evaluation.report import (
    AgentView,
    CameraView,
    CurvePoint,
    DetectionSet,
    FrozenProof,
    GridExtent,
    Results,
    Row,
    Scenes,
    SceneView,
    StageResult,
)
from heatv2x.evaluation.report.scene import jpeg, pack_map, pack_points

PROTOCOL = {"name": "union_bev", "range_m": [-51.2, 51.2]}


def make_row(name: str, ap50: float | None, **rest: object) -> Row:
    ap = {"0.3": None if ap50 is None else ap50 + 0.05, "0.5": ap50, "0.7": None}
    interval = None if ap50 is None else {"0.5": [ap50 - 0.01, ap50 + 0.01]}
    defaults = {"ego_type": "lidar64", "protocol": PROTOCOL, "ap_interval": interval}
    return Row(name, ap, **{**defaults, **rest})  # type: ignore[arg-type]


@pytest.fixture
def results() -> Results:
    rows = [
        make_row("no_fusion", 0.600, ap_by_distance={"0-20 m": 0.8, "20-50 m": None}),
        make_row("unaligned", 0.427, newcomer="lidar16"),
        make_row(
            "lhft_gcft",
            0.851,
            newcomer="lidar16",
            ap_by_distance={"0-20 m": 0.9, "20-50 m": 0.7},
            recall_by_hits={"0": 0.1, "1+": 0.9},
            ap_visible_to_ego={"0.5": 0.88},
            trained_parameters=51180,
            cumulative_parameters=51180,
            train_seconds=70.2,
            train_wall_seconds=99.0,
            message_bytes=36864.0,
            codec="half",
        ),
        make_row("full_finetune", 0.863, newcomer="lidar16", cumulative_parameters=429535, train_seconds=174.0),
        make_row("control/dropped", 0.6),
    ]
    curve = [CurvePoint(0, 0.0, 2.0, 0.4), CurvePoint(50, 20.0, 1.4), CurvePoint(100, 32.0, 1.1, 0.8)]
    stages = [
        StageResult("local", 32.0, 40.0, 38304, 100, curve, FrozenProof(12, True, "ab" * 32)),
        StageResult("collaborative", 38.2, 50.0, 51180, 150, curve),
    ]
    story = {"base_type": "lidar64", "newcomer": "lidar16"}
    return Results(rows, "Demo", story, stages, {"seed": 0}, {"cpu": "x"}, "0.1", "heatv2x demo", "2025-01-01")


@pytest.fixture
def scenes() -> Scenes:
    rng = np.random.default_rng(0)
    truth = [[10.0, 0.0, 0.0, 4.5, 1.9, 1.6, 0.1], [30.0, 8.0, 0.0, 4.5, 1.9, 1.6, 1.5]]
    agents = [
        AgentView(205, "lidar64", 0, 0, 0, is_ego=True, points=pack_points(rng.normal(0, 15, (300, 2)))),
        AgentView(-1, "lidar16", 20, 10, 2.0, "roadside", False, 36864, pack_points(rng.normal(9, 9, (90, 2))), 1),
    ]
    full = SceneView(
        "town/000068",
        agents,
        truth,
        [True, False],
        [40, 9],
        [[40, 0], [0, 9]],
        {"ego_alone": DetectionSet(truth[:1], [0.9]), "collaborative": DetectionSet(truth, [0.9, 0.7])},
        [pack_map(rng.random((64, 64)))],
        [CameraView(205, "camera0", jpeg(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)))],
    )
    lonely = SceneView("town/empty", [AgentView(7, "camera", 0, 0, 0, is_ego=True)])
    return Scenes(GridExtent(-51.2, 51.2, -51.2, 51.2, 0.8), [full, lonely])


def _write(folder: Path, results: Results, scenes: Scenes) -> Path:
    write_json(folder / "metrics.json", results.to_json())
    write_json(folder / "scenes.json", scenes.to_json())
    return folder


@pytest.fixture
def write_run() -> Callable[[Path, Results, Scenes], Path]:
    return _write


@pytest.fixture
def run_folder(tmp_path: Path, results: Results, scenes: Scenes) -> Path:
    return _write(tmp_path, results, scenes)
