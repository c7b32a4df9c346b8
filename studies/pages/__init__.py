"""Templates of the pages, and how numbers are written in them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import jinja2

from studies.markdown import plus_minus


def _over_seeds(values: Sequence[float]) -> str:
    """Shares in points: their mean and, of several, their spread."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def environment() -> jinja2.Environment:
    """Where templates are found, with filters for AP in points, gains in points and kilobytes."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown of our own numbers
    )
    found.filters["points"] = lambda value: plus_minus(value, 100, 1)
    found.filters["gain"] = lambda value: f"{100 * value['mean']:+.1f}"
    found.filters["values"] = _over_seeds
    found.filters["kb"] = lambda value: f"{value['mean']:.1f}"
    return found
