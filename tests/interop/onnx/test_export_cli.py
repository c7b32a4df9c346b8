"""`heatv2x export onnx`: what it prints, and one message for a mistake."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from heatv2x.cli import main as cli
from heatv2x.cli.tables import print_export


def manifest(compiled: bool) -> dict[str, Any]:
    """What the table reads of a manifest."""
    times = {"torch": 0.004, "onnxruntime": 0.003, **({"compiled": 0.002} if compiled else {})}
    stage = {
        "file": "sender_lidar64.onnx",
        "bytes": 449_739,
        "difference": {"1": 2e-7, "5": 7e-7},
        "cpu_seconds": {"1": times, "3": times, "5": {**times, "onnxruntime": 0.0044}},
        "compile_cpu_seconds": 31.0 if compiled else 0.0,
    }
    return {"feature_space": "ab" * 16, "threads": 1, "stages": [stage]}


def test_the_table_compares_onnxruntime_with_torch() -> None:
    console = Console(record=True, width=60)
    print_export(manifest(compiled=False), console)
    said = console.export_text()
    row = next(line.split() for line in said.splitlines() if line.startswith("sender"))
    assert row == ["sender_lidar64.onnx", "450", "7e-07", "4.0", "0.75", "1.10"]
    assert "ab" * 16 in said and "compile" not in said


def test_what_was_compiled_stands_beside_it() -> None:
    console = Console(record=True, width=60)
    print_export(manifest(compiled=True), console)
    said = console.export_text()
    row = next(line.split() for line in said.splitlines() if line.startswith("sender"))
    assert row[-4:] == ["0.75", "1.10", "0.50", "0.50"] and "took 31 CPU seconds" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["out=x"], "either run=FOLDER or packs="),
        (["out=x", "run=nowhere"], "run=nowhere: holds no packs"),
        (["out=x", "run=nowhere", "tolerence=1"], "tolerance"),
    ],
)
def test_a_mistake_ends_with_one_message(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["heatv2x", "export", "onnx", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and told in said and "Traceback" not in said and not list(tmp_path.iterdir())
