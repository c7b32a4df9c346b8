"""Bring a batch to a device."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


def to_device(content: Any, device: torch.device) -> Any:
    """Tensors, and lists, dicts and dataclasses of them, on the device; everything else as it is."""
    if isinstance(content, Tensor):
        return content.to(device)
    if isinstance(content, dict):
        return {key: to_device(value, device) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(to_device(value, device) for value in content)
    if is_dataclass(content) and not isinstance(content, type):
        tensors = {f.name: to_device(getattr(content, f.name), device) for f in fields(content) if f.init}
        return replace(content, **tensors)
    return content
