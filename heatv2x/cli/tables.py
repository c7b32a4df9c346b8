"""What the data verbs print: tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from heatv2x.data.findings import Fault, FileCount, Indexed, Inspection
from heatv2x.evaluation.fuzz import Row

MARKS = {"ok": Text("ok", "green"), "note": Text("note", "yellow"), "fault": Text("wrong", "bold red")}
_STATES = {"complete": "green", "not there": "dim", "incomplete": "bold red", "broken files": "bold red"}


def print_inspection(inspection: Inspection, out: Console) -> None:
    """The result of `heatv2x data check`."""
    out.print(Text(inspection.title, "bold") + Text(f"  {inspection.root}  (dataset={inspection.dataset})", "dim"))
    out.print()
    out.print(_splits(inspection))
    out.print()
    out.print(_files(inspection))
    if absent := [count.kind for count in inspection.files if count.state == "not there"]:
        out.print(Text(f"absent as a whole, which is not a fault: {', '.join(absent)}", "dim"))
    out.print()
    verdicts = Table(box=None, pad_edge=False, show_header=False)
    for verdict in inspection.verdicts:
        verdicts.add_row(MARKS[verdict.state], verdict.name, Text(verdict.detail))
    out.print(verdicts)
    for fault in inspection.faults:
        out.print()
        _print_fault(fault, out)
    out.print()
    kinds = len(inspection.faults) + sum(verdict.state == "fault" for verdict in inspection.verdicts)
    if inspection.ok:
        out.print(Text("No faults found.", "bold green"))
    else:
        total = sum(fault.count for fault in inspection.faults)
        out.print(
            Text(f"{kinds} kind{'s' if kinds > 1 else ''} of fault, {total} in files: fix them first.", "bold red")
        )


def print_indexes(indexes: list[Indexed], out: Console) -> None:
    """The result of `heatv2x data index`."""
    table = Table(box=None, pad_edge=False)
    for heading in ("split", "frames", "opened now", "opened again"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for index in indexes:
        table.add_row(index.split, f"{index.frames:,}", f"{index.first_s:.2f} s", f"{index.again_s:.2f} s")
    out.print(table)


def print_export(manifest: dict[str, Any], out: Console) -> None:
    """The result of `heatv2x export onnx`."""
    numbers = list(manifest["stages"][0]["cpu_seconds"])
    numbers = numbers[:1] if len(numbers) == 1 else [numbers[0], numbers[-1]]
    compiled = any("compiled" in times for stage in manifest["stages"] for times in stage["cpu_seconds"].values())
    rivals = {"onnxruntime": "onnx", **({"compiled": "compiled"} if compiled else {})}
    table = Table(box=None, pad_edge=False)
    table.add_column("file", no_wrap=True)
    headings = ["kB", "differs by", f"torch ms\nN={numbers[0]}"]
    for heading in headings + [f"{short}/torch\nN={n}" for short in rivals.values() for n in numbers]:
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in manifest["stages"]:
        times = stage["cpu_seconds"]
        ratios = [f"{times[n][who] / times[n]['torch']:.2f}" for who in rivals for n in numbers]
        about = [f"{stage['bytes'] / 1000:,.0f}", f"{max(stage['difference'].values()):.0e}"]
        table.add_row(stage["file"], *about, f"{1000 * times[numbers[0]]['torch']:.1f}", *ratios)
    out.width = max(out.width, 120)  # numbers are never shortened: a narrow terminal wraps the lines instead
    out.print(table)
    out.print(f"\nCPU seconds of one call with N agents, {manifest['threads']} thread(s); feature space", end=" ")
    out.print(manifest["feature_space"], highlight=False)
    if compiled:
        spent = sum(stage["compile_cpu_seconds"] for stage in manifest["stages"])
        out.print(f"torch.compile itself took {spent:.0f} CPU seconds", highlight=False)


def _splits(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("split", "scenarios", "frames", "published", "agents", "objects"):
        table.add_column(heading, justify="left" if heading == "split" else "right", no_wrap=True)
    for split in inspection.splits:
        published = "-" if split.published is None else f"{split.published:,}"
        frames = max(split.described, 1)
        means = (f"{split.agent_frames / frames:.1f} a frame", f"{split.objects / frames:.1f} a frame")
        table.add_row(split.split, f"{split.scenarios:,}", f"{split.frames:,}", published, *means)
    return table


def _files(inspection: Inspection) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("files", "of download", "there", "missing", "broken", ""):
        table.add_column(heading, justify="right" if heading in ("there", "missing", "broken") else "left")
    for count in inspection.files:
        if count.state == "not there":
            continue
        table.add_row(count.kind, count.download, *_numbers(count), Text(count.state, _STATES[count.state]))
    return table


def _numbers(count: FileCount) -> tuple[str, str, str]:
    missing = count.expected - count.present
    return f"{count.present:,}", f"{missing:,}" if missing else "-", f"{count.broken:,}" if count.broken else "-"


def _print_fault(fault: Fault, out: Console) -> None:
    many = f" ({fault.count:,} of them, the first is shown)" if fault.count > 1 else ""
    out.print(Text(f"{fault.what}: {fault.kind}{many}", "bold red"), soft_wrap=True)
    key = f", key '{fault.key}'" if fault.key else ""
    out.print(f"  {fault.path}{key}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"  {fault.problem}", markup=False, highlight=False, soft_wrap=True)
    if fault.way_out:
        out.print(f"  Way out: {fault.way_out}", markup=False, highlight=False, soft_wrap=True)


def print_fuzz(rows: Mapping[str, Row], out: Console) -> None:
    """What happened to hostile messages, one line per kind."""
    table = Table(box=None, pad_edge=False)
    table.add_column("what was tried", no_wrap=True)
    for heading in ("tried", "refused", "let in", "AP50 alone", "AP50 with them", "most ms", "wrong"):
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    for kind, row in rows.items():
        scores = ("–" if score is None else f"{score:.1f}" for score in (row.alone, row.heard))
        wrong = sum(row.violations.values())
        numbers = (
            f"{row.tried:,}",
            f"{row.refused:,}",
            f"{row.used:,}",
            *scores,
            f"{row.slowest_ms:,.0f}",
            f"{wrong:,}",
        )
        table.add_row(kind, *numbers)
    out.print(table)
    for kind, row in rows.items():
        for what, count in row.violations.items():
            out.print(f"{kind}: {what} ({count})", highlight=False, markup=False)
