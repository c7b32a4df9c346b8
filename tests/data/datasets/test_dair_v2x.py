"""The reader of DAIR-V2X on a small tree in the real layout: calibration chain, labels, splits, delay, bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatv2x.core import plugins
from heatv2x.data.check import inspect
from heatv2x.data.datasets.base import open_dataset
from heatv2x.data.datasets.dair_v2x import DairV2x
from heatv2x.data.ground_truth import boxes_in_frame, ground_truth
from heatv2x.errors import ConfigError, DataError
from heatv2x.formats.dair_json import parse_cooperative_labels, parse_offset, parse_side_labels, parse_transform
from heatv2x.structures import Frame
from tests.formats.dair_writer import (
    BATCHES,
    DOUBLE,
    NAMED_TWICE,
    OFFSETS,
    POLE,
    T_LIDAR_CAMERA,
    VEHICLE,
    K,
    _level_pole,
    lidar_matrix,
    write_dair_v2x,
)
from tests.formats.moving_scene import Street, place, rotation, street
from tests.formats.test_writers import counted


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dair")
    write_dair_v2x(out)
    return out


@pytest.fixture
def own(written: Path, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    return shutil.copytree(written, tmp_path / "dair") / "cooperative-vehicle-infrastructure"


def opened(root: Path, split: str = "train", **settings: Any) -> DairV2x:
    dataset = open_dataset("dair_v2x", root, split, settings)
    assert isinstance(dataset, DairV2x)
    return dataset


def moment(index: int, batch: int = 0) -> Street:
    return _level_pole(street((VEHICLE, POLE), seed=40 + batch, parked=10)).at(0.1 * index)


class TestFrames:
    def test_names_agents_and_poses_of_the_whole_chain(self, written: Path) -> None:
        dataset = opened(written)
        assert plugins.find("datasets", "dair_v2x") is DairV2x
        names = [f"7/{n:06d}" for n in BATCHES["7"].vehicle]
        assert [dataset.name(i) for i in range(len(dataset))] == [*names, f"7/{NAMED_TWICE}-2"]
        for index in range(4):  # with an offset, with another, without one, with an empty one
            frame = dataset.read(index, [])
            assert [agent.agent_id for agent in frame.agents] == [0, -1] == list(dataset.agent_ids(index))
            assert not frame.agents[0].is_roadside and frame.agents[1].is_roadside
            for agent in frame.agents:
                np.testing.assert_allclose(agent.pose.matrix, lidar_matrix(moment(index), agent.agent_id), atol=1e-8)

    def test_points_of_both_agents_lie_on_the_labelled_cars(self, written: Path) -> None:
        frame = opened(written).read(1, ["lidar", "lidar64"])
        for agent in range(2):
            cloud = frame.agents[agent].lidars["lidar64"]
            assert cloud is frame.agents[agent].lidars["lidar"] and np.isfinite(cloud.points).all()
            assert 0.3 < cloud.points[:, 3].max() <= 255 / 256
            listed = frame.objects.hits[:, agent] > 0
            assert (counted(frame, agent, "lidar")[listed] >= 3).all() and listed.sum() > 5

    def test_cameras_project_labels_to_where_the_cars_are_drawn(self, written: Path) -> None:
        frame = opened(written).read(0, ["camera"])
        for agent in frame.agents:
            (camera,) = agent.cameras
            assert camera.image.shape == (1080, 1920, 3) and camera.depth is None
            np.testing.assert_allclose(camera.T_agent_camera, T_LIDAR_CAMERA[agent.agent_id], atol=1e-12)
            np.testing.assert_allclose(camera.K, K)
        (camera,) = frame.agents[0].cameras
        grey = np.abs(camera.image.astype(int) - 90).max(axis=2) < 25  # the ground
        sky = np.abs(camera.image.astype(int) - [150, 190, 230]).max(axis=2) < 25
        centres = (frame.agents[0].pose.inverse() @ frame.objects.T_world_object)[:, :3, 3]
        pixels = (centres - camera.T_agent_camera[:3, 3]) @ camera.T_agent_camera[:3, :3] @ camera.K.T
        u, v = (pixels[:, :2] / pixels[:, 2:]).T
        visible = np.flatnonzero(frame.objects.camera_visible[:, 0])
        drawn = [not (grey | sky)[int(v[n]), int(u[n])] for n in visible]
        assert len(drawn) >= 4 and np.mean(drawn) > 0.7

    def test_the_clock(self, written: Path) -> None:
        dataset = opened(written)
        assert dataset.capture_us(1, 0) - dataset.capture_us(0, 0) == 100_000
        assert dataset.capture_us(0, -1) - dataset.capture_us(0, 0) == 30_000
        assert dataset.earlier(3, 200) == 1 and dataset.earlier(1, 200) is None

    def test_late_infrastructure(self, written: Path, caplog: pytest.LogCaptureFixture) -> None:
        now, late = opened(written), opened(written, infrastructure_delay=2)
        frame, current = late.read(1, ["lidar"]), now.read(1, [])
        assert [agent.timestamp for agent in frame.agents] == ["000003", "000018"]
        assert late.capture_us(1, 0) - late.capture_us(1, -1) == 170_000
        np.testing.assert_array_equal(
            frame.objects.T_world_object, current.objects.T_world_object
        )  # labels are not late
        street_then = moment(-1)
        there = lidar_matrix(street_then, POLE)
        there[:2, 3] += OFFSETS[1]["delta_x"] - OFFSETS[0]["delta_x"], OFFSETS[1]["delta_y"] - OFFSETS[0]["delta_y"]
        np.testing.assert_allclose(frame.agents[1].pose.matrix, there, atol=1e-8)  # the offset is the pair's
        moving = frame.objects.hits[:, 1] > 0
        assert (
            counted(frame, 1, "lidar")[moving].sum() < 0.9 * counted(now.read(1, ["lidar"]), 1, "lidar")[moving].sum()
        )
        with caplog.at_level("INFO"):
            assert len(opened(written, infrastructure_delay=3)) == 4
        assert "1 of 5 pairs have no infrastructure frame 3 frames earlier" in caplog.text
        with pytest.raises(DataError, match="holds no pairs"):
            opened(written, infrastructure_delay=30)


class TestLabels:
    def true_boxes(self, frame: Frame, index: int) -> np.ndarray:
        """(N, 3) centres of all cars but the vehicle itself, in the vehicle's LiDAR frame."""
        here = moment(index)
        return (np.linalg.inv(here.lidar_matrix(VEHICLE)) @ here.T_world_car[1:])[:, :3, 3]

    @pytest.mark.parametrize("truth", ["sides", "cooperative"])
    def test_every_object_once_and_where_it_is(self, written: Path, truth: str) -> None:
        frame = opened(written, truth=truth).read(2, [])
        boxes = boxes_in_frame(frame.objects, frame.agents[0].pose)
        assert boxes.hits is None and not frame.objects.counted
        others = np.hypot(*boxes.boxes[:, :2].T) > 3  # without the vehicle itself, which the roadside unit labels
        distance = np.linalg.norm(boxes.boxes[others, None, :3] - self.true_boxes(frame, 2), axis=-1)
        assert (distance.min(axis=1) < 0.2).all()  # the pair has no offset and labels of both sides agree
        assert len(set(distance.argmin(axis=1))) == others.sum() >= 8
        assert (boxes.boxes[:, 3] > 3.9).all() and (boxes.boxes[:, 4] < 2.1).all()
        assert {(1, 1), (0, 1)} <= {tuple(row) for row in frame.objects.hits.tolist()}

    def test_ground_truth_does_not_ask_for_counts_that_do_not_exist(self, written: Path) -> None:
        frame = opened(written).read(0, [])
        truth = ground_truth(frame, 0, min_hits=5)
        assert len(truth) == len(ground_truth(frame, 0)) > 5 and truth.hits is None
        assert (np.hypot(*truth.boxes[:, :2].T) > 2).all()  # the vehicle itself is not among them

    def test_original_labels_cover_what_the_camera_sees(self, own: Path, caplog: pytest.LogCaptureFixture) -> None:
        whole, ahead = opened(own).read(0, []).objects, opened(own, annotations="original").read(0, []).objects
        assert ahead.hits[:, 0].sum() < whole.hits[:, 0].sum() and "original labels" in caplog.text
        assert opened(own, annotations="auto").annotations == "complemented"
        coop = opened(own, truth="cooperative", annotations="original").read(0, []).objects
        assert 0 < len(coop) < len(opened(own, truth="cooperative").read(0, []).objects)
        shutil.rmtree(own / "vehicle-side" / "label" / "lidar_backup")
        assert opened(own).annotations == "original"
        with pytest.raises(DataError, match=r"lidar_backup: is missing: the labels in place are the original"):
            opened(own, annotations="complemented")

    def test_numbers_may_be_strings(self, own: Path) -> None:
        labels = sorted((own / "vehicle-side" / "label" / "camera").glob("*.json"))
        parsed = parse_side_labels(labels[0].read_bytes(), labels[0])
        assert len(parsed) > 2 and (parsed.size > 1).all()

    def test_other_types_and_flat_boxes_are_left_out(self, own: Path) -> None:
        path = own / "vehicle-side" / "label" / "lidar" / "000002.json"
        listed = json.loads(path.read_text())
        assert len(parse_side_labels(path.read_bytes(), path)) == len(listed) - 3
        listed[0]["type"] = "CAR"
        assert len(parse_side_labels(json.dumps(listed).encode(), path)) == len(listed) - 3

    @pytest.mark.parametrize("clockwise", [False, True])
    @pytest.mark.parametrize("shift", [0, 1])
    def test_corners_in_another_turn(self, shift: int, clockwise: bool) -> None:
        turn = ((0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5))
        signs = [[x, y if not clockwise else -y, z] for z in (-0.5, 0.5) for x, y in turn]
        T = place((10.0, 20.0, 1.0)) @ rotation(0.4, 0.02)
        corners = np.array(signs) * [4.4, 1.8, 1.5] @ T[:3, :3].T + T[:3, 3]
        turned = np.concatenate([np.roll(corners[:4], shift, axis=0), np.roll(corners[4:], shift, axis=0)])
        content = json.dumps([{"type": "car", "world_8_points": turned.tolist()}]).encode()
        labels = parse_cooperative_labels(content, Path("c.json"))
        np.testing.assert_allclose(labels.size, [[4.4, 1.8, 1.5]], atol=1e-9)
        yaw = np.arctan2(labels.T_frame_object[0, 1, 0], labels.T_frame_object[0, 0, 0])
        assert np.sin(yaw - 0.4) == pytest.approx(0, abs=1e-9) and np.linalg.det(labels.T_frame_object[0]) > 0
        assert shift or np.cos(yaw - 0.4) > 0, "0 and 1 are the front"

    @pytest.mark.parametrize("order", [(4, 5, 6, 7, 0, 1, 2, 3), (0, 2, 1, 3, 4, 6, 5, 7), (0, 4, 1, 5, 2, 6, 3, 7)])
    def test_corners_that_are_no_box(self, own: Path, order: tuple[int, ...]) -> None:
        path = own / "cooperative" / "label_world" / "000002.json"
        listed = json.loads(path.read_text())
        listed[1]["world_8_points"] = [listed[1]["world_8_points"][corner] for corner in order]
        with pytest.raises(DataError, match=r"key '\[1\].world_8_points': the eight corners are not those of a box"):
            parse_cooperative_labels(json.dumps(listed).encode(), path)


class TestDoubleFrames:
    """The release pairs some vehicle frames with two roadside frames."""

    def pairs(self, dataset: DairV2x) -> dict[str, tuple[str, str]]:
        """File stems of both sides by name."""
        frames = [dataset.read(index, []) for index in range(len(dataset))]
        return {f"{f.scenario}/{f.timestamp}": (f.agents[0].timestamp, f.agents[1].timestamp) for f in frames}

    def test_coalign_takes_the_last_pair(self, written: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            dataset = opened(written)
        assert self.pairs(dataset)["7/000004"] == ("000004", "000021")
        assert "1 vehicle frames of 'train' have more than one roadside frame: the last" in caplog.text
        assert "'train' names 1 frames more than once" in caplog.text

    def test_official_takes_them_all(self, written: Path) -> None:
        pairs = self.pairs(opened(written, splits="official"))
        assert pairs["7/000004"] == ("000004", "000020") and pairs["7/000004-2"] == ("000004", "000021")
        assert pairs["12/002000"] == ("002000", "004999") and pairs["12/002000-2"] == ("002000", "005000")
        assert len(pairs) == 7, "names are unique"

    def test_each_pair_has_its_own_offset(self, written: Path) -> None:
        dataset = opened(written, splits="official")
        for name, step in (("7/000004", 1), ("7/000004-2", 2)):
            frame = dataset.read([dataset.name(i) for i in range(7)].index(name), [])
            np.testing.assert_allclose(frame.agents[0].pose.matrix, lidar_matrix(moment(2), VEHICLE), atol=1e-8)
            np.testing.assert_allclose(frame.agents[1].pose.matrix, lidar_matrix(moment(step), POLE), atol=1e-8)

    def test_a_frame_that_a_split_names_twice_counts_twice(self, own: Path) -> None:
        (own / "val.json").write_text(json.dumps(["002000", "002001", "002002", "002001", "002001"]))
        dataset = opened(own, "validate")
        names = ["12/002000", "12/002001", "12/002001-2", "12/002001-3", "12/002002"]
        assert [dataset.name(i) for i in range(5)] == names
        assert len({pair for name, pair in self.pairs(dataset).items() if "002001" in name}) == 1
        assert dataset.capture_us(1, VEHICLE) == dataset.capture_us(3, VEHICLE)

    def test_the_same_pair_twice_is_one(self, own: Path) -> None:
        path = own / "cooperative" / "data_info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) * 2))
        assert len(opened(own, splits="official")) == 7 and len(opened(own)) == 5

    def test_the_index_notices_another_offset(self, own: Path) -> None:
        """No file that a frame is read from has changed, only the list that names them."""
        before = opened(own)
        path = own / "cooperative" / "data_info.json"
        pairs = json.loads(path.read_text())
        pairs[0]["system_error_offset"] = {"delta_x": 5.0, "delta_y": 0.0}
        path.write_text(json.dumps(pairs))
        after = opened(own)
        moved = after.read(0, []).agents[1].pose.matrix - before.read(0, []).agents[1].pose.matrix
        np.testing.assert_allclose(moved[:2, 3], [5.0 - OFFSETS[0]["delta_x"], -OFFSETS[0]["delta_y"]], atol=1e-9)
        assert after.fingerprint != before.fingerprint

    def test_double_frames_are_late_like_all_others(self, written: Path) -> None:
        late = self.pairs(opened(written, splits="official", infrastructure_delay=1))
        assert late["7/000004"] == ("000004", "000019") and late["7/000004-2"] == ("000004", "000020")

    def test_the_writer_has_some(self, written: Path) -> None:
        listed = json.loads((written / "cooperative-vehicle-infrastructure/cooperative/data_info.json").read_text())
        stems = [Path(pair["vehicle_pointcloud_path"]).stem for pair in listed]
        assert sorted({stem for stem in stems if stems.count(stem) > 1}) == sorted(DOUBLE)


class TestCorrection:
    """The official tool and HEAL correct the roadside unit's position by different numbers."""

    def test_relative_error(self, written: Path) -> None:
        heal, official = opened(written), opened(written, correction="relative_error")
        for index, error in ((0, (0.0, 0.0)), (1, (0.11, -0.07))):  # roadside frames 19, with empty texts, and 20
            offset = OFFSETS[index]
            assert offset is not None
            moved = official.read(index, []).agents[1].pose.matrix - heal.read(index, []).agents[1].pose.matrix
            np.testing.assert_allclose(moved[:2, 3], np.array(error) - list(offset.values()), atol=1e-9)
        assert official.fingerprint != heal.fingerprint

    def test_it_must_be_numbers(self, own: Path) -> None:
        path = own / "infrastructure-side/calib/virtuallidar_to_world/000019.json"
        edit(lambda T: T.update(relative_error={"delta_x": "far"}))(path)
        assert len(opened(own)) == 5, "HEAL does not look at it"
        with pytest.raises(DataError, match=r"000019\.json, key 'relative_error.delta_x': expected a finite number"):
            opened(own, correction="relative_error")


class TestPartialDownloads:
    def test_lidar_work_needs_no_images(self, own: Path) -> None:
        for image in own.rglob("*.jpg"):
            image.unlink()
        dataset = opened(own)
        assert dataset.available(0) == {0: ("lidar", "lidar64"), -1: ("lidar", "lidar64")}
        assert len(dataset.read(0, ["lidar64"]).agents[1].lidars["lidar64"].points) > 100
        with pytest.raises(DataError, match=r"vehicle-side/image/000002\.jpg: .*there is no such file|is missing"):
            dataset.read(0, ["camera"])
        inspection = inspect(own)
        assert inspection.ok, inspection.faults
        assert {file.kind: file.state for file in inspection.files if "image" in file.kind} == {
            "vehicle camera image": "not there",
            "roadside camera image": "not there",
        }

    def test_some_missing_images_are_a_fault(self, own: Path) -> None:
        (own / "infrastructure-side/image/000019.jpg").unlink()
        inspection = inspect(own)
        assert not inspection.ok and {fault.kind for fault in inspection.faults} == {"roadside camera image"}

    @pytest.mark.parametrize("inside", ["", "image", "cooperative-vehicle-infrastructure/vehicle-side/image"])
    def test_an_archive_beside_the_dataset(self, own: Path, inside: str) -> None:
        beside = own.parent / "cooperative-vehicle-infrastructure-vehicle-side-image"
        (beside / inside).parent.mkdir(parents=True, exist_ok=True)
        (own / "vehicle-side/image").rename(beside / inside)
        with pytest.raises(DataError, match=r"holds the files of vehicle-side/image.*\n.*move them: mkdir") as caught:
            opened(own).read(0, ["camera"])
        assert caught.value.path == beside / inside
        faults = inspect(own.parent).faults
        (fault,) = faults
        assert (fault.kind, fault.path) == ("archive of vehicle-side/image", str(beside / inside))
        target = own / "vehicle-side/image"
        subprocess.run(caught.value.way_out.removeprefix("move them: "), shell=True, check=True)
        assert target.is_dir() and inspect(own.parent).ok


class TestSplits:
    def test_coaligns_and_the_official_ones(self, written: Path) -> None:
        assert len(opened(written, "validate")) == len(opened(written, "val")) == 3
        # two of the five vehicle frames have two pairs
        assert len(opened(written, splits="official")) == 7 and len(opened(written, "validate", splits="official")) == 2
        with pytest.raises(
            DataError, match="has no split 'test'; CoAlign's files of DAIR-V2X have no labelled test split"
        ):
            opened(written, "test")
        with pytest.raises(DataError, match="does not list a frame of the split"):
            opened(written, "test", splits="official")

    def test_a_missing_split_file_says_where_it_comes_from(self, own: Path) -> None:
        (own / "train.json").unlink()
        with pytest.raises(
            DataError, match=r"train\.json: is missing\n  Way out: put the coalign split file there.*=official"
        ):
            opened(own)
        (own / "train.json").write_text('["000002", "777777"]')
        with pytest.raises(DataError, match="key '777777': 1 frames of split 'train' are not listed"):
            opened(own)

    def test_the_index_is_used_and_notices_edits(self, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = opened(own)
        monkeypatch.setattr(DairV2x, "_parse", lambda *_: pytest.fail("parsed again"))
        second = opened(own.parent)  # the parent will do
        assert second.fingerprint == first.fingerprint and len(second) == 5
        np.testing.assert_array_equal(second.read(0, []).objects.hits, first.read(0, []).objects.hits)
        assert not second.read(0, []).objects.counted
        monkeypatch.undo()
        (own / "infrastructure-side" / "label" / "virtuallidar" / "000019.json").write_text("[]")
        assert len(opened(own).read(0, []).objects) < len(first.read(0, []).objects)


def edit(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))

    return apply


VEHICLE_LABEL, CALIB = "vehicle-side/label/lidar/000002.json", "vehicle-side/calib"
BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no label": (VEHICLE_LABEL, Path.unlink, "cannot be read"),
    "cut": (VEHICLE_LABEL, lambda path: path.write_text(path.read_text()[:50]), "is not valid JSON"),
    "deep": (VEHICLE_LABEL, lambda path: path.write_text("[" * 200_000), "is not valid JSON"),
    "mapping": (VEHICLE_LABEL, edit(lambda _: {"a": 1}), "expected a list of labels"),
    "no type": (VEHICLE_LABEL, edit(lambda labels: labels[0].pop("type") and None), r"key '\[0\].type': has no type"),
    "NaN": (
        VEHICLE_LABEL,
        edit(lambda labels: labels[0].update(rotation=float("nan"))),
        r"\[0\].rotation': expected a finite",
    ),
    "word": (
        VEHICLE_LABEL,
        edit(lambda labels: labels[0]["3d_location"].update(x="left")),
        r"3d_location.x': expected a",
    ),
    "no size": (
        VEHICLE_LABEL,
        edit(lambda labels: labels[0].pop("3d_dimensions") and None),
        r"3d_dimensions.l': expected",
    ),
    "rotation": (
        f"{CALIB}/novatel_to_world/000002.json",
        edit(lambda T: T["rotation"][0].__setitem__(0, 3.0)),
        "is not a rotation",
    ),
    "mirror": (
        f"{CALIB}/novatel_to_world/000002.json",
        edit(lambda T: {**T, "rotation": np.diag([1, 1, -1]).tolist()}),
        "is not a rotation",
    ),
    "translation": (
        f"{CALIB}/lidar_to_novatel/000002.json",
        edit(lambda T: T["transform"].update(translation=[1.0])),
        "expected 3 numbers",
    ),
    "K of images of half the size": (
        f"{CALIB}/camera_intrinsic/000002.json",
        edit(lambda K: K.update(cam_K=[1000, 0, 480, 0, 1000, 270, 0, 0, 1])),
        "1920x1080 pixels contradict the camera's intrinsics, which are for about 960x540",
    ),
    "cam_K": (
        f"{CALIB}/camera_intrinsic/000002.json",
        edit(lambda K: K.update(cam_K=[0.0] * 9)),
        "not an intrinsic matrix",
    ),
    "pairs": (
        "cooperative/data_info.json",
        edit(lambda pairs: pairs[0].pop("vehicle_pointcloud_path") and None),
        "expected the path",
    ),
    "offset": (
        "cooperative/data_info.json",
        edit(lambda pairs: pairs[0].update(system_error_offset=[1, 2])),
        "expected a mapping",
    ),
    "climbs": ("vehicle-side/data_info.json", edit(lambda infos: infos[0].update(batch_id="../x")), "is not a batch"),
    "time": (
        "vehicle-side/data_info.json",
        edit(lambda infos: infos[0].update(pointcloud_timestamp="noon")),
        "a time in microseconds",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error(own: Path, case: str) -> None:
    path, damage, problem = BAD[case]
    damage(own / path)
    with pytest.raises(DataError, match=problem) as caught:
        opened(own)
    assert caught.value.path == own / path and caught.value.way_out


def test_sensor_files(own: Path) -> None:
    dataset = opened(own)
    with pytest.raises(ConfigError, match="DAIR-V2X has no lidar16: its agents' only LiDAR is lidar, lidar64"):
        dataset.read(0, ["lidar16"])
    assert dataset.read(0, {-1: ["lidar"]}).agents[0].lidars == {}
    (own / "vehicle-side" / "image" / "000002.jpg").write_bytes(b"\xff\xd8 not an image")
    with pytest.raises(DataError, match=r"000002\.jpg: is not a readable JPEG image"):
        dataset.read(0, ["camera"])
    cloud = own / "vehicle-side" / "velodyne" / "000003.pcd"
    cloud.write_bytes(cloud.read_bytes()[:-4])
    with pytest.raises(DataError, match="is truncated"):
        dataset.read(1, ["lidar"])
    with pytest.raises(DataError, match="is not DAIR-V2X-C: expected"):
        opened(own / "vehicle-side")


def test_transforms_and_offsets() -> None:
    nearly = rotation(0.3)[:3, :3] * 1.001
    matrix = parse_transform(
        json.dumps({"rotation": nearly.tolist(), "translation": [[1], ["2"], [3.0]]}).encode(), Path()
    )
    np.testing.assert_allclose(matrix, place((1, 2, 3)) @ rotation(0.3), atol=1e-12)
    assert parse_offset({"system_error_offset": {"delta_x": "", "delta_y": "0.5"}}, Path(), "a") == (0.0, 0.5)
    assert parse_offset({}, Path(), "a") == parse_offset({"system_error_offset": ""}, Path(), "a") == (0.0, 0.0)
