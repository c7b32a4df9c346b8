"""The axes study: senders are turned as it says, and every pair is evaluated every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heatv2x.geometry.grid import BevGrid
from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.reader import ReaderConfig
from heatv2x.model.variants import reading
from heatv2x.structures import Pose
from studies import axes
from studies.axes import BINS, WAYS, AxesConfig, NearestGrid, along, bin_of, measure, pairs_of
from studies.axes_page import summarise, write_page
from tests.scene_factory import GRID, SmallScenes, small_model


def nobody(what: str, done: int, total: int) -> None:
    """Progress nobody looks at."""


@pytest.mark.parametrize(
    ("heading", "where"), [(0.0, 0), (-9.0, 0), (359.0, 0), (44.0, 1), (-90.0, 3), (179.0, 6), (-180.0, 6), (200.0, 5)]
)
def test_headings_fall_into_bins(heading: float, where: int) -> None:
    assert bin_of(heading) == where


def test_a_turned_sender_sees_the_same_from_whole_cells_away() -> None:
    sender = SmallScenes(frames=1).read(0, ["lidar64"]).agents[1]
    ego = Pose.planar(3.3, -2.1, 0.7)
    turned = along(sender, ego, 0.8)
    T = turned.pose.relative_to(ego)
    np.testing.assert_allclose(T[:3, :3], np.eye(3), atol=1e-9)
    np.testing.assert_allclose(T[:2, 3] / 0.8, np.rint(T[:2, 3] / 0.8), atol=1e-9)
    assert turned.pose.planar_distance(sender.pose) <= 0.4 * 2**0.5 + 1e-9
    for before, after in zip(sender.lidars.values(), turned.lidars.values(), strict=True):
        world, again = (
            (frame.pose.matrix[:3, :3] @ cloud.points[:, :3].T).T + frame.pose.matrix[:3, 3]
            for frame, cloud in ((sender, before), (turned, after))
        )
        np.testing.assert_allclose(world, again, atol=1e-4)
        assert np.array_equal(before.points[:, 3], after.points[:, 3])


def test_all_pairs_in_range_and_what_either_sees() -> None:
    frame = SmallScenes(frames=1, agents=3).read(0, ["lidar64"])
    pairs = pairs_of(frame, GRID)
    assert len(pairs) == 6 and all(len(pair.truth) > 0 for _, pair in pairs)
    seen = {(pair.ego.agent_id, pair.sender.agent_id): len(pair.truth) for _, pair in pairs}
    assert len(seen) == 6


def test_the_nearest_cell_is_taken_as_it_is() -> None:
    grid = NearestGrid(-4, 4, -4, 4, 1.0)
    feature = torch.rand(1, 2, 8, 8)
    T = torch.eye(4, dtype=torch.float64)[None].clone()
    T[0, 0, 3] = 0.4
    assert torch.equal(grid.warp(feature, T), feature)
    assert not torch.equal(BevGrid(-4, 4, -4, 4, 1.0).warp(feature, T), feature)


def test_every_way_has_its_row_and_the_page_shows_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = small_model()
    read = reading(plain, ReaderConfig(hidden=8, min_score=0.0), CodebookConfig(stages=2, entries=16))
    assert read.codebook is not None and read.reader is not None
    read.codebook.fit(torch.randn(200, 16, generator=torch.Generator().manual_seed(0)).relu(), 0)
    torch.nn.init.constant_(read.reader.verdict.bias, 2.0)
    models = iter([plain, read])
    monkeypatch.setattr(axes.Collaboration, "from_packs", lambda *_: next(models))
    monkeypatch.setattr(axes, "Opv2v", lambda *_: SmallScenes(frames=2, agents=3))
    for step in ("prepare", "train_reader"):
        monkeypatch.setattr(axes.bandwidth, step, lambda *_: None)
    content: dict[str, Any] = measure(AxesConfig(), 0, nobody)
    rows = {(row["way"], row["bin"] and tuple(row["bin"])): row for row in content["rows"]}
    assert {way for way, _ in rows} == set(WAYS) and all((way, None) in rows for way in WAYS)
    assert rows["late", None]["pairs"] == 12 == sum(row["pairs"] for (w, b), row in rows.items() if w == "late" and b)
    scores = {way: rows[way, None]["ap"]["0.3"] for way in WAYS}
    assert scores["bilinear"] != scores["ego_axes"] and scores["bilinear"] != scores["read"]
    assert type(plain.grid) is BevGrid, "the grid is put back"
    about = {"date": "2026-12-01", "machine": {"processor": "p", "bfloat16": True}, "code_version": "0"}
    config = AxesConfig(docs=tmp_path, seeds=(0,))
    page = write_page(summarise({"seed0": {**about, **content}}, config, "the command"), config).read_text()
    used = sum(("bilinear", bounds) in rows for bounds in BINS)
    tables = [line for line in page.splitlines() if line.startswith("| ")]
    assert "`the command`" in page and {line.count("|") for line in tables} == {used + 3}
    assert len(tables) == 2 * (len(WAYS) + 3) and (tmp_path / "images" / "axes.png").exists()
