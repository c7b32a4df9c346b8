"""Distillation: features of the base's own encoder as targets for a newcomer.

A newcomer with one LiDAR shows the base's encoder its own sweep; no other sensor is needed. A newcomer without LiDAR
needs a companion while it adapts: a vehicle that carries the base type's sensor besides, as every vehicle of OPV2V-H
does. Learning from features needs no gradient through neck and head, and a linear start has a closed form:
`start_from_teacher` solves two ridge regressions, which takes seconds and does most of the alignment. The design is
ours; measurements are in docs/benchmarks/adaptation.md.

Shapes: R rows (agents of all frames), C channels, Y X shared grid, k kernel of an adapter's convolution.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.adapters.hetero_aware import HeteroAware
from heatv2x.core.distributed import all_reduce_detached
from heatv2x.errors import ConfigError
from heatv2x.model.collaboration import Collaboration
from heatv2x.nn.move import to_device
from heatv2x.structures import AgentFrame
from heatv2x.training.scenes import Scene

_FLOOR = 0.05  # weight of a cell without any object
_ROWS, _CELLS = 120, 256  # sampled for the closed form


@dataclass
class TeacherFeatures:
    """The base's features of what the newcomer saw, in the newcomer's own frame and augmentation.

    Attributes:
        encoded: (R, C, Y, X) float16 outputs of the base's encoder.
        shared: (R, C, Y, X) float16, behind the shared backbone.
    """

    encoded: Tensor
    shared: Tensor


def teacher_for(model: Collaboration, newcomer: str, like: str, wanted: str) -> str:
    """One of "own", "companion" and "none": where the base's encoder gets its data from.

    Args:
        like: the base type that teaches.
        wanted: one of these, or "auto": own if the newcomer carries exactly one LiDAR and so does the teacher.

    Raises:
        ConfigError: "own" for a newcomer without a LiDAR of its own.
    """
    sensors = [model.agent(name).sensors for name in (newcomer, like)]
    possible = all(len(names) == 1 and next(iter(names)).startswith("lidar") for names in sensors)
    if wanted == "own" and not possible:
        raise ConfigError(f"teacher=own needs one LiDAR on '{newcomer}' and '{like}'; set teacher=companion or none")
    return wanted if wanted != "auto" else "own" if possible else "companion"


def as_seen_by(model: Collaboration, teacher: str, frame: AgentFrame) -> AgentFrame:
    """A newcomer's only sweep under the name of the teacher's sensor."""
    (sensor,) = model.agent(teacher).sensors
    (cloud,) = frame.lidars.values()
    return replace(frame, lidars={sensor: cloud})


class DistillationLoss(nn.Module):
    """Distance of a newcomer's shared feature from the teacher's, in standard deviations of each channel.

    Cells count by the base's own confidence that they hold an object, so that empty ground does not outvote cars.
    """

    def __init__(self, model: Collaboration, shared: Tensor) -> None:
        """Args:
        model: the base, whose confidence counts.
        shared: (R, C, Y, X) features of the teacher, a sample of which gives the deviations.
        """
        super().__init__()
        self.confidence = _confidence(model)
        step = max(1, len(shared) // 128)
        sample = shared[::step].float()
        scale = sample.std(dim=(0, 2, 3)).clamp(min=1e-3)[:, None, None].to(next(model.parameters()).device)
        self.register_buffer("scale", scale, persistent=False)
        self.scale: Tensor

    def forward(self, feature: Tensor, teacher: Tensor) -> Tensor:
        """A scalar for (N, C, Yw, Xw) features and the teacher's."""
        weight = _FLOOR + self.confidence(teacher)
        distance = functional.smooth_l1_loss(feature.float() / self.scale, teacher / self.scale, reduction="none").mean(
            dim=1, keepdim=True
        )
        mean: Tensor = (distance * weight).sum() / all_reduce_detached(weight.sum())
        return mean


class Onlooker(nn.Module):
    """A frozen copy of a base's encoder that looks on while a newcomer's own encoder trains.

    Rivals of LHFT cannot cache what a teacher says, for every step sees another augmentation. Their newcomer gets the
    same teacher as ours all the same, batch by batch.

    Args:
        like: the base type that teaches.
        whose: whose data it sees: the newcomer's "own", or a "companion"'s.
        agents: some newcomers as the teacher sees them; their features give the scale of the loss.
    """

    def __init__(self, model: Collaboration, like: str, whose: str, agents: Sequence[AgentFrame]) -> None:
        super().__init__()
        self.like, self.whose = like, whose
        self.base = copy.deepcopy(model).eval().requires_grad_(False)
        self.loss = DistillationLoss(self.base, torch.cat([self.says(self.inputs([agent])) for agent in agents]))

    @property
    def twin(self) -> str | None:
        """The type as which agents must be drawn once more for it."""
        return self.like if self.whose == "companion" else None

    def inputs(self, agents: Sequence[AgentFrame]) -> Any:
        """What its encoder takes, of agents as `sights` gives them."""
        encoder = self.base.agent(self.like)
        return encoder.collate([encoder.prepare(agent) for agent in agents])

    def sights(self, scenes: Sequence[Scene], newcomers: Collection[str]) -> list[AgentFrame]:
        """The newcomers of some scenes as it sees them."""
        seen = []
        for scene in scenes:
            for place, (name, agent) in enumerate(zip(scene.types, scene.agents, strict=True)):
                if name in newcomers:
                    own = self.whose == "own"
                    seen.append(as_seen_by(self.base, self.like, agent) if own else scene.twins[place])
        return seen

    @torch.no_grad()
    def says(self, inputs: Any) -> Tensor:
        """(N, C, Y, X) shared features."""
        encoded = self.base.agent(self.like)(to_device(inputs, self.base.device))
        return self.base.to_shared_space(self.like, encoded)


@torch.no_grad()
def start_from_teacher(
    model: Collaboration, newcomer: str, encoded: Tensor, teacher: TeacherFeatures, seed: int
) -> None:
    """Set the linear part of the newcomer's Hetero-Aware Adapters to the least-squares solution.

    First the convolution before the backbone, from the newcomer's encoder output to the base's; then the one after it,
    from what the backbone makes of that to the base's shared feature.

    Args:
        encoded: (R, C, Y, X) the newcomer's encoder outputs, row by row of the same places as the teacher's.
        seed: of the sample of rows and cells.
    """
    adapters = model.senders[newcomer]
    assert isinstance(adapters, nn.ModuleDict)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(encoded), generator=generator)[:_ROWS]
    confidence = _confidence(model)
    picks = []
    for row in rows:
        share = _FLOOR + confidence(teacher.shared[row][None].float().to(device))[0, 0].flatten().cpu()
        picks.append(torch.multinomial(share, _CELLS, replacement=True, generator=generator))

    def shared(row: int) -> Tensor:
        feature = encoded[row][None].float().to(device)
        feature = model.backbone(adapters["before"](feature) if "before" in adapters else feature)
        own: Tensor = feature[0].cpu()
        return own

    if "before" in adapters:
        _solve(adapters["before"], rows, picks, lambda row: encoded[row].float(), teacher.encoded)
    if "after" in adapters:
        _solve(adapters["after"], rows, picks, shared, teacher.shared)


def _solve(
    adapter: nn.Module, rows: Tensor, picks: list[Tensor], source: Callable[[int], Tensor], target: Tensor
) -> None:
    """Ridge regression of target cells on k x k patches of the source, into the adapter's convolution."""
    if not isinstance(adapter, HeteroAware):
        return
    kernel = adapter.remix.kernel_size[0]
    patches, wanted = [], []
    for row, pick in zip(rows.tolist(), picks, strict=True):
        patches.append(functional.unfold(source(row)[None], kernel, padding=kernel // 2)[0].T[pick])
        wanted.append(target[row].float().flatten(1).T[pick])
    x = torch.cat(patches)
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1).double()
    gram = x.T @ x
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, x.T @ torch.cat(wanted).double()).float()
    adapter.remix.weight.copy_(solution[:-1].T.reshape(adapter.remix.weight.shape))
    assert adapter.remix.bias is not None
    adapter.remix.bias.copy_(solution[-1])


def _confidence(model: Collaboration) -> Callable[[Tensor], Tensor]:
    """(N, 1, Y, X) in 0 to 1 from shared features: the fusion's own if it has one, else relative activity."""

    def confidence(feature: Tensor) -> Tensor:
        with torch.no_grad():
            logits = model.fusion.occupancy(feature)
            if logits is not None:
                known: Tensor = logits.float().sigmoid()
                return known
            activity = feature.abs().mean(dim=1, keepdim=True)
            relative: Tensor = activity / activity.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
            return relative

    return confidence
