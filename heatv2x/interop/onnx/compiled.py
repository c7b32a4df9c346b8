"""torch.compile, to be compared with onnxruntime and with plain torch."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

from torch import nn

from heatv2x.interop.onnx.stage import ExportError
from heatv2x.model.collaboration import Collaboration


def compile_networks(model: Collaboration) -> None:
    """Let a model's networks compile when they are first called; results stay the same except for rounding.

    Raises:
        ExportError: there is no C++ compiler, without which torch.compile fails in the middle.
    """
    require_compiler()
    # in this process, so that its CPU seconds can be counted
    inductor: Any = importlib.import_module("torch._inductor.config")
    inductor.compile_threads = 1
    for part in networks(model):
        part.compile()


def networks(model: Collaboration) -> Iterator[nn.Module]:
    """The networks that are called on their own."""
    yield from model.agents.values()
    for adapters in model.senders.values():
        yield from adapters.children()
    yield from model.receivers.values()
    yield from (model.backbone, model.fusion, model.neck, model.head)


def require_compiler() -> None:
    """Check that there is a C++ compiler.

    Raises:
        ExportError: there is none.
    """
    wanted = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if not any(shutil.which(name) for name in wanted):
        raise ExportError(
            f"compile=true needs a C++ compiler, but there is no {' or '.join(wanted)} here.\n"
            "  Way out: apt-get install g++, or leave compile=true out"
        )
