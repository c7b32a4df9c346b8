"""One frame of N agents, stage by stage: CPU seconds, interleaved with matrix products, and the most memory.

    every agent: voxelise -> encode -> backbone -> pack        the ego: unpack -> fuse -> neck -> head -> decode

Every agent senses for itself, one at a time, as agents on their own computers do. The ego then listens to the first
N - 1 of the others. The stages are those of `Collaboration.encode` and `detect`; that they end at the same boxes is
checked before anything is timed.

The work here runs in a process of its own, so that its peak memory is that of one network alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from heatv2x.agents.lidar_pillar import LidarPillar
from heatv2x.core.workers import Tell
from heatv2x.errors import HeatError
from heatv2x.evaluation.cost import FlopCount, count_parameters, peak_memory
from heatv2x.geometry.handedness import agent_on, boxes_on
from heatv2x.link.message import Message, pack, unpack
from heatv2x.link.suspicion import concerns, stands_out
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig
from heatv2x.model.deploy import optimised
from heatv2x.model.links import links_of
from heatv2x.structures import AgentFrame
from studies import sweeps
from studies.speed_models import seeded

OF_AN_AGENT = ("voxelise", "encode", "backbone", "pack")
OF_THE_EGO = ("unpack", "fuse", "neck", "head", "decode")
STAGES = (*OF_AN_AGENT, *OF_THE_EGO)
PRECISIONS = ("float32", "bfloat16")
_SIDE = 1536
"""Of the square matrices whose product is the machine's peak."""

Precision = Literal["float32", "bfloat16"]
Build = Literal["plain", "optimised", "compiled"]
Seconds = dict[str, float]


@dataclass(frozen=True)
class Variant:
    """One way to run one network.

    Attributes:
        model: name in `speed_models.MODELS`.
        build: "plain" as it is trained; "optimised" by `heatv2x.model.deploy`; "compiled" by torch.compile.
        precision: of matrix products.
        threads: of torch.
    """

    model: str
    build: Build = "plain"
    precision: Precision = "float32"
    threads: int = 1

    @property
    def name(self) -> str:
        """ "published, optimised, bfloat16, 1 thread"."""
        return f"{self.model}, {self.build}, {self.precision}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Repeats:
    """How long one measurement takes.

    Attributes:
        least, most: rounds.
        seconds: no further round begins after so many CPU seconds, once there are `least`.
    """

    least: int
    most: int
    seconds: float


class Laps:
    """CPU seconds between one stage and the next.

    Attributes:
        seconds: by stage.
        flops: by stage, where they are counted.
    """

    def __init__(self, count: FlopCount | None = None) -> None:
        self.seconds: Seconds = {}
        self.flops: dict[str, int] = {}
        self._count, self._counted = count, count.flops if count else 0
        self.go_on()

    def end(self, stage: str) -> None:
        """The work since the last stage's end was this stage's."""
        now = time.process_time()
        self.seconds[stage] = now - self._cpu
        if self._count:
            self.flops[stage] = self._count.flops - self._counted
            self._counted = self._count.flops
        self.seconds["wall"] = self.seconds.get("wall", 0.0) + time.perf_counter() - self._wall
        self.go_on()

    def go_on(self) -> None:
        """What happened since the last stage's end belongs to none."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()


@dataclass
class Ears:
    """What an ego works with.

    Attributes:
        own: its own message, never sent.
        heard: packed messages of the others.
    """

    own: Message
    heard: list[bytes]


def measure_frame(
    config: ModelConfig,
    variant: Variant,
    agents: Sequence[int],
    repeats: Repeats,
    objects: int,
    seed: int,
    tell: Tell,
) -> dict[str, Any]:
    """Time one network.

    Args:
        agents: how many agents are in a frame, ascending, the ego included.
        objects: how many the head is made to find, see `with_objects`.

    Returns:
        `rounds`, raw seconds of every round; `peak_bytes` by number of agents; `flops` by stage and number of agents,
        of the plain build alone; and what the network is.

    Raises:
        HeatError: the timed stages do not do what the model does.
    """
    torch.set_num_threads(variant.threads)
    load = [round(value, 1) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
    plain = seeded(config, seed)
    parameters = count_parameters(plain).total
    before = time.process_time()
    model = prepared(plain, variant)
    preparing = time.process_time() - before
    del plain
    types = list(config.agents)
    seeing = any("camera" in model.agent(name).sensors for name in types)
    frames = sweeps.agent_frames(max(agents), seed, seeing)
    names = [types[number % len(types)] for number in range(len(frames))]
    held, flops = {}, {}
    boxes = torch.zeros(0)
    before = time.process_time()
    with torch.no_grad(), running(variant):
        messages: list[Message] = []
        for count in agents:  # ascending, so that the peak is that of the largest frame so far
            messages += [sense(model, frames[i], names[i])[0] for i in range(len(messages), count)]
            ears = Ears(messages[0], [pack(message) for message in messages[1:count]])
            with FlopCount() if variant.build == "plain" else nullcontext() as counter:
                boxes, laps = listen(model, ears, objects, counter)
            held[str(count)] = peak_memory().resident_bytes
            flops[str(count)] = laps.flops
            tell(f"{variant.name}: warming up", count, max(agents))
        warming = time.process_time() - before
        flops["agent"] = _flops_of_an_agent(model, frames[0], names[0]) if variant.build == "plain" else {}
        check(model, frames[0], Ears(messages[0], [pack(message) for message in messages[1:2]]))
        peak_gflops()  # makes its kernels
        rounds = list(_rounds(model, variant, frames, names, agents, repeats, objects, tell))
    clouds = [next(iter(frame.lidars.values())).points for frame in frames]
    return {
        "rounds": rounds,
        "peak_bytes": held,
        "flops": flops,
        "parameters": parameters,
        "preparing_s": preparing,
        "warming_up_s": warming,
        "message_bytes": len(pack(messages[-1])),
        "points": [len(cloud) for cloud in clouds],
        "pillars": [sweeps.pillars(cloud) for cloud in clouds],
        "load": load,
        "boxes": len(boxes),
        "grid": list(model.grid.shape),
    }


def measure_compiled_frame(
    config: ModelConfig,
    variant: Variant,
    agents: Sequence[int],
    repeats: Repeats,
    objects: int,
    seed: int,
    tell: Tell,
) -> dict[str, Any]:
    """The same for a network that torch compiles, or the reason why it did not."""
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - imports the compiler, seconds long

    try:
        return measure_frame(config, variant, agents, repeats, objects, seed, tell)
    except TorchDynamoException as error:
        return {"failed": (str(error).splitlines() or [type(error).__name__])[0]}


def prepared(model: Collaboration, variant: Variant) -> Collaboration:
    """The model as this variant runs it."""
    if variant.build == "optimised":
        return optimised(model, variant.precision).networks
    if variant.build == "compiled":
        for part in compiled_parts(model):
            part.compile()
    return model


def compiled_parts(model: Collaboration) -> list[torch.nn.Module]:
    """What torch.compile is given: trunks, backbone, neck, head, and a pyramid's stages; all else is left as it is."""
    trunks = [agent.trunk for agent in model.agents.values() if isinstance(agent, LidarPillar)]
    levels = [stage for name in ("stages", "enlarge") for stage in getattr(model.fusion, name, [])]
    return [*trunks, model.backbone, *levels, model.neck, model.head]


@contextmanager
def running(variant: Variant) -> Iterator[None]:
    """The precision in which a build that does not see to it itself computes."""
    lowered = variant.precision == "bfloat16" and variant.build != "optimised"
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        yield


def _rounds(
    model: Collaboration,
    variant: Variant,
    frames: Sequence[AgentFrame],
    names: Sequence[str],
    agents: Sequence[int],
    repeats: Repeats,
    objects: int,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    start = time.process_time()
    for number in range(repeats.most):
        if number >= repeats.least and time.process_time() - start > repeats.seconds:
            break
        tell(variant.name, number, repeats.most)
        peaks = [peak_gflops()]
        sensed = [sense(model, frame, name) for frame, name in zip(frames, names, strict=True)]
        data = [pack(message) for message, _ in sensed[1:]]
        ego = {}
        for count in agents:
            _, laps = listen(model, Ears(sensed[0][0], data[: count - 1]), objects)
            ego[str(count)] = laps.seconds
        peaks.append(peak_gflops())
        mean = {precision: float(np.mean([peak[precision] for peak in peaks])) for precision in peaks[0]}
        yield {"peak_gflops": mean, "agents": [laps.seconds for _, laps in sensed], "ego": ego}
    tell(variant.name, repeats.most, repeats.most)


def sense(model: Collaboration, frame: AgentFrame, name: str, count: FlopCount | None = None) -> tuple[Message, Laps]:
    """What one agent does for one frame: its message, and the seconds of voxelise, encode, backbone, pack."""
    laps = Laps(count)
    agent = model.agent(name)
    inputs = agent.collate([agent.prepare(agent_on(model.grid, frame))])
    laps.end("voxelise")
    encoded = agent.pillars(inputs) if isinstance(agent, LidarPillar) else agent(inputs)
    laps.end("encode")
    feature = model.to_shared_space(name, agent.trunk(encoded) if isinstance(agent, LidarPillar) else encoded)
    laps.end("backbone")
    about = (frame.agent_id, name, 0, frame.pose, 0.0, 0.0, model.feature_space)
    message = Message(*about, feature=feature[0].float().contiguous(), codec=model.config.codec)
    pack(message)
    laps.end("pack")
    return message, laps


def listen(
    model: Collaboration, ears: Ears, objects: int | None, count: FlopCount | None = None
) -> tuple[Tensor, Laps]:
    """What the ego does with what it heard: boxes in the grid's axes, and the seconds of unpack to decode.

    Args:
        objects: how many the head is made to find, see `with_objects`; None takes the scores as they are.
    """
    laps = Laps(count)
    space = model.feature_space
    messages = [message for data in ears.heard if concerns(ears.own, message := unpack(data, space), model.grid)]
    own = ears.own.feature
    assert own is not None
    odd = [stands_out(message.feature, own) for message in messages if message.feature is not None]
    assert not any(odd), "drawn agents are alike"
    laps.end("unpack")
    everyone = [ears.own, *messages]
    features = torch.stack([message.feature for message in everyone if message.feature is not None])
    types = [message.agent_type for message in everyone]
    ego, received = model.receive(features, features, types, links_of(ears.own, messages, model.grid))
    fused = model.fusion(ego, received)
    laps.end("fuse")
    shrunk = model.neck(fused)
    laps.end("neck")
    maps = model.head(shrunk)
    laps.end("head")
    if objects is not None:
        maps = with_objects(maps, objects)
        laps.go_on()
    found = model.head.decode(maps, model.grid)[0]
    laps.end("decode")
    return found.boxes, laps


def with_objects(maps: dict[str, Tensor], objects: int) -> dict[str, Tensor]:
    """The maps with scores as those of a trained head lie: each object is seen by the 3 x 3 cells around its centre.

    Drawn weights would find nothing, or something everywhere. Box terms are damped, so that boxes are as large as cars.
    """
    name = next(key for key in ("score", "heatmap") if key in maps)
    draw = torch.Generator().manual_seed(objects)
    scores = torch.full_like(maps[name], -8.0)
    rows, columns = scores.shape[-2:]
    row = torch.randint(1, rows - 1, (objects,), generator=draw)
    column = torch.randint(1, columns - 1, (objects,), generator=draw)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            centre = 2.0 - 0.5 * (abs(down) + abs(right)) + 0.2 * torch.rand(objects, generator=draw)
            scores[0, 0, row + down, column + right] = centre.to(scores.dtype)
    return {**maps, name: scores, "box": 0.1 * maps["box"]}


def check(model: Collaboration, frame: AgentFrame, ears: Ears) -> None:
    """That the timed stages are what the model does.

    Raises:
        HeatError: they end at another message or at other boxes.
    """
    mine, theirs = sense(model, frame, ears.own.agent_type)[0], model.encode(frame, ears.own.agent_type)
    if pack(mine) != pack(replace(theirs, feature=_float(theirs))):
        raise HeatError("the timed stages of an agent are not what Collaboration.encode does")
    boxes, _ = listen(model, ears, None)
    whole = model.detect(ears.own, [unpack(data, ears.own.feature_space) for data in ears.heard])
    if not np.array_equal(boxes_on(model.grid, boxes).float().numpy(), whole.boxes):
        raise HeatError("the timed stages of an ego are not what Collaboration.detect does")


def _float(message: Message) -> Tensor | None:
    return None if message.feature is None else message.feature.float().contiguous()


def peak_gflops(times: int = 2) -> Seconds:
    """What this process multiplies square matrices at, by precision: 10^9 operations per CPU second."""
    found = {}
    for precision in PRECISIONS:
        a = torch.ones(_SIDE, _SIDE, dtype=getattr(torch, precision))
        start = time.process_time()
        with torch.autocast("cpu", enabled=False):
            for _ in range(times):
                torch.mm(a, a)
        found[precision] = times * 2 * _SIDE**3 / (time.process_time() - start) / 1e9
    return found


def _flops_of_an_agent(model: Collaboration, frame: AgentFrame, name: str) -> dict[str, int]:
    with FlopCount() as counter:
        return sense(model, frame, name, counter)[1].flops
