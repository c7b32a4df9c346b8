"""The speed benchmark as a page, and as the tables that a terminal shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heatv2x.core import files
from heatv2x.evaluation.report import words
from studies import figures, reference_speed
from studies.frame_speed import OF_AN_AGENT
from studies.markdown import table
from studies.speed_models import MIXED, MODELS
from studies.speed_targets import fastest_build, further_percent

JSON, PAGE, FIGURE = "speed.json", "speed.md", "images/speed.png"
Summary = Mapping[str, Any]
Row = Mapping[str, Any]
BUILDS = {"plain": "as trained", "optimised": "`deploy.optimised`", "compiled": "torch.compile"}
_EGO_STAGES = ("voxelise", "encode", "backbone", "unpack", "fuse", "neck", "head", "decode")
_FORWARD_STAGES = ("encode", "backbone", "fuse", "neck", "head")


def write_page(summary: Summary, folder: Path) -> Path:
    """Write speed.json, speed.md and images/speed.png; gives the page."""
    files.write_json(folder / JSON, dict(summary))
    if drawn := panels(summary):
        figures.growth(drawn, folder / FIGURE)
    files.write_text(folder / PAGE, page(summary))
    return folder / PAGE


def page(summary: Summary) -> str:
    """The page as text.

    Args:
        summary: of `studies.speed_summary.summarise`.
    """
    parts = [f"# {summary['title']}", *_introduction(summary), _provenance(summary), "## Targets", _targets(summary)]
    if "published" in summary["models"]:
        parts += ["## Against the reference", *_reference(summary)]
    parts += [f"![CPU time by the number of agents]({FIGURE})"] if panels(summary) else []
    parts += ["## The ego's frame", *_egos(summary)]
    parts += ["## A sender's frame", *_senders(summary), "## Two threads", *_threads(summary)]
    parts += ["## A training step", *_steps(summary), "## Memory", *_memory(summary)]
    parts += ["## Average precision", _evaluation(summary), "## torch.compile", *_compiled(summary)]
    if any(row["model"] == MIXED for row in summary["frames"]):
        parts += ["## The four published types together", *_mixed(summary)]
    parts += ["## How it is measured", _method(summary), "## What is not shown", _not_shown()]
    return "\n\n".join(parts) + "\n"


_WORK_AXIS = "time × matrix rate, TFLOP"
"""Comparable between machines: what plain float32 matrix products would have done in that time."""


def panels(summary: Summary) -> list[figures.Growth]:
    """What is drawn of networks on the reference's grid: whole frames and the ego's own, normalised, by agents."""
    whole, own = {}, {}
    if "published" in summary["models"]:
        peak = reference_speed.PEAK_GFLOPS["float32"]
        whole["reference"] = {count: seconds * peak / 1000 for count, seconds in reference_speed.FORWARD_S.items()}
    for name in (name for name in summary["models"] if MODELS[name].same_grid):
        for precision in summary["precisions"]:
            rows = fastest_build(summary, name, precision)
            label = f"{name}, {'bf16' if precision == 'bfloat16' else precision}"
            whole[label] = {row["agents"]: row["forward_matmul_gflop"] / 1000 for row in rows}
            if all(row["to_alone"] for row in rows):
                own[label] = {row["agents"]: row["to_alone"]["median"] for row in rows}
    drawn = [
        figures.Growth("Forward pass of all agents", "agents in the frame", whole, y_label=_WORK_AXIS),
        figures.Growth("The ego's own frame", "agents in the frame", own, y_label="times the same frame alone"),
    ]
    return [panel for panel in drawn if panel.lines]


# --- head -----------------------------------------------------------------------------------------------------------


def _introduction(summary: Summary) -> list[str]:
    quick = (
        ["**A quick run: few rounds of small frames. It shows that every number can be had; it is no result.**"]
        if summary["quick"]
        else []
    )
    once = max((row["rounds"] for row in summary["frames"]), default=0) == 1
    return [
        *quick,
        *(["**One round of every frame: no spread is known.**"] if once and not quick else []),
        "What one frame of N agents costs, stage by stage, in CPU seconds, and beside them how fast the same process "
        "multiplied matrices in the same minute. A time is also given as *matmul GFLOP*: the operations that plain "
        "float32 matrix products would have done in it. That number says the same on a slower or a busier machine.",
        "Networks: " + "; ".join(f"`{name}`: {_about(m)}" for name, m in summary["models"].items()) + ".",
    ]


def _about(model: Mapping[str, Any]) -> str:
    rows, columns = model["cells"]
    return f"{model['title']} ({words.count(model['parameters'])} parameters, {rows} × {columns} cells)"


def _provenance(summary: Summary) -> str:
    machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in summary["machine"].items())
    peaks = "; ".join(
        f"{threads} thread{'s' if threads != '1' else ''}: "
        + ", ".join(f"{precision} {rate['median']:.0f}" for precision, rate in rates.items())
        for threads, rates in summary["peak_gflops"].items()
    )
    loads = [row["load"][0] for row in summary["variants"] if row["load"]]
    busy = (
        f"{min(loads):.1f} to {max(loads):.1f} processes wanted to run on {summary['machine']['cores']} cores"
        if loads
        else "unknown"
    )
    return table(
        ("", ""),
        [
            ("command", f"`{summary['command']}`"),
            ("date", summary["date"]),
            ("machine", machine),
            ("matrix products, GFLOP per CPU second", peaks),
            ("load", busy),
            ("CPU seconds in all", str(summary["cpu_seconds"])),
            ("code", f"heatv2x {summary['code_version']}"),
            ("numbers", f"[{JSON}]({JSON})"),
        ],
    )


def _targets(summary: Summary) -> str:
    verdicts = {True: "met", False: "**missed**", None: ""}
    lines = [(t["what"], t["target"], t["measured"], verdicts[t["met"]]) for t in summary["targets"]]
    return table(("what", "target", "measured", ""), lines)


# --- the reference --------------------------------------------------------------------------------------------------


def _reference(summary: Summary) -> list[str]:
    lines = []
    for row in (row for row in summary["frames"] if "times_reference" in row and row["build"] != "compiled"):
        lines.append(
            (
                f"`{row['model']}`",
                BUILDS[row["build"]],
                row["precision"],
                str(row["agents"]),
                f"{reference_speed.FORWARD_S[row['agents']]:.1f}",
                _seconds(row["cpu_ms"]["forward"]),
                f"{row['forward_matmul_gflop']:,.0f}",
                _percent(row.get("of_peak", {}).get("forward")),
                f"**{row['times_reference']['same_precision']:.1f}**",
                f"{row['times_reference']['float32']:.1f}",
            )
        )
    head = ("network", "build", "precision", "agents", "reference, CPU s", "ours, CPU s (quartiles)", "matmul GFLOP",
            "of peak", "× reference", "× by float32")  # fmt: skip
    peaks = reference_speed.PEAK_GFLOPS
    text = (
        f"Reference: {reference_speed.SOURCE}. Its machine multiplied at {peaks['float32']:.0f} GFLOP/s in float32 and "
        f"{peaks['bfloat16']:.0f} in bfloat16. Compared is the forward pass of all agents on one computer: encode, "
        "backbone, fuse, neck and head, without voxelising, messages and decoding. *× reference* translates our time "
        "to its machine by the rate of the precision that was used, so a machine with faster bfloat16 gains nothing "
        "by it; *× by float32* translates every row by the float32 rates. *Of peak* counts two operations per "
        "multiply-add of the network as published, against the rate of the row's precision; convolutions of 3 × 3 that "
        "are computed with fewer multiplications may pass 100 %."
    )
    parts = [text, reference_speed.SIDE_BY_SIDE, table(head, lines)]
    stages = _stages_against_reference(summary)
    if stages:
        parts += ["Stage by stage, CPU seconds here against CPU seconds there (not translated):", stages]
    return parts


def _stages_against_reference(summary: Summary) -> str:
    rows = [
        row
        for row in summary["frames"]
        if (row["model"], row["threads"]) == ("published", 1) and row["agents"] in reference_speed.FORWARD_S
    ]
    counts = sorted({row["agents"] for row in rows})
    shown = [count for count in (counts[:1] + counts[-1:]) if rows]
    lines = []
    for stage in (*_FORWARD_STAGES, "decode"):
        line = [stage]
        for count in dict.fromkeys(shown):
            line.append(f"{reference_speed.STAGES_S[stage][count]:.2f}")
            line += [f"{_of(row, stage):.3f}" for row in rows if row["agents"] == count]
        lines.append(line)
    head = ["stage of all agents"]
    for count in dict.fromkeys(shown):
        head.append(f"{count}: reference")
        head += [f"{count}: {_short(row)}" for row in rows if row["agents"] == count]
    return table(head, lines) if rows else ""


def _of(row: Row, stage: str) -> float:
    """Seconds of a stage, of all agents where each does it."""
    ms = row["cpu_ms"]
    return float(ms.get(f"all {stage}", ms.get(stage))["median"]) / 1000


def _short(row: Row) -> str:
    return f"{row['build']}, {'bf16' if row['precision'] == 'bfloat16' else row['precision']}"


# --- frames ---------------------------------------------------------------------------------------------------------


def _egos(summary: Summary) -> list[str]:
    text = (
        "What the ego alone pays, as agents do their own work on their own computers: it voxelises and encodes its own "
        "sweep, unpacks what arrived, warps and fuses it, and detects. CPU milliseconds, medians."
    )
    parts = [text]
    for name, model in summary["models"].items():
        rows = [row for row in summary["frames"] if (row["model"], row["threads"]) == (name, 1)]
        rows = [row for row in rows if row["build"] != "compiled"]
        if not rows or name == MIXED:
            continue
        lines = [
            (
                BUILDS[row["build"]],
                row["precision"],
                str(row["agents"]),
                *(_ms(row["cpu_ms"][stage]["median"]) for stage in _EGO_STAGES),
                _ms(row["cpu_ms"]["frame"]["median"]),
                f"{row['frame_matmul_gflop']:,.0f}",
                _ratio(row["to_alone"]),
                f"{100 * row['decode_share']:.1f} %",
            )
            for row in rows
        ]
        head = ("build", "precision", "agents", *_EGO_STAGES, "frame", "matmul GFLOP", "× alone (quartiles)",
                "decode share")  # fmt: skip
        parts += [f"### `{name}`: {model['title']}", table(head, lines)]
        each = [
            f"{BUILDS[build]} {precision} {percent:.1f} %"
            for build in summary["builds"]
            for precision in summary["precisions"]
            if (percent := further_percent([r for r in rows if (r["build"], r["precision"]) == (build, precision)]))
            is not None
        ]
        parts.append(
            "One more collaborator costs the ego this share of its frame alone, on average up to the largest frame: "
            + "; ".join(each)
            + "."
        )
    return parts


def _senders(summary: Summary) -> list[str]:
    lines = [
        (
            f"`{row['model']}`",
            BUILDS[row["build"]],
            row["precision"],
            *(_ms(row["sender_ms"][stage]["median"]) for stage in OF_AN_AGENT),
            _ms(row["sender_of_all_ms"]["median"]),
            f"{summary['models'][row['model']]['message_bytes'] / 1000:,.0f}",
        )
        for row in summary["variants"]
        if row["threads"] == 1 and row["build"] != "compiled" and row["model"] != MIXED
    ]
    head = ("network", "build", "precision", *OF_AN_AGENT, "in all, ms", "kB per message")
    return ["A sender does not know how many listen.", table(head, lines)]


def _threads(summary: Summary) -> list[str]:
    lines = []
    for row in summary["frames"]:
        if row["threads"] == 1:
            continue
        same = ("model", "build", "precision", "agents")
        one = next((o for o in summary["frames"] if o["threads"] == 1 and all(o[k] == row[k] for k in same)), None)
        if one is not None:
            cpu, alone = row["cpu_ms"]["forward"]["median"], one["cpu_ms"]["forward"]["median"]
            lines.append(
                (
                    f"`{row['model']}`",
                    BUILDS[row["build"]],
                    row["precision"],
                    str(row["agents"]),
                    f"{alone / 1000:.3f}",
                    f"{cpu / 1000:.3f}",
                    f"{row['threads'] * alone / cpu:.2f}",
                    f"{one['wall_to_cpu']:.2f}",
                    f"{row['wall_to_cpu']:.2f}",
                )
            )
    if not lines:
        return ["Not measured."]
    text = (
        "The forward pass in CPU seconds of all threads together. *At best* is the gain on the clock if the threads "
        "never wait: threads × CPU seconds on one, over CPU seconds on several. What the clock showed in this run is "
        "beside it, as clock seconds per CPU second of the ego's stages; other work on the machine is in it."
    )
    head = ("network", "build", "precision", "agents", "1 thread, CPU s", "2 threads, CPU s", "at best, ×",
            "clock per CPU, 1 thread", "clock per CPU, 2 threads")  # fmt: skip
    return [text, table(head, lines)]


# --- training, memory, evaluation -----------------------------------------------------------------------------------


def _steps(summary: Summary) -> list[str]:
    reference = reference_speed.STEP
    lines = [
        (
            f"`{step['model']}`",
            step["precision"],
            *(_seconds(step["cpu_ms"][part]) for part in ("forward", "backward", "optimiser", "step")),
            f"{step['matmul_gflop']:,.0f}",
            f"{step['peak_bytes'] / 1e9:.1f}",
            f"{step['times_reference']:.1f}" if "times_reference" in step else "–",
        )
        for step in summary["steps"]
    ]
    text = (
        f"One scene of two agents, every tensor learns; losses are in the forward time. The reference takes "
        f"{reference['seconds']} CPU s (forward {reference['forward_s']}, backward {reference['backward_s']}) and "
        f"{reference['memory_gb']} GB in float32. bfloat16 is autocast, as in training."
    )
    head = ("network", "precision", "forward, CPU s", "backward", "optimiser", "step", "matmul GFLOP", "GB",
            "× reference")  # fmt: skip
    return [text, table(head, lines) if lines else "Not measured."]


def _memory(summary: Summary) -> list[str]:
    rows = [row for row in summary["frames"] if row["threads"] == 1 and row["build"] != "compiled"]
    counts = sorted({row["agents"] for row in rows if row["model"] != MIXED})
    lines: list[Sequence[str]] = [
        ("reference", "", "float32", *(_gb(reference_speed.PEAK_MEMORY_GB.get(count)) for count in counts))
    ]
    for variant in summary["variants"]:
        own = {
            row["agents"]: row["peak_bytes"] / 1e9
            for row in rows
            if all(row[key] == variant[key] for key in ("model", "build", "precision", "threads"))
        }
        if own and variant["model"] != MIXED:
            held = (_gb(own.get(count)) for count in counts)
            lines.append((f"`{variant['model']}`", BUILDS[variant["build"]], variant["precision"], *held))
    text = (
        "Most resident memory, GB, of a process of its own that runs frames of 1, 2, … agents one after another, all "
        "agents' work included. Python, torch and the sweeps are in it. It is read before anything is repeated."
    )
    return [text, table(("network", "build", "precision", *(_agents(count) for count in counts)), lines)]


def _evaluation(summary: Summary) -> str:
    found = summary["average_precision"]
    lines = [("ours, all frames", _three(found["cpu_s"]), "")]
    loops = {
        "unions": "loops: intersection over union of polygons, at every threshold",
        "areas": "loops: the union from the areas, at every threshold",
        "once": "loops: the union from the areas, overlaps shared by the thresholds",
    }
    if found["loops_cpu_s"] is None:
        text = "Polygon loops: **not measured, shapely is not installed** (`pip install 'heatv2x[test]'`)."
    else:
        lines += [(words_, _three(found["loops_cpu_s"][how]), f"{found['times_loops'][how]:.0f} ×")
                  for how, words_ in loops.items()]  # fmt: skip
        text = (
            f"The loops ran on the first {found['loop_frames']} frames, where they gave the same average precision, "
            "and are scaled to all. They are in Python over shapely, written here after public descriptions."
        )
    about = (
        f"{found['frames']:,} frames with {found['boxes']} detections and {found['boxes']} objects each on 200 × 200 "
        f"m, thresholds 0.3, 0.5, 0.7; one frame takes {found['ms_per_frame']:.2f} CPU ms."
    )
    return "\n\n".join((about, table(("", "CPU s", "ours is faster"), lines), text))


def _compiled(summary: Summary) -> list[str]:
    if summary["compiler"] is None:
        return ["Not measured: no C++ compiler (g++ or clang++) on this machine."]
    if not summary["settings"]["compiled"]:
        return ["Not measured in this run (`compiled=[]`, or `--quick`)."]
    lines: list[Sequence[str]] = []
    for row in (row for row in summary["frames"] if row["build"] == "compiled"):
        same = ("model", "precision", "threads", "agents")
        others = {o["build"]: o for o in summary["frames"] if all(o[k] == row[k] for k in same)}
        gain = {
            build: others[build]["forward_matmul_gflop"] / row["forward_matmul_gflop"]
            for build in summary["builds"]
            if build in others
        }
        about = next(
            v for v in summary["variants"] if all(v[k] == row[k] for k in ("model", "build", "precision", "threads"))
        )
        lines.append(
            (
                f"`{row['model']}`",
                row["precision"],
                str(row["agents"]),
                _seconds(row["cpu_ms"]["forward"]),
                *(f"{gain[build]:.2f}" if build in gain else "–" for build in summary["builds"]),
                f"{about['warming_up_s']:.0f}",
            )
        )
    failed = [f"{name}: did not compile: {reason}" for name, reason in summary["compile_failed"].items()]
    head = ("network", "precision", "agents", "forward, CPU s", *(f"× {BUILDS[b]}" for b in summary["builds"]),
            "first frame with compiling, CPU s")  # fmt: skip
    text = (
        "An option that nothing here turns on: trunks, backbone, neck, head and a pyramid's stages through "
        "`torch.compile` of the network as trained. Ratios are of matmul GFLOP; above 1, compiled is faster."
    )
    return [text, *([table(head, lines)] if lines else []), *failed]


def _mixed(summary: Summary) -> list[str]:
    reference = reference_speed.FOUR_TYPES
    lines = []
    for variant in (variant for variant in summary["variants"] if variant["model"] == MIXED):
        row = next(r for r in summary["frames"] if r["model"] == MIXED and r["precision"] == variant["precision"])
        lines.append(
            (
                BUILDS[row["build"]],
                row["precision"],
                f"{reference['seconds']:.1f}",
                _seconds(row["cpu_ms"]["forward"]),
                f"{row['forward_matmul_gflop']:,.0f}",
                f"{reference['memory_gb']:.1f}",
                f"{row['peak_bytes'] / 1e9:.1f}",
            )
        )
    text = (
        "One agent each of `lidar64_pillars`, `lidar32_voxels`, `camera_efficientnet` and `camera_resnet`, four "
        "images of 800 × 600 per camera agent. Forward as above."
    )
    head = ("build", "precision", "reference, CPU s", "ours, CPU s (quartiles)", "matmul GFLOP", "reference, GB", "GB")
    return [text, table(head, lines)]


# --- method ---------------------------------------------------------------------------------------------------------


def _method(summary: Summary) -> str:
    settings, made = summary["settings"], summary["sweeps"]
    rounds = {row["rounds"] for row in summary["frames"]}
    return "\n".join(
        (
            "- CPU seconds of the process, not the clock: other work on the machine does not count, but it shares "
            "caches and memory with us, and slows every number a little. Ratios within a run suffer least.",
            f"- Every network, build, precision and number of threads has a process of its own; "
            f"{_span(rounds)} rounds after one that only warms up. A round multiplies matrices (1536 × 1536, both "
            "precisions), lets every agent sense, times the ego's frame for every number of agents, and multiplies "
            "again. Normalised numbers are medians over rounds of time × that round's rate.",
            "- Before anything is timed, the timed stages must give the message of `Collaboration.encode` and the "
            "boxes of `detect`, byte for byte.",
            f"- Sweeps are made up and seeded: {made['made_as']}. Here {_span(made['points'])} points and "
            f"{_span(made['pillars'])} occupied pillars of 0.4 m within ±102.4 m per agent, all within 60 m of "
            "the ego.",
            f"- Weights, biases and statistics are drawn, too; heads are made to find {settings['objects']} objects, "
            "each in the 3 × 3 cells around its centre, for drawn weights would find nothing or something everywhere.",
            "- `fuse` is the warp and everything up to the neck. In pyramid fusion the ego runs the pyramid for every "
            "message, as the reference does. `pack` and `unpack` hold the codec, the checksums and the base's name.",
        )
    )


def _not_shown() -> str:
    return "\n".join(
        (
            "- GPUs, and the time messages need in the air.",
            "- What decides detections: real sweeps, trained weights. Cost does not hang on them here, except a few "
            "percent of decoding.",
            "- The reference on this machine: its numbers are facts from another machine of the same kind.",
        )
    )


# --- words ----------------------------------------------------------------------------------------------------------


def _seconds(ms: Mapping[str, float]) -> str:
    low, middle, high = (_three(ms[key] / 1000) for key in ("low", "median", "high"))
    return middle if low == high else f"{middle} ({low} to {high})"


def _three(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.3f}"


def _ms(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}"


def _gb(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _ratio(value: Mapping[str, float] | None) -> str:
    return "–" if value is None else f"{value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def _span(values: Iterable[int]) -> str:
    found = sorted(values)
    if not found:
        return "unknown"
    return f"{found[0]:,}" if found[0] == found[-1] else f"{found[0]:,} to {found[-1]:,}"


def _agents(count: int) -> str:
    return f"{count} agent{'s' if count > 1 else ''}"
