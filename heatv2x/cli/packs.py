"""`pack`, `import` and `export`: what is handed from one party to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatv2x.cli.console import bars, out, say
from heatv2x.cli.verbs import Settings, Verb

if TYPE_CHECKING:
    from heatv2x.interop.heal.checkpoint import HealImport
    from heatv2x.interop.onnx.folder import ExportConfig

app = typer.Typer(help="Inspect and verify packs.", no_args_is_help=True)
import_ = typer.Typer(help="Import networks from other projects.", no_args_is_help=True)
export = typer.Typer(help="Export networks for other runtimes.", no_args_is_help=True)
_HEAL: Verb[HealImport] = Verb("import heal", "heatv2x.interop.heal.checkpoint:HealImport")
_ONNX: Verb[ExportConfig] = Verb("export onnx", "heatv2x.interop.onnx.folder:ExportConfig")


@app.command("inspect")
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


@app.command("verify")
def pack_verify(
    paths: list[Path],
    allow_part: Annotated[
        list[str] | None,
        typer.Option("--allow-part", help="Allow packs to name this part from outside HeatV2X: package.module:Class"),
    ] = None,
) -> None:
    """Check packs, and whether they fit together.

    The hash of each; and if a base pack is among them, that the others can be used with it.
    """
    from heatv2x.core import plugins
    from heatv2x.model.assembly import assemble, read_all
    from heatv2x.model.collaboration import Collaboration
    from heatv2x.model.packs import read_pack

    for path in paths:
        pack = read_pack(path)
        say(f"ok  {path}  {pack.kind} {pack.agent_type} {pack.parameters:,} parameters")
    if any(read_pack(path).kind == "base" for path in paths):
        with plugins.allowing(allow_part or ()):
            assemble(Collaboration, *read_all(paths))
        out.print("ok  they fit together")


@app.command("rewrite")
def pack_rewrite(paths: list[Path]) -> None:
    """Bring packs of an earlier version up to date.

    Give a base together with the agent and adapter packs that belong to it. Tensors stay as they are.
    """
    from heatv2x.model.pack_rewriting import rewrite

    changed = rewrite(paths)
    for path in paths:
        say(f"{'rewritten' if path in changed else 'unchanged'}  {path}")


@import_.command("heal")
def import_heal(checkpoint: Path, settings: Settings = None) -> None:
    """Turn a checkpoint of HEAL into packs.

    For example: net_epoch_bestval_at23.pth out=runs/heal names.m1=lidar64
    """
    from heatv2x.interop.heal import checkpoint as heal

    config = _HEAL.read(settings)
    imported = heal.import_heal(checkpoint, config)
    for note in imported.notes:
        say(f"note: {note}")
    for name, number in imported.types.items():
        parameters = sum(p.numel() for p in imported.model.agent(name).parameters())
        say(f"{number} is {name}: {parameters:,} parameters")
    for path in imported.files:
        say(f"  {path}")


@export.command("onnx")
def export_onnx(settings: Settings = None) -> None:
    """Write a model as ONNX files, checked in onnxruntime.

    For example: run=runs/demo out=onnx, or packs=[shipped:base,shipped:lidar64] out=onnx
    """
    from heatv2x.cli.tables import print_export
    from heatv2x.interop.onnx import folder

    config = _ONNX.read(settings)
    with bars(finished_go=True) as report:
        manifest = folder.export_onnx(config, report)
    print_export(manifest, out)
    say(f"\nFiles: {config.out}\nWhat goes in and comes out: {config.out / folder.MANIFEST}")
