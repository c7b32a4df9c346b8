"""Rows of several evaluations in one table, and what forbids comparing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heatv2x.core.files import write_json
from heatv2x.errors import ConfigError, DataError
from heatv2x.evaluation.comparison import read_rows

ROW = {"name": "a<-b", "ap": {"0.3": 0.9, "0.5": 0.8, "0.7": 0.4}, "n_frames": 4, "n_ground_truth": 30}
ROW |= {"protocol": {"name": "heatv2x", "x_range_m": [-51.2, 51.2]}}


def written(folder: Path, *rows: dict[str, Any], data: str = "d", split: str = "test") -> Path:
    write_json(folder / "metrics.json", {"rows": list(rows), "settings": {"split": split}, "data_fingerprint": data})
    return folder


def test_rows_are_named_after_their_folders(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one", ROW), written(tmp_path / "two", ROW, {**ROW, "name": "other"})
    rows, differences = read_rows([one, two / "metrics.json"])
    assert [row["name"] for row in rows] == [str(one), f"{two} a<-b", f"{two} other"] and not differences
    assert rows[0]["ap"] == ROW["ap"]


@pytest.mark.parametrize(
    ("change", "settings", "what"),
    [
        ({"protocol": {"name": "heal"}}, {}, "protocol (heatv2x"),
        ({"protocol": {"name": "heatv2x", "x_range_m": [-102.4, 102.4]}}, {}, "protocol (heatv2x"),
        ({"n_frames": 5}, {}, "frames (4 in"),
        ({"n_ground_truth": 31}, {}, "ground truth (30 in"),
        ({}, {"data": "e"}, "data (d in"),
        ({}, {"split": "validate"}, "split (test in"),
    ],
)
def test_what_must_not_be_compared_is_said(
    change: dict[str, Any], settings: dict[str, str], what: str, tmp_path: Path
) -> None:
    _, differences = read_rows(
        [written(tmp_path / "one", ROW), written(tmp_path / "two", {**ROW, **change}, **settings)]
    )
    assert len(differences) == 1 and f"differ in their {what}" in differences[0], differences
    assert str(tmp_path / "two") in differences[0]


def test_what_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="heatv2x table"):
        read_rows([])
    with pytest.raises(DataError, match=r"metrics\.json"):
        read_rows([tmp_path])
    for content in ([], {}, {"rows": []}, {"rows": [{"name": "a"}]}, {"rows": "x"}):
        write_json(tmp_path / "metrics.json", content)
        with pytest.raises(DataError, match="no rows"):
            read_rows([tmp_path])
