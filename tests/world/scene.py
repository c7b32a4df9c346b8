"""Reading a written world by the format's own definitions, without the package's readers (FACTS 1.1, 1.6)."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pypcd4 import PointCloud

CAMERA_AXES = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def matrix(pose: list[float]) -> np.ndarray:
    """T(pose) of x, y, z, roll, yaw, pitch in degrees: Rz(y) Ry(-p) Rx(-r)."""
    r, y, p = np.radians(pose[3:])

    def turn(axis: int, angle: float) -> np.ndarray:
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        m = np.eye(4)
        m[i, i] = m[j, j] = np.cos(angle)
        m[i, j], m[j, i] = -np.sin(angle), np.sin(angle)
        return m

    T = turn(2, y) @ turn(1, -p) @ turn(0, -r)
    T[:3, 3] = pose[:3]
    return T


@dataclass
class Agent:
    """One agent's files at one time, everything in CARLA's axes."""

    folder: Path
    hetero: Path
    time: str
    data: dict[str, Any]
    hits: dict[str, dict[str, Any]]

    @property
    def pose(self) -> np.ndarray:
        return matrix(self.data["lidar_pose"])

    def points(self, suffix: str = "") -> np.ndarray:
        folder = self.hetero if suffix else self.folder
        cloud = PointCloud.from_path(folder / f"{self.time}{suffix}.pcd").numpy(("x", "y", "z", "rgb"))
        return np.asarray(cloud, np.float64)

    def world_points(self) -> np.ndarray:
        return self.points()[:, :3] @ self.pose[:3, :3].T + self.pose[:3, 3]


def box_pose(vehicle: dict[str, Any]) -> np.ndarray:
    return matrix([*(np.array(vehicle["location"]) + vehicle["center"]), *vehicle["angle"]])


def inside(points: np.ndarray, vehicle: dict[str, Any], margin: float) -> np.ndarray:
    """Which world points are in a vehicle's box, grown by `margin` metres."""
    T = np.linalg.inv(box_pose(vehicle))
    local = points @ T[:3, :3].T + T[:3, 3]
    return np.asarray((np.abs(local) <= np.array(vehicle["extent"]) + margin).all(axis=1))


@functools.cache
def frames(root: Path) -> list[list[Agent]]:
    """All frames of a world, each a list of its agents."""
    found = []
    for scenario in sorted((root / "OPV2V").glob("*/*")):
        folders = sorted(path for path in scenario.iterdir() if path.is_dir())
        for time in sorted(path.stem for path in folders[0].glob("*.yaml")):
            found.append([_agent(root, folder, time) for folder in folders])
    return found


def _agent(root: Path, folder: Path, time: str) -> Agent:
    hetero = root / "OPV2V_Hetero" / folder.relative_to(root / "OPV2V")
    data = yaml.safe_load((folder / f"{time}.yaml").read_text())
    return Agent(folder, hetero, time, data, json.loads((folder / f"{time}_hits.json").read_text()))
