"""Writes tiny scenes in the real layout of OPV2V and OPV2V-H: the border the readers are tested at."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SCENARIO = "2099_01_01_00_00_00"
FRAMES = ("000068", "000070")
AGENTS = (641, 1045)
LIDAR_POSES = {
    641: [10.0, 20.0, 1.9, 0.5, 30.0, -0.4],
    1045: [40.0, 25.0, 1.9, 0.0, -120.0, 0.3],
    -1: [20.0, 0.0, 6.0, 0.0, 90.0, -10.0],
}
K = [[335.64, 0.0, 400.0], [0.0, 335.64, 300.0], [0.0, 0.0, 1.0]]
# x, y, z, roll, yaw, pitch of the cameras in the LiDAR frame, in CARLA's axes (y to the right).
MOUNTS = (
    [3.0, 0.0, -1.1, 0, 0.0, 0],
    [0.5, 0.3, -0.3, 0, 100.0, 0],
    [0.5, -0.3, -0.3, 0, -100.0, 0],
    [-1.5, 0.0, -0.6, 0, 180.0, 0],
)
# x, y, z, intensity in the file's axes; the first lies on the agent's own body.
POINTS = np.array([[0.5, 0.6, -1.0, 0.0], [10.0, 5.0, -1.0, 51 / 255], [-20.0, -3.0, 0.5, 1.0]], np.float32)


def carla(pose: list[float]) -> np.ndarray:
    """(4, 4) matrix of a CARLA pose, written independently of the package: left-handed axes, angles in degrees."""
    x, y, z, roll, yaw, pitch = pose
    r, w, p = np.radians([roll, yaw, pitch])
    matrix = np.eye(4)
    matrix[0] = [
        np.cos(p) * np.cos(w),
        np.cos(w) * np.sin(p) * np.sin(r) - np.sin(w) * np.cos(r),
        -np.cos(w) * np.sin(p) * np.cos(r) - np.sin(w) * np.sin(r),
        x,
    ]
    matrix[1] = [
        np.sin(w) * np.cos(p),
        np.sin(w) * np.sin(p) * np.sin(r) + np.cos(w) * np.cos(r),
        -np.sin(w) * np.sin(p) * np.cos(r) + np.cos(w) * np.sin(r),
        y,
    ]
    matrix[2] = [np.sin(p), -np.cos(p) * np.sin(r), np.cos(p) * np.cos(r), z]
    return matrix


def carla_pose(matrix: np.ndarray) -> list[float]:
    """The six numbers of a CARLA matrix."""
    yaw, roll = np.arctan2(matrix[1, 0], matrix[0, 0]), np.arctan2(-matrix[2, 1], matrix[2, 2])
    pitch = np.arcsin(np.clip(matrix[2, 0], -1, 1))
    return [*matrix[:3, 3].tolist(), *np.degrees([roll, yaw, pitch]).tolist()]


def vehicle(x: float, y: float, yaw: float = 0.0) -> dict[str, Any]:
    """One entry of `vehicles`, a car of 4.4 x 1.8 x 1.6 m on the ground."""
    return {
        "location": [x, y, 0.1],
        "center": [0.0, 0.0, 0.8],
        "extent": [2.2, 0.9, 0.8],
        "angle": [0.0, yaw, 0.0],
        "speed": 36.0,
    }


def agent_yaml(agent: int, *, cameras: bool = True) -> dict[str, Any]:
    """What `<t>.yaml` of an agent holds: it sees the other agent's car and two of three more."""
    lidar_pose = LIDAR_POSES[agent]
    content: dict[str, Any] = {
        "lidar_pose": [*lidar_pose],  # tests change what they are given
        "true_ego_pos": [*lidar_pose],
        "ego_speed": 20.0,
        "plan_trajectory": [],
    }
    if cameras:
        for number, mount in enumerate(MOUNTS):
            cords = carla_pose(carla(lidar_pose) @ carla(mount))
            intrinsic = [[*row] for row in K]
            content[f"camera{number}"] = {"cords": cords, "extrinsic": np.eye(4).tolist(), "intrinsic": intrinsic}
    vehicles = {300: vehicle(30.0, 10.0, 15.0), 301: vehicle(25.0, 40.0, -90.0), 302: vehicle(5.0, 30.0, 170.0)}
    bodies = {641: vehicle(10.3, 20.2, 30.0), 1045: vehicle(40.3, 24.5, -120.0)}
    seen = {641: (300, 301), 1045: (301, 302), -1: (300,)}[agent]
    content["vehicles"] = {i: vehicles[i] for i in seen} | {i: body for i, body in bodies.items() if i != agent}
    return content


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content))


def pcd_bytes(points: np.ndarray, *, rgb_type: str = "F") -> bytes:
    """A binary PCD as Open3D writes it: intensity in the red byte of a packed rgb."""
    header = f"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F {rgb_type}\nCOUNT 1 1 1 1\n"
    header += f"WIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA binary\n"
    rows = np.zeros((len(points), 4), "<u4")
    rows[:, :3] = np.ascontiguousarray(points[:, :3], "<f4").view("<u4")
    rows[:, 3] = np.rint(points[:, 3] * 255).astype("<u4") << 16
    return header.encode() + rows.tobytes()


@functools.cache
def png_bytes(mode: str, size: tuple[int, int], colour: int | tuple[int, ...]) -> bytes:
    """A flat PNG."""
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def write_agent(root: Path, split: str, agent: int, frame: str, *, images: bool = True) -> None:
    """All files of one agent at one time under root/OPV2V and root/OPV2V_Hetero."""
    folder, hetero = (root / name / split / SCENARIO / str(agent) for name in ("OPV2V", "OPV2V_Hetero"))
    for each in (folder, hetero):
        each.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / f"{frame}.yaml", agent_yaml(agent))
    (folder / f"{frame}.pcd").write_bytes(pcd_bytes(POINTS))
    for beams, count in (("32", 2), ("16", 1)):
        (hetero / f"{frame}_{beams}.pcd").write_bytes(pcd_bytes(POINTS[1 : 1 + count]))
    for number in range(4 if images else 0):
        (folder / f"{frame}_camera{number}.png").write_bytes(png_bytes("RGB", (800, 600), (10, 20, 30 + number)))
        (hetero / f"{frame}_depth{number}.png").write_bytes(png_bytes("L", (800, 600), 40 + number))


def write_tree(root: Path, split: str = "train", agents: tuple[int, ...] = AGENTS, *, images: bool = False) -> Path:
    """Two agents, two frames, all LiDARs, with `images` also cameras and depth; returns the scenario's folder."""
    for agent in agents:
        for frame in FRAMES:
            write_agent(root, split, agent, frame, images=images)
    scenario = root / "OPV2V" / split / SCENARIO
    (scenario / "data_protocol.yaml").write_text("a file beside the agents: ignored\n")
    return scenario


def write_hits(scenario: Path, agent: int, frame: str, seen: dict[int, tuple[int, bool]]) -> None:
    """The sidecar of hit counts: object id to (hits, visible to cameras)."""
    content = {str(i): {"hits": hits, "camera_visible": visible} for i, (hits, visible) in seen.items()}
    (scenario / str(agent) / f"{frame}_hits.json").write_text(json.dumps(content))
