"""The bandwidth study's page, JSON and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heatv2x.core.files import write_json, write_text
from studies.bandwidth import LINKS, SCENES, BandwidthConfig, lines_of
from studies.cells import Content
from studies.figures import Curve, FigurePanel, curves
from studies.pages import environment
from studies.table import over_seeds, paired

TITLES = {
    "heatv2x": "HeatV2X, all cells",
    "features": "features in 8 bits, no boxes",
    "features_boxes": "features in 8 bits, boxes merged with what is found",
    "late": "late fusion",
    "points": "points (early fusion)",
}


def summarise(contents: Mapping[str, Content], config: BandwidthConfig, command: str) -> dict[str, Any]:
    """bandwidth.json: every row over the seeds, and what is gained over late fusion within each seed."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for content in contents.values():
        for each in content["rows"]:
            by_name.setdefault(each["name"], []).append(each)
    rows = []
    for found in by_name.values():
        first = found[0]
        row = {key: first[key] for key in ("name", "scene", "line", "link", "n_frames", "protocol")}
        row["ap"] = {iou: over_seeds([each["ap"][iou] for each in found]) for iou in first["ap"]}
        row["kb"] = over_seeds([each["message_bytes"] / 1000 for each in found])
        late = {each["seed"]: each["ap"] for each in by_name[f"{first['scene']}/late/{first['link']}"]}
        row["over_late"] = {
            iou: over_seeds(
                list(paired(_ap(found, iou), {s: ap[iou] for s, ap in late.items()}, lambda a, b: a - b).values())
            )
            for iou in first["ap"]
        }
        rows.append(row)
    first_cell = next(iter(contents.values()))
    return {
        "title": "What a message is worth",
        "command": command,
        "date": max(content["date"] for content in contents.values()),
        "machine": first_cell["machine"],
        "code_version": first_cell["code_version"],
        "seeds": sorted(content["seed"] for content in contents.values()),
        "budgets": list(config.budgets),
        "rows": rows,
        "stages": {content["seed"]: content["stages"] for content in contents.values()},
    }


def write_page(summary: Mapping[str, Any], config: BandwidthConfig) -> Path:
    """bandwidth.json, bandwidth.md and the figure."""
    config.docs.mkdir(parents=True, exist_ok=True)
    write_json(config.docs / "bandwidth.json", summary)
    curves(_panels(summary, config), config.docs / "images" / "bandwidth.png", "AP", log_x=True, share_y=False)
    rows = {row["name"]: row for row in summary["rows"]}
    scenes = [
        {
            "title": scene.title,
            "lines": [
                {"title": title_of(line.name), "links": {k: rows.get(f"{scene.name}/{line.name}/{k}") for k in LINKS}}
                for line in lines_of(config, scene)
            ],
        }
        for scene in SCENES
    ]
    page = environment().get_template("bandwidth.md.j2").render(scenes=scenes, first=summary["rows"][0], **summary)
    write_text(config.docs / "bandwidth.md", page)
    return config.docs / "bandwidth.md"


def title_of(line: str) -> str:
    """A line's name for readers."""
    head, _, tail = line.partition("_")
    if head == "heatv2x" and tail:
        return f"HeatV2X, at most {int(tail) / 1000:g} kB"
    return TITLES.get(line, f"features, {tail} of the cells")


def _ap(rows: Sequence[Mapping[str, Any]], iou: str) -> dict[int, float]:
    return {row["seed"]: row["ap"][iou] for row in rows}


def _panels(summary: Mapping[str, Any], config: BandwidthConfig) -> list[FigurePanel]:
    """AP50 and AP70 of equal agents against kilobytes, clean."""
    rows = {row["name"]: row for row in summary["rows"]}
    equal = [f"equal/{line.name}/clean" for line in lines_of(config, SCENES[0])]
    groups = {
        "read": [name for name in equal if name.startswith("equal/heatv2x")],
        "graph": [name for name in equal if name.startswith("equal/features") and "boxes" not in name],
        **{line: [f"equal/{line}/clean"] for line in ("features_boxes", "late", "points")},
    }
    panels = []
    for iou, title in (("0.5", "AP50, exact poses"), ("0.7", "AP70, exact poses")):
        lines = []
        for label, names in groups.items():
            ordered = sorted(names, key=lambda name: rows[name]["kb"]["mean"])
            lines.append(
                Curve(
                    label,
                    [rows[name]["kb"]["mean"] for name in ordered],
                    [rows[name]["ap"][iou]["values"] for name in ordered],
                )
            )
        panels.append(FigurePanel(title, "kilobytes per message", lines))
    return panels
