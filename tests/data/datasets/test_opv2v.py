"""The reader of OPV2V's layout on tiny trees and on the golden scene: frames, sensors, objects, index, bad input."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatv2x.core import plugins
from heatv2x.data.datasets.base import Dataset, labelled_frames, open_dataset
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.data.ground_truth import boxes_in_frame, ground_truth, in_range
from heatv2x.errors import ConfigError, DataError
from heatv2x.formats import frame_index, opv2v_index, packed_records
from heatv2x.formats.carla import mirror
from tests.formats.opv2v_tree import (
    AGENTS,
    POINTS,
    SCENARIO,
    agent_yaml,
    png_bytes,
    write_agent,
    write_hits,
    write_tree,
    write_yaml,
)
from tests.formats.pcd_writer import cloud, pcd_file

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "heatv2x" / "index"


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data")


@pytest.fixture(scope="module")
def golden_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(GOLDEN / "q_scene.zip") as archive:
        archive.extractall(root)
    return root


def opened(scenario: Path) -> Opv2v:
    return Opv2v(scenario.parents[2], "train")


class TestFrames:
    def test_names_agents_and_order(self, scenario: Path) -> None:
        dataset = opened(scenario)
        assert isinstance(dataset, Dataset) and plugins.find("datasets", "opv2v") is Opv2v
        assert [dataset.name(i) for i in range(len(dataset))] == [f"{SCENARIO}/000068", f"{SCENARIO}/000070"]
        assert dataset.agent_ids(0) == (1045, 641)  # as strings: "1045" < "641"
        frame = dataset.read(1, [])
        assert frame.name == f"{SCENARIO}/000070" and [agent.agent_id for agent in frame.agents] == [1045, 641]
        assert frame.agents[0].lidars == {} and frame.agents[0].cameras == ()

    def test_roadside_units_come_last(self, tmp_path: Path) -> None:
        dataset = opened(write_tree(tmp_path / "data", agents=(-1, *AGENTS)))
        assert dataset.agent_ids(0) == (1045, 641, -1)
        assert dataset.read(0, []).agents[2].is_roadside

    def test_the_root_may_be_the_parent_or_the_folder_itself(
        self, scenario: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        itself = Opv2v(scenario.parents[1], "train")
        assert len(itself) == 2 and itself.fingerprint == opened(scenario).fingerprint
        assert len(itself.read(0, ["lidar16"]).agents[0].lidars["lidar16"]) == 1
        monkeypatch.chdir(scenario.parents[1])
        assert len(Opv2v(".", "train").read(0, ["lidar16"]).agents) == 2

    def test_hetero_root_elsewhere(self, scenario: Path, tmp_path: Path) -> None:
        shutil.move(scenario.parents[2] / "OPV2V_Hetero", tmp_path / "extra")
        with pytest.raises(DataError, match=r"lidar32 is missing\n.*hetero_root="):
            opened(scenario).read(0, ["lidar32"])
        assert Opv2v(scenario.parents[2], "train", hetero_root=tmp_path / "extra").read(0, ["lidar32"]).agents[0].lidars

    def test_a_folder_that_is_no_agent_is_ignored_aloud(self, scenario: Path, caplog: pytest.LogCaptureFixture) -> None:
        (scenario / "readme").mkdir()
        assert opened(scenario).agent_ids(0) == (1045, 641)
        assert "readme is ignored" in caplog.text

    def test_the_excluded_frame_of_the_release_is_skipped(self, scenario: Path) -> None:
        renamed = scenario.rename(scenario.with_name("2021_08_20_21_10_24"))
        (renamed / "641" / "000070.yaml").rename(renamed / "641" / "000265.yaml")
        (renamed / "1045" / "000070.yaml").unlink()
        assert [opened(renamed).name(i) for i in range(len(opened(renamed)))] == ["2021_08_20_21_10_24/000068"]


class TestSensors:
    def test_lidars_are_mirrored_and_rid_of_the_own_body(self, scenario: Path) -> None:
        agent = opened(scenario).read(0, ["lidar64", "lidar32", "lidar16"]).agents[0]
        ours = POINTS[1:] * np.array([1, -1, 1, 1], np.float32)
        assert list(agent.lidars) == ["lidar64", "lidar32", "lidar16"]
        np.testing.assert_array_equal(agent.lidars["lidar64"].points, ours)
        np.testing.assert_array_equal(agent.lidars["lidar32"].points, ours)
        np.testing.assert_array_equal(agent.lidars["lidar16"].points, ours[:1])
        assert agent.lidars["lidar64"].points.dtype == np.float32

    def test_a_roadside_unit_keeps_the_points_below_it(self, tmp_path: Path) -> None:
        frame = opened(write_tree(tmp_path / "data", agents=(-1, 641))).read(0, ["lidar64"])
        assert [len(agent.lidars["lidar64"]) for agent in frame.agents] == [2, 3]

    def test_cameras_and_depth(self, tmp_path: Path) -> None:
        root = write_tree(tmp_path / "data", images=True).parents[2]
        agent = Opv2v(root, "train").read(0, ["camera"]).agents[1]
        assert [camera.name for camera in agent.cameras] == ["camera0", "camera1", "camera2", "camera3"]
        assert agent.cameras[2].image.shape == (600, 800, 3) and agent.cameras[2].image[0, 0].tolist() == [10, 20, 32]
        assert agent.cameras[2].depth is not None and (agent.cameras[2].depth == 42).all()
        np.testing.assert_allclose(agent.cameras[1].T_agent_camera[:3, 3], [0.5, -0.3, -0.3], atol=1e-9)
        assert Opv2v(root, "train", depth=False).read(0, ["camera"]).agents[1].cameras[0].depth is None
        shutil.rmtree(root / "OPV2V_Hetero")
        assert Opv2v(root, "train").read(0, ["camera"]).agents[1].cameras[0].depth is None
        with pytest.raises(DataError, match=r"000068_depth0\.png: the image is missing"):
            Opv2v(root, "train", depth=True).read(0, ["camera"])

    def test_images_of_another_size_with_intrinsics_for_it(self, tmp_path: Path) -> None:
        folder = write_tree(tmp_path / "data", images=True)
        K = [[805.5, 0.0, 960.0], [0.0, 805.5, 540.0], [0.0, 0.0, 1.0]]
        for description in folder.glob("*/0*.yaml"):
            content = agent_yaml(int(description.parent.name))
            for number in range(4):
                content[f"camera{number}"]["intrinsic"] = K
            write_yaml(description, content)
        with pytest.raises(DataError, match=r"800x600 pixels contradict .* about 1920x1080"):
            opened(folder).read(0, ["camera"])
        depths = list((folder.parents[2] / "OPV2V_Hetero").rglob("*_depth?.png"))
        for path in [*folder.rglob("*_camera?.png"), *depths]:
            Image.open(path).resize((1920, 1080)).save(path)
        for camera in opened(folder).read(0, {641: ["camera"]}).agents[1].cameras:
            assert camera.image.shape == (1080, 1920, 3) and camera.K.tolist() == K
            assert camera.depth is not None and camera.depth.shape == (1080, 1920)
        Image.open(depths[0]).resize((960, 540)).save(depths[0])
        with pytest.raises(DataError, match="960x540 pixels, expected 1920x1080"):
            [opened(folder).read(index, ["camera"]) for index in (0, 1)]

    def test_a_cloud_with_an_intensity_of_its_own(self, scenario: Path) -> None:
        points = np.array([[10, 5, -1, 51], [np.nan, 0, 0, 0], [-20, -3, 0, 300]], np.float32)
        (scenario / "641" / "000068.pcd").write_bytes(pcd_file(cloud(points, intensity=points[:, 3])))
        with pytest.raises(DataError, match=r"dataset\.settings\.intensity_max=65535"):
            opened(scenario).read(0, {641: ["lidar64"]})
        dataset = Opv2v(scenario.parents[2], "train", intensity_max=255)
        read = dataset.read(0, {641: ["lidar64"]}).agents[1].lidars["lidar64"]
        np.testing.assert_allclose(read.points, [[10, -5, -1, 0.2], [-20, 3, 0, 1]])
        assert (read.left_out, read.clipped) == (1, 1)

    def test_sensors_by_agent(self, scenario: Path) -> None:
        frame = opened(scenario).read(0, {641: ["lidar32"], 7: ["camera"]})
        assert [list(agent.lidars) for agent in frame.agents] == [[], ["lidar32"]]

    def test_an_unknown_sensor_names_the_known_ones(self, scenario: Path) -> None:
        with pytest.raises(ConfigError, match="unknown sensor 'lidar46'; did you mean 'lidar64'"):
            opened(scenario).read(0, ["lidar46"])


class TestObjects:
    def test_union_by_id_first_agent_wins(self, scenario: Path) -> None:
        content = agent_yaml(641)
        content["vehicles"][301]["extent"] = [9.0, 9.0, 9.0]
        write_yaml(scenario / "641" / "000068.yaml", content)
        objects = opened(scenario).read(0, []).objects
        assert objects.ids.tolist() == [301, 302, 641, 300, 1045]
        assert objects.hits.tolist() == [[1, 1], [1, 0], [1, 0], [0, 1], [0, 1]]
        np.testing.assert_allclose(objects.size[0], [4.4, 1.8, 1.6], rtol=1e-6)
        assert not objects.camera_visible.any()

    def test_sidecar_of_hits_and_camera_visibility(self, scenario: Path) -> None:
        write_hits(
            scenario,
            1045,
            "000068",
            {301: (12, True), 302: (3, False), 641: (90, True), 300: (0, True), 999: (5, True)},
        )
        objects = opened(scenario).read(0, []).objects
        assert objects.hits.tolist() == [[12, 1], [3, 0], [90, 0], [0, 1], [0, 1]]
        assert objects.camera_visible.tolist() == [
            [True, False],
            [False, False],
            [True, False],
            [True, False],
            [False, False],
        ]

    @pytest.mark.parametrize("beside", [True, False])
    def test_visibility_raster(self, scenario: Path, beside: bool) -> None:
        frame = opened(scenario).read(0, [])
        centres = (frame.agents[1].pose.inverse() @ frame.objects.T_world_object)[:, :2, 3]
        raster = np.zeros((256, 256), np.uint8)
        x, y = centres[1]
        raster[127 - int(x / 0.39), 127 - int(y / 0.39)] = 255
        folder = scenario if beside else scenario.parents[1] / "additional" / "train" / SCENARIO
        (folder / "641").mkdir(parents=True, exist_ok=True)
        Image.fromarray(raster).save(folder / "641" / "000068_bev_visibility.png")
        assert opened(scenario).read(0, []).objects.camera_visible.tolist() == [[False, i == 1] for i in range(5)]

    def test_a_scene_without_objects(self, scenario: Path) -> None:
        for agent in AGENTS:
            write_yaml(scenario / str(agent) / "000068.yaml", agent_yaml(agent) | {"vehicles": {}})
        assert opened(scenario).read(0, []).objects.hits.shape == (0, 2)
        assert opened(scenario).read(0, []).objects.camera_visible.shape == (0, 2)

    def test_missing_centres_are_said_once(self, scenario: Path, caplog: pytest.LogCaptureFixture) -> None:
        content = agent_yaml(641)
        for vehicle in content["vehicles"].values():
            del vehicle["center"]
        write_yaml(scenario / "641" / "000068.yaml", content)
        for _ in range(2):  # from the file, then from the index
            caplog.clear()
            opened(scenario)
            assert "3 object labels have no 'center'" in caplog.text


class TestGolden:
    def test_objects_poses_and_points_of_the_reference_loader(self, golden_root: Path) -> None:
        golden = np.load(GOLDEN / "q_dataset.npz")
        dataset = Opv2v(golden_root, "validate")
        assert len(dataset) == int(golden["n_frames"])
        for index in range(len(dataset)):
            frame = dataset.read(index, ["lidar64"])
            assert list(dataset.agent_ids(index)) == golden[f"f{index}_cav_ids"].tolist()
            self.same_boxes(frame, golden, index)
            for i, one in enumerate(frame.agents):
                for j, other in enumerate(frame.agents):
                    theirs = mirror(golden[f"f{index}_pairwise_t_matrix"][i, j])
                    np.testing.assert_allclose(one.pose.relative_to(other.pose), theirs, atol=1e-9)
            self.same_voxel_sums(frame, golden, index)

    def same_boxes(self, frame, golden, index) -> None:  # type: ignore[no-untyped-def]
        boxes = boxes_in_frame(frame.objects, frame.agents[0].pose)
        kept = boxes[in_range(boxes.boxes.astype(np.float64), golden["range"], all_corners=True)]
        order = np.argsort(kept.ids)
        assert kept.ids[order].tolist() == golden[f"f{index}_object_ids_sorted"].tolist()
        theirs = golden[f"f{index}_object_boxes_by_sorted_id"][:, [0, 1, 2, 5, 4, 3, 6]] * [1, -1, 1, 1, 1, 1, -1]
        difference = kept.boxes[order] - theirs
        difference[:, 6] = np.sin(difference[:, 6] / 2)
        np.testing.assert_allclose(difference, 0, atol=1e-5)

    def same_voxel_sums(self, frame, golden, index) -> None:  # type: ignore[no-untyped-def]
        low, high = np.split(golden["range"].astype(np.float32), 2)
        for agent, own in enumerate(frame.agents):
            points = own.lidars["lidar64"].points * np.array([1, -1, 1, 1], np.float32)
            inside = points[((points[:, :3] >= low) & (points[:, :3] < high)).all(axis=1)]
            cells = np.floor((inside[:, :2] - low[:2]) / np.float32(0.4)).astype(int)
            rows = golden[f"f{index}_voxel_coords_sorted_bzyx"]
            rows, sums = rows[rows[:, 0] == agent], golden[f"f{index}_voxel_point_sum_sorted"][rows[:, 0] == agent]
            ours, inverse = np.unique(cells[:, 1] * 1000 + cells[:, 0], return_inverse=True)
            assert ours.tolist() == (rows[:, 2] * 1000 + rows[:, 3]).tolist()
            total = np.stack([np.bincount(inverse, inside[:, column]) for column in range(4)], axis=1)
            np.testing.assert_allclose(total, sums, atol=1e-4)


def snapshot(dataset: Opv2v) -> list[object]:
    """Everything the index holds, comparable."""
    return [dataset.fingerprint, *(repr(record) for record in dataset._records)]


class TestIndex:
    @pytest.fixture
    def parsed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Paths of the yaml files that were parsed; and no file counts as recently written."""
        parsed: list[str] = []
        parse = opv2v_index.parse_agent_yaml
        monkeypatch.setattr(
            opv2v_index, "parse_agent_yaml", lambda content, path: parsed.append(path.name) or parse(content, path)
        )
        monkeypatch.setattr(packed_records, "RECENT_NS", -(10**18))
        return parsed

    def test_the_second_time_nothing_is_parsed_and_all_is_the_same(self, scenario: Path, parsed: list[str]) -> None:
        write_hits(scenario, 641, "000068", {300: (4, True), 301: (5, False), 1045: (7, True)})
        first = opened(scenario)
        assert len(parsed) == 4
        second = opened(scenario)
        assert len(parsed) == 4 and snapshot(first) == snapshot(second)
        for one, two in zip(first.read(0, []).agents, second.read(0, []).agents, strict=True):
            np.testing.assert_array_equal(one.pose.matrix, two.pose.matrix)

    def test_only_the_frame_of_an_edited_file_is_parsed_again(self, scenario: Path, parsed: list[str]) -> None:
        before = opened(scenario).fingerprint
        path = scenario / "641" / "000070.yaml"
        path.write_text(path.read_text().replace("36.0", "72.0"))
        after = opened(scenario)
        assert sorted(parsed[4:]) == ["000070.yaml"] * 2 and after.fingerprint != before
        assert after.read(1, []).objects.speed[3] == 20

    def test_an_edit_that_keeps_size_and_mtime_is_noticed(self, scenario: Path, parsed: list[str]) -> None:
        opened(scenario)
        path = scenario / "1045" / "000068.yaml"
        state = path.stat()
        path.write_text(path.read_text().replace("36.0", "72.0"))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert path.stat().st_size == state.st_size
        assert opened(scenario).read(0, []).objects.speed[0] == 20

    def test_a_file_written_just_before_indexing_is_hashed_again(
        self, scenario: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Even where all time stamps stay the same, as on a coarse clock."""
        path = scenario / "1045" / "000068.yaml"
        states = {each: each.stat() for each in scenario.rglob("*.yaml")}
        monkeypatch.setattr(frame_index, "_stat", lambda path: states[path])
        assert opened(scenario).read(0, []).objects.speed[0] == 10
        path.write_text(path.read_text().replace("36.0", "72.0"))
        assert opened(scenario).read(0, []).objects.speed[0] == 20

    def test_a_touched_file_is_hashed_not_parsed(self, scenario: Path, parsed: list[str]) -> None:
        before = opened(scenario).fingerprint
        os.utime(scenario / "641" / "000068.yaml")
        assert opened(scenario).fingerprint == before and len(parsed) == 4

    def test_files_that_come_and_go(self, scenario: Path, parsed: list[str]) -> None:
        before = opened(scenario).fingerprint
        for agent in AGENTS:
            (scenario / str(agent) / "000070.yaml").rename(scenario / str(agent) / "000072.yaml")
        assert opened(scenario).name(1).endswith("000072")
        write_agent(scenario.parents[2], "train", -1, "000068", images=False)
        write_agent(scenario.parents[2], "train", -1, "000072", images=False)
        assert opened(scenario).agent_ids(0) == (1045, 641, -1)
        shutil.rmtree(scenario / "-1")
        write_hits(scenario, 641, "000068", {300: (4, True), 301: (5, False), 1045: (7, True)})
        assert opened(scenario).read(0, []).objects.hits[3, 1] == 4
        (scenario / "641" / "000068_hits.json").unlink()
        assert opened(scenario).read(0, []).objects.hits[3, 1] == 1
        for agent in AGENTS:
            (scenario / str(agent) / "000072.yaml").rename(scenario / str(agent) / "000070.yaml")
        assert opened(scenario).fingerprint == before

    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "pickle", "keys"])
    def test_a_corrupt_index_is_built_again_aloud(
        self, scenario: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = snapshot(opened(scenario))
        (path,) = cache.iterdir()
        content = path.read_bytes()
        if damage == "pickle":
            np.savez(path, version=np.array([{"a": 1}], object))
        elif damage == "keys":
            np.savez(path, version=np.array(packed_records.VERSION))
        else:
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
            path.write_bytes({"cut": content[:middle], "flipped": flipped, "empty": b"", "text": b"hello"}[damage])
        assert snapshot(opened(scenario)) == first
        assert "is corrupt and is rebuilt" in caplog.text
        caplog.clear()
        assert snapshot(opened(scenario)) == first and "is corrupt" not in caplog.text

    def test_no_place_for_the_index_only_costs_time(
        self, scenario: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        dataset = Opv2v(scenario.parents[2], "train", cache_dir=tmp_path / "file" / "below")
        assert len(dataset) == 2 and "the index could not be saved" in caplog.text

    def test_cache_dir_is_used(self, scenario: Path, tmp_path: Path, cache: Path) -> None:
        Opv2v(scenario.parents[2], "train", cache_dir=tmp_path / "here")
        assert len(list((tmp_path / "here").glob("train-*.npz"))) == 1 and not cache.exists()

    def test_the_fingerprint_does_not_depend_on_the_place(self, scenario: Path, tmp_path: Path) -> None:
        before = opened(scenario).fingerprint
        moved = shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
        assert Opv2v(moved, "train").fingerprint == before and len(before) == 64


class TestBadInput:
    def test_not_a_dataset_folder(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"is not a dataset folder; expected .*/OPV2V/train/<scenario>/<agent id>/<t>\.yaml"
        ):
            Opv2v(tmp_path, "train")
        with pytest.raises(DataError, match="is not a folder; expected"):
            Opv2v(tmp_path / "nowhere", "train")

    def test_an_unknown_split_names_the_known_ones(self, scenario: Path) -> None:
        with pytest.raises(DataError, match="has no split 'val'\n  Way out: choose one of train"):
            Opv2v(scenario.parents[2], "val")

    def test_zero_agents_and_zero_frames(self, scenario: Path) -> None:
        shutil.rmtree(scenario / "641")
        for path in (scenario / "1045").glob("*.yaml"):
            path.unlink()
        with pytest.raises(DataError, match="its agents have no frames"):
            opened(scenario)
        shutil.rmtree(scenario / "1045")
        with pytest.raises(DataError, match=f"{SCENARIO}: has no agent folders"):
            opened(scenario)
        shutil.rmtree(scenario)
        with pytest.raises(DataError, match="train: holds no frames"):
            opened(scenario)

    @pytest.mark.parametrize("agent", AGENTS)
    def test_a_missing_frame_of_one_agent_is_named(self, scenario: Path, agent: int) -> None:
        (scenario / str(agent) / "000070.yaml").unlink()
        with pytest.raises(
            DataError, match=rf"{agent}/000070\.yaml: is missing: all agents of a scenario must have the same"
        ):
            opened(scenario)

    def test_a_bad_key_is_named_with_its_file(self, scenario: Path) -> None:
        content = agent_yaml(641)
        del content["lidar_pose"]
        write_yaml(scenario / "641" / "000070.yaml", content)
        with pytest.raises(DataError, match=r"641/000070\.yaml, key 'lidar_pose': the key is missing"):
            opened(scenario)

    def test_missing_and_broken_sensor_files(self, scenario: Path) -> None:
        dataset = opened(scenario)
        cloud = scenario / "641" / "000068.pcd"
        cloud.write_bytes(cloud.read_bytes()[:-1])
        with pytest.raises(DataError, match=r"641/000068\.pcd, key 'POINTS': is truncated"):
            dataset.read(0, ["lidar64"])
        cloud.unlink()
        with pytest.raises(DataError, match=r"641/000068\.pcd: the point cloud is missing"):
            dataset.read(0, ["lidar64"])
        with pytest.raises(DataError, match=r"1045/000068_camera0\.png: the image is missing"):
            dataset.read(0, ["camera"])
        (scenario / "1045" / "000068_camera0.png").write_bytes(png_bytes("RGB", (640, 480), (0, 0, 0)))
        with pytest.raises(DataError, match=r"640x480 pixels contradict the camera's intrinsics, .* about 800x600"):
            dataset.read(0, ["camera"])

    def test_an_agent_that_is_not_named_by_an_integer(self, scenario: Path) -> None:
        (scenario / "641").rename(scenario / "car_641")
        with pytest.raises(DataError, match=r"car_641: holds 000068\.yaml as an agent's folder does"):
            opened(scenario)

    @pytest.mark.parametrize("nothing", [None, [], {}])
    def test_an_agent_that_sees_nothing(self, scenario: Path, nothing: object) -> None:
        for agent in AGENTS:
            write_yaml(scenario / str(agent) / "000068.yaml", agent_yaml(agent) | {"vehicles": nothing})
        assert len(opened(scenario).read(0, []).objects) == 0
        write_yaml(scenario / "641" / "000068.yaml", agent_yaml(641) | {"vehicles": [1]})
        with pytest.raises(DataError, match="key 'vehicles': is list, expected a mapping"):
            opened(scenario)

    def test_an_agent_without_cameras(self, scenario: Path) -> None:
        write_yaml(scenario / "1045" / "000068.yaml", agent_yaml(1045, cameras=False))
        with pytest.raises(DataError, match=r"1045/000068\.yaml, key 'camera0': describes no cameras"):
            opened(scenario).read(0, ["camera"])

    def test_a_sidecar_that_lacks_a_listed_object(self, scenario: Path) -> None:
        write_hits(scenario, 641, "000068", {300: (4, True), 1045: (7, True)})
        with pytest.raises(DataError, match=r"000068_hits\.json, key '301': lacks objects that 000068\.yaml lists"):
            opened(scenario)

    def test_a_broken_visibility_raster(self, scenario: Path) -> None:
        stream = io.BytesIO()
        Image.new("L", (64, 64)).save(stream, "PNG")
        (scenario / "641" / "000068_bev_visibility.png").write_bytes(stream.getvalue())
        with pytest.raises(DataError, match="is 64x64 pixels, expected 256x256"):
            opened(scenario)

    def test_two_folders_of_one_agent(self, scenario: Path) -> None:
        shutil.copytree(scenario / "641", scenario / "0641")
        with pytest.raises(DataError, match="several agent folders have the same number"):
            opened(scenario)


class TestSettings:
    def test_roadside_units_may_be_kept_from_being_the_ego(self, tmp_path: Path) -> None:
        root = write_tree(tmp_path / "data", agents=(-1, *AGENTS)).parents[2]
        assert Opv2v(root, "train").read(0, []).egos is None
        assert Opv2v(root, "train", roadside_ego=False).read(0, []).egos == (0, 1)
        alone = write_tree(tmp_path / "alone", agents=(-1,)).parents[2]
        with pytest.raises(DataError, match="has roadside units only"):
            Opv2v(alone, "train", roadside_ego=False).read(0, [])

    def test_no_more_than_so_many_agents(self, tmp_path: Path) -> None:
        root = write_tree(tmp_path / "data", agents=(-1, *AGENTS)).parents[2]
        whole, few = Opv2v(root, "train").read(0, []), Opv2v(root, "train", max_agents=2).read(0, [])
        assert [agent.agent_id for agent in few.agents] == [1045, 641]
        np.testing.assert_array_equal(few.objects.hits, whole.objects.hits[:, :2])
        alone = Opv2v(root, "train", max_agents=1).read(0, [])
        assert sorted(ground_truth(alone, 0).ids.tolist()) == [301, 302, 641]  # type: ignore[union-attr]

    def test_excluded_scenarios(self, scenario: Path) -> None:
        shutil.copytree(scenario, scenario.with_name("2021_09_09_13_20_58"))
        assert len(opened(scenario)) == 4
        assert len(Opv2v(scenario.parents[2], "train", exclude=["2021_09_09_13_20_58"])) == 2

    def test_a_camera_without_image(self, tmp_path: Path) -> None:
        scenario = write_tree(tmp_path / "data", images=True)
        (scenario / "641" / "000068_camera3.png").unlink()
        with pytest.raises(DataError, match=r"000068_camera3\.png: the image is missing"):
            opened(scenario).read(0, {641: ["camera"]})
        present = Opv2v(scenario.parents[2], "train", cameras="present")
        cameras = present.read(0, {641: ["camera"]}).agents[1].cameras
        assert [camera.name for camera in cameras] == ["camera0", "camera1", "camera2"]
        for path in (scenario / "641").glob("000068_camera*.png"):
            path.unlink()
        with pytest.raises(DataError, match=r"000068_camera0\.png: the image is missing"):
            present.read(0, {641: ["camera"]})

    def test_near_objects_are_visible_where_there_are_no_rasters(self, scenario: Path) -> None:
        content = agent_yaml(641)
        content["vehicles"][300]["location"] = [55.5, 40.0, 0.1]
        write_yaml(scenario / "641" / "000068.yaml", content)
        objects = Opv2v(scenario.parents[2], "train", camera_truth="near").read(0, []).objects
        assert objects.ids.tolist() == [301, 302, 641, 300, 1045]
        assert objects.camera_visible[:, 1].tolist() == [True, False, False, False, True]

    def test_settings_come_through_the_one_way_to_open(self, scenario: Path, tmp_path: Path) -> None:
        dataset = open_dataset("opv2v", scenario.parents[2], "train", {"max_agents": 1, "hetero_root": tmp_path})
        assert isinstance(dataset, Opv2v) and dataset.layout.hetero == tmp_path and dataset.agent_ids(0) == (1045,)
        with pytest.raises(
            ConfigError, match="dataset part 'opv2v': unknown key 'max_agent'; did you mean 'max_agents'"
        ):
            open_dataset("opv2v", scenario.parents[2], "train", {"max_agent": 1})

    def test_lidar_is_the_agents_own(self, scenario: Path) -> None:
        lidars = opened(scenario).read(0, ["lidar", "lidar64"]).agents[0].lidars
        np.testing.assert_array_equal(lidars["lidar"].points, lidars["lidar64"].points)

    def test_times_and_earlier_frames(self, scenario: Path) -> None:
        dataset = opened(scenario)
        assert dataset.capture_us(1, 641) - dataset.capture_us(0, 641) == 100_000
        assert dataset.earlier(1, 100) == 0 and dataset.earlier(1, 200) is None

    def test_unlabelled_is_not_empty(self, scenario: Path) -> None:
        """A file without `vehicles` was not labelled; one with nothing below that key was, and is empty."""
        for agent, content in ((a, agent_yaml(a)) for a in AGENTS):
            del content["vehicles"]
            write_yaml(scenario / str(agent) / "000068.yaml", content)
            write_yaml(scenario / str(agent) / "000070.yaml", content | {"vehicles": None if agent == 641 else {}})
        for _ in range(2):  # from the files, then from the index
            dataset = opened(scenario)
            assert [dataset.labelled(index) for index in range(2)] == [False, True]
            assert [len(dataset.read(index, []).objects) for index in range(2)] == [0, 0]
            assert labelled_frames(dataset) == [1]
        write_yaml(scenario / "641" / "000068.yaml", agent_yaml(641))
        with pytest.raises(DataError, match="other agents of this frame have labels") as caught:
            opened(scenario)
        assert caught.value.key == "vehicles" and caught.value.path.parts[-2:] == ("1045", "000068.yaml")

    def test_listed_objects_are_seen_whatever_count_is_asked_for(self, scenario: Path) -> None:
        frame = opened(scenario).read(0, [])
        assert not frame.objects.counted
        assert len(ground_truth(frame, 0, min_hits=2)) == len(ground_truth(frame, 0)) == 4
        write_hits(scenario, 1045, "000068", {301: (12, True), 302: (3, False), 641: (90, True)})
        assert not opened(scenario).read(0, []).objects.counted  # of one agent only
        write_hits(scenario, 641, "000068", {300: (4, True), 301: (5, False), 1045: (7, True)})
        frame = opened(scenario).read(0, [])
        assert frame.objects.counted and ground_truth(frame, 0, min_hits=5).ids.tolist() == [301, 641]  # type: ignore[union-attr]
