"""The demo, from the world to the report, on a handful of frames; and the numbers it must write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heatv2x.cli.demo import DemoConfig, DemoResult, _tasks, run_demo
from heatv2x.model import pretrained
from heatv2x.model.packs import read_pack

pytestmark = pytest.mark.slow
NAMES = {"no_fusion", "unaligned", "late", "lhft", "lhft_gcft", "full_finetune", "homogeneous"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    config = DemoConfig(
        out=out, train=4, validate=2, test=2, local_steps=2, collaborative_steps=2, full_steps=2, processes=2
    )
    told: list[tuple[str, int, int]] = []
    written: list[tuple[DemoResult, str]] = []
    last = run_demo(config, lambda *what: told.append(what), lambda r: written.append((r, r.report.read_text())))
    assert written and last.pending == ()
    for result, page in written:  # complete reports, whichever part is done first
        names = {row["name"] for row in result.rows}
        assert names >= NAMES - {"full_finetune"} and result.pending
        assert ("full_finetune" in names) != ("full_finetune" in result.pending)
        assert ("control/deployed_after_joining" in names) != ("controls" in result.pending)
        assert f"Not in this report yet: {result.still_running}." in page
    assert told[0][0] == "building the world" and any("evaluating" in what for what, _, _ in told)
    assert all(0 <= done <= total for _, done, total in told)
    return out


def test_rows_hold_every_column(run: Path) -> None:
    rows = json.loads((run / "metrics.json").read_text())["rows"]
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows) and set(by_name) >= NAMES
    for row in rows:
        assert set(row["ap"]) == {"0.3", "0.5", "0.7"} and all(0 <= value <= 1 for value in row["ap"].values())
        assert row["protocol"]["name"] == "heatv2x" and row["ego_type"] in {"lidar64", "lidar16"} and row["seed"] == 1
    full, ours = by_name["full_finetune"], by_name["lhft_gcft"]
    assert ours["cumulative_parameters"] < 0.15 * full["trained_parameters"]
    assert ours["train_seconds"] > by_name["lhft"]["train_seconds"] > 0
    shipped = by_name["no_fusion"]
    assert shipped["train_seconds"] is None and shipped["provenance_seconds"] > 0
    assert 1000 < ours["message_bytes"] <= 4000, "the shipped base's budget"
    assert ours["codec"] == "codes" and by_name["late"]["codec"] == "boxes"


def test_the_deployed_fleet_is_untouched_by_joining(run: Path) -> None:
    rows = {row["name"]: row for row in json.loads((run / "metrics.json").read_text())["rows"]}
    assert rows["control/deployed_after_joining"]["ap"] == rows["homogeneous"]["ap"]
    assert rows["control/collaborators_dropped"]["ap"] == rows["no_fusion"]["ap"]
    proofs = {s["name"]: s["frozen_proof"] for s in json.loads((run / "metrics.json").read_text())["stages"]}
    assert proofs["local"]["bit_identical"] and proofs["local"]["tensors"] > proofs["collaborative"]["tensors"] > 50


def test_it_writes_a_report_and_is_not_done_twice(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "16-beam" in page and "Not in this report yet" not in page
    assert "pending" not in json.loads((run / "metrics.json").read_text())
    before = {path: path.stat().st_mtime_ns for path in run.glob("lidar16_*/record.json")}
    config = DemoConfig(
        out=run, train=4, validate=2, test=2, local_steps=2, collaborative_steps=2, full_steps=2, processes=2
    )
    written: list[DemoResult] = []
    run_demo(config, lambda *_: None, written.append)
    assert not written  # a complete report is not replaced by one that lacks what is there
    assert before and before == {path: path.stat().st_mtime_ns for path in before}


def test_the_shipped_packs_are_small_and_say_where_they_come_from() -> None:
    files = sorted(pretrained.FOLDER.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    for path in files:
        provenance = read_pack(path).provenance
        assert provenance["cpu_seconds"] > 0 and len(provenance["data_fingerprint"]) == 64


def test_nobody_waits_for_the_yardstick() -> None:
    """Side by side it starts at once, because it takes longest; one process leaves it to the end."""
    names = [task.name for task in _tasks(DemoConfig(full=True))]
    assert names == ["lidar16", "full_finetune", "camera", "controls", "camera/controls"]
    assert [task.name for task in _tasks(DemoConfig(processes=1))] == ["lidar16", "controls", "full_finetune"]
    assert {task.name: task.needs for task in _tasks(DemoConfig(full=True))}["camera/controls"] == ("camera",)
