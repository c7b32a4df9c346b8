"""What the tests of a model share: its batches and links by hand, and boxes side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from heatv2x.core import plugins
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.links import Links
from heatv2x.structures import AgentFrame, Boxes3D, Pose

FUSIONS = plugins.available("fusion")
SENSORS = ("lidar64", "lidar16", "camera")


def same_boxes(one: Boxes3D, other: Boxes3D) -> bool:
    return np.array_equal(one.boxes, other.boxes) and np.array_equal(np.array(one.scores), np.array(other.scores))


def close_boxes(one: Boxes3D, other: Boxes3D) -> None:
    assert len(one) == len(other)
    np.testing.assert_allclose(np.array(one.scores), np.array(other.scores), atol=1e-4)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def batch_of(model: Collaboration, agents: Sequence[AgentFrame], types: Sequence[str]) -> dict[str, object]:
    inputs = {}
    for name in sorted(set(types)):
        agent = model.agent(name)
        inputs[name] = agent.collate([agent.prepare(a) for a, t in zip(agents, types, strict=True) if t == name])
    return inputs


def links_between(poses: Sequence[Pose], egos: Sequence[int], senders: Sequence[Sequence[int]]) -> Links:
    """Who hears whom among agents of a flat list, exact poses, -1 for an empty slot."""
    slots = len(senders[0])
    T = torch.eye(4, dtype=torch.float64).repeat(len(egos), slots, 1, 1)
    for (b, ego), k in itertools.product(enumerate(egos), range(slots)):
        if senders[b][k] >= 0:
            T[b, k] = torch.from_numpy(poses[ego].relative_to(poses[senders[b][k]]))
    nothing = torch.zeros(len(egos), slots)
    ids = torch.tensor(senders, dtype=torch.long).view(len(egos), slots)
    return Links(torch.tensor(egos), ids, T, nothing, nothing.clone(), nothing.clone())


def boxes_in(model: Collaboration, maps: dict[str, Tensor]) -> Boxes3D:
    found = model.head.decode(maps, model.grid)[0]
    return Boxes3D(found.boxes.numpy(), scores=found.scores.numpy())
