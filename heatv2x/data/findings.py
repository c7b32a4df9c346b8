"""What a check of a dataset found: counts, faults of files, and verdicts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from heatv2x.data.plausibility.verdict import Verdict


@dataclass(frozen=True)
class Indexed:
    """How long a split took to open: the first time, and again with its index."""

    split: str
    frames: int
    first_s: float
    again_s: float


@dataclass
class Fault:
    """All faults of one kind; the first stands for them.

    Attributes:
        kind: the kind of file ("32-beam cloud"), or what is impossible ("pose").
        what: "missing", "broken" or "absurd".
        path: the first file at fault.
        problem: what is wrong with it, with its key and the way out.
        count: how many there are.
        further: paths of the next ones, at most 50.
    """

    kind: str
    what: str
    path: str
    problem: str
    key: str | None = None
    way_out: str = ""
    count: int = 1
    further: list[str] = field(default_factory=list)


@dataclass
class SplitCount:
    """What a split holds: `published` frames are None where none are known, `described` ones could be read."""

    split: str
    published: int | None
    scenarios: int = 0
    frames: int = 0
    described: int = 0
    agent_frames: int = 0
    objects: int = 0


@dataclass
class FileCount:
    """Files of one kind in the whole tree."""

    kind: str
    download: str
    needed: bool
    expected: int = 0
    present: int = 0
    read: int = 0
    broken: int = 0

    @property
    def state(self) -> str:
        """In words: "complete", "not there", "incomplete"."""
        if not self.present and not self.needed:
            return "not there"
        return "incomplete" if self.present < self.expected else "broken files" if self.broken else "complete"


@dataclass
class Inspection:
    """What `inspect` found; `ok` is False if there is any fault."""

    root: str
    dataset: str
    title: str
    splits: list[SplitCount]
    files: list[FileCount]
    verdicts: list[Verdict]
    faults: list[Fault]

    @property
    def ok(self) -> bool:
        """True if training can start."""
        return not self.faults and all(verdict.state != "fault" for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for `heatv2x.core.files.write_json`."""
        files = [{**asdict(count), "state": count.state} for count in self.files]
        return {"ok": self.ok, **asdict(self), "files": files}
