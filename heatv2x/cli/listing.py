"""What `heatv2x list` and `heatv2x settings` print: tables for a terminal, read from the catalogue and the configs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heatv2x.cli.catalogue import all_recipes, catalogue, packs, reference
from heatv2x.core import plugins
from heatv2x.core.config_reference import settings_of
from heatv2x.evaluation.protocols import PROTOCOLS
from heatv2x.model.published_types import ALIASES, TYPES


def print_kind(kind: str, out: Console) -> None:
    """The parts of one kind: what each is, where it comes from, what it costs."""
    table = _table(kind, "part", ("what it is", 5), ("source", 3))
    for heading in ("parameters", "MFLOP"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=10)
    for entry in catalogue(kind):
        parameters = "-" if entry.parameters is None else f"{entry.parameters:,}"
        flops = "-" if entry.flops is None else f"{entry.flops / 1e6:,.1f}"
        table.add_row(entry.name, escape(entry.about), escape(entry.source), parameters, flops)
    out.print(table)


def print_settings_of_parts(kind: str, out: Console) -> None:
    """The settings of every part of a kind that has some."""
    for name in plugins.available(kind):
        try:
            part_config = getattr(plugins.find(kind, name), "Config", None)
        except Exception:  # a file somebody is still writing raises anything; print_kind shows what, in its row
            continue
        if part_config is not None and (rows := settings_of(part_config)):
            out.print()
            print_settings(rows, out, name)


def print_settings(rows: Iterable[tuple[str, str, str]], out: Console, title: str | None = None) -> None:
    """Keys with their defaults and meanings."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("setting", no_wrap=True)  # it is copied
    table.add_column("default", overflow="fold", max_width=34)
    table.add_column("meaning", ratio=1)
    for key, default, meaning in rows:
        table.add_row(key, escape(default), escape(meaning))
    out.print(table)


def print_reference(out: Console) -> None:
    """The size at which parts are counted."""
    out.print(reference(), highlight=False)


def print_published_types(out: Console) -> None:
    """Agent types of the literature, and what other projects call them."""
    table = Table(title="published agent types", title_justify="left", box=None)
    for heading in ("type", "label", "sensor", "agent kind", "elsewhere"):
        table.add_column(heading, no_wrap=heading == "type")
    for name, about in TYPES.items():
        numbers = [f"{who} {number}" for who, known in ALIASES.items() for number, n in known.items() if n == name]
        table.add_row(name, about.label, about.sensor, about.part.part, ", ".join(numbers))
    out.print(table)


def print_recipes(out: Console) -> None:
    """The recipes, what each is for, and its verb."""
    table = _table("recipes", "recipe=", ("for", 2), ("what it is", 7))
    for recipe in all_recipes():
        table.add_row(recipe.name, f"heatv2x {recipe.verb}", escape(recipe.about))
    out.print(table)


def print_protocols(out: Console) -> None:
    """The named protocols of average precision."""
    table = _table("protocols", "protocol=", ("what it is", 1))
    for protocol in PROTOCOLS.values():
        table.add_row(protocol.name, escape(protocol.description))
    out.print(table)


def print_packs(out: Console) -> None:
    """The shipped packs, by the names that settings take instead of a path."""
    table = _table("packs that come with HeatV2X", "pack", ("kind", 1), ("agent type", 1), ("part", 2))
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("feature space", no_wrap=True)
    for name, pack in packs():
        part = str(pack.config.get("part", "-"))
        space = pack.feature_space or "any"
        table.add_row(name, pack.kind, pack.agent_type or "-", part, f"{pack.parameters:,}", space)
    out.print(table)


COLLECTIONS: dict[str, Callable[[Console], None]] = {
    "recipes": print_recipes,
    "protocols": print_protocols,
    "packs": print_packs,
}
"""What `heatv2x list` can show besides the kinds of parts."""


def _table(title: str, first: str, *others: tuple[str, int]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(first, no_wrap=True, min_width=15)
    for heading, ratio in others:
        table.add_column(heading, ratio=ratio)
    return table


def below(rows: Sequence[tuple[str, str, str]], key: str) -> list[tuple[str, str, str]]:
    """The rows of a key and of everything inside it."""
    return [row for row in rows if row[0] == key or row[0].startswith(f"{key}.")]
