"""`world` and `data`: build the synthetic world; check, index and draw a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from heatv2x.cli.console import bars, out, say
from heatv2x.cli.verbs import Folder, Settings, Verb
from heatv2x.errors import ConfigError

if TYPE_CHECKING:
    from heatv2x.data.check import CheckConfig, IndexConfig
    from heatv2x.evaluation.view_config import ViewConfig
    from heatv2x.world.config import WorldConfig

app = typer.Typer(help="Check a dataset before training, index it, draw it.", no_args_is_help=True)
world = typer.Typer(help="Build the synthetic world.", no_args_is_help=True)
_BUILD: Verb[WorldConfig] = Verb("world build", "heatv2x.world.config:WorldConfig")
_CHECK: Verb[CheckConfig] = Verb("data check", "heatv2x.data.check:CheckConfig")
_INDEX: Verb[IndexConfig] = Verb("data index", "heatv2x.data.check:IndexConfig")
_VIEW: Verb[ViewConfig] = Verb("data view", "heatv2x.evaluation.view_config:ViewConfig")
FrameAndSettings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FRAME] key=value", help="The frame (by default the first), and settings."),
]


@world.command("build")
def world_build(settings: Settings = None) -> None:
    """Write a synthetic dataset in the layout of OPV2V-H.

    For example: out=runs/world train=40 validate=4 test=8 seed=1
    """
    from heatv2x.world.build import build_world

    config = _BUILD.read(settings)
    with bars() as report:
        summary = build_world(config, lambda done, total: report("building the world", done, total))
    table = Table("split", "scenarios", "frames", "agents per frame", "objects per frame", "seen by the ego", box=None)
    for name, split in summary.splits.items():
        if split.frames:
            share = f"{100 * split.ego_objects / max(split.objects, 1):.0f} %"
            means = (f"{split.agent_frames / split.frames:.1f}", f"{split.objects / split.frames:.1f}")
            table.add_row(name, str(split.scenarios), str(split.frames), *means, share)
    out.print(table)
    say(f"World: {config.out}")


@app.command("check")
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
    from heatv2x.data.check import inspect

    config = _CHECK.read(settings)
    with bars(finished_go=True) as report:
        inspection = inspect(path, config, report)
    if config.json_ is not None:
        write_json(config.json_, inspection.to_json())
    if as_json:
        out.print_json(data=inspection.to_json())
    else:
        print_inspection(inspection, out)
    if not inspection.ok:
        raise typer.Exit(2)


@app.command("index")
def data_index(path: Folder, settings: Settings = None) -> None:
    """Parse descriptive files once, so that later runs start fast."""
    from heatv2x.cli.tables import print_indexes
    from heatv2x.data.check import build_indexes

    config = _INDEX.read(settings)
    with bars(finished_go=True) as report:
        indexes = build_indexes(path, config, report)
    print_indexes(indexes, out)


@app.command("view")
def data_view(path: Folder, settings: FrameAndSettings = None) -> None:
    """Draw a frame, and what a model detects in it.

    FRAME is its number, or scenario/timestamp. For example: DATA 12 out=frame.png (or .html, .rrd for rerun, .gif for a
    film); packs=[shipped:base,shipped:lidar64] draws what they detect.
    """
    from heatv2x.evaluation.viewer import show

    words = [word for word in settings or [] if "=" in word]
    frames = [word for word in settings or [] if "=" not in word]
    if len(frames) > 1:
        raise ConfigError(f"give one frame, not several: {' or '.join(frames)}")
    config = _VIEW.read([*words, *(f"frame={frame}" for frame in frames)])
    with bars(finished_go=True) as report:
        lines = show(path, config, report)
    for line in lines:
        say(line)
