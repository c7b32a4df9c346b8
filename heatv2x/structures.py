"""The types that cross module boundaries: pose, point cloud, camera, boxes, one agent's frame, one scene's frame.

Everything here is numpy, right-handed (x forward, y left, z up), metres, radians, seconds; see docs/conventions.md.
`T_a_b` maps homogeneous column vectors from frame b to frame a. Only readers convert, on the way in.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

LIDARS = ("lidar64", "lidar32", "lidar16", "lidar")
"""LiDARs by their number of beams; "lidar" is an agent's own, whatever it is."""
SENSORS = (*LIDARS, "camera")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, eq=False)  # compared by identity: arrays have no single truth value
class Pose:
    """Where a frame is in the world.

    Attributes:
        matrix: (4, 4) float64, rigid transform T_world_frame.
    """

    matrix: Float64

    def __post_init__(self) -> None:
        _require(self.matrix.shape == (4, 4), f"a pose is a 4x4 matrix, got shape {self.matrix.shape}")
        _require(bool(np.isfinite(self.matrix).all()), "a pose has a NaN or infinite entry")
        rotation = self.matrix[:3, :3]
        _require(bool(np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)), "a pose's rotation is not orthonormal")

    @classmethod
    def planar(cls, x: float, y: float, yaw: float, z: float = 0.0) -> Pose:
        """Pose of a frame that stands upright at (x, y, z) metres, turned by yaw radians."""
        c, s = np.cos(yaw), np.sin(yaw)
        return cls(np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, z], [0, 0, 0, 1]], dtype=np.float64))

    @property
    def xyz(self) -> Float64:
        """(3,) position in the world, metres."""
        return self.matrix[:3, 3]

    @property
    def yaw(self) -> float:
        """Heading in the world, radians, in [-pi, pi]."""
        return float(np.arctan2(self.matrix[1, 0], self.matrix[0, 0]))

    def inverse(self) -> Float64:
        """(4, 4) float64 T_frame_world."""
        rotation, translation = self.matrix[:3, :3], self.matrix[:3, 3]
        inverted = np.eye(4)
        inverted[:3, :3] = rotation.T
        inverted[:3, 3] = -rotation.T @ translation
        return inverted

    def relative_to(self, other: Pose) -> Float64:
        """(4, 4) float64 T_other_self: maps this frame's coordinates into the other's."""
        return other.inverse() @ self.matrix

    def planar_distance(self, other: Pose) -> float:
        """Distance in the x-y plane, metres."""
        return float(np.hypot(*(self.xyz[:2] - other.xyz[:2])))


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points of one LiDAR sweep in the agent's frame.

    Attributes:
        points: (P, 4) float32, columns x, y, z in metres and intensity in [0, 1].
        left_out: how many points of the file have no position (NaN or infinite: no return) and are not here.
        clipped: how many intensities of the file lie above its full scale and count as 1.
        has_intensity: False if the file gives no intensity, so that all are 0.
    """

    points: Float32
    left_out: int = 0
    clipped: int = 0
    has_intensity: bool = True

    def __post_init__(self) -> None:
        _require(self.points.ndim == 2 and self.points.shape[1] == 4, f"points must be (P, 4), got {self.points.shape}")

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False)
class Camera:
    """One pinhole camera of an agent and what it saw.

    Attributes:
        name: "camera0" (front), "camera1", ...
        image: (H, W, 3) uint8 RGB.
        K: (3, 3) float64 intrinsics in pixels of `image`.
        T_agent_camera: (4, 4) float64; camera axes are OpenCV's (x right, y down, z forward).
        depth: (H, W) float32 metres along the optical axis, 0 where unknown; None if not read.
    """

    name: str
    image: UInt8
    K: Float64
    T_agent_camera: Float64
    depth: Float32 | None = None

    def scaled(self, height: int, width: int) -> Camera:
        """The same camera with its image, depth and intrinsics scaled to (height, width) pixels.

        Depth takes the nearest pixel.
        """
        old_height, old_width = self.image.shape[:2]
        if (height, width) == (old_height, old_width):
            return self
        image = np.asarray(Image.fromarray(self.image).resize((width, height), Image.Resampling.BILINEAR))
        K = self.K.copy()
        K[:2, 2] += 0.5  # pixel centres lie half a pixel inside: scale about the image's corner
        K[0] *= width / old_width
        K[1] *= height / old_height
        K[:2, 2] -= 0.5
        depth = self.depth
        if depth is not None:
            rows = ((np.arange(height) + 0.5) * old_height / height).astype(int)
            columns = ((np.arange(width) + 0.5) * old_width / width).astype(int)
            depth = depth[np.ix_(rows, columns)]
        return replace(self, image=image, K=K, depth=depth)


@dataclass(frozen=True, eq=False)
class Boxes3D:
    """Upright boxes in one frame, about their geometric centres.

    Attributes:
        boxes: (N, 7) float32 x, y, z, length, width, height (metres), yaw (radians, from x towards y).
        scores: (N,) float32 in [0, 1] for detections, None for ground truth.
        ids: (N,) int64 object identities, None for detections.
        hits: (N,) int32 LiDAR returns on the object summed over the agents asked for, None if unknown.
    """

    boxes: Float32
    scores: Float32 | None = None
    ids: Int64 | None = None
    hits: Int32 | None = None

    def __post_init__(self) -> None:
        _require(self.boxes.ndim == 2 and self.boxes.shape[1] == 7, f"boxes must be (N, 7), got {self.boxes.shape}")
        for name in ("scores", "ids", "hits"):
            column = getattr(self, name)
            _require(column is None or column.shape == (len(self.boxes),), f"{name} must have one entry per box")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Bool | Int64 | slice) -> Boxes3D:
        """The boxes of the given rows, with their scores, ids and hits."""
        return Boxes3D(
            self.boxes[rows],
            None if self.scores is None else self.scores[rows],
            None if self.ids is None else self.ids[rows],
            None if self.hits is None else self.hits[rows],
        )

    @classmethod
    def empty(cls) -> Boxes3D:
        """An empty set of boxes."""
        return cls(np.zeros((0, 7), np.float32), scores=np.zeros(0, np.float32))


@dataclass(frozen=True, eq=False)
class Objects:
    """Every labelled object of a frame, once, in the world.

    Attributes:
        ids: (N,) int64, unique.
        T_world_object: (N, 4, 4) float64; the object's frame sits at its geometric centre, x forward.
        size: (N, 3) float32 full length, width, height in metres.
        speed: (N,) float32 metres per second.
        hits: (N, A) int32 LiDAR returns on object n by agent a of `Frame.agents` (its label sensor, 64 beams where it
            has them). 0 means the object is not in that agent's label list; 1 where the dataset only says "seen".
        camera_visible: (N, A) bool, the object's centre is visible to agent a's cameras.
        counted: False if a dataset only says "seen" for some agent, so that `hits` are no counts.
    """

    ids: Int64
    T_world_object: Float64
    size: Float32
    speed: Float32
    hits: Int32
    camera_visible: Bool
    counted: bool = True

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class AgentFrame:
    """What one agent sensed at one time.

    Attributes:
        agent_id: the dataset's integer id; negative ids are roadside units.
        timestamp: the dataset's time stem, e.g. "000068"; opaque but sortable.
        pose: where the agent's LiDAR frame is in the world: the agent frame of everything here.
        lidars: the sweeps that were asked for, by sensor name ("lidar64", ...), in the agent's frame.
        cameras: the cameras, if they were asked for.
    """

    agent_id: int
    timestamp: str
    pose: Pose
    lidars: dict[str, PointCloud] = field(default_factory=dict)
    cameras: tuple[Camera, ...] = ()

    @property
    def is_roadside(self) -> bool:
        """True for roadside units."""
        return self.agent_id < 0


@dataclass(frozen=True, eq=False)
class Frame:
    """One labelled moment of one scenario, seen by all its agents.

    Attributes:
        scenario: the scenario's name (its folder).
        timestamp: the dataset's time stem.
        agents: vehicles in lexicographic order of their id, then roadside units.
        objects: the labelled objects, in the world.
        egos: indices of the agents that may be the ego of a training scene; None for all.
    """

    scenario: str
    timestamp: str
    agents: tuple[AgentFrame, ...]
    objects: Objects
    egos: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _require(len(self.agents) > 0, f"frame {self.scenario}/{self.timestamp} has no agents")
        expected = (len(self.objects), len(self.agents))
        _require(self.objects.hits.shape == expected, f"objects.hits must be (N, A) = {expected}")
        _require(
            self.egos is None or len(self.egos) > 0, f"no agent of {self.scenario}/{self.timestamp} may be the ego"
        )

    @property
    def name(self) -> str:
        """ "scenario/timestamp", unique in a dataset split."""
        return f"{self.scenario}/{self.timestamp}"

    def with_agents(self, agents: tuple[AgentFrame, ...]) -> Frame:
        """The same frame with its agents replaced one for one (same order)."""
        _require(len(agents) == len(self.agents), "with_agents replaces agents one for one")
        return replace(self, agents=agents)
