"""The commands of docs/recipes.md run, from a dataset in its real layout to the table: every stage, newcomer and base.

The networks have their published sizes; only the grid, the images, the frames and the steps are cut down.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from heatv2x.core.config import Config, build, merge, parse_overrides, read_recipe
from heatv2x.core.plugins import PartConfig
from heatv2x.evaluation.job import EvalConfig, run_eval
from heatv2x.model.assembly import resolved
from heatv2x.model.packs import read_pack
from heatv2x.model.published_types import TYPES
from heatv2x.training import job_config, jobs, recipes
from studies.parameters import NEWCOMERS, count_newcomer
from tests.formats.dair_writer import write_dair_v2x
from tests.formats.opv2v_writer import Scenario, write_opv2v_h

ROOT = Path(__file__).parents[2]
STREET = (
    Scenario("train", "2021_08_18_19_48_05", (1045, 1054), ("000068",)),
    Scenario("test", "2021_08_18_19_11_02", (102, 111, 120, 13), ("000090",)),
)
WRITERS: dict[str, Callable[[Path], Any]] = {
    "opv2v_h": lambda out: write_opv2v_h(out, STREET),
    "dair_v2x": write_dair_v2x,
}
HEADINGS = {"opv2v_h": "## OPV2V-H", "dair_v2x": "## DAIR-V2X-C"}
JOBS: dict[str, tuple[type[Config], Callable[..., Any]]] = {
    "train base": (job_config.BaseConfig, jobs.train_base),
    "train encoder": (job_config.EncoderConfig, jobs.train_encoder),
    "train reader": (job_config.TrainReaderConfig, jobs.train_reader),
    "adapt local": (job_config.LocalConfig, jobs.adapt_local),
    "adapt collaborative": (job_config.CollaborativeConfig, jobs.adapt_collaborative),
    "adapt backward": (job_config.BackwardConfig, jobs.align_backward),
    "adapt full": (job_config.FullConfig, jobs.full_finetune),
    "eval": (EvalConfig, run_eval),
}
QUICK = {"steps": 1, "batch_size": 1, "precision": "float32", "frames": 1, "checkpoint_every": 0, "device": "cpu"}
SMALL_IMAGES = {"settings": {"image_size": [64, 96], "own_half_extent_m": [12.8, 12.8]}}


@dataclass
class Command:
    """One command of the page, as a shell expands it."""

    verb: str
    settings: dict[str, Any]

    def config(self, cut: Mapping[str, Any] | None = None) -> Any:
        """What the command line makes of it, with further settings laid over it."""
        settings = dict(self.settings)
        if "recipe" in settings:
            settings = merge(read_recipe(recipes.FOLDER / f"{settings.pop('recipe')}.yaml"), settings)
        return build(JOBS[self.verb][0], merge(settings, cut or {}))


def commands(heading: str, **variables: object) -> list[Command]:
    """The commands below a heading, with some of the variables they start with changed."""
    section = (ROOT / "docs" / "recipes.md").read_text().partition(heading)[2]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None
    first, _, rest = block[1].replace(".venv/bin/heatv2x", "heatv2x").partition("\n")
    changed = " ".join(f"{name}={value}" for name, value in variables.items())
    script = f'heatv2x() {{ printf "%s\\t" "$@"; printf "\\n"; }}\n{first}\n{changed}\n{rest}'
    ran = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
    found = []
    for line in ran.stdout.splitlines():
        words = line.rstrip("\t").split("\t")
        plain = [word for word in words if "=" not in word]
        found.append(Command(" ".join(plain[:2]), parse_overrides(word for word in words if "=" in word)))
    return found


@pytest.fixture(scope="module", params=WRITERS)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A dataset's name, its tree in the real layout, and a folder for runs."""
    root = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](root / "data")
    return request.param, root / "data", root / "runs"


def cut_down(command: Command) -> dict[str, Any]:
    """Settings that make a command short; the networks stay as they are."""
    if command.verb == "eval":
        further = Path(command.settings["out"]).name != "table" and "assignment" in command.settings
        grid = {"half_extent_m": 38.4, "half_extent_y_m": 25.6}
        return {"frames": 1, **grid, **({"agents": [2]} if further else {})}
    model = {"half_extent_m": 25.6, "half_extent_y_m": 12.8}
    if command.verb == "train encoder":
        model = {"half_extent_m": 12.8, "half_extent_y_m": 12.8}
        return QUICK | {"model": model} | ({"agent": SMALL_IMAGES} if "camera" in command.settings["recipe"] else {})
    return QUICK | ({"model": model} if command.verb == "train base" else {})


@pytest.mark.parametrize("kind", ["", "_pyramid"])
def test_from_the_dataset_to_the_table(study: tuple[str, Path, Path], kind: str) -> None:
    dataset, data, runs = study
    check, *rest = commands(HEADINGS[dataset], DATA=data, RUNS=runs, BASE=dataset + kind)
    assert check.verb == "data check"
    trained: dict[str, int] = {}
    for command in rest:
        config = command.config(cut_down(command))
        if command.verb == "train encoder" and (config.out / f"{config.name}.safetensors").exists():
            continue  # serves both bases
        result = JOBS[command.verb][1](config)
        if command.verb == "eval":
            check_table(config, result)
            continue
        trained[f"{command.verb} {getattr(config, 'newcomer', '')}"] = result.record.trained_parameters
        if command.verb == "train encoder":
            assert "detector" in read_pack(config.out / f"{config.name}.safetensors", "agent").config
        assert result.record.steps == 1 and result.record.curve[0]["loss"] > 0
        assert not command.verb.startswith("adapt") or result.record.frozen_proof["bit_identical"]
        if command.verb == "adapt collaborative":
            counted = count_newcomer(dataset + kind, config.newcomer)
            assert trained["train base "] == counted.base_parameters
            assert trained[f"adapt local {config.newcomer}"] == counted.lhft
            assert trained[f"adapt collaborative {config.newcomer}"] == counted.gcft + 11, (
                "and how the reader believes it"
            )
    assert [f"adapt collaborative {name}" in trained for name in NEWCOMERS[dataset]] == [True] * len(NEWCOMERS[dataset])


def check_table(config: EvalConfig, rows: list[dict[str, Any]]) -> None:
    """Ground truth is there, the protocol stands beside the numbers, and agents are heard in the asked order."""
    assert all(row["n_ground_truth"] >= 3 and row["protocol"]["name"] == config.protocol for row in rows)
    assert json.loads((config.out / "metrics.json").read_text())["rows"]
    counts = (0,) if config.drop else config.agents or (2,)
    assert [bool(row["message_bytes"]) for row in rows] == [count > 1 for count in counts]
    if config.out.name == "table":
        assert [row["name"] for row in rows] == [f"assigned/{count}" for count in (1, 2, 3, 4)]


@pytest.mark.parametrize("kind", ["", "_pyramid"])
@pytest.mark.parametrize("heading", [*HEADINGS.values(), "## Rivals", "## A base from a HEAL checkpoint"])
def test_commands_read_what_earlier_ones_write(heading: str, kind: str) -> None:
    """Every setting is known, and every pack comes from the page: here, or from the commands before the rivals'."""
    dataset = "dair_v2x" if "DAIR" in heading else "opv2v_h"
    variables = {"RUNS": "runs", "BASE": dataset + kind}
    before = commands(HEADINGS["opv2v_h"], **variables) if heading == "## Rivals" else []
    imported = [Path("runs") / f"{name}.safetensors" for name in ("base", "lidar64_pillars")]
    written = set(imported if "HEAL" in heading else [])
    for command in [*before, *commands(heading, **variables)]:
        if command.verb not in JOBS:
            assert command.verb in ("data check", "import heal")
            continue
        config = command.config()
        read = getattr(config, "packs", ()) or (
            (config.base, *config.agents, getattr(config, "adapter", None)) if hasattr(config, "base") else ()
        )
        assert {path for path in read if path is not None} <= written, command
        own = {"train reader": ["base"], "train base": ["base", *getattr(getattr(config, "model", None), "agents", {})]}
        own |= {"train encoder": [getattr(config, "name", "")]}
        written |= {config.out / f"{name}.safetensors" for name in own.get(command.verb, ["adapter"])}


def test_recipes_hold_the_published_types() -> None:
    bases = [read_recipe(recipes.FOLDER / f"{name}.yaml") for name in ("opv2v_h", "opv2v_h_pyramid")]
    parts = [("lidar64_pillars", base["model"]["agents"]["lidar64_pillars"]) for base in bases]
    newcomers = [name for name in TYPES if name != "lidar64_pillars"]
    parts += [(name, read_recipe(recipes.FOLDER / f"opv2v_h_{name}.yaml")["agent"]) for name in newcomers]
    for name, part in parts:
        assert resolved("agents", PartConfig(**part)) == resolved("agents", TYPES[name].part)
