"""What `heatv2x data check` finds: every planted fault, in every dataset, and nothing in a sound tree."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from heatv2x.core import plugins
from heatv2x.core.config import build
from heatv2x.data.check import CheckConfig, IndexConfig, Inspection, build_indexes, inspect, recognise
from heatv2x.data.datasets.base import Dataset
from heatv2x.data.plausibility.returns import Returns
from heatv2x.errors import ConfigError, DataError
from heatv2x.structures import PointCloud
from tests.formats.dair_writer import write_dair_v2x
from tests.formats.folder_writer import write_folder
from tests.formats.opv2v_tree import agent_yaml, pcd_bytes, write_tree, write_yaml
from tests.formats.opv2v_writer import OPV2V, write_opv2v, write_opv2v_h, write_v2xset


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    write_opv2v_h(root, OPV2V[:2], images=False)
    return root


@pytest.fixture
def tree(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "tree"))


def first(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


def fault(inspection: Inspection, kind: str, what: str) -> str:
    found = [each for each in inspection.faults if (each.kind, each.what) == (kind, what)]
    assert len(found) == 1 and not inspection.ok, inspection.faults
    return f"{found[0].path}: {found[0].key} {found[0].problem}"


def edited(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node))
    content = Loader(path.read_text()).get_single_data()
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_a_sound_tree(sound: Path) -> None:
    inspection = inspect(sound)
    assert inspection.ok and inspection.title == "OPV2V-H" and inspection.dataset == "opv2v"
    (split,) = inspection.splits
    assert (split.split, split.frames, split.published, split.scenarios) == ("train", 6, 6764, 2)
    states = {count.kind: count.state for count in inspection.files}
    assert states["32-beam cloud"] == "complete" and states["depth image"] == "not there"
    assert {verdict.name: verdict.state for verdict in inspection.verdicts} == {
        "poses and objects": "ok",
        "sensors": "ok",
        "points": "ok",
        "repeated data": "ok",
        "clocks": "note",  # OPV2V's frames have one time for all agents
        "points and labels": "ok",
        "handedness": "ok",
        "moments": "ok",
        "ground plane": "ok",
        "agents together": "note",  # nothing but a few cars stands around
    }
    json.dumps(inspection.to_json(), allow_nan=False)


def test_every_dataset_has_its_own_knowledge(tmp_path: Path) -> None:
    write_v2xset(tmp_path / "v2xset", images=False)
    write_dair_v2x(tmp_path / "dair")
    write_folder(tmp_path / "own")
    found = {name: inspect(tmp_path / name) for name in ("v2xset", "dair", "own")}
    assert [each.title for each in found.values()] == ["V2XSet", "DAIR-V2X-C", "own recordings"]
    assert [each.dataset for each in found.values()] == ["opv2v", "dair_v2x", "folder"]
    for name, each in found.items():
        assert each.ok and all(split.frames for split in each.splits), (name, each.faults)
        sorted((tmp_path / name).rglob("*.pcd"))[-1].write_bytes(b"no cloud")
        assert any(fault.what == "broken" and "cloud" in fault.kind for fault in inspect(tmp_path / name).faults), name
    shutil.rmtree(tmp_path / "dair" / "cooperative-vehicle-infrastructure" / "vehicle-side" / "calib")
    assert fault(inspect(tmp_path / "dair"), "calibration or labels", "missing")
    first(tmp_path / "own", "poses.csv").write_text("frame,x\n")
    assert "poses.csv" in fault(inspect(tmp_path / "own"), "poses, boxes or calibration", "broken")


def test_a_missing_cloud_is_named(tree: Path) -> None:
    missing = first(tree, "*_32.pcd")
    missing.unlink()
    inspection = inspect(tree)
    assert str(missing) in fault(inspection, "32-beam cloud", "missing")
    assert {count.kind: count.state for count in inspection.files}["32-beam cloud"] == "incomplete"


def test_faults_of_one_kind_are_counted(tree: Path) -> None:
    for path in sorted(tree.rglob("*_16.pcd"))[:3]:
        path.write_bytes(path.read_bytes()[:-7])
    (found,) = inspect(tree).faults
    assert (found.kind, found.what, found.count, len(found.further)) == ("16-beam cloud", "broken", 3, 2)


def test_with_every_only_some_files_are_read_and_all_are_looked_for(tree: Path) -> None:
    later = sorted(tree.rglob("0*.yaml"))[-1]
    later.with_suffix(".pcd").write_bytes(b"")
    assert not inspect(tree).ok and inspect(tree, CheckConfig(every=1000)).ok
    later.with_suffix(".pcd").unlink()
    assert fault(inspect(tree, CheckConfig(every=1000)), "64-beam cloud", "missing")


def test_all_broken_descriptions_are_found_and_the_rest_is_still_read(tree: Path) -> None:
    one, other = sorted(tree.rglob("0*.yaml"))[0], sorted(tree.rglob("0*.yaml"))[-1]
    edited(one, lambda content: content.pop("lidar_pose"))  # type: ignore[arg-type]
    other.write_bytes(b"a: [")
    first(tree, "*_16.pcd").write_bytes(b"")
    inspection = inspect(tree)
    assert {(each.kind, each.what, each.count) for each in inspection.faults} == {
        ("description", "broken", 2),
        ("16-beam cloud", "broken", 1),
    }


def test_a_missing_description_and_a_link_to_nowhere(tree: Path) -> None:
    missing = first(tree, "0*.yaml")
    missing.unlink()
    link = tree / "OPV2V" / "train" / "2021_08_18_19_48_05" / "999"
    link.symlink_to("999")
    inspection = inspect(tree)
    assert str(missing) in fault(inspection, "description", "missing")
    assert str(link) in fault(inspection, "folder", "broken") and inspection.splits[0].frames == 5


ABSURD = {
    "far": (lambda c: c.__setitem__("lidar_pose", [9e5, 0, 2, 0, 0, 0]), "pose", "jumps"),
    "upside down": (lambda c: c["lidar_pose"].__setitem__(3, 180.0), "pose", "tilted by 180 degrees"),
    "centimetres": (
        lambda c: [v.__setitem__("extent", [220.0, 90.0, 80.0]) for v in c["vehicles"].values()],
        "object",
        r"measures 440\.00 x",
    ),
    "elsewhere": (
        lambda c: [v.__setitem__("location", [5000.0, 0.0, 0.0]) for v in c["vehicles"].values()],
        "object",
        "whose LiDAR supposedly sees it",
    ),
}


@pytest.mark.parametrize("case", ABSURD)
def test_what_cannot_be_true(case: str, tmp_path: Path) -> None:
    change, kind, problem = ABSURD[case]
    scenario = write_tree(tmp_path / "data")
    path = scenario / "1045" / "000070.yaml"
    content = agent_yaml(1045)
    change(content)
    write_yaml(path, content)
    found = fault(inspect(tmp_path / "data"), kind, "absurd")
    assert str(path) in found and re.search(problem, found)


def rewritten(tree: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    from heatv2x.formats.pcd import read_pcd

    for path in tree.rglob("*.pcd"):
        path.write_bytes(pcd_bytes(change(read_pcd(path))))


@pytest.mark.parametrize(
    ("factors", "name", "words"),
    [
        ([1, -1, 1, 1], "handedness", "left and right are swapped"),
        ([1, 1, -1, 1], "points and labels", "counts downwards"),
        ([100, 100, 100, 1], "units", "points are in centimetres"),
    ],
)
def test_points_that_do_not_fit_the_labels(tree: Path, factors: list[float], name: str, words: str) -> None:
    rewritten(tree, lambda points: points * np.array(factors, np.float32))
    inspection = inspect(tree)
    assert not inspection.ok
    assert any(
        v.state == "fault" and re.search(name, v.name) and re.search(words, v.detail) for v in inspection.verdicts
    )


def test_boxes_that_float(tree: Path) -> None:
    def raised(content: dict[str, object]) -> None:
        for vehicle in content["vehicles"].values():  # type: ignore[attr-defined]
            vehicle["center"][2] += 1.5

    for path in tree.rglob("0*.yaml"):
        edited(path, raised)
    verdict = next(v for v in inspect(tree).verdicts if v.state == "fault")
    assert verdict.name == "points and labels" and re.search(r"moved by \(.*, -1\.[56]\) m", verdict.detail)


def test_the_downloads_of_opv2v_h_without_opv2v(tree: Path) -> None:
    shutil.rmtree(tree / "OPV2V")
    with pytest.raises(DataError, match="OPV2V itself"):
        inspect(tree)
    with pytest.raises(DataError, match="OPV2V itself"):
        inspect(tree / "OPV2V_Hetero")


def test_a_folder_that_is_no_dataset(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "music").mkdir()
    with pytest.raises(DataError, match="is not in the layout of dair_v2x or folder or opv2v; it holds nothing"):
        inspect(tmp_path / "music")
    with pytest.raises(DataError, match="is not a folder"):
        inspect(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="has no split 'tset'; it has train"):
        inspect(tree, CheckConfig(splits=("tset",)))


def test_a_dataset_without_hooks_is_read_as_a_whole(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = plugins.find("datasets", "opv2v")

    class Plain(part):  # type: ignore[misc, valid-type]
        survey = classmethod(Dataset.survey.__func__)
        available = Dataset.available

    monkeypatch.setattr(plugins, "available", lambda kind: ["plain"])
    monkeypatch.setattr(plugins, "find", lambda kind, name: Plain)
    inspection = inspect(tree)
    assert inspection.ok and inspection.splits[0].frames == 6
    assert {c.kind: c.state for c in inspection.files}["lidar32"] == "complete"
    first(tree, "*_32.pcd").unlink()
    assert "_32.pcd" in fault(inspect(tree), "lidar32", "missing")
    assert Plain(tree, "train").available(0)[641] == ("lidar64", "lidar16", "lidar")


def test_indexes_are_built(tree: Path) -> None:
    (index,) = build_indexes(tree, IndexConfig(), lambda *_: None)
    assert (index.split, index.frames) == ("train", 6) and index.again_s < index.first_s
    assert list((tree.parent / "cache").rglob("train-*.npz"))


def test_recognise_names_the_part(tree: Path) -> None:
    named, part, found = recognise(tree)
    assert named.part == "opv2v" and part is plugins.find("datasets", "opv2v") and found.splits == ("train",)
    assert next(iter(part.survey(tree, "train"))).of == 6


def test_survey_is_lazy(tree: Path) -> None:
    assert isinstance(plugins.find("datasets", "opv2v").survey(tree, "train"), Iterator)


def noted(inspection: Inspection, name: str) -> str:
    (found,) = [each for each in inspection.verdicts if each.name == name and each.state == "note"]
    return found.detail


def test_settings_of_the_dataset_have_the_syntax_of_the_other_verbs(tmp_path: Path) -> None:
    write_folder(tmp_path, images=False)
    for cloud in tmp_path.rglob("*.npy"):
        points = np.load(cloud)
        points[:, 3] = np.round(points[:, 3] * 255)
        np.save(cloud, points)
    part = {"dataset": {"settings": {"intensity_max": 255}}}
    assert inspect(tmp_path, build(CheckConfig, {**part, "split": "train", "every": 100})).ok
    assert not inspect(tmp_path, CheckConfig()).ok
    with pytest.raises(ConfigError, match="intensity_max"):
        inspect(tmp_path, build(CheckConfig, {"dataset": {"settings": {"intensity_maximum": 255}}}))
    with pytest.raises(ConfigError, match="choose one"):
        build(CheckConfig, {"split": "train", "splits": ["train"]})


def test_broken_files_are_there_and_broken(tmp_path: Path) -> None:
    write_folder(tmp_path, images=False)
    for cloud in tmp_path.rglob("lidar/*"):
        cloud.write_bytes(b"no cloud")
    (count,) = inspect(tmp_path).files
    assert (count.present, count.broken, count.expected, count.state) == (21, 21, 21, "broken files")
    first(tmp_path, "*.npy").unlink()
    (count,) = inspect(tmp_path).files
    assert (count.present, count.broken, count.expected) == (20, 20, 21)


def test_additions_under_another_name_are_found_and_checked(tree: Path) -> None:
    (tree / "OPV2V_Hetero").rename(tree / "OPV2V-H")
    cut = first(tree, "*_16.pcd")
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-100])
    inspection = inspect(tree)
    assert str(cut) in fault(inspection, "16-beam cloud", "broken")
    assert "hetero_root" in noted(inspection, "layout")
    cut.write_bytes(whole)
    shutil.move(tree / "OPV2V-H", tree.parent / "elsewhere")
    assert {c.kind: c.state for c in inspect(tree).files}["16-beam cloud"] == "not there"
    given = build(CheckConfig, {"dataset": {"settings": {"hetero_root": str(tree.parent / "elsewhere")}}})
    assert {c.kind: c.state for c in inspect(tree, given).files}["16-beam cloud"] == "complete"
    first(tree.parent / "elsewhere", "*_16.pcd").unlink()
    assert fault(inspect(tree, given), "16-beam cloud", "missing")


def test_a_kind_that_nobody_has_is_no_fault_and_one_that_some_lack_is(tmp_path: Path) -> None:
    write_dair_v2x(tmp_path)
    images = sorted(tmp_path.rglob("infrastructure-side/image/*.jpg"))
    images[2].unlink()
    assert fault(inspect(tmp_path), "roadside camera image", "missing")
    assert inspect(tmp_path, CheckConfig(sensors="lidar")).ok
    for image in tmp_path.rglob("*.jpg"):
        image.unlink()
    inspection = inspect(tmp_path)
    assert inspection.ok
    assert {c.kind for c in inspection.files if c.state == "not there"} == {
        "vehicle camera image",
        "roadside camera image",
    }


def test_settings_of_opv2v_say_what_is_missed(tmp_path: Path) -> None:
    write_opv2v_h(tmp_path, OPV2V[:1])
    first(tmp_path, "*_camera2.png").unlink()
    first(tmp_path, "*_depth1.png").unlink()
    first(tmp_path / "OPV2V" / "train", "*/650/0*.pcd").unlink()

    def missing(**settings: object) -> set[str]:
        inspection = inspect(tmp_path, build(CheckConfig, {"dataset": {"settings": settings}}))
        return {each.kind for each in inspection.faults if each.what == "missing"}

    assert missing() == {"camera image", "depth image", "64-beam cloud"}
    assert missing(cameras="present") == {"depth image", "64-beam cloud"}
    assert missing(depth=False) == {"camera image", "64-beam cloud"}
    assert missing(max_agents=1) == {"camera image", "depth image"}
    with pytest.raises(ConfigError, match="max_agents"):
        missing(max_agents=0)


def test_what_is_wrong_with_points_is_a_note(tmp_path: Path) -> None:
    write_folder(tmp_path, images=False)
    for number, path in enumerate(sorted((tmp_path / "train").rglob("*.npy"))):
        points = np.load(path)
        lost = np.full((len(points) // 4, 4), np.nan, np.float32)
        np.save(path, np.concatenate([points, lost])[:, : 3 if number == 0 else 4])
    inspection = inspect(tmp_path)
    assert inspection.ok
    (verdict,) = [verdict for verdict in inspection.verdicts if verdict.name == "points"]
    assert verdict.state == "note" and "1 of 21 clouds without intensity" in verdict.detail
    share = re.match(r"([\d.]+)% of all points have no position", verdict.detail)
    assert share is not None and 0 < float(share[1]) < 20


def test_clipped_intensities_are_a_note() -> None:
    returns = Returns()
    assert returns.verdicts() == []
    returns.add(PointCloud(np.zeros((1000, 4), np.float32), clipped=25))
    assert [(each.state, each.detail[:30]) for each in returns.verdicts()] == [
        ("note", "2.5% of all intensities exceed")
    ]
    returns.add(PointCloud(np.zeros((10**6, 4), np.float32), left_out=1))
    (verdict,) = returns.verdicts()
    assert verdict.detail.startswith("less than 0.1% of all points have no position")


def test_images_and_intrinsics_that_contradict_each_other(tmp_path: Path) -> None:
    write_opv2v(tmp_path, OPV2V[2:3])
    sound = inspect(tmp_path)
    assert sound.ok and {count.kind: count.state for count in sound.files}["camera image"] == "complete"
    for path in tmp_path.rglob("*_camera1.png"):
        Image.open(path).resize((400, 300)).save(path)
    found = inspect(tmp_path)
    assert "400x300 pixels contradict the camera's intrinsics" in fault(found, "camera image", "broken")
    assert next(each for each in found.faults).count == 4
