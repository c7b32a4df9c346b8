"""Where2comm: senders send the cells they are confident about, within a budget (Hu et al. 2022).

After the paper (arXiv 2209.12836). A spatial confidence map says how likely a cell holds an object; a Gaussian filter
gives the selected cells some context; the most confident cells that fit the budget are sent (its selection with the
first round's request map, which asks for everything); the receiver fuses with per-cell multi-head attention, the
confidences as a prior, and a feed-forward network. With the codec `sparse` the bytes shrink with the budget.

Where it differs: the confidence comes from a 1x1 convolution that learns every agent's own labels, not from the
detection head; the prior is normalised together with the attention, since a plain product would scale what the ego has
by its own confidence; both steps are residuals on the ego, and cells that nobody sent keep the ego's value, so that no
message is no change. Agents do not ask one another for cells in further rounds: that needs a second message.

Shapes: N agents, B egos, K slots, C channels, H heads, d channels per head, Y X grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.core import config
from heatv2x.errors import ConfigError
from heatv2x.fusion.base import Fusion, Received, everyone, most_confident, where_seen


class Where2comm(Fusion):
    """Confident cells within a budget, per-cell multi-head attention with confidence as a prior."""

    source = "Where2comm, Hu et al. 2022, arXiv 2209.12836"
    selects = True

    class Config(config.Config):
        """Attributes:
        share: the budget: the largest share of a sender's cells that is sent.
        heads: attention heads.
        hidden: channels inside the feed-forward network, as a multiple of C.
        smooth: standard deviation of the Gaussian filter on the confidence, cells; 0 leaves it out.
        """

        share: float = pydantic.Field(0.1, gt=0, le=1)
        heads: int = pydantic.Field(8, gt=0)
        hidden: int = pydantic.Field(2, gt=0)
        smooth: float = pydantic.Field(1.0, ge=0)

    def __init__(self, config: Where2comm.Config, channels: int, types: Sequence[str]) -> None:
        super().__init__()
        if channels % config.heads:
            raise ConfigError(f"heads={config.heads} does not divide the {channels} shared channels")
        self.config = config
        self.confidence = nn.Conv2d(channels, 1, 1)
        nn.init.constant_(self.confidence.bias, -4.0)  # type: ignore[arg-type]
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)  # an offset of all keys would vanish in the softmax
        self.value = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        self.norm = nn.LayerNorm(channels)
        self.feed_forward = nn.Sequential(
            nn.Conv2d(channels, config.hidden * channels, 1),
            nn.GELU(),
            nn.Conv2d(config.hidden * channels, channels, 1),
        )

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(B, C, Y, X)."""
        features, seen = everyone(ego, received)
        values = self._heads(self.value, features)
        mixed = (self._weights(ego, features, seen)[:, :, :, None] * values).sum(dim=1).flatten(1, 2)
        fused = ego + self.output(mixed)
        normed = self.norm(fused.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return where_seen(fused + self.feed_forward(normed), ego, received.visible)

    def contributions(self, ego: Tensor, received: Received) -> Tensor:
        """(B, K, Y, X) weights of the senders, mean of the heads."""
        return self._weights(ego, *everyone(ego, received)).mean(dim=2)[:, 1:]

    def occupancy(self, features: Tensor) -> Tensor:
        """(N, 1, Y, X) logits that a cell holds an object, from one agent's feature alone."""
        logits: Tensor = self.confidence(features)
        return logits

    def select(self, features: Tensor) -> Tensor:
        """(N, Y, X) bool: the most confident cells, as many as the budget allows."""
        logits = self.occupancy(features.detach())
        return most_confident(logits, self.budget or self.config.share, self.config.smooth)

    def _weights(self, ego: Tensor, features: Tensor, seen: Tensor) -> Tensor:
        """(B, 1 + K, H, Y, X), over agents they sum to one."""
        query, keys = self._heads(self.query, ego[:, None]), self._heads(self.key, features)
        score = (query * keys).sum(dim=3) / keys.shape[3] ** 0.5
        prior = functional.logsigmoid(self.occupancy(features.flatten(0, 1))).view(seen.shape)
        score = (score + prior[:, :, None]).masked_fill(~seen[:, :, None], -torch.inf)
        return torch.softmax(score, dim=1)

    def _heads(self, projection: nn.Module, features: Tensor) -> Tensor:
        """(B, L, C, Y, X) to (B, L, H, d, Y, X)."""
        batch, agents, channels, rows, columns = features.shape
        projected: Tensor = projection(features.flatten(0, 1))
        return projected.view(batch, agents, self.config.heads, channels // self.config.heads, rows, columns)
