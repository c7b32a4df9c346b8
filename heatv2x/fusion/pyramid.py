"""Pyramid fusion (HEAL, Lu et al. 2024, sec. 4.1): a shared pyramid per agent, merged at every level by foreground.

Every agent's map runs through the same stages in its own frame. At each level a 1x1 convolution says how much
foreground a cell holds; the maps and those scores are warped to the ego, and the softmax of the scores over the agents
that see a cell weighs their features. The levels are enlarged to the first one's resolution and put side by side.

The softmax is over probabilities, so between two agents the weights are at most 73 to 27, as published.

Shapes: B egos, K slots, R = egos and senders that are really there, C channels, Y X grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from heatv2x.core import config
from heatv2x.errors import ConfigError
from heatv2x.fusion.base import Fusion, Received, channel_wins
from heatv2x.nn.pyramid import GROUPS, enlarge, grouped_stages

_LEAST_SCORE = 1e-4  # so that a score of 0 means "not seen"
_CROP_BORDER = 4  # cells; HEAL


class Pyramid(Fusion):
    """Several levels, each a foreground-weighted mean; the defaults are HEAL's for 64 channels."""

    source = "HEAL, Lu et al. 2024 (ICLR), sec. 4.1; agrees with its reference vectors"
    frame = "sender"
    local = False

    class Config(config.Config):
        """Attributes:
        widths: channels of the levels, in multiples of C.
        blocks: residual blocks of the levels.
        enlarged: channels each level contributes to the result.
        crop: by type of agent, how many times the shared grid is longer than the part of it which its cameras were
            trained on, in x and y. In evaluation it counts nowhere else (HEAL).
        """

        widths: tuple[int, ...] = (1, 2, 4)
        blocks: tuple[int, ...] = (3, 5, 8)
        enlarged: int = 128
        crop: dict[str, tuple[float, float]] = {}  # noqa: RUF012 - pydantic copies it

    def __init__(self, config: Pyramid.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()
        if len(config.widths) != len(config.blocks):
            raise ConfigError(f"widths={config.widths} and blocks={config.blocks} must have one entry per level")
        if channels % (GROUPS // 2):
            raise ConfigError(f"channels={channels}: pyramid fusion needs a multiple of {GROUPS // 2}")
        self.config = config
        widths = [channels * width for width in config.widths]
        self.stages = grouped_stages(channels, widths, config.blocks)
        self.foreground = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)
        self.enlarge = nn.ModuleList(enlarge(width, config.enlarged, 2**level) for level, width in enumerate(widths))

    @classmethod
    def on_longer_grid(cls, settings: Mapping[str, Any], ahead: float, aside: float) -> dict[str, Any]:
        """The cameras' own maps stay as large, so their share of the grid changes."""
        crop = {name: (x * ahead, y * aside) for name, (x, y) in settings.get("crop", {}).items()}
        return {**settings, "crop": crop}

    def fused_channels(self, channels: int) -> int:
        """The levels side by side."""
        return self.config.enlarged * len(self.stages)

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C', Y, X) fused feature."""
        present = torch.tensor([[bool(name) for name in row] for row in received.sender_types], dtype=torch.bool)
        present = present.view(received.features.shape[:2]).to(ego.device)
        if not self.training and not torch.compiler.is_exporting():
            # whoever sees nothing here is not computed: his rows would only change the rounding of the others'
            present &= received.visible.any(dim=-1).any(dim=-1)
        if not present.any():
            return self.alone(ego, received.ego_types)
        sent = received.features if received.placement else received.features * received.visible[:, :, None]
        there = zip(received.sender_types, present.cpu().tolist(), strict=True)
        types = [*received.ego_types, *(n for names, here in there for n, h in zip(names, here, strict=True) if h)]

        def merge(maps: Tensor, scores: Tensor) -> Tensor:
            batch = len(present)
            theirs, their_scores = (_in_slots(part[batch:], present) for part in (maps, scores))
            if received.placement is not None:
                theirs, their_scores = received.placement.warp(theirs), received.placement.warp(their_scores)
            else:
                their_scores = their_scores * _coarser(received.visible, their_scores.shape[-2:])[:, :, None]
            every = [maps[:batch], *theirs.unbind(dim=1)]
            return weighted_mean(every, torch.cat([scores[:batch, None], their_scores], dim=1))

        return self._levels(torch.cat([ego, sent[present]]), types, merge)

    def alone(self, ego: Tensor, ego_types: Sequence[str]) -> Tensor:
        """(B, C', Y, X) the pyramid of egos that receive no messages."""
        return self._levels(ego, ego_types, lambda maps, scores: torch.where(scores > 0, maps, 0.0))

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) share of channels in which a sender's message beats the ego and all others."""
        if received.placement is None:
            return channel_wins(ego, received.features, received.visible)
        return channel_wins(ego, received.placement.warp(received.features), received.visible)

    def occupancy(self, features: Tensor) -> Tensor:
        """(N, 1, Y, X) foreground logits of the first level."""
        return self.occupancies(features)[0]

    def occupancies(self, features: Tensor) -> list[Tensor]:
        """(N, 1, Y, X) foreground logits of every level, each at half the resolution of the one before."""
        logits = []
        for stage, foreground in zip(self.stages, self.foreground, strict=True):
            features = stage(features)
            logits.append(foreground(features))
        return logits

    def _levels(self, maps: Tensor, types: Sequence[str], merge: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """(B, C', Y, X) from (R, C, Y, X) maps in own frames; `merge` makes a level's R maps and scores B maps."""
        coarsest = 2 ** (len(self.stages) - 1)
        if any(cells % coarsest for cells in maps.shape[-2:]):
            shape = tuple(maps.shape[-2:])
            raise ConfigError(
                f"pyramid fusion needs grids and windows whose sides are multiples of {coarsest} cells, not {shape}"
            )
        fused = []
        for stage, foreground, enlarged in zip(self.stages, self.foreground, self.enlarge, strict=True):
            maps = stage(maps)
            scores = foreground(maps).sigmoid() + _LEAST_SCORE
            fused.append(enlarged(merge(maps, scores * self._counted(types, scores))))
        return torch.cat(fused, dim=1)

    def _counted(self, types: Sequence[str], scores: Tensor) -> Tensor:
        """(R, 1, Y, X) 1 where an agent's map counts, 0 outside the part that its cameras were trained on."""
        counted = torch.ones_like(scores)
        rows, columns = scores.shape[-2:]
        for row, name in enumerate(types):
            if name in self.config.crop and not self.training:
                across, down = self.config.crop[name]
                height, width = math.floor(rows / down) - _CROP_BORDER, math.floor(columns / across) - _CROP_BORDER
                top, left = rows // 2 - height // 2, columns // 2 - width // 2
                counted[row] = 0
                counted[row, :, top : top + height, left : left + width] = 1
        return counted


def weighted_mean(maps: Sequence[Tensor], scores: Tensor) -> Tensor:
    """(B, C, Y, X) mean of S maps (B, C, Y, X), weighted by the softmax of (B, S, 1, Y, X) scores over S.

    A score of exactly 0 means that the source does not see the cell; where none does, the mean is 0.
    """
    unseen = scores == 0
    nowhere = unseen.all(dim=1, keepdim=True)  # left out of the softmax: over nothing it has no gradient
    weights = scores.masked_fill(unseen & ~nowhere, -torch.inf).softmax(dim=1).masked_fill(nowhere, 0.0)
    # one after another: side by side in one tensor they would lose their order in memory, and be copied
    mean = maps[0] * weights[:, 0]
    for index, one in enumerate(maps[1:], start=1):
        mean = torch.addcmul(mean, one, weights[:, index])
    return mean


def _in_slots(rows: Tensor, present: Tensor) -> Tensor:
    """(B, K, ...) with the rows of senders that are there in their slots, zeros in the empty ones."""
    if present.all():
        return rows.view(*present.shape, *rows.shape[1:])
    slots = rows.new_zeros(*present.shape, *rows.shape[1:])
    return slots.index_put((present,), rows)


def _coarser(visible: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, K, Y', X') bool, some of the cells of (B, K, Y, X) below it are visible."""
    pooled = nn.functional.adaptive_max_pool2d(visible.float(), tuple(shape))
    return pooled > 0
