"""Find a part by its file name, or one from outside by "package.module:Class".

A part named `hetero_graph` of kind `fusion` is the one class in `heatv2x/fusion/hetero_graph.py` that fulfils the
contract `Fusion` of `heatv2x/fusion/base.py`. There is nothing to register.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pydantic

from heatv2x.core.config import Config, build, merge, nearest
from heatv2x.errors import ConfigError, PackError

_allowed: ContextVar[frozenset[str]] = ContextVar("allowed", default=frozenset())
_pack: ContextVar[str | None] = ContextVar("pack", default=None)
_found: dict[tuple[str, str], Any] = {}  # folders are not listed for what was found before
CONTRACTS = {
    "agents": "Agent",
    "adapters": "Adapter",
    "codecs": "Codec",
    "datasets": "Dataset",
    "fusion": "Fusion",
    "heads": "Head",
}
_PACKAGES = {
    "codecs": "link.codecs",
    "datasets": "data.datasets",
    "heads": "model.heads",
}  # where a kind does not stand at the top


def available(kind: str) -> list[str]:
    """Names of the parts of one kind; `base.py` holds the contract and is not a part."""
    package = importlib.import_module(package_of(kind))
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")


def find(kind: str, name: str) -> Any:
    """The class of a part.

    Args:
        kind: a key of `CONTRACTS`.
        name: a file name in the package of that kind, or "package.module:Class".

    Raises:
        ConfigError: there is no such part; the message names the nearest one.
        PackError: the name comes from a pack, and is that of code from outside which is not allowed (`from_a_pack`).
    """
    if ":" in name:
        _see_that_it_is_allowed(kind, name)
        return _find_outside(kind, name)
    found = _found.get((kind, name))
    if found is None or found.__module__ not in sys.modules:
        found = _found[kind, name] = _built_in(kind, name)
    return found


def _built_in(kind: str, name: str) -> Any:
    if name not in available(kind):
        raise ConfigError(f"unknown {kind} part '{name}'; {nearest(name, available(kind))}")
    module = importlib.import_module(f"{package_of(kind)}.{name}")
    contract = _contract(kind)
    members = inspect.getmembers(module, inspect.isclass)
    parts = [member for _, member in members if member.__module__ == module.__name__ and issubclass(member, contract)]
    if len(parts) != 1:
        raise ConfigError(f"{module.__name__} must define exactly one {contract.__name__}, it defines {len(parts)}")
    return parts[0]


@contextmanager
def allowing(names: Iterable[str]) -> Iterator[None]:
    """Inside, packs may name these parts from outside ("package.module:Class"), whose code is then imported."""
    token = _allowed.set(_allowed.get() | frozenset(names))
    try:
        yield
    finally:
        _allowed.reset(token)


@contextmanager
def from_a_pack(where: str) -> Iterator[None]:
    """Inside, names come from someone else's pack: only built-in parts and those of `allowing` are found.

    Args:
        where: the pack, for messages.
    """
    token = _pack.set(where)
    try:
        yield
    finally:
        _pack.reset(token)


def _see_that_it_is_allowed(kind: str, name: str) -> None:
    where = _pack.get()
    if where is not None and name not in _allowed.get():
        raise PackError(
            f"{where}: names the {kind} part '{name[:80]}', code from outside HeatV2X that would be imported and run.\n"
            f"  Way out: if you trust it, set allow_parts=[{name[:80]}] (in Python: `with plugins.allowing([...])`,\n"
            "  from heatv2x.core)"
        )


def _find_outside(kind: str, name: str) -> Any:
    module_name, _, class_name = name.partition(":")
    try:
        part = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{kind} part '{name}' cannot be found: {error}") from error
    contract = _contract(kind)
    if not (inspect.isclass(part) and issubclass(part, contract)):
        raise ConfigError(f"{kind} part '{name}' does not implement {contract.__name__} ({package_of(kind)}.base)")
    return part


def _contract(kind: str) -> type:
    contract: type = getattr(importlib.import_module(f"{package_of(kind)}.base"), CONTRACTS[kind])
    return contract


def package_of(kind: str) -> str:
    """The package that holds the parts of one kind: "heatv2x.link.codecs"."""
    return f"heatv2x.{_PACKAGES.get(kind, kind)}"


class PartConfig(Config):
    """A part by name and its settings, which the part's own `Config` checks.

    Attributes:
        part: file name in the kind's folder, or "package.module:Class".
        settings: what differs from the part's defaults.
    """

    part: str
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)

    def under(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The same part keeps the settings that are not named; another part starts with its own defaults."""
        return merge(self.model_dump(), settings) if settings.get("part", self.part) == self.part else dict(settings)


def settings_of_part(kind: str, part: PartConfig, defaults: bool = True) -> dict[str, Any]:
    """The checked settings of a part as JSON: all of them, or those alone that differ from the part's defaults."""
    checked = build(find(kind, part.part).Config, part.settings, source=f"{kind} part '{part.part}'")
    settings: dict[str, Any] = checked.model_dump(mode="json", exclude_defaults=not defaults)
    return settings


def build_part(kind: str, part: PartConfig, *arguments: Any) -> Any:
    """Build a part of one kind with checked settings; `arguments` are what else the kind's contract requires."""
    part_class = find(kind, part.part)
    settings = build(part_class.Config, part.settings, source=f"{kind} part '{part.part}'")
    return part_class(settings, *arguments)
