"""Packing of points, maps and images, and the checks of scenes.json."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatv2x.errors import DataError
from heatv2x.evaluation.report import AgentView, DetectionSet, Scenes, SceneView
from heatv2x.evaluation.report.scene import jpeg, pack_map, pack_points, sole_objects
from heatv2x.structures import AgentFrame, Boxes3D, Pose


def test_points_survive_packing_to_five_centimetres() -> None:
    points = np.array([[1.234, -7.891, 3.0, 0.5], [-51.2, 51.2, 0.0, 0.1], [np.nan, 0.0, 0.0, 0.0]])
    unpacked = np.frombuffer(base64.b64decode(pack_points(points)), "<i2").reshape(-1, 2) * 0.05
    expected = points[:2, :2][np.argsort(points[:2, 0])]
    np.testing.assert_allclose(unpacked, expected, atol=0.0251)


def test_points_are_thinned_the_same_way_each_time() -> None:
    points = np.random.default_rng(0).uniform(-50, 50, (9000, 2))
    packed = pack_points(points, max_points=1000)
    assert packed == pack_points(points, max_points=1000)
    assert len(base64.b64decode(packed)) == 4000


def test_no_points_pack_to_nothing() -> None:
    assert pack_points(np.zeros((0, 4))) == ""


def test_map_keeps_its_orientation_and_size() -> None:
    share = np.zeros((128, 128))
    share[:2, -2:] = 1.0
    share[5, 5] = np.nan
    unpacked = np.frombuffer(base64.b64decode(pack_map(share)), np.uint8).reshape(64, 64)
    assert unpacked[0, 63] == 255
    assert unpacked.sum() == 255


def test_map_must_be_two_dimensional() -> None:
    with pytest.raises(ValueError, match=r"\(Y, X\)"):
        pack_map(np.zeros(5))


def test_jpeg_is_small_and_keeps_its_shape() -> None:
    image = np.full((600, 800, 3), (10, 200, 30), np.uint8)
    opened = Image.open(io.BytesIO(base64.b64decode(jpeg(image))))
    assert opened.size == (320, 240)
    assert opened.getpixel((5, 5))[1] > 180  # type: ignore[index]


def test_sole_objects_counts_what_only_one_agent_hits() -> None:
    hits = np.array([[5, 0], [3, 2], [0, 1], [0, 0], [0, 7]], np.int32)
    assert sole_objects(hits) == [1, 2]
    assert sole_objects(hits, np.array([True, True, True, True, False])) == [1, 1]


def test_agents_are_placed_in_the_frame_of_the_ego() -> None:
    ego = AgentFrame(1, "0", Pose.planar(10, 5, np.pi / 2))
    other = AgentFrame(-2, "0", Pose.planar(10, 25, np.pi))
    view = AgentView.at(other, ego, type="lidar16", message_bytes=7)
    np.testing.assert_allclose([view.x, view.y, view.yaw], [20, 0, np.pi / 2], atol=1e-9)
    assert (view.kind, view.is_ego, view.message_bytes) == ("roadside", False, 7)


def test_detections_leave_out_boxes_that_cannot_be_drawn() -> None:
    boxes = np.ones((2, 7), np.float32)
    boxes[0, 3] = np.nan
    assert DetectionSet.of(Boxes3D(boxes, np.array([0.5, 0.6], np.float32))).scores == [pytest.approx(0.6)]


def test_scenes_come_back_as_they_were_written(run_folder: Path, scenes: Scenes) -> None:
    assert Scenes.read(run_folder) == scenes


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ({"ground_truth": [[1.0, 2.0]]}, "instead of 7"),
        ({"hits": [1]}, "hits has 1 entries for 0"),
        ({"contribution": [""]}, "not the ego"),
    ],
)
def test_a_scene_that_contradicts_itself_is_refused(rest: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneView("s", [AgentView(1, "lidar64", 0, 0, 0, is_ego=True)], **rest)  # type: ignore[arg-type]


def test_a_scene_has_one_ego() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        SceneView("s", [])


def test_a_broken_file_is_named_with_its_key(run_folder: Path) -> None:
    file = run_folder / "scenes.json"
    file.write_text(file.read_text().replace('"x_min": -51.2', '"x_min": "west"'))
    with pytest.raises(DataError, match=r"scenes.json, key 'grid.x_min'"):
        Scenes.read(run_folder)
