"""Own recordings on a small tree: three cloud formats, two kinds of pose, missing frames, boxes, cameras, bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatv2x.core import plugins
from heatv2x.data.datasets.base import labelled_frames, open_dataset
from heatv2x.data.datasets.folder import Folder
from heatv2x.data.ground_truth import ground_truth
from heatv2x.errors import DataError, HeatError
from heatv2x.formats.folder_names import agent_id
from tests.formats.folder_writer import AGENTS, write_folder
from tests.formats.moving_scene import Street, street
from tests.formats.test_writers import counted


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folder")
    write_folder(out)
    return out


@pytest.fixture
def own(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "mine")


def opened(root: Path, split: str = "train", **settings: Any) -> Folder:
    dataset = open_dataset("folder", root, split, settings)
    assert isinstance(dataset, Folder)
    return dataset


def moment(index: int) -> Street:
    return street(AGENTS, seed=70, parked=8).at(0.1 * index)


class TestReading:
    def test_frames_agents_and_poses(self, written: Path) -> None:
        dataset = opened(written)
        assert plugins.find("datasets", "folder") is Folder
        assert [dataset.name(i) for i in range(len(dataset))] == [f"monday/{1000 + k}" for k in range(4)]
        assert dataset.agent_ids(0) == (1, 2, -1) and dataset.agent_ids(3) == (1, -1)  # agent 2 misses the last frame
        for index in range(4):
            for agent in dataset.read(index, []).agents:
                np.testing.assert_allclose(agent.pose.matrix, moment(index).lidar_matrix(agent.agent_id), atol=1e-6)

    def test_clouds_of_all_formats_lie_on_the_boxes(self, written: Path) -> None:
        frame = opened(written).read(1, ["lidar"])
        for number in range(3):
            points = counted(frame, number, "lidar")
            hits = frame.objects.hits[:, number]
            others = frame.objects.ids != frame.agents[number].agent_id
            assert ((points > 15) <= (hits > 0))[others].all() and (hits <= points)[others].all() and hits.max() > 20
            intensity = frame.agents[number].lidars["lidar"].points[:, 3]
            assert 0.3 < intensity.max() <= 1
        assert frame.objects.counted and not np.isnan(frame.objects.speed).any()

    def test_hits_do_not_depend_on_what_is_asked_for(self, written: Path) -> None:
        dataset = opened(written)
        asked, silent = dataset.read(0, ["lidar"]), dataset.read(0, {1: ["camera"]})
        np.testing.assert_array_equal(asked.objects.hits, silent.objects.hits)
        assert [len(agent.cameras) for agent in silent.agents] == [2, 0, 0] and silent.agents[0].lidars == {}

    def test_cameras(self, written: Path) -> None:
        frame = opened(written).read(0, {1: ["camera"]})
        front, back = frame.agents[0].cameras
        assert front.image.shape == (240, 320, 3) and (front.name, back.name) == ("camera0", "camera1")
        centres = (frame.agents[0].pose.inverse() @ frame.objects.T_world_object)[:, :3, 3]
        seen = frame.objects.camera_visible[:, 0]
        assert 2 < seen.sum() < len(seen) and not frame.objects.camera_visible[:, 1:].any()
        assert np.abs(np.arctan2(centres[seen, 1], np.abs(centres[seen, 0]))).max() < np.radians(50)

    def test_the_ego_is_not_its_own_ground_truth(self, written: Path) -> None:
        truth = ground_truth(opened(written).read(0, []), 0)
        assert truth.ids is not None and 1 not in truth.ids and 2 in truth.ids and truth.hits is not None

    def test_times(self, written: Path) -> None:
        dataset = opened(written)
        assert dataset.capture_us(2, -1) == 12_700_000
        assert dataset.earlier(3, 200) == 1 and dataset.earlier(1, 200) is None

    def test_without_boxes(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_folder(tmp_path, images=False, boxes=False)
        frame = opened(tmp_path).read(0, ["lidar"])
        assert len(frame.objects) == 0 and frame.objects.hits.shape == (0, 3)
        assert "monday without boxes.csv" in caplog.text
        with pytest.raises(HeatError, match=r"none of the 4 frames .*monday/1000 to monday/1003.* is labelled"):
            labelled_frames(opened(tmp_path))

    def test_unlabelled_is_not_empty(self, own: Path) -> None:
        path = own / "train" / "monday" / "boxes.csv"
        head, *rows = path.read_text().splitlines()
        kept = [row for row in rows if row.startswith("1000,")]
        path.write_text("\n".join([head, *kept, "1002" + "," * (head.count(","))]) + "\n")
        dataset = opened(own)
        assert [dataset.labelled(index) for index in range(4)] == [True, False, True, False]
        assert len(dataset.read(0, []).objects) > 5 and len(dataset.read(2, []).objects) == 0
        assert labelled_frames(dataset) == [0, 2] and dataset.earlier(2, 100) == 1

    @pytest.mark.parametrize("first", [True, False])
    def test_a_frame_is_empty_or_not(self, first: bool, own: Path) -> None:
        path = own / "train" / "monday" / "boxes.csv"
        head, *rows = path.read_text().splitlines()
        empty = "1000" + "," * head.count(",")
        path.write_text("\n".join([head, empty, *rows] if first else [head, *rows, empty]) + "\n")
        with pytest.raises(DataError, match=r"is labelled as empty in line .* and has boxes as well"):
            opened(own)

    def test_boxes_of_frames_that_nobody_has_are_told(self, own: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = own / "train" / "monday" / "boxes.csv"
        path.write_text(path.read_text().replace("\n1001,", "\n01001,"))
        dataset = opened(own)
        assert "boxes.csv names frames that no agent has: 01001" in caplog.text and not dataset.labelled(1)

    def test_the_fingerprint_is_of_the_content(self, written: Path, own: Path) -> None:
        assert opened(own).fingerprint == opened(written).fingerprint
        path = own / "train" / "monday" / "boxes.csv"
        path.write_text(path.read_text().replace(",300,", ",399,"))
        assert opened(own).fingerprint != opened(written).fingerprint


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return apply


def holding(text: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_text(text)

    return apply


def calibrated(**change: Any) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = json.loads(path.read_text())
        content["camera0"] |= change
        path.write_text(json.dumps(content))

    return apply


POSES, BOXES, CALIBRATION = "1/poses.csv", "boxes.csv", "1/calibration.json"
BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no poses": (POSES, Path.unlink, "is missing"),
    "empty": (POSES, holding(""), "is empty"),
    "no columns": (POSES, holding("\n1\n"), "has the columns"),
    "column": (POSES, replaced("time_s", "time"), "has the columns frame,time,x,y,z,roll,pitch,yaw"),
    "short": (POSES, replaced("1001,", "1001\n"), "has 1 value for 8 columns"),
    "word": (POSES, replaced("12.6", "noon"), "line 3, time_s': expected a finite number, got 'noon'"),
    "nan": (POSES, replaced("12.6", "nan"), "expected a finite number"),
    "milliseconds": (POSES, replaced("12.6", "1532402927647"), "looks like milliseconds\n.*name the column time_ms"),
    "nanoseconds": (
        POSES,
        replaced("12.6", "1532402927647951000"),
        "looks like nanoseconds\n.*name the column time_ns",
    ),
    "two times": (POSES, replaced("time_s", "time_s,time_ns"), "has the columns frame,time_s,time_ns"),
    "hidden": (POSES, replaced("1001,", ".1001,"), "is not a valid frame name"),
    "twice": (POSES, replaced("1001,", "1000,"), "lists frame 1000 twice"),
    "climbs": (POSES, replaced("1001,", "../1001,"), "is not a valid frame name"),
    "degrees": (
        POSES,
        lambda path: path.write_text("frame,time_s,x,y,z,roll,pitch,yaw\n1,0,0,0,0,0,0,90"),
        "write radians",
    ),
    "quaternion": (
        "2/poses.csv",
        lambda path: path.write_text("frame,time_s,x,y,z,qx,qy,qz,qw\n1,0,0,0,0,0,0,0,2"),
        "length 2",
    ),
    "binary": (BOXES, lambda path: path.write_bytes(b"\xff\xfe\x00\x01"), "is not a CSV file"),
    "flat": (
        BOXES,
        lambda path: path.write_text("frame,id,x,y,z,length,width,height,yaw\n1000,3,0,0,0,4,0,1,0"),
        "sizes must be",
    ),
    "id": (BOXES, replaced("1000,300,", "1000,car,"), "'car' is neither an integer id nor the folder of an agent"),
    "same id": (BOXES, replaced("1000,301,", "1000,300,"), "object 300 is listed twice"),
    "no JSON": (CALIBRATION, holding("{"), "is not valid JSON"),
    "name": (CALIBRATION, replaced("camera0", "front"), "name cameras camera0"),
    "K": (CALIBRATION, calibrated(K=[[1, 2], [3, 4]]), "camera0.K': expected 3 x 3 finite numbers"),
    "ragged": (CALIBRATION, calibrated(K=[[1, 2], [3]]), "camera0.K': expected 3 x 3"),
    "K of another size": (CALIBRATION, calibrated(K=[[960, 0, 960], [0, 960, 540], [0, 0, 1]]), "about 1920x1080"),
    "size of another K": (CALIBRATION, calibrated(size=[640, 480]), "640x480 .* contradict .* 319x239"),
    "mirror": (CALIBRATION, calibrated(T_agent_camera=np.diag([1, 1, -1, 1]).tolist()), "rigid right-handed"),
    "size": (CALIBRATION, calibrated(size=[0, 5]), "is not a size"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error(own: Path, case: str) -> None:
    name, damage, problem = BAD[case]
    path = own / "train" / "monday" / name
    damage(path)
    with pytest.raises(DataError, match=problem) as caught:
        opened(own)
    assert caught.value.path == path and caught.value.way_out


def test_sensor_files(own: Path) -> None:
    dataset, recording = opened(own), own / "train" / "monday"
    with pytest.raises(DataError, match=r"1/lidar16: is missing: the agent has no such LiDAR"):
        dataset.read(0, {1: ["lidar16"]})
    with pytest.raises(DataError, match=r"2/calibration\.json: is missing, but cameras were requested"):
        dataset.read(0, {2: ["camera"]})
    shutil.copy(recording / "2" / "lidar" / "1000.npy", recording / "2" / "lidar" / "1000.bin")
    with pytest.raises(DataError, match="exists 2 times"):
        dataset.read(0, ["lidar"])
    (recording / "1" / "lidar" / "1001.pcd").unlink()
    with pytest.raises(DataError, match=r"lidar/1001: is missing\n.*from poses\.csv; .* such as 1000\.pcd"):
        dataset.read(1, ["lidar"])
    with pytest.raises(DataError, match="choose one of test, train, validate"):
        opened(own, "val")
    with pytest.raises(DataError, match="give the folder that holds the splits"):
        opened(own / "nowhere")


def renamed(root: Path, stem: Callable[[str], str], suffix: Callable[[str], str] = str) -> None:
    """Give all sensor files and frames of a tree other names."""
    for path in [path for path in root.rglob("*") if path.suffix in (".pcd", ".npy", ".bin", ".png")]:
        path.rename(path.with_name(stem(path.stem) + suffix(path.suffix)))
    for table in root.rglob("*.csv"):
        head, *rows = table.read_text().splitlines()
        table.write_text("\n".join([head, *(",".join([stem(row[:4]), row[5:]]) for row in rows)]) + "\n")


class TestNames:
    @pytest.mark.parametrize(
        "stem",
        [
            "n015-2018-07-24-11-22-45+0800__LIDAR_TOP__{}",
            "2018-07-24T11:22:{}",
            "{} (1)",
            "Straße_{}",
            "{}.123456789",
            "frame={}@50%~&'#!",
        ],
    )
    def test_frames_of_other_tools(self, own: Path, stem: str) -> None:
        before = opened(own)
        renamed(own, stem.format)
        dataset = opened(own)
        assert len(dataset) == 4 and dataset.name(0) == f"monday/{stem.format('1000')}"
        frame = dataset.read(0, {1: ["lidar", "camera"], 2: ["lidar"], -1: ["lidar"]})
        assert len(frame.objects) == 10 and len(frame.agents[0].cameras) == 2
        assert dataset.capture_us(2, 1) == before.capture_us(2, 1)

    def test_capital_suffixes(self, own: Path) -> None:
        before = opened(own).read(0, ["lidar"])
        renamed(own, str, str.upper)
        frame = opened(own).read(0, {1: ["lidar", "camera"], 2: ["lidar"], -1: ["lidar"]})
        for agent, old in zip(frame.agents, before.agents, strict=True):
            np.testing.assert_array_equal(agent.lidars["lidar"].points, old.lidars["lidar"].points)
        assert len(frame.agents[0].cameras) == 2
        (own / "train/monday/2/lidar/1000.NPY").rename(own / "train/monday/2/lidar/1000.Npy")
        assert len(opened(own).read(0, {2: ["lidar"]}).agents[1].lidars["lidar"]) > 1000
        shutil.copy(own / "train/monday/1/lidar/1000.PCD", own / "train/monday/1/lidar/1000.pcd")
        with pytest.raises(DataError, match=r"exists 2 times: 1000\.pcd, 1000\.PCD"):
            opened(own).read(0, ["lidar"])

    def test_agents_by_name(self, own: Path, caplog: pytest.LogCaptureFixture) -> None:
        before = opened(own).read(0, ["lidar"])
        for recording in ("train/monday", "validate/tuesday"):
            (own / recording / "1").rename(own / recording / "car_a")
            (own / recording / "-1").rename(own / recording / "RSU north")
        boxes = own / "train/monday/boxes.csv"
        boxes.write_text(boxes.read_text().replace(",1,", ",car_a,"))
        with caplog.at_level("INFO"):
            dataset = opened(own)
        two, car, roadside = dataset.agent_ids(0)
        assert (two, car > 1_000_000, roadside < -1_000_000) == (2, True, True)
        assert f"car_a is agent {car}" in caplog.text
        assert opened(own, "validate").agent_ids(0) == (two, car, roadside)  # the same in every recording
        frame = dataset.read(0, ["lidar"])
        for agent, old in zip(frame.agents, (before.agents[1], before.agents[0], before.agents[2]), strict=True):
            np.testing.assert_array_equal(agent.pose.matrix, old.pose.matrix)
        assert [agent.is_roadside for agent in frame.agents] == [False, False, True]
        truth = ground_truth(frame, 1)
        assert car in frame.objects.ids and truth.ids is not None and car not in truth.ids and 2 in truth.ids

    def test_agents_by_name_keep_their_ids(self) -> None:
        """Written down: an id that changed would change what results say of whom."""
        assert [agent_id(name) for name in ("12", "-3", "car_a", "rsu_1")] == [12, -3, 479014120, -29982129]
        assert agent_id("Infrastructure") < 0 and agent_id("roadside-2") < 0 and agent_id("car_b") != agent_id("car_a")

    def test_two_names_of_one_id(self, own: Path) -> None:
        shutil.copytree(own / "train/monday/1", own / "train/monday/01")
        with pytest.raises(DataError, match="both stand for the id 1"):
            opened(own)

    def test_a_folder_that_is_an_agent_without_poses(self, own: Path, caplog: pytest.LogCaptureFixture) -> None:
        recording = own / "train/monday"
        (recording / "notes").mkdir()
        assert opened(own).agent_ids(0) == (1, 2, -1) and "notes is ignored: it is not an agent's" in caplog.text
        (recording / "car" / "lidar").mkdir(parents=True)
        with pytest.raises(DataError, match=r"car/poses\.csv: is missing, but the folder holds lidar"):
            opened(own)

    @pytest.mark.parametrize(("column", "factor"), [("time_ms", 10**3), ("time_us", 10**6), ("time_ns", 10**9)])
    def test_times_in_other_units(self, own: Path, column: str, factor: int) -> None:
        before = opened(own)
        for table in own.rglob("poses.csv"):
            head, *rows = table.read_text().splitlines()
            split = [row.split(",", 2) for row in rows]
            rows = [f"{frame},{round(float(time) * factor)},{rest}" for frame, time, rest in split]
            table.write_text("\n".join([head.replace("time_s", column), *rows]) + "\n")
        dataset = opened(own)
        assert [dataset.capture_us(k, 1) for k in range(4)] == [before.capture_us(k, 1) for k in range(4)]
        assert dataset.earlier(3, 200) == 1


class TestClouds:
    def test_sensor_folders_of_other_names_are_ignored_aloud(self, own: Path, caplog: pytest.LogCaptureFixture) -> None:
        opened(own)
        assert "ignored sensor folders" not in caplog.text
        for agent in ("1", "2"):
            (own / "train/monday" / agent / "lidar").rename(own / "train/monday" / agent / "LIDAR_TOP")
        (own / "train/monday/1/calibration.json").unlink()
        opened(own)
        assert caplog.text.count("ignored sensor folders: LIDAR_TOP, camera0, camera1 (first: ") == 1
        with pytest.raises(DataError, match="the agent has no such LiDAR"):
            opened(own).read(0, {1: ["lidar"]})

    def test_files_of_nuscenes_and_others(self, own: Path) -> None:
        path = own / "train/monday/-1/lidar/1000.bin"
        before = opened(own).read(0, ["lidar"]).agents[2].lidars["lidar"].points
        ring = np.full((len(before), 1), 31, np.float32)
        path.write_bytes(np.hstack([before, ring]).tobytes())
        with pytest.raises(DataError):
            opened(own).read(0, {-1: ["lidar"]})
        np.testing.assert_array_equal(
            opened(own, bin_columns=5).read(0, {-1: ["lidar"]}).agents[2].lidars["lidar"].points, before
        )
        path.rename(path.with_name("1000.pcd.bin"))
        np.testing.assert_array_equal(opened(own).read(0, {-1: ["lidar"]}).agents[2].lidars["lidar"].points, before)

    def test_what_is_special_is_said_once(self, own: Path, caplog: pytest.LogCaptureFixture) -> None:
        for number, path in enumerate(sorted((own / "train/monday/2/lidar").glob("*.npy"))):
            points = np.load(path)
            points[:7, 0], points[:, 3] = np.nan, 300 + number
            np.save(path, points if number else points[:, :3])
        dataset = opened(own, intensity_max=255)
        with caplog.at_level("INFO"):
            clouds = [dataset.read(k, {2: ["lidar"]}).agents[1].lidars["lidar"] for k in (0, 1, 2, 1)]
        assert [cloud.left_out for cloud in clouds] == [7] * 4
        assert [cloud.has_intensity for cloud in clouds] == [False, True, True, True]
        assert clouds[0].clipped == 0 and clouds[1].clipped == len(clouds[1])
        assert caplog.text.count("has no intensity") == 1
        assert caplog.text.count("100.0% of intensities lie above intensity_max=255") == 1
        assert caplog.text.count("left out 7 of") == 1
