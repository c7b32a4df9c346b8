"""What was detected in each frame, what of it is right, and the file that stores it all (docs/data_formats.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heatv2x.core.files import atomic_path
from heatv2x.geometry.boxes import in_world
from heatv2x.structures import Boxes3D, Float64

FILE_NAME = "detections.json"
FORMAT = "heatv2x-detections/1"
CLASS = "vehicle"
_DECIMALS = 4


@dataclass(frozen=True)
class FoundFrame:
    """The detections of one frame.

    Attributes:
        name: "scenario/timestamp".
        index: of the frame in its split.
        ego: id of the agent in whose frame the boxes are.
        T_world_ego: (4, 4) float64.
        heard: (agent id, agent type, bytes of its message) of everyone whose message arrived.
        detections: upright boxes in the ego's frame, with scores.
    """

    name: str
    index: int
    ego: int
    T_world_ego: Float64
    heard: tuple[tuple[int, str, int], ...]
    detections: Boxes3D

    def to_json(self) -> dict[str, Any]:
        """One entry of `frames`, best detections first."""
        scores = self.detections.scores
        assert scores is not None
        order = np.argsort(-scores, kind="stable")
        boxes = self.detections.boxes[order].astype(np.float64)
        return {
            "frame": self.name,
            "index": self.index,
            "ego": self.ego,
            "T_world_ego": self.T_world_ego.round(6).tolist(),
            "heard": [{"agent": agent, "type": name, "message_bytes": size} for agent, name, size in self.heard],
            "scores": scores[order].astype(np.float64).round(_DECIMALS).tolist(),
            "classes": [CLASS] * len(boxes),
            "boxes_ego": boxes.round(_DECIMALS).tolist(),
            "boxes_world": in_world(boxes, self.T_world_ego).round(_DECIMALS).tolist(),
        }


def write_detections(path: Path, rows: Sequence[tuple[str, Mapping[str, Any], Sequence[FoundFrame]]]) -> None:
    """Write detections.json as a whole or not at all, one frame a line.

    Args:
        rows: name, protocol and frames of each row of metrics.json.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"format": {json.dumps(FORMAT)}, "rows": [')
        for number, (name, protocol, frames) in enumerate(rows):
            about = f'{{"row": {_line(name)}, "protocol": {_line(protocol)}, "frames": ['
            file.write((",\n" if number else "\n") + about)
            for position, frame in enumerate(frames):
                file.write((",\n" if position else "\n") + _line(frame.to_json()))
            file.write("\n]}")
        file.write("\n]}\n")


def _line(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def spread(names: Sequence[str], count: int) -> list[int]:
    """Positions of a number of frames, spread over the scenarios, then evenly over the frames of each.

    Args:
        names: "scenario/timestamp" of the frames, in their order.
        count: how many are wanted; all of them if there are fewer.
    """
    scenarios: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        scenarios.setdefault(name.rpartition("/")[0], []).append(position)
    wanted = dict.fromkeys(scenarios, 0)
    left = min(count, len(names))
    while left:  # in turn; where there are more scenarios than frames wanted, scenarios far apart take one each
        open_ = [name for name, positions in scenarios.items() if wanted[name] < len(positions)]
        taken = [open_[(2 * k + 1) * len(open_) // (2 * min(left, len(open_)))] for k in range(min(left, len(open_)))]
        for name in taken:
            wanted[name] += 1
        left -= len(taken)
    chosen = []
    for name, positions in scenarios.items():
        size = len(positions)
        chosen += [positions[(2 * k + 1) * size // (2 * wanted[name])] for k in range(wanted[name])]
    return chosen
