"""The bandwidth study: every line is measured as it says, and the page shows what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.reader import ReaderConfig
from heatv2x.model.variants import exchanging, reading
from studies import bandwidth
from studies.bandwidth import BandwidthConfig, cells_of, lines_of, measure
from studies.bandwidth_page import summarise, title_of, write_page
from studies.cells import identities_of
from tests.scene_factory import SmallScenes, joined, small_model

CONFIG = BandwidthConfig(budgets=(1000, 1500), seeds=(0,))


def nobody(what: str, done: int, total: int) -> None:
    """Progress nobody looks at."""


class SmallModels(bandwidth._Models):
    """What the study trains, untrained and small."""

    def __init__(self, place: object) -> None:
        self.features = joined(small_model())
        read = reading(self.features, ReaderConfig(hidden=8), CodebookConfig(stages=2, entries=16))
        assert read.codebook is not None
        read.codebook.fit(torch.randn(200, 16, generator=torch.Generator().manual_seed(0)).relu(), 0)
        self.read, self.sparse = read, joined(small_model())
        self.sparse.use_codec("sparse")
        self.points = exchanging(self.features, "points")
        self.voices = dict.fromkeys(("lidar64", "lidar16"), exchanging(self.features, "boxes"))


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A whole seed on small scenes, without the cameras."""
    few = tuple(scene for scene in bandwidth.SCENES if "camera" not in (scene.roster.ego, *scene.roster.in_turn))
    monkeypatch.setattr(bandwidth, "SCENES", few)
    monkeypatch.setattr("studies.bandwidth_page.SCENES", few)
    monkeypatch.setattr(bandwidth, "Opv2v", lambda *_: SmallScenes(frames=2, agents=3))
    monkeypatch.setattr(bandwidth, "_Models", SmallModels)
    for step in ("prepare", "join_reader"):
        monkeypatch.setattr(bandwidth, step, lambda *_: None)
    return measure(CONFIG, 0, nobody)


def test_every_line_is_measured_at_its_bytes(content: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in content["rows"]}
    assert len(rows) == len(content["rows"]) > 30
    for name, row in rows.items():
        scene, line, link = name.split("/")
        assert (row["scene"], row["line"], row["link"]) == (scene, line, link) and row["n_frames"] == 2
        if line.startswith("heatv2x_"):
            assert 0 < row["message_bytes"] <= int(line.removeprefix("heatv2x_"))
    size = {line: rows[f"equal/{line}/clean"]["message_bytes"] for line in ("heatv2x", "features", "points")}
    assert size["heatv2x"] < size["features"]
    assert rows["equal/features_1%/clean"]["message_bytes"] < rows["equal/features_20%/clean"]["message_bytes"]
    assert rows["equal/features_boxes/clean"]["message_bytes"] >= size["features"]
    assert {row["codec"] for row in rows.values() if row["line"] == "late"} == {"boxes"}
    assert {row["codec"] for row in rows.values() if row["line"].startswith("heatv2x")} == {"codes"}


def test_the_page_shows_all_of_it(content: dict[str, Any], tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"docs": tmp_path, "seeds": (0, 1)})
    about = {"date": "2026-11-30", "machine": {"processor": "p", "bfloat16": True}, "code_version": "0"}
    twin = {**content, "seed": 1, "rows": [{**row, "seed": 1} for row in content["rows"]]}
    contents = {"seed0": {**about, **content}, "seed1": {**about, **twin}}
    summary = summarise(contents, config, "the command")
    page = write_page(summary, config).read_text()
    assert "`the command`" in page and "Seeds 0, 1;" in page and (tmp_path / "images" / "bandwidth.png").exists()
    tables = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    wanted = sum(len(lines_of(config, scene)) + 1 for scene in bandwidth.SCENES)
    assert len(tables) == wanted and {line.count("|") for line in tables} == {9}
    late = [row for row in summary["rows"] if row["line"] == "late"]
    assert late and all(value["mean"] == 0 for row in late for value in row["over_late"].values())


def test_lines_have_names_for_readers() -> None:
    assert (
        title_of("heatv2x_4000") == "HeatV2X, at most 4 kB" and title_of("features_5%") == "features, 5% of the cells"
    )


def test_what_decides_a_result_decides_its_name() -> None:
    first = identities_of(cells_of(CONFIG))
    assert first == identities_of(cells_of(CONFIG.model_copy(update={"processes": 7, "docs": Path("elsewhere")})))
    for change in ({"reader_steps": 7}, {"reader_frames": 7}, {"budgets": (1000,)}, {"frames": 3}):
        assert first != identities_of(cells_of(CONFIG.model_copy(update=change)))
