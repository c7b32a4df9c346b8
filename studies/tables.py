"""What the studies print: tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_speed(content: dict[str, Any], out: Console) -> None:
    """The result of `heatv2x bench data`."""
    out.print(Text(f"{content['data']}, {content['split']}, {content['agents_per_frame']} agents a frame", "bold"))
    out.print()
    table = Table(box=None, pad_edge=False)
    for heading in ("", " ", "frames per second", "CPU ms per frame", "against naive"):
        table.add_column(heading, justify="left" if not heading.strip() else "right")
    for key, frames_per_s in content["frames_per_s"].items():
        what, _, how = key.partition(", ")
        ratio = content["ratio_to_naive"].get(key)
        shown = "not measured" if frames_per_s is None else f"{frames_per_s:,.1f}"
        cpu_ms = content["cpu_ms_per_frame"][key]
        spent = "-" if cpu_ms is None else f"{cpu_ms:,.1f}"
        times = "-" if ratio is None else f"{ratio:,.1f} x"
        table.add_row(what if how == "naive" else "", how, shown, spent, times)
    out.print(table)
    memory, index = content["memory"], content["index"]
    out.print()
    grown = f"{memory['growth_mb']:+.1f} MB since it settled"
    out.print(f"memory over {memory['reads']} reads: {memory['resident_mb'][-1]:,.0f} MB, {grown}")
    out.print(
        f"an index of {index['frames']:,} frames ({index['megabytes']:.0f} MB) opens in {index['wall_seconds']:.2f} s"
        f" ({index['cpu_seconds']:.2f} CPU s)"
    )
    for what, target in content["targets"].items():
        out.print(f"target {what}: {target['target']:g}, measured {target['measured']:g}")


def print_frames(content: dict[str, Any], out: Console) -> None:
    """What a frame costs: the result of `heatv2x bench speed`, one thread."""
    out.print(Text("One frame, one thread: CPU ms of all agents' forward pass, and of the ego's own frame", "bold"))
    table = Table(box=None, pad_edge=False)
    for heading in ("network", "build", "precision"):
        table.add_column(heading, no_wrap=True)
    for heading in ("agents", "forward", "of peak", "x reference", "ego's frame", "x alone", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    before: tuple[str, ...] = ()
    for row in (row for row in content["frames"] if row["threads"] == 1):
        network = (row["model"], row["build"], row["precision"])
        peak, reference, alone = row.get("of_peak", {}).get("forward"), row.get("times_reference"), row["to_alone"]
        table.add_row(
            *(network if network != before else ("", "", "")),
            str(row["agents"]),
            f"{row['cpu_ms']['forward']['median']:,.0f}",
            "-" if peak is None else f"{100 * peak:.0f} %",
            "-" if reference is None else f"{reference['same_precision']:.1f}",
            f"{row['cpu_ms']['frame']['median']:,.0f}",
            "-" if alone is None else f"{alone['median']:.2f}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
        )
        before = network
    out.width = max(out.width, 110)
    out.print(table)


def print_targets(targets: Sequence[dict[str, Any]], out: Console) -> None:
    """Lines of targets with what was measured."""
    marks = {True: Text("met", "green"), False: Text("missed", "bold red"), None: Text("-", "dim")}
    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "target", "measured"):
        table.add_column(heading, no_wrap=heading in ("", "target"))
    for line in targets:
        table.add_row(marks[line["met"]], line["what"], line["target"], line["measured"])
    out.print(table)
