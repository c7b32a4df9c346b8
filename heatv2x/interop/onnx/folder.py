"""A whole collaboration as a folder of ONNX files with a manifest, every file checked in onnxruntime first."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import logging
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pydantic
import safetensors.torch
import torch

from heatv2x import __version__
from heatv2x.core import plugins
from heatv2x.core.config import Config
from heatv2x.core.files import read_json, write_json
from heatv2x.errors import DataError, PackError
from heatv2x.interop.onnx.compiled import compile_networks, require_compiler
from heatv2x.interop.onnx.ego import HeadStage, ReceivedAdapter, Warp, fusion_of
from heatv2x.interop.onnx.graph_file import Written, check, measure_session, require_packages, write_stage
from heatv2x.interop.onnx.run_packs import packs_of
from heatv2x.interop.onnx.senders import Sender
from heatv2x.interop.onnx.stage import ExportStage
from heatv2x.link.message import CODES
from heatv2x.model.assembly import assemble, read_all, resolved
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.networks import ENCODES
from heatv2x.model.packs import Pack
from heatv2x.model.pretrained import PackPath
from heatv2x.model.variants import without_reader

KIND = "heatv2x onnx"
FORMAT = 1
MANIFEST, CODEBOOK = "manifest.json", "codebook.safetensors"
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
log = logging.getLogger(__name__)
Tell = Callable[[str, int, int], None]


class ExportConfig(Config):
    """Attributes:
    run: a folder that heatv2x demo, train or adapt wrote.
    packs: the base, agent and adapter packs, instead of run.
    allow_parts: parts from outside HeatV2X ("package.module:Class") that packs may name; their code is imported.
    out: the folder for the files; an earlier export in it is replaced.
    agents: the numbers of agents that every file is checked and timed with.
    tolerance: largest difference between onnxruntime and torch, as a share of the largest value (or of 1).
    repeats: rounds of timing; the median counts.
    compile: time torch.compile, too; needs a C++ compiler and takes minutes.
    """

    run: Path | None = None
    packs: tuple[PackPath, ...] = ()
    allow_parts: tuple[str, ...] = ()
    out: Path
    agents: tuple[pydantic.PositiveInt, ...] = pydantic.Field((1, 2, 3, 5), min_length=1)
    tolerance: float = pydantic.Field(1e-4, gt=0)
    repeats: int = pydantic.Field(9, gt=0)
    compile: bool = False

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> ExportConfig:
        if (self.run is None) == (not self.packs):
            raise ValueError("give either run=FOLDER or packs=[base.safetensors, ...]")
        return self


def export_onnx(config: ExportConfig, tell: Tell) -> dict[str, Any]:
    """Export, check and time every stage; the files are put in place only once all of them are right.

    Returns:
        The content of the manifest.

    Raises:
        ExportError: a part cannot be exported, or computes something else as a file.
        PackError: packs are missing, damaged or do not fit.
    """
    require_packages()
    if config.compile:
        require_compiler()
    base, agents, adapters = read_all(packs_of(config.run) if config.run else config.packs)
    if not agents:
        raise PackError(f"{base.path}: no agent packs were given, so no sender can be exported")
    with plugins.allowing(config.allow_parts):
        model = _exportable(assemble(Collaboration, base, agents, adapters))
    names = [pack.agent_type for pack in agents]
    stages = stages_of(model, names)
    twins: Sequence[ExportStage | None] = [None] * len(stages)
    if config.compile:
        twin = copy.deepcopy(model)
        twins = stages_of(twin, names)
        compile_networks(twin)
    _prepare(config.out)
    with tempfile.TemporaryDirectory(prefix=f".{config.out.name}.", dir=config.out.parent) as temporary:
        written: list[Written] = []
        for stage, compiled in zip(stages, twins, strict=True):
            tell("exporting, checking, measuring", len(written), len(stages))
            file = write_stage(stage, Path(temporary) / f"{stage.name}.onnx")
            check(file, config.agents, config.tolerance)
            measure_session(file, config.agents, config.repeats, compiled, config.tolerance)
            written.append(file)
        tell("exporting, checking, measuring", len(stages), len(stages))
        manifest = manifest_of(model, [base, *agents, *adapters], written, config.tolerance)
        tables = None if model.codebook is None else Path(temporary) / CODEBOOK
        if model.codebook is not None and tables is not None:
            safetensors.torch.save_file({"tables": model.codebook.tables.contiguous()}, tables)
            manifest["codebook"] = {"file": CODEBOOK, "sha256": hashlib.sha256(tables.read_bytes()).hexdigest()}
        _place(written, config.out, manifest, tables)
    return manifest


def _exportable(model: Collaboration) -> Collaboration:
    """The model as its files will work: whole features in 8 bits a value, and no boxes read.

    The reader of boxes and the choice of cells for a budget run in torch alone. Codes that others send are understood:
    the codebook is exported, too.
    """
    if model.config.reader is not None:
        log.warning(
            "the exported vehicle reads no boxes behind features and sends whole features as int8: the base's reader, "
            "and budget_bytes, are not exported"
        )
        model = without_reader(model)
    model.use_budget(None)
    if model.codec == CODES:
        model.use_codec("int8")
    return model.eval()


def stages_of(model: Collaboration, agent_types: Collection[str]) -> list[ExportStage]:
    """The stages of a model, in the order of the method.

    Args:
        agent_types: the types whose encoders are there.

    Raises:
        PackError: one of them has no encoder weights.
    """
    model.require(agent_types, ENCODES)
    return [
        *(Sender(model, name) for name in agent_types),
        Warp(model),
        *(ReceivedAdapter(model, name) for name in model.receivers),
        fusion_of(model),
        HeadStage(model),
    ]


def manifest_of(
    model: Collaboration, packs: Sequence[Pack], written: Sequence[Written], tolerance: float
) -> dict[str, Any]:
    """Everything one must know to run the files."""
    config = model.config
    agents = {name: resolved("agents", part) for name, part in config.agents.items()}
    parts = {"fusion": resolved("fusion", config.fusion), "head": resolved("heads", config.head), "agents": agents}
    return {
        "kind": KIND,
        "format": FORMAT,
        "feature_space": model.feature_space.hex(),
        "code_version": __version__,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "model": config.model_copy(update=parts).model_dump(mode="json"),
        "joined": {name: joining.model_dump(mode="json") for name, joining in model.joined.items()},
        "types": {name: number for number, name in enumerate([*config.agents, *model.joined])},
        "packs": [
            {
                "kind": pack.kind,
                "agent_type": pack.agent_type,
                "file": pack.path.name if pack.path else "",
                "sha256": hashlib.sha256(pack.path.read_bytes()).hexdigest() if pack.path else "",
            }
            for pack in packs
        ],
        "tolerance": tolerance,
        "threads": torch.get_num_threads(),
        "stages": [file.to_json() for file in written],
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder.

    Raises:
        DataError: there is none, or it is something else.
    """
    content = read_json(folder / MANIFEST)
    if not isinstance(content, dict) or content.get("kind") != KIND or content.get("format") != FORMAT:
        raise DataError(
            folder / MANIFEST, "was not written by heatv2x export onnx of this version", way_out="choose another folder"
        )
    return content


def _prepare(out: Path) -> None:
    """Check that the folder can be written before spending minutes on the export."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(out, f"cannot be written: {error.strerror}", way_out="choose another out=FOLDER") from error
    if (out / MANIFEST).exists():
        read_manifest(out)


def _place(written: Sequence[Written], out: Path, manifest: dict[str, Any], tables: Path | None = None) -> None:
    """Put the files in place of an earlier export; a folder without a manifest is not an export."""
    earlier = {stage["file"] for stage in read_manifest(out)["stages"]} if (out / MANIFEST).exists() else set()
    (out / MANIFEST).unlink(missing_ok=True)
    (out / CODEBOOK).unlink(missing_ok=True)
    for path in (*(file.path for file in written), *(() if tables is None else (tables,))):
        path.replace(out / path.name)
    for name in earlier - {file.path.name for file in written}:
        (out / name).unlink(missing_ok=True)
    write_json(out / MANIFEST, manifest)
