"""Numbers and tables of the studies' pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def plus_minus(value: Mapping[str, Any], scale: float, digits: int) -> str:
    """Mean and spread of a number over seeds."""
    spread = "" if value["spread"] is None else f" ± {scale * value['spread']:.{digits}f}"
    return f"{scale * value['mean']:.{digits}f}{spread}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell does not end it."""
    written = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---", *("---" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(head), rule, *written])
