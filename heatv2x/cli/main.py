"""The command line: verbs, `key=value` settings, progress, tables, and one clear message for a user's mistake."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.logging import RichHandler

import heatv2x
from heatv2x import __version__
from heatv2x.cli import data, describe, evaluate, packs, train
from heatv2x.cli.console import FOLLOWS, INTERRUPTED, SEVERAL, bars, err, fail, print_rows, say, stopped
from heatv2x.cli.verbs import Settings, Verb
from heatv2x.core.host import set_up_process
from heatv2x.errors import ConfigError, HeatError

if TYPE_CHECKING:
    from heatv2x.cli.demo import DemoConfig, DemoResult

_SHARED = ("train", "adapt", "eval")  # what several processes can do together
_DEMO: Verb[DemoConfig] = Verb("demo", "heatv2x.cli.demo:DemoConfig")
app = typer.Typer(
    name="heatv2x",
    help="Collaborative perception between agents that carry different sensors and networks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point: a user's mistake ends with one message and exit code 2, never with a traceback."""
    set_up_process()
    try:
        code = app(standalone_mode=False)
    except HeatError as error:
        fail(str(error))
    except typer.TyperException as error:
        fail(f"{error}; see heatv2x --help")
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror or error}")
    except (KeyboardInterrupt, typer.Abort):
        stopped()
    if code == INTERRUPTED:  # how typer reports Ctrl-C
        stopped()
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def demo(
    settings: Settings = None,
    full: Annotated[bool, typer.Option("--full", help="Let the camera newcomer join as well.")] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train base and encoders instead of using the shipped packs.")
    ] = False,
) -> None:
    """Let a newcomer join an alliance and report the gain.

    Builds a small synthetic world, adapts the newcomer, and writes runs/demo/report.html.
    """
    from heatv2x.cli.demo import run_demo

    config = _DEMO.read(settings, {"full": full, "from_scratch": from_scratch})
    written: DemoResult | None = None

    def tell_written(result: DemoResult) -> None:
        nonlocal written
        if written is None:
            print_rows(result.rows)
            say(f"\nFirst report: {result.report}\nStill running: {result.still_running}.")
            say("The report is rewritten whenever one of them finishes; Ctrl-C stops here and keeps this report.\n")
        else:
            say(f"Report rewritten; still running: {result.still_running}")
        written = result

    try:
        with bars() as report:
            result = run_demo(config, report, tell_written)
    except BaseException:
        if written is not None:
            say(f"{written.report} lacks only {written.still_running}; run the same command again to add the rest.")
        raise
    print_rows(result.rows)
    say(f"\nReport: {result.report}\nNumbers: {result.metrics}")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print more about what is being done.")] = False,
) -> None:
    if SEVERAL and context.invoked_subcommand not in (None, *_SHARED):
        raise ConfigError(
            f"'{context.invoked_subcommand}' runs in a single process: start it without torchrun; "
            f"only {', '.join(_SHARED)} can run in several"
        )
    level = logging.ERROR if FOLLOWS else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(level, console=err, show_path=False, show_time=False)],
    )
    logging.getLogger("heatv2x").setLevel(level)
    if version:
        say(f"heatv2x {__version__}")
        raise typer.Exit(0)


def add_studies(to: typer.Typer) -> None:
    """Add the verbs of the studies, which stand beside the package in a checkout, and only there."""
    found = importlib.util.find_spec("studies")
    beside = Path(heatv2x.__file__).parent.parent / "studies" / "__init__.py"
    if found is not None and found.origin is not None and Path(found.origin) == beside:
        verbs = importlib.import_module("studies.verbs")
        to.add_typer(verbs.app, name="bench")
        to.command("robustness")(verbs.robustness)
        return

    def not_here() -> None:
        raise ConfigError(
            "the studies come with the source, not with the installed package: clone the repository, `make venv`, and "
            "run the command there"
        )

    for name in ("bench", "robustness"):
        to.command(name, hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
            not_here
        )


app.command("doctor")(describe.doctor)
app.command("list")(describe.list_parts)
app.command("settings")(describe.settings)
app.add_typer(data.world, name="world")
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
app.add_typer(train.adapt, name="adapt")
app.command("eval")(evaluate.evaluate)
app.command("table")(evaluate.table_of_runs)
app.command("report")(evaluate.report)
app.command("fuzz")(evaluate.fuzz)
app.add_typer(packs.app, name="pack")
app.add_typer(packs.import_, name="import")
app.add_typer(packs.export, name="export")
add_studies(app)
