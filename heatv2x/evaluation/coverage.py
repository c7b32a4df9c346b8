"""Which frames of a split an evaluation uses and which it leaves out, found before the first frame runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from heatv2x.data.datasets.base import Dataset, labelled_frames
from heatv2x.errors import ConfigError, HeatError
from heatv2x.evaluation.roster import Cast, NoEgoError

BeforeFirst = Literal["clamp", "leave_out"]
"""What to do with a frame that has no frame `latency` before it, such as the first of every recording."""
_SHOWN = 10


@dataclass(frozen=True)
class Turn:
    """One frame that is evaluated.

    Attributes:
        index: of the frame.
        ego: id of the ego.
        roles: type of every agent of the frame that takes part, by id.
        sent: index of the frame whose messages arrive.
        clamped: the messages are younger than the link would deliver them: the recording does not reach back so far.
    """

    index: int
    ego: int
    roles: Mapping[int, str]
    sent: int
    clamped: bool = False


@dataclass(frozen=True)
class Coverage:
    """Which frames an evaluation used.

    Attributes:
        frames_unlabelled: frames without labels; they are not scored.
        frames_left_out: frames without a frame `latency` before them that were left out.
        frames_clamped: such frames that took messages of the oldest frame there is.
        frames_without_ego: frames without an agent of the ego's type, in scenarios that do have one.
        scenarios_without_ego: scenarios that were skipped, because none of their agents has the ego's type.
    """

    frames_unlabelled: int = 0
    frames_left_out: int = 0
    frames_clamped: int = 0
    frames_without_ego: int = 0
    scenarios_without_ego: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The counts by name, for JSON."""
        return {**asdict(self), "scenarios_without_ego": len(self.scenarios_without_ego)}

    def notes(self) -> list[str]:
        """What a reader of the numbers must know, one sentence each."""
        return notes_on(self.to_dict())


def notes_on(counts: Mapping[str, int]) -> list[str]:
    """What a reader of the numbers must know about the frames behind them, one sentence each.

    Args:
        counts: as `Coverage.to_dict` gives them.
    """
    texts = {
        "frames_unlabelled": "{} not labelled and not scored",
        "frames_left_out": "{} left out: the recording has no frame that long before (before_first=leave_out)",
        "frames_clamped": "{} used newer messages: the recording has no frame that long before (before_first=clamp)",
        "frames_without_ego": "{} left out: no agent has the ego's type",
        "scenarios_without_ego": "{} skipped: no agent has the ego's type",
    }
    return [text.format(_count(counts[key], key.partition("s_")[0])) for key, text in texts.items() if counts[key]]


class Selection:
    """Chooses the frames of a split.

    Args:
        dataset: the split.
        only: indices of the frames that may be evaluated; None for all. The others are there for late messages.
        limit: evaluate only so many of the labelled ones, the first ones.
        max_agents: agents after so many in a frame's order are not there at all.

    Raises:
        ConfigError: `limit` is not above 0.
    """

    def __init__(
        self,
        dataset: Dataset,
        only: Sequence[int] | None = None,
        limit: int | None = None,
        max_agents: int | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"frames={limit}: evaluate at least one frame, or leave it out to evaluate all of them")
        self.dataset, self.max_agents, self._limit = dataset, max_agents, limit
        self._wanted = range(len(dataset)) if only is None else only
        self._agents: dict[str, tuple[int, ...]] = {}

    @functools.cached_property
    def _labelled(self) -> list[int]:
        known = set(labelled_frames(self.dataset))
        chosen = [index for index in self._wanted if index in known]
        if not chosen:
            count = len(self._wanted)
            raise HeatError(f"none of the {count} chosen frames is labelled, so there is nothing to score")
        return chosen

    @property
    def indices(self) -> list[int]:
        """Indices of the labelled frames that may be evaluated; an unlabelled one can only be looked at.

        Raises:
            HeatError: none of the frames is labelled.
        """
        return self._labelled[: self._limit]

    @property
    def unlabelled(self) -> int:
        """How many of the chosen frames have no labels."""
        return len(self._wanted) - len(self._labelled)

    def agent_ids(self, index: int) -> tuple[int, ...]:
        """The agents of a frame that may take part."""
        return self.dataset.agent_ids(index)[: self.max_agents]

    def scenario(self, index: int) -> str:
        """The scenario of a frame."""
        return self.dataset.name(index).rpartition("/")[0]

    def everyone(self, index: int) -> tuple[int, ...]:
        """All agents of a frame's scenario, in the order in which frames list them."""
        scenario = self.scenario(index)
        if scenario not in self._agents:
            found: list[int] = []
            for frame in self.dataset.clip(index):
                place = 0
                for agent in self.agent_ids(frame):
                    if agent not in found:
                        found.insert(place, agent)
                    place = found.index(agent) + 1
            self._agents[scenario] = tuple(found)
        return self._agents[scenario]

    def turn(self, roster: Cast, index: int, latency_ms: float, before_first: BeforeFirst) -> Turn | str:
        """A frame as it is evaluated, or why it is not: "left out" or "without ego".

        Raises:
            NoEgoError: nobody in its scenario can be the ego.
        """
        cast = roster.cast(self.scenario(index), self.everyone(index), self.agent_ids(index))
        if cast is None:
            return "without ego"
        sent = self.dataset.earlier(index, latency_ms) if latency_ms else index
        if sent is not None:
            return Turn(index, cast.ego, cast.roles, sent)
        if before_first == "leave_out":
            return "left out"
        oldest = self.dataset.oldest_within(index, latency_ms)
        return Turn(index, cast.ego, cast.roles, oldest, clamped=not roster.drop)

    def turns(
        self, roster: Cast, latency_ms: float, before_first: BeforeFirst, skip_without_ego: bool
    ) -> tuple[list[Turn], Coverage]:
        """All frames that are evaluated, and what was left out.

        Raises:
            ConfigError: a scenario has nobody who can be the ego, and it is not to be skipped; names all of them.
            HeatError: no frame is left.
        """
        turns: list[Turn] = []
        without: dict[str, NoEgoError] = {}
        missing = {"left out": 0, "without ego": 0}
        for index in self.indices:
            if self.scenario(index) in without:
                continue
            try:
                turn = self.turn(roster, index, latency_ms, before_first)
            except NoEgoError as error:
                without[self.scenario(index)] = error
                continue
            if isinstance(turn, Turn):
                turns.append(turn)
            else:
                missing[turn] += 1
        if without and not skip_without_ego:
            raise ConfigError(_without_ego(without, len({self.scenario(index) for index in self.indices})))
        clamped = sum(turn.clamped for turn in turns)
        coverage = Coverage(self.unlabelled, missing["left out"], clamped, missing["without ego"], tuple(without))
        if missing["left out"] and not turns:
            raise HeatError(self._no_latency(latency_ms))
        if not turns:
            raise HeatError(
                f"none of the {len(self.indices)} frames is left to evaluate: {'; '.join(coverage.notes())}.\n"
                "  Way out: change ego= or plays="
            )
        return turns, coverage

    def _no_latency(self, latency_ms: float) -> str:
        """Why none of the frames can be evaluated at a latency, with figures from the data at hand."""
        dataset = self.dataset
        clips = {self.scenario(index): index for index in self.indices}
        longest = max(clips.values(), key=lambda index: len(dataset.clip(index)))
        count = len(dataset.clip(longest))
        has = "has a single frame" if count == 1 else f"has {count} frames, {dataset.step_ms(longest):g} ms apart"
        reach = max(dataset.age_ms(dataset.oldest_within(index, latency_ms), index) for index in self.indices)
        shorter = f"a latency of no more than {reach:g} ms, " if reach > 0 else ""
        return (
            f"before_first=leave_out leaves no frames: none of the {_count(len(self.indices), 'labelled frame')} has "
            f"a frame {latency_ms:g} ms before it in its recording; the longest of {_count(len(clips), 'scenario')} "
            f"({self.scenario(longest)}) {has}.\n"
            f"  Way out: use {shorter}longer recordings, labels on later frames, or before_first=clamp"
        )


def _without_ego(errors: Mapping[str, NoEgoError], of: int) -> str:
    """One message for all scenarios in which no agent can be the ego."""
    names = ", ".join(list(errors)[:_SHOWN]) + (f" and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else "")
    return (
        f"{len(errors)} of {of} scenarios have no agent that can be the ego: {names}.\n"
        f"  {next(iter(errors.values()))}\n"
        "  Way out: skip_scenarios_without_ego=true evaluates the others (their number is in metrics.json); or change "
        "ego= or plays="
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
