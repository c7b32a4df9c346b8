"""What the check answers: one verdict per question, and one per thing that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about a dataset.

    Attributes:
        name: what was asked: "handedness".
        state: "fault" ends the check with exit code 2; a "note" says what could not be judged, or is unusual.
        detail: what was seen, in words and numbers, and the most likely cause.
    """

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class Finding:
    """Something wrong with one agent of one scenario.

    Attributes:
        key: the same for everything that has the same cause.
        split, scenario, agent_id: where; agent None for all of them.
        seen: how it was noticed, with numbers, a clause.
        cause: the most likely cause, a clause; empty if nothing explains it.
    """

    key: str
    split: str
    scenario: str
    agent_id: int | None
    seen: str
    cause: str = ""


def verdicts_of(name: str, findings: list[Finding], state: State = "fault") -> list[Verdict]:
    """One verdict for each cause: who is concerned, what was seen at the first, and what it means."""
    by_key: dict[str, list[Finding]] = {}
    for finding in findings:
        by_key.setdefault(finding.key, []).append(finding)
    return [Verdict(name, state, _told(same)) for same in by_key.values()]


def _told(same: list[Finding]) -> str:
    first = same[0]
    who = "all agents" if first.agent_id is None else f"agent {first.agent_id}"
    others = sorted({f"agent {each.agent_id} of {each.split}/{each.scenario}" for each in same[1:]} - {""})
    also = ""
    if others:
        shown = ", ".join(others[:3])
        also = f"; also {shown}" + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    where = f"{who} of {first.split}/{first.scenario}"
    cause = f". Most likely cause: {first.cause}" if first.cause else ""
    return f"{where}: {first.seen}{cause}{also}"
