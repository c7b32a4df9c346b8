"""The convergence study's page, JSON and figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heatv2x.core.files import write_json, write_text
from studies.cells import Content
from studies.config import BASE
from studies.convergence import LINKS, METHODS, ConvergenceConfig
from studies.figures import Curve, FigurePanel, curves
from studies.pages import environment
from studies.table import over_seeds, paired

LINES = {
    "lhft_gcft/tried": "LHFT + GCFT, as in the adaptation study",
    "lhft_gcft/end": "LHFT + GCFT, at its end",
    "backward_alignment/equal_time": "backward alignment, in the time of ours",
    "backward_alignment/end": "backward alignment, at its end",
    "full_finetune/equal_time": "full fine-tuning, in the time of ours",
    "full_finetune/end": "full fine-tuning, at its end",
    "lhft_gcft/reader": "LHFT + GCFT, the base reads boxes",
    "backward_alignment/reader": "backward alignment, the base reads boxes",
}


def summarise(contents: Mapping[str, Content], command: str) -> dict[str, Any]:
    """convergence.json: the search, and every row over the seeds."""
    finals = [content for name, content in contents.items() if name.startswith("final/")]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for content in finals:
        for row in content["rows"]:
            by_name.setdefault(row["name"], []).append(row)
    rows = []
    for found in by_name.values():
        first = found[0]
        ours = {r["seed"]: r["ap"] for r in by_name[f"lhft_gcft/end/{first['ego']}/{first['link']}"]}
        row = {key: first[key] for key in ("name", "line", "ego", "link", "n_frames", "steps", "trained_parameters")}
        row["ap"] = {iou: over_seeds([each["ap"][iou] for each in found]) for iou in first["ap"]}
        row["kb"] = over_seeds([each["message_bytes"] / 1000 for each in found])
        row["seconds"] = over_seeds([each["train_seconds"] for each in found])
        row["over_ours"] = {
            iou: over_seeds(
                list(
                    paired(
                        {each["seed"]: each["ap"][iou] for each in found},
                        {seed: ap[iou] for seed, ap in ours.items()},
                        lambda a, b: a - b,
                    ).values()
                )
            )
            for iou in first["ap"]
        }
        rows.append(row)
    return {
        "title": "Every method with all that it can use",
        "command": command,
        "date": max(content["date"] for content in finals),
        "machine": finals[0]["machine"],
        "code_version": finals[0]["code_version"],
        "seeds": sorted(content["seed"] for content in finals),
        "search": {method: contents[f"search/{method}"] for method in METHODS},
        "rows": rows,
    }


def write_page(summary: Mapping[str, Any], config: ConvergenceConfig) -> Path:
    """convergence.json, convergence.md and the figure."""
    config.docs.mkdir(parents=True, exist_ok=True)
    write_json(config.docs / "convergence.json", summary)
    panels = [FigurePanel("validation towns, one seed", "CPU seconds of training", _lines(summary))]
    curves(panels, config.docs / "images" / "convergence.png", "AP50", log_x=True, share_y=False)
    rows = {row["name"]: row for row in summary["rows"]}
    newcomer = next(row["ego"] for row in summary["rows"] if row["ego"] not in (BASE, "deployed"))
    scenes = {
        "The base hears newcomers": BASE,
        "A newcomer hears the base": newcomer,
        "Agents of the base's type among themselves, afterwards": "deployed",
    }
    tables = {
        title: [
            (LINES[line], {link: rows.get(f"{line}/{ego}/{link}") for link in LINKS})
            for line in LINES
            if f"{line}/{ego}/clean" in rows
        ]
        for title, ego in scenes.items()
    }
    page = (
        environment()
        .get_template("convergence.md.j2")
        .render(tables=tables, methods=METHODS, first=summary["rows"][0], **summary)
    )
    write_text(config.docs / "convergence.md", page)
    return config.docs / "convergence.md"


def _lines(summary: Mapping[str, Any]) -> list[Curve]:
    """AP50 against seconds over each method's doublings."""
    labels = {"lhft_gcft": "lhft_gcft", "backward_alignment": "backward_alignment", "full_finetune": "full_finetune"}
    return [
        Curve(
            labels[method],
            [one["train_seconds"] for one in found["doublings"]],
            [[one["ap"]["0.5"]] for one in found["doublings"]],
        )
        for method, found in summary["search"].items()
    ]
