"""The reading benchmark: what it compares is the same data, and its numbers are complete."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatv2x.core.files import read_json
from heatv2x.data.datasets.opv2v import Opv2v
from studies import data as bench
from studies.index_speed import synthetic_index_seconds
from tests.formats.opv2v_writer import OPV2V, write_opv2v_h


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_opv2v_h(folder, OPV2V[:1], images=True)
    return folder


def test_everything_is_measured(root: Path, tmp_path: Path) -> None:
    config = bench.DataBenchConfig(data=root, frames=4, epoch=20, index_frames=50, out=tmp_path / "speed.json")
    content = bench.run_data_bench(config, lambda *_: None)
    assert read_json(config.out) == content
    hows = ("naive", "cold", "warm", "warm, 1 worker", "warm, 2 workers")
    wanted = {f"metadata, {how}" for how in hows[:3]} | {
        f"{what}, {how}" for what in ("LiDAR", "cameras") for how in hows
    }
    assert set(content["frames_per_s"]) == wanted and set(content["ratio_to_naive"]) == {
        k for k in wanted if "naive" not in k
    }
    assert all(value is None or value > 0 for value in content["frames_per_s"].values())
    assert content["ratio_to_naive"]["metadata, warm"] > 5
    assert len(content["memory"]["resident_mb"]) == 10 and content["targets"]


def test_an_index_is_opened_without_parsing() -> None:
    opened = synthetic_index_seconds(300, agents=2, objects=3)
    assert 0 < opened["cpu_seconds"] < 5 and opened["megabytes"] > 0.1


def test_memory_that_grows_is_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Opv2v(root, "train")
    kept = []
    read = dataset.read

    def keep(index: int, sensors: Any) -> Any:
        fresh = mmap.mmap(-1, 34_000_000)  # the allocator may have memory of its own left
        np.frombuffer(fresh, np.uint8)[:] = 1
        kept.append(fresh)
        return read(index, sensors)

    monkeypatch.setattr(dataset, "read", keep)
    assert bench.memory_over(dataset, 10)["growth_mb"] > 100
