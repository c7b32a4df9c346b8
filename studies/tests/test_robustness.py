"""The robustness study: every disturbance must disturb, every method must be drawn and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heatv2x.errors import HeatError
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.roster import Roster
from heatv2x.link.channel import ChannelConfig
from studies import robustness
from studies.config import AdaptationConfig
from studies.robustness import CLIP, METHODS, RobustnessConfig, channels, disturb, film_of, needed_of
from tests.scene_factory import SmallScenes, joined, small_model


def nobody(what: str, done: int, total: int) -> None:
    """Progress nobody looks at."""


@pytest.fixture
def film(monkeypatch: pytest.MonkeyPatch) -> SmallScenes:
    scenes = SmallScenes(frames=CLIP, agents=3)
    model = joined(small_model())
    monkeypatch.setattr(robustness, "Opv2v", lambda *_: scenes)
    monkeypatch.setattr(robustness, "network", lambda *_: (model, {}))
    return scenes


def run(panels: dict[str, dict[str, ChannelConfig]], monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    monkeypatch.setattr(robustness, "channels", lambda: panels)
    method = robustness.Method(**{"name": "graph", "about": "", **changes})
    return disturb(RobustnessConfig(clips=1), AdaptationConfig(), 0, method, nobody)


def test_only_the_last_frame_of_a_clip_counts(film: SmallScenes, monkeypatch: pytest.MonkeyPatch) -> None:
    content = run({"pose_noise": {"0": ChannelConfig(), "1": ChannelConfig(sigma_m=1)}}, monkeypatch)
    assert [row["n_frames"] for row in content["rows"]] == [1, 1]
    assert len({row["arrived"] for row in content["rows"]}) == 2


def test_a_switch_that_changes_no_message_fails_loudly(film: SmallScenes, monkeypatch: pytest.MonkeyPatch) -> None:
    panels = {"pose_noise": {"0": ChannelConfig()}, "loss": {"0.5": ChannelConfig(seed=5, loss=1e-9)}}
    with pytest.raises(HeatError, match=r"'loss 0\.5' changed no message"):
        run(panels, monkeypatch)


def test_the_ego_alone_hears_nothing_and_needs_no_difference(
    film: SmallScenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = {"pose_noise": {"0": ChannelConfig(), "1": ChannelConfig(sigma_m=1)}}
    rows = run(panels, monkeypatch, name="no_fusion")["rows"]
    assert rows[0]["ap"] == rows[1]["ap"] and rows[0]["message_bytes"] == 0


def test_bad_poses_are_ignored_when_the_rule_says_so() -> None:
    scenes, model = SmallScenes(frames=1, agents=3), joined(small_model())
    noisy = ChannelConfig(sigma_m=1.0, sigma_deg=1.0)
    heard = {}
    for limit in (None, 0.5, 1.5):
        evaluator = Evaluator(scenes, noisy.model_copy(update={"ignore_above_m": limit}))
        heard[limit] = len(evaluator.run(model, Roster("lidar64", "lidar16"), 0).heard)
    assert heard == {None: 2, 0.5: 0, 1.5: 2}


def test_the_film_is_long_enough_for_the_latest_message() -> None:
    latest = max(channel.latency_ms // 100 for panel in channels().values() for channel in panel.values())
    film = film_of(RobustnessConfig(clips=3))
    assert film.clip_frames > latest and film.stride == 1 and film.frames_of("test") == 3 * film.clip_frames


def test_everything_that_is_tested_is_trained_before() -> None:
    names = {cell.name for cell in needed_of(AdaptationConfig(seeds=(4,)))}
    assert {"seed4/base", "seed4/base_maximum", "seed4/lidar16/joined", "seed4/lidar16/full_finetune"} <= names
    assert not any("camera" in name for name in names)


def test_page_and_figure_show_every_method(tmp_path: Path) -> None:
    protocol = {"name": "heatv2x"}
    rows = [
        {"name": f"{m.name}/{p}/{v}", "panel": p, "value": v, "protocol": protocol, "n_frames": 3, "ap": dict(ap)}
        for m in METHODS
        for p, values in channels().items()
        for v in values
        if (ap := {"0.5": 0.5, "0.7": 0.25})
    ]
    contents = {
        f"seed{seed}": {
            "seed": seed,
            "rows": [{**row, "seed": seed} for row in rows],
            "machine": {},
            "date": "2026-01-01",
        }
        for seed in (0, 1)
    }
    config = RobustnessConfig(docs=tmp_path / "docs")
    summary = robustness.write_robustness(config, contents, "heatv2x robustness")
    text = (tmp_path / "docs" / "robustness.md").read_text()
    assert summary["seeds"] == [0, 1] and all(f"| {method.name} |" in text for method in METHODS)
    assert "50.0 ± 0.0" in text and "25.0 ± 0.0" in text and "heatv2x robustness" in text
    assert (tmp_path / "docs" / "images" / "robustness.png").stat().st_size > 5000
