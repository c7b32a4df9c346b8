"""What a terminal shows: text, progress, tables of results, and the end of a run that cannot continue."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

INTERRUPTED = 130
PROCESS = int(os.environ.get("RANK", "0"))  # of several that torchrun started the first one speaks
SEVERAL = int(os.environ.get("WORLD_SIZE", "1")) > 1
FOLLOWS = PROCESS > 0
_OTHERS_ARE_TOLD_S = 30.0  # how long a process waits to be ended that failed without being the first
out = Console(quiet=FOLLOWS)
err = Console(stderr=True)


def say(text: str) -> None:
    """Print one line verbatim: no markup (paths may hold brackets), no wrapping (so that paths can be copied)."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bars(finished_go: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar per piece of work, with the time left; occasional plain lines if the output is not a terminal."""
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=FOLLOWS) as progress:
        tasks: dict[str, Any] = {}
        told: dict[str, int] = {}

        def report(told_now: str, done: int, total: int) -> None:
            what, dot, latest = told_now.partition(" · ")  # behind it stands what changes from step to step
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            visible = not (finished_go and done >= total)
            progress.update(tasks[what], description=told_now, completed=done, total=total, visible=visible)
            quarter = 4 * done // max(total, 1)
            if not (err.is_terminal or FOLLOWS) and told.get(what) != quarter:
                told[what] = quarter
                err.print(f"{what}: {done} of {total}{dot}{latest}", highlight=False)

        yield report


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Rows of metrics.json as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=max(len(row["name"]) for row in rows))
    for heading in ("AP30", "AP50", "AP70", "trained", "CPU s", "kB/msg"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        trained, seconds = row.get("trained_parameters"), row.get("train_seconds")
        table.add_row(
            row["name"],
            *("–" if row["ap"][key] is None else f"{100 * row['ap'][key]:.1f}" for key in ("0.3", "0.5", "0.7")),
            f"{trained:,}" if trained else "-",
            f"{seconds:.0f}" if seconds is not None else "-",
            f"{row['message_bytes'] / 1000:.1f}" if row.get("message_bytes") else "-",
        )
    # numbers are never shortened: on a narrow screen the terminal wraps the lines instead
    widest = max((len(row["name"]) for row in rows), default=0)
    out.width = max(out.width, widest + 50)
    out.print(table)


def command() -> str:
    """The command that produces these numbers, without `--finished`, which only writes up results that exist."""
    return shlex.join(["heatv2x", *(word for word in sys.argv[1:] if word != "--finished")])


@contextmanager
def together() -> Iterator[None]:
    """Join the other processes, if torchrun started several, before anything can fail."""
    from heatv2x.core import distributed

    distributed.join_processes()
    yield
    distributed.leave_processes()


def fail(message: str) -> NoReturn:
    """End with one message and exit code 2."""
    if SEVERAL and not _speaks():
        time.sleep(_OTHERS_ARE_TOLD_S)
        sys.exit(2)
    title = "error: " if PROCESS == 0 else f"error in process {PROCESS}: "
    err.print(Text(title, style="bold red") + Text(message), highlight=False, soft_wrap=True)
    sys.exit(2)


def stopped() -> NoReturn:
    """End the way Ctrl-C does."""
    if PROCESS == 0:
        err.print("Stopped. Finished work is kept; run the same command again to continue.", style="yellow")
    sys.exit(INTERRUPTED)


def _speaks() -> bool:
    """Whether this process reports the failure: the first one to fail; before processes have joined, process 0."""
    distributed = sys.modules.get("heatv2x.core.distributed")
    return bool(distributed.first_to_fail()) if distributed and distributed.is_joined() else PROCESS == 0
