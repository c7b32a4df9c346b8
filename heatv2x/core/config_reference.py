"""Every setting of a config, down to the last nested key: how it is written, its default, and what it means."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic

from heatv2x.core.config_errors import as_typed, expected, is_config, members

KINDS = {
    "agent": "agents",
    "agents": "agents",
    "dataset": "datasets",
    "fusion": "fusion",
    "head": "heads",
    "before": "adapters",
    "after": "adapters",
    "received": "adapters",
}
"""The kind of part that a setting of this name takes; `heatv2x list KIND` explains the settings of each."""


def settings_of(config_class: type[pydantic.BaseModel]) -> list[tuple[str, str, str]]:
    """Every setting of a config: key, default as one would write it ("" if it must be given), and what it means.

    The meaning is read from the "Attributes" of the docstrings of the class and those it inherits from. A nested config
    has a row of its own and then one for each of its keys; entries by name are written NAME.
    """
    return list(_rows(config_class, None, ""))


def _rows(
    config_class: type[pydantic.BaseModel], given: pydantic.BaseModel | None, above: str
) -> Iterator[tuple[str, str, str]]:
    meanings = meanings_of(config_class)
    for name, about in config_class.model_fields.items():
        key = about.alias or name
        required = about.is_required() and given is None
        default = None
        if not required:
            default = getattr(given, name) if given else about.get_default(call_default_factory=True, validated_data={})
        meaning = re.sub(r"\bNone\b", "null", meanings.get(key) or meanings.get(name, ""))
        shown = "" if required else "''" if default == "" else as_typed(default)
        inside = [option for option in members(about.annotation) if is_config(option)]
        entries = [option for option in members(about.annotation) if typing.get_origin(option) in (dict, Mapping)]
        plain = not any(_is_part(option) for option in inside)
        yield (
            f"{above}{key}",
            "(see below)" if inside and plain and isinstance(default, pydantic.BaseModel) else shown,
            (
                f"{meaning} ({expected(about.annotation, about.metadata)})"
                if _has_choices(about.annotation)
                else meaning
            ),
        )
        for option in inside:
            yield from _inner(option, default, f"{above}{key}.", key)
        for option in entries:
            (value_type,) = [each for each in members(typing.get_args(option)[1]) if is_config(each)] or (None,)
            if value_type is not None:
                yield from _inner(value_type, None, f"{above}{key}.NAME.", key)


def _inner(
    option: type[pydantic.BaseModel], given_default: Any, above: str, key: str
) -> Iterator[tuple[str, str, str]]:
    given = given_default if isinstance(given_default, option) else None
    if not _is_part(option):
        yield from _rows(option, given, above)
        return
    kind = KINDS.get(key)
    where = f"; heatv2x list {kind} explains them" if kind else ""
    default = ", ".join(f"{name}: {as_typed(value)}" for name, value in getattr(given, "settings", {}).items())
    part = getattr(given, "part", None) or ("" if option.model_fields["part"].is_required() else "null")
    yield f"{above}part", part, f"the part's name{f' (heatv2x list {kind})' if kind else ''}"
    yield f"{above}settings.KEY", default or "the part's", f"the part's own settings{where}"


def _is_part(option: type[pydantic.BaseModel]) -> bool:
    return {"part", "settings"} == set(option.model_fields)


def _has_choices(annotation: Any) -> bool:
    return any(typing.get_origin(option) is typing.Literal for option in members(annotation))


def meanings_of(config_class: type[pydantic.BaseModel]) -> dict[str, str]:
    """What each key of a config means, from the docstrings of the class and its parents."""
    meanings: dict[str, str] = {}
    for parent in reversed(config_class.__mro__):
        meanings |= _attributes(inspect.getdoc(parent) or "" if "__doc__" in vars(parent) else "")
    return meanings


def _attributes(docstring: str) -> dict[str, str]:
    """The entries of a docstring's "Attributes" section: `name, name: meaning`, continued on deeper lines."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in docstring.partition("Attributes:")[2].splitlines():
        entry = re.match(r"\s*([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
        for name in names:
            meanings[name] = entry[2] if entry else f"{meanings[name]} {line.strip()}".strip()
    return meanings
