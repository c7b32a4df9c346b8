"""The check for machines with a CUDA device: it runs in short on a CPU, and one failing section does not stop it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "gpu_check.py"
NEEDS_CUDA = {"tests", "two_processes", "compiled"}
TOO_LARGE = {"train_published"}

SECTIONS = """
import os, signal
class NotRun(Exception): pass
class Place:
    def __init__(self, *_): pass
def run(name, place, keep):
    keep("first", {"value": 1.5, "name": name})
    if name == "raises":
        raise ValueError("no such luck")
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "elsewhere":
        raise NotRun("needs two moons")
    if name == "hangs":
        signal.pause()
    keep("second", {"other": "x"})
"""


@pytest.mark.slow
def test_in_short_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--cpu", "--quick", f"out={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    found = json.loads((tmp_path / "gpu_check.json").read_text())["sections"]
    done = {name for name, section in found.items() if section["state"] == "done"}
    assert {name for name in found if name not in done} == NEEDS_CUDA | TOO_LARGE
    assert all(found[name]["state"] == "not run" and "CUDA" in found[name]["why"] for name in NEEDS_CUDA)
    assert done == {"world", "ceilings", "inference", "numerics", "train_demo", "adapt"}
    step = found["adapt"]["rows"]["GCFT"]
    assert step["steps"] == 3 and step["s/step"] > 0 and 0 < step["waits for data"] < 1
    assert step["floor s"] > 0 and step["GFLOP/step"] > 0
    assert 0 < found["inference"]["rows"]["demo, deploy bfloat16, 2"]["off by"] < 0.03
    assert "GCFT" in (tmp_path / "gpu_check.txt").read_text() and (tmp_path / "log.txt").stat().st_size


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool with other sections."""
    spec = importlib.util.spec_from_file_location("gpu_check_under_test", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec.loader.exec_module(module)
    shutil.copy(TOOL, tmp_path / TOOL.name)
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "__init__.py").write_text("")
    (tmp_path / "gpu" / "sections.py").write_text(SECTIONS)
    module.__file__ = str(tmp_path / TOOL.name)
    names = ("good", "raises", "dies", "elsewhere")
    needs: dict[str, Any] = {"after good": ("good",), "after raises": ("raises",)}
    sections = [module.Section(name, 1e6, beside=name == "good") for name in names]
    monkeypatch.setattr(module, "SECTIONS", (*sections, *(module.Section(n, 1e6, needs=needs[n]) for n in needs)))
    return module


def test_what_goes_wrong_is_reported_and_the_rest_runs(tool: ModuleType, tmp_path: Path) -> None:
    assert tool.main(["--cpu", f"out={tmp_path / 'out'}", "budget=1e6"]) == 1
    found = json.loads((tmp_path / "out" / "gpu_check.json").read_text())["sections"]
    assert {name: section["state"] for name, section in found.items()} == {
        "good": "done",
        "raises": "failed",
        "dies": "failed",
        "elsewhere": "not run",
        "after good": "done",
        "after raises": "not run",
    }
    assert "no such luck" in found["raises"]["why"] and "status -9" in found["dies"]["why"]
    assert "two moons" in found["elsewhere"]["why"] and "raises" in found["after raises"]["why"]
    assert all("first" in found[name]["rows"] for name in ("raises", "dies", "elsewhere"))
    assert set(found["good"]["rows"]) == {"first", "second"}
    assert tool.main(["--cpu", f"out={tmp_path / 'out'}", "only=good,elsewhere"]) == 0
    table = (tmp_path / "out" / "gpu_check.txt").read_text()
    assert "two moons" in table and "1.5" in table


def test_a_section_that_hangs_is_ended_and_what_it_found_is_kept(tool: ModuleType, tmp_path: Path) -> None:
    options = argparse.Namespace(cpu=True, quick=False, scratch=str(tmp_path))
    running = tool.start(tool.Section("hangs", 1e6), options, 1e6, tool.Log(tmp_path / "log.txt"))
    while "first" not in (running.result.read_text() if running.result.exists() else ""):
        assert running.process.poll() is None
    running.limit_s = 0.0
    found = tool.finish(running, tool.Log(tmp_path / "log.txt"))
    assert found["state"] == "out of time" and set(found["rows"]) == {"first"}


def test_no_time_left(tool: ModuleType, tmp_path: Path) -> None:
    assert tool.main(["--cpu", f"out={tmp_path}", "budget=0", "only=elsewhere"]) == 0
    found = json.loads((tmp_path / "gpu_check.json").read_text())["sections"]
    assert found["elsewhere"] == {"state": "not run", "why": "no time was left"}


def test_an_unknown_section(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["only=moon"])
    assert "there are good, raises" in capsys.readouterr().err
