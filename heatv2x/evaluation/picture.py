"""One evaluated scene from above as pixels: points, what is there, and what was found."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from heatv2x.evaluation.results import SceneResult
from heatv2x.geometry.boxes import corners_bev
from heatv2x.geometry.grid import BevGrid
from heatv2x.structures import Boxes3D, UInt8

_GROUND, _POINT, _SENDER = (24, 26, 30), (110, 116, 125), (86, 180, 233)
_TRUTH, _FOUND = (0, 158, 115), (230, 159, 0)
_BELIEVED = 0.3  # detections below this score are drawn thin


def from_above(scene: SceneResult, grid: BevGrid, width: int = 640) -> UInt8:
    """(H, W, 3) uint8: the ego's range, x to the right, y up.

    Points of all who take part are grey, agents are blue dots, the truth is green, detections are orange.

    Args:
        scene: with its sensors.
        grid: the ego's range.
        width: pixels.
    """
    scale = width / (grid.x_max - grid.x_min)
    height = round((grid.y_max - grid.y_min) * scale)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = _GROUND
    ego = scene.frame.agents[scene.ego]

    def places(xy: np.ndarray) -> np.ndarray:
        return np.stack([(xy[:, 0] - grid.x_min) * scale, (grid.y_max - xy[:, 1]) * scale], axis=1)

    for agent in (ego, *(scene.frame.agents[j] for j in scene.heard)):
        T = agent.pose.relative_to(ego.pose)
        for cloud in agent.lidars.values():
            xyz = cloud.points[:, :3] @ T[:3, :3].T + T[:3, 3]
            column, row = places(xyz[np.isfinite(xyz).all(axis=1)]).astype(np.int64).T
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            pixels[row[inside], column[inside]] = _POINT
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)

    def outline(boxes: Boxes3D, colour: tuple[int, int, int], thin: np.ndarray) -> None:
        for corners, slight in zip(corners_bev(torch.from_numpy(boxes.boxes)).numpy(), thin, strict=True):
            around = [tuple(place) for place in places(np.concatenate([corners, corners[:1]]))]
            draw.line(around, fill=colour, width=1 if slight else 2)

    outline(scene.truth, _TRUTH, np.zeros(len(scene.truth), bool))
    scores = scene.detections.scores
    assert scores is not None, "detections have scores"
    outline(scene.detections, _FOUND, scores < _BELIEVED)
    for j in (scene.ego, *scene.heard):
        x, y = places(scene.frame.agents[j].pose.relative_to(ego.pose)[None, :2, 3])[0]
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_SENDER)
    return np.asarray(image)
