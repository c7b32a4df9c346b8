"""Own recordings on a small tree: three cloud formats, two kinds of pose, missing frames, boxes, cameras, bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatv2x import plugins
from heatv2x.datasets.base import labelled_frames, open_dataset
from heatv2x.datasets.folder import Folder
from heatv2x.errors import DataError, HeatError
from heatv2x.formats.arrays import read_bin, read_npy
from heatv2x.ground_truth import ground_truth
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
    "empty": (POSES, holding(""), "has the columns"),
    "column": (POSES, replaced("time_s", "time"), "has the columns frame,time,x,y,z,roll,pitch,yaw"),
    "short": (POSES, replaced("1001,", "1001\n"), "has 1 values for 8 columns"),
    "word": (POSES, replaced("12.6", "noon"), "line 3, time_s': expected a finite number, got 'noon'"),
    "nan": (POSES, replaced("12.6", "nan"), "expected a finite number"),
    "twice": (POSES, replaced("1001,", "1000,"), "lists frame 1000 twice"),
    "climbs": (POSES, replaced("1001,", "../1001,"), "is no name of a frame"),
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
    "id": (BOXES, replaced("1000,300,", "1000,car,"), "'car' is not an integer id"),
    "same id": (BOXES, replaced("1000,301,", "1000,300,"), "object 300 is listed twice"),
    "no JSON": (CALIBRATION, holding("{"), "is not valid JSON"),
    "name": (CALIBRATION, replaced("camera0", "front"), "name cameras camera0"),
    "K": (CALIBRATION, calibrated(K=[[1, 2], [3, 4]]), "camera0.K': expected 3 x 3 finite numbers"),
    "ragged": (CALIBRATION, calibrated(K=[[1, 2], [3]]), "camera0.K': expected 3 x 3"),
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
    with pytest.raises(DataError, match=r"2/calibration\.json: is missing: cameras were asked for"):
        dataset.read(0, {2: ["camera"]})
    shutil.copy(recording / "2" / "lidar" / "1000.npy", recording / "2" / "lidar" / "1000.bin")
    with pytest.raises(DataError, match="is there 2 times"):
        dataset.read(0, ["lidar"])
    (recording / "1" / "lidar" / "1001.pcd").unlink()
    with pytest.raises(DataError, match=r"lidar/1001: is missing\n.*take the frame out of poses\.csv"):
        dataset.read(1, ["lidar"])
    with pytest.raises(DataError, match="choose one of test, train, validate"):
        opened(own, "val")
    with pytest.raises(DataError, match="give the folder that holds the splits"):
        opened(own / "nowhere")


class TestArrays:
    def test_good_ones(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([[1, 2, 3]], np.float64))
        assert read_npy(tmp_path / "a.npy").tolist() == [[1, 2, 3, 0]]
        np.save(tmp_path / "b.npy", np.asfortranarray(np.array([[1, 2, 3, 51], [4, 5, 6, 255]], np.float32)))
        assert read_npy(tmp_path / "b.npy", intensity_max=255)[:, 3].tolist() == pytest.approx([0.2, 1.0])
        np.array([[1, 2, 3, 0.5]], "<f4").tofile(tmp_path / "c.bin")
        assert read_bin(tmp_path / "c.bin").tolist() == [[1, 2, 3, 0.5]]

    def test_bad_ones(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npy"
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
        with pytest.raises(DataError, match="is not a readable"):
            read_npy(path)
        np.save(path, np.zeros((2, 4), np.float32))
        content = path.read_bytes()
        for bad in (b"", content[:40], content[:-1], content.replace(b"(2, 4)", b"(9999999999999, 4)")):
            path.write_bytes(bad)
            with pytest.raises(DataError, match="is not a readable"):
                read_npy(path)
        for array, problem in (
            (np.zeros(4), "expected"),
            (np.zeros((2, 7)), "expected"),
            (np.zeros((2, 4), "U3"), "of numbers"),
            (np.full((2, 4), np.nan), "2 of 2 points have a NaN"),
            (np.full((2, 4), 2.0), "values up to 2, not 0 to 1"),
        ):
            np.save(path, array)
            with pytest.raises(DataError, match=problem):
                read_npy(path)
        (tmp_path / "b.bin").write_bytes(b"123")
        with pytest.raises(DataError, match="is 3 bytes, expected 16 for each"):
            read_bin(tmp_path / "b.bin")
