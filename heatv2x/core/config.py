"""Settings: typed next to the class they configure, overridden by `key=value`, refused with the nearest known name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from heatv2x.core.config_errors import Source, chosen, complaints
from heatv2x.errors import ConfigError, DataError, nearest

__all__ = ["Config", "ConfigT", "build", "merge", "nearest", "parse_overrides", "read_recipe", "replaced"]


class Config(pydantic.BaseModel):
    """Base of every config: frozen; an unknown key and a number that is not finite are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _choices_as_text(cls, settings: Any) -> Any:
        """`reported=true` means the choice "true", not YAML's boolean."""
        if not isinstance(settings, Mapping):
            return settings
        read = {
            key: chosen(cls, key, value) for key, value in settings.items() if isinstance(value, bool | int | float)
        }
        return {**settings, **read} if read else settings

    def under(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """This config with settings laid over it: what they do not name keeps its value, in nested configs, too."""
        filled = self.model_dump(by_alias=True)
        for key, value in settings.items():
            filled[key] = _under_default(getattr(self, str(key), None), value)
        return filled


ConfigT = TypeVar("ConfigT", bound=Config)


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
            raise ConfigError(f"the value of '{key}' cannot be read: {text}{_spelling(key, text)}") from error
    return overrides


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `below` with those of `above` laid over them, nested dicts key by key.

    A part that another one takes the place of takes its settings with it.
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            another_part = "part" in old and value.get("part", old["part"]) != old["part"]
            merged[key] = dict(value) if another_part else merge(old, value)
        else:
            merged[key] = value
    return merged


def _spelling(key: str, text: str) -> str:
    """How to write a list that the shell cut at a space."""
    if text.count("[") > text.count("]"):
        return f"\n  Way out: write the list without spaces, {key}=[a,b], or put the whole setting in quotes"
    return ""


def build(
    config_class: type[ConfigT], settings: Mapping[str, Any], source: Source = "command line", *, complete: bool = False
) -> ConfigT:
    """Build a config; every error names the key, where it came from, and the nearest known key.

    Args:
        settings: what a user sets; a nested config that is named in part keeps its other defaults.
        source: where they came from, for messages.
        complete: the settings were written from a whole config, so nothing nested is filled in.

    Raises:
        ConfigError: an unknown key, a wrong type, or a contradiction between settings.
    """
    if not isinstance(settings, Mapping):  # of a pack, anything may stand there
        raise ConfigError(f"{source}: expected settings by name, found {str(settings)[:80]!r}")
    defaults = {about.alias or name: about for name, about in config_class.model_fields.items()}
    filled = (
        dict(settings)
        if complete
        else {k: _under_default(_default(defaults[k]) if k in defaults else None, v) for k, v in settings.items()}
    )
    try:
        return config_class.model_validate(filled)
    except pydantic.ValidationError as error:
        raise ConfigError(complaints(config_class, error, filled, source)) from error


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a recipe (a YAML mapping) with the safe loader, or the config.json of a run.

    Raises:
        DataError: the file is missing or not a mapping of settings.
    """
    source = Path(path)
    is_json = source.suffix == ".json"
    try:
        text = source.read_text(encoding="utf-8")
        content = json.loads(text) if is_json else yaml.safe_load(text)
    except OSError as error:
        raise DataError(source, f"cannot be read: {error.strerror}") from error
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise DataError(source, f"is not valid {'JSON' if is_json else 'YAML'}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(source, "is not a mapping of settings by name", way_out="write key: value lines")
    odd = [key for key in content if not isinstance(key, str)]
    if odd:
        raise DataError(source, f"the key {odd[0]!r} is not text", way_out="write key: value lines")
    return content


def replaced(config_class: type[Config], settings: Mapping[str, Any]) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Named default entries of a config that settings remove by naming others.

    Returns:
        For each such key of the config or of a config inside it: the key, the names that are given, and the default
        entries that go.
    """
    found = []
    for name, about in config_class.model_fields.items():
        key, default = about.alias or name, _default(about)
        value = settings.get(key)
        if not isinstance(value, Mapping):
            continue
        if isinstance(default, Config):
            found += [(f"{key}.{inner}", given, gone) for inner, given, gone in replaced(type(default), value)]
        elif isinstance(default, Mapping) and (gone := {k: v for k, v in default.items() if k not in value}):
            found.append((key, sorted(map(str, value)), gone))
    return found


def _default(about: pydantic.fields.FieldInfo) -> Any:
    return None if about.is_required() else about.get_default(call_default_factory=True, validated_data={})


def _under_default(default: Any, value: Any) -> Any:
    """A value laid over its default; named entries that it does not give are dropped, see `replaced`."""
    if isinstance(default, Config) and isinstance(value, Mapping):
        return default.under(value)
    if isinstance(default, Mapping) and isinstance(value, Mapping):
        return {name: _under_default(default.get(name), each) for name, each in value.items()}
    return value
