"""The scaling study as a page: joinings, everybody's AP after each, and what a crowd costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heatv2x.core import files
from heatv2x.evaluation.report import words
from studies import crowd, figures
from studies.config import BASE
from studies.markdown import plus_minus, table
from studies.scaling_summary import further_agent

JSON, PAGE, FIGURE = "scaling.json", "scaling.md", "images/scaling.png"
Summary = Mapping[str, Any]
FUSIONS = {"hetero_graph": "graph", "maximum": "maximum"}
PARTS = {
    "encode": "encode own",
    "unpack": "unpack",
    "receive": "warp and adapt",
    "fuse": "fuse",
    "predict": "neck and head",
    "decode": "decode",
}


def write_page(summary: Summary, folder: Path) -> Path:
    """Write scaling.json, scaling.md and images/scaling.png; gives the page."""
    files.write_json(folder / JSON, dict(summary))
    figures.growth(panels(summary), folder / FIGURE)
    files.write_text(folder / PAGE, page(summary))
    return folder / PAGE


def page(summary: Summary) -> str:
    """The page as text.

    Args:
        summary: of `studies.scaling_summary.summarise`.
    """
    parts = [
        f"# {summary['title']}",
        *_introduction(summary),
        _provenance(summary),
        f"![What grows with types and agents, and what does not]({FIGURE})",
    ]
    parts += [_targets(summary), "## Types join one after another", *_joinings(summary)]
    parts += ["## AP of every type after every joining", *_precision(summary)]
    parts += ["## Many agents in a scene", *_crowd(summary), "## What is not shown", _not_shown()]
    return "\n\n".join(parts) + "\n"


def panels(summary: Summary) -> list[figures.Growth]:
    """What is drawn."""
    joinings, many, types = summary["joinings"], "agents in the scene", "types in the fleet"
    seconds = {j["types"]: j["seconds"]["mean"] for j in joinings}
    drawn = [
        figures.Growth("Trained parameters, % of the base", types, {"adapters": {1: 0.0} | _percent(joinings)}),
        figures.Growth("CPU seconds of each joining", types, {"LHFT + GCFT": seconds}),
        figures.Growth("AP50, base hears this type", types, _curves(summary, "sender_"), from_zero=False),
        figures.Growth("AP50, this type hears the base", types, _curves(summary, "ego_"), from_zero=False),
    ]
    ego = summary["crowd"]["ego"]
    variants = [(fusion, senders) for fusion in crowd.FUSIONS for senders in crowd.SENDERS]
    named = {f"{FUSIONS[f]}, {s}": [e for e in ego if (e["fusion"], e["senders"]) == (f, s)] for f, s in variants}
    cost = {name: {e["agents"]: e["ms"]["encode"] + e["ms"]["whole"] for e in lines} for name, lines in named.items()}
    held = {name: {e["agents"]: e["peak_tensor_bytes"] / 1e6 for e in lines} for name, lines in named.items()}
    drawn.append(figures.Growth("CPU ms of an ego's frame", many, cost))
    drawn.append(figures.Growth("MB of tensors of an ego's frame", many, held))
    return drawn


# --- head -----------------------------------------------------------------------------------------------------------


def _introduction(summary: Summary) -> list[str]:
    settings, seeds, protocol = summary["settings"], len(summary["seeds"]), summary["protocol"]
    frames = summary["rows"][0]["n_frames"]
    return [
        f"A base of 64-beam LiDARs is trained and frozen, then {len(summary['joinings'])} other types join it one by "
        f"one. Each brings an encoder that was trained alone and trains adapters against that base in two stages "
        f"(LHFT, {settings['local_steps']} steps, then GCFT, {settings['collaborative_steps']} steps, cameras "
        f"{settings['collaborative_steps_more']}). **No newcomer "
        f"ever meets another newcomer before it is measured.** After every joining the whole fleet is loaded into one "
        f"model and every type is measured again on {frames} frames of the test towns.",
        f"Average precision ({protocol['name']}): {protocol['description']}. "
        + (
            "**One seed: no spread is known.**"
            if seeds == 1
            else f"Mean ± sample standard deviation over {seeds} seeds of base, encoders and adapters."
        ),
    ]


def _provenance(summary: Summary) -> str:
    machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in summary["machine"].items())
    return table(
        ("", ""),
        [
            ("command", f"`{summary['command']}`"),
            ("date", summary["date"]),
            ("machine", machine),
            ("code", f"heatv2x {summary['code_version']}"),
            ("seeds", ", ".join(map(str, summary["seeds"]))),
            ("numbers", f"[{JSON}]({JSON})"),
        ],
    )


def _targets(summary: Summary) -> str:
    verdicts = {True: "met", False: "**missed**"}
    lines = [(t["what"], t["target"], t["measured"], verdicts[t["met"]]) for t in summary["targets"]]
    return table(("what", "target", "measured", ""), lines)


# --- types ----------------------------------------------------------------------------------------------------------


def _joinings(summary: Summary) -> list[str]:
    base = ("1", f"`{BASE}`", "the base", "–", "–", "0", "0.0 %", "–", "–")
    lines = [
        (
            str(j["types"]),
            f"`{j['type']}`",
            j["about"],
            words.count(j["encoder_parameters"]),
            plus_minus(j["pretrain_seconds"], 1, 0),
            words.count(j["trained_parameters"]),
            f"{j['cumulative_percent_of_base']:.1f} %",
            plus_minus(j["seconds"], 1, 0),
            f"{j['adapter_pack_bytes'] / 1000:.0f}",
        )
        for j in summary["joinings"]
    ]
    head = ("types", "joins", "what it is", "own encoder", "its pretraining, CPU s", "trained to join",
            "all adapters, of the base", "joining, CPU s", "pack, kB")  # fmt: skip
    seconds = [j["seconds"]["mean"] for j in summary["joinings"]]
    text = (
        f"The base has {words.count(summary['base_parameters'])} values, its encoder included. The cost of a joining "
        f"does not know how many types are there: a newcomer is given the base pack and the base type's encoder, never "
        f"another newcomer's, so what differs between rows is the newcomer's own sensor and network. Measured: "
        f"{min(seconds):.0f} to {max(seconds):.0f} CPU seconds. Relations between types are factored, so the "
        f"parameters of a joining do not grow with the fleet, either."
    )
    return [text, table(head, [base, *lines])]


def _precision(summary: Summary) -> list[str]:
    unchanged = summary["unchanged"]
    rows = {row["name"]: row for row in summary["rows"]}
    counts = sorted({row["after"] for row in summary["rows"]})
    same = (
        f"Every row of a type that was there before a joining was measured again after it: {unchanged['compared']} "
        f"comparisons. "
    )
    if not unchanged["different"] and not unchanged["base_changed"]:
        same += (
            "**In all of them every message and every detected box has the same bytes as before**, so nobody got "
            "better or worse, to the last digit."
        )
    else:
        same += f"**These changed: {', '.join([*unchanged['different'], *unchanged['base_changed']])}.**"
    last = max(counts)
    lines = []
    for name in (BASE, *(j["type"] for j in summary["joinings"])):
        joined = min(row["after"] for row in summary["rows"] if row["what"] == f"sender_{name}")
        line = [f"`{name}`", str(joined)]
        for iou in ("0.5", "0.7"):
            for role in ("alone", "sender", "ego"):
                key = f"after_{last}/{role}_{name}"
                line.append(plus_minus(rows[key]["ap"][iou], 100, 1) if key in rows else "= heard")
        lines.append(line)
    head = ("type", "joined as", "AP50 alone", "AP50 heard by the base", "AP50 hearing the base", "AP70 alone",
            "AP70 heard by the base", "AP70 hearing the base")  # fmt: skip
    mixed = [
        (str(count), *(plus_minus(rows[f"after_{count}/mixed"]["ap"][iou], 100, 1) for iou in ("0.3", "0.5", "0.7")))
        for count in counts
    ]
    alone = rows[f"after_1/alone_{BASE}"]["ap"]
    return [
        same,
        "After the last joining (and, by the above, after every one before it). Ground truth is what any agent in "
        "range sees, the same in all columns; *alone* is the same model with every message dropped.",
        table(head, lines),
        f"Scenes of all types so far: the base is the ego, the types take turns among the senders, and the turn starts "
        f"at another type in every scenario. The ego alone has AP50 {100 * alone['0.5']['mean']:.1f}.",
        table(("types", "AP30", "AP50", "AP70"), mixed),
    ]


# --- agents ---------------------------------------------------------------------------------------------------------


def _crowd(summary: Summary) -> list[str]:
    facts = summary["crowd"]
    built = ", ".join(str(count) for count in sorted(set(facts["agents_of_the_scenes"])))
    lent = (
        f" A built scene has {built} agents. In larger ones {facts['borrowed']} further senders are borrowed from "
        f"another scene: real messages of real length, put where their senders stood relative to the ego there, but "
        f"not of this scene. Cost does not depend on what they say; no precision is claimed here."
        if facts["borrowed"]
        else f" Built scenes have {built} agents."
    )
    text = (
        f"CPU time of one thread; medians over {len(facts['agents_of_the_scenes'])} scenes and {facts['repeats']} "
        f"repeats, after one that is not counted. All variants are timed in turn in one run, and a ratio compares the "
        f"same scene in the same repeat. Every message is used, in range or not.{lent} Memory is what torch's "
        f"allocator held at most on top of the networks, the ego's own feature and the packed messages."
    )
    lines = [
        (
            str(e["agents"]),
            FUSIONS[e["fusion"]],
            e["senders"] if e["agents"] > 1 else "–",
            *(f"{e['ms'][part]:.1f}" for part in PARTS),
            f"{e['ms']['encode'] + e['ms']['whole']:.1f}",
            _ratio(e["ratio_to_alone"]),
            f"{e['peak_tensor_bytes'] / 1e6:.1f}",
        )
        for e in facts["ego"]
        if e["agents"] > 1 or e["senders"] == crowd.SENDERS[0]
    ]
    head = ("agents", "fusion", "senders", *PARTS.values(), "frame", "× alone (quartiles)", "MB")
    further = "; ".join(
        f"{FUSIONS[fusion]}, {senders}: {further_agent(facts['ego'], fusion, senders):.1f} %"
        for fusion in crowd.FUSIONS
        for senders in crowd.SENDERS
    )
    sender = [
        (
            f"`{s['type']}`",
            f"{s['ms']['encode']:.1f}",
            f"{s['ms']['pack']:.1f}",
            f"{s['message_bytes'] / 1000:.1f}",
            f"{s['peak_tensor_bytes'] / 1e6:.1f}",
        )
        for s in facts["sender"]
    ]
    return [
        text,
        "### The ego, ms",
        table(head, lines),
        f"One more agent costs the ego this share of its frame alone, on average up to the largest scene: {further}.",
        "### A sender, ms",
        "A sender does not know how many listen; its frame is the same in every scene.",
        table(("type", "encode", "pack", "kB per message", "MB"), sender),
    ]


def _not_shown() -> str:
    return "\n".join(
        (
            "- A fleet in which a newcomer joins on top of another newcomer's data: each meets the base's type only.",
            "- Types of other makers: the encoders differ in sensor, architecture and width, but share one code base.",
            "- Real data, and networks of published size.",
            "- The time messages need in the air, and the GPU.",
        )
    )


# --- words ----------------------------------------------------------------------------------------------------------


def _percent(joinings: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    return {j["types"]: j["cumulative_percent_of_base"] for j in joinings}


def _curves(summary: Summary, role: str) -> dict[str, dict[int, float]]:
    """AP50 in points by type and by how many types there are."""
    found: dict[str, dict[int, float]] = {}
    for row in summary["rows"]:
        if row["what"].startswith(role):
            name = row["what"].removeprefix(role)
            found.setdefault(name, {})[row["after"]] = 100 * row["ap"]["0.5"]["mean"]
    return found


def _ratio(value: Mapping[str, float]) -> str:
    return f"{value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
