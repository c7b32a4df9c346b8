"""Find a part by its file name, or by "package.module:Class" from outside.

A part named `hetero_graph` of kind `fusion` is the one class in `heatv2x/fusion/hetero_graph.py` that fulfils the
contract `Fusion` of `heatv2x/fusion/base.py`. There is nothing to register.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from heatv2x.config import nearest
from heatv2x.errors import ConfigError

CONTRACTS = {
    "agents": "Agent",
    "adapters": "Adapter",
    "codecs": "Codec",
    "datasets": "Dataset",
    "fusion": "Fusion",
    "heads": "Head",
}


def available(kind: str) -> list[str]:
    """Names of the parts of one kind; `base.py` holds the contract and is not a part."""
    package = importlib.import_module(f"heatv2x.{kind}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")


def find(kind: str, name: str) -> Any:
    """The class of a part.

    Args:
        kind: a key of `CONTRACTS`.
        name: a file name in `heatv2x/<kind>/`, or "package.module:Class".

    Raises:
        ConfigError: there is no such part; the message names the nearest one.
    """
    if ":" in name:
        return _find_outside(kind, name)
    if name not in available(kind):
        raise ConfigError(f"unknown {kind} part '{name}'; {nearest(name, available(kind))}")
    module = importlib.import_module(f"heatv2x.{kind}.{name}")
    contract = _contract(kind)
    members = inspect.getmembers(module, inspect.isclass)
    parts = [member for _, member in members if member.__module__ == module.__name__ and issubclass(member, contract)]
    if len(parts) != 1:
        raise ConfigError(
            f"heatv2x/{kind}/{name}.py must define exactly one {contract.__name__}, it defines {len(parts)}"
        )
    return parts[0]


def _find_outside(kind: str, name: str) -> Any:
    module_name, _, class_name = name.partition(":")
    try:
        part = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{kind} part '{name}' cannot be found: {error}") from error
    contract = _contract(kind)
    if not (inspect.isclass(part) and issubclass(part, contract)):
        raise ConfigError(f"{kind} part '{name}' is no {contract.__name__} (heatv2x/{kind}/base.py)")
    return part


def _contract(kind: str) -> type:
    contract: type = getattr(importlib.import_module(f"heatv2x.{kind}.base"), CONTRACTS[kind])
    return contract
