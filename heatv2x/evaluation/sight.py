"""What a model detects in a dataset's frames, without messages and with them."""

from __future__ import annotations

from dataclasses import replace

from heatv2x.core import plugins
from heatv2x.data.datasets.base import Dataset
from heatv2x.data.view.frame_view import Sight
from heatv2x.errors import ConfigError
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.roster import Roster
from heatv2x.evaluation.view_config import ViewConfig
from heatv2x.geometry.matching import judge
from heatv2x.model.assembly import read_all
from heatv2x.model.collaboration import Collaboration
from heatv2x.nn.move import find_device


class Watcher:
    """The model of some packs, ready to look at frames.

    Args:
        dataset: the split.
        config: its packs, who plays what, and the least score.

    Raises:
        ConfigError: a type is to play that has no encoder among the packs.
        PackError: the packs do not fit together.
    """

    def __init__(self, dataset: Dataset, config: ViewConfig) -> None:
        self.roster = roster_of(config)
        with plugins.allowing(config.allow_parts):
            model = Collaboration.from_packs(*config.packs)
        self.model = model.to(find_device("auto")).eval()
        self.score = config.score
        self._evaluator = Evaluator(dataset)

    def look(self, index: int) -> tuple[Sight, ...]:
        """The ego alone and, if it hears anybody, together.

        Raises:
            DataError: a file is missing or corrupt.
        """
        self._evaluator.forget()  # frames are looked at once
        alone = self._sight(replace(self.roster, drop=True), index)
        together = self._sight(self.roster, index)
        return (alone, together) if together.heard else (alone,)

    def _sight(self, roster: Roster, index: int) -> Sight:
        scene = self._evaluator.run(self.model, roster, index)
        ids = [agent.agent_id for agent in scene.frame.agents]
        heard = tuple(ids[member] for member in scene.heard)
        return Sight(heard, roster.roles(ids, ids[scene.ego]), judge(scene.detections, scene.truth, self.score))


def roster_of(config: ViewConfig) -> Roster:
    """Which agent has which type: as set, or else as the packs suggest.

    Raises:
        ConfigError: a type has no encoder among the packs.
    """
    _, agents, _ = read_all(config.packs)
    types = [pack.agent_type for pack in agents]
    if not types:
        raise ConfigError(
            "packs= holds no agent pack, so no agent can encode its sensor data; add one, such as lidar64"
        )
    ego = config.ego or types[0]
    senders = config.senders or tuple(name for name in types if name != ego) or ego
    roster = Roster(ego, senders)
    for name in roster.types:
        if name not in types:
            raise ConfigError(f"'{name}' takes part, but packs= has no agent pack for it, only for {', '.join(types)}")
    return roster
