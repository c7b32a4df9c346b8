#!/usr/bin/env python3
"""Everything that needs a CUDA device, in one command of at most eight minutes: tests, training, numerics, speed.

    python tools/gpu_check.py                 # on a machine with a CUDA device; nothing is fetched from anywhere
    python tools/gpu_check.py --cpu --quick   # the same script in short on a CPU; what needs CUDA is marked as not run

Options: out=FOLDER (default: $OUT, or runs/gpu_check), only=SECTION,SECTION, budget=SECONDS for everything (460).

Every section runs in a process of its own with a time limit, so one that fails, hangs or breaks the device is reported
and the others still run; with --quick all run in this process. Results are written after every section:
gpu_check.json (all numbers), gpu_check.txt (the tables), log.txt (all output).

The exit status is 1 if a section failed, 0 if all that could run did.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Section:
    """One part of the check.

    Attributes:
        name: of its function, see `gpu/sections.py`.
        limit_s: after so many seconds it is ended.
        beside: it does not touch the device, and runs beside those that follow until a section needs it.
        needs: sections that must have succeeded before.
    """

    name: str
    limit_s: float
    beside: bool = False
    needs: tuple[str, ...] = ()


SECTIONS = (
    Section("world", 150, beside=True),
    Section("ceilings", 60),
    Section("tests", 120),
    Section("inference", 110),
    Section("numerics", 80, needs=("world",)),
    Section("train_demo", 80, needs=("world",)),
    Section("adapt", 60, needs=("world",)),
    Section("train_published", 100, needs=("world",)),
    Section("two_processes", 60, needs=("world",)),
    Section("compiled", 110),
)
Results = dict[str, dict[str, Any]]


class Log:
    """Lines for the screen and for a file, both at once and never held back."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8", buffering=1)
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """One line with the seconds since the start."""
        self.copy(f"[{time.monotonic() - self._start:6.1f}] {text}\n")

    def copy(self, text: str) -> None:
        """Text as it is."""
        with self._lock:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._file.write(text)


def main(arguments: list[str]) -> int:
    """Run what was asked for and write the results."""
    options = parsed(arguments)
    if options.section:
        return run_here(options.section, options)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / "log.txt")
    with tempfile.TemporaryDirectory(prefix="gpu_check") as scratch:
        options.scratch = options.scratch or scratch
        results = run_in_process(options, log) if options.quick else run_apart(options, out, log)
    write(results, out, log)
    failed = [name for name, result in results.items() if result["state"] in ("failed", "out of time")]
    log.say("all sections that could run did" if not failed else f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line; `key=value` is `--key=value`."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="leave out what needs a CUDA device")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, in one process")
    parser.add_argument("--out", default=os.environ.get("OUT") or "runs/gpu_check")
    parser.add_argument("--only", default="")
    parser.add_argument("--budget", type=float, default=460.0)
    parser.add_argument("--section", default="", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", default="", help=argparse.SUPPRESS)
    parser.add_argument("--result", default="", help=argparse.SUPPRESS)
    options = parser.parse_args([f"--{word}" if "=" in word and word[0] != "-" else word for word in arguments])
    unknown = {*filter(None, options.only.split(","))} - {section.name for section in SECTIONS}
    if unknown:
        parser.error(f"only={options.only}: no such section; there are {', '.join(s.name for s in SECTIONS)}")
    return options


def chosen(options: argparse.Namespace) -> list[Section]:
    """The sections of `only=` and what they need."""
    names = {*filter(None, options.only.split(","))}
    names |= {need for section in SECTIONS if section.name in names for need in section.needs}
    return [section for section in SECTIONS if not names or section.name in names]


# --- each section in a process of its own ---------------------------------------------------------------------------


@dataclass
class Running:
    """A section at work."""

    section: Section
    process: subprocess.Popen[str]
    result: Path
    began: float
    limit_s: float
    echo: threading.Thread


def run_apart(options: argparse.Namespace, out: Path, log: Log) -> Results:
    """Every section in its own process, one after another but for those that run beside the others."""
    results: Results = {}
    beside: dict[str, Running] = {}
    end = time.monotonic() + options.budget
    for section in chosen(options):
        for need in [name for name in section.needs if name in beside]:
            results[need] = finish(beside.pop(need), log)
        lacking = [need for need in section.needs if results.get(need, {}).get("state") != "done"]
        left = end - time.monotonic()
        if lacking or left < 10:
            why = f"{', '.join(lacking)} did not succeed" if lacking else "no time was left"
            results[section.name] = {"state": "not run", "why": why}
            log.say(f"{section.name}: not run: {why}")
            continue
        running = start(section, options, min(section.limit_s, left), log)
        if section.beside:
            beside[section.name] = running
            continue
        results[section.name] = finish(running, log)
        write(results, out, None)
    for name, running in beside.items():
        results[name] = finish(running, log)
    return {section.name: results[section.name] for section in SECTIONS if section.name in results}


def start(section: Section, options: argparse.Namespace, limit_s: float, log: Log) -> Running:
    """Start a section's process; its output is copied as it comes."""
    result = Path(options.scratch) / f"{section.name}.json"
    flags = [flag for flag in ("cpu", "quick") if getattr(options, flag)]
    words = [*(f"--{flag}" for flag in flags), f"--section={section.name}", f"--scratch={options.scratch}"]
    log.say(f"{section.name}: started, at most {limit_s:.0f} s")
    process = subprocess.Popen(
        [sys.executable, "-u", __file__, *words, f"--result={result}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    echo = threading.Thread(target=copied, args=(section.name, process.stdout, log), daemon=True)
    echo.start()
    return Running(section, process, result, time.monotonic(), limit_s, echo)


def copied(name: str, stream: TextIO, log: Log) -> None:
    """Copy a process's output."""
    for line in stream:
        log.copy(f"    {name}: {line}")


def finish(running: Running, log: Log) -> dict[str, Any]:
    """Wait for a section, end it when its time is up, and read what it has found so far."""
    late = False
    try:
        running.process.wait(max(0.1, running.began + running.limit_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        late = True
        end_group(running.process)
    running.echo.join(5)
    seconds = time.monotonic() - running.began
    found = json.loads(running.result.read_text()) if running.result.exists() else {"state": "failed", "rows": {}}
    if late:
        found |= {"state": "out of time", "why": f"ended after {running.limit_s:.0f} s"}
    elif found["state"] == "running" or running.process.returncode:
        found = {"why": f"ended with status {running.process.returncode}", **found, "state": "failed"}
    log.say(f"{running.section.name}: {found['state']} after {seconds:.0f} s{_reason(found)}")
    return {**found, "seconds": round(seconds, 1)}


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process that leads a session of its own, and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- a section in this process --------------------------------------------------------------------------------------


def run_here(name: str, options: argparse.Namespace) -> int:
    """One section, its findings written whenever there are new ones."""
    path = Path(options.result)
    found: dict[str, Any] = {"state": "running", "rows": {}}

    def keep(row: str, values: dict[str, Any]) -> None:
        found["rows"][row] = values
        print(row, json.dumps(values), flush=True)
        replace(path, found)

    replace(path, found)
    try:
        from gpu import sections  # noqa: PLC0415 - imports torch, and may fail

        sections.run(name, sections.Place(options.cpu, options.quick, Path(options.scratch)), keep)
        found["state"] = "done"
    except BaseException as error:
        if type(error).__name__ == "NotRun":
            found |= {"state": "not run", "why": str(error)}
        else:
            found |= {"state": "failed", "why": f"{type(error).__name__}: {str(error)[:600]}"}
            traceback.print_exc()
    replace(path, found)
    return 0


def replace(path: Path, content: dict[str, Any]) -> None:
    """Write a file as a whole or not at all."""
    if path.name:
        path.with_suffix(".part").write_text(json.dumps(content))
        path.with_suffix(".part").replace(path)


def run_in_process(options: argparse.Namespace, log: Log) -> Results:
    """All sections in this process, for a short run."""
    results: Results = {}
    for section in chosen(options):
        log.say(f"{section.name}: started")
        options.result = str(Path(options.scratch) / f"{section.name}.json")
        began = time.monotonic()
        run_here(section.name, options)
        results[section.name] = json.loads(Path(options.result).read_text())
        results[section.name]["seconds"] = round(time.monotonic() - began, 1)
        log.say(f"{section.name}: {results[section.name]['state']}{_reason(results[section.name])}")
    return results


# --- results --------------------------------------------------------------------------------------------------------


def write(results: Results, out: Path, log: Log | None) -> None:
    """The numbers and the tables."""
    replace(out / "gpu_check.json", {"sections": results})
    text = tables(results)
    (out / "gpu_check.txt").write_text(text)
    if log is not None:
        log.copy(f"\n{text}\n")


def tables(results: Results) -> str:
    """One table per section; a column for every value that a row has."""
    parts = []
    for name, result in results.items():
        parts.append(f"{name}: {result['state']}, {result.get('seconds', 0)} s{_reason(result)}")
        rows = result.get("rows", {})
        columns = list(dict.fromkeys(key for values in rows.values() for key in values))
        lines = [["", *columns], *([row, *(_cell(values.get(key)) for key in columns)] for row, values in rows.items())]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
        for line in lines if rows else []:
            parts.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        parts.append("")
    return "\n".join(parts)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _reason(result: dict[str, Any]) -> str:
    return f" ({result['why']})" if result.get("why") else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
