"""Which packs belong to a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from heatv2x.core.files import write_json
from heatv2x.errors import ConfigError
from heatv2x.interop.onnx.run_packs import packs_of


def adapted(folder: Path, newcomer: str, stage: str, base: str = "base.safetensors") -> Path:
    """A folder as an adaptation leaves it."""
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").touch()
    agents = ["lidar64.safetensors", f"{newcomer}.safetensors"]
    write_json(folder / "config.json", {"base": base, "agents": agents, "newcomer": newcomer})
    write_json(folder / "record.json", {"stage": stage})
    return folder / "adapter.safetensors"


def test_the_last_stage_of_every_newcomer_counts(tmp_path: Path) -> None:
    adapted(tmp_path / "z_local", "lidar16", "local")
    last = adapted(tmp_path / "a_collaborative", "lidar16", "collaborative")
    camera = adapted(tmp_path / "camera_local", "camera", "local")
    yardstick = adapted(tmp_path / "full", "lidar16", "full")
    (yardstick.parent / "base.safetensors").touch()
    (tmp_path / "world").mkdir()
    found = packs_of(tmp_path)
    names = ["base.safetensors", "lidar64.safetensors", "lidar16.safetensors", "camera.safetensors"]
    assert found == [*map(Path, names), last, camera]


def test_a_stage_folder_and_a_base_folder_are_runs(tmp_path: Path) -> None:
    adapter = adapted(tmp_path / "one", "lidar16", "local")
    assert packs_of(tmp_path / "one")[-1] == adapter
    (tmp_path / "two").mkdir()
    for name in ("base", "lidar64", "checkpoint", "cache"):
        (tmp_path / "two" / f"{name}.safetensors").touch()
    assert [path.name for path in packs_of(tmp_path / "two")] == ["base.safetensors", "lidar64.safetensors"]


def test_a_folder_without_packs_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no packs"):
        packs_of(tmp_path)


def test_two_bases_are_told(tmp_path: Path) -> None:
    adapted(tmp_path / "one", "lidar16", "local")
    adapted(tmp_path / "two", "camera", "local", base="other.safetensors")
    with pytest.raises(ConfigError, match=r"different bases: base.safetensors, other.safetensors"):
        packs_of(tmp_path)
