"""Settings: typed next to the class they configure, overridden by `key=value`, refused with the nearest known name."""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from heatv2x.errors import ConfigError, DataError


class Config(pydantic.BaseModel):
    """Base of every config: frozen, and an unknown key is an error."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    def under(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings laid over this config as a default: what they do not name stays, in nested configs, too."""
        filled = self.model_dump(by_alias=True)
        for key, value in settings.items():
            filled[key] = _under_default(getattr(self, key, None), value)
        return filled


ConfigT = TypeVar("ConfigT", bound=Config)


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that helps with an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names)}" if names else "nothing is known here"


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Turn `["steps=4", "head.channels=32"]` into a nested dict; values are read as YAML scalars or lists.

    Raises:
        ConfigError: a word has no '=', an empty key, or sets the same key twice.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{word}' is not a setting: write key=value")
        *parents, leaf = key.split(".")
        node = overrides
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"'{key}' is set inside '{parent}', which already has a plain value")
        if leaf in node:
            raise ConfigError(f"'{key}' is set twice")
        try:
            node[leaf] = yaml.safe_load(text) if text else None
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
            raise ConfigError(f"the value of '{key}' cannot be read: {text}") from error
    return overrides


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `below` with those of `above` laid over them, nested dicts key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def build(
    config_class: type[ConfigT], settings: Mapping[str, Any], source: str = "command line", *, complete: bool = False
) -> ConfigT:
    """Build a config; every complaint names the key, where it came from, and the nearest known key.

    Args:
        settings: what a user sets; a nested config that is named in part keeps its other defaults.
        source: where they came from, for messages.
        complete: the settings were written from a whole config, so nothing nested is filled in.

    Raises:
        ConfigError: an unknown key, a wrong type, or a contradiction between settings.
    """
    fields = config_class.model_fields
    filled = (
        dict(settings)
        if complete
        else {k: _under_default(fields[k].default if k in fields else None, v) for k, v in settings.items()}
    )
    try:
        return config_class.model_validate(filled)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(config_class, detail, source) for detail in _chosen(error))) from error


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a recipe (a YAML mapping) with the safe loader.

    Raises:
        DataError: the file is missing or not a YAML mapping.
    """
    source = Path(path)
    try:
        content = yaml.safe_load(source.read_text())
    except OSError as error:
        raise DataError(source, f"cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise DataError(source, f"is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise DataError(source, "a recipe is a mapping of settings")
    return content


def _under_default(default: Any, value: Any) -> Any:
    return default.under(value) if isinstance(default, Config) and isinstance(value, Mapping) else value


def _chosen(error: pydantic.ValidationError) -> list[Any]:
    """The complaints without those of the plain form of what was given in parts, such as dataset.part=NAME."""
    details: list[Any] = error.errors()
    parts = {detail["loc"][:-2] for detail in details if len(detail["loc"]) > 1 and _is_class(detail["loc"][-2])}
    return [detail for detail in details if detail["type"] != "string_type" or detail["loc"][:-1] not in parts]


def _is_class(step: object) -> bool:
    """Whether a step of a place is no key but the name of a config that the value was tried as."""
    return any(known.__name__ == step for known in Config.__subclasses__())


def _explain(config_class: type[Config], detail: Any, source: str) -> str:
    location = [str(step) for step in detail["loc"] if not _is_class(step)]
    key = ".".join(location) or "the settings"
    if detail["type"] == "extra_forbidden":
        return f"{source}: unknown key '{key}'; {nearest(location[-1], _fields_at(config_class, location[:-1]))}"
    if detail["type"] == "missing":
        return f"{source}: '{key}' is required; write {key}=..."
    given = "" if detail["type"] == "value_error" else f", got {detail['input']!r}"
    return f"{source}: {key}: {detail['msg']}{given}"


def _fields_at(config_class: type[Config], location: list[str]) -> list[str]:
    """The settings that may stand at a place inside a config, through optional configs and dicts of configs."""
    current: Any = config_class
    for part in location:
        if isinstance(current, type) and issubclass(current, pydantic.BaseModel):
            current = current.model_fields[part].annotation if part in current.model_fields else None
        else:  # a dict's key: go on with its values
            current = next((inner for inner in typing.get_args(current) if inner is not str), None)
        options = [option for option in typing.get_args(current) if option not in (str, type(None))]
        if len(options) == 1 and typing.get_origin(current) is not dict:
            current = options[0]
    if not (isinstance(current, type) and issubclass(current, pydantic.BaseModel)):
        return []
    return [about.alias or name for name, about in current.model_fields.items()]


def settings_of(config_class: type[Config]) -> list[tuple[str, str, str]]:
    """Every setting of a config: key, default as one would write it ("" if it must be given), and what it means.

    The meaning is read from the "Attributes" of the docstrings of the class and those it inherits from.
    """
    meanings: dict[str, str] = {}
    for parent in reversed(config_class.__mro__):
        meanings |= _attributes(inspect.getdoc(parent) or "" if "__doc__" in vars(parent) else "")
    rows = []
    for name, about in config_class.model_fields.items():
        default = about.get_default(call_default_factory=True, validated_data={})
        shown = default.model_dump(mode="json") if isinstance(default, Config) else default
        rows.append(
            (about.alias or name, "" if about.is_required() else str(shown), meanings.get(about.alias or name, ""))
        )
    return rows


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
