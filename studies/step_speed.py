"""One training step of a whole network: forward with losses, backward, optimiser; CPU seconds and most memory.

The step is that of `training.loop`: every tensor learns, autocast where the precision is bfloat16, clipped gradients,
AdamW. The work here runs in a process of its own.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from heatv2x.core.workers import Tell
from heatv2x.evaluation.cost import peak_memory
from heatv2x.geometry.handedness import agent_on
from heatv2x.link.message import Message
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig
from heatv2x.model.links import links_of
from heatv2x.training.end_to_end import CollaborativeTraining
from heatv2x.training.pool import Pool
from heatv2x.training.scenes import Batch, SceneConfig
from studies import sweeps
from studies.frame_speed import Laps, Repeats, Variant, peak_gflops
from studies.speed_models import seeded

_BOXES = 30


def measure_step(
    config: ModelConfig, variant: Variant, agents: int, repeats: Repeats, seed: int, tell: Tell
) -> dict[str, Any]:
    """Time training steps of one scene.

    Returns:
        `rounds`, raw seconds of forward, backward and optimiser; `peak_bytes` of the process.
    """
    torch.set_num_threads(variant.threads)
    model = seeded(config, seed).train()
    stage = CollaborativeTraining(model, Pool([], {}), dict.fromkeys(config.agents, 1.0), SceneConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch = scene(model, agents, seed)
    peak_gflops()
    rounds: list[dict[str, Any]] = []
    start = time.process_time()
    for number in range(repeats.most + 1):
        if number > repeats.least and time.process_time() - start > repeats.seconds:
            break
        tell(f"{variant.name}: training step", number, repeats.most + 1)
        peak = peak_gflops()
        laps = Laps()
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.precision == "bfloat16"):
            loss = stage(batch)
        laps.end("forward")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        laps.end("backward")
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        laps.end("optimiser")
        if number:  # the first one makes kernels and the optimiser's memory
            rounds.append({"peak_gflops": peak, "seconds": laps.seconds})
        else:
            start = time.process_time()
    tell(f"{variant.name}: training step", repeats.most + 1, repeats.most + 1)
    return {"rounds": rounds, "agents": agents, "peak_bytes": peak_memory().resident_bytes}


def scene(model: Collaboration, agents: int, seed: int) -> Batch:
    """One ego that hears the others, with labels."""
    frames = sweeps.agent_frames(agents, seed)
    types = list(model.config.agents)
    names = [types[number % len(types)] for number in range(agents)]
    inputs = {}
    for name in dict.fromkeys(names):
        agent = model.agent(name)
        own = [frame for frame, its in zip(frames, names, strict=True) if its == name]
        inputs[name] = agent.collate([agent.prepare(agent_on(model.grid, frame)) for frame in own])
    spoken = [Message(frame.agent_id, name, 0, frame.pose, 0.0, 0.0, bytes(16)) for frame, name in
              zip(frames, names, strict=True)]  # fmt: skip
    boxes = torch.from_numpy(sweeps.scene_boxes(_BOXES, seed, model.config.half_extent_m))
    return Batch(inputs, names, links_of(spoken[0], spoken[1:], model.grid), [boxes], [boxes] * agents)
