"""Where everything lies in a dataset of OPV2V's layout, and which frames it holds.

OPV2V/<split>/<scenario>/<agent id>/<t>.yaml, <t>.pcd, <t>_camera0.png, [<t>_hits.json], [<t>_bev_visibility.png]
OPV2V/additional/<split>/<scenario>/<agent id>/<t>_bev_visibility.png
OPV2V_Hetero/<split>/<scenario>/<agent id>/<t>_16.pcd, <t>_32.pcd, <t>_depth0.png
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from heatv2x.errors import DataError

_log = logging.getLogger(__name__)
_AGENT = re.compile(r"-?\d{1,18}")

Complaint = Callable[[DataError], None]


def _refuse(error: DataError) -> None:
    raise error


EXCLUDED_FRAMES = frozenset({("2021_08_20_21_10_24", "000265")})
"""Frames of the released data that HEAL's reader skips: one of the test split."""


@dataclass(frozen=True)
class AgentFiles:
    """One agent's descriptive files at one time, as paths relative to the OPV2V folder."""

    folder: str
    yaml: str
    hits: str | None
    visibility: str | None

    @property
    def agent_id(self) -> int:
        """The integer the agent's folder is named by; negative for roadside units."""
        return int(self.folder)

    @property
    def present(self) -> tuple[str, ...]:
        """The files that exist."""
        return tuple(path for path in (self.yaml, self.hits, self.visibility) if path is not None)


@dataclass(frozen=True)
class FrameFiles:
    """The descriptive files of all agents of one frame, agents in the order of `Frame.agents`."""

    scenario: str
    timestamp: str
    agents: tuple[AgentFiles, ...]

    @property
    def name(self) -> str:
        """ "scenario/timestamp"."""
        return f"{self.scenario}/{self.timestamp}"

    @property
    def present(self) -> tuple[str, ...]:
        """The existing files of all agents."""
        return tuple(path for agent in self.agents for path in agent.present)


@dataclass(frozen=True)
class Layout:
    """The two roots of a dataset and the split to read.

    Attributes:
        opv2v: the folder that holds train, validate, test.
        hetero: the folder of the extra sensors (16 and 32 beams, depth), same tree; need not exist.
        split: "train", "validate", "test", ...
    """

    opv2v: Path
    hetero: Path
    split: str

    @classmethod
    def find(cls, root: str | Path, split: str, hetero_root: str | Path | None = None) -> Layout:
        """Find the folders from the parent of `OPV2V/` and `OPV2V_Hetero/`, or from the OPV2V folder itself.

        Raises:
            DataError: it is not a dataset folder, or has no such split; says what was expected.
        """
        given = Path(root)
        opv2v = given / "OPV2V" if (given / "OPV2V").is_dir() else given.resolve()
        expected = f"expected {given}/OPV2V/{split}/<scenario>/<agent id>/<t>.yaml (or the same without OPV2V/)"
        if not opv2v.is_dir():
            raise DataError(given, f"is not a folder; {expected}", way_out="give the folder that holds OPV2V/")
        if not split or not (opv2v / split).is_dir():
            if splits := splits_of(opv2v):
                raise DataError(opv2v, f"has no split '{split}'", way_out=f"choose one of {', '.join(splits)}")
            raise DataError(given, f"is not a dataset folder; {expected}", way_out="give the folder that holds OPV2V/")
        hetero = opv2v.with_name(f"{opv2v.name}_Hetero") if hetero_root is None else Path(hetero_root)
        return cls(opv2v, hetero, split)

    def frames(self, exclude: Collection[str] = (), complain: Complaint = _refuse) -> list[FrameFiles]:
        """Every frame of the split, scenario by scenario, time by time.

        Args:
            exclude: scenarios that are left out.
            complain: is told what is wrong; if it returns, the rest is listed all the same.

        Raises:
            DataError: no scenarios, a scenario without agents, an agent that lacks a frame, a link to nowhere.
        """
        folders = _folders(self.opv2v / self.split, complain)
        scenarios = [folder.name for folder in folders if folder.name not in exclude]
        frames = [frame for scenario in scenarios for frame in self._scenario(scenario, complain)]
        if not frames:
            problem, way_out = "holds no frames", "complete the download of this split"
            complain(DataError(self.opv2v / self.split, problem, way_out=way_out))
        return frames

    def sensor_file(self, scenario: str, folder: str, filename: str, *, hetero: bool) -> Path:
        """Where a sensor's file of an agent lies."""
        return (self.hetero if hetero else self.opv2v) / self.split / scenario / folder / filename

    def _scenario(self, scenario: str, complain: Complaint) -> list[FrameFiles]:
        path = self.opv2v / self.split / scenario
        agents = agent_order(entry.name for entry in _folders(path, complain) if _is_agent(entry, complain))
        if not agents:
            problem = "has no agent folders (named by an integer id)"
            complain(DataError(path, problem, way_out="remove it or complete it"))
            return []
        if len({int(agent) for agent in agents}) != len(agents):
            problem = f"several agent folders have the same number: {', '.join(agents)}"
            complain(DataError(path, problem, way_out="rename one"))
            return []
        names = {agent: _names(path / agent) for agent in agents}
        extra = {agent: _names(self._additional(scenario, agent)) for agent in agents}
        stems = _common_stems(path, {agent: _stems(names[agent], scenario) for agent in agents}, complain)
        return [
            FrameFiles(
                scenario,
                stem,
                tuple(self._agent(scenario, agent, stem, names[agent], extra[agent]) for agent in agents),
            )
            for stem in stems
        ]

    def _agent(self, scenario: str, folder: str, stem: str, names: set[str], extra: set[str]) -> AgentFiles:
        base, raster = f"{self.split}/{scenario}/{folder}", f"{stem}_bev_visibility.png"
        visibility = (
            f"{base}/{raster}" if raster in names else f"additional/{base}/{raster}" if raster in extra else None
        )
        hits = f"{base}/{stem}_hits.json" if f"{stem}_hits.json" in names else None
        return AgentFiles(folder, f"{base}/{stem}.yaml", hits, visibility)

    def _additional(self, scenario: str, folder: str) -> Path:
        return self.opv2v / "additional" / self.split / scenario / folder


def _common_stems(path: Path, stems: dict[str, set[str]], complain: Complaint) -> list[str]:
    every = set().union(*stems.values())
    for agent, own in stems.items():
        for stem in sorted(every - own):
            problem = "is missing: all agents of a scenario must have the same frames"
            way_out = "complete the download, or remove that frame from all agents"
            complain(DataError(path / agent / f"{stem}.yaml", problem, way_out=way_out))
    if not every:
        complain(DataError(path, "its agents have no frames (<t>.yaml)", way_out="remove it or complete it"))
    return sorted(every.intersection(*stems.values()))


def agent_order(folders: Iterable[str], agent_id: Callable[[str], int] = int) -> list[str]:
    """Vehicles in lexicographic order of their id ("1045" before "641"), then roadside units (negative ids)."""
    return sorted(folders, key=lambda folder: (agent_id(folder) < 0, folder))


def splits_of(opv2v: Path) -> list[str]:
    """The splits of an OPV2V folder: those that hold scenarios with agents."""
    return [folder.name for folder in _folders(opv2v) if _is_split(folder)]


def _folders(path: Path, complain: Complaint | None = None) -> list[Path]:
    entries = sorted(entry for entry in _entries(path) if not entry.name.startswith("."))
    for entry in entries:
        if complain is not None and entry.is_symlink() and not entry.exists():
            problem = "is a link that points nowhere, or back to itself"
            complain(DataError(entry, problem, way_out="fix the link, or remove it"))
    return [entry for entry in entries if entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(folder, f"cannot be listed: {error.strerror}") from error


def _is_split(folder: Path) -> bool:
    return any(_AGENT.fullmatch(agent.name) for scenario in _folders(folder) for agent in _folders(scenario))


def _is_agent(folder: Path, complain: Complaint) -> bool:
    if _AGENT.fullmatch(folder.name):
        return True
    if described := [name for name in sorted(_names(folder)) if name.endswith(".yaml")]:
        problem = f"holds {described[0]} as an agent's folder does, but its name is not an integer id"
        complain(
            DataError(folder, problem, way_out="name it by an integer, negative for a roadside unit, or move it away")
        )
    else:
        _log.warning("%s is ignored: an agent's folder must be named by an integer id", folder)
    return False


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in _entries(folder)} if folder.is_dir() else set()


def _stems(names: set[str], scenario: str) -> set[str]:
    stems = {name.removesuffix(".yaml") for name in names if name.endswith(".yaml") and "additional" not in name}
    return {stem for stem in stems if (scenario, stem) not in EXCLUDED_FRAMES and not stem.startswith(".")}
