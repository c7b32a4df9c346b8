"""What is available and what it means: `list`, `settings`, `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from heatv2x.cli.console import out, say
from heatv2x.cli.verbs import VERBS
from heatv2x.core.config import nearest
from heatv2x.errors import ConfigError

_NO_DEFAULT = "required"


def doctor() -> None:
    """Check this machine and say how to fix what is wrong."""
    from heatv2x.cli.doctor import examine

    table = Table("", "what", "found", "way out", box=None)
    findings = examine()
    marks = {"ok": "[green]ok[/]", "info": "[dim]info[/]", "warn": "[yellow]note[/]", "fail": "[red]wrong[/]"}
    for finding in findings:
        table.add_row(marks[finding.state], finding.name, escape(finding.detail), escape(finding.fix))
    out.print(table)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(help="One kind of part with the settings of its parts; or recipes, protocols or packs."),
    ] = None,
) -> None:
    """List the names that settings take.

    Parts with their source and cost, by kind; recipes, protocols of average precision, and the shipped packs.
    """
    from heatv2x.cli import listing
    from heatv2x.core import plugins

    known = [*plugins.CONTRACTS, *listing.COLLECTIONS]
    if kind is not None and kind not in known:
        raise ConfigError(f"unknown kind '{kind}'; {nearest(kind, known)}")
    if not out.is_terminal:
        out.width = 120
    if kind in listing.COLLECTIONS:
        listing.COLLECTIONS[kind](out)
        return
    for each in [kind] if kind else plugins.CONTRACTS:
        listing.print_kind(each, out)
        out.print()
    listing.print_reference(out)
    if kind in (None, "agents"):
        out.print()
        listing.print_published_types(out)
    if kind is None:
        say(f"\nheatv2x list KIND shows the settings of its parts; there are also: {', '.join(listing.COLLECTIONS)}")
    else:
        listing.print_settings_of_parts(kind, out)


def settings(
    verb: Annotated[
        list[str], typer.Argument(metavar="VERB [KEY]", help="For example: train base; train base model; eval channel")
    ],
) -> None:
    """Explain the settings of a verb.

    Every key down to the last nested one, or those inside KEY, with its default and meaning.
    """
    from heatv2x.cli import listing
    from heatv2x.core.config_reference import settings_of

    known = VERBS
    words = next((n for n in range(len(verb), 0, -1) if " ".join(verb[:n]) in known), 0)
    if not words:
        name = " ".join(verb)
        raise ConfigError(f"'{name}' is not a verb that takes settings; {nearest(name, known)}")
    name = " ".join(verb[:words])
    rows = [(key, default or _NO_DEFAULT, meaning) for key, default, meaning in settings_of(VERBS[name].config_class)]
    if key := ".".join(verb[words:]):
        wanted = listing.below(rows, key)
        if not wanted:
            raise ConfigError(f"'{name}' has no setting '{key}'; {nearest(key, (row[0] for row in rows))}")
        rows = wanted
    if not out.is_terminal:
        out.width = 120
    listing.print_settings(rows, out)
