"""Same seed, same bytes; interrupted builds go on; a user's mistakes and a full disk are told plainly."""

from __future__ import annotations

import errno
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from heatv2x.core.config import build
from heatv2x.errors import ConfigError, DataError
from heatv2x.world.build import WorldConfig, build_world
from tests.world.conftest import tiny


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_workers_write_the_same_bytes(world: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_world(tiny(tmp_path, workers=2), progress=lambda done, total: seen.append((done, total)))
    assert digest(tmp_path) == digest(world)
    assert seen[0] == (0, 6) and seen[-1] == (6, 6) and seen == sorted(seen)


def test_another_seed_is_another_world(world: Path, tmp_path: Path) -> None:
    other = {"seed": 6, "train": 1, "validate": 0, "test": 0, "sensors": ["lidar16"]}
    build_world(tiny(tmp_path, **other))
    here, there = digest(tmp_path), digest(world)
    assert not {path for path in here if path.endswith(".pcd") and here[path] == there.get(path)}


def test_only_asked_sensors_are_built(tmp_path: Path) -> None:
    build_world(tiny(tmp_path, train=1, validate=0, test=0, sensors=["lidar16"]))
    names = {path.name[6:] for path in tmp_path.rglob("0*") if path.is_file()}
    assert names == {".yaml", ".pcd", "_hits.json", "_16.pcd"}


def test_an_interrupted_build_goes_on(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "world"
    shutil.copytree(world, out)
    lost = sorted((out / "OPV2V" / "train").iterdir())[1]
    kept = sorted((out / "OPV2V" / "train").iterdir())[0] / "data_protocol.yaml"
    shutil.rmtree(lost)
    leftover = out / ".building" / "train_x" / "OPV2V" / "17"
    leftover.mkdir(parents=True)
    (leftover / "000068.pcd").write_bytes(b"half")
    untouched = kept.stat().st_mtime_ns
    build_world(tiny(out))
    assert digest(out) == digest(world)
    assert kept.stat().st_mtime_ns == untouched
    assert not (out / ".building").exists()


def test_other_settings_in_the_same_folder_are_refused(world: Path) -> None:
    with pytest.raises(ConfigError, match="seed=5"):
        build_world(tiny(world, seed=7))


def test_foreign_data_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "OPV2V" / "train").mkdir(parents=True)
    with pytest.raises(ConfigError, match="did not write"):
        build_world(tiny(tmp_path))


def test_a_full_disk_leaves_nothing_half_written(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Path.write_bytes, []

    def until_full(self: Path, data: Any) -> int:
        written.append(self)
        if ".building" in self.parts and len(written) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    with pytest.raises(DataError, match="No space left"):
        build_world(tiny(tmp_path))
    monkeypatch.undo()
    partial, whole = digest(tmp_path), digest(world)
    partial.pop("manifest.json")
    assert partial and all(whole[path] == value for path, value in partial.items())
    assert not (tmp_path / ".building").exists()
    build_world(tiny(tmp_path))
    assert digest(tmp_path) == whole


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"render_resolution": (160, 100)}, "4:3"),
        ({"min_agents": 4}, "min_agents"),
        ({"sensors": []}, "sensors is empty"),
        ({"sensors": ["lidar8"]}, "lidar8"),
        ({"train": 0, "validate": 0, "test": 0}, "0 frames"),
        ({"azimuth": 3}, "azimuth_steps"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(tmp_path, **settings)


def test_out_is_required() -> None:
    with pytest.raises(ConfigError, match="out"):
        build(WorldConfig, {})
