"""Which agent has which type in an evaluation: one for the ego, others for the rest, or an assignment file (HEAL)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from heatv2x.data.assignment import Assignment
from heatv2x.errors import ConfigError


class NoEgoError(ConfigError):
    """No agent of a scenario has a type that the ego may have."""


@dataclass(frozen=True)
class CastFrame:
    """The cast of one frame: the ego's id, and the type of every agent that takes part, by id."""

    ego: int
    roles: Mapping[int, str]


class Cast(ABC):
    """Decides the ego and the types of a frame's agents.

    Attributes:
        drop: the ego hears nobody.
    """

    drop: bool

    @property
    @abstractmethod
    def types(self) -> tuple[str, ...]:
        """Every type that an agent may have, the ego's first."""

    @property
    @abstractmethod
    def ego_types(self) -> tuple[str, ...]:
        """The types that the ego may have."""

    @property
    @abstractmethod
    def sender_types(self) -> tuple[str, ...]:
        """The types the ego may hear; none if it drops all messages."""

    @abstractmethod
    def ego_of(self, scenario: str, agent_ids: Sequence[int]) -> int:
        """Id of the ego among a frame's agents, which come in the order of `Frame.agents`."""

    @abstractmethod
    def roles(self, agent_ids: Sequence[int], ego_id: int, scenario: str = "") -> dict[int, str]:
        """Type of every agent that takes part, by id.

        Args:
            agent_ids: *all* agents of the scenario, whether or not they are in a frame: an agent keeps its type when
                another one comes or goes.
            ego_id: which of them is the ego.
            scenario: its name.
        """

    def cast(self, scenario: str, everyone: Sequence[int], present: Sequence[int]) -> CastFrame | None:
        """Which agent has which type in a frame.

        The ego is that of the scenario; in frames without it another vehicle that plays the ego's type takes its place.

        Args:
            scenario: the frame's scenario.
            everyone: all agents of the scenario, in the order of `Frame.agents`.
            present: those of them that are in the frame, in that order.

        Returns:
            None if nobody in the frame can be the ego.

        Raises:
            NoEgoError: nobody in the whole scenario can be the ego.
        """
        ego = self.ego_of(scenario, everyone)
        roles = self.roles(everyone, ego, scenario)
        if ego not in present:
            able = [agent for agent in present if agent >= 0 and roles.get(agent) == roles[ego]]
            if not able:
                return None
            ego = able[0]
        return CastFrame(ego, {agent: roles[agent] for agent in present if agent in roles})


@dataclass(frozen=True)
class Roster(Cast):
    """The ego is the first agent of every scenario.

    Attributes:
        ego: its type.
        senders: type of all other agents; several types take turns among them in the order of their ids.
        drop: the ego hears nobody.
    """

    ego: str
    senders: str | tuple[str, ...]
    drop: bool = False

    def __post_init__(self) -> None:
        if not self.in_turn:
            raise ConfigError(
                "senders is empty: list the types of the other agents, or set drop=true to evaluate the ego alone"
            )

    @property
    def in_turn(self) -> tuple[str, ...]:
        """The senders' types, in turn."""
        return (self.senders,) if isinstance(self.senders, str) else self.senders

    @property
    def types(self) -> tuple[str, ...]:
        return (self.ego, *self.in_turn)

    @property
    def ego_types(self) -> tuple[str, ...]:
        return (self.ego,)

    @property
    def sender_types(self) -> tuple[str, ...]:
        return () if self.drop else self.in_turn

    def ego_of(self, scenario: str, agent_ids: Sequence[int]) -> int:
        return agent_ids[0]

    def roles(self, agent_ids: Collection[int], ego_id: int, scenario: str = "") -> dict[int, str]:
        others = sorted(agent_id for agent_id in agent_ids if agent_id != ego_id)
        types = self.in_turn
        roles = {agent_id: types[rank % len(types)] for rank, agent_id in enumerate(others)}
        return {ego_id: self.ego, **roles}


@dataclass(frozen=True)
class AssignedRoster(Cast):
    """Types from an assignment, as HEAL evaluates.

    Attributes:
        assignment: types by their names in the file.
        plays: the file's type to the type of the packs; an agent whose type is not named takes no part (it still labels
            objects). Mapping all types to one makes the experiment homogeneous.
        ego: pack types the ego may be of; the first vehicle of such a type is the ego. None takes the first agent.
        count: so many agents take part, the ego first, then the others in their order; None for all.
        drop: the ego hears nobody.
    """

    assignment: Assignment
    plays: Mapping[str, str]
    ego: tuple[str, ...] | None = None
    count: int | None = None
    drop: bool = field(default=False)

    def __post_init__(self) -> None:
        if not self.plays:
            raise ConfigError("plays= is empty: map at least one type of the assignment, such as plays.m1=lidar64")
        for name in self.ego or ():
            if name not in self.plays.values():
                raise ConfigError(f"ego='{name}' is not among the types in plays=: {', '.join(self.plays.values())}")

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*(self.ego or ()), *self.plays.values()]))

    @property
    def ego_types(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.ego or self.plays.values()))

    @property
    def sender_types(self) -> tuple[str, ...]:
        return () if self.drop or self.count == 1 else tuple(dict.fromkeys(self.plays.values()))

    def ego_of(self, scenario: str, agent_ids: Sequence[int]) -> int:
        """The first vehicle of a wanted type.

        Raises:
            NoEgoError: no vehicle of the scenario is.
        """
        for agent_id in agent_ids:  # roadside units come last, and are never the ego
            played = self.plays.get(self.assignment.of(scenario, agent_id))
            if agent_id >= 0 and played is not None and (self.ego is None or played in self.ego):
                return agent_id
        wanted = "a type in plays" if self.ego is None else f"type {' or '.join(self.ego)}"
        raise NoEgoError(f"scenario {scenario} has no vehicle of {wanted}; change ego= or plays=")

    def roles(self, agent_ids: Sequence[int], ego_id: int, scenario: str = "") -> dict[int, str]:
        ordered = [ego_id, *(agent_id for agent_id in agent_ids if agent_id != ego_id)][: self.count]
        played = {agent_id: self.plays.get(self.assignment.of(scenario, agent_id)) for agent_id in ordered}
        return {agent_id: name for agent_id, name in played.items() if name is not None}
