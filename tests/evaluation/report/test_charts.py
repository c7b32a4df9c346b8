"""Geometry of the page's pictures."""

from __future__ import annotations

import pytest

from heatv2x.evaluation.report import Results, Row, charts


def test_bars_are_as_long_as_their_numbers(results: Results) -> None:
    main, controls = charts.precision_bars(results, "0.5")
    assert [(bar.label, bar.width, bar.text) for bar in main.bars][2] == ("LHFT + GCFT", 85.1, "85.1")
    assert (main.bars[2].low, main.bars[2].high) == (84.1, 86.1)
    assert main.reference == 60.0
    assert [bar.label for bar in controls.bars] == ["dropped"]


def test_what_was_not_measured_has_no_bar(results: Results) -> None:
    assert charts.precision_bars(results, "0.7") == []


def test_the_line_of_the_ego_alone_stands_only_where_it_may_be_compared(results: Results) -> None:
    results.rows[-1].ego_type = "lidar16"
    assert charts.precision_bars(results, "0.5")[-1].reference is None


def test_panels_mark_the_ego_alone(results: Results) -> None:
    (panel,) = charts.panels(results, "ap_by_distance")
    assert [column.label for column in panel.columns] == ["0-20", "20-50"]
    assert [column.ghost for column in panel.columns] == [80.0, None]
    assert [column.text for column in panel.columns] == ["90", "70"]


def test_costs_share_one_scale(results: Results) -> None:
    parameters, seconds = charts.cost_bars(results)
    assert [bar.width for bar in parameters.bars] == [pytest.approx(11.92, abs=0.01), 100.0]
    assert seconds.bars[0].second == pytest.approx(100 * 38.2 / 70.2)


def test_the_collaborative_curve_starts_where_the_local_one_ended(results: Results) -> None:
    precision, loss = charts.training_plots(results)
    assert [line.label for line in precision.lines] == ["Local adapters (LHFT)", "Collaborative adapters (GCFT)"]
    ends = [float(line.end[1:].split()[0]) for line in loss.lines]
    assert ends == [pytest.approx(100 * 32 / 80), pytest.approx(100 * 64 / 80)]


@pytest.mark.parametrize(("low", "high"), [(0, 174), (0.9, 2.1), (42.7, 86.3), (5, 5), (0, 0), (-3, 1e6)])
def test_ticks_are_few_and_enclose_the_values(low: float, high: float) -> None:
    ticks = charts.nice_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 2 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))


def test_an_evaluation_without_a_story_has_its_own_panels() -> None:
    rows = [Row(f"assigned/{n}", {"0.5": 0.5}, ap_by_distance={"0-20 m": 0.1 * n, "50+ m": None}) for n in range(12)]
    panels = charts.panels(Results(rows), "ap_by_distance")
    assert len(panels) == charts.MOST_PANELS and panels[3].columns[0].height == 30.0
    (group,) = charts.precision_bars(Results(rows), "0.5")
    assert group.heading == ""  # one group needs none
