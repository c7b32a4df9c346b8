"""The command line: verbs, `key=value` settings, progress, tables, and one clear message for a user's mistake."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from heatv2x import __version__
from heatv2x.core.config import Config, ConfigT, build, merge, nearest, parse_overrides, read_recipe, replaced
from heatv2x.core.config_errors import keys_of
from heatv2x.core.host import set_up_process
from heatv2x.core.plurals import counted
from heatv2x.errors import ConfigError, HeatError
from heatv2x.training import recipes

app = typer.Typer(
    name="heatv2x",
    help="Collaborative perception between agents that carry different sensors and networks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
world_app = typer.Typer(help="Build the synthetic world.", no_args_is_help=True)
train_app = typer.Typer(help="Train a base, or pretrain a newcomer's encoder.", no_args_is_help=True)
adapt_app = typer.Typer(help="Let a new agent type join a frozen base.", no_args_is_help=True)
data_app = typer.Typer(help="Check a dataset before training, index it, draw it.", no_args_is_help=True)
bench_app = typer.Typer(help="Run the studies whose results are in docs/benchmarks.", no_args_is_help=True)
pack_app = typer.Typer(help="Inspect and verify packs.", no_args_is_help=True)
import_app = typer.Typer(help="Import networks of other projects.", no_args_is_help=True)
export_app = typer.Typer(help="Export networks to other runtimes.", no_args_is_help=True)
app.add_typer(world_app, name="world")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(adapt_app, name="adapt")
app.add_typer(pack_app, name="pack")
app.add_typer(bench_app, name="bench")
app.add_typer(import_app, name="import")
app.add_typer(export_app, name="export")

_INTERRUPTED = 130
_NO_DEFAULT = "must be given"
_describing = False
_PROCESS = int(os.environ.get("RANK", "0"))  # of several that torchrun started the first one speaks
_SEVERAL = int(os.environ.get("WORLD_SIZE", "1")) > 1
_FOLLOWS = _PROCESS > 0
out = Console(quiet=_FOLLOWS)
_SHARED = ("train", "adapt", "eval")  # what several processes can do together
_OTHERS_ARE_TOLD_S = 30.0  # how long a process waits to be ended that failed without being the first
err = Console(stderr=True)
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="Settings (heatv2x settings VERB lists them). recipe=NAME or recipe=FILE reads a recipe first.",
    ),
]
FrameAndSettings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FRAME] key=value", help="Which frame (the first one), and settings."),
]
Folder = Annotated[Path, typer.Argument(metavar="PATH", help="The dataset's folder.")]


def main() -> None:
    """Entry point: a user's mistake ends with one message and exit code 2, never with a traceback."""
    set_up_process()
    try:
        code = app(standalone_mode=False)
    except HeatError as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(f"{error}; see heatv2x --help")
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}")
    except (KeyboardInterrupt, typer.Abort):
        _stopped()
    if code == _INTERRUPTED:  # how typer reports Ctrl-C
        _stopped()
    sys.exit(code if isinstance(code, int) else 0)


# --- verbs ----------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    settings: Settings = None,
    full: Annotated[bool, typer.Option("--full", help="Let the camera newcomer join as well.")] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train base and encoders instead of using the packs that come along.")
    ] = False,
) -> None:
    """Let a newcomer join an alliance and report the gain.

    Builds a small synthetic world, adapts the newcomer, and writes runs/demo/report.html.
    """
    from heatv2x.cli.demo import DemoConfig, DemoResult, run_demo

    config = _config(DemoConfig, settings, {"full": full, "from_scratch": from_scratch})
    written: DemoResult | None = None

    def tell_written(result: DemoResult) -> None:
        nonlocal written
        if written is None:
            _print_rows(result.rows)
            _say(f"\nFirst report: {result.report}\nStill running: {result.still_running}.")
            _say("The report is written again whenever one of them is done; Ctrl-C stops here and keeps this report.\n")
        else:
            _say(f"Report written again; still running: {result.still_running}")
        written = result

    try:
        with _bars() as report:
            result = run_demo(config, report, tell_written)
    except BaseException:
        if written is not None:
            _say(f"{written.report} lacks nothing but {written.still_running}; the same command adds what is missing.")
        raise
    _print_rows(result.rows)
    _say(f"\nReport: {result.report}\nNumbers: {result.metrics}")


@app.command()
def doctor() -> None:
    """Check this machine and say how to fix what is wrong."""
    from heatv2x.cli.doctor import examine

    table = Table("", "what", "found", "way out", box=None)
    findings = examine()
    marks = {"ok": "[green]ok[/]", "info": "[dim]info[/]", "warn": "[yellow]note[/]", "fail": "[red]wrong[/]"}
    for finding in findings:
        table.add_row(marks[finding.state], finding.name, escape(finding.detail), escape(finding.fix))
    out.print(table)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


@app.command("list")
def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(help="One kind of part with the settings of its parts; or recipes, protocols or packs."),
    ] = None,
) -> None:
    """List the names that settings take.

    Parts with their source and cost, by kind; recipes, protocols of average precision, and the packs that come along.
    """
    from heatv2x.cli import listing
    from heatv2x.core import plugins

    known = [*plugins.CONTRACTS, *listing.COLLECTIONS]
    if kind is not None and kind not in known:
        raise ConfigError(f"unknown kind '{kind}'; {nearest(kind, known)}")
    if not out.is_terminal:
        out.width = 120
    if kind in listing.COLLECTIONS:
        listing.COLLECTIONS[kind](out)
        return
    for each in [kind] if kind else plugins.CONTRACTS:
        listing.print_kind(each, out)
        out.print()
    listing.print_reference(out)
    if kind in (None, "agents"):
        out.print()
        listing.print_published_types(out)
    if kind is None:
        _say(f"\nheatv2x list KIND shows the settings of its parts; there are also: {', '.join(listing.COLLECTIONS)}")
    else:
        listing.print_settings_of_parts(kind, out)


@app.command()
def settings(
    verb: Annotated[
        list[str], typer.Argument(metavar="VERB [KEY]", help="For example: train base; train base model; eval channel")
    ],
) -> None:
    """Explain the settings of a verb.

    Every key down to the last nested one, or those inside KEY, with its default and meaning.
    """
    from heatv2x.cli import listing
    from heatv2x.core.config_reference import settings_of

    known = _verbs()
    words = next((n for n in range(len(verb), 0, -1) if " ".join(verb[:n]) in known), 0)
    if not words:
        name = " ".join(verb)
        raise ConfigError(f"'{name}' is not a verb that takes settings; {nearest(name, known)}")
    name = " ".join(verb[:words])
    rows = [(key, default or _NO_DEFAULT, meaning) for key, default, meaning in settings_of(_config_of(name))]
    if key := ".".join(verb[words:]):
        wanted = listing.below(rows, key)
        if not wanted:
            raise ConfigError(f"'{name}' has no setting '{key}'; {nearest(key, (row[0] for row in rows))}")
        rows = wanted
    if not out.is_terminal:
        out.width = 120
    listing.print_settings(rows, out)


@world_app.command("build")
def world_build(settings: Settings = None) -> None:
    """Write a synthetic dataset in the layout of OPV2V-H.

    For example: out=runs/world train=40 validate=4 test=8 seed=1
    """
    from heatv2x.world.build import WorldConfig, build_world

    config = _config(WorldConfig, settings)
    with _bars() as report:
        summary = build_world(config, lambda done, total: report("building the world", done, total))
    table = Table("split", "scenarios", "frames", "agents per frame", "objects per frame", "seen by the ego", box=None)
    for name, split in summary.splits.items():
        if split.frames:
            share = f"{100 * split.ego_objects / max(split.objects, 1):.0f} %"
            means = (f"{split.agent_frames / split.frames:.1f}", f"{split.objects / split.frames:.1f}")
            table.add_row(name, str(split.scenarios), str(split.frames), *means, share)
    out.print(table)
    _say(f"World: {config.out}")


@data_app.command("check")
def data_check(
    path: Folder,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Find what is missing, broken or impossible.

    Exit code 0 if nothing is wrong, 2 otherwise.
    """
    from heatv2x.cli.tables import print_inspection
    from heatv2x.core.files import write_json
    from heatv2x.data.check import CheckConfig, inspect

    config = _config(CheckConfig, settings)
    with _bars(finished_go=True) as report:
        inspection = inspect(path, config, report)
    if config.json_ is not None:
        write_json(config.json_, inspection.to_json())
    if as_json:
        out.print_json(data=inspection.to_json())
    else:
        print_inspection(inspection, out)
    if not inspection.ok:
        raise typer.Exit(2)


@data_app.command("index")
def data_index(path: Folder, settings: Settings = None) -> None:
    """Parse all descriptions once, so that later starts are fast."""
    from heatv2x.cli.tables import print_indexes
    from heatv2x.data.check import IndexConfig, build_indexes

    config = _config(IndexConfig, settings)
    with _bars(finished_go=True) as report:
        indexes = build_indexes(path, config, report)
    print_indexes(indexes, out)


@data_app.command("view")
def data_view(path: Folder, settings: FrameAndSettings = None) -> None:
    """Draw a frame, and what a model detects in it.

    FRAME is its number, or scenario/timestamp. For example: DATA 12 out=frame.png (or .html, .rrd for rerun, .gif for a
    film); packs=[shipped:base,shipped:lidar64] draws what they detect.
    """
    from heatv2x.evaluation.view_config import ViewConfig
    from heatv2x.evaluation.viewer import show

    words = [word for word in settings or [] if "=" in word]
    frames = [word for word in settings or [] if "=" not in word]
    if len(frames) > 1:
        raise ConfigError(f"one frame at a time: {' or '.join(frames)}")
    config = _config(ViewConfig, [*words, *(f"frame={frame}" for frame in frames)])
    with _bars(finished_go=True) as report:
        lines = show(path, config, report)
    for line in lines:
        _say(line)


@train_app.command("base")
def train_base(settings: Settings = None) -> None:
    """Train a base with its own agents, collaboratively.

    For example: data=FOLDER out=runs/base steps=700
    """
    from heatv2x.training import job_config, jobs

    _job(job_config.BaseConfig, jobs.train_base, settings)


@train_app.command("encoder")
def train_encoder(settings: Settings = None) -> None:
    """Pretrain a newcomer's encoder, alone.

    For example: data=FOLDER name=lidar16 agent.part=lidar_slices out=runs/lidar16
    """
    from heatv2x.training import job_config, jobs

    _job(job_config.EncoderConfig, jobs.train_encoder, settings)


@adapt_app.command("local")
def adapt_local(settings: Settings = None) -> None:
    """LHFT: train a newcomer's adapters on its own data.

    Local Heterogeneous Fine-Tuning against the frozen base. For example: data=FOLDER base=shipped:base
    agents=[shipped:lidar64,shipped:lidar16] newcomer=lidar16 out=runs/local
    """
    from heatv2x.training import job_config, jobs

    _job(job_config.LocalConfig, jobs.adapt_local, settings)


@adapt_app.command("collaborative")
def adapt_collaborative(settings: Settings = None) -> None:
    """GCFT: train the newcomer's part in mixed scenes.

    Global Collaborative Fine-Tuning: the settings of `adapt local`, and adapter=PACK, which `adapt local` wrote.
    """
    from heatv2x.training import job_config, jobs

    _job(job_config.CollaborativeConfig, jobs.adapt_collaborative, settings)


@adapt_app.command("backward")
def adapt_backward(settings: Settings = None) -> None:
    """Backward alignment as in HEAL, a rival of LHFT.

    Trains the newcomer's whole encoder against the frozen base. The settings are those of `adapt local`.
    """
    from heatv2x.training import job_config, jobs

    _job(job_config.BackwardConfig, jobs.align_backward, settings)


@adapt_app.command("full")
def adapt_full(settings: Settings = None) -> None:
    """Fine-tune base and newcomer in full, the yardstick.

    The settings are those of `adapt local`.
    """
    from heatv2x.training import job_config, jobs

    _job(job_config.FullConfig, jobs.full_finetune, settings)


@app.command("eval")
def evaluate(settings: Settings = None) -> None:
    """Evaluate packs on a split.

    For example: packs=[shipped:base,shipped:lidar64] data=FOLDER ego=lidar64 senders=lidar64 channel.sigma_m=0.4
    """
    from heatv2x.evaluation.job import EvalConfig, notes_of
    from heatv2x.evaluation.report.evaluated import evaluate as evaluate_and_show

    with _together():
        config = _config(EvalConfig, settings)
        with _bars() as report:
            rows, page = evaluate_and_show(config, report, _command())
    _print_rows(rows)
    for note in notes_of(rows, config.channel.latency_ms):
        _say(f"note: {note}")
    _say(f"Numbers: {config.out / 'metrics.json'}")
    if page is not None:
        _say(f"Report: {page}")


@pack_app.command("inspect")
def pack_inspect(path: Path) -> None:
    """Print the manifest of a pack: a path, or shipped:NAME."""
    from heatv2x.model.packs import read_pack
    from heatv2x.model.pretrained import pack_path

    path = pack_path(path)
    pack = read_pack(path)
    out.print_json(
        data={
            **pack.manifest(),
            "parameters": pack.parameters,
            "tensors": len(pack.tensors),
            "bytes": path.stat().st_size,
        }
    )


@pack_app.command("verify")
def pack_verify(
    paths: list[Path],
    allow_part: Annotated[
        list[str] | None,
        typer.Option("--allow-part", help="A part from outside that packs may name: package.module:Class"),
    ] = None,
) -> None:
    """Check packs, and whether they fit together.

    The hash of each; and if a base pack is among them, that the others can be used with it.
    """
    from heatv2x.core import plugins
    from heatv2x.model.assembly import assemble, read_all
    from heatv2x.model.packs import read_pack

    for path in paths:
        pack = read_pack(path)
        _say(f"ok  {path}  {pack.kind} {pack.agent_type} {pack.parameters:,} parameters")
    if any(read_pack(path).kind == "base" for path in paths):
        with plugins.allowing(allow_part or ()):
            assemble(*read_all(paths))
        out.print("ok  they fit together")


@pack_app.command("rewrite")
def pack_rewrite(paths: list[Path]) -> None:
    """Bring packs of an earlier version up to date.

    Give a base together with the agent and adapter packs that belong to it. Tensors stay as they are.
    """
    from heatv2x.model.pack_rewriting import rewrite

    changed = rewrite(paths)
    for path in paths:
        _say(f"{'rewritten' if path in changed else 'unchanged'}  {path}")


@app.command()
def fuzz(settings: Settings = None) -> None:
    """Try hostile messages and packs on this machine.

    For example: messages=20000 seed=3. The exit code is 2 if anything happened that should not.
    """
    from heatv2x.cli.tables import print_fuzz
    from heatv2x.evaluation.fuzz import FuzzConfig, run_fuzz

    config = _config(FuzzConfig, settings)
    with _bars() as report:
        rows = run_fuzz(config, report)
    print_fuzz(rows, out)
    _say(f"Numbers: {config.out / 'fuzz.json'}")
    if any(row.violations for row in rows.values()):
        raise typer.Exit(2)


@import_app.command("heal")
def import_heal(checkpoint: Path, settings: Settings = None) -> None:
    """Turn a checkpoint of HEAL into packs.

    For example: net_epoch_bestval_at23.pth out=runs/heal names.m1=lidar64
    """
    from heatv2x.interop.heal import checkpoint as heal

    config = _config(heal.HealImport, settings)
    imported = heal.import_heal(checkpoint, config)
    for note in imported.notes:
        _say(f"note: {note}")
    for name, number in imported.types.items():
        parameters = sum(p.numel() for p in imported.model.agent(name).parameters())
        _say(f"{number} is {name}: {parameters:,} parameters")
    for path in imported.files:
        _say(f"  {path}")


@export_app.command("onnx")
def export_onnx(settings: Settings = None) -> None:
    """Write a model as ONNX files, checked in onnxruntime.

    For example: run=runs/demo out=onnx, or packs=[shipped:base,shipped:lidar64] out=onnx
    """
    from heatv2x.cli.tables import print_export
    from heatv2x.interop.onnx import folder

    config = _config(folder.ExportConfig, settings)
    with _bars(finished_go=True) as report:
        manifest = folder.export_onnx(config, report)
    print_export(manifest, out)
    _say(f"\nFiles: {config.out}\nWhat goes in and comes out: {config.out / folder.MANIFEST}")


Quick = Annotated[
    bool, typer.Option("--quick", help="Use one seed and very little of everything: a check, not a result.")
]


@bench_app.command("adaptation")
def bench_adaptation(
    settings: Settings = None,
    quick: Quick = False,
    finished: Annotated[bool, typer.Option("--finished", help="Write the page from what is finished.")] = False,
) -> None:
    """Run the adaptation study: rivals, controls, seeds.

    Continues where it was interrupted, and writes docs/benchmarks/adaptation.md.
    """
    from studies import adaptation, config
    from studies.page import write_page
    from studies.summary import summarise

    study = _config(config.AdaptationConfig, settings)
    study = config.quick(study) if quick else study
    command = _command()
    if finished:
        contents = adaptation.finished_cells(study)
    else:
        with _bars(finished_go=True) as report:
            contents = adaptation.run_adaptation(study, report)
    summary = summarise(contents, study, adaptation.world_of(study), command)
    write_page(summary, study.docs)
    _print_rows([_over_seeds(row) for row in summary["rows"]])
    _say(f"\nPage: {study.docs / 'adaptation.md'}\nNumbers: {study.docs / 'adaptation.json'}")


@bench_app.command("parameters")
def bench_parameters(settings: Settings = None) -> None:
    """Count what a newcomer trains at published size.

    From the recipes, beside full fine-tuning.
    """
    from studies import parameters

    config = _config(parameters.ParametersConfig, settings)
    counts = parameters.count()
    table = Table("base", "newcomer", "full fine-tuning", "trained", "share", box=None)
    for each in counts:
        table.add_row(each.base, each.newcomer, f"{each.full:,}", f"{each.gcft:,}", f"{100 * each.share:.2f} %")
    out.print(table)
    _say(f"Page: {parameters.write_page(counts, config.docs)}")


@bench_app.command("scaling")
def bench_scaling(settings: Settings = None, quick: Quick = False) -> None:
    """Run the scaling study: many types, many agents.

    What grows when types join one after another and scenes hold many agents, and what does not.
    """
    from studies import scaling
    from studies.scaling_page import write_page
    from studies.scaling_summary import summarise

    study = _config(scaling.ScalingConfig, settings)
    study = scaling.quick(study) if quick else study
    with _bars(finished_go=True) as report:
        contents = scaling.run_scaling(study, report)
    summary = summarise(contents, study, _command())
    page = write_page(summary, study.docs)
    for line in summary["targets"]:
        _say(f"{line['what']}: {line['measured']} (target: {line['target']})")
    _say(f"\nPage: {page}\nNumbers: {page.with_suffix('.json')}")


@bench_app.command("data")
def bench_data(settings: Settings = None) -> None:
    """Measure how fast frames are read: data=FOLDER.

    Beside plain PyYAML and general decoding libraries.
    """
    from heatv2x.cli.tables import print_speed
    from studies.data import DataBenchConfig, run_data_bench

    config = _config(DataBenchConfig, settings)
    with _bars(finished_go=True) as report:
        content = run_data_bench(config, report)
    print_speed(content, out)
    _say(f"Numbers: {config.out}")


@bench_app.command("speed")
def bench_speed(settings: Settings = None, quick: Quick = False) -> None:
    """Measure frames, training steps and evaluations.

    Beside the machine's own matrix products.
    """
    from heatv2x.cli.tables import print_frames, print_targets
    from studies import speed
    from studies.speed_page import write_page
    from studies.speed_summary import summarise

    config = _config(speed.SpeedConfig, settings)
    config = speed.quick(config) if quick else config
    with _bars(finished_go=True) as report:
        contents = speed.run_speed(config, report)
    summary = summarise(contents, config, _command(), quick)
    page = write_page(summary, config.docs)
    speed.forget(config)
    print_frames(summary, out)
    out.print()
    print_targets(summary["targets"], out)
    _say(f"\nPage: {page}\nNumbers: {page.with_suffix('.json')}")


@app.command()
def robustness(settings: Settings = None, quick: Quick = False) -> None:
    """Run the robustness study: poses, latency, loss.

    What wrong poses and late or lost messages do to every method of the adaptation study.
    """
    from studies import config
    from studies import robustness as study

    wanted = _config(study.RobustnessConfig, settings)
    networks = config.AdaptationConfig()
    if quick:
        wanted, networks = study.quick(wanted), config.quick(networks)
    with _bars(finished_go=True) as report:
        summary = study.run_robustness(wanted, networks, _command(), report)
    clean = [{**row, "ap": {k: sum(v) / len(v) for k, v in row["ap"].items()}} for row in summary["rows"]]
    _print_rows(clean)
    _say(f"\nPage: {wanted.docs / 'robustness.md'}\nNumbers: {wanted.docs / 'robustness.json'}")


@app.command("table")
def table_of_runs(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that eval or the demo has written.")],
) -> None:
    """Put the rows of several evaluations in one table.

    Exit code 1, with the reason, if their numbers must not be compared.
    """
    from heatv2x.evaluation.comparison import read_rows

    rows, differences = read_rows(runs)
    _print_rows(rows)
    for difference in differences:
        _say(f"note: {difference}")
    if differences:
        raise typer.Exit(1)


@app.command()
def report(settings: Settings = None) -> None:
    """Write report.html into a run folder: run=runs/demo."""
    from heatv2x.evaluation.report.build import ReportConfig, build_report

    _say(f"Report: {build_report(_config(ReportConfig, settings).run)}")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say more about what is done.")] = False,
) -> None:
    if _SEVERAL and context.invoked_subcommand not in (None, *_SHARED):
        raise ConfigError(
            f"'{context.invoked_subcommand}' works in one process: start it without torchrun; "
            f"several share the work of {', '.join(_SHARED)}"
        )
    level = logging.ERROR if _FOLLOWS else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(level, console=err, show_path=False, show_time=False)],
    )
    logging.getLogger("heatv2x").setLevel(level)
    if version:
        _say(f"heatv2x {__version__}")
        raise typer.Exit(0)


# --- what the verbs share -------------------------------------------------------------------------------------------


class _Described(Exception):  # noqa: N818 - no fault: how `_config_of` learns the config of a verb
    """Raised where a verb builds its config, when that is all that is asked of it."""

    def __init__(self, config_class: type[Config]) -> None:
        self.config_class = config_class


def _verbs() -> dict[str, Callable[..., Any]]:
    """Every verb that takes settings, by name, with its function."""
    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    commands = [(prefix, command) for prefix, group in groups if group for command in group.registered_commands]
    named = {f"{prefix}{c.name or c.callback.__name__}": c.callback for prefix, c in commands if c.callback}
    return {name: call for name, call in named.items() if "settings" in inspect.signature(call).parameters}


def _config_of(verb: str) -> type[Config]:
    """The config whose fields are a verb's settings: what it builds before it does anything else."""
    global _describing  # noqa: PLW0603
    call = _verbs()[verb]
    needed = [p.name for p in inspect.signature(call).parameters.values() if p.default is inspect.Parameter.empty]
    _describing = True
    try:
        call(**dict.fromkeys(needed, Path()))
    except _Described as described:
        return described.config_class
    finally:
        _describing = False
    raise AssertionError(f"'{verb}' takes settings, but builds no config with them")


def _config(config_class: type[ConfigT], settings: list[str] | None, extra: dict[str, Any] | None = None) -> ConfigT:
    """The config of a verb from its `key=value` words, over a recipe if they name one; every verb starts with this."""
    if _describing:
        raise _Described(config_class)
    typed = parse_overrides(settings or [])
    recipe = typed.pop("recipe", None)
    values, complete, source = typed, False, "command line"
    if recipe is not None:
        path = _recipe_path(str(recipe))
        content = read_recipe(path)
        _check_recipe(config_class, content, path)
        values, source = merge(content, typed), path.name
        complete = set(keys_of(config_class)) <= set(content)  # the config.json of a run names everything
    else:
        _tell_of_replaced(config_class, typed)

    def where(key: Sequence[str]) -> str:
        return "command line" if _names(typed, key) else source

    return build(config_class, {**values, **(extra or {})}, where, complete=complete)


def _names(typed: Mapping[str, Any], key: Sequence[str]) -> bool:
    """Whether the typed settings hold a key, or something inside or around it."""
    node: Any = typed
    for step in key:
        if not isinstance(node, Mapping):
            return True
        if step not in node:
            return False
        node = node[step]
    return bool(key)


def _tell_of_replaced(config_class: type[Config], typed: Mapping[str, Any]) -> None:
    """Say which entries by name a setting pushed out: model.agents.camera.part= leaves no lidar64."""
    for key, given, gone in replaced(config_class, typed):
        keep = [f"{key}.{name}.part={getattr(entry, 'part', '...')}" for name, entry in gone.items()]
        logging.getLogger("heatv2x").warning(
            f"{key} now holds {', '.join(given)} alone: naming one replaces the default, {', '.join(gone)}. "
            f"To keep the default as well, add {' '.join(keep)}"
        )


def _recipe_path(name: str) -> Path:
    """A recipe by name, or a file: a YAML recipe, or the config.json of a run, for which its folder will do."""
    if name.endswith((".yaml", ".yml", ".json")) or "/" in name:
        return Path(name, "config.json") if Path(name).is_dir() else Path(name)
    path = recipes.FOLDER / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(f"unknown recipe '{name}'; {nearest(name, (p.stem for p in recipes.FOLDER.glob('*.yaml')))}")
    return path


def _check_recipe(config_class: type[Config], content: Mapping[str, Any], path: Path) -> None:
    """Refuse a recipe of another verb in one sentence.

    Raises:
        ConfigError: it holds keys that this verb does not know, and another verb knows them all.
    """
    strange = sorted(set(content) - set(keys_of(config_class)))
    if not strange:
        return
    configs = {verb: _config_of(verb) for verb in _verbs()}
    fits = [verb for verb, config in configs.items() if set(content) <= set(keys_of(config))]
    here = [verb for verb, config in configs.items() if config is config_class]
    if fits:
        raise ConfigError(
            f"{path} is a recipe for {_either(fits)}, not for {_either(here)}, "
            f"which has no setting {', '.join(strange)}"
        )


def _either(verbs: Sequence[str]) -> str:
    return " or ".join(f"'{verb}'" for verb in verbs)


def _job(config_class: type[ConfigT], job: Callable[..., Any], settings: list[str] | None) -> None:
    with _together():
        config = _config(config_class, settings)
        with _bars() as report:
            result = job(config, report)
    frozen = result.record.frozen_proof["tensors"]
    _say(
        f"{result.record.stage}: {counted(result.record.steps, 'step')}, "
        f"{counted(result.record.trained_parameters, 'trained parameter')}, "
        f"{result.seconds:.1f} CPU seconds ({result.wall_seconds:.1f} s on the clock)"
        + (f", {frozen} frozen tensors unchanged" if frozen else "")
    )
    for path in result.packs:
        _say(f"  {path}")


@contextmanager
def _together() -> Iterator[None]:
    """Work with the other processes, if torchrun started several; they meet before anything can fail."""
    from heatv2x.core import distributed

    distributed.join()
    yield
    distributed.leave()


@contextmanager
def _bars(finished_go: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars by name of the work, with time left; plain lines now and then if the output is not a terminal."""
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=_FOLLOWS) as progress:
        tasks: dict[str, Any] = {}
        told: dict[str, int] = {}

        def report(told_now: str, done: int, total: int) -> None:
            what, dot, latest = told_now.partition(" · ")  # behind it stands what changes from step to step
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            visible = not (finished_go and done >= total)
            progress.update(tasks[what], description=told_now, completed=done, total=total, visible=visible)
            quarter = 4 * done // max(total, 1)
            if not (err.is_terminal or _FOLLOWS) and told.get(what) != quarter:
                told[what] = quarter
                err.print(f"{what}: {done} of {total}{dot}{latest}", highlight=False)

        yield report


def _over_seeds(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a study as the table of one run shows it: means."""
    seconds = row["train_seconds"]
    return {**row, "ap": {k: v["mean"] for k, v in row["ap"].items()}, "train_seconds": seconds and seconds["mean"]}


def _command() -> str:
    """What makes the numbers: `--finished` only writes them down."""
    return shlex.join(["heatv2x", *(word for word in sys.argv[1:] if word != "--finished")])


def _print_rows(rows: list[dict[str, Any]]) -> None:
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


def _say(text: str) -> None:
    """One line as it is: no markup (paths may hold brackets), no wrapping (paths are copied)."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def _fail(message: str) -> None:
    if _SEVERAL and not _speaks():
        time.sleep(_OTHERS_ARE_TOLD_S)
        sys.exit(2)
    title = "error: " if _PROCESS == 0 else f"error in process {_PROCESS}: "
    err.print(Text(title, style="bold red") + Text(message), highlight=False, soft_wrap=True)
    sys.exit(2)


def _speaks() -> bool:
    """Whether this process tells of the failure: the first that failed; before they met, the first of all."""
    distributed = sys.modules.get("heatv2x.core.distributed")
    return bool(distributed.first_to_fail()) if distributed and distributed.is_joined() else _PROCESS == 0


def _stopped() -> None:
    if _PROCESS == 0:
        err.print("Stopped. What is finished is kept; the same command continues from there.", style="yellow")
    sys.exit(_INTERRUPTED)
