"""Small scenes from a seed, in memory: everything that senses, packs, fuses and trains is tested on these.

Cars of one size stand on level ground among a few agents that are close together. Points lie on the cars' surfaces and
on the ground; cameras show every car as a bright square where its centre projects. Nothing touches a disk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from heatv2x.agents.base import Agent
from heatv2x.core import plugins
from heatv2x.core.config import build
from heatv2x.core.plugins import PartConfig
from heatv2x.data.datasets.base import Dataset, Sensors
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import EXCHANGE_OF, AdapterConfig, ModelConfig
from heatv2x.structures import LIDARS, AgentFrame, Camera, Frame, Objects, PointCloud, Pose
from heatv2x.training.pool import Pool, load_pool

GRID = BevGrid(-12.8, 12.8, -12.8, 12.8, 1.6)
CHANNELS = 16
CAR = (4.2, 1.8, 1.6)
SENSOR_HEIGHT = 1.8
_POINTS_PER_CAR = {"lidar64": 40, "lidar32": 20, "lidar16": 10}
_IMAGE = (48, 64)
_K = np.array([[32.0, 0.0, 31.5], [0.0, 32.0, 23.5], [0.0, 0.0, 1.0]])
# columns: the camera's x (right), y (down), z (forward) axes in the agent's frame
_AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def camera_mount(yaw: float) -> np.ndarray:
    """(4, 4) T_agent_camera of a level camera in the agent's origin that looks along `yaw`."""
    mount = Pose.planar(0.0, 0.0, yaw).matrix.copy()
    mount[:3, :3] = mount[:3, :3] @ _AXES
    return mount


def project(camera: Camera, points: np.ndarray) -> np.ndarray:
    """(P, 3) pixel column, pixel row and depth of (P, 3) points in the agent's frame."""
    seen = (points - camera.T_agent_camera[:3, 3]) @ camera.T_agent_camera[:3, :3]
    pixels = seen @ camera.K.T
    return np.column_stack([pixels[:, :2] / pixels[:, 2:], seen[:, 2]])


def cameras_of(points: np.ndarray, background: int = 0) -> tuple[Camera, ...]:
    """Four cameras, and the given (P, 3) points of the agent's frame in them as bright squares with their depth."""
    cameras = []
    for number, yaw in enumerate(np.radians([0, 90, -90, 180])):
        image = np.full((*_IMAGE, 3), background, np.uint8)
        depth = np.full(_IMAGE, 30.0, np.float32)
        camera = Camera(f"camera{number}", image, _K, camera_mount(yaw), depth)
        for column, row, distance in project(camera, points) if len(points) else ():
            if distance > 0.5 and -2 <= column < _IMAGE[1] + 2 and -2 <= row < _IMAGE[0] + 2:
                rows = slice(max(int(row) - 2, 0), max(int(row) + 3, 0))
                columns = slice(max(int(column) - 2, 0), max(int(column) + 3, 0))
                image[rows, columns] = 255
                depth[rows, columns] = distance
        cameras.append(camera)
    return tuple(cameras)


def agent_frame(markers: np.ndarray, sensors: Collection[str], agent_id: int = 1, seed: int = 0) -> AgentFrame:
    """An agent at the world's origin on bare ground that senses the (M, 3) markers and nothing else."""
    rng = np.random.default_rng(seed)
    ground = np.column_stack([rng.uniform(-12, 12, (200, 2)), np.full(200, -SENSOR_HEIGHT), rng.random(200)])
    cluster = np.repeat(markers, 30, axis=0).reshape(-1, 3) + rng.uniform(-0.3, 0.3, (30 * len(markers), 3))
    points = np.concatenate([ground, np.column_stack([cluster, np.ones(len(cluster))])]).astype(np.float32)
    lidars = {name: PointCloud(points) for name in LIDARS if name in sensors}
    cameras = cameras_of(markers, background=90) if "camera" in sensors else ()
    return AgentFrame(agent_id, "000000", Pose.planar(0, 0, 0, SENSOR_HEIGHT), lidars, cameras)


class SmallScenes(Dataset):
    """Clips of two frames; agents 1 .. A within a few metres of one another, and parked cars around them.

    Args:
        frames: labelled frames.
        agents: agents in each frame.
        cars: parked cars in each frame.
        seed: of everything.
    """

    def __init__(self, frames: int = 4, agents: int = 3, cars: int = 4, seed: int = 0) -> None:
        self.frames, self.agents, self.cars, self.seed = frames, agents, cars, seed
        self.reads: list[tuple[int, Any]] = []

    def __len__(self) -> int:
        return self.frames

    def name(self, index: int) -> str:
        return f"clip{index // 2}/{68 + 2 * (index % 2):06d}"

    def agent_ids(self, index: int) -> tuple[int, ...]:
        return tuple(range(1, self.agents + 1))

    @property
    def fingerprint(self) -> str:
        return f"{self.frames:02x}{self.agents:02x}{self.cars:02x}{self.seed:02x}".ljust(64, "0")

    def read(self, index: int, sensors: Sensors) -> Frame:
        self.reads.append((index, sensors))
        rng = np.random.default_rng([self.seed, index])
        yaws = rng.uniform(-np.pi, np.pi, self.agents)
        spots = np.array([[0.0, 0.0], [7.0, 2.0], [-5.0, 5.0], [1.0, -8.0], [-6.0, -6.0]])[: self.agents]
        poses = [Pose.planar(x, y, yaw, SENSOR_HEIGHT) for (x, y), yaw in zip(spots, yaws, strict=True)]
        bodies = [Pose.planar(*pose.xyz[:2], pose.yaw, CAR[2] / 2) for pose in poses]
        parked = [
            Pose.planar(*_free_spot(rng, spots), rng.uniform(-np.pi, np.pi), CAR[2] / 2) for _ in range(self.cars)
        ]
        boxes = [*bodies, *parked]
        ids = np.array([*self.agent_ids(index), *range(100, 100 + self.cars)], np.int64)
        agents, hits = [], np.zeros((len(boxes), self.agents), np.int32)
        for number, pose in enumerate(poses):
            wanted = sensors.get(number + 1, ()) if isinstance(sensors, Mapping) else sensors
            others = [i for i in range(len(boxes)) if i != number and rng.random() < 0.8]
            hits[others, number] = _POINTS_PER_CAR["lidar64"]
            agents.append(
                _sense(number + 1, self.name(index).partition("/")[2], pose, [boxes[i] for i in others], wanted)
            )
        objects = Objects(
            ids,
            np.stack([box.matrix for box in boxes]),
            np.tile(np.float32(CAR), (len(boxes), 1)),
            np.zeros(len(boxes), np.float32),
            hits,
            hits > 0,
        )
        scenario, _, timestamp = self.name(index).partition("/")
        return Frame(scenario, timestamp, tuple(agents), objects)


def _free_spot(rng: np.random.Generator, taken: np.ndarray) -> np.ndarray:
    """(2,) a place that is at least a car's length away from all taken ones."""
    while True:
        spot = rng.uniform(-11, 11, 2)
        if np.linalg.norm(taken - spot, axis=1).min() > CAR[0]:
            return spot


def _sense(agent_id: int, timestamp: str, pose: Pose, boxes: list[Pose], sensors: Collection[str]) -> AgentFrame:
    lidars = {}
    for name in LIDARS:
        if name in sensors:
            rng = np.random.default_rng([agent_id, int(timestamp), LIDARS.index(name)])
            surface = [_on_surface(box, rng, _POINTS_PER_CAR[name]) for box in boxes]
            ground = np.column_stack(
                [
                    rng.uniform(-12, 12, (4 * _POINTS_PER_CAR[name], 2)) + pose.xyz[:2],
                    np.zeros(4 * _POINTS_PER_CAR[name]),
                ]
            )
            world = np.concatenate([*surface, ground])
            local = world @ pose.inverse()[:3, :3].T + pose.inverse()[:3, 3]
            lidars[name] = PointCloud(np.column_stack([local, rng.random(len(local))]).astype(np.float32))
    centres = np.array([box.xyz for box in boxes]).reshape(-1, 3)
    seen = centres @ pose.inverse()[:3, :3].T + pose.inverse()[:3, 3]
    return AgentFrame(agent_id, timestamp, pose, lidars, cameras_of(seen) if "camera" in sensors else ())


def _on_surface(box: Pose, rng: np.random.Generator, count: int) -> np.ndarray:
    points = rng.uniform(-0.5, 0.5, (count, 3))
    side = rng.integers(2, size=count)
    points[np.arange(count), side] = rng.choice([-0.5, 0.5], count)
    return points * CAR @ box.matrix[:3, :3].T + box.xyz


# --- small networks -------------------------------------------------------------------------------------------------

PILLARS = PartConfig(part="lidar_pillar", settings={"pillar_channels": 8, "max_points": 4})
SLICES = PartConfig(part="lidar_slices", settings={"slices": 4})
CAMERA = PartConfig(
    part="camera_lift", settings={"image_size": (48, 64), "trunk": (8, 16), "lifted": 8, "depth_bins": 8}
)
NEWCOMER = AdapterConfig(agent=SLICES, received=PartConfig(part="multi_cognitive"))


def model_config(fusion: str | PartConfig = "hetero_graph", **settings: Any) -> ModelConfig:
    """A model of 16 channels on 16 x 16 cells that reports whatever scores highest.

    Args:
        fusion: a part, or "late" or "early" for a model without fusion that exchanges boxes or points.
    """
    if isinstance(fusion, str) and fusion in EXCHANGE_OF:
        fusion, settings = "none", {**settings, "exchange": EXCHANGE_OF[fusion]}
    head = PartConfig(part="center", settings={"hidden": 16, "score_threshold": 0.0, "max_detections": 20})
    defaults = {
        "half_extent_m": 12.8,
        "cell_m": 1.6,
        "channels": CHANNELS,
        "neck_channels": 16,
        "agents": {"lidar64": PILLARS},
        "fusion": PartConfig(part=fusion) if isinstance(fusion, str) else fusion,
        "head": head,
    }
    return ModelConfig(**{**defaults, **settings})


def small_model(
    fusion: str | PartConfig = "hetero_graph", seed: int = 0, shake: float = 0.1, **settings: Any
) -> Collaboration:
    """A small model in evaluation mode whose tensors, zero-initialised ones included, are away from their start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Collaboration(model_config(fusion, **settings))
    return shaken(model, shake, seed).eval()


def joined(
    model: Collaboration, name: str = "lidar16", config: AdapterConfig = NEWCOMER, shake: float = 0.0
) -> Collaboration:
    """The same model after a newcomer has joined, its adapters as they start or away from it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model.join(name, config)
    if shake:
        modules = {**model.senders, **{f"received {key}": part for key, part in model.receivers.items()}}
        mine = (modules.get(name), modules.get(f"received {name}"), model.fusion.typed_module(name))
        for part in filter(None, mine):
            shaken(part, shake)
    return model.eval()


def shaken(module: nn.Module, scale: float = 0.1, seed: int = 0) -> Any:
    """The module with noise on every parameter and on the statistics of its normalisations."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                noise = torch.rand(buffer.shape, generator=generator)
                buffer.copy_(0.5 + noise if name.endswith("running_var") else 0.2 * noise)
    return module


def build_agent(part: str, settings: dict[str, Any] | None = None, seed: int = 0) -> Agent:
    """An agent of a kind on the small grid, in evaluation mode."""
    agent_class = plugins.find("agents", part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent: Agent = agent_class(build(agent_class.Config, settings or {}), GRID, CHANNELS)
    return agent.eval()


def pool_of(model: Collaboration, names: Collection[str], dataset: Dataset | None = None) -> Pool:
    """Frames of a small dataset as the given types sense them."""
    return load_pool(dataset or SmallScenes(), {name: model.agent(name) for name in names})


def same_state(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether two states hold the same tensors bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def state_copy(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's state, detached from it."""
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that differ."""
    return {key for key in after if not torch.equal(before[key], after[key])}
