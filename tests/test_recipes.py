"""The published recipes run from a dataset in its real layout to the table: every stage, every newcomer, both bases.

The networks have their published sizes; only the grid, the images and the steps are cut down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from heatv2x.assembly import resolved
from heatv2x.bench.parameters import count_newcomer
from heatv2x.config import build, merge, read_recipe
from heatv2x.evaluation import EvalConfig, run_eval
from heatv2x.published_types import TYPES
from heatv2x.training import job_config, jobs
from tests.formats.dair_writer import write_dair_v2x
from tests.formats.opv2v_writer import Scenario, write_opv2v_h

RECIPES = Path(__file__).parent.parent / "heatv2x" / "recipes"
GRID = {"half_extent_m": 25.6, "half_extent_y_m": 12.8}
QUICK = {"steps": 1, "batch_size": 1, "precision": "float32", "frames": 1, "checkpoint_every": 0, "device": "cpu"}
SMALL_IMAGES = {"agent": {"settings": {"image_size": [64, 96], "own_half_extent_m": [12.8, 12.8]}}}
STREET = (
    Scenario("train", "2021_08_18_19_48_05", (1045, 1054), ("000068",)),
    Scenario("test", "2021_08_18_19_11_02", (102, 111, 120, 13), ("000090",)),
)


@dataclass
class Study:
    """One dataset's recipes."""

    base_type: str
    newcomers: tuple[str, ...]
    write: Callable[[Path], Any]
    table: Mapping[str, Any]


STUDIES = {
    "opv2v_h": Study(
        "lidar64_pillars",
        ("camera_efficientnet", "lidar32_voxels", "camera_resnet"),
        lambda out: write_opv2v_h(out, STREET),
        {"recipe": "opv2v_h_in_order", "half_extent_m": 51.2, "half_extent_y_m": 25.6},
    ),
    "dair_v2x": Study(
        "lidar",
        ("camera", "lidar_voxels"),
        write_dair_v2x,
        {"dataset": "dair_v2x", "split": "validate", "protocol": "heal_dair", "ego": "lidar"},
    ),
}


def recipe(name: str, **settings: Any) -> dict[str, Any]:
    return merge(read_recipe(RECIPES / f"{name}.yaml"), settings)


@pytest.fixture(scope="module", params=STUDIES)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A dataset's name, and its tree in the real layout."""
    root = tmp_path_factory.mktemp(request.param)
    STUDIES[request.param].write(root)
    return request.param, root


@pytest.fixture(scope="module")
def encoders(study: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every newcomer's encoder, pretrained for a step on its own grid."""
    dataset, data = study
    out = tmp_path_factory.mktemp("encoders")
    packs = {}
    for name in STUDIES[dataset].newcomers:
        cut = SMALL_IMAGES if name.startswith("camera") else {}
        wanted = recipe(f"{dataset}_{name}", **QUICK, **cut, model={"half_extent_m": 12.8, "half_extent_y_m": 12.8})
        result = jobs.train_encoder(build(job_config.EncoderConfig, {**wanted, "data": data, "out": out / name}))
        packs[name] = next(path for path in result.packs if path.stem == name)
    return packs


@pytest.mark.parametrize("kind", ["", "_pyramid"])
def test_from_the_dataset_to_the_table(
    study: tuple[str, Path], encoders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    dataset, data = study
    about = STUDIES[dataset]
    settings = recipe(f"{dataset}{kind}", **QUICK, model=GRID)
    base = jobs.train_base(build(job_config.BaseConfig, {**settings, "data": data, "out": tmp_path / "base"}))
    base_pack, own = (tmp_path / "base" / f"{name}.safetensors" for name in ("base", about.base_type))
    packs = [base_pack, own, *encoders.values()]
    for newcomer, encoder in encoders.items():
        common = {"data": data, "newcomer": newcomer, "base": base_pack, "agents": [own, encoder], **QUICK}
        local = recipe(f"{dataset}{kind}_local", **common, out=tmp_path / f"local_{newcomer}")
        lhft = jobs.adapt_local(build(job_config.LocalConfig, local))
        together = recipe(f"{dataset}{kind}_collaborative", **common, out=tmp_path / newcomer, adapter=lhft.packs[0])
        gcft = jobs.adapt_collaborative(build(job_config.CollaborativeConfig, together))
        packs += gcft.packs
        for stage in (lhft, gcft):
            assert stage.record.steps == 1 and stage.record.frozen_proof["bit_identical"]
            assert stage.record.curve[0]["loss"] > 0
        counted = count_newcomer(f"{dataset}{kind}", newcomer)
        assert lhft.record.trained_parameters == counted.lhft and gcft.record.trained_parameters == counted.gcft
        assert base.record.trained_parameters == counted.base_parameters
    table = {k: v for k, v in about.table.items() if k != "recipe"}
    table = recipe(about.table["recipe"], **table) if "recipe" in about.table else table | {"senders": newcomer}
    if dataset == "opv2v_h":
        table["assignment"] = data / "opv2v_4modality_in_order.json"
    rows = run_eval(build(EvalConfig, {**table, "data": data, "packs": packs, "frames": 1, "out": tmp_path / "eval"}))
    assert all(row["n_ground_truth"] >= 3 and row["protocol"]["name"] == table["protocol"] for row in rows)
    if dataset == "opv2v_h":
        assert [row["name"] for row in rows] == [f"assigned/{count}" for count in (1, 2, 3, 4)]
        assert [bool(row["message_bytes"]) for row in rows] == [False, True, True, True]


def test_recipes_hold_the_published_types() -> None:
    base = [recipe(name)["model"]["agents"]["lidar64_pillars"] for name in ("opv2v_h", "opv2v_h_pyramid")]
    found = {name: recipe(f"opv2v_h_{name}")["agent"] for name in STUDIES["opv2v_h"].newcomers}
    for part, name in [*((part, "lidar64_pillars") for part in base), *((found[name], name) for name in found)]:
        published = jobs.PartConfig(**part)
        assert published.part == TYPES[name].part.part
        assert whole(published) == whole(TYPES[name].part)


def whole(part: jobs.PartConfig) -> dict[str, Any]:
    """Every setting of an agent kind, defaults included."""
    return resolved("agents", part).settings
