"""The studies' figures: AP against training seconds, AP of all rows, AP against a disturbance, what grows with a fleet.

Every colour has its marker, so that the figures read without colour, too (colours: Okabe and Ito 2008).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from heatv2x.core import files
from studies.config import BASE, LIDAR
from studies.table import METHODS, RowName

DPI = 150
WIDTH = 6.0
"""Inches: 900 pixels."""
GREY = "#666666"
SMALL, SMALLER = 8, 7


@dataclass(frozen=True)
class Look:
    """How a method is drawn; a variant of another method has its colour and marker, and is dashed."""

    label: str
    colour: str = GREY
    marker: str = "o"
    dashed: bool = False


LOOKS = {
    "no_fusion": Look("ego alone", GREY, "|"),
    "single_agent": Look("dedicated network", GREY, "x"),
    "unaligned": Look("not adapted", GREY, "v"),
    "late": Look("late fusion", GREY, "P"),
    "late_lhft": Look("late fusion of LHFT", GREY, "*"),
    "gcft_only": Look("GCFT only", "#E69F00", "v"),
    "lhft": Look("LHFT", "#56B4E9", "s"),
    "lhft_gcft": Look("LHFT + GCFT", "#0072B2", "o"),
    "lhft_gcft_boxes": Look("LHFT, GCFT, boxes", "#0072B2", "8"),
    "maximum": Look("maximum fusion", "#000000", "P"),
    "backward_alignment": Look("backward alignment", "#009E73", "^"),
    "full_finetune": Look("full fine-tuning", "#D55E00", "D"),
    "full_finetune_boxes": Look("fine-tuned, boxes", "#D55E00", "d"),
    "scratch_mix": Look("from scratch", "#CC79A7", "X"),
    "homogeneous": Look("all base type", GREY, "h"),
    "homogeneous_boxes": Look("base type, boxes", GREY, "p"),
    "homogeneous_late": Look("all base type, late", GREY, "H"),
    "heatv2x": Look("HeatV2X, poses corrected by boxes", "#0072B2", "o"),
    "read": Look("HeatV2X", "#0072B2", "o"),
    "points": Look("points (early fusion)", "#009E73", "^"),
    "features_boxes": Look("features, boxes merged", "#D55E00", "D"),
    "graph": Look("HeatV2X without boxes", "#56B4E9", "s"),
    "bilinear": Look("features, as sent", "#56B4E9", "s"),
    "nearest": Look("features, nearest cell", "#000000", "v"),
    "ego_axes": Look("features in the ego's axes", "#56B4E9", "s", True),
    "read_ego_axes": Look("HeatV2X in the ego's axes", "#0072B2", "o", True),
    "maximum_refined": Look("maximum fusion, poses corrected", "#000000", "P", True),
    "late_refined": Look("late fusion, poses corrected", "#CC79A7", "X", True),
}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "oD^Xvs*"


def look(method: str) -> Look:
    """A method's look; an unknown one is grey under its own name."""
    return LOOKS.get(method, Look(method))


# --- AP against training seconds ------------------------------------------------------------------------------------


def training_curves(summary: Mapping[str, Any], path: Path, newcomer: str = LIDAR) -> Path:
    """AP50 and AP70 against CPU seconds of training: seeds' mean, bars for the spread, lines for what needs none."""
    figure, (left, right) = _figure(1, 2, 3.7)
    curves = [curve for curve in summary["curves"] if curve["newcomer"] == newcomer]
    for axes, key, iou in ((left, "ap50", "0.5"), (right, "ap70", "0.7")):
        for curve in curves:
            _draw_curve(axes, curve, key)
        axes.set_xscale("log")
        axes.set_title(f"AP{iou[-1]}0", loc="left", fontsize=SMALL, fontweight="bold")
        axes.set_xlabel("CPU seconds of training (log)", fontsize=SMALL)
        _reference_lines(axes, summary["rows"], newcomer, iou)
        _log_ticks(axes)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _legend(figure, [Line2D([], [], **_style(look(curve["method"]))) for curve in curves], 3)
    return _save(figure, path)


def _draw_curve(axes: Axes, curve: Mapping[str, Any], key: str) -> None:
    budgets = sorted({point["steps"] for point in curve["points"]})
    groups = [[point for point in curve["points"] if point["steps"] == steps] for steps in budgets]
    axes.errorbar(
        [statistics.fmean(point["seconds"] for point in group) for group in groups],
        [100 * statistics.fmean(point[key] for point in group) for group in groups],
        yerr=[100 * _spread([point[key] for point in group]) for group in groups],
        capsize=2,
        elinewidth=0.8,
        zorder=4 if curve["method"] == "lhft_gcft" else 3,
        **_style(look(curve["method"])),
    )


def _reference_lines(axes: Axes, rows: Sequence[Mapping[str, Any]], newcomer: str, iou: str) -> None:
    """Horizontal lines with their names at the right end; names that would touch are moved apart."""
    by_name = {row["name"]: row["ap"][iou]["mean"] for row in rows}
    heard = "" if newcomer == LIDAR else f"{newcomer}/"
    lines = {"ego alone": "no_fusion", "late fusion": f"{heard}late", "all base type": "homogeneous"}
    found = {label: 100 * by_name[name] for label, name in lines.items() if name in by_name}
    for value in found.values():
        axes.axhline(value, color=GREY, linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)
    low, high = axes.get_ylim()
    for label, place in apart(found, 0.05 * (high - low)).items():
        axes.annotate(
            label, (1, place), (3, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points", va="center",
            fontsize=SMALLER, color=GREY, annotation_clip=False,
        )  # fmt: skip


def apart(places: Mapping[str, float], gap: float) -> dict[str, float]:
    """Places of labels, moved up where two would be closer than `gap`."""
    found: dict[str, float] = {}
    for label, place in sorted(places.items(), key=lambda item: item[1]):
        found[label] = max(place, max(found.values(), default=place - gap) + gap)
    return found


# --- AP of all rows -------------------------------------------------------------------------------------------------


def row_points(summary: Mapping[str, Any], path: Path) -> Path:
    """AP50 of every method for each newcomer and for all types together: seeds as points, their mean as a bar."""
    groups = _groups(summary["rows"])
    methods = [method for method in METHODS if any(method in rows for rows in groups.values())]
    figure, grid = _figure(1, len(groups), 0.75 + 0.24 * len(methods), sharey=True)
    points = [100 * value for rows in groups.values() for row in rows.values() for value in row["ap"]["0.5"]["values"]]
    low, high = (min(points), max(points)) if points else (0.0, 100.0)
    width = max(high - low, 1.0)
    for axes, (title, rows) in zip(grid, groups.items(), strict=True):
        for height, method in enumerate(reversed(methods)):
            if method in rows:
                _draw_row(axes, height, look(method), [100 * value for value in rows[method]["ap"]["0.5"]["values"]])
        axes.set_title(title, loc="left", fontsize=SMALL, fontweight="bold")
        axes.set_xlabel("AP50", fontsize=SMALL)
        axes.grid(axis="y", visible=True)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.set_xlim(low - 0.08 * width, high + 0.36 * width)  # room for the numbers
    grid[0].set_yticks(range(len(methods)), [look(method).label for method in reversed(methods)])
    return _save(figure, path)


def _draw_row(axes: Axes, height: int, style: Look, values: Sequence[float]) -> None:
    mean = statistics.fmean(values)
    axes.plot(values, [height] * len(values), "o", color=style.colour, markersize=4, alpha=0.55, markeredgewidth=0)
    axes.plot([mean], [height], "|", color=style.colour, markersize=11, markeredgewidth=2)
    axes.annotate(
        f"{mean:.1f}", (max(values), height), (6, 0), textcoords="offset points", va="center", fontsize=SMALLER,
        color="#333333",
    )  # fmt: skip


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Rows by method under the title of their panel; the base is the ego in all of them."""
    shared = {row["name"]: row for row in rows if row["newcomer"] == BASE and row["name"] in METHODS}
    titles = {"": "LiDAR newcomer", "camera": "camera newcomer", "all": "all together"}
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        name = RowName.of(row["name"])
        if row["newcomer"] != BASE and row["ego_type"] == BASE and name.group in titles and not name.budget:
            found.setdefault(titles[name.group], dict(shared))[name.method] = row
    return found or {"deployed type only": shared}


# --- AP against a disturbance ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Attributes:
        label: its name in the legend; a method's name is written and drawn as in the other figures.
        x: the disturbance, ascending.
        values: AP as a fraction at each x, one per seed.
    """

    label: str
    x: Sequence[float]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True)
class FigurePanel:
    """One disturbance.

    Attributes:
        title: what is disturbed.
        x_label: its axis with the unit.
        curves: one per method; the same label looks the same in every panel.
        alone: AP of the ego alone as a fraction, None for no line.
    """

    title: str
    x_label: str
    curves: Sequence[Curve]
    alone: float | None = None


def curves(
    panels: Sequence[FigurePanel],
    path: Path,
    y_label: str = "AP50",
    columns: int = 2,
    log_x: bool = False,
    share_y: bool = True,
) -> Path:
    """AP against disturbances: a line per method with the spread over seeds as a band, the ego alone dashed."""
    looks = _looks(list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves)))
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = _figure(lines, columns, 0.5 + 2.15 * lines, sharey=share_y)
    for place, (axes, panel) in enumerate(zip(grid[: len(panels)], panels, strict=True)):
        for curve in panel.curves:
            _draw_band(axes, curve, looks[curve.label])
        axes.set_title(panel.title, loc="left", fontsize=SMALL, fontweight="bold")
        axes.set_xlabel(panel.x_label, fontsize=SMALL)
        if log_x:
            axes.set_xscale("log")
            _log_ticks(axes)
        if place % columns == 0:
            axes.set_ylabel(y_label, fontsize=SMALL)
        if panel.alone is not None:
            axes.axhline(100 * panel.alone, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    handles = [Line2D([], [], **_style(style)) for style in looks.values()]
    if any(panel.alone is not None for panel in panels):
        handles.append(Line2D([], [], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="ego alone"))
    _legend(figure, handles, 3 if max(len(str(handle.get_label())) for handle in handles) < 24 else 2)
    return _save(figure, path)


def _draw_band(axes: Axes, curve: Curve, style: Look) -> None:
    means = [100 * statistics.fmean(values) for values in curve.values]
    spreads = [100 * _spread(values) for values in curve.values]
    axes.fill_between(
        curve.x,
        [mean - spread for mean, spread in zip(means, spreads, strict=True)],
        [mean + spread for mean, spread in zip(means, spreads, strict=True)],
        color=style.colour,
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(curve.x, means, **_style(style))


def _looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look per label: methods look as in the other figures, all else takes what is left of the palette."""
    own = {label: LOOKS[label] for label in labels if label in LOOKS and LOOKS[label].colour != GREY}
    solid = [style for style in own.values() if not style.dashed]
    left = [colour for colour in PALETTE if colour not in {style.colour for style in solid}] or PALETTE
    markers = [marker for marker in MARKERS if marker not in {style.marker for style in solid}] or MARKERS
    others = [label for label in labels if label not in own]
    drawn = {
        label: Look(look(label).label, left[rank % len(left)], markers[rank % len(markers)])
        for rank, label in enumerate(others)
    }
    return {label: own[label] if label in own else drawn[label] for label in labels}


# --- what grows with a fleet ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """One panel: lines over how many types or agents there are.

    Attributes:
        title: what is drawn, with the unit.
        x_label: what is counted.
        lines: y by x, by name.
        from_zero: the axis starts at zero, as what is a sum or a cost must.
        y_label: the axis in words, where the title does not say it all.
    """

    title: str
    x_label: str
    lines: Mapping[str, Mapping[int, float]]
    from_zero: bool = True
    y_label: str = ""


def growth(panels: Sequence[Growth], path: Path, columns: int = 2) -> Path:
    """Panels of lines over a count; a row's names stand below it once, and a lonely line is named by the title."""
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    names = [list(dict.fromkeys(name for panel in row for name in panel.lines)) for row in rows]
    named = [any(len(panel.lines) > 1 for panel in row) for row in rows]
    in_line = [min(len(each), 3 if max(map(len, each)) > 14 else 6) if each else 1 for each in names]
    heights = [2.1 + (0.2 * -(-len(names[k]) // in_line[k]) + 0.1 if named[k] else 0) for k in range(len(rows))]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.1), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, row in enumerate(rows):
        looks = {
            name: Look(name, PALETTE[rank % len(PALETTE)], MARKERS[rank % len(MARKERS)])
            for rank, name in (enumerate(names[place]) if named[place] else ((0, name) for name in names[place]))
        }
        grid = parts[place].subplots(1, columns, squeeze=False)[0]
        for axes, panel in zip(grid[: len(row)], row, strict=True):
            _quiet(axes)
            _draw_growth(axes, panel, looks)
        for axes in grid[len(row) :]:
            axes.set_visible(False)
        if named[place]:
            handles = [Line2D([], [], **_style(style)) for style in looks.values()]
            parts[place].legend(
                handles=handles, loc="outside lower center", ncols=in_line[place], fontsize=SMALLER, frameon=False
            )
    return _save(figure, path)


def _draw_growth(axes: Axes, panel: Growth, looks: Mapping[str, Look]) -> None:
    values = [value for points in panel.lines.values() for value in points.values()]
    low, high = (0.0 if panel.from_zero else min(values, default=0.0)), max(values, default=1.0)
    names = list(panel.lines)
    for rank, name in enumerate(names):
        points = panel.lines[name]
        over = [panel.lines[later] for later in names[rank + 1 :]]
        hidden = sum(_coincide(points, other, 0.012 * (high - low)) for other in over)
        style = _style(looks[name])
        style |= {"linewidth": 1.6 + 2.6 * hidden, "markersize": 4 + 3 * hidden}  # seen on both sides of what covers it
        axes.plot(list(points), list(points.values()), **style)
    axes.set_title(panel.title, loc="left", fontsize=SMALL, fontweight="bold")
    axes.set_xlabel(panel.x_label, fontsize=SMALL)
    axes.set_ylabel(panel.y_label, fontsize=SMALLER)
    axes.set_xticks(sorted({x for points in panel.lines.values() for x in points}))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    if panel.from_zero:
        axes.set_ylim(bottom=0)


def _coincide(one: Mapping[int, float], other: Mapping[int, float], gap: float) -> bool:
    """Whether a line lies under another one wherever both are, and so could not be seen."""
    shared = [x for x in one if x in other]
    return len(shared) > len(one) / 2 and all(abs(one[x] - other[x]) <= gap for x in shared)


# --- paper ----------------------------------------------------------------------------------------------------------


def _figure(lines: int, columns: int, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A white figure with quiet axes; no global state, so that studies may draw in any process."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = [axes for row in figure.subplots(lines, columns, squeeze=False, sharey=sharey) for axes in row]
    for axes in grid:
        _quiet(axes)
    return figure, grid


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(labelsize=SMALL, color="#999999")
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def _style(style: Look) -> dict[str, Any]:
    line = {"color": style.colour, "marker": style.marker, "markersize": 4, "linewidth": 1.6, "label": style.label}
    return {**line, **({"linestyle": (0, (3, 1.5)), "markerfacecolor": "white"} if style.dashed else {})}


def _log_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))


def _legend(figure: Figure, handles: Iterable[Line2D], columns: int) -> None:
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, fontsize=SMALL, frameon=False)


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _save(figure: Figure, path: Path) -> Path:
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})
    return path
