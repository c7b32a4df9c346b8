"""Verbs that examine trained networks: `eval`, `fuzz`, `table`, `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatv2x.cli.console import bars, command, out, print_rows, say, together
from heatv2x.cli.verbs import Settings, Verb

if TYPE_CHECKING:
    from heatv2x.evaluation.fuzz import FuzzConfig
    from heatv2x.evaluation.job import EvalConfig
    from heatv2x.evaluation.report.build import ReportConfig

_EVAL: Verb[EvalConfig] = Verb("eval", "heatv2x.evaluation.job:EvalConfig")
_FUZZ: Verb[FuzzConfig] = Verb("fuzz", "heatv2x.evaluation.fuzz:FuzzConfig")
_REPORT: Verb[ReportConfig] = Verb("report", "heatv2x.evaluation.report.build:ReportConfig")


def evaluate(settings: Settings = None) -> None:
    """Evaluate packs on a split.

    For example: packs=[shipped:base,shipped:lidar64] data=FOLDER ego=lidar64 senders=lidar64 channel.sigma_m=0.4
    """
    from heatv2x.evaluation.job import notes_of
    from heatv2x.evaluation.report.evaluated import evaluate as evaluate_and_show

    with together():
        config = _EVAL.read(settings)
        with bars() as report:
            rows, page = evaluate_and_show(config, report, command())
    print_rows(rows)
    for note in notes_of(rows, config.channel.latency_ms):
        say(f"note: {note}")
    say(f"Numbers: {config.out / 'metrics.json'}")
    if page is not None:
        say(f"Report: {page}")


def fuzz(settings: Settings = None) -> None:
    """Try hostile messages and packs on this machine.

    For example: messages=20000 seed=3. The exit code is 2 if anything happened that should not.
    """
    from heatv2x.cli.tables import print_fuzz
    from heatv2x.evaluation.fuzz import run_fuzz

    config = _FUZZ.read(settings)
    with bars() as report:
        rows = run_fuzz(config, report)
    print_fuzz(rows, out)
    say(f"Numbers: {config.out / 'fuzz.json'}")
    if any(row.violations for row in rows.values()):
        raise typer.Exit(2)


def table_of_runs(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that eval or the demo has written.")],
) -> None:
    """Put the rows of several evaluations in one table.

    Exit code 1, with the reason, if their numbers must not be compared.
    """
    from heatv2x.evaluation.comparison import read_rows

    rows, differences = read_rows(runs)
    print_rows(rows)
    for difference in differences:
        say(f"note: {difference}")
    if differences:
        raise typer.Exit(1)


def report(settings: Settings = None) -> None:
    """Write report.html into a run folder: run=runs/demo."""
    from heatv2x.evaluation.report.build import build_report

    say(f"Report: {build_report(_REPORT.read(settings).run)}")
