"""The axes study's page, JSON and figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heatv2x.core.files import write_json, write_text
from studies.axes import BINS, WAYS, AxesConfig
from studies.cells import Content
from studies.figures import Curve, FigurePanel, curves
from studies.pages import environment
from studies.table import over_seeds


def summarise(contents: Mapping[str, Content], config: AxesConfig, command: str) -> dict[str, Any]:
    """axes.json: every way and bin over the seeds."""
    grouped: dict[tuple[str, tuple[int, int] | None], list[dict[str, Any]]] = {}
    for content in contents.values():
        for row in content["rows"]:
            grouped.setdefault((row["way"], tuple(row["bin"]) if row["bin"] else None), []).append(row)
    rows = [
        {
            "way": way,
            "bin": bounds and list(bounds),
            "pairs": found[0]["pairs"],
            "ap": {iou: over_seeds([each["ap"][iou] for each in found]) for iou in found[0]["ap"]},
        }
        for (way, bounds), found in grouped.items()
    ]
    first = next(iter(contents.values()))
    return {
        "title": "What a sender's axes cost",
        "command": command,
        "date": max(content["date"] for content in contents.values()),
        "machine": first["machine"],
        "code_version": first["code_version"],
        "split": config.split,
        "seeds": sorted(content["seed"] for content in contents.values()),
        "rows": rows,
    }


def write_page(summary: Mapping[str, Any], config: AxesConfig) -> Path:
    """axes.json, axes.md and the figure."""
    config.docs.mkdir(parents=True, exist_ok=True)
    write_json(config.docs / "axes.json", summary)
    rows = {(row["way"], tuple(row["bin"]) if row["bin"] else None): row for row in summary["rows"]}
    bins = [bounds for bounds in BINS if ("bilinear", bounds) in rows]
    panels = []
    for iou, title in (("0.5", "AP50"), ("0.7", "AP70")):
        lines = [
            Curve(way, [(a + b) / 2 for a, b in bins], [rows[way, bounds]["ap"][iou]["values"] for bounds in bins])
            for way in WAYS
        ]
        panels.append(FigurePanel(title, "degrees between the headings", lines))
    curves(panels, config.docs / "images" / "axes.png", "AP", share_y=False)
    page = (
        environment().get_template("axes.md.j2").render(rows=rows, bins=[*bins, None], ways=WAYS, **_without(summary))
    )
    write_text(config.docs / "axes.md", page)
    return config.docs / "axes.md"


def _without(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key != "rows"}
