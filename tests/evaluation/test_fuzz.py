"""Hostile messages and packs: what `heatv2x fuzz` tries, some thousands of them, and that it would notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatv2x.cli import main as cli
from heatv2x.evaluation import fuzz
from heatv2x.evaluation.average_precision import ApAccumulator
from heatv2x.evaluation.fuzz import FuzzConfig, Row, judge, scenes_of, try_all
from heatv2x.evaluation.hostile import CONTROL, KINDS
from heatv2x.evaluation.protocols import HEATV2X
from heatv2x.link.message import MessageError, unpack
from heatv2x.model.assembly import agent_pack, base_pack
from heatv2x.model.collaboration import Collaboration
from tests.scene_factory import SmallScenes, small_model


def nobody(what: str, done: int, total: int) -> None:
    """Nobody is told."""


@pytest.fixture(scope="module")
def model() -> Collaboration:
    return small_model()


@pytest.fixture(scope="module")
def tried(model: Collaboration, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Row], Path]:
    """Two thousand, on a small model."""
    out = tmp_path_factory.mktemp("fuzz")
    packs = [base_pack(model, {}), agent_pack(model, "lidar64", {})]
    scenes = scenes_of(model, SmallScenes(), "lidar64")
    rows, _ = try_all(scenes, packs, FuzzConfig(messages=2000, seed=3, seconds=60, out=out), nobody)
    return rows, out


def test_nothing_but_refusals_and_detections(tried: tuple[dict[str, Row], Path]) -> None:
    rows, out = tried
    assert set(rows) == {*KINDS, "packs"} and sum(row.tried for row in rows.values()) == 2000
    assert not any(row.violations for row in rows.values()), {kind: row.violations for kind, row in rows.items()}
    assert not list(out.iterdir())
    assert rows[CONTROL].used == rows[CONTROL].tried and rows["noise"].refused == rows["noise"].tried
    for kind in ("extreme fields", "hostile features", "hostile boxes", "hostile points", "other base or type"):
        assert rows[kind].used > 5 and rows[kind].refused > 5, "both happen"


def test_the_same_seed_tries_the_same(model: Collaboration) -> None:

    scenes = scenes_of(model, SmallScenes(), "lidar64")
    for make in KINDS.values():
        first, again, other = (make(scenes[0], np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert first == again and (first != other or make is KINDS[CONTROL])


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), OSError("no")])
def test_what_should_not_happen_is_found_and_kept(
    error: Exception, model: Collaboration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes, space: bytes | None = None) -> Any:
        if len(data) % 2:
            raise error
        return unpack(data, space)

    monkeypatch.setattr(fuzz, "unpack", broken)
    scenes = scenes_of(model, SmallScenes(), "lidar64")
    packs = [base_pack(model, {}), agent_pack(model, "lidar64", {})]
    rows, _ = try_all(scenes, packs, FuzzConfig(messages=60, seconds=60, out=tmp_path), nobody)
    assert any(f"{type(error).__name__}: {error}" in row.violations for row in rows.values())
    (kept, *_) = tmp_path.iterdir()
    with pytest.raises((MessageError, type(error))):
        broken(kept.read_bytes()[:-1] if len(kept.read_bytes()) % 2 == 0 else kept.read_bytes())


def test_detections_that_are_lost_are_noticed(model: Collaboration) -> None:
    scene = scenes_of(model, SmallScenes(), "lidar64")[0]
    rows, scores = {kind: Row(tried=1, used=1) for kind in KINDS}, {}
    for kind in KINDS:
        scores[kind] = ApAccumulator(HEATV2X), ApAccumulator(HEATV2X)
        truth = scene.alone[:5]
        scores[kind][0].add(scene.alone, truth)
        scores[kind][1].add(scene.alone[:0] if kind == "hostile boxes" else scene.alone, truth)
    judge(rows, scores)
    assert [kind for kind, row in rows.items() if row.violations] == ["hostile boxes"]


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["heatv2x", "fuzz", "messages=44", "frames=2", f"out={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    content = json.loads((tmp_path / "fuzz.json").read_text())
    assert set(content["kinds"]) == {*KINDS, "packs"} and content["kinds"]["packs"]["tried"] == 4
    wrong = any(kind["violations"] for kind in content["kinds"].values())
    assert ended.value.code == (2 if wrong else 0)
    assert "hostile boxes" in capsys.readouterr().out
