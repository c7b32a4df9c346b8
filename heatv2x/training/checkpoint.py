"""Checkpoints without pickle: one safetensors file that holds everything an exact continuation needs.

Random numbers are drawn from (seed, step), so a step number replaces every generator's state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from heatv2x.core.files import write_bytes
from heatv2x.errors import DataError


class Averaged(Protocol):
    """A moving average of weights.

    Attributes:
        average: the tensors by name.
        steps: how many it has taken in.
    """

    average: dict[str, Tensor]
    steps: int


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    record: dict[str, Any],
    average: Averaged | None = None,
) -> None:
    """Write model, optimiser and record as a whole or not at all.

    Args:
        record: what the loop knows (step, seconds, curve, settings); becomes JSON metadata.
        average: of the weights, if one is kept.
    """
    tensors = {f"model.{name}": value for name, value in _on_host(model).items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value).cpu() for key, value in state.items()}
    if average is not None:
        tensors |= {f"average.{name}": value.cpu().contiguous() for name, value in average.average.items()}
    write_bytes(path, safetensors.torch.save(tensors, {"record": json.dumps(record)}))


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Averaged | None = None
) -> dict[str, Any]:
    """Restore model, optimiser and the average of the weights, if one is kept, and give the record back.

    Raises:
        DataError: the file is corrupt or belongs to another model.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {})["record"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        own = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        model.load_state_dict(own)
        if average is not None and record["identity"].get("ema"):  # else other settings, which the caller refuses
            for name, value in average.average.items():
                value.copy_(tensors[f"average.{name}"])
            average.steps = int(record["steps"])
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            path, f"training cannot continue from it: {error}", way_out="delete it to start this stage again"
        ) from error
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return record


def save_weights(path: Path, model: nn.Module, about: dict[str, Any]) -> None:
    """Write the weights alone, and what is known of them, as a whole or not at all."""
    write_bytes(path, safetensors.torch.save(_on_host(model), {"about": json.dumps(about, sort_keys=True)}))


def load_weights(path: Path, model: nn.Module, about: dict[str, Any]) -> None:
    """Restore weights that `save_weights` kept.

    Args:
        about: what was said of them.

    Raises:
        DataError: the file is missing or corrupt, or holds other weights.
    """
    way_out = "the weights of the last step are in checkpoint.safetensors: start the same command with keep=last"
    try:
        with safetensors.safe_open(path, "pt") as file:
            known = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if known != about:
            raise ValueError(f"holds the weights of {known}, not those of {about}")
        model.load_state_dict(tensors)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise DataError(path, f"the best weights cannot be read: {error}", way_out=way_out) from error


def _on_host(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
