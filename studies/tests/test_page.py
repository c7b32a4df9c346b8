"""The study's page: every row and every verdict stands there, and what is missing is said first."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from studies.page import page, write_page
from studies.summary import expected_rows
from studies.tests.adaptation_contents import COMMAND, CONFIG, change, make_contents, summary_of


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summary_of(make_contents())


@pytest.fixture(scope="module")
def text(summary: dict[str, Any]) -> str:
    return page(summary, {"training": "images/training.png", "rows": "images/rows.png"})


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    return re.split(r"\n#+ ", text.split(f"{heading}\n", 1)[1])[0]


def cells(text: str, name: str) -> list[str]:
    """The cells of the first table line that begins with a row's name."""
    line = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_row_is_on_the_page(text: str) -> None:
    for name in expected_rows(CONFIG):
        assert f"| `{name}` |" in text, name


def test_the_head_says_how_it_was_made(text: str) -> None:
    head = text.split("## Targets", maxsplit=1)[0]
    for fact in (
        COMMAND,
        "2026-11-24 to 2026-11-26",
        "cores 2",
        "| seeds | 0, 1, 2 |",
        "seed 31",
        "100 from other towns",
    ):
        assert fact in head, fact
    assert "not finished" not in text


def test_numbers_are_points_with_spread_and_costs(text: str) -> None:
    _, ap30, ap50, ap70, trained, cumulative, seconds, memory, traffic = cells(text, "lhft_gcft")
    assert (ap30, ap50, ap70) == ("86.1 ± 0.1", "76.1 ± 0.1", "41.1 ± 0.1")
    assert (seconds, memory, traffic) == ("70 ± 0", "1000", "65.0")
    assert trained == cumulative == "50\u202fk"
    assert cells(text, "unaligned")[6:8] == ["–", "–"]


def test_groups_repeat_what_they_are_compared_with(text: str) -> None:
    heard = section(text, "### Camera newcomer, heard by the base")
    names = re.findall(r"^\| `([^`]+)`", heard, re.MULTILINE)
    assert names[0] == "no_fusion"
    assert names[-1] == "homogeneous"
    assert all(name.startswith("camera/") for name in names[1:-1])
    ego = section(text, "### The camera newcomer is the ego and hears the base's type")
    assert "`no_fusion`" not in ego
    assert "`ego_camera/lhft_gcft`" in ego
    assert "@" not in section(text, "### LiDAR newcomer (`lidar16`), heard by the base")


def test_controls_stand_apart_with_their_question(text: str) -> None:
    controls = section(text, "### Controls")
    assert "must equal `homogeneous`" in cells(controls, "control/deployed_after_camera")[4]
    assert "must equal" not in cells(controls, "control/deployed_after_full_finetune_camera")[4]
    assert "GCFT more than longer" in cells(controls, "camera/control/lhft_equal_steps")[4]
    assert "not the newcomer's" in cells(controls, "control/lidar16_dropped")[4]
    assert text.count("| `control/gcft_homogeneous` |") == 1 + section(text, "## AP50 by distance").count("`control/")


def test_distances_have_a_table_of_their_own(text: str) -> None:
    distances = section(text, "## AP50 by distance")
    assert "| row | 0-20 m | 20-35 m | 35-50 m | 50+ m |" in distances
    assert cells(distances, "lhft_gcft") == ["`lhft_gcft`", "86.1", "76.1", "66.1", "–"]


def test_targets_are_met_missed_or_open() -> None:
    contents = make_contents()
    change(contents, "camera/lhft_gcft", -0.02)
    targets = section(page(summary_of(contents), {}), "## Targets")
    camera = next(line for line in targets.splitlines() if line.startswith("| camera newcomer with"))
    assert camera.endswith("| **missed** |")
    assert "+2.0 ± 0.0 points" in camera
    assert "18 met, 3 missed, 0 open." in targets  # the graph is then below maximum, too
    assert next(line for line in targets.splitlines() if line.startswith("| homogeneous")).endswith("| met |")


def test_what_has_no_target_stands_below_the_targets(text: str) -> None:
    targets = section(text, "## Targets")
    assert (
        "| LHFT + GCFT over late fusion, camera newcomer | +2.0 ± 0.0 points" in targets.split("No target was set")[1]
    )


def test_pretraining_and_equal_ap_have_tables(text: str) -> None:
    assert cells(section(text, "## Pretraining"), "base")[1:] == ["1200", "380\u202fk", "378 ± 0"]
    training = section(text, "## AP against training seconds")
    assert "| `gcft_only` | never | never, never, never |" in training
    assert "| `lhft` | 60 ± 0 | 60, 60, 60 |" in training
    assert "images/training.png" in training


def test_every_name_in_a_result_table_is_explained(text: str) -> None:
    meanings = section(text, "## What the names mean")
    results = text.split("## Results")[1].split("### Controls", maxsplit=1)[0]
    for name in re.findall(r"^\| `([^`]+)`", results, re.MULTILINE):
        method = name if name.startswith("maximum/") else name.rpartition("/")[2]
        assert f"- `{method}`: " in meanings, name


def test_an_unfinished_study_says_so_first() -> None:
    contents = make_contents()
    del contents["seed1/twin"], contents["seed0/lidar16/maximum"], contents["seed1/lidar16/maximum"]
    del contents["seed2/lidar16/maximum"]
    text = page(summary_of(contents), {})
    first = text.split("\n\n")[1]
    assert "not finished" in first
    assert "2 rows are not measured, 1 lack seeds" in first
    missing = section(text, "## What is missing")
    assert "left out: `maximum`, `ego_lidar16/maximum`." in missing
    assert "Rows without seed 1: `control/gcft_homogeneous`." in missing
    assert "| `maximum` |" not in text


def test_one_cell_is_enough_for_a_page() -> None:
    contents = {name: content for name, content in make_contents((0,)).items() if name == "seed0/base"}
    text = page(summary_of(contents), {})
    assert cells(text, "homogeneous")[2] == "81.0"
    assert "Not measured yet." in section(text, "## AP against training seconds")


def test_page_json_and_figures_are_written(tmp_path: Path, summary: dict[str, Any]) -> None:
    written = write_page(summary, tmp_path)
    assert written == tmp_path / "adaptation.md"
    text = written.read_text()
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert len(linked) == 3
    assert all((tmp_path / link).stat().st_size > 1000 for link in linked)
    assert json.loads((tmp_path / "adaptation.json").read_text()) == summary
    assert not list(tmp_path.rglob(".*"))


def test_a_page_without_trainings_has_no_training_figure(tmp_path: Path) -> None:
    contents = {name: content for name, content in make_contents((0,)).items() if name == "seed0/base"}
    text = write_page(summary_of(contents), tmp_path).read_text()
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["adaptation_rows.png"]
    assert "adaptation_training" not in text


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    contents = make_contents((0,))
    summary = summary_of(contents) | {"command": "heatv2x bench | tee"}
    assert "`heatv2x bench \\| tee` |" in page(summary, {})
