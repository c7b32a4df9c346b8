"""HEAL checkpoints (Lu et al. 2024) to packs: which networks they hold, what their tensors are called here.

Agents are recognised by what their encoders are made of, not by their numbers, which differ from project to project.
Everything is strict: a tensor that is missing, left over or of another shape ends in a table of all differences. Only
weights are read; a file that holds anything else is refused before any of it could run.

One defect of HEAL's released checkpoints is known and handled: their SECOND was built for 64 input channels and fed 4,
which spconv 1.x did not notice (`_spconv_layout`).
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pydantic
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from heatv2x import __version__
from heatv2x.core.config import Config, merge, nearest
from heatv2x.core.files import refuse_stand_in
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError, PackError
from heatv2x.interop.heal.names import (
    BASIC_BLOCK,
    CAMERA,
    CONVNEXT,
    PILLARS,
    SHARED,
    SPARSE,
    Rules,
    below,
    renamed,
)
from heatv2x.model.assembly import agent_pack, base_pack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig, check_type_name
from heatv2x.model.heads import anchor
from heatv2x.model.packs import write_pack
from heatv2x.model.published_types import TYPES

_VOXEL_CHANNELS = 4  # x, y, z, intensity
_AGENT_KEY = re.compile(r"(encoder|backbone|aligner)_(m\d+)\.")
_SHOWN = 40  # rows of a difference table


@dataclass(frozen=True)
class Architecture:
    """How to recognise an encoder, and its tensors' names.

    Attributes:
        mark: pattern of a tensor that only this encoder has.
        type_name: in `published_types.TYPES`.
        encoder: rules below `encoder_m*.`.
        trunk: what the agent calls its bird's-eye-view trunk.
    """

    mark: str
    type_name: str
    encoder: Rules
    trunk: str


ARCHITECTURES = (
    Architecture(r"pillar_vfe\.", "lidar64_pillars", PILLARS, "trunk"),
    Architecture(r"spconv_block\.", "lidar32_voxels", below("", "sparse.", SPARSE), "trunk"),
    Architecture(r"camencode\.trunk\._conv_stem\.", "camera_efficientnet", CAMERA, "bev"),
    Architecture(r"camencode\.layer1\.", "camera_resnet", CAMERA, "bev"),
)


class HealImport(Config):
    """What an import needs to know that the checkpoint does not say.

    Attributes:
        out: folder for the packs; by default beside the checkpoint, under its name.
        half_extent_m, half_extent_y_m: how far the shared grid reaches ahead and to the sides. HEAL evaluates at 102.4
            both ways and trains at 102.4 by 51.2.
        camera_half_extent_m: how far ahead and to the sides the cameras' own grid reached in training.
        names: by HEAL's number, the name to give a type; by default as in `published_types`.
        settings: by HEAL's number, settings of the agent kind that differ from the published ones.
        codec: how features are packed into messages.
    """

    out: Path | None = None
    half_extent_m: float = pydantic.Field(102.4, gt=0)
    half_extent_y_m: float = pydantic.Field(102.4, gt=0)
    camera_half_extent_m: tuple[float, float] = (51.2, 51.2)
    names: dict[str, str] = pydantic.Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = pydantic.Field(default_factory=dict)
    codec: str = "half"


@dataclass
class Imported:
    """A model from a checkpoint.

    Attributes:
        model: with every tensor loaded, in evaluation mode.
        types: HEAL's number of each type by its name.
        notes: what was changed on the way, for the user to read.
        files: the packs, if they were written.
    """

    model: Collaboration
    types: dict[str, str]
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def import_heal(checkpoint: Path, config: HealImport | None = None) -> Imported:
    """Read a checkpoint and write a base pack and an agent pack per type.

    Raises:
        PackError: the file is not a checkpoint, or holds more than weights, or networks that are not known here.
        ConfigError: a name or setting for a type that the checkpoint does not have.
    """
    config = config or HealImport()
    imported = convert(read_weights(checkpoint), config, str(checkpoint))
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    provenance = {"imported": "HEAL checkpoint", "file": checkpoint.name, "sha256": digest, "version": __version__}
    provenance["notes"] = "; ".join(imported.notes)
    out = config.out or checkpoint.with_suffix("")
    model = imported.model
    imported.files.append(write_pack(base_pack(model, provenance), out / "base.safetensors"))
    for name in imported.types:
        pack = agent_pack(model, name, {**provenance, "type": imported.types[name]})
        imported.files.append(write_pack(pack, out / f"{name}.safetensors"))
    return imported


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, from `.safetensors` or from what `torch.save` wrote.

    Raises:
        PackError: the file cannot be read, or holds anything but tensors by name.
    """
    refuse_stand_in(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle's protocol: what it leads to is said below
                # unpickles tensors and plain containers and nothing else; whatever could run ends in an error
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PackError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"more than weights ({named[1]})" if named else "more than weights"
        out = str(path.with_name(f"{path.stem}_weights.pth"))
        raise PackError(_NOT_WEIGHTS.format(path=path, what=what, path_text=str(path), out=out)) from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise PackError(f"{path}: is not a checkpoint, or is damaged ({_first_line(error)})") from error
    for wrapper in ("state_dict", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        inside = "nothing" if not content else f"a {type(content).__name__}"
        raise PackError(f"{path}: holds {inside}, not tensors by name. {_SAVE}")
    odd = [str(name) for name, value in content.items() if not isinstance(value, Tensor) or not isinstance(name, str)]
    if odd:
        raise PackError(f"{path}: its entry '{odd[0]}' is not a tensor. {_SAVE}")
    return {name.removeprefix("module."): value for name, value in content.items()}


_SAVE = "Save the state_dict and nothing else: torch.save(model.state_dict(), FILE)"
_NOT_WEIGHTS = """{path}: was not opened, because it holds {what}, and loading that would run code.
  Way out: if you trust the file, save its weights alone, in the environment that wrote it:
    model = torch.load({path_text!r}, map_location="cpu", weights_only=False)  # runs the code that the file names
    torch.save(model.state_dict(), {out!r})  # or model["state_dict"], if it is a dict"""
_READ = "`import heal` reads the pyramid models of HEAL (docs/published_models.md)"


def _first_line(error: Exception) -> str:
    """The first line of an error's text, without the escape codes that make a terminal print it bold."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return (text or type(error).__name__).splitlines()[0]


def convert(weights: Mapping[str, Tensor], config: HealImport, source: str = "checkpoint") -> Imported:
    """A model from HEAL's tensors by name."""
    agents, shared = _by_agent(weights)
    if not agents:
        raise PackError(
            f"{source}: holds no encoder_m<number>, so it is not a heterogeneous model of HEAL. {_READ}; "
            "networks of other projects cannot be imported: train a base instead (docs/coming_from_opencood.md)"
        )
    if not any(name.startswith("pyramid_backbone.") for name in shared):
        heads = sorted(name for name in shared if re.match(r"(cls|reg|dir)_head_m\d+\.", name))
        kind = f"it is a late-fusion model, with heads for each type ({heads[0]})" if heads else "it has another fusion"
        raise PackError(
            f"{source}: holds no pyramid fusion (pyramid_backbone): {kind}. {_READ} and no others: use such a "
            "checkpoint, or train a base instead (docs/coming_from_opencood.md)"
        )
    _check_known(config, agents, source)
    notes: list[str] = []
    tensors, unknown = renamed(shared, SHARED)
    parts: dict[str, PartConfig] = {}
    types: dict[str, str] = {}
    origin = {new: old for old in shared for new in renamed({old: shared[old]}, SHARED)[0]}
    for number, own in sorted(agents.items()):
        architecture = _recognise(number, own, source)
        name = config.names.get(number, architecture.type_name)
        if name in parts:
            raise ConfigError(f"{source}: two types are called '{name}'; set names.{number}=ANOTHER_NAME")
        rules = _agent_rules(architecture, number)
        for key, value in own.items():
            new, left = renamed({key: value}, rules)
            unknown += left
            for new_name, tensor in new.items():
                full = f"agents.{name}.{new_name}"
                tensors[full], origin[full] = _spconv_layout(new_name, tensor, number, notes), key
        parts[name] = _part(architecture, own, number, config)
        types[name] = number
    model = Collaboration(_model_config(weights, parts, config)).eval()
    rows = [(name, str(tuple(weights[name].shape)), "-", "not known here") for name in unknown]
    _load(model, tensors, origin, rows, source)
    return Imported(model, types, notes)


def _by_agent(weights: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Each agent's own tensors by its number, and those that all share."""
    agents: dict[str, dict[str, Tensor]] = {}
    shared: dict[str, Tensor] = {}
    for name, value in weights.items():
        mine = _AGENT_KEY.match(name)
        (agents.setdefault(mine[2], {}) if mine else shared)[name] = value
    return agents, shared


def _check_known(config: HealImport, agents: Mapping[str, Any], source: str) -> None:
    for setting, given in (("names", config.names), ("settings", config.settings)):
        for number in given:
            if number not in agents:
                raise ConfigError(f"{setting}.{number}: {source} has no such agent; {nearest(number, agents)}")
    for name in config.names.values():
        try:
            check_type_name(name)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def _recognise(number: str, own: Mapping[str, Tensor], source: str) -> Architecture:
    for architecture in ARCHITECTURES:
        if any(re.match(rf"encoder_{number}\.{architecture.mark}", name) for name in own):
            return architecture
    known = ", ".join(f"{a.type_name} ({a.mark})" for a in ARCHITECTURES)
    raise PackError(f"{source}: the encoder of {number} is not one of the known encoders: {known}")


def _agent_rules(architecture: Architecture, number: str) -> Rules:
    return [
        *below(rf"encoder_{number}\.", "", architecture.encoder),
        *below(rf"backbone_{number}\.resnet\.layer0\.(\d+)\.", rf"{architecture.trunk}.\1.", BASIC_BLOCK),
        *below(rf"aligner_{number}\.channel_align\.model\.(\d+)\.", r"aligner.\1.", CONVNEXT),
    ]


def _part(architecture: Architecture, own: Mapping[str, Tensor], number: str, config: HealImport) -> PartConfig:
    """The agent kind with the numbers that its tensors have."""
    published = TYPES[architecture.type_name].part
    blocks = _count(own, rf"backbone_{number}\.resnet\.layer0\.(\d+)\.")
    found: dict[str, Any]
    if published.part == "lidar_pillar":
        found = {"blocks": blocks - 1}
    else:
        found = {"blocks": blocks, "aligner": _count(own, rf"aligner_{number}\.channel_align\.model\.(\d+)\.")}
    if published.part == "camera_lss":
        depth, lifted = (f"encoder_{number}.camencode.{head}_head.weight" for head in ("depth", "image"))
        found |= {key: len(own[name]) for key, name in (("depth_bins", depth), ("lifted", lifted)) if name in own}
        found["classifier"] = f"encoder_{number}.camencode.trunk._fc.weight" in own
        found["own_half_extent_m"] = config.camera_half_extent_m
    settings = merge({**published.settings, **found}, config.settings.get(number, {}))
    return PartConfig(part=published.part, settings=settings)


def _model_config(weights: Mapping[str, Tensor], parts: dict[str, PartConfig], config: HealImport) -> ModelConfig:
    """The shared parts with the numbers that their tensors have, HEAL's where one is missing."""

    def size(name: str, axis: int, default: int) -> int:
        return weights[name].shape[axis] if name in weights else default

    levels = max(_count(weights, r"pyramid_backbone\.resnet\.layer(\d+)\."), 1)
    channels = size("pyramid_backbone.resnet.layer0.0.conv1.weight", 1, 64)
    widths = [size(f"pyramid_backbone.single_head_{i}.weight", 1, channels * 2**i) for i in range(levels)]
    fusion = {
        "widths": [max(width // channels, 1) for width in widths],
        "blocks": [_count(weights, rf"pyramid_backbone\.resnet\.layer{i}\.(\d+)\.") or 1 for i in range(levels)],
        "enlarged": size("pyramid_backbone.deblocks.0.0.weight", 1, 128),
        "crop": {name: _crop(config) for name, part in parts.items() if part.part == "camera_lss"},
    }
    return ModelConfig(
        half_extent_m=config.half_extent_m,
        half_extent_y_m=config.half_extent_y_m,
        y_right=True,
        cell_m=0.8,
        channels=channels,
        backbone_blocks=0,
        neck="shrink",
        neck_channels=size("cls_head.weight", 1, 256),
        agents=parts,
        fusion=PartConfig(part="pyramid", settings=fusion),
        head=PartConfig(part="anchor", settings=dict(anchor.PUBLISHED)),
        codec=config.codec,
    )


def _crop(config: HealImport) -> tuple[float, float]:
    ahead, aside = config.camera_half_extent_m
    return config.half_extent_m / ahead, config.half_extent_y_m / aside


def _count(names: Iterable[str], pattern: str) -> int:
    """How many there are of something numbered from 0 on."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _spconv_layout(name: str, value: Tensor, number: str, notes: list[str]) -> Tensor:
    """A sparse convolution's weights as (C_out, kz, ky, kx, C_in), from the layout of either spconv.

    spconv 1.x keeps (kz, ky, kx, C_in, C_out), 2.x ours.

    HEAL's released SECOND was built for 64 input channels and fed 4. spconv 1.x took no notice: it viewed the weights
    as (-1, 4, C_out), whatever their size, and used the first kz ky kx of those. So does this; the rest was never used.
    """
    if not (name.startswith("sparse.") and value.ndim == 5):
        return value
    old = value.shape[0] == 3  # all kernels are 3 high, and no layer has 3 output channels
    weights = value if old else value.permute(1, 2, 3, 4, 0)  # (kz, ky, kx, C_in, C_out)
    if name.startswith("sparse.stages.0.0.") and weights.shape[3] == 64:
        kernel, channels_out = weights.shape[:3], weights.shape[4]
        taps = kernel[0] * kernel[1] * kernel[2]
        weights = weights.contiguous().view(-1, _VOXEL_CHANNELS, channels_out)[:taps]
        weights = weights.view(*kernel, _VOXEL_CHANNELS, channels_out)
        unused = value.numel() - weights.numel()
        notes.append(
            f"{number}: SECOND has 64 input channels where its voxels have 4 (known defect of HEAL's checkpoints); "
            f"kept the {weights.numel():,} weights that spconv 1.x really used, dropped {unused:,} that it never used"
        )
    return weights.permute(4, 0, 1, 2, 3).contiguous()


def _load(
    model: Collaboration,
    tensors: Mapping[str, Tensor],
    origin: Mapping[str, str],
    unknown: list[tuple[str, str, str, str]],
    source: str,
) -> None:
    """Fill the model, if every tensor has its place; `unknown` are rows of the table of differences."""
    wanted, rows = model.state_dict(), list(unknown)
    for name in sorted(set(wanted) | set(tensors)):
        given, needed = (str(tuple(state[name].shape)) if name in state else "-" for state in (tensors, wanted))
        if given != needed:
            problem = "missing" if name not in tensors else "left over" if name not in wanted else "another shape"
            rows.append((origin.get(name, "-"), given, needed, f"{problem}: {name}"))
    if rows:
        raise PackError(f"{source}: {len(rows)} tensors do not fit\n{difference_table(rows)}")
    model.load_state_dict(dict(tensors))


def difference_table(rows: list[tuple[str, str, str, str]]) -> str:
    """Lines of what differs: name in the checkpoint, its shape there, the shape here, the problem."""
    heading = ("in the checkpoint", "shape", "here", "problem")
    shown = [heading, *rows[:_SHOWN]]
    widths = [max(len(row[column]) for row in shown) for column in range(3)]
    lines = ["  " + "  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in shown]
    more = len(rows) - _SHOWN
    return "\n".join([*lines, f"  and {more} more"] if more > 0 else lines)
