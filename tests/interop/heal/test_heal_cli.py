"""`heatv2x import heal`: packs that evaluate like any others; a mistake ends in one message."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from heatv2x.cli import main as cli
from tests.formats.opv2v_tree import write_tree
from tests.golden_weights import reference_weights


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["heatv2x", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_checkpoint_is_imported_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    torch.save(reference_weights("m_e2e_m1_state_dict_shapes.json"), tmp_path / "net.pth")
    extent = ["half_extent_m=25.6", "half_extent_y_m=25.6"]
    assert call(monkeypatch, "import", "heal", tmp_path / "net.pth", f"out={tmp_path}/packs", *extent) == 0
    said = capsys.readouterr().out
    assert "m1 is lidar64_pillars: 226,944 parameters" in said
    packs = [tmp_path / "packs" / name for name in ("base.safetensors", "lidar64_pillars.safetensors")]
    assert all(path.exists() and str(path) in said for path in packs)
    write_tree(tmp_path / "data", "test")
    files = f"packs=[{packs[0]},{packs[1]}]"
    types = ["ego=lidar64_pillars", "senders=lidar64_pillars"]
    assert call(monkeypatch, "eval", f"data={tmp_path}/data", files, *types, f"out={tmp_path}/eval") == 0
    row = json.loads((tmp_path / "eval" / "metrics.json").read_text())["rows"][0]
    assert row["message_bytes"] > 2 * 64 * 64 * 64 and set(row["ap"]) == {"0.3", "0.5", "0.7"}


def test_what_does_not_fit_is_told_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = reference_weights("m_e2e_m1_state_dict_shapes.json")
    del weights["reg_head.bias"]
    torch.save({**weights, "cls_head.bias": torch.zeros(3)}, tmp_path / "net.pth")
    assert call(monkeypatch, "import", "heal", tmp_path / "net.pth") == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "2 tensors do not fit" in said
    assert "cls_head.bias" in said and "(3,)" in said and "missing: head.box.bias" in said
    assert not (tmp_path / "net").exists()
