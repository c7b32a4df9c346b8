"""Verdicts on cells whose numbers are known."""

from __future__ import annotations

import pytest

from studies import parameters
from studies.curves import interpolated
from studies.tests.adaptation_contents import change, make_contents, summary_of, target


def test_targets_are_paired_and_judged() -> None:
    summary = summary_of(make_contents())
    gain = target(summary, "homogeneous collaboration")
    assert gain == {**gain, "met": True, "measured": "+29.0 ± 0.0 points (seeds: +29.0, +29.0, +29.0)"}
    assert target(summary, "LHFT + GCFT against full fine-tuning, LiDAR newcomer, AP50")["met"]
    assert target(summary, "LHFT + GCFT against full fine-tuning, training time")["measured"].startswith("23.3 ± 0.0 %")
    assert target(summary, "LHFT + GCFT against full fine-tuning, parameters")["measured"].startswith("12.5 ± 0.0 %")
    assert target(summary, "LHFT + GCFT against backward alignment, training time")["met"]
    camera = target(summary, "camera newcomer")
    assert camera["met"]
    assert camera["measured"].startswith("+4.0")


def test_comparisons_without_a_target_show_both_signs() -> None:
    contents = make_contents()
    change(contents, "ego_camera/late", 0.05)
    found = {line["what"]: line["measured"] for line in summary_of(contents)["without_target"]}
    assert found["LHFT + GCFT over late fusion, lidar16 newcomer"].startswith("+2.0 ± 0.0 points")
    assert found["LHFT + GCFT over late fusion, camera as the ego"].startswith("−3.0 ± 0.0 points")
    assert found["LHFT + GCFT over late fusion, all types together"].startswith("+2.0")
    assert len(found) == 19


def test_a_missed_target_says_by_how_much() -> None:
    contents = make_contents()
    change(contents, "lhft_gcft", -0.02)
    missed = target(summary_of(contents), "LHFT + GCFT against full fine-tuning, LiDAR newcomer, AP50")
    assert missed["met"] is False
    assert missed["measured"].endswith("missed by 1.5 points")
    assert target(summary_of(contents), "LHFT + GCFT against backward alignment, AP50")["met"] is False


def test_the_mean_decides_and_single_seeds_are_told() -> None:
    contents = make_contents()
    change(contents, "homogeneous", -0.1, seed=1)
    line = target(summary_of(contents), "homogeneous collaboration")
    assert line["met"]
    assert "2 of 3 seeds reach it" in line["measured"]


def test_equal_seconds_interpolates_between_budgets() -> None:
    contents = make_contents()
    line = target(summary_of(contents), "LHFT + GCFT over full fine-tuning at equal")
    assert line["measured"].startswith("+5.0")
    assert "linear in the logarithm" in line["measured"]
    assert line["met"]
    assert interpolated(20, [(10, 0.0), (40, 1.0)]) == pytest.approx(0.5)
    assert interpolated(5, [(40, 1.0), (10, 0.2)]) == 0.2
    assert interpolated(50, [(40, 1.0), (10, 0.2)]) == 1.0


def test_deployed_types_must_be_equal_in_every_seed_to_the_last_digit() -> None:
    contents = make_contents()
    assert target(summary_of(contents), "deployed types after lidar16")["met"] is True
    change(contents, "control/deployed_after_lidar16", 1e-12, seed=2)
    line = target(summary_of(contents), "deployed types after lidar16")
    assert line["met"] is False
    assert "2 of 3 seeds" in line["measured"]
    assert target(summary_of(contents), "deployed types after camera")["met"] is True


def test_a_changed_base_is_no_success() -> None:
    contents = make_contents()
    contents["seed1/camera/joined"]["facts"]["base_unchanged"] = False
    line = target(summary_of(contents), "deployed types after camera")
    assert line["met"] is False
    assert "CHANGED" in line["measured"]


def test_the_largest_adapter_pack_counts() -> None:
    contents = make_contents()
    contents["seed1/camera/joined"]["facts"]["adapter_pack_bytes"] = 250_001
    assert target(summary_of(contents), "adapter pack on disk, camera")["met"] is False
    assert target(summary_of(contents), "adapter pack on disk, lidar16")["met"] is True


def test_the_graph_may_be_below_maximum_by_the_spread_only() -> None:
    start = "graph over noise-trained maximum, clean, lidar16"
    contents = make_contents()
    change(contents, "maximum", 0.02)
    assert target(summary_of(contents), start)["met"] is False
    change(contents, "maximum", 0.04, seed=0)
    assert target(summary_of(contents), start)["met"] is False  # −2.3 on average, spread 2.3
    change(contents, "maximum", -0.03, seed=1)
    assert target(summary_of(contents), start)["met"] is True
    one = make_contents((0,))
    change(one, "maximum", 0.02)
    assert target(summary_of(one), start)["met"] is None


def test_what_is_not_measured_is_neither_met_nor_missed() -> None:
    contents = {name: content for name, content in make_contents().items() if name.endswith("/base")}
    summary = summary_of(contents)
    for line in summary["targets"][1:]:
        counted = line["what"].endswith("at published size")  # from recipes, whatever was trained
        assert line["met"] is (True if counted else None)
        assert counted or line["measured"] == "not measured"
    assert summary["targets"][0]["met"] is True


def test_a_difference_that_rounds_to_zero_has_no_minus() -> None:
    contents = make_contents((0,))
    change(contents, "maximum", 0.0101)
    line = target(summary_of(contents), "graph over noise-trained maximum, clean, lidar16")
    assert line["measured"].startswith("+0.0 points")


def test_parameters_at_published_size_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    start = "LHFT + GCFT against full fine-tuning, parameters at published size"
    assert target(summary_of(make_contents()), start)["met"] is True
    monkeypatch.setattr(parameters, "TARGET", 0.001)
    assert target(summary_of(make_contents()), start)["met"] is False
