"""The command line: verbs, `key=value` settings, progress, tables, and one clear message for a user's mistake."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
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
from heatv2x.config import Config, ConfigT, build, merge, parse_overrides, read_recipe
from heatv2x.errors import ConfigError, HeatError
from heatv2x.memory import set_up_process

app = typer.Typer(
    name="heatv2x",
    help="Collaborative perception between agents that carry different sensors and networks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
world_app = typer.Typer(help="The synthetic world.", no_args_is_help=True)
train_app = typer.Typer(help="Train a base, or pretrain a newcomer's encoder.", no_args_is_help=True)
adapt_app = typer.Typer(help="Let a new agent type join a frozen base.", no_args_is_help=True)
data_app = typer.Typer(help="Look through a dataset before training, index it, draw it.", no_args_is_help=True)
bench_app = typer.Typer(help="Studies whose results are in docs/benchmarks.", no_args_is_help=True)
pack_app = typer.Typer(help="Look into packs.", no_args_is_help=True)
import_app = typer.Typer(help="Bring in networks of other projects.", no_args_is_help=True)
export_app = typer.Typer(help="Hand on networks to other runtimes.", no_args_is_help=True)
app.add_typer(world_app, name="world")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(adapt_app, name="adapt")
app.add_typer(pack_app, name="pack")
app.add_typer(bench_app, name="bench")
app.add_typer(import_app, name="import")
app.add_typer(export_app, name="export")

_INTERRUPTED = 130
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
        metavar="key=value", help="Settings (heatv2x settings VERB lists them); recipe=NAME reads a recipe first."
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
    full: Annotated[bool, typer.Option("--full", help="The camera newcomer joins, too.")] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train base and encoders instead of using the packs that come along.")
    ] = False,
) -> None:
    """A new agent type joins an alliance, and the gain is shown: runs/demo/report.html."""
    from heatv2x.demo import DemoConfig, run_demo

    config = _config(DemoConfig, settings, {"full": full, "from_scratch": from_scratch})
    with _bars() as report:
        result = run_demo(config, report)
    _print_rows(result.rows)
    _say(f"\nReport: {result.report}\nNumbers: {result.metrics}")


@app.command()
def doctor() -> None:
    """Check this machine, and say how to mend what is wrong."""
    from heatv2x.doctor import examine

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
    kind: Annotated[str | None, typer.Argument(help="One kind only, and the settings of its parts.")] = None,
) -> None:
    """Every part that can be named in a setting: what it is, where it comes from, what it costs."""
    from heatv2x import plugins
    from heatv2x.catalogue import catalogue, reference
    from heatv2x.config import nearest, settings_of

    if kind is not None and kind not in plugins.CONTRACTS:
        raise ConfigError(f"unknown kind '{kind}'; {nearest(kind, plugins.CONTRACTS)}")
    if not out.is_terminal:
        out.width = 120
    for each in [kind] if kind else plugins.CONTRACTS:
        table = Table(title=each, title_justify="left", box=None, pad_edge=False)
        table.add_column("part", no_wrap=True, min_width=15)
        table.add_column("what it is", ratio=5)
        table.add_column("source", ratio=3)
        for heading in ("parameters", "MFLOP"):
            table.add_column(heading, justify="right", no_wrap=True, min_width=10)
        for entry in catalogue(each):
            parameters = "-" if entry.parameters is None else f"{entry.parameters:,}"
            flops = "-" if entry.flops is None else f"{entry.flops / 1e6:,.1f}"
            table.add_row(entry.name, escape(entry.about), escape(entry.source), parameters, flops)
        out.print(table)
        out.print()
    out.print(reference(), highlight=False)
    if kind in (None, "agents"):
        out.print()
        _print_published_types()
    for name in plugins.available(kind) if kind else []:
        part_config = getattr(plugins.find(kind or "", name), "Config", None)
        rows = settings_of(part_config) if part_config else []
        if rows:
            out.print()
            table = Table("setting", "default", "meaning", title=name, title_justify="left", box=None, pad_edge=False)
            for key, default, meaning in rows:
                table.add_row(key, escape(default or "must be given"), escape(meaning))
            out.print(table)


@app.command()
def settings(verb: Annotated[list[str], typer.Argument(metavar="VERB", help="For example: train base")]) -> None:
    """The settings of a verb, their defaults and what they mean."""
    from heatv2x.bench.config import AdaptationConfig
    from heatv2x.bench.data import DataBenchConfig
    from heatv2x.bench.parameters import ParametersConfig
    from heatv2x.bench.robustness import RobustnessConfig
    from heatv2x.bench.scaling import ScalingConfig
    from heatv2x.bench.speed import SpeedConfig
    from heatv2x.config import nearest, settings_of
    from heatv2x.demo import DemoConfig
    from heatv2x.evaluation import EvalConfig
    from heatv2x.export.folder import ExportConfig
    from heatv2x.imports.heal import HealImport
    from heatv2x.inspection import CheckConfig, IndexConfig
    from heatv2x.training import job_config
    from heatv2x.view import ViewConfig
    from heatv2x.world.config import WorldConfig

    known: dict[str, type[Config]] = {
        "data check": CheckConfig,
        "data index": IndexConfig,
        "data view": ViewConfig,
        "demo": DemoConfig,
        "world build": WorldConfig,
        "train base": job_config.BaseConfig,
        "train encoder": job_config.EncoderConfig,
        "adapt local": job_config.LocalConfig,
        "adapt collaborative": job_config.CollaborativeConfig,
        "adapt backward": job_config.BackwardConfig,
        "adapt full": job_config.FullConfig,
        "eval": EvalConfig,
        "export onnx": ExportConfig,
        "import heal": HealImport,
        "bench parameters": ParametersConfig,
        "bench adaptation": AdaptationConfig,
        "bench scaling": ScalingConfig,
        "bench data": DataBenchConfig,
        "bench speed": SpeedConfig,
        "robustness": RobustnessConfig,
    }
    name = " ".join(verb)
    if name not in known:
        raise ConfigError(f"'{name}' takes no settings; {nearest(name, known)}")
    table = Table("setting", "default", "meaning", box=None, pad_edge=False)
    for key, default, meaning in settings_of(known[name]):
        table.add_row(key, escape(default or "must be given"), escape(meaning))
    out.print(table)


@world_app.command("build")
def world_build(settings: Settings = None) -> None:
    """Write a synthetic multi-agent dataset in the OPV2V-H layout: out=FOLDER frames=N seed=S."""
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
    """Look for what is missing, broken or cannot be true; exit code 2 if there is anything."""
    from heatv2x.files import write_json
    from heatv2x.inspection import CheckConfig, inspect
    from heatv2x.tables import print_inspection

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
    """Parse the descriptions of all splits once, so that every later start is fast."""
    from heatv2x.inspection import IndexConfig, build_indexes
    from heatv2x.tables import print_indexes

    with _bars(finished_go=True) as report:
        indexes = build_indexes(path, _config(IndexConfig, settings), report)
    print_indexes(indexes, out)


@data_app.command("view")
def data_view(path: Folder, settings: FrameAndSettings = None) -> None:
    """Draw a frame, by number or scenario/timestamp: out=frame.png, .html, or .rrd for rerun."""
    from heatv2x.datasets.base import open_dataset
    from heatv2x.inspection import recognise
    from heatv2x.view import ViewConfig, draw, frame_number, look

    words = [word for word in settings or [] if "=" in word]
    frames = [word for word in settings or [] if "=" not in word]
    if len(frames) > 1:
        raise ConfigError(f"one frame at a time: {' or '.join(frames)}")
    config = _config(ViewConfig, [*words, *(f"frame={frame}" for frame in frames)])
    part, _, tree = recognise(path, config.dataset)
    dataset = open_dataset(part.part, path, config.split or tree.splits[0], part.settings)
    index = frame_number(dataset, config.frame)
    draw(look(dataset, index, config), config.out)
    _say(f"{dataset.name(index)}, frame {index} of {len(dataset)}: {config.out}")


@train_app.command("base")
def train_base(settings: Settings = None) -> None:
    """Train a base with its own agents, collaboratively: data=FOLDER out=FOLDER steps=N."""
    from heatv2x.training import job_config, jobs

    _job(job_config.BaseConfig, jobs.train_base, settings)


@train_app.command("encoder")
def train_encoder(settings: Settings = None) -> None:
    """Pretrain a newcomer's encoder alone: data=FOLDER name=TYPE agent.part=KIND."""
    from heatv2x.training import job_config, jobs

    _job(job_config.EncoderConfig, jobs.train_encoder, settings)


@adapt_app.command("local")
def adapt_local(settings: Settings = None) -> None:
    """LHFT: train a newcomer's adapters on its own data: data= base= agents=[...] newcomer=TYPE."""
    from heatv2x.training import job_config, jobs

    _job(job_config.LocalConfig, jobs.adapt_local, settings)


@adapt_app.command("collaborative")
def adapt_collaborative(settings: Settings = None) -> None:
    """GCFT: train everything that is the newcomer's in mixed scenes: as local, and adapter=PACK."""
    from heatv2x.training import job_config, jobs

    _job(job_config.CollaborativeConfig, jobs.adapt_collaborative, settings)


@adapt_app.command("backward")
def adapt_backward(settings: Settings = None) -> None:
    """Backward alignment (HEAL), a rival: the newcomer's whole encoder against the frozen base; as local."""
    from heatv2x.training import job_config, jobs

    _job(job_config.BackwardConfig, jobs.align_backward, settings)


@adapt_app.command("full")
def adapt_full(settings: Settings = None) -> None:
    """Full fine-tuning of base and newcomer, the yardstick: as local."""
    from heatv2x.training import job_config, jobs

    _job(job_config.FullConfig, jobs.full_finetune, settings)


@app.command("eval")
def evaluate(settings: Settings = None) -> None:
    """Evaluate packs: packs=[...] data=FOLDER ego=TYPE senders=TYPE, channel.sigma_m=0.4 and so on."""
    from heatv2x.evaluation import EvalConfig, run_eval

    with _together():
        config = _config(EvalConfig, settings)
        with _bars() as report:
            rows = run_eval(config, report)
    _print_rows(rows)
    _say(f"Numbers: {config.out / 'metrics.json'}")


@pack_app.command("inspect")
def pack_inspect(path: Path) -> None:
    """Show a pack's manifest."""
    from heatv2x.packs import read_pack

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
def pack_verify(paths: list[Path]) -> None:
    """Check hashes, and that agent and adapter packs fit the base pack among them."""
    from heatv2x.assembly import assemble, read_all
    from heatv2x.packs import read_pack

    for path in paths:
        pack = read_pack(path)
        _say(f"ok  {path}  {pack.kind} {pack.agent_type} {pack.parameters:,} parameters")
    if any(read_pack(path).kind == "base" for path in paths):
        assemble(*read_all(paths))
        out.print("ok  they fit together")


@import_app.command("heal")
def import_heal(checkpoint: Path, settings: Settings = None) -> None:
    """A HEAL checkpoint to packs: CKPT out=FOLDER, names.m1=lidar64 and so on."""
    from heatv2x.imports import heal

    imported = heal.import_heal(checkpoint, _config(heal.HealImport, settings))
    for note in imported.notes:
        _say(f"note: {note}")
    for name, number in imported.types.items():
        parameters = sum(p.numel() for p in imported.model.agent(name).parameters())
        _say(f"{number} is {name}: {parameters:,} parameters")
    for path in imported.files:
        _say(f"  {path}")


@export_app.command("onnx")
def export_onnx(settings: Settings = None) -> None:
    """Encoders, fusion and head as ONNX files, checked in onnxruntime: run=FOLDER (or packs=[...]) out=FOLDER."""
    from heatv2x.export import folder
    from heatv2x.tables import print_export

    config = _config(folder.ExportConfig, settings)
    with _bars(finished_go=True) as report:
        manifest = folder.export_onnx(config, report)
    print_export(manifest, out)
    _say(f"\nFiles: {config.out}\nWhat goes in and comes out: {config.out / folder.MANIFEST}")


Quick = Annotated[bool, typer.Option("--quick", help="One seed and very little of everything: a check, no result.")]


@bench_app.command("adaptation")
def bench_adaptation(
    settings: Settings = None,
    quick: Quick = False,
    finished: Annotated[bool, typer.Option("--finished", help="Write the page from what is finished.")] = False,
) -> None:
    """The adaptation study: every rival, every control, several seeds; continues where it was interrupted."""
    from heatv2x.bench import adaptation, config
    from heatv2x.bench.page import write_page
    from heatv2x.bench.summary import summarise

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
    """How much a newcomer trains at published size, against full fine-tuning: counted from the recipes."""
    from heatv2x.bench import parameters

    config = _config(parameters.ParametersConfig, settings)
    counts = parameters.count()
    table = Table("base", "newcomer", "full fine-tuning", "trained", "share", box=None)
    for each in counts:
        table.add_row(each.base, each.newcomer, f"{each.full:,}", f"{each.gcft:,}", f"{100 * each.share:.2f} %")
    out.print(table)
    _say(f"Page: {parameters.write_page(counts, config.docs)}")


@bench_app.command("scaling")
def bench_scaling(settings: Settings = None, quick: Quick = False) -> None:
    """Types that join one after another, and scenes of many agents: what grows, and what does not."""
    from heatv2x.bench import scaling
    from heatv2x.bench.scaling_page import write_page
    from heatv2x.bench.scaling_summary import summarise

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
    """How fast frames are read, against plain PyYAML and naive decoding: data=FOLDER."""
    from heatv2x.bench.data import DataBenchConfig, run_data_bench
    from heatv2x.tables import print_speed

    config = _config(DataBenchConfig, settings)
    with _bars(finished_go=True) as report:
        content = run_data_bench(config, report)
    print_speed(content, out)
    _say(f"Numbers: {config.out}")


@bench_app.command("speed")
def bench_speed(settings: Settings = None, quick: Quick = False) -> None:
    """What a frame, a training step and an evaluation cost, beside the machine's own matrix products."""
    from heatv2x.bench import speed
    from heatv2x.bench.speed_page import write_page
    from heatv2x.bench.speed_summary import summarise
    from heatv2x.tables import print_frames, print_targets

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
    """Wrong poses, late and lost messages: what they do to every method of the adaptation study."""
    from heatv2x.bench import config
    from heatv2x.bench import robustness as study

    wanted = _config(study.RobustnessConfig, settings)
    networks = config.AdaptationConfig()
    if quick:
        wanted, networks = study.quick(wanted), config.quick(networks)
    with _bars(finished_go=True) as report:
        summary = study.run_robustness(wanted, networks, _command(), report)
    clean = [{**row, "ap": {k: sum(v) / len(v) for k, v in row["ap"].items()}} for row in summary["rows"]]
    _print_rows(clean)
    _say(f"\nPage: {wanted.docs / 'robustness.md'}\nNumbers: {wanted.docs / 'robustness.json'}")


@app.command()
def report(settings: Settings = None) -> None:
    """Write report.html from a run folder: run=runs/demo."""
    from heatv2x.report.build import build_report

    values = parse_overrides(settings or [])
    if set(values) != {"run"}:
        raise ConfigError("report takes exactly one setting: run=FOLDER")
    _say(f"Report: {build_report(Path(values['run']))}")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say more.")] = False,
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


def _config(config_class: type[ConfigT], settings: list[str] | None, extra: dict[str, Any] | None = None) -> ConfigT:
    values = parse_overrides(settings or [])
    source = "command line"
    recipe = values.pop("recipe", None)
    if recipe is not None:
        path = Path(recipe) if str(recipe).endswith((".yaml", ".yml")) else _recipe_path(str(recipe))
        values, source = merge(read_recipe(path), values), f"{path.name} or command line"
    return build(config_class, {**values, **(extra or {})}, source)


def _recipe_path(name: str) -> Path:
    from heatv2x.config import nearest

    folder = Path(__file__).parent / "recipes"
    path = folder / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(f"unknown recipe '{name}'; {nearest(name, (p.stem for p in folder.glob('*.yaml')))}")
    return path


def _job(config_class: type[ConfigT], job: Callable[..., Any], settings: list[str] | None) -> None:
    with _together():
        config = _config(config_class, settings)
        with _bars() as report:
            result = job(config, report)
    frozen = result.record.frozen_proof["tensors"]
    _say(
        f"{result.record.stage}: {result.record.steps} steps, {result.record.trained_parameters:,} trained parameters, "
        f"{result.seconds:.1f} CPU seconds ({result.wall_seconds:.1f} s on the clock)"
        + (f", {frozen} frozen tensors unchanged" if frozen else "")
    )
    for path in result.packs:
        _say(f"  {path}")


@contextmanager
def _together() -> Iterator[None]:
    """Work with the other processes, if torchrun started several; they meet before anything can fail."""
    from heatv2x import processes

    processes.join()
    yield
    processes.leave()


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

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total, visible=not (finished_go and done >= total))
            quarter = 4 * done // max(total, 1)
            if not (err.is_terminal or _FOLLOWS) and told.get(what) != quarter:
                told[what] = quarter
                err.print(f"{what}: {done} of {total}", highlight=False)

        yield report


def _over_seeds(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a study as the table of one run shows it: means."""
    seconds = row["train_seconds"]
    return {**row, "ap": {k: v["mean"] for k, v in row["ap"].items()}, "train_seconds": seconds and seconds["mean"]}


def _print_published_types() -> None:
    """Agent types of the literature, and what others call them."""
    from heatv2x.published_types import ALIASES, TYPES

    table = Table(title="published types of agents", title_justify="left", box=None)
    for heading in ("type", "label", "sensor", "agent kind", "elsewhere"):
        table.add_column(heading, no_wrap=heading == "type")
    for name, about in TYPES.items():
        numbers = [f"{who} {number}" for who, known in ALIASES.items() for number, n in known.items() if n == name]
        table.add_row(name, about.label, about.sensor, about.part.part, ", ".join(numbers))
    out.print(table)


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
            *(f"{100 * row['ap'][key]:.1f}" for key in ("0.3", "0.5", "0.7")),
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
    processes = sys.modules.get("heatv2x.processes")
    return bool(processes.first_to_fail()) if processes and processes.met() else _PROCESS == 0


def _stopped() -> None:
    if _PROCESS == 0:
        err.print("stopped; what was finished is kept, the same command continues", style="yellow")
    sys.exit(_INTERRUPTED)
