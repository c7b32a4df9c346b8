"""One agent type for each agent of a scenario: the assignment files of HEAL (yifanlu0227/HEAL)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heatv2x.errors import ConfigError, DataError
from heatv2x.formats.opv2v_yaml import assignment

HEAL_TYPES = ("m1", "m2", "m3", "m4")
"""64-beam LiDAR, cameras, 32-beam LiDAR, cameras: the agent types of HEAL (yifanlu0227/HEAL)."""


_HEAL_SEED = 303


@dataclass(frozen=True)
class Assignment:
    """One type for each agent of a scenario, constant over time: a file of HEAL's opencood/modality_assign.

    Attributes:
        types: by scenario, by agent id.
        source: the file it was read from, for messages.
    """

    types: Mapping[str, Mapping[int, str]]
    source: Path = Path("the assignment")

    @classmethod
    def read(cls, path: str | Path) -> Assignment:
        """Read `{"<scenario>": {"<agent id>": "m1", ...}, ...}`.

        Raises:
            DataError: the file is missing or not of that form.
        """
        return cls(assignment(path), Path(path))

    @classmethod
    def shuffled(cls, agents: Mapping[str, Sequence[int]], kinds: Sequence[str] = HEAL_TYPES) -> Assignment:
        """HEAL's `opv2v_4modality.json`: in every scenario one permutation of the types, taken in turn.

        Args:
            agents: by scenario, ids in the order of `Frame.agents`.
            kinds: the types.
        """
        rng = np.random.RandomState(_HEAL_SEED)
        types = {}
        for scenario in sorted(agents):
            order = rng.permutation(len(kinds))
            types[scenario] = {agent: kinds[order[k % len(kinds)]] for k, agent in enumerate(agents[scenario])}
        return cls(types)

    @classmethod
    def in_order(cls, agents: Mapping[str, Sequence[int]], kinds: Sequence[str] = HEAL_TYPES) -> Assignment:
        """HEAL's `..._in_order.json`: the types in turn, in the order of the agents, roadside units last."""
        types = {s: {agent: kinds[k % len(kinds)] for k, agent in enumerate(agents[s])} for s in sorted(agents)}
        return cls(types)

    def knows(self, names: Iterable[str]) -> None:
        """Check that each of these types is assigned to some agent.

        Raises:
            ConfigError: one is not; lists those that are.
        """
        known = sorted({name for agents in self.types.values() for name in agents.values()})
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(
                f"plays= names {', '.join(unknown)}, but {self.source} assigns only {', '.join(known) or 'nothing'}.\n"
                f"  Way out: write plays.{known[0] if known else 'TYPE'}=OUR_TYPE, and so on, for these types"
            )

    def of(self, scenario: str, agent_id: int) -> str:
        """The type of one agent.

        Raises:
            DataError: the assignment does not name it.
        """
        if scenario not in self.types or agent_id not in self.types[scenario]:
            problem = f"assigns no type to agent {agent_id} of scenario {scenario}"
            raise DataError(self.source, problem, way_out="use the assignment that belongs to this dataset and split")
        return self.types[scenario][agent_id]
