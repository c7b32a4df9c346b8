"""What a terminal shows: text, progress, tables of results, and how a run ends that cannot go on."""

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
    """One line as it is: no markup (paths may hold brackets), no wrapping (paths are copied)."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bars(finished_go: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars by name of the work, with time left; plain lines now and then if the output is not a terminal."""
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
    """The command that makes these numbers: `--finished` only writes them down."""
    return shlex.join(["heatv2x", *(word for word in sys.argv[1:] if word != "--finished")])


@contextmanager
def together() -> Iterator[None]:
    """Work with the other processes, if torchrun started several; they meet before anything can fail."""
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
    """End as Ctrl-C does."""
    if PROCESS == 0:
        err.print("Stopped. What is finished is kept; the same command continues from there.", style="yellow")
    sys.exit(INTERRUPTED)


def _speaks() -> bool:
    """Whether this process tells of the failure: the first that failed; before they met, the first of all."""
    distributed = sys.modules.get("heatv2x.core.distributed")
    return bool(distributed.first_to_fail()) if distributed and distributed.is_joined() else PROCESS == 0
