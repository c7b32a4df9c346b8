"""Pictures of frames: what is drawn lies where it should, in every form, and without a display."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from heatv2x.core.config import build
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.data.view.frame_view import View, frame_number, look
from heatv2x.data.view.picture import draw_from_above, projected_edges
from heatv2x.errors import ConfigError
from heatv2x.evaluation.view_config import ViewConfig
from heatv2x.evaluation.viewer import draw
from heatv2x.structures import Camera, Objects
from tests.formats.opv2v_tree import SCENARIO, write_tree


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Opv2v:
    root = tmp_path_factory.mktemp("data")
    write_tree(root, images=True)
    return Opv2v(root, "train", cache_dir=root / "cache")


@pytest.fixture(scope="module")
def view(dataset: Opv2v) -> View:
    return look(dataset, 0)


def test_frames_by_number_and_by_name(dataset: Opv2v) -> None:
    assert frame_number(dataset, 1) == frame_number(dataset, "-1") == frame_number(dataset, f"{SCENARIO}/000070") == 1
    with pytest.raises(ConfigError, match="frames 0 to 1"):
        frame_number(dataset, 2)
    with pytest.raises(ConfigError, match=f"did you mean '{SCENARIO}/000070'"):
        frame_number(dataset, f"{SCENARIO}/00007")


def test_the_best_sweep_and_all_cameras_are_read(dataset: Opv2v, view: View) -> None:
    assert view.lidars == {1045: "lidar64", 641: "lidar64"} and len(view.ego.cameras) == 4
    other = look(dataset, 0, lidar="lidar16", cameras=False)
    assert other.lidars == {1045: "lidar16", 641: "lidar16"} and not other.ego.cameras
    with pytest.raises(ConfigError, match="lidar=lidar128"):
        look(dataset, 0, lidar="lidar128")


def test_points_of_all_agents_lie_in_the_egos_frame(view: View) -> None:
    agent = view.frame.agents[1]
    T = np.linalg.inv(view.ego.pose.matrix) @ agent.pose.matrix
    expected = np.c_[agent.lidars["lidar64"].points[:, :3], np.ones(2)] @ T.T
    np.testing.assert_allclose(view.points(agent), expected[:, :3], atol=1e-4)


def test_corners_are_those_of_the_boxes(view: View) -> None:
    corners = view.corners()
    objects = view.frame.objects
    np.testing.assert_allclose(corners.mean(axis=1), objects.T_world_object[:, :3, 3], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(corners[:, 0] - corners[:, 3], axis=1), objects.size[:, 0], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(corners[:, 0] - corners[:, 1], axis=1), objects.size[:, 1], rtol=1e-6)
    forward = corners[:, 0] - corners[:, 3]
    assert (np.einsum("ni,ni->n", forward, objects.T_world_object[:, :3, 0]) > 0).all()


def test_a_box_before_the_camera_is_drawn_and_one_behind_is_not(view: View) -> None:
    camera = view.ego.cameras[0]
    T_world_camera = view.ego.pose.matrix @ camera.T_agent_camera
    ahead, behind = np.eye(4), np.eye(4)
    ahead[:3, 3], behind[:3, 3] = T_world_camera[:3] @ [0, 0, 20, 1], T_world_camera[:3] @ [0, 0, -20, 1]

    def edges(T: np.ndarray, camera: Camera = camera) -> np.ndarray:
        objects = Objects(
            np.array([1]),
            T[None],
            np.ones((1, 3), np.float32),
            np.zeros(1, np.float32),
            np.ones((1, 2), np.int32),
            np.ones((1, 2), bool),
        )
        return np.array(
            list(projected_edges(replace(view, frame=replace(view.frame, objects=objects)), view.ego, camera))
        )

    assert edges(ahead).shape == (12, 2, 2) and len(edges(behind)) == 0
    np.testing.assert_allclose(edges(ahead).mean(axis=(0, 1)), camera.K[:2, 2], atol=3)
    around = np.eye(4)
    around[:3, 3] = T_world_camera[:3, 3]
    assert len(edges(around)) < 12 and np.isfinite(edges(around)).all()


def test_from_above_shows_all_agents(view: View) -> None:
    axes = Figure().add_subplot()
    draw_from_above(view, axes)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[:2] == ["1045, ego: lidar64, 2 points", "641: lidar64, 2 points"]
    for agent in view.frame.agents:
        x, y = agent.pose.relative_to(view.ego.pose)[:2, 3]
        assert axes.get_xlim()[0] < x < axes.get_xlim()[1] and axes.get_ylim()[0] < y < axes.get_ylim()[1]


def test_a_picture_and_a_page(view: View, tmp_path: Path) -> None:
    draw(view, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000 and len(image.convert("RGB").getcolors(10**7) or ()) > 50
    draw(
        replace(view, frame=view.frame.with_agents(tuple(replace(a, cameras=()) for a in view.frame.agents))),
        tmp_path / "b.html",
    )
    page, pictures = re.subn(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", (tmp_path / "b.html").read_text())
    assert pictures == 1 and "http" not in page and page.count("<tr>") == 2 + 2 + len(view.frame.objects)


def test_without_rerun_the_extra_is_named(view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ConfigError, match=r"pip install 'heatv2x\[view\]'"):
        draw(view, tmp_path / "a.rrd")
    assert not list(tmp_path.iterdir())


def test_with_rerun_a_recording_is_written(view: View, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    draw(view, tmp_path / "a.rrd")
    assert (tmp_path / "a.rrd").stat().st_size > 10_000


def test_an_unknown_kind_of_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must end in \.png, \.html, \.rrd"):
        build(ViewConfig, {"out": "a.jpg"})
