"""The geometry of the page's pictures: every length a percentage of the plot, so that they are crisp at any width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from heatv2x.evaluation.report import story, words
from heatv2x.evaluation.report.results import Results, Row, StageResult

ROLES = {
    "no_fusion": "alone",
    "single_agent": "alone",
    "unaligned": "unaligned",
    "lhft": "adapted-part",
    "gcft_only": "adapted-part",
    "lhft_gcft": "adapted",
    "full_finetune": "reference",
}
STAGE_ROLES = {"local": "adapted-part", "collaborative": "adapted", "full_finetune": "reference"}
KEY_METHODS = ("no_fusion", "unaligned", "lhft_gcft", "full_finetune")
PANEL_METHODS = ("unaligned", "late", "lhft", "lhft_gcft", "backward_alignment", "full_finetune", "homogeneous")
MOST_PANELS = 8
RIVALS = ("backward_alignment", "full_finetune", "scratch_mix")


def role(row: Row) -> str:
    """Which colour a row has all over the page."""
    return ROLES.get(row.method, "other")


@dataclass(frozen=True)
class Bar:
    """One horizontal bar.

    Attributes:
        label: what stands before it.
        role: its colour.
        width: 0-100 percent of the plot.
        text: the number at its end.
        low: interval's lower end in percent, None without one.
        high: interval's upper end in percent.
        note: small print beside the label.
        second: percent of the bar's end that belongs to a second part, 0 for a plain bar.
        hint: the explanation shown on hover.
    """

    label: str
    role: str
    width: float
    text: str
    low: float | None = None
    high: float | None = None
    note: str = ""
    second: float = 0.0
    hint: str = ""


@dataclass(frozen=True)
class BarGroup:
    """Bars under one heading, with an optional upright line at `reference` percent."""

    heading: str
    bars: list[Bar]
    reference: float | None = None


def grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by prefix: the main story first, controls last."""
    groups: dict[str, list[Row]] = {"": []}
    for row in rows:
        groups.setdefault(row.prefix, []).append(row)
    ordered = sorted(groups, key=lambda prefix: (prefix != "", prefix == "control"))
    return {prefix: groups[prefix] for prefix in ordered if groups[prefix]}


def _clip(percent: float) -> float:
    return round(min(100.0, max(0.0, percent)), 2)


def precision_bars(results: Results, iou: str) -> list[BarGroup]:
    """AP of every row at one IoU threshold, with its interval and a line at what the ego sees alone."""
    groups = []
    by_prefix = grouped(results.rows)
    for prefix, rows in by_prefix.items():
        bars = [bar for row in rows if (bar := _precision_bar(row, iou)) is not None]
        if bars:
            alone = story.alone(results, rows[-1])
            reference = None if alone is None or alone.points(iou) is None else _clip(alone.points(iou) or 0.0)
            groups.append(BarGroup(words.group_label(prefix) if len(by_prefix) > 1 else "", bars, reference))
    return groups


def _precision_bar(row: Row, iou: str) -> Bar | None:
    value, interval = row.points(iou), row.interval(iou)
    if value is None:
        return None
    low, high = (None, None) if interval is None else (_clip(interval[0]), _clip(interval[1]))
    note = "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
    wording = words.wording(row.name)
    return Bar(wording.label, role(row), _clip(value), words.points(value), low, high, note, hint=wording.explanation)


@dataclass(frozen=True)
class Column:
    """One upright column of a small panel, in percent of the plot.

    Attributes:
        label: its category.
        x: left edge.
        width: from left to right.
        height: from the bottom; 0 if not measured.
        text: the number over it.
        text_at: where the number stands, over the column and clear of the ghost's mark.
        ghost: height of the mark it is compared with, None without one.
    """

    label: str
    x: float
    width: float
    height: float
    text: str
    text_at: float
    ghost: float | None


@dataclass(frozen=True)
class ChartPanel:
    """One small multiple: a row's values over categories."""

    label: str
    role: str
    columns: list[Column]


def panels(results: Results, attribute: str) -> list[ChartPanel]:
    """Small multiples of `ap_by_distance` or `recall_by_hits`, each against what the ego sees alone."""
    alone = results.row("no_fusion") or results.row("single_agent")
    ghosts = _by_category(alone, attribute) if alone else {}
    chosen = [results.row(name) for name in PANEL_METHODS]
    if alone is None and not any(chosen):  # no story, but an evaluation of its own
        chosen = list(results.rows[:MOST_PANELS])
    drawn = [(row, _by_category(row, attribute)) for row in chosen if row is not None]
    if alone and not any(values for _, values in drawn):
        drawn = [(alone, ghosts)]
    return [_panel(row, values, ghosts) for row, values in drawn if values]


def _by_category(row: Row, attribute: str) -> dict[str, float | None]:
    values: dict[str, float | None] | None = getattr(row, attribute)
    return values or {}


def _panel(row: Row, values: Mapping[str, float | None], ghosts: Mapping[str, float | None]) -> ChartPanel:
    unit = " m" if all(name.endswith(" m") for name in values) else ""
    step = 100 / len(values)
    columns = []
    for index, (name, value) in enumerate(values.items()):
        height = _clip(100 * (value or 0.0))
        ghost = None if (mark := ghosts.get(name)) is None else _clip(100 * mark)
        columns.append(
            Column(
                label=name.removesuffix(unit) if unit else name,
                x=round(index * step + 0.14 * step, 2),
                width=round(0.72 * step, 2),
                height=height,
                text="–" if value is None else f"{100 * value:.0f}",
                text_at=ghost + 1 if ghost is not None and height < ghost < height + 17 else height,
                ghost=ghost,
            )
        )
    return ChartPanel(words.wording(row.name).label, role(row), columns)


def cost_bars(results: Results) -> list[BarGroup]:
    """Trained parameters and training seconds of the adapters beside the rivals that train networks."""
    methods = ("lhft", "lhft_gcft", *RIVALS)
    rows = [row for name in methods if (row := results.row(name)) is not None]
    groups = []
    sizes = [(row, float(row.cumulative_parameters)) for row in rows if row.cumulative_parameters is not None]
    if sizes:
        groups.append(BarGroup("Parameters trained", _cost(sizes, words.count)))
    times = [(row, row.seconds) for row in rows]
    known = [(row, value) for row, value in times if value is not None]
    if known:
        groups.append(
            BarGroup("Processor seconds of training", _cost(known, words.seconds, _collaborative_share(results)))
        )
    return groups


def _cost(values: Sequence[tuple[Row, float]], text: Callable[[float], str], collaborative: float = 0.0) -> list[Bar]:
    """Bars on a scale that ends at the largest value; the full method shows its collaborative part."""
    largest = max(value for _, value in values) or 1.0
    return [
        Bar(
            label=words.wording(row.name).label,
            role=role(row),
            width=_clip(100 * value / largest),
            text=text(value),
            note="" if row.points() is None else f"AP50 {words.points(row.points())}",
            second=collaborative if row.method == "lhft_gcft" else 0.0,
            hint=words.wording(row.name).explanation,
        )
        for row, value in values
    ]


def _collaborative_share(results: Results) -> float:
    """Which percentage of the adapters' seconds was the collaborative stage; 0 if unknown."""
    local, collaborative = results.stage("local"), results.stage("collaborative")
    if local is None or collaborative is None or not local.cpu_seconds or not collaborative.cpu_seconds:
        return 0.0
    return 100 * collaborative.cpu_seconds / (local.cpu_seconds + collaborative.cpu_seconds)


@dataclass(frozen=True)
class Line:
    """One curve of a plot; `path` is an SVG path in a 100x100 box, y downwards."""

    label: str
    role: str
    path: str
    end: str


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, percent from the left or from the top."""

    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    """Curves over seconds (or steps), with ticks and level lines."""

    heading: str
    x_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    levels: list[Tick]


Curve = tuple[str, str, list[tuple[float, float]]]


def training_plots(results: Results) -> list[Plot]:
    """Validation AP over training time where it was measured, and loss over training time."""
    alone = results.row("no_fusion")
    level = None if alone is None or alone.points() is None else ("ego alone", alone.points() or 0.0)
    plots = [
        _plot("Validation AP50 while training", _curves(results, "ap50", 100.0), level),
        _plot("Loss while training", _curves(results, "loss", 1.0), None),
    ]
    return [plot for plot in plots if plot is not None]


def _curves(results: Results, quantity: str, factor: float) -> list[Curve]:
    """One curve per stage; the collaborative one starts where the local one ended, because it builds on it."""
    curves: list[Curve] = []
    local = results.stage("local")
    for stage in results.stages:
        offset = (local.cpu_seconds or 0.0) if local and stage.name == "collaborative" else 0.0
        samples = _samples(stage, quantity, factor, offset)
        if len(samples) > 1 and stage.name != "base":
            color = {"local": "adapted-part", "collaborative": "adapted", "full_finetune": "reference"}.get(
                stage.name, "other"
            )
            curves.append((words.stage_label(stage.name), color, samples))
    return curves


def _samples(stage: StageResult, quantity: str, factor: float, offset: float) -> list[tuple[float, float]]:
    samples = []
    for point in stage.curve:
        value = point.ap50 if quantity == "ap50" else point.loss
        if value is not None and point.seconds is not None:
            samples.append((point.seconds + offset, value * factor))
    return sorted(samples)


def _plot(heading: str, curves: list[Curve], level: tuple[str, float] | None) -> Plot | None:
    if not curves:
        return None
    everything = [sample for _, _, samples in curves for sample in samples]
    values = [y for _, y in everything] + ([level[1]] if level else [])
    xs = nice_ticks(0.0, max(x for x, _ in everything))
    ys = nice_ticks(min(values), max(values))
    right, bottom, top = xs[-1], ys[0], ys[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return round(100 * x / right, 2), round(100 * (top - y) / (top - bottom), 2)

    lines = []
    for label, color, samples in curves:
        places = [place(x, y) for x, y in samples]
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        lines.append(Line(label, color, path, f"M{places[-1][0]} {places[-1][1]}h0"))
    levels = [Tick(place(0, level[1])[1], f"{level[0]} {level[1]:.1f}")] if level else []
    return Plot(
        heading,
        "processor seconds",
        lines,
        [Tick(place(x, bottom)[0], f"{x:g}") for x in xs],
        [Tick(place(0, y)[1], f"{y:g}") for y in ys],
        levels,
    )


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about `wanted` steps apart, at least two of them."""
    span = max(high - low, 1e-9 + abs(high) * 1e-6)
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * wanted >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]
