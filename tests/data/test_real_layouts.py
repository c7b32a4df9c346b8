"""Every dataset of the field goes from its real layout to a trained and evaluated model, with targets to learn from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heatv2x.core.config import build, parse_overrides, read_recipe
from heatv2x.data.datasets.base import open_dataset
from heatv2x.evaluation.job import EvalConfig, run_eval
from heatv2x.evaluation.protocols import find_protocol
from heatv2x.training import jobs, recipes
from heatv2x.training.pool import load_pool
from heatv2x.training.scenes import Scene, SceneConfig, targets
from tests.formats.dair_writer import write_dair_v2x
from tests.formats.folder_writer import write_folder
from tests.formats.opv2v_writer import OPV2V, V2XSET, write_opv2v_h, write_v2xset

SMALL = ["model.half_extent_m=25.6", "model.channels=16", "model.neck_channels=16", "model.head.settings.hidden=16"]
QUICK = ["steps=2", "batch_size=2", "precision=float32"]

LAYOUTS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "opv2v_h": ("opv2v", lambda out: write_opv2v_h(out, OPV2V[::3], images=False), "lidar64"),
    "v2xset": ("opv2v", lambda out: write_v2xset(out, V2XSET[:1], images=False), "lidar64"),
    "dair_v2x": ("dair_v2x", lambda out: write_dair_v2x(out, images=False), "lidar"),
    "folder": ("folder", lambda out: write_folder(out, images=False), "lidar"),
}


def packs_in(run: Path) -> tuple[Path, ...]:
    """The packs of a run folder, without the checkpoint."""
    return tuple(path for path in sorted(run.glob("*.safetensors")) if path.stem != "checkpoint")


@pytest.fixture(scope="module", params=LAYOUTS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A layout's name, its tree, and the run folder of a base trained on it for two steps."""
    name = request.param
    part, write, sensor = LAYOUTS[name]
    root = tmp_path_factory.mktemp(name)
    write(root / "data")
    words = [f"data={root / 'data'}", f"dataset={part}", f"out={root / 'run'}", *SMALL, *QUICK]
    words += [f"model.agents.main={{part: lidar_pillar, settings: {{sensor: {sensor}}}}}"]
    jobs.train_base(build(jobs.BaseConfig, parse_overrides(words)))
    return name, root / "data", root / "run"


def test_training_sees_targets_with_the_default_settings(trained: tuple[str, Path, Path]) -> None:
    """No default asks for LiDAR returns that these datasets do not count."""
    name, data, run = trained
    part = LAYOUTS[name][0]
    record = json.loads((run / "record.json").read_text())
    assert record["steps"] == 2 and all(point["loss"] > 0 for point in record["curve"])
    dataset, model = open_dataset(part, data, "train"), jobs.Collaboration.from_packs(*packs_in(run))
    pool = load_pool(dataset, {"main": model.agent("main")}, limit=1)
    frame = pool.frames[0]
    members = list(range(len(frame.agents)))
    seen, own = targets(Scene(frame, members, ["main"] * len(members), [], []), model.grid, SceneConfig().min_hits)
    assert len(seen) >= 3 and all(len(boxes) >= 2 for boxes in own)


def test_evaluation_of_what_was_trained(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    name, data, run = trained
    split = {"opv2v_h": "test", "v2xset": "train", "dair_v2x": "validate", "folder": "test"}[name]
    protocol = {"opv2v_h": "heal_opv2v", "dair_v2x": "heal_dair"}.get(name, "heatv2x")
    config = EvalConfig(
        data=data,
        dataset=LAYOUTS[name][0],
        split=split,
        packs=packs_in(run),
        ego="main",
        senders="main",
        protocol=protocol,
        frames=1,
        out=tmp_path,
    )
    (row,) = run_eval(config)
    assert row["n_frames"] == 1 and row["n_ground_truth"] >= 3 and row["message_bytes"] > 0
    assert row["protocol"]["name"] == protocol and len(row["ap_by_scenario"]) == 1


def test_in_order_evaluation_of_opv2v_h(tmp_path: Path) -> None:
    write_opv2v_h(tmp_path / "data", OPV2V[3:4], images=False)
    write_opv2v_h(tmp_path / "train", OPV2V[:1], images=False)
    agents = "{main: {part: lidar_pillar}, other: {part: lidar_slices, settings: {sensor: lidar32}}}"
    words = [f"data={tmp_path / 'train'}", f"out={tmp_path / 'run'}", f"model.agents={agents}", *SMALL, *QUICK]
    jobs.train_base(build(jobs.BaseConfig, parse_overrides(words)))
    settings = read_recipe(recipes.FOLDER / "opv2v_h_in_order.yaml") | {
        "data": tmp_path / "data",
        "packs": packs_in(tmp_path / "run"),
        "assignment": tmp_path / "data" / "opv2v_4modality_in_order.json",
        "ego": "main",
        "plays": {"m1": "main", "m3": "other"},
        "half_extent_m": None,
        "half_extent_y_m": None,
        "out": tmp_path / "eval",
        "frames": 1,
    }
    rows = run_eval(build(EvalConfig, settings))
    assert [row["name"] for row in rows] == ["assigned/1", "assigned/2", "assigned/3", "assigned/4"]
    assert len({row["n_ground_truth"] for row in rows}) == 1 and rows[0]["n_ground_truth"] >= 5
    sent = [row["message_bytes"] for row in rows]
    assert not sent[0] and not sent[1] and sent[2] and sent[3]  # the second agent has cameras and takes no part here


@pytest.mark.parametrize("name", ["opv2v_h", "dair_v2x"])
def test_published_settings_fit_together(name: str) -> None:
    config = build(jobs.BaseConfig, {**read_recipe(recipes.FOLDER / f"{name}.yaml"), "data": "d"}, name)
    protocol = find_protocol({"opv2v_h": "heal_opv2v", "dair_v2x": "heal_dair"}[name])
    assert protocol.x_range_m is not None and config.model.half_extent_m == protocol.x_range_m[1]
    assert config.scenes.range_m == protocol.comm_range_m and config.scenes.senders + 1 == protocol.max_agents
    jobs.Collaboration(config.model)
