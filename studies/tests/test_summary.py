"""The study's JSON from cells whose numbers are known."""

from __future__ import annotations

import json
import math

import pytest

from heatv2x.errors import HeatError
from studies.summary import expected_rows
from studies.table import over_seeds
from studies.tests.adaptation_contents import CONFIG, make_contents, row_of, summary_of


def test_a_finished_study_is_complete_and_json() -> None:
    summary = summary_of(make_contents())
    json.dumps(summary, allow_nan=False)
    assert summary["seeds"] == [0, 1, 2]
    assert summary["missing"] == []
    assert {row["name"] for row in summary["rows"]} == set(expected_rows(CONFIG))
    assert len(summary["rows"]) == len(expected_rows(CONFIG))
    assert summary["date"] == "2026-11-24 to 2026-11-26"
    assert summary["machine"] == [{"device": "CPU", "cores": 2}]
    assert summary["world"]["seed"] == 31
    assert summary["world"]["frames"]["test"] == 100
    assert all(line["met"] is not None or "not part" in line["measured"] for line in summary["targets"])


def test_rows_are_mean_and_sample_deviation_over_seeds() -> None:
    row = row_of(summary_of(make_contents()), "lhft_gcft")
    assert row["ap"]["0.5"]["mean"] == pytest.approx(0.761)
    assert row["ap"]["0.5"]["spread"] == pytest.approx(0.001)
    assert row["ap"]["0.5"]["values"] == pytest.approx([0.76, 0.761, 0.762])
    assert list(row["ap_by_distance"]) == ["0-20", "20-35", "35-50", "50+"]
    assert row["ap_by_distance"]["0-20"] == pytest.approx(0.861)
    assert row["ap_by_distance"]["50+"] is None
    assert row["train_seconds"]["mean"] == 70
    assert row["pretrain_seconds"] == 130
    assert row["seeds"] == [0, 1, 2]


def test_what_is_not_trained_has_no_seconds() -> None:
    summary = summary_of(make_contents())
    assert row_of(summary, "unaligned")["train_seconds"] is None
    assert row_of(summary, "homogeneous")["pretrain_seconds"] is None
    assert row_of(summary, "all/lhft_gcft")["pretrain_seconds"] == 260


def test_one_seed_has_no_spread() -> None:
    summary = summary_of(make_contents((4,)))
    assert row_of(summary, "lhft")["ap"]["0.7"]["spread"] is None
    assert summary["missing"][0]["seeds"] == [0, 1, 2]
    assert over_seeds([1.0, 3.0])["spread"] == pytest.approx(math.sqrt(2))


def test_missing_rows_are_named_with_their_seeds() -> None:
    contents = make_contents()
    del contents["seed1/lidar16/backward"]
    missing = {line["name"]: line["seeds"] for line in summary_of(contents)["missing"]}
    assert missing == {"backward_alignment": [1], "ego_lidar16/backward_alignment": [1]}


def test_pretraining_is_listed_apart() -> None:
    pretraining = {line["what"]: line for line in summary_of(make_contents())["pretraining"]}
    assert set(pretraining) == {"base", "base_maximum", "encoder_lidar16", "encoder_lidar64", "encoder_camera"}
    assert pretraining["base"]["cpu_seconds"]["mean"] == 378
    assert pretraining["encoder_camera"]["steps"] == 800


def test_seeds_must_agree_about_what_is_the_same_for_all() -> None:
    contents = make_contents()
    contents["seed1/lidar16/joined"]["rows"][0]["n_frames"] = 99
    with pytest.raises(HeatError, match="n_frames differs"):
        summary_of(contents)


def test_nothing_finished_is_an_error() -> None:
    with pytest.raises(HeatError, match="nothing to summarise"):
        summary_of({})
