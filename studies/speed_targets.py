"""What the speed benchmark's targets say: every line is met, missed, or not known yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from studies import reference_speed
from studies.speed_models import MIXED
from studies.targets import line

FASTER_BF16, FASTER_FLOAT32, FASTER_OURS = 3.0, 1.3, 8.0
FURTHER_PERCENT, DECODE_PERCENT, FASTER_LOOPS = 10.0, 2.0, 50.0
Summary = Mapping[str, Any]


def targets(summary: Summary) -> list[dict[str, Any]]:
    """All lines, in the order in which they were asked for."""
    has_bf16 = "bfloat16" in summary["precisions"]
    fastest = "bfloat16" if has_bf16 else "float32"
    title = {name: about["title"] for name, about in summary["models"].items()}
    lines = []
    if "published" in title:
        what = f"{title['published']}, against the reference"
        lines.append(_faster(summary, what, "published", "bfloat16", FASTER_BF16, has_bf16))
        lines.append(_faster(summary, what, "published", "float32", FASTER_FLOAT32, True))
    if "heatv2x" in title:
        what = f"{title['heatv2x']}, against the reference"
        lines.append(_faster(summary, what, "heatv2x", fastest, FASTER_OURS, True))
        what = "HeatV2X: AP at the demo grid against the pyramid's"
        lines.append(line(what, "not below", "not part of this benchmark", None))
    for name in (name for name in title if name != MIXED):
        lines.append(_further(summary, title[name], name, fastest))
    for name in (name for name in title if name != MIXED):
        lines.append(_decoding(summary, title[name], name, fastest))
    lines.append(_loops(summary))
    for name in (name for name in ("published", "heatv2x") if name in title):
        lines.append(_memory(summary, title[name], name))
        lines.append(_step_memory(summary, title[name], name))
    return [found for found in lines if found]


def fastest_build(summary: Summary, model: str, precision: str) -> list[Mapping[str, Any]]:
    """Rows of one thread by number of agents, of the build that is meant for use."""
    wanted = {"model": model, "build": summary["builds"][-1], "precision": precision, "threads": 1}
    return [row for row in summary["frames"] if all(row[key] == value for key, value in wanted.items())]


def further_percent(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Percent of the ego's frame alone that one more collaborator costs, on average up to the largest frame."""
    largest = max(rows, key=lambda row: int(row["agents"]), default=None)
    if largest is None or largest["agents"] == 1 or largest["to_alone"] is None:
        return None
    return float(100 * (largest["to_alone"]["median"] - 1) / (largest["agents"] - 1))


def _faster(summary: Summary, what: str, model: str, precision: str, least: float, there: bool) -> dict[str, Any]:
    """The smallest ratio over the numbers of agents decides."""
    target = f"≥ {least:g} ×"
    what = f"{what}, {precision}"
    if not there:
        return line(what, target, "not measured: this processor has no bfloat16", None)
    rows = [row for row in fastest_build(summary, model, precision) if "times_reference" in row]
    if not rows:
        return line(what, target, "not measured", None)
    ratios = {row["agents"]: row["times_reference"]["same_precision"] for row in rows}
    text = ", ".join(f"{ratio:.1f} × ({_agents(count)})" for count, ratio in ratios.items())
    return line(what, target, f"{summary['builds'][-1]}: {text}", min(ratios.values()) >= least)


def _further(summary: Summary, title: str, model: str, precision: str) -> dict[str, Any]:
    what, target = f"{title}: one more collaborator, of the ego's own frame alone", f"≤ {FURTHER_PERCENT:g} %"
    rows = fastest_build(summary, model, precision)
    percent = further_percent(rows)
    if percent is None:
        return line(what, target, "not measured", None)
    text = f"{percent:.1f} % on average up to {_agents(max(row['agents'] for row in rows))} ({precision})"
    return line(what, target, text, percent <= FURTHER_PERCENT)


def _decoding(summary: Summary, title: str, model: str, precision: str) -> dict[str, Any]:
    what, target = f"{title}: decoding and suppression, of the ego's frame", f"≤ {DECODE_PERCENT:g} %"
    rows = fastest_build(summary, model, precision)
    if not rows:
        return line(what, target, "not measured", None)
    shares = {row["agents"]: 100 * row["decode_share"] for row in rows}
    text = ", ".join(f"{share:.1f} % ({_agents(count)})" for count, share in shares.items())
    return line(what, target, f"{text}; {precision}", max(shares.values()) <= DECODE_PERCENT)


def _loops(summary: Summary) -> dict[str, Any]:
    found = summary["average_precision"]
    what = f"average precision of {found['frames']:,} frames of {found['boxes']} boxes, against polygon loops"
    target = f"≥ {FASTER_LOOPS:g} ×"
    if found["times_loops"] is None:
        return line(what, target, "not measured: shapely is not installed (pip install 'heatv2x[test]')", None)
    usual, areas, once = (found["times_loops"][how] for how in ("unions", "areas", "once"))
    text = (
        f"{usual:.0f} × loops as they are usually written; {areas:.0f} × where they take the union from areas, "
        f"{once:.0f} × where they share overlaps between thresholds, too"
    )
    return line(what, target, text, usual >= FASTER_LOOPS)


def _memory(summary: Summary, title: str, model: str) -> dict[str, Any]:
    """Over all precisions of the build that is meant for use."""
    most: dict[int, float] = {}
    for precision in summary["precisions"]:
        for row in fastest_build(summary, model, precision):
            if row["agents"] in reference_speed.PEAK_MEMORY_GB:
                most[row["agents"]] = max(most.get(row["agents"], 0.0), row["peak_bytes"] / 1e9)
    return _held(f"{title}: most memory of the process", most, reference_speed.PEAK_MEMORY_GB, _agents)


def _step_memory(summary: Summary, title: str, model: str) -> dict[str, Any]:
    held = {step["precision"]: step["peak_bytes"] / 1e9 for step in summary["steps"] if step["model"] == model}
    limits = dict.fromkeys(held, float(reference_speed.STEP["memory_gb"]))
    return _held(f"{title}: most memory of a training step", held, limits, str)


def _held(
    what: str, held: Mapping[Any, float], limits: Mapping[Any, float], word: Callable[[Any], str]
) -> dict[str, Any]:
    target = "below the reference"
    if not held:
        return line(what, target, "not measured", None)
    text = ", ".join(f"{gb:.1f} against {limits[key]:.1f} GB ({word(key)})" for key, gb in held.items())
    return line(what, target, text, all(gb < limits[key] for key, gb in held.items()))


def _agents(count: int) -> str:
    return f"{count} agent{'s' if count > 1 else ''}"
