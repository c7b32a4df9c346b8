"""What a fusion promises, and what it is given.

Shapes: B egos, K message slots per ego, C channels, C' fused channels, Y X grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.core.config import Config
from heatv2x.errors import ConfigError
from heatv2x.geometry.grid import BevGrid


@dataclass
class Edges:
    """What the ego knows about each sender besides its feature. Empty slots hold zeros.

    Attributes:
        T_ego_sender: (B, K, 4, 4) float64 as reported, pose noise included.
        sigma_m: (B, K) reported standard deviation of the sender's position, metres.
        sigma_rad: (B, K) reported standard deviation of its heading, radians.
        age_s: (B, K) age of the message, seconds.
    """

    T_ego_sender: Tensor
    sigma_m: Tensor
    sigma_rad: Tensor
    age_s: Tensor


@dataclass
class Placement:
    """Where the senders' maps lie, for a fusion that computes in their frames and warps maps of its own.

    Attributes:
        grid: the grid of the senders' maps, in the frame of each.
        target: the grid of the result (for a window its corner is the origin, see `model.pull_to_windows`).
        T_sender_target: (B, K, 4, 4) float64, identity in an empty slot.
    """

    grid: BevGrid
    target: BevGrid
    T_sender_target: Tensor

    def warp(self, maps: Tensor) -> Tensor:
        """(B, K, C, Y, X) maps in the senders' frames to the ego's; the grid may be coarser than the shared one."""
        batch, slots, channels, rows, _ = maps.shape
        factor = self.grid.shape[0] // rows
        target = self.target.coarser(factor)
        flat = self.grid.coarser(factor).warp(maps.flatten(0, 1), self.T_sender_target.flatten(0, 1), target)
        return flat.view(batch, slots, channels, *target.shape)


@dataclass
class Received:
    """Messages at the ego, warped into its frame unless the fusion asked for them in the senders' frames.

    Attributes:
        features: (B, K, C, Y, X) on the ego's grid, or on the senders' where `placement` says so.
        visible: (B, K, Y, X) bool, the sender's map covers the cell; False everywhere in an empty slot.
        edges: geometry, uncertainty and age.
        ego_types: (B,) names.
        sender_types: (B, K) names, "" in an empty slot.
        placement: how to warp `features`; None where they are in the ego's frame already.
    """

    features: Tensor
    visible: Tensor
    edges: Edges
    ego_types: Sequence[str]
    sender_types: Sequence[Sequence[str]]
    placement: Placement | None = None


class Fusion(nn.Module, ABC):
    """Combines the ego's feature with the received ones.

    Contract, checked for every part: fuse(x, no messages) is `alone(x)` bit for bit, which is x itself unless the part
    goes on computing; the order of the slots does not matter; cells that nobody else sees keep the ego's value. The
    constructor takes the part's `Config`, C, and the names of the agent types.

    Attributes:
        source: the paper, or "ours".
        frame: the frame in which it wants what it receives.
        local: a cell of the result depends on that cell of the maps alone, so that training on windows sees what the
            whole map would show. A part with context around a cell is not local, and what it gives for a cell that
            nobody else sees may depend on others.
        selects: senders send the cells of `select` alone; what was not sent is not seen.
        budget: at most this share of a sender's cells is sent, those it is most confident about; None leaves it to the
            part, and most send all. Set on a finished model to see what fewer bytes cost.
        precision: of matrix products in which accuracy may be given up; `model.deploy` narrows it.
        convolves: its work is convolutions on maps, which `model.deploy` lays cell by cell and computes in bfloat16.
    """

    Config: type[Config]
    source: ClassVar[str]
    frame: ClassVar[Literal["ego", "sender"]] = "ego"
    local: ClassVar[bool] = True
    selects: bool = False
    precision: torch.dtype = torch.float32
    convolves: ClassVar[bool] = True
    budget: float | None = None

    @abstractmethod
    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C', Y, X) fused feature."""

    def alone(self, ego: Tensor, ego_types: Sequence[str]) -> Tensor:
        """(B, C', Y, X) result for egos that receive no messages: their own feature, unless the part computes more."""
        return ego

    def fused_channels(self, channels: int) -> int:
        """C' of the result for C channels of a message."""
        return channels

    @classmethod
    def on_longer_grid(cls, settings: Mapping[str, Any], ahead: float, aside: float) -> dict[str, Any]:
        """The part's settings on a grid that is so many times as long and as wide."""
        return dict(settings)

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) in [0, 1]: how much of a cell comes from each sender.

        The share of channels in which a sender beats the ego and all others, or its weight where the fusion is a
        weighted mean. For looking at; nothing is computed from it.
        """
        return channel_wins(ego, received.features, received.visible)

    def occupancy(self, features: Tensor) -> Tensor | None:
        """(N, 1, Y, X) logits that a cell holds an object.

        None unless this fusion weighs agents by their confidence.
        """
        return None

    def relevance(self, features: Tensor) -> Tensor:
        """(N, Y, X) which cells of (N, C, Y, X) features are sent first where not all can be.

        The confidence that a cell holds an object, or how active it is where the fusion has none.
        """
        logits = self.occupancy(features.detach())
        active = features.detach().abs().mean(dim=1)
        return active if logits is None else smoothed(logits)

    def select(self, features: Tensor) -> Tensor | None:
        """(N, Y, X) bool, the cells that an agent sends, from its own (N, C, Y, X) feature alone; None sends all."""
        if self.budget is None:
            return None
        logits = self.occupancy(features.detach())
        assert logits is not None, "sends_at_most has checked it"
        return most_confident(logits, self.budget)

    def sends_at_most(self, share: float) -> None:
        """Let senders send only this share of their cells from now on.

        Raises:
            ConfigError: the fusion has no confidence to choose by, or computes in the senders' frames, where what was
                not sent would be seen as empty ground.
        """
        if not 0 < share <= 1:
            raise ConfigError(f"share={share}: the share of cells to send must be above 0 and at most 1")
        if self.frame == "sender" or type(self).occupancy is Fusion.occupancy:
            raise ConfigError(
                f"fusion {type(self).__name__} cannot choose which cells are sent: only fusions that estimate "
                "confidence and work in the ego's frame can, such as hetero_graph and where2comm"
            )
        self.budget, self.selects = share, True

    def occupancies(self, features: Tensor) -> list[Tensor]:
        """Occupancy logits of several levels, each at half the resolution of the one before; only one by default."""
        occupancy = self.occupancy(features)
        return [] if occupancy is None else [occupancy]

    def add_type(self, name: str, like: str) -> None:
        """Give a new agent type its own parameters, starting as those of a deployed type."""

    def typed_module(self, name: str) -> nn.Module | None:
        """The parameters that belong to one agent type alone: what a newcomer may train. None if there are none."""
        return None


def most_confident(logits: Tensor, share: float, smooth: float = 1.0) -> Tensor:
    """(N, Y, X) bool, the share of cells with the greatest confidence, from (N, 1, Y, X) logits (Hu et al. 2022).

    Args:
        smooth: standard deviation of a Gaussian filter that gives chosen cells some context, cells; 0 leaves it out.
    """
    return largest_share(smoothed(logits, smooth), share)


def smoothed(logits: Tensor, smooth: float = 1.0) -> Tensor:
    """(N, Y, X) confidence after a Gaussian filter, from (N, 1, Y, X) logits."""
    confidence = logits.detach().sigmoid().float()
    kernel = _gaussian(smooth).to(confidence)
    return functional.conv2d(confidence, kernel, padding=kernel.shape[-1] // 2)[:, 0]


def largest_share(values: Tensor, share: float) -> Tensor:
    """(N, Y, X) bool, the share of cells with the greatest values; one cell at least."""
    flat = values.flatten(1)
    count = max(1, int(share * flat.shape[1]))
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, flat.topk(count, dim=1).indices, True)
    return chosen.view_as(values)


def _gaussian(sigma: float) -> Tensor:
    """(1, 1, k, k) filter that sums to one and reaches two deviations to each side."""
    reach = int(2 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    profile = torch.exp(-0.5 * (offsets / max(sigma, 1e-6)) ** 2)
    kernel = torch.outer(profile, profile)
    return (kernel / kernel.sum())[None, None]


def maximum_with(ego: Tensor, features: Tensor, visible: Tensor) -> Tensor:
    """(B, C, Y, X) channel-wise maximum of the ego and the visible senders.

    It is the ego itself where nobody else sees the cell.
    """
    if features.shape[1] == 0:
        return ego
    # all at once: agents that are equal in a cell share its gradient evenly, and an exported graph takes any number
    if torch.is_grad_enabled() or torch.compiler.is_exporting():
        others = features.masked_fill(~visible[:, :, None], -torch.inf).amax(dim=1)
        return torch.maximum(ego, others)
    best = ego
    for feature, seen in zip(features.unbind(dim=1), visible[:, :, None].unbind(dim=1), strict=True):
        best = torch.where(seen, torch.maximum(best, feature), best)
    return best


def everyone(ego: Tensor, received: Received) -> tuple[Tensor, Tensor]:
    """The ego in front of its senders.

    Returns:
        (B, 1 + K, C, Y, X) features, zero where a sender does not see the cell; (B, 1 + K, Y, X) bool, who sees it: the
        ego sees every cell.
    """
    features = received.features.masked_fill(~received.visible[:, :, None], 0.0)
    own = torch.ones_like(ego[:, :1], dtype=torch.bool)
    return torch.cat([ego[:, None], features], dim=1), torch.cat([own, received.visible], dim=1)


def where_seen(fused: Tensor, ego: Tensor, visible: Tensor) -> Tensor:
    """(B, C, Y, X) the fused feature where a sender sees the cell; elsewhere the ego's own, bit for bit."""
    # the memory order of the ego, too: another one takes other kernels in the neck, with other last bits
    return torch.where(visible.any(dim=1)[:, None], fused.contiguous(), ego)


def channel_wins(ego: Tensor, features: Tensor, visible: Tensor) -> Tensor:
    """(B, K, Y, X) share of channels whose maximum comes from each sender and not from the ego."""
    if features.shape[1] == 0:
        return visible.float()
    offered = features.masked_fill(~visible[:, :, None], -torch.inf)
    best = offered.amax(dim=1, keepdim=True)
    wins = (offered == best) & (offered > ego[:, None])
    return wins.float().mean(dim=2)
