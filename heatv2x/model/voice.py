"""A digest of everything that decides what an agent sends, so that no message needs to be made twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from heatv2x.model.packs import tensors_digest


def voice_of(parts: Mapping[str, nn.Module], about: Mapping[str, Any], left_out: tuple[str, ...] = ()) -> str:
    """A digest that is the same for the same networks with the same settings.

    It covers the values of all tensors, so that training in place changes it, and the plain attributes of all modules:
    a changed threshold changes what is said.

    Args:
        parts: networks by name.
        about: whatever else decides.
        left_out: tensors and modules whose names start so do not count.
    """
    tensors = {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in itertools.chain(module.named_parameters(), module.named_buffers())
        if not f"{part}.{name}".startswith(left_out)
    }
    modules = {
        f"{part}.{name}": _settings_of(module)
        for part, whole in parts.items()
        for name, module in whole.named_modules()
        if not f"{part}.{name}.".startswith(left_out)
    }
    return tensors_digest(tensors, json.dumps({**about, "modules": modules}, sort_keys=True, default=repr))


def _settings_of(module: nn.Module) -> dict[str, Any]:
    """The class of a module and its plain attributes."""
    found: dict[str, Any] = {"class": f"{type(module).__module__}.{type(module).__qualname__}"}
    for name, value in vars(module).items():
        if name == "training" or name.startswith("_"):
            continue
        if isinstance(value, BaseModel):
            found[name] = value.model_dump(mode="json")
        elif isinstance(value, bool | int | float | str | tuple | torch.dtype) or value is None:
            found[name] = repr(value)
    return found
