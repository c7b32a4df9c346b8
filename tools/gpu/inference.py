"""Frames per second of an ego that hears up to nine others, in every build of the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpu.place import Keep, Place, floor_s, peak_gib, seconds_of, wall_of
from heatv2x.evaluation.cost import FlopCount
from heatv2x.link.message import pack, unpack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.deploy import optimised
from heatv2x.model.links import links_of
from heatv2x.nn.move import to_device
from studies import sweeps
from studies.frame_speed import compiled_parts
from studies.speed_models import MODELS, seeded


@dataclass(frozen=True)
class Wanted:
    """What the first build of a network gave for some number of agents.

    Attributes:
        maps: dense predictions.
        flops: of the ego's frame as the network is written: its own encoder, fusion, neck and head.
    """

    maps: dict[str, Tensor]
    flops: int


def variants(model: Collaboration, place: Place) -> Iterator[tuple[str, Collaboration, bool]]:
    """The builds that are timed, and whether autocast is on."""
    yield "float32", model, False
    yield "bfloat16", model, True
    yield "deploy float32", optimised(model, "float32").networks, False
    yield "deploy bfloat16", optimised(model, "bfloat16").networks, False


def inference(place: Place, keep: Keep) -> None:
    """Milliseconds and frames per second of the ego, 1 to 10 agents, in every build."""
    names = ("demo",) if place.quick else ("heatv2x", "published")
    counts = (1, 2) if place.quick else (1, 2, 3, 5, 10)
    for name in names:
        plain = seeded(MODELS[name].config())
        frames = sweeps.agent_frames(max(counts), 0)
        reference: dict[int, Wanted] = {}
        for build_name, model, autocast in variants(plain.to(place.device), place):
            time_build(place, keep, f"{name}, {build_name}", model, autocast, frames, counts, reference)
        plain.cpu()


@torch.no_grad()
def time_build(
    place: Place,
    keep: Keep,
    title: str,
    model: Collaboration,
    autocast: bool,
    frames: list[Any],
    counts: tuple[int, ...],
    reference: dict[int, Wanted],
) -> None:
    """Time one build, and compare its maps with those of the first one."""
    kind = next(iter(model.config.agents))
    agent = model.agent(kind)
    inputs = to_device(agent.collate([agent.prepare(frames[0])]), place.device)
    weights = sum(p.nbytes for p in model.parameters())
    messages = [model.encode(frame, kind) for frame in frames]
    arrived = [unpack(pack(message), model.feature_space) for message in messages]
    with torch.autocast(place.device.type, torch.bfloat16, enabled=autocast):
        encode = seconds_of(lambda: model.to_shared_space(kind, agent(inputs)), place)
        own_flops = 0 if reference else flops_of(lambda: model.to_shared_space(kind, agent(inputs)))
        for count in counts:
            if place.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            own, heard = messages[0], arrived[1:count]
            features = torch.stack([m.feature.to(place.device) for m in (own, *heard) if m.feature is not None])
            links = links_of(own, heard, model.grid)

            def maps(features: Tensor = features, links: Any = links, count: int = count) -> dict[str, Tensor]:
                return model.collaborate(features, [kind] * count, links)

            fuse = seconds_of(maps, place)
            found = {key: value.float().cpu() for key, value in maps().items()}
            if count not in reference:
                reference[count] = Wanted(found, own_flops + flops_of(maps))
            wanted = reference[count]
            whole = wall_of(lambda own=own, heard=heard: model.detect(own, heard), place)
            prepared = wall_of(lambda: agent.collate([agent.prepare(frames[0])]), place, 3)
            least = floor_s(place, wanted.flops, weights + features.nbytes)
            keep(f"{title}, {count}", {
                "encode ms": 1e3 * encode, "fuse to head ms": 1e3 * fuse, "detect ms (clock)": 1e3 * whole,
                "prepare ms (CPU)": 1e3 * prepared, "frames/s, network": 1 / (encode + fuse),
                "frames/s, all": 1 / (prepared + encode + whole), "GFLOP": wanted.flops / 1e9,
                "floor ms": least and 1e3 * least, "x floor": least and (encode + fuse) / least,
                "peak GiB": peak_gib(place), "off by": off_by(found, wanted.maps),
            })  # fmt: skip


def flops_of(work: Callable[[], Any]) -> int:
    """Operations of some work."""
    with FlopCount() as counter:
        work()
    return counter.flops


def off_by(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest of the maps' root mean square differences, by the size of the map."""
    return max(float((found[k] - wanted[k]).norm() / wanted[k].norm()) for k in wanted)


def compiled(place: Place, keep: Keep) -> None:
    """torch.compile of what it is given in the speed benchmark."""
    place.needs_cuda()
    for name in ("heatv2x", "published"):
        model = seeded(MODELS[name].config()).to(place.device)
        frames, counts = sweeps.agent_frames(3, 0), (1, 3)
        reference: dict[int, Wanted] = {}
        time_build(place, keep, f"{name}, bfloat16", model, True, frames, counts, reference)
        for part in compiled_parts(model):
            part.compile()
        start = time.perf_counter()
        time_build(place, keep, f"{name}, compiled bfloat16", model, True, frames, counts, reference)
        keep(f"{name}, compiling", {"whole s": time.perf_counter() - start})
