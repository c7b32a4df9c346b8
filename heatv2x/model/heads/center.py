"""Centre head: a heatmap of object centres and a box at each (after CenterPoint, Yin et al. 2021).

The heatmap's gaussians are oriented like the objects; boxes are regressed at the centre cell and, with less weight, at
its eight neighbours. Heading is regressed as the sine and cosine of twice the yaw, so boxes have no front: they are
symmetric, and so is AP.

Shapes: B scenes, C channels, Y X shared grid, Y' X' the head's finer grid, N boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.core import config
from heatv2x.geometry.boxes import nms
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.heads.base import Detections, Head, no_detections
from heatv2x.nn.losses import heatmap_focal, weighted_smooth_l1
from heatv2x.nn.residual import conv_block

_BOX_TERMS = 8  # dx, dy (cells), z, log length, log width, log height, sin 2 yaw, cos 2 yaw
_REFERENCE_SIZE = (4.5, 1.9, 1.6)  # metres; sizes are regressed relative to it


class Center(Head):
    """Heatmap and box regression on a grid `upsample` times finer than the shared one."""

    source = "CenterPoint, Yin et al. 2021, arXiv 2006.11275"
    terms = _BOX_TERMS

    class Config(config.Config):
        """Attributes:
        upsample: how much finer the output grid is than the shared grid.
        hidden: channels before the output.
        prior: probability of an object centre that the heatmap starts at.
        score_threshold: detections below it are dropped.
        nms_iou: boxes that overlap a better one by more than this are dropped.
        max_detections: detections kept per scene before suppression.
        """

        upsample: int = 2
        hidden: int = 48
        prior: float = 0.01
        score_threshold: float = 0.05
        nms_iou: float = 0.15
        max_detections: int = 200

    def __init__(self, config: Center.Config, channels: int, grid: BevGrid) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.hidden = conv_block(channels, config.hidden)
        self.output = nn.Conv2d(config.hidden, (1 + _BOX_TERMS) * config.upsample**2, 1)
        self.shuffle = nn.PixelShuffle(config.upsample)
        with torch.no_grad():
            bias = torch.zeros(1 + _BOX_TERMS, config.upsample**2)
            bias[0] = -math.log((1 - config.prior) / config.prior)
            assert self.output.bias is not None
            self.output.bias.copy_(bias.flatten())

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """{"heatmap": (B, 1, Y', X') logits, "box": (B, 8, Y', X')} from (B, C, Y, X)."""
        maps = self.shuffle(self.output(self.hidden(feature)))
        return {"heatmap": maps[:, :1], "box": maps[:, 1:]}

    def loss(
        self, maps: dict[str, Tensor], boxes: Sequence[Tensor], grids: Sequence[BevGrid], margin: int = 0
    ) -> dict[str, Tensor]:
        """{"heatmap", "box"} losses."""
        heatmap, box = maps["heatmap"].float(), maps["box"].float()
        fine = [grid.finer(self.config.upsample) for grid in grids]
        target = heatmap_targets(boxes, fine, device=heatmap.device)[:, None]
        weight = torch.zeros_like(target)
        cut = margin * self.config.upsample
        weight[:, :, cut : weight.shape[2] - cut, cut : weight.shape[3] - cut] = 1
        rows = [_box_rows(b, g, cut) for b, g in zip(boxes, fine, strict=True)]
        index = torch.cat([torch.full_like(cells[:, 0], scene) for scene, (cells, _, _) in enumerate(rows)])
        cells = torch.cat([cells for cells, _, _ in rows])
        values = torch.cat([values for _, values, _ in rows]).to(box)
        weights = torch.cat([weights for _, _, weights in rows]).to(box)
        predicted = box[index, :, cells[:, 0], cells[:, 1]]
        return {
            "heatmap": heatmap_focal(heatmap, target, weight),
            "box": weighted_smooth_l1(predicted, values, weights),
        }

    @torch.no_grad()
    def decode(self, maps: dict[str, Tensor], grid: BevGrid) -> list[Detections]:
        """Local maxima of the heatmap, their boxes, rotated suppression."""
        fine = grid.finer(self.config.upsample)
        probability = maps["heatmap"].float().sigmoid()[:, 0]
        peak = functional.max_pool2d(probability[:, None], 3, 1, 1)[:, 0] == probability
        found = []
        for scene in range(len(probability)):
            row, column = torch.nonzero(peak[scene] & (probability[scene] > self.config.score_threshold), as_tuple=True)
            if len(row) == 0:
                found.append(no_detections(probability.device))
                continue
            scores = probability[scene, row, column]
            scores, best = scores.topk(min(len(scores), self.config.max_detections))
            row, column = row[best], column[best]
            boxes = decode_boxes(maps["box"][scene, :, row, column].float().T, row, column, fine)
            keep = nms(boxes, scores, self.config.nms_iou)
            found.append(Detections(boxes[keep], scores[keep]))
        return found

    def slots_of(self, boxes: Tensor, grid: BevGrid) -> Tensor:
        """(N, 9) the cells around each centre: the heatmap's peak may be next to it."""
        fine = grid.finer(self.config.upsample)
        rows, columns = fine.shape
        place = _cell_of(boxes, fine)[:, None] + _around(boxes.device)
        row, column = place.unbind(dim=-1)
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return torch.where(inside, row * columns + column, -1)

    def cells_of(self, slots: Tensor, grid: BevGrid) -> Tensor:
        row, column = self._place(slots, grid)
        return torch.stack([row, column], dim=1) // self.config.upsample

    def terms_of(self, boxes: Tensor, slots: Tensor, grid: BevGrid) -> Tensor:
        return encode_boxes(boxes, *self._place(slots, grid), grid.finer(self.config.upsample))

    def read(self, maps: dict[str, Tensor], scenes: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        heatmap, box = maps["heatmap"].flatten(2), maps["box"].flatten(2)
        return heatmap[scenes, 0, slots].float(), box[scenes, :, slots].float()

    def rewritten(
        self, maps: dict[str, Tensor], scenes: Tensor, slots: Tensor, logits: Tensor, terms: Tensor
    ) -> dict[str, Tensor]:
        heatmap, box = (maps[name].float().flatten(2) for name in ("heatmap", "box"))
        heatmap = heatmap.index_put((scenes, torch.zeros_like(scenes), slots), logits)
        each = torch.arange(self.terms, device=slots.device)
        box = box.index_put((scenes[:, None], each, slots[:, None]), terms)
        return {"heatmap": heatmap.view_as(maps["heatmap"]), "box": box.view_as(maps["box"])}

    def _place(self, slots: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
        """(P,) rows and columns of the fine grid."""
        columns = grid.finer(self.config.upsample).shape[1]
        return slots // columns, slots % columns


@torch.no_grad()
def heatmap_targets(
    boxes: Sequence[Tensor], grids: Sequence[BevGrid], reach: int = 7, device: torch.device | None = None
) -> Tensor:
    """(B, Y', X') heatmaps: 1 in every centre's cell, around it a gaussian.

    The gaussian is as long and wide as a sixth of the object in each direction.

    Args:
        boxes: B tensors (N, 7).
        grids: B output grids of one shape and cell.
        reach: half size of the window a gaussian is drawn in, cells.
        device: where to compute; by default where the boxes are.
    """
    (rows, columns), cell = grids[0].shape, grids[0].cell
    centres = [_cell_of(each, grid) for each, grid in zip(boxes, grids, strict=True)]
    scene = torch.cat([torch.full_like(rows_[:, 0], number) for number, rows_ in enumerate(centres)])
    place = device or scene.device
    scene, centre, every = scene.to(place), torch.cat(centres).to(place), torch.cat(list(boxes)).to(place)
    offset = torch.arange(-reach, reach + 1, device=place)
    dy, dx = torch.meshgrid(offset, offset, indexing="ij")
    row = centre[:, 0, None, None] + dy
    column = centre[:, 1, None, None] + dx
    c, s = every[:, 6].cos()[:, None, None], every[:, 6].sin()[:, None, None]
    along, across = (c * dx + s * dy) * cell, (-s * dx + c * dy) * cell
    sigma = (every[:, 3:5] / 6).clamp(min=0.6 * cell)
    value = torch.exp(-0.5 * ((along / sigma[:, 0, None, None]) ** 2 + (across / sigma[:, 1, None, None]) ** 2))
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    # centres outside add 0 to some cell, which changes nothing: so no tensor size depends on the values
    index = (scene[:, None, None] * rows + row.clamp(0, rows - 1)) * columns + column.clamp(0, columns - 1)
    heat = torch.zeros(len(boxes) * rows * columns, device=place)
    heat.scatter_reduce_(0, index.flatten(), (value * inside).to(heat).flatten(), "amax")
    return heat.view(len(boxes), rows, columns)


def decode_boxes(terms: Tensor, row: Tensor, column: Tensor, grid: BevGrid) -> Tensor:
    """(N, 7) boxes from (N, 8) regressed terms at the given cells; inverse of `encode_boxes`."""
    x = grid.x_min + (column + 0.5 + terms[:, 0]) * grid.cell
    y = grid.y_min + (row + 0.5 + terms[:, 1]) * grid.cell
    size = terms[:, 3:6].clamp(-3, 3).exp() * terms.new_tensor(_REFERENCE_SIZE)
    yaw = torch.atan2(terms[:, 6], terms[:, 7]) / 2
    return torch.cat([torch.stack([x, y, terms[:, 2]], dim=1), size, yaw[:, None]], dim=1)


def encode_boxes(boxes: Tensor, row: Tensor, column: Tensor, grid: BevGrid) -> Tensor:
    """(N, 8) terms that describe (N, 7) boxes from the given cells.

    Offset in cells, z, log sizes, sine and cosine of twice the yaw.
    """
    dx = (boxes[:, 0] - grid.x_min) / grid.cell - column - 0.5
    dy = (boxes[:, 1] - grid.y_min) / grid.cell - row - 0.5
    size = (boxes[:, 3:6] / boxes.new_tensor(_REFERENCE_SIZE)).log()
    yaw = 2 * boxes[:, 6:7]
    return torch.cat([torch.stack([dx, dy, boxes[:, 2]], dim=1), size, yaw.sin(), yaw.cos()], dim=1)


def _box_rows(boxes: Tensor, grid: BevGrid, cut: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells (M, 2), terms (M, 8) and weights (M,) of the regression.

    They are those of the centre cells (weight 1) and their neighbours (0.3) inside the uncut part.
    """
    rows, columns = grid.shape
    centre = _cell_of(boxes, grid)
    around = _around(boxes.device)
    cells = (centre[:, None] + around).reshape(-1, 2)
    boxes = boxes.repeat_interleave(9, dim=0)
    weight = torch.where((around == 0).all(dim=-1), 1.0, 0.3).expand(len(centre), 9).reshape(-1)
    low, high = cells.new_tensor([cut, cut]), cells.new_tensor([rows - cut, columns - cut])
    inside = ((cells >= low) & (cells < high)).all(dim=1)
    cells, boxes = cells[inside], boxes[inside]
    return cells, encode_boxes(boxes, cells[:, 0], cells[:, 1], grid), weight[inside]


def _around(device: torch.device) -> Tensor:
    """(1, 9, 2) offsets, row and column, of a cell and its eight neighbours."""
    offset = torch.arange(-1, 2, device=device)
    return torch.stack(torch.meshgrid(offset, offset, indexing="ij"), dim=-1).reshape(1, 9, 2)


def _cell_of(boxes: Tensor, grid: BevGrid) -> Tensor:
    """(N, 2) int64 row and column of each centre; may lie outside the grid."""
    column = torch.floor((boxes[:, 0] - grid.x_min) / grid.cell)
    row = torch.floor((boxes[:, 1] - grid.y_min) / grid.cell)
    return torch.stack([row, column], dim=1).long()
