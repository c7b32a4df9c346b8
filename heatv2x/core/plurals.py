"""Numbers of things in messages: "1 agent", "2 agents", "1,024 points"."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A whole number and the noun in the form that goes with it.

    Args:
        number: how many.
        noun: what one of them is called, "agent" or "labelled object".
        plural: what several are called, if not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
