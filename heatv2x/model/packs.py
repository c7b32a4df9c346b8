"""Packs: what is handed from one party to another. safetensors with a manifest, nothing that could run.

A base pack (shared backbone, fusion, neck, head), an agent pack (one encoder, and the detector that a newcomer keeps)
or an adapter pack (what a newcomer trained: a `sender` part for its own vehicle and a `receiver` part for everybody's).
The manifest names the feature space, so that an adapter for another base is refused, and carries a hash of the tensors,
so that damage is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from heatv2x.core.files import refuse_stand_in, write_bytes
from heatv2x.errors import PackError
from heatv2x.model.pretrained import pack_path

FORMAT = 1
Kind = Literal["base", "agent", "adapter"]


@dataclass
class Pack:
    """Tensors and what they are.

    Attributes:
        kind: base, agent or adapter.
        agent_type: the type's name for agent and adapter packs, "" for a base.
        feature_space: hex id of the base it belongs to; for an agent pack the base it was trained with, or "" if none.
        config: the part's or model's settings, enough to build it.
        tensors: by name.
        provenance: how it was made: recipe, command, seed, data, cost, code version.
        path: where it was read from.
    """

    kind: Kind
    agent_type: str
    feature_space: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def parameters(self) -> int:
        """Number of values."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def manifest(self) -> dict[str, Any]:
        """Everything but the tensors."""
        about = {
            "format": FORMAT,
            "kind": self.kind,
            "agent_type": self.agent_type,
            "feature_space": self.feature_space,
            "config": self.config,
            "provenance": self.provenance,
        }
        return {**about, "sha256": tensors_digest(self.tensors, json.dumps(about, sort_keys=True))}


def tensors_digest(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """Hex SHA-256 over a text, and over names, shapes, types and values in the order of the names."""
    digest = hashlib.sha256(about.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        # as bytes, because numpy lacks bfloat16
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_pack(pack: Pack, path: str | Path) -> Path:
    """Write a pack as a whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in pack.tensors.items()}
    write_bytes(path, safetensors.torch.save(tensors, {"manifest": json.dumps(pack.manifest(), sort_keys=True)}))
    return Path(path)


def read_pack(path: str | Path, kind: Kind | None = None) -> Pack:
    """Read a pack and verify its hash.

    Args:
        path: a file, or the name of a pack that comes with HeatV2X ("shipped:base").
        kind: what is needed.

    Raises:
        PackError: the file is missing, damaged, of a newer format, or not of the wanted kind.
        DataError: it is only a pointer to the file (Git LFS).
    """
    source = pack_path(path)
    refuse_stand_in(source)
    try:
        with safetensors.safe_open(source, "pt") as file:
            manifest = json.loads((file.metadata() or {})["manifest"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if manifest["format"] != FORMAT:
            raise PackError(f"{source}: has pack format {manifest['format']}, but this version reads {FORMAT}")
        pack = Pack(
            manifest["kind"],
            manifest["agent_type"],
            manifest["feature_space"],
            manifest["config"],
            tensors,
            manifest["provenance"],
            source,
        )
        digest = manifest["sha256"]
    except OSError as error:
        raise PackError(f"{source}: cannot be read: {error.strerror or error}") from error
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PackError(f"{source}: is not a pack, or is damaged ({error}): get it again") from error
    if pack.manifest()["sha256"] != digest:
        raise PackError(
            f"{source}: the content does not match the manifest's hash {digest[:16]}...: "
            "the file is damaged, get it again"
        )
    if kind is not None and pack.kind != kind:
        raise PackError(f"{source}: is an {pack.kind} pack, but a {kind} pack is needed here")
    return pack
