"""scenes.json: what the report's frame browser draws, always in the ego's frame (x forward, y left; metres, radians).

Evaluation fills these dataclasses, with arrays packed by `pack_points`, `pack_map` and `jpeg`:

    agent = AgentView.at(frame.agents[1], ego=frame.agents[0], type="lidar16", points=pack_points(points_in_ego[:, :2]))
    scene = SceneView(frame.name, [ego, agent], ground_truth=boxes.tolist(), ...)
    write_json(run_folder / "scenes.json", Scenes(GridExtent(-51.2, 51.2, -51.2, 51.2, 0.8), [scene]).to_json())
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from heatv2x.evaluation.report import contract
from heatv2x.structures import AgentFrame, Bool, Boxes3D, Int32, UInt8

FILE_NAME = "scenes.json"
WAY_OUT = "evaluate again with scenes=8, or delete the file: the report is then made without frames"
POINT_UNIT_M = 0.05
MAX_POINTS = 4000
MAP_SIDE = 64


def pack_points(points_xy: npt.ArrayLike, max_points: int = MAX_POINTS, seed: int = 0) -> str:
    """Pack points for a bird's-eye picture: one per 5 cm cell, at most `max_points` of them.

    Args:
        points_xy: (P, 2) or (P, 3+) metres in the ego's frame; columns after y are ignored, non-finite rows dropped.
        max_points: more are thinned at random.
        seed: of the thinning; same seed, same text.

    Returns:
        base64 of little-endian int16 x0, y0, x1, y1 ... in units of 0.05 m.
    """
    points = np.asarray(points_xy, dtype=np.float64)
    points = points.reshape(0, 2) if points.size == 0 else points[:, :2]
    points = points[np.isfinite(points).all(axis=1)]
    quantised = np.clip(np.rint(points / POINT_UNIT_M), -32768, 32767).astype("<i2")
    quantised = np.unique(quantised, axis=0)
    if len(quantised) > max_points:
        chosen = np.random.default_rng(seed).choice(len(quantised), max_points, replace=False)
        quantised = quantised[np.sort(chosen)]
    return base64.b64encode(quantised.tobytes()).decode()


def pack_map(share: npt.ArrayLike) -> str:
    """Pack a bird's-eye map as a 64x64 picture.

    Args:
        share: (Y, X) in [0, 1], over the whole grid, row 0 = y_min, column 0 = x_min; non-finite cells count as 0.
            Another size than 64x64 is averaged (or interpolated) to it.

    Returns:
        base64 of (64, 64) uint8, row-major, 255 = 1.
    """
    values = np.nan_to_num(np.asarray(share, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"a map is (Y, X), got shape {values.shape}")
    if values.shape != (MAP_SIDE, MAP_SIDE):
        resized = Image.fromarray(values).resize((MAP_SIDE, MAP_SIDE), Image.Resampling.BOX)
        values = np.asarray(resized, dtype=np.float32)
    return base64.b64encode(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8).tobytes()).decode()


def jpeg(image: UInt8, max_width: int = 320, quality: int = 62) -> str:
    """Pack an image as a small JPEG.

    Args:
        image: (H, W, 3) uint8 RGB.
        max_width: wider images are shrunk to it, pixels.
        quality: of JPEG, 1-95.

    Returns:
        base64 of the JPEG file.
    """
    picture = Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
    if picture.width > max_width:
        height = max(1, round(picture.height * max_width / picture.width))
        picture = picture.resize((max_width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def sole_objects(hits: Int32, counted: Bool | None = None) -> list[int]:
    """How many objects each agent is the only one to see.

    Args:
        hits: (N, A) LiDAR returns on object n by agent a.
        counted: (N,) which objects are ground truth; all of them if None.

    Returns:
        One count per agent.
    """
    seen = hits > 0 if counted is None else (hits > 0) & counted[:, None]
    alone = seen & (seen.sum(axis=1) == 1)[:, None]
    return [int(count) for count in alone.sum(axis=0)]


def _check_boxes(name: str, boxes: list[list[float]]) -> None:
    for index, box in enumerate(boxes):
        if len(box) != 7:
            raise ValueError(f"{name}[{index}] has {len(box)} numbers instead of 7 (x, y, z, l, w, h, yaw)")


@dataclass
class GridExtent:
    """The bird's-eye grid in the ego's frame, metres."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float
    cell_m: float

    def __post_init__(self) -> None:
        if not (self.x_max > self.x_min and self.y_max > self.y_min):
            raise ValueError("the grid is empty: x_max and y_max must be larger than x_min and y_min")


@dataclass
class AgentView:
    """One agent as the ego sees it.

    Attributes:
        id: the dataset's id, unique in the scene.
        type: agent type: "lidar64", "lidar16", "camera" ...
        x: metres in the ego's frame.
        y: metres in the ego's frame.
        yaw: radians in the ego's frame.
        kind: "vehicle" or "roadside".
        is_ego: exactly one agent of a scene is.
        message_bytes: length of the packed message it sent, None if it sent none (the ego, or out of range).
        points: from `pack_points`; "" for an agent without LiDAR.
        sole_objects: ground truth that only this agent's sensors see, None if not counted.
    """

    id: int | str
    type: str
    x: float
    y: float
    yaw: float
    kind: str = "vehicle"
    is_ego: bool = False
    message_bytes: int | None = None
    points: str = ""
    sole_objects: int | None = None

    @classmethod
    def at(cls, agent: AgentFrame, ego: AgentFrame, type: str, **rest: Any) -> AgentView:
        """The view of an agent whose pose relative to the ego is worked out here; `rest` are the other attributes."""
        T_ego_agent = agent.pose.relative_to(ego.pose)
        return cls(
            id=agent.agent_id,
            type=type,
            x=float(T_ego_agent[0, 3]),
            y=float(T_ego_agent[1, 3]),
            yaw=float(np.arctan2(T_ego_agent[1, 0], T_ego_agent[0, 0])),
            kind="roadside" if agent.is_roadside else "vehicle",
            is_ego=agent is ego,
            **rest,
        )


@dataclass
class DetectionSet:
    """Detections of one network run.

    Attributes:
        boxes: (N, 7) as lists: x, y, z, length, width, height in metres, yaw in radians, in the ego's frame.
        scores: (N,) in [0, 1].
    """

    boxes: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_boxes("boxes", self.boxes)
        if len(self.scores) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes have {len(self.scores)} scores")

    @classmethod
    def of(cls, detected: Boxes3D) -> DetectionSet:
        """The same detections as lists; a box with a NaN cannot be drawn and is left out."""
        finite = np.isfinite(detected.boxes).all(axis=1)
        scores = np.ones(len(detected)) if detected.scores is None else np.nan_to_num(detected.scores)
        return cls(detected.boxes[finite].tolist(), scores[finite].tolist())


@dataclass
class CameraView:
    """One camera image.

    Attributes:
        agent_id: whose camera it is.
        name: "camera0" (front) ...
        jpeg_base64: from `jpeg`.
    """

    agent_id: int | str
    name: str
    jpeg_base64: str


@dataclass
class SceneView:
    """One frame of the browser.

    Attributes:
        name: "scenario/timestamp".
        agents: the ego and who was in range; order matters for `hits_by_agent` and `contribution`.
        ground_truth: (N, 7) as lists: x, y, z, length, width, height in metres, yaw in radians, in the ego's frame.
        visible_to_ego: (N,) whether the ego's own sensors see the object.
        hits: (N,) LiDAR returns on the object, summed over the agents.
        hits_by_agent: (N, A) the same by agent, in the order of `agents`; empty if not known.
        detections: "ego_alone" (no messages) and "collaborative"; either may be absent.
        contribution: one entry per agent that is not the ego, in their order: from `pack_map`, the share of feature
            channels that this sender won in each cell; None where nothing arrived. May be empty.
        cameras: images of any agents; may be empty.
    """

    name: str
    agents: list[AgentView]
    ground_truth: list[list[float]] = field(default_factory=list)
    visible_to_ego: list[bool] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)
    hits_by_agent: list[list[int]] = field(default_factory=list)
    detections: dict[str, DetectionSet] = field(default_factory=dict)
    contribution: list[str | None] = field(default_factory=list)
    cameras: list[CameraView] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_boxes("ground_truth", self.ground_truth)
        if sum(agent.is_ego for agent in self.agents) != 1:
            raise ValueError("exactly one agent of a scene has is_ego = true")
        objects = len(self.ground_truth)
        for name in ("visible_to_ego", "hits", "hits_by_agent"):
            if len(getattr(self, name)) not in {0, objects}:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {objects} ground-truth boxes")
        if any(len(row) != len(self.agents) for row in self.hits_by_agent):
            raise ValueError(f"a row of hits_by_agent has not one entry per agent ({len(self.agents)})")
        if len(self.contribution) not in {0, len(self.agents) - 1}:
            raise ValueError("contribution has not one entry per agent that is not the ego")


@dataclass
class Scenes:
    """The whole of scenes.json; about a dozen scenes keep the report near 2 MB."""

    grid: GridExtent
    scenes: list[SceneView] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The content of scenes.json, ready for `heatv2x.core.files.write_json`."""
        content: dict[str, Any] = contract.plain(self)
        return content

    @classmethod
    def read(cls, run_folder: Path) -> Scenes:
        """Read a run folder's scenes.json; without one there are no frames to look at.

        Raises:
            DataError: it is broken; the message names the key.
        """
        path = run_folder / FILE_NAME
        if not path.exists():
            return cls(GridExtent(-1, 1, -1, 1, 1))
        return contract.read(cls, path, WAY_OUT)
