"""Make a run folder's report.html: one file that opens offline and asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from heatv2x.core import files
from heatv2x.core.config import Config
from heatv2x.evaluation.report import charts, contract, measure, words
from heatv2x.evaluation.report.results import Results, Row
from heatv2x.evaluation.report.scene import Scenes
from heatv2x.evaluation.report.story import tell

FILE_NAME = "report.html"
TEMPLATES = Path(__file__).parent


class ReportConfig(Config):
    """Attributes:
    run: the folder with metrics.json and scenes.json, as the demo leaves it.
    """

    run: Path


def build_report(run_folder: Path) -> Path:
    """Write the report of a run from its metrics.json and scenes.json.

    Returns:
        The path of report.html, in the run folder.

    Raises:
        DataError: metrics.json or scenes.json is missing or broken, or the report cannot be written.
    """
    folder = Path(run_folder)
    page = render(Results.read(folder), Scenes.read(folder))
    target = folder / FILE_NAME
    files.write_text(target, page)
    return target


def render(results: Results, scenes: Scenes) -> str:
    """The page as text."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "points": words.points,
        "count": words.count,
        "seconds": words.seconds,
        "size": words.size,
        "sensor": words.sensor,
        "readable": measure.readable,
        "sentences": measure.sentences,
    }
    precision = [(iou, charts.precision_bars(results, iou)) for iou in ("0.5", "0.3", "0.7")]
    by_distance = charts.panels(results, "ap_by_distance")
    return environment.get_template("page.html").render(
        results=results,
        story=tell(results),
        groups=[(words.group_label(prefix), rows) for prefix, rows in charts.grouped(results.rows).items()],
        columns=columns(results.rows),
        legend=legend(results.rows),
        protocols=protocols(results.rows),
        amount=amount(results.rows),
        wording=words.wording,
        role=charts.role,
        key_methods=charts.KEY_METHODS,
        stage_label=words.stage_label,
        precision=precision,
        has_reference=any(group.reference is not None for _, groups in precision for group in groups),
        by_distance=by_distance,
        has_ghosts=any(column.ghost is not None for panel in by_distance for column in panel.columns),
        by_hits=charts.panels(results, "recall_by_hits"),
        costs=charts.cost_bars(results),
        plots=charts.training_plots(results),
        frames=len(scenes.scenes),
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        data=embed({**scenes.to_json(), "types": words.TYPES}),
    )


def embed(content: Any) -> Markup:
    """JSON that may stand inside a script element: no text in it can end the element or open a comment."""
    text = json.dumps(_rounded(contract.plain(content)), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _rounded(value: Any) -> Any:
    """The same value with numbers to the millimetre, which is more than a picture shows."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value


@dataclass(frozen=True)
class Columns:
    """Which optional columns the table has: those in which some row has a number."""

    visible: bool
    trained: bool
    cumulative: bool
    seconds: bool
    memory: bool
    bytes: bool
    seed: bool


def columns(rows: list[Row]) -> Columns:
    """The optional columns that these rows need."""
    return Columns(
        visible=any((row.ap_visible_to_ego or {}).get("0.5") is not None for row in rows),
        trained=any(row.trained_parameters is not None for row in rows),
        cumulative=any(row.cumulative_parameters is not None for row in rows),
        seconds=any(row.seconds is not None for row in rows),
        memory=any(row.peak_memory_mb is not None for row in rows),
        bytes=any(row.message_bytes is not None for row in rows),
        seed=len({row.seed for row in rows}) > 1,
    )


def legend(rows: list[Row]) -> list[tuple[str, words.Wording]]:
    """(name, wording) of every method in the table that has an explanation, once."""
    methods = dict.fromkeys(row.method for row in rows)
    return [(method, words.wording(method)) for method in methods if words.wording(method).explanation]


def protocols(rows: list[Row]) -> list[tuple[dict[str, Any], list[str]]]:
    """Every different protocol with the names of the rows measured by it."""
    found: list[tuple[dict[str, Any], list[str]]] = []
    for row in rows:
        if not row.protocol:
            continue
        names = next((names for protocol, names in found if protocol == row.protocol), None)
        if names is None:
            found.append((row.protocol, [row.name]))
        else:
            names.append(row.name)
    return found


def amount(rows: list[Row]) -> str:
    """How much was evaluated, in words; "" if the rows do not say or differ."""
    counts = {(row.n_frames, row.n_ground_truth) for row in rows if row.n_frames is not None}
    if len(counts) != 1:
        return ""
    frames, objects = counts.pop()
    return f"{words.count(frames)} frames" + ("" if objects is None else f" with {words.count(objects)} objects")
