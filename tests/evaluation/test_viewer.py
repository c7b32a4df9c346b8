"""`data view` with a model: in every form, from every reader, and what it says of detections is true."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from heatv2x.core.config import build
from heatv2x.data.datasets.base import Dataset
from heatv2x.data.view.film import SIDE_PX, clip_from, durations_ms
from heatv2x.data.view.frame_view import EDGES, Sight, View, look
from heatv2x.data.view.page import page_of
from heatv2x.data.view.picture import FALSE, HIT, MISSED, draw_from_above
from heatv2x.data.view.rerun_recording import ROUND
from heatv2x.errors import ConfigError
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.roster import Roster
from heatv2x.evaluation.sight import Watcher, roster_of
from heatv2x.evaluation.view_config import ViewConfig
from heatv2x.evaluation.viewer import draw, show
from heatv2x.geometry.matching import judge
from heatv2x.model import pretrained
from heatv2x.model.collaboration import Collaboration
from heatv2x.structures import Boxes3D
from tests.evaluation.report.test_build import CHROMIUM
from tests.evaluation.report.test_build import look as look_in_browser
from tests.formats.dair_writer import write_dair_v2x
from tests.formats.folder_writer import write_folder
from tests.formats.opv2v_writer import write_opv2v
from tests.scene_factory import SmallScenes, joined, small_model

SHIPPED = pretrained.FOLDER
PACKS = [SHIPPED / f"{name}.safetensors" for name in ("base", "lidar64")]
CONFIG = build(ViewConfig, {"packs": PACKS, "reach_m": 12})
WRITERS: dict[str, Callable[[Path], object]] = {
    "opv2v": functools.partial(write_opv2v, images=False),
    "dair_v2x": write_dair_v2x,
    "folder": functools.partial(write_folder, images=False),
}


class Scenes(SmallScenes):
    """Small scenes that say what there is to see."""

    def available(self, index: int) -> dict[int, tuple[str, ...]]:
        return dict.fromkeys(self.agent_ids(index), ("lidar64", "lidar16", "camera"))


def quiet(*_: object) -> None:
    """Progress nobody looks at."""


@pytest.fixture
def scenes() -> SmallScenes:
    return Scenes(frames=4, agents=3)


@pytest.fixture
def watcher(scenes: SmallScenes, monkeypatch: pytest.MonkeyPatch) -> Watcher:
    monkeypatch.setattr(Collaboration, "from_packs", lambda *_: joined(small_model(), shake=0.1))
    settings = {"packs": [*PACKS, SHIPPED / "lidar16.safetensors"], "score": 0.0}
    return Watcher(scenes, build(ViewConfig, settings))


def view_with(dataset: Dataset, shifts: list[float], heard: tuple[int, ...] = (2, 3)) -> View:
    """A view whose detections are the labels, moved ahead by so much, one after the other; the rest is missed."""
    plain = look(dataset, 0, reach_m=CONFIG.reach_m)
    truth = Evaluator(dataset).run(joined(small_model()), Roster("lidar64", "lidar16"), 0).truth
    found = truth.boxes[: len(shifts)].copy()
    found[:, 0] += shifts
    scores = np.linspace(0.9, 0.5, len(shifts)).astype(np.float32)
    sight = Sight(heard, {1: "lidar64"}, judge(Boxes3D(found, scores), truth))
    return replace(plain, sights=(replace(sight, heard=()), sight))


class TestWatcher:
    def test_it_sees_what_an_evaluation_sees(self, scenes: SmallScenes, watcher: Watcher) -> None:
        alone, together = watcher.look(1)
        model, evaluator = joined(small_model(), shake=0.1), Evaluator(scenes)
        for sight, drop in ((alone, True), (together, False)):
            scene = evaluator.run(model, Roster("lidar64", "lidar16", drop), 1)
            order = np.argsort(-scene.detections.scores, kind="stable")
            assert np.array_equal(sight.judged.detections.boxes, scene.detections.boxes[order]) and len(order)
        assert alone.heard == () and set(together.heard) == {2, 3}
        assert together.types == {1: "lidar64", 2: "lidar16", 3: "lidar16"}

    def test_who_plays_what_is_told_by_the_packs(self) -> None:
        both = [*PACKS, SHIPPED / "camera.safetensors", SHIPPED / "lidar16.safetensors"]
        assert roster_of(CONFIG) == Roster("lidar64", "lidar64")
        assert roster_of(build(ViewConfig, {"packs": both})) == Roster("lidar64", ("camera", "lidar16"))
        own = build(ViewConfig, {"packs": both, "ego": "camera", "senders": "camera"})
        assert roster_of(own) == Roster("camera", "camera")

    def test_nobody_plays_a_type_without_an_encoder(self, scenes: SmallScenes) -> None:
        with pytest.raises(ConfigError, match="no agent pack"):
            Watcher(scenes, build(ViewConfig, {"packs": PACKS[:1]}))
        with pytest.raises(ConfigError, match=r"'lidar16' takes part.*only for lidar64"):
            Watcher(scenes, build(ViewConfig, {"packs": PACKS, "senders": "lidar16"}))


class TestPicture:
    def test_hits_misses_and_false_alarms_have_their_colours(self, scenes: SmallScenes) -> None:
        view = view_with(scenes, [0.1, 9.0])
        sight = view.sights[1]
        axes = Figure().add_subplot()
        draw_from_above(view, axes, sight)
        drawn = [to_hex(line.get_color()) for line in axes.lines]
        labels = len(sight.judged.truth)
        assert labels > 2 and sight.tally == f"1 of {labels} found, 1 false"
        # outline and front of each
        assert [drawn.count(colour) for colour in (HIT, FALSE, MISSED)] == [2, 2, 2 * (labels - 1)]
        texts = [text.get_text() for text in axes.texts]
        assert {"0.90", "0.50"} <= set(texts) and sight.tally in axes.get_title()
        box = next(line for line in axes.lines if to_hex(line.get_color()) == HIT)
        middle = np.column_stack(box.get_data())[:4].mean(axis=0)
        np.testing.assert_allclose(middle, sight.judged.detections.boxes[0, :2], atol=1e-4)

    def test_without_labels_nothing_is_called_right_or_wrong(self, scenes: SmallScenes) -> None:
        view = view_with(scenes, [0.1, 9.0])
        sight = replace(view.sights[1], judged=judge(view.sights[1].judged.detections, Boxes3D.empty()))
        axes = Figure().add_subplot()
        draw_from_above(view, axes, sight)
        assert not {FALSE, MISSED} & {to_hex(line.get_color()) for line in axes.lines}
        assert "no labels to judge them by" in axes.get_title()

    def test_detections_have_the_corners_of_their_boxes(self, scenes: SmallScenes) -> None:
        view = view_with(scenes, [0.0])
        found = view.detected_corners(view.sights[1])[0]
        row = int(np.flatnonzero(view.frame.objects.ids == view.sights[1].judged.truth.ids[0])[0])
        np.testing.assert_allclose(found, view.corners()[row], atol=1e-4)
        strokes = {tuple(sorted(pair)) for pair in itertools.pairwise(ROUND)}
        assert strokes == {tuple(sorted(edge)) for edge in EDGES}

    def test_few_points_are_drawn_larger(self, scenes: SmallScenes) -> None:
        def largest(view: View) -> float:
            axes = Figure().add_subplot()
            draw_from_above(view, axes)
            return max(float(points.get_sizes().max()) for points in axes.collections)

        view = look(scenes, 0, reach_m=CONFIG.reach_m)
        dense = []
        for agent in view.frame.agents:
            cloud = agent.lidars["lidar64"]
            many = replace(cloud, points=np.tile(cloud.points, (60_000 // len(cloud.points) + 1, 1)))
            dense.append(replace(agent, lidars={"lidar64": many}))
        assert largest(view) > 5 * largest(replace(view, frame=view.frame.with_agents(tuple(dense)))) > 0


class TestPage:
    def test_detections_stand_in_a_table(self, scenes: SmallScenes) -> None:
        view = view_with(scenes, [0.1, 9.0])
        page = page_of(view)
        found = view.sights[1].judged
        assert found.truth.ids is not None and f"<td>object {found.truth.ids[found.label[0]]}</td>" in page
        assert page.count("<td>false</td>") == 2  # once alone, once together
        assert f"Together with 2, 3: {view.sights[1].tally}" in page
        assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)

    @pytest.mark.slow
    @pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
    @pytest.mark.parametrize("width", [1280, 390])
    def test_a_phone_shows_it_all(self, scenes: SmallScenes, tmp_path: Path, width: int) -> None:
        view = view_with(scenes, [0.1, 9.0])
        named = replace(view, frame=replace(view.frame, scenario="a_scenario_with_a_very_long_name_" * 6))
        path = tmp_path / "view.html"
        path.write_text(page_of(named))
        action = "root.dataset.ready = page.querySelectorAll('img').length;"
        seen = look_in_browser(path, width, action)
        cameras = sum(len(agent.cameras) for agent in view.frame.agents)
        assert seen["ready"] == str(2 + cameras) and seen["width"] <= width


class TestFilm:
    def test_a_clip_ends_with_its_scenario(self, scenes: SmallScenes) -> None:
        names = [scenes.name(index) for index in range(4)]
        assert names[0].split("/")[0] == names[1].split("/")[0] != names[2].split("/")[0]
        assert clip_from(scenes, 0, 9) == [0, 1] and clip_from(scenes, 1, 9) == [1] and clip_from(scenes, 2, 1) == [2]

    def test_it_runs_as_fast_as_life(self, scenes: SmallScenes, monkeypatch: pytest.MonkeyPatch) -> None:
        times = {0: 1_000_000, 1: 1_200_000, 2: 1_200_001, 3: 9_000_000}
        monkeypatch.setattr(SmallScenes, "capture_us", lambda _, index, agent: times[index])
        assert durations_ms(scenes, [0, 1, 2, 3]) == [200, 50, 1000, 1000] and durations_ms(scenes, [2]) == [100]

        def unknown(*_: object) -> int:
            raise ConfigError("no number")

        monkeypatch.setattr(SmallScenes, "capture_us", unknown)
        assert durations_ms(scenes, [0, 1]) == [100, 100]

    def test_its_length_needs_a_film_and_has_a_bound(self) -> None:
        for settings in ({"frames": 3}, {"out": "a.gif", "frames": 61}, {"ego": "lidar64"}, {"out": "a.jpg"}):
            with pytest.raises(ConfigError):
                build(ViewConfig, settings)
        assert build(ViewConfig, {"out": "a.GIF", "frames": 60}).is_film


@pytest.mark.slow
@pytest.mark.parametrize("reader", sorted(WRITERS))
def test_every_reader_can_be_seen_in_every_form(reader: str, tmp_path: Path) -> None:
    WRITERS[reader](tmp_path / "data")
    for folder in list((tmp_path / "data").glob("*/*/*/lidar")) if reader == "folder" else ():
        folder.rename(folder.with_name("lidar64"))  # what the shipped packs sense with
    base = {"packs": PACKS, "score": 0.2}
    for name in ("a.png", "a.html", "a.gif"):
        film = {"frames": 2} if name.endswith("gif") else {}
        said = show(tmp_path / "data", build(ViewConfig, {**base, **film, "out": tmp_path / name}), quiet)
        assert said[-1].endswith(str(tmp_path / name))
        assert film or re.match(r"Agent \d+ alone: \d+ of \d+ found, \d+ false", said[0])
    with Image.open(tmp_path / "a.gif") as clip:
        assert 1 <= clip.n_frames <= 2 and clip.size == (SIDE_PX, SIDE_PX)
    assert (tmp_path / "a.gif").stat().st_size < 400_000
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000
    assert (tmp_path / "a.html").read_text().count("<figcaption>") >= 1


def test_a_recording_holds_detections(scenes: SmallScenes, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    draw(view_with(scenes, [0.1, 9.0]), tmp_path / "a.rrd")
    content = (tmp_path / "a.rrd").read_bytes()
    assert b"world/detections/alone" in content and b"world/detections/together" in content
