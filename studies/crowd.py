"""Scenes of many agents: CPU seconds and memory of the ego and of one sender, by the number of agents.

The ego's frame is what it does with what arrives: unpack, warp, fuse, detect. A sender's frame is its own work: encode,
pack. All variants are timed in turn within one run, so that what else the machine does touches all of them alike, and
compared by ratios. Nothing here is about precision.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from heatv2x.core.config import build
from heatv2x.core.workers import Tell
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.errors import HeatError
from heatv2x.evaluation.cost import tensor_memory
from heatv2x.link.message import Message, pack, unpack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.links import links_of
from heatv2x.model.variants import fusing_by
from heatv2x.structures import AgentFrame, Boxes3D, Frame, Pose
from heatv2x.world.config import WorldConfig
from studies import fleet
from studies.config import BASE
from studies.fleet import FleetConfig

CROWD = 8
"""Agents of every built scene, the most that a world has."""
PARTS = ("unpack", "receive", "fuse", "predict", "decode")
FUSIONS = ("hetero_graph", "maximum")
SENDERS = ("base type", "all types")
Seconds = dict[str, float]


def world_of(config: FleetConfig) -> WorldConfig:
    """Crowded scenes of test towns, one frame each, with every sensor."""
    settings = {"train": 0, "validate": 0, "test": config.scenes, "clip_frames": 1, "workers": 1}
    crowd = {"min_agents": CROWD, "max_agents": CROWD, "seed": config.world_seed}
    return build(WorldConfig, {"out": config.out / "world", **settings, **crowd})


@dataclass
class Crowd:
    """What one ego hears.

    Attributes:
        agents: of the scene itself, the ego first.
        own: the ego's message to itself, by fusion.
        heard: packed messages by (fusion, who speaks), the nearest sender first.
        borrowed: how many of the last senders come from another scene.
    """

    agents: tuple[AgentFrame, ...]
    own: dict[str, Message]
    heard: dict[tuple[str, str], list[bytes]]
    borrowed: int


def measure_crowd(config: FleetConfig, seed: int, tell: Tell) -> dict[str, Any]:
    """Time ego and senders; the networks are those of this seed, with every type joined.

    Raises:
        HeatError: the parts that were timed do not do what the model does.
    """
    place, deployed = fleet.place_of(config, seed), config.deployed()
    graph = Collaboration.from_packs(*fleet.joined_packs(place, deployed))
    models = {"hetero_graph": graph, "maximum": fusing_by(graph, "maximum")}
    world = Opv2v(config.out / "world", "test")
    sensors = sorted({sensor for name in deployed for sensor in graph.agent(name).sensors})
    frames = [world.read(index, sensors) for index in range(len(world))]
    counts = (1, *config.agents)
    variants = [(fusion, kind, count) for count in counts for kind in SENDERS for fusion in FUSIONS]
    egos: dict[tuple[str, str, int], list[Seconds]] = {variant: [] for variant in variants}
    senders: dict[str, list[Seconds]] = {name: [] for name in deployed}
    crowds = [gather(models, frames, scene, deployed, max(counts) - 1) for scene in range(len(frames))]
    for scene, crowd in enumerate(crowds):
        for repeat in range(config.repeats + 1):
            agent = crowd.agents[repeat % len(crowd.agents)]
            said = {name: sender_seconds(graph, agent, name) for name in deployed}
            did = {(f, k, n): ego_seconds(models[f], crowd.own[f], crowd.heard[f, k][: n - 1]) for f, k, n in variants}
            if repeat:  # the first time only warms kernels up
                for name in deployed:
                    senders[name].append(said[name])
                for variant in variants:
                    egos[variant].append(did[variant] | {"encode": said[BASE]["encode"]})
            tell("timing", scene * (config.repeats + 1) + repeat + 1, len(crowds) * (config.repeats + 1))
    first = crowds[0]
    held = {
        (f, k, n): tensor_memory(partial(listen, models[f], first.own[f], first.heard[f, k][: n - 1]))
        for f, k, n in variants
    }
    facts = {
        "agents_of_the_scenes": [len(crowd.agents) for crowd in crowds],
        "borrowed": max(crowd.borrowed for crowd in crowds),
        "repeats": config.repeats,
        "ego": [ego_line(*variant, egos, held) for variant in variants],
        "sender": [sender_line(graph, name, senders[name], first.agents) for name in deployed],
    }
    return {"seed": seed, "rows": [], "stages": [], "facts": facts}


def gather(
    models: Mapping[str, Collaboration], frames: Sequence[Frame], scene: int, deployed: Sequence[str], count: int
) -> Crowd:
    """The ego of a scene and `count` others that speak to it.

    A scene has no more vehicles than the world connects; further ones are borrowed from the next scenes: what they saw
    there, at the place that they had relative to the ego there. Such a message is real in size and cost, but it does
    not fit what the ego sees.

    Raises:
        HeatError: all scenes together have too few agents.
    """
    ego, *others = frames[scene].agents
    others.sort(key=lambda agent: agent.pose.planar_distance(ego.pose))
    lent = [moved(agent, frame.agents[0].pose, ego.pose) for frame in (*frames[scene + 1 :], *frames[:scene])
            for agent in frame.agents[1:]]  # fmt: skip
    speakers = [*others, *lent][:count]
    if len(speakers) < count:
        raise HeatError(f"{len(speakers)} agents can be heard, agents= asks for {count}; write more scenes=")
    graph = models["hetero_graph"]
    own, heard = graph.encode(ego, BASE), {}
    by_kind = {"base type": [BASE], "all types": [*deployed[1:], BASE]}
    for kind, types in by_kind.items():
        spoken = [graph.encode(agent, types[rank % len(types)]) for rank, agent in enumerate(speakers)]
        for fusion, model in models.items():  # the senders' networks are the same, the base's name is not
            heard[fusion, kind] = [pack(replace(message, feature_space=model.feature_space)) for message in spoken]
    owns = {fusion: replace(own, feature_space=model.feature_space) for fusion, model in models.items()}
    return Crowd(frames[scene].agents, owns, heard, max(0, count - len(others)))


def moved(agent: AgentFrame, there: Pose, here: Pose) -> AgentFrame:
    """An agent at the place relative to an ego `here` that it has relative to an ego `there`."""
    return replace(agent, pose=Pose(here.matrix @ there.inverse() @ agent.pose.matrix))


# --- one frame ------------------------------------------------------------------------------------------------------


def listen(model: Collaboration, own: Message, data: Sequence[bytes]) -> Boxes3D:
    """What an ego does with what arrives."""
    return model.detect(own, [unpack(message, own.feature_space) for message in data])


@torch.no_grad()
def ego_seconds(model: Collaboration, own: Message, data: Sequence[bytes]) -> Seconds:
    """CPU seconds of one frame of an ego: the whole, and its parts one after another.

    Raises:
        HeatError: the parts do not end at the same boxes as the whole.
    """
    start = time.process_time()
    found = listen(model, own, data)
    whole = time.process_time() - start
    marks = [time.process_time()]
    messages = [unpack(message, own.feature_space) for message in data]
    marks.append(time.process_time())
    everyone = [own, *messages]
    features = torch.stack([message.feature for message in everyone if message.feature is not None])
    types = [message.agent_type for message in everyone]
    ego, received = model.receive(features, features, types, links_of(own, messages, model.grid))
    marks.append(time.process_time())
    fused = model.fusion(ego, received)
    marks.append(time.process_time())
    maps = model.predict(fused)
    marks.append(time.process_time())
    boxes = model.head.decode(maps, model.grid)[0].boxes
    marks.append(time.process_time())
    if not np.array_equal(boxes.numpy(), found.boxes):
        raise HeatError("the timed parts of an ego's frame are not what Collaboration.detect does")
    return {"whole": whole, **{part: b - a for part, (a, b) in zip(PARTS, itertools.pairwise(marks), strict=True)}}


def sender_seconds(model: Collaboration, agent: AgentFrame, agent_type: str) -> Seconds:
    """CPU seconds of one frame of a sender."""
    start = time.process_time()
    message = model.encode(agent, agent_type)
    encoded = time.process_time()
    pack(message)
    return {"encode": encoded - start, "pack": time.process_time() - encoded}


# --- lines of the result --------------------------------------------------------------------------------------------


def ego_line(
    fusion: str,
    senders: str,
    agents: int,
    seconds: Mapping[tuple[str, str, int], Sequence[Seconds]],
    held: Mapping[tuple[str, str, int], int],
) -> dict[str, Any]:
    """Medians of one variant, and its ratios to the ego alone within each repeat, its own encoding included."""
    samples, alone = seconds[fusion, senders, agents], seconds[fusion, senders, 1]
    ratios = [frame_of(s) / frame_of(a) for s, a in zip(samples, alone, strict=True)]
    return {
        "fusion": fusion,
        "senders": senders,
        "agents": agents,
        "ms": {part: milliseconds([s[part] for s in samples]) for part in ("encode", "whole", *PARTS)},
        "ratio_to_alone": middle(ratios),
        "peak_tensor_bytes": held[fusion, senders, agents],
    }


def sender_line(
    model: Collaboration, name: str, samples: Sequence[Seconds], agents: Sequence[AgentFrame]
) -> dict[str, Any]:
    """Medians of one type's sender, its memory, and the length of its messages."""
    return {
        "type": name,
        "ms": {part: milliseconds([s[part] for s in samples]) for part in ("encode", "pack")},
        "peak_tensor_bytes": tensor_memory(partial(sender_seconds, model, agents[0], name)),
        "message_bytes": statistics.fmean(len(pack(model.encode(agent, name))) for agent in agents),
    }


def frame_of(seconds: Seconds) -> float:
    """All that an ego does in one frame."""
    return seconds["encode"] + seconds["whole"]


def milliseconds(seconds: Sequence[float]) -> float:
    """Median, in milliseconds."""
    return round(1000 * statistics.median(seconds), 3)


def middle(values: Sequence[float]) -> dict[str, float]:
    """Median and the quartiles around it."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": round(float(median), 4), "low": round(float(low), 4), "high": round(float(high), 4)}
