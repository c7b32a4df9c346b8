"""Verbs and their settings: which config a verb takes, and that config from its `key=value` words."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic

import typer

from heatv2x.cli.console import bars, say, together
from heatv2x.core.config import Config, ConfigT, build, merge, nearest, parse_overrides, read_recipe, replaced
from heatv2x.core.config_errors import keys_of
from heatv2x.core.plurals import counted
from heatv2x.errors import ConfigError
from heatv2x.training import recipes

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="Settings (heatv2x settings VERB lists them). recipe=NAME or recipe=FILE reads a recipe first.",
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="PATH", help="The dataset's folder.")]


class Verb(Generic[ConfigT]):
    """A verb that takes settings.

    Args:
        name: as it is typed, "train base".
        config: "module:Class", whose fields are the verb's settings; imported when they are needed, so that --help
            answers at once.
    """

    def __init__(self, name: str, config: str) -> None:
        self.name = name
        self._module, _, self._class = config.partition(":")
        VERBS[name] = self

    @property
    def config_class(self) -> type[ConfigT]:
        """The class of the verb's settings."""
        config_class: type[ConfigT] = getattr(importlib.import_module(self._module), self._class)
        return config_class

    def read(self, words: list[str] | None, extra: Mapping[str, Any] | None = None) -> ConfigT:
        """The verb's settings from `key=value` words, over a recipe if they name one.

        Raises:
            ConfigError: a word is not a setting of this verb, or its value is invalid.
        """
        typed = parse_overrides(words or [])
        recipe = typed.pop("recipe", None)
        values, complete, source = typed, False, "command line"
        if recipe is not None:
            path = recipe_path(str(recipe))
            content = read_recipe(path)
            self._check_recipe(content, path)
            values, source = merge(content, typed), path.name
            complete = set(keys_of(self.config_class)) <= set(content)  # the config.json of a run names everything
        else:
            _tell_of_replaced(self.config_class, typed)

        def where(key: Sequence[str]) -> str:
            return "command line" if _names(typed, key) else source

        return build(self.config_class, {**values, **(extra or {})}, where, complete=complete)

    def run(self, job: Callable[..., Any], words: list[str] | None) -> None:
        """Run a training job with the verb's settings and report what it did."""
        with together():
            config = self.read(words)
            with bars() as report:
                result = job(config, report)
        frozen = result.record.frozen_proof["tensors"]
        say(
            f"{result.record.stage}: {counted(result.record.steps, 'step')}, "
            f"{counted(result.record.trained_parameters, 'trained parameter')}, "
            f"{result.seconds:.1f} CPU seconds ({result.wall_seconds:.1f} s elapsed)"
            + (f", {frozen} frozen tensors unchanged" if frozen else "")
        )
        for path in result.packs:
            say(f"  {path}")

    def _check_recipe(self, content: Mapping[str, Any], path: Path) -> None:
        """Refuse a recipe of another verb in one sentence.

        Raises:
            ConfigError: it holds keys that this verb does not know, and another verb knows them all.
        """
        strange = sorted(set(content) - set(keys_of(self.config_class)))
        if not strange:
            return
        fits = [verb.name for verb in VERBS.values() if set(content) <= set(keys_of(verb.config_class))]
        here = [verb.name for verb in VERBS.values() if verb.config_class is self.config_class]
        if fits:
            raise ConfigError(
                f"{path} is a recipe for {_either(fits)}, not for {_either(here)}, "
                f"which has no setting {', '.join(strange)}"
            )


VERBS: dict[str, Verb[Any]] = {}
"""Every verb that takes settings, by name; modules of verbs add theirs when they are imported."""


def recipe_path(name: str) -> Path:
    """A recipe by name, or a file: a YAML recipe, or the config.json of a run, for which its folder will do."""
    if name.endswith((".yaml", ".yml", ".json")) or "/" in name:
        return Path(name, "config.json") if Path(name).is_dir() else Path(name)
    path = recipes.FOLDER / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(f"unknown recipe '{name}'; {nearest(name, (p.stem for p in recipes.FOLDER.glob('*.yaml')))}")
    return path


def _names(typed: Mapping[str, Any], key: Sequence[str]) -> bool:
    """Whether the typed settings hold a key, or something inside or around it."""
    node: Any = typed
    for step in key:
        if not isinstance(node, Mapping):
            return True
        if step not in node:
            return False
        node = node[step]
    return bool(key)


def _tell_of_replaced(config_class: type[Config], typed: Mapping[str, Any]) -> None:
    """Warn about named default entries that a setting removes: model.agents.camera.part= leaves no lidar64."""
    for key, given, gone in replaced(config_class, typed):
        keep = [f"{key}.{name}.part={getattr(entry, 'part', '...')}" for name, entry in gone.items()]
        logging.getLogger("heatv2x").warning(
            f"{key} now holds only {', '.join(given)}: naming one replaces the default, {', '.join(gone)}. "
            f"To keep the default as well, add {' '.join(keep)}"
        )


def _either(verbs: Sequence[str]) -> str:
    return " or ".join(f"'{verb}'" for verb in verbs)
