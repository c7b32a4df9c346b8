"""Which part reads a folder: recognised in every verb, told what to do where it is not clear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heatv2x.core.config import build, parse_overrides
from heatv2x.data.datasets.base import DatasetConfig, recognise
from heatv2x.data.datasets.dair_v2x import DairV2x
from heatv2x.data.datasets.folder import Folder
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.errors import ConfigError, DataError
from heatv2x.evaluation.job import EvalConfig, named_dataset, open_part
from heatv2x.training import jobs, run_folder
from tests.formats.dair_writer import write_dair_v2x
from tests.formats.folder_writer import write_folder
from tests.formats.opv2v_writer import OPV2V, write_opv2v_h

TREES: dict[str, tuple[Callable[[Path], Any], type]] = {
    "opv2v": (lambda out: write_opv2v_h(out, OPV2V[:1], images=False), Opv2v),
    "dair_v2x": (write_dair_v2x, DairV2x),
    "folder": (lambda out: write_folder(out, images=False), Folder),
}
SMALL = ["steps=1", "batch_size=1", "frames=2", "precision=float32", "scenes.min_hits=1", "model.half_extent_m=12.8"]


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    TREES[request.param][0](tmp_path / "data")
    return request.param, tmp_path / "data"


def test_every_layout_is_recognised_and_opened(tree: tuple[str, Path]) -> None:
    name, root = tree
    reader = recognise(root)
    assert (reader.part, reader.dataset_class) == (name, TREES[name][1])
    assert named_dataset(None, root) == name and named_dataset("other", root) == "other"
    assert type(open_part(None, root, reader.tree.splits[0], None)) is TREES[name][1]


def test_settings_of_the_part_need_no_name(tree: tuple[str, Path]) -> None:
    name, root = tree
    assert named_dataset(DatasetConfig(), root) == name
    with pytest.raises(ConfigError, match=rf"dataset part '{name}': unknown key 'nothing'"):
        open_part(DatasetConfig(settings={"nothing": 1}), root, "train", None)
    assert build(EvalConfig, parse_overrides(["data=d", "packs=[a]", "dataset=folder"])).dataset == "folder"


def test_a_folder_that_could_be_two(tmp_path: Path) -> None:
    for name in ("opv2v", "folder"):
        TREES[name][0](tmp_path)
    with pytest.raises(ConfigError) as caught:
        recognise(tmp_path)
    said = str(caught.value)
    assert "own recordings (dataset=folder)" in said and "OPV2V-H (dataset=opv2v)" in said and "choose one with" in said
    assert recognise(tmp_path, "opv2v").part == "opv2v" and recognise(tmp_path, "folder").part == "folder"


def test_a_folder_that_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"it holds notes\.txt"):
        recognise(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        recognise(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="did you mean 'folder'"):
        recognise(tmp_path, "foldr")


def test_the_folder_that_was_meant(tree: tuple[str, Path]) -> None:
    """One above it, or the split inside it."""
    _, root = tree
    title = recognise(root).tree.title
    with pytest.raises(DataError, match=rf"give {root}, which holds {title}"):
        recognise(root.parent)
    for split in ("train", "test"):
        if (root / split).is_dir() and not any(root.glob("OPV2V*")):
            with pytest.raises(DataError, match=rf"give {root}, which holds {title}"):
                recognise(root / split)


def test_a_recording_without_poses_says_what_is_expected(tmp_path: Path) -> None:
    write_folder(tmp_path, images=False)
    for path in tmp_path.rglob("poses.csv"):
        path.unlink()
    with pytest.raises(DataError, match=r"folder: <split>/<recording>/<agent id>/poses\.csv"):
        recognise(tmp_path)


def test_a_base_is_trained_on_own_recordings_without_naming_the_dataset(tmp_path: Path) -> None:
    """And what is written down says which part it was, with its settings."""
    write_folder(tmp_path / "data", images=False)
    words = [f"data={tmp_path}/data", f"out={tmp_path}/run", "dataset.settings.lidar_as=lidar64", *SMALL]
    config = build(jobs.BaseConfig, parse_overrides(words))
    result = jobs.train_base(config)
    kept = run_folder.finished(config)
    assert kept is not None and kept["identity"]["dataset"] == {"part": "folder", "settings": {"lidar_as": "lidar64"}}
    named = build(jobs.BaseConfig, parse_overrides([*words, "dataset.part=folder"]))
    assert run_folder.finished(named) == kept, "named or recognised, it is the same job"
    assert result.packs


class TestLidarAs:
    """A setting of own recordings: their folder `lidar` as the sensor that types ask for."""

    def test_the_same_points_under_another_name(self, tmp_path: Path) -> None:
        write_folder(tmp_path, images=False)
        plain, renamed = Folder(tmp_path, "train"), Folder(tmp_path, "train", lidar_as="lidar32")
        first, second = plain.read(0, ["lidar"]), renamed.read(0, ["lidar32"])
        for one, other in zip(first.agents, second.agents, strict=True):
            assert list(other.lidars) == ["lidar32"]
            assert (one.lidars["lidar"].points == other.lidars["lidar32"].points).all()
        assert (first.objects.hits == second.objects.hits).all() and first.objects.hits.any()
        assert renamed.available(0)[1] == ("lidar32",) and plain.fingerprint == renamed.fingerprint

    def test_a_sensor_that_is_asked_for_in_vain_says_how_to_rename(self, tmp_path: Path) -> None:
        write_folder(tmp_path, images=False)
        with pytest.raises(DataError, match=r"dataset\.settings\.lidar_as=lidar64"):
            Folder(tmp_path, "train").read(0, ["lidar64"])
        with pytest.raises(DataError) as caught:
            Folder(tmp_path, "train", lidar_as="lidar64").read(0, ["lidar16"])
        assert "this agent has lidar64" in str(caught.value) and "model." not in str(caught.value)

    def test_both_folders_are_ambiguous(self, tmp_path: Path) -> None:
        write_folder(tmp_path, images=False)
        (tmp_path / "train" / "monday" / "2" / "lidar64").mkdir()
        with pytest.raises(DataError, match="lidar_as=lidar64 is ambiguous"):
            Folder(tmp_path, "train", lidar_as="lidar64")
