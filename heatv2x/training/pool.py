"""A split ready to draw from, in memory or on disk: every agent as every type it may be drawn as."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from heatv2x.agents.base import Agent
from heatv2x.data.datasets.base import Dataset, labelled_frames
from heatv2x.errors import DataError, HeatError
from heatv2x.geometry.handedness import frame_on
from heatv2x.structures import AgentFrame, Frame

log = logging.getLogger(__name__)


@dataclass
class Pool:
    """Frames without sensor data, and the sensor data of each agent reduced to what each type needs.

    All in the axes of the agents' grid, like everything that is made of it in training.

    Attributes:
        frames: labels and poses; their agents carry no sensor data.
        sensed: by type, by frame, by agent: the agent's frame as that type needs it.
        bad_files: of frames that were left out because they cannot be read.
    """

    frames: list[Frame]
    sensed: dict[str, list[list[AgentFrame]]]
    bad_files: list[str] = field(default_factory=list, kw_only=True)

    def agent(self, frame: int, agent: int, agent_type: str) -> AgentFrame:
        """One agent of one frame as the given type."""
        return self.sensed[agent_type][frame][agent]


@dataclass
class DiskPool(Pool):
    """A pool that holds labels only and reads an agent's sensor data whenever it is drawn.

    Attributes:
        dataset: the split; `sensed` stays empty.
        agents: the types by name.
        chosen: the split's index of each frame.
    """

    dataset: Dataset
    agents: Mapping[str, Agent]
    chosen: list[int]

    def agent(self, frame: int, agent: int, agent_type: str) -> AgentFrame:
        """One agent of one frame as the given type, from the disk."""
        kind, index = self.agents[agent_type], self.chosen[frame]
        read = self.dataset.read(index, {self.frames[frame].agents[agent].agent_id: kind.sensors})
        return kind.reduce(frame_on(kind.grid, read).agents[agent])


def load_pool(
    dataset: Dataset,
    agents: Mapping[str, Agent],
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    hold: bool = True,
    skip: bool = False,
) -> Pool:
    """Read the labelled frames of a split once, decoding only the sensors that the given types declare.

    Args:
        dataset: the split.
        agents: the types by name; each decides what it keeps of a frame.
        limit: read only so many frames, spread evenly over those that are labelled.
        progress: called with (frames read, frames in all).
        hold: keep the sensor data in memory; otherwise they are read again whenever an agent is drawn.
        skip: leave out frames with a file that cannot be read; the pool says which.

    Raises:
        HeatError: no frame is labelled.
    """
    labelled = labelled_frames(dataset)
    if len(labelled) < len(dataset):
        log.warning(
            "%d of %d frames have no labels and are not used for training", len(dataset) - len(labelled), len(dataset)
        )
    sensors = sorted({sensor for agent in agents.values() for sensor in agent.sensors}) if hold else []
    grid = next(iter(agents.values())).grid
    total = len(labelled) if limit is None else min(limit, len(labelled))
    chosen = [labelled[(2 * place + 1) * len(labelled) // (2 * total)] for place in range(total)]
    frames: list[Frame] = []
    bad: dict[int, str] = {}
    sensed: dict[str, list[list[AgentFrame]]] = {name: [] for name in agents}
    for done, index in enumerate(chosen, start=1):
        try:
            frame = frame_on(grid, dataset.read(index, sensors))
        except DataError as error:
            if not skip:
                raise
            log.warning("skipped: %s", error)
            bad[index] = str(error.path)
            continue
        for name, agent in agents.items() if hold else ():
            sensed[name].append([agent.reduce(agent_frame) for agent_frame in frame.agents])
        frames.append(frame.with_agents(tuple(replace(agent, lidars={}, cameras=()) for agent in frame.agents)))
        if progress:
            progress(done, total)
    if not frames:
        raise HeatError(f"none of the {total} frames can be read; the first bad file is {next(iter(bad.values()))}")
    files = list(dict.fromkeys(bad.values()))
    if hold:
        return Pool(frames, sensed, bad_files=files)
    left = [index for index in chosen if index not in bad]
    return DiskPool(frames, {}, dataset, agents, left, bad_files=files)
