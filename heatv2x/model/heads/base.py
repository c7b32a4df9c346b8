"""What a head promises.

Shapes: B scenes, C channels, Y X shared grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from heatv2x.core.config import Config
from heatv2x.geometry.grid import BevGrid
from heatv2x.geometry.handedness import boxes_on
from heatv2x.structures import Boxes3D


@dataclass
class Detections:
    """Boxes of one scene, best first.

    Attributes:
        boxes: (D, 7) x, y, z, length, width, height, yaw.
        scores: (D,) in [0, 1].
    """

    boxes: Tensor
    scores: Tensor

    @classmethod
    def of(cls, boxes: Boxes3D) -> Detections:
        """Boxes with scores as tensors on the CPU, which share their memory."""
        assert boxes.scores is not None
        return cls(torch.from_numpy(boxes.boxes), torch.from_numpy(boxes.scores))

    def on(self, grid: BevGrid) -> Detections:
        """The same in the grid's axes, or back."""
        return Detections(boxes_on(grid, self.boxes), self.scores)

    def to_boxes(self) -> Boxes3D:
        """The same as numpy arrays: here, and nowhere else, boxes leave torch."""
        return Boxes3D(self.boxes.float().cpu().numpy(), scores=self.scores.float().cpu().numpy())


class Head(nn.Module, ABC):
    """Predicts dense maps from a feature, knows their training targets, and decodes them to boxes.

    The constructor takes the part's `Config`, C and the shared grid. The grid of a call may be a window of the shared
    one.

    A head finds boxes in slots: the cells of its map, or the anchors on them. In every slot it says how sure it is of a
    box there (a logit), and which box in F terms, numbers that may be averaged. `slots_of`, `cells_of`, `terms_of`,
    `read` and `rewritten` let the reader of received boxes (`model.reader`) speak the same language.

    Attributes:
        source: the paper, or "ours".
        terms: F, the numbers that describe a box in a slot.
    """

    Config: type[Config]
    source: ClassVar[str]
    terms: ClassVar[int]

    @abstractmethod
    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """Dense maps by name from a (B, C, Y, X) feature."""

    @abstractmethod
    def loss(
        self, maps: dict[str, Tensor], boxes: Sequence[Tensor], grids: Sequence[BevGrid], margin: int = 0
    ) -> dict[str, Tensor]:
        """Loss terms by name.

        Args:
            maps: from `forward`.
            boxes: B tensors (N, 7), ground truth in the frame of the grid; on the CPU nothing waits for the device.
            grids: B grids of the feature (the shared grid or windows of it).
            margin: shared cells at the border of a window that do not count, because their context was cut off.
        """

    def foreground(
        self, boxes: Sequence[Tensor], grid: BevGrid, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """(B, Y, X) bool: cells that hold an object, and cells that hold none, as this head tells them apart.

        What a fusion's confidence learns from; None lets it learn from a heatmap of the boxes' centres.

        Args:
            boxes: B tensors (N, 7) in the frame of the grid.
            device: where to compute; by default where the boxes are.
        """
        return None

    @abstractmethod
    def decode(self, maps: dict[str, Tensor], grid: BevGrid) -> list[Detections]:
        """Boxes of every scene after suppression of duplicates."""

    @abstractmethod
    def slots_of(self, boxes: Tensor, grid: BevGrid) -> Tensor:
        """(N, M) int64 numbers of the slots that could hold each of (N, 7) boxes; -1 where that is off the grid."""

    @abstractmethod
    def cells_of(self, slots: Tensor, grid: BevGrid) -> Tensor:
        """(P, 2) int64 row and column of the shared cells that (P,) slots belong to."""

    @abstractmethod
    def terms_of(self, boxes: Tensor, slots: Tensor, grid: BevGrid) -> Tensor:
        """(P, F) terms of (P, 7) boxes as seen from (P,) slots."""

    @abstractmethod
    def read(self, maps: dict[str, Tensor], scenes: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) logits and (P, F) terms, float32, in (P,) slots of the given (P,) scenes."""

    @abstractmethod
    def rewritten(
        self, maps: dict[str, Tensor], scenes: Tensor, slots: Tensor, logits: Tensor, terms: Tensor
    ) -> dict[str, Tensor]:
        """Copies of the maps with other logits (P,) and terms (P, F) in (P,) slots, none of them twice."""


def no_detections(device: torch.device) -> Detections:
    """An empty result."""
    return Detections(torch.zeros(0, 7, device=device), torch.zeros(0, device=device))
