"""The figures: what is drawn, where, and that nothing is forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from studies import figures
from studies.curves import CURVES
from studies.figures import Curve, FigurePanel, Growth, apart, curves, growth, row_points, training_curves
from studies.table import METHODS
from studies.tests.adaptation_contents import make_contents, summary_of


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summary_of(make_contents())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, as objects."""
    found: list[Figure] = []
    save = figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: (found.append(figure), save(figure, path))[1])
    return found


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def check_image(path: Path) -> None:
    """A picture of the right width, small on disk, with something on white paper."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] == 900
    assert path.stat().st_size < 150_000
    assert pixels[0, 0] == 255
    assert 0.01 < np.mean(pixels < 200) < 0.5


def test_training_curves_show_every_method_at_its_seconds(
    tmp_path: Path, summary: dict[str, Any], drawn: list[Figure]
) -> None:
    check_image(training_curves(summary, tmp_path / "training.png"))
    figure = drawn[0]
    assert set(legend(figure)) == {
        "LHFT", "LHFT + GCFT", "GCFT only", "backward alignment", "full fine-tuning", "maximum fusion", "from scratch",
    }  # fmt: skip
    left, right = figure.axes
    assert left.get_xscale() == right.get_xscale() == "log"
    lines = {container.get_label(): container.lines[0] for container in left.containers}
    assert list(lines["full fine-tuning"].get_xdata()) == [35, 70, 140, 420]
    assert list(lines["full fine-tuning"].get_ydata()) == pytest.approx([69.1, 71.1, 74.1, 76.6])
    fine = {container.get_label(): container.lines[0] for container in right.containers}["LHFT + GCFT"]
    assert list(fine.get_ydata()) == pytest.approx([40.1, 41.1, 40.1])


def test_training_curves_have_the_spread_and_the_lines_without_training(
    tmp_path: Path, summary: dict[str, Any], drawn: list[Figure]
) -> None:
    training_curves(summary, tmp_path / "training.png")
    axes = drawn[0].axes[0]
    container = next(c for c in axes.containers if c.get_label() == "LHFT + GCFT")
    heights = [path[1, 1] - path[0, 1] for path in container.lines[2][0].get_segments()]
    assert heights == pytest.approx([0.2] * 3)  # twice the spread of 0.1 points
    dashed = sorted(float(line.get_ydata()[0]) for line in axes.lines if list(line.get_xdata()) == [0, 1])
    assert dashed == pytest.approx([52.1, 74.1, 81.1])
    names = [text.get_text() for text in axes.texts]
    assert sorted(names) == ["all base type", "ego alone", "late fusion"]


def test_the_camera_has_its_own_lines(tmp_path: Path, summary: dict[str, Any], drawn: list[Figure]) -> None:
    training_curves(summary, tmp_path / "camera.png", "camera")
    axes = drawn[0].axes[0]
    dashed = sorted(float(line.get_ydata()[0]) for line in axes.lines if list(line.get_xdata()) == [0, 1])
    assert dashed == pytest.approx([52.1, 54.1, 81.1])


def test_row_points_show_every_seed_in_three_groups(
    tmp_path: Path, summary: dict[str, Any], drawn: list[Figure]
) -> None:
    check_image(row_points(summary, tmp_path / "rows.png"))
    axes = drawn[0].axes
    assert [a.get_title(loc="left") for a in axes] == ["LiDAR newcomer", "camera newcomer", "all together"]
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert {"LHFT + GCFT", "full fine-tuning", "not adapted", "ego alone", "all base type"} <= set(names)
    height = names.index("LHFT + GCFT")
    means = []
    for a in axes:
        seeds, mean = (line for line in a.lines if line.get_ydata()[0] == height)
        assert len(seeds.get_xdata()) == 3
        means.append(float(mean.get_xdata()[0]))
    assert means == pytest.approx([76.1, 56.1, 71.1])
    assert "76.1" in [text.get_text() for text in axes[0].texts]


def test_numbers_stay_inside_their_panel(tmp_path: Path, summary: dict[str, Any], drawn: list[Figure]) -> None:
    row_points(summary, tmp_path / "rows.png")
    for axes in drawn[0].axes:
        frame = axes.get_window_extent()
        assert all(text.get_window_extent().x1 <= frame.x1 for text in axes.texts)


def test_a_study_that_only_has_a_base_is_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    contents = {name: content for name, content in make_contents((0,)).items() if name == "seed0/base"}
    check_image(row_points(summary_of(contents), tmp_path / "rows.png"))
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["deployed type only"]


def make_panel(title: str, alone: float | None = 0.5) -> FigurePanel:
    methods = ("lhft_gcft", "late", "poses refined")
    return FigurePanel(title, "metres", [Curve(m, [0, 1], [[0.8, 0.8], [0.6, 0.7]]) for m in methods], alone)


def test_disturbances_have_a_panel_each_and_one_legend(tmp_path: Path, drawn: list[Figure]) -> None:
    titles = ["pose noise", "latency", "loss"]
    check_image(curves([make_panel(title) for title in titles], tmp_path / "robustness.png"))
    figure = drawn[0]
    assert legend(figure) == ["LHFT + GCFT", "late fusion", "poses refined", "ego alone"]
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == titles
    first = figure.axes[0]
    assert list(first.lines[0].get_ydata()) == pytest.approx([80, 65])
    dashed = [line for line in first.lines if line.get_linestyle() == "--"]
    assert [float(line.get_ydata()[0]) for line in dashed] == [50]
    band = first.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((65 - 50**0.5, 80))


def test_without_the_ego_alone_there_is_no_dashed_line(tmp_path: Path, drawn: list[Figure]) -> None:
    curves([make_panel("loss", None)], tmp_path / "robustness.png")
    assert "ego alone" not in legend(drawn[0])
    assert len(drawn[0].axes[0].lines) == 3


def test_a_method_looks_the_same_everywhere_and_no_two_look_alike(tmp_path: Path, drawn: list[Figure]) -> None:
    curves([make_panel("loss")], tmp_path / "robustness.png")
    lines = drawn[0].axes[0].lines[:3]
    assert lines[0].get_color() == figures.LOOKS["lhft_gcft"].colour
    assert len({line.get_color() for line in lines}) == 3
    assert len({line.get_marker() for line in lines}) == 3


def test_labels_are_moved_apart() -> None:
    places = apart({"late": 10.0, "alone": 1.0, "other": 10.5}, 2.0)
    assert places == {"alone": 1.0, "late": 10.0, "other": 12.0}


def test_every_method_has_a_label() -> None:
    assert set(METHODS) - set(figures.LOOKS) == {"lhft_equal_steps"}  # a control, in no figure


def test_colours_of_curves_differ() -> None:
    looks = [figures.look(method) for method in CURVES]
    assert len({style.colour for style in looks}) == len(CURVES)
    assert len({style.marker for style in looks}) >= len(CURVES) - 1


def test_growth_names_a_rows_lines_once_and_starts_costs_at_zero(tmp_path: Path, drawn: list[Figure]) -> None:
    lines = {"graph": {2: 30.0, 10: 50.0}, "maximum": {2: 30.0, 10: 40.0}}
    panels = [
        Growth("cost", "agents", lines, y_label="CPU ms"),
        Growth("AP", "types", {"graph": {1: 70.0, 2: 70.1}}, from_zero=False),
        Growth("seconds", "types", {"joining": {1: 3.0, 2: 4.0}}),
    ]
    check_image(growth(panels, tmp_path / "growth.png"))
    left, right, lonely, empty = drawn[0].axes
    assert left.get_ylim()[0] == 0 < right.get_ylim()[0] and left.get_ylabel() == "CPU ms"
    assert [list(line.get_ydata()) for line in left.lines] == [[30.0, 50.0], [30.0, 40.0]]
    assert left.lines[0].get_color() == right.lines[0].get_color() != left.lines[1].get_color()
    above, below = drawn[0].subfigs
    assert [text.get_text() for text in above.legends[0].get_texts()] == ["graph", "maximum"]
    assert not below.legends and len(lonely.lines) == 1 and not empty.get_visible()
    # the lines have the width: no names beside them
    assert left.get_position().width + right.get_position().width > 0.8


def test_a_line_under_another_one_shows_on_both_sides_of_it(tmp_path: Path, drawn: list[Figure]) -> None:
    same = {2: 30.0, 10: 50.0}
    lines = {"below": same, "above": same, "apart": {2: 10.0, 10: 20.0}, "touching": {10: 20.0}}
    growth([Growth("cost", "agents", lines)], tmp_path / "growth.png")
    widths = {line.get_label(): line.get_linewidth() for line in drawn[0].axes[0].lines}
    assert widths["below"] > 2 * widths["above"]
    assert widths["above"] == widths["apart"] == widths["touching"]


def test_a_variant_is_dashed_in_its_methods_colour(tmp_path: Path, drawn: list[Figure]) -> None:
    panel = FigurePanel(
        "pose noise", "metres", [Curve(m, [0, 1], [[0.8], [0.6]]) for m in ("maximum", "maximum_refined")]
    )
    curves([panel], tmp_path / "robustness.png")
    plain, corrected = drawn[0].axes[0].lines[:2]
    assert plain.get_color() == corrected.get_color()
    assert plain.get_linestyle() == "-" != corrected.get_linestyle()
    assert legend(drawn[0]) == ["maximum fusion", "maximum fusion, poses corrected"]
