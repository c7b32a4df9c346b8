"""Which device, and how a batch gets there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from heatv2x.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]


def find_device(wanted: Device) -> torch.device:
    """The device of a setting: "auto" takes CUDA if there is one; the processes of one machine take one GPU each.

    Raises:
        ConfigError: there is no GPU, or none for this process.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "device=cuda, but torch finds no GPU here (`heatv2x doctor` says more); set device=cpu, or leave it out"
        )
    place, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= there:
        raise ConfigError(
            f"process {place + 1} of this machine has no GPU of its own, only {there} exist: start at most that many "
            "processes (--nproc-per-node), or set device=cpu"
        )
    torch.cuda.set_device(place)  # a "cuda" without a number now means this one, also in collectives
    return torch.device("cuda", place)


def in_precision(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which matrix products on the device are in "bfloat16", or in the usual "float32"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def in_full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which matrix products on the device are in float32, whatever is around it."""
    return torch.autocast(device.type, enabled=False) if device.type in ("cpu", "cuda") else nullcontext()


ON_HOST = {"on_host": True}
"""Metadata of a dataclass field that `to_device` leaves where it is: small, and read by Python, not by kernels."""


def to_device(content: Any, device: torch.device) -> Any:
    """Tensors, and lists, dicts and dataclasses of them, on the device; everything else unchanged.

    Fields of a dataclass that are marked `ON_HOST` stay. What lies in page-locked memory is not waited for.
    """
    return _mapped(content, lambda tensor: tensor.to(device, non_blocking=tensor.device.type == "cpu"))


def pinned(content: Any) -> Any:
    """Tensors, and lists, dicts and dataclasses of them, in page-locked memory, but for fields marked `ON_HOST`."""
    return _mapped(content, Tensor.pin_memory)


def _mapped(content: Any, move: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(content, Tensor):
        return move(content)
    if isinstance(content, dict):
        return {key: _mapped(value, move) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_mapped(value, move) for value in content)
    if is_dataclass(content) and not isinstance(content, type):
        moved = [f.name for f in fields(content) if f.init and not f.metadata.get("on_host")]
        return replace(content, **{name: _mapped(getattr(content, name), move) for name in moved})
    return content


def precision_on(device: torch.device, wanted: str = "auto") -> str:
    """ "bfloat16" or "float32": what was asked for, or for "auto" what the device multiplies natively."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bfloat16" if native else "float32"
