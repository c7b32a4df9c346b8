"""Own recordings in the minimal layout of `datasets/folder.py`: one cloud format per agent, poses and boxes as CSV."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.formats.dair_writer import write_cloud
from tests.formats.moving_scene import Street, camera_at, street
from tests.formats.opv2v_writer import png

AGENTS = (1, 2, -1)
K = np.array([[160.0, 0.0, 159.5], [0.0, 160.0, 119.5], [0.0, 0.0, 1.0]])
T_AGENT_CAMERA = {"camera0": camera_at((2.0, 0.0, -0.5), 0.0), "camera1": camera_at((-1.5, 0.0, -0.5), np.pi)}
RECORDINGS = {"train": ("monday", 4), "validate": ("tuesday", 2), "test": ("wednesday", 2)}


def write_folder(out: Path, *, images: bool = True, boxes: bool = True) -> None:
    """Three splits of one recording each; agent 2 misses the last frame of every recording."""
    for number, (split, (recording, frames)) in enumerate(RECORDINGS.items()):
        folder = out / split / recording
        start = street(AGENTS, seed=70 + number, parked=8)
        moments = [start.at(0.1 * k) for k in range(frames)]
        stems = [f"{1000 + k}" for k in range(frames)]
        for agent in AGENTS:
            count = frames - 1 if agent == 2 else frames
            _agent(folder / str(agent), moments[:count], stems[:count], agent, images=images)
        if boxes:
            (folder / "boxes.csv").write_text(_boxes(moments, stems))


def _agent(folder: Path, moments: list[Street], stems: list[str], agent: int, *, images: bool) -> None:
    (folder / "lidar").mkdir(parents=True, exist_ok=True)
    turned = agent == 2  # poses with a quaternion
    lines = ["frame,time_s,x,y,z," + ("qx,qy,qz,qw" if turned else "roll,pitch,yaw")]
    for k, (moment, stem) in enumerate(zip(moments, stems, strict=True)):
        T = moment.lidar_matrix(agent)
        turn = (
            quaternion(T)
            if turned
            else (np.arctan2(T[2, 1], T[2, 2]), -np.arcsin(T[2, 0]), np.arctan2(T[1, 0], T[0, 0]))
        )
        numbers = [12.5 + 0.1 * k, *T[:3, 3], *turn]
        lines.append(f"{stem}," + ",".join(f"{number:.12g}" for number in numbers))
        points, _ = moment.sweep(T, 32, 180, -50.0 if agent < 0 else -25.0)
        if agent == 1:
            write_cloud(folder / "lidar" / f"{stem}.pcd", points, full=1.0)
        elif agent == 2:
            np.save(folder / "lidar" / f"{stem}.npy", points)
        else:
            (folder / "lidar" / f"{stem}.bin").write_bytes(points.astype("<f4").tobytes())
        for name, mount in T_AGENT_CAMERA.items() if images and agent == 1 else ():
            image, _, _ = moment.look(T @ mount, K, 320, 240, 5)
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{stem}.png").write_bytes(png(image))
    (folder / "poses.csv").write_text("\n".join(lines) + "\n")
    if images and agent == 1:
        cameras = {
            name: {"size": [320, 240], "K": K.tolist(), "T_agent_camera": mount.tolist()}
            for name, mount in T_AGENT_CAMERA.items()
        }
        (folder / "calibration.json").write_text(json.dumps(cameras))


def quaternion(T: np.ndarray) -> tuple[float, float, float, float]:
    """x, y, z, w of a rotation that turns by less than half a turn, or exactly about z."""
    w = np.sqrt(max(0.0, 1 + np.trace(T[:3, :3]))) / 2
    if w < 1e-3:
        return 0.0, 0.0, 1.0, 0.0
    x, y, z = (T[2, 1] - T[1, 2], T[0, 2] - T[2, 0], T[1, 0] - T[0, 1]) / (4 * w)
    return float(x), float(y), float(z), float(w)


def _boxes(moments: list[Street], stems: list[str]) -> str:
    lines = ["frame,id,x,y,z,length,width,height,yaw,speed"]
    for moment, stem in zip(moments, stems, strict=True):
        for n, T in enumerate(moment.T_world_car):
            yaw = np.arctan2(T[1, 0], T[0, 0])
            numbers = [*T[:3, 3], *moment.size[n], yaw, moment.speed[n]]
            lines.append(f"{stem},{moment.ids[n]}," + ",".join(f"{number:.9g}" for number in numbers))
    return "\n".join(lines) + "\n"
