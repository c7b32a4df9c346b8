"""The adaptation study as a page: tables, figures, targets, and what is not shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heatv2x.core import files
from heatv2x.evaluation.report import words
from studies import figures
from studies.config import BASE, LIDAR
from studies.markdown import plus_minus, table
from studies.table import ASIDE, THRESHOLDS, RowName

JSON, PAGE = "adaptation.json", "adaptation.md"
TRAINING_FIGURE, ROWS_FIGURE = "images/adaptation_training.png", "images/adaptation_rows.png"
Summary = Mapping[str, Any]
Line = Sequence[str]

GROUPS = {
    "": "LiDAR newcomer (`lidar16`), heard by the base",
    "camera": "Camera newcomer, heard by the base",
    "all": "All types together, the base is the ego",
    "ego_lidar16": "The LiDAR newcomer is the ego and hears the base's type",
    "ego_camera": "The camera newcomer is the ego and hears the base's type",
    "all_ego_lidar16": "All types together, the LiDAR newcomer is the ego",
    "all_ego_camera": "All types together, the camera newcomer is the ego",
}
DEPLOYED = "Deployed alliance alone"
MEANINGS = {
    "no_fusion": "the collaborative network with every message dropped: the ego alone",
    "single_agent": "a dedicated network that never learned to collaborate; its encoder is what a newcomer brings",
    "unaligned": "the newcomer's features go into the base's fusion as they are; nothing is trained",
    "late": "everybody detects alone and sends boxes: the base by its own network, a newcomer by its dedicated one",
    "late_lhft": "late fusion by the base's head from features that LHFT adapted",
    "gcft_only": "the collaborative stage without the local one before it",
    "lhft": "the local stage alone: adapters learn from the newcomer's own data",
    "lhft_gcft": "the method: the local stage, then the collaborative one; base and encoder stay frozen",
    "lhft_gcft_boxes": "the same, and senders' own boxes ride on their messages, 1 kB each",
    "full_finetune_boxes": "full fine-tuning with boxes on the messages, too",
    "maximum": "LHFT and GCFT on a base that fuses by a per-cell maximum, trained with the same noise",
    "backward_alignment": "the newcomer's whole encoder is trained against the frozen base, as HEAL does",
    "full_finetune": "everything is trained again, the deployed networks included: the yardstick",
    "scratch_mix": "everything is trained from random weights on the mix of all types, not to a plateau",
    "homogeneous": "everybody has the base's type: what collaboration brings when nobody differs",
    "homogeneous_boxes": "the same with boxes on the messages",
    "homogeneous_late": "the same with late fusion",
    "maximum/no_fusion": "the base that fuses by maximum, with every message dropped",
    "maximum/homogeneous": "the base that fuses by maximum",
}
CONTROLS = {
    "lhft_equal_steps": "LHFT with the steps of both stages: is GCFT more than longer training?",
    "gcft_homogeneous": "GCFT for the base's own type under another name: what more training brings without a newcomer",
    "dropped": "the adapted network with every message dropped: a gain left here is not the newcomer's",
    "deployed_after": "deployed types alone after the joining; must equal `homogeneous`",
    "deployed_after_full_finetune": "deployed types alone after full fine-tuning",
    "deployed_from_scratch_mix": "deployed types alone with the network trained from scratch on the mix",
}
ABLATIONS = {
    "no_multi_cognitive": "LHFT and GCFT without the Multi-Cognitive Adapter",
    "no_closed_form": "adapters start from the identity",
    "no_teacher": "nothing is learned from the base's features: the detection loss alone",
    "closed_form_only": "two ridge regressions, and no step of descent",
    "whole_noise": "the whole method with pose noise of 0.4 m and degrees",
    "no_multi_cognitive_noise": "the same without the Multi-Cognitive Adapter",
}
LINKS = {
    "clean": "exact poses",
    "noise": "every sender is off by 0.4 m and degrees (standard deviation) and says so",
    "quality": "half of the senders are off by 1 m and degrees, half by a tenth of that; all say so",
}
FUSIONS = {
    "graph": "gate and attention",
    "gate": "the gate alone",
    "maximum": "maximum fusion",
    "maximum_drop": "maximum fusion; senders that report 0.5 m or more are ignored",
}
ASIDE_TITLES = {
    "control": ("Controls", ""),
    "ablation": ("What each part of the adaptation does", "Compare with `lhft_gcft` of the same newcomer and ego."),
    "links": (
        "What each part of the graph does, and the graph against maximum fusion",
        "Everybody has the base's type; every base was trained with the same pose noise. `refined`: the ego corrects "
        "the senders' poses by boxes both have seen.",
    ),
}
COLUMNS = (
    "AP in points, mean ± spread over seeds, on the test towns. Training seconds are those after pretraining; "
    "`full_finetune` counts them up to its plateau where it was validated on the way (one newcomer), else all of them. "
    "With all types together the adapters are those of the single joinings, whose seconds are there."
)
BUDGET = "`method@150` is the method with 150 steps, `method@x0.5` with half of its steps."


def write_page(summary: Summary, folder: Path) -> Path:
    """Write the study's JSON, its figures and its page.

    Args:
        summary: of `studies.summary.summarise`.
        folder: gets adaptation.md, adaptation.json, and the figures in its folder `images`.

    Returns:
        The page.
    """
    files.write_json(folder / JSON, dict(summary))
    drawn = {"rows": ROWS_FIGURE}
    figures.row_points(summary, folder / ROWS_FIGURE)
    if any(curve["newcomer"] == LIDAR for curve in summary["curves"]):
        figures.training_curves(summary, folder / TRAINING_FIGURE)
        drawn["training"] = TRAINING_FIGURE
    files.write_text(folder / PAGE, page(summary, drawn))
    return folder / PAGE


def page(summary: Summary, drawn: Mapping[str, str]) -> str:
    """The page as text.

    Args:
        summary: of `studies.summary.summarise`.
        drawn: paths of the figures "training" and "rows"; one that is not there is left out.
    """
    rows = summary["rows"]
    parts = [f"# {summary['title']}", *_unfinished(summary), *_introduction(summary), *_provenance(summary)]
    parts += ["## Targets", *_targets(summary["targets"]), *_without_target(summary["without_target"])]
    parts += ["## Results", COLUMNS]
    if "rows" in drawn:
        parts.append(f"![AP50 of every method: seeds as points, the mean as a bar]({drawn['rows']})")
    for title, group in _by_group(rows):
        parts += [f"### {title}", _results(group)]
    for aside, (title, text) in ASIDE_TITLES.items():
        if any(RowName.of(row["name"]).group == aside for row in rows):
            parts += [f"### {title}", *([text] if text else []), _aside(rows, aside)]
    parts += ["## AP against training seconds", *_training(summary, drawn)]
    parts += ["## AP50 by distance", *_distances(rows)]
    parts += ["## Pretraining", *_pretraining(summary)]
    parts += ["## What the names mean", _meanings(rows), "## What is not shown", _not_shown()]
    parts += _what_is_missing(summary)
    return "\n\n".join(parts) + "\n"


# --- head -----------------------------------------------------------------------------------------------------------


def _unfinished(summary: Summary) -> list[str]:
    """One sentence at the top; which rows is told at the end."""
    whole, partly = _lacking(summary)
    if not (whole or partly):
        return []
    told = [f"{len(whole)} rows are not measured"] if whole else []
    told += [f"{len(partly)}{'' if whole else ' rows'} lack seeds"] if partly else []
    return [f"**This study is not finished:** {', '.join(told)}; see [What is missing](#what-is-missing)."]


def _lacking(summary: Summary) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """What is missing altogether, and for some seeds."""
    whole = [m for m in summary["missing"] if m["name"] not in {row["name"] for row in summary["rows"]}]
    return whole, [m for m in summary["missing"] if m not in whole]


def _what_is_missing(summary: Summary) -> list[str]:
    whole, partly = _lacking(summary)
    parts = ["## What is missing"] if whole or partly else []
    if whole:
        parts.append(f"Rows not measured and left out: {_names(m['name'] for m in whole)}.")
    by_seeds: dict[str, list[str]] = {}
    for line in partly:
        by_seeds.setdefault(", ".join(map(str, line["seeds"])), []).append(line["name"])
    parts += [f"Rows without seed {seeds}: {_names(names)}." for seeds, names in by_seeds.items()]
    return parts


def _introduction(summary: Summary) -> list[str]:
    world, settings, seeds = summary["world"], summary["settings"], len(summary["seeds"])
    frames, protocol = world["frames"], summary["protocol"] or {}
    first = (
        f"A base of 64-beam LiDARs is trained and then frozen. A newcomer of another type, a 16-beam LiDAR or cameras, "
        f"brings a pretrained encoder and joins by training adapters in two stages: local ({settings['local_steps']} "
        f"steps, LHFT), then collaborative ({settings['collaborative_steps']} steps, cameras "
        f"{settings['collaborative_steps_more']}, GCFT), on "
        f"{settings['adapt_frames']} of the training frames. Beside it stands what else could be done with all of "
        f"them, from nothing at all to training everything again."
    )
    second = (
        f"The world is synthetic (seed {world['seed']}): {frames['train']} frames for training, {frames['validate']} "
        f"for choosing steps, rates and ranks, {frames['test']} from other towns for every result. "
        f"{'Each seed has its own' if seeds > 1 else 'One seed of'} bases, encoders and adapters. A spread is the "
        f"sample standard deviation over {seeds} seeds{' (– with one seed)' if seeds == 1 else ''}; it does not cover "
        f"the choice of the world. Average precision ({protocol.get('name', 'not measured')}): "
        f"{protocol.get('description', 'no row yet')}. Ground truth is the same for every row: what any agent in "
        f"communication range sees, inside the ego's range. Messages pass through their codec as bytes; the channel "
        f"adds no noise here. Seconds are CPU seconds of one thread, reading and caching included."
    )
    return [first, second]


def _provenance(summary: Summary) -> list[str]:
    machines = "; ".join(
        ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items())
        for machine in summary["machine"]
    )
    spent = ", ".join(f"{words.seconds(value)} (seed {s})" for s, value in summary["training_cpu_seconds"].items())
    return [
        table(
            ("", ""),
            [
                ("command", f"`{summary['command']}`"),
                ("date", summary["date"]),
                ("machine", machines),
                ("code", f"heatv2x {summary['code_version']}"),
                ("seeds", ", ".join(map(str, summary["seeds"]))),
                ("CPU time of all trainings", spent),
                ("numbers", f"[{JSON}]({JSON})"),
            ],
        )
    ]


def _targets(targets: Sequence[Mapping[str, Any]]) -> list[str]:
    verdicts = {True: "met", False: "**missed**", None: "open"}
    lines = [(t["what"], t["target"], t["measured"], verdicts[t["met"]]) for t in targets]
    met, missed = (sum(t["met"] is value for t in targets) for value in (True, False))
    counted = f"{met} met, {missed} missed, {len(targets) - met - missed} open."
    how = (
        "Differences and shares are formed within each seed; their mean decides. Full fine-tuning's time is what it "
        "took to come within 0.5 points of its best AP50 on the validation towns; its AP is that after all its steps."
    )
    return [f"{counted} {how}", table(("what (AP on the test towns)", "target", "measured", ""), lines)]


def _without_target(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    if not lines:
        return []
    written = table(("what (AP50 on the test towns)", "measured"), [(line["what"], line["measured"]) for line in lines])
    return ["No target was set for these; a negative number is in the rival's favour:", written]


# --- tables ---------------------------------------------------------------------------------------------------------


def _by_group(rows: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, list[Mapping[str, Any]]]]:
    """Title and rows of every table; ego alone and the upper bound are repeated where the base is the ego."""
    deployed = [row for row in rows if row["newcomer"] == BASE and not _is_aside(row)]
    if deployed:
        yield DEPLOYED, deployed
    shared = [row for row in deployed if row["name"] in ("no_fusion", "homogeneous")]
    named: dict[str, list[Mapping[str, Any]]] = {
        RowName.of(row["name"]).group: [] for row in rows if row not in deployed and not _is_aside(row)
    }
    for row in rows:
        name = RowName.of(row["name"])
        if row not in deployed and name.group in named and not name.budget:
            named[name.group].append(row)
    ordered = sorted(named, key=lambda group: list(GROUPS).index(group) if group in GROUPS else len(GROUPS))
    for group in ordered:
        found = named[group]
        if found and found[0]["ego_type"] == BASE:
            found = [*(r for r in shared if r["name"] == "no_fusion"), *found,
                     *(r for r in shared if r["name"] == "homogeneous")]  # fmt: skip
        if found:
            yield GROUPS.get(group, f"`{group}`"), found


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("row", "AP30", "AP50", "AP70", "trained", "cumulative", "training, s", "memory, MB", "kB per message")
    return table(head, [(_code(row), *_precision(row), *_costs(row)) for row in rows])


def _precision(row: Mapping[str, Any]) -> list[str]:
    return [_points(row["ap"][iou]) for iou in THRESHOLDS]


def _costs(row: Mapping[str, Any]) -> list[str]:
    seconds, memory, traffic = row["train_seconds"], row["peak_memory_mb"], row["message_bytes"]
    return [
        words.count(row["trained_parameters"]),
        words.count(row["cumulative_parameters"]),
        "–" if seconds is None else plus_minus(seconds, 1, 0),
        "–" if memory is None else f"{memory:.0f}",
        "–" if traffic is None else f"{traffic / 1000:.1f}",
    ]


def _aside(rows: Sequence[Mapping[str, Any]], group: str) -> str:
    meaning = {"control": _control_meaning, "ablation": _ablation_meaning, "links": _link_meaning}[group]
    lines = [
        (_code(row), *_precision(row), meaning(row["name"])) for row in rows if RowName.of(row["name"]).group == group
    ]
    return table(("row", "AP30", "AP50", "AP70", "what it asks" if group == "control" else "what it is"), lines)


def _distances(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = list(dict.fromkeys(part for row in rows for part in row["ap_by_distance"]))
    lines = []
    for _, group in _by_group(rows):
        for row in group:
            values = [row["ap_by_distance"].get(part) for part in parts]
            line = (_code(row), *("–" if value is None else f"{100 * value:.1f}" for value in values))
            if line not in lines:
                lines.append(line)
    return ["Metres from the ego, mean over seeds.", table(("row", *(f"{part} m" for part in parts)), lines)]


def _training(summary: Summary, drawn: Mapping[str, str]) -> list[str]:
    parts = []
    if "training" in drawn:
        parts.append(f"![AP50 and AP70 against CPU seconds of training]({drawn['training']})")
        parts.append(
            "LiDAR newcomer, heard by the base. Every point is a training of its own with its own budget, measured on "
            "the test towns, with the seconds of all its steps; bars are the spread. The newcomer's pretrained encoder "
            "is not counted, except that training from scratch needs none."
        )
    budgets = [row for row in summary["rows"] if RowName.of(row["name"]).budget]
    if budgets:
        parts += [BUDGET, _results(budgets)]
    times = [line for line in summary["time_to_equal_ap"] if line["newcomer"] == LIDAR]
    if times:
        parts += [
            "CPU seconds of each method's cheapest budget whose AP50 is at most 1 point below that of `lhft_gcft`:",
            table(("method", "seconds", "by seed"), [_time(line) for line in times]),
        ]
    return parts or ["Not measured yet."]


def _time(line: Mapping[str, Any]) -> Line:
    seconds = line["seconds"]
    by_seed = ["never" if value is None else f"{value:.0f}" for value in seconds["values"]]
    if seconds["mean"] is None:
        reached = f"{line['reached']} of {len(by_seed)} seeds" if line["reached"] else "never"
    else:
        reached = plus_minus(seconds, 1, 0)
    return (f"`{line['method']}`", reached, ", ".join(by_seed))


def _pretraining(summary: Summary) -> list[str]:
    lines = [
        (f"`{p['what']}`", str(p["steps"]), words.count(p["parameters"]), plus_minus(p["cpu_seconds"], 1, 0))
        for p in summary["pretraining"]
    ]
    text = "Not part of any row's training seconds, apart from the rows of the pretrained networks themselves."
    return [text, table(("network", "steps", "parameters", "CPU seconds"), lines)] if lines else ["Not measured yet."]


# --- words ----------------------------------------------------------------------------------------------------------


def _meanings(rows: Sequence[Mapping[str, Any]]) -> str:
    there = {RowName.of(row["name"]).method for row in rows if not _is_aside(row)}
    there |= {row["name"] for row in rows}
    lines = [f"- `{name}`: {meaning}" for name, meaning in MEANINGS.items() if name in there]
    lines += ["- trained: values trained in the last stage; cumulative: distinct values trained in all stages"]
    lines += ["- memory: peak of the training process; kB per message: measured length of the packed messages"]
    return "\n".join(lines)


def _control_meaning(name: str) -> str:
    last = name.rpartition("/")[2]
    if last.endswith("_dropped"):
        last = "dropped"
    exact = CONTROLS.get(last)
    begins = [key for key in CONTROLS if last.startswith(f"{key}_")]
    return exact or (CONTROLS[max(begins, key=len)] if begins else "")


def _ablation_meaning(name: str) -> str:
    return ABLATIONS.get(name.rpartition("/")[2], "")


def _link_meaning(name: str) -> str:
    _, fusion, link = name.split("/")
    refined = ", poses refined" if fusion.endswith("_refined") else ""
    return f"{FUSIONS.get(fusion.removesuffix('_refined'), fusion)}{refined}; {LINKS.get(link, link)}"


def _not_shown() -> str:
    return "\n".join(
        (
            "- Real data: the world is synthetic and small, and so are the networks.",
            "- Disturbed links: pose errors, latency and losses are the robustness study's.",
            "- Other base sensors, and more than two newcomer types.",
            "- The spread over worlds: seeds differ in networks and training, not in towns.",
            "- A search per row: steps, rates and ranks were chosen on the validation towns and are the same for all "
            "seeds.",
        )
    )


def _is_aside(row: Mapping[str, Any]) -> bool:
    return RowName.of(row["name"]).group in ASIDE


def _code(row: Mapping[str, Any]) -> str:
    return f"`{row['name']}`"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _points(value: Mapping[str, Any]) -> str:
    return plus_minus(value, 100, 1)
