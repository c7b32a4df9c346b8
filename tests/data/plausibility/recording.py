"""A short recording in memory, and how each of the three readers' layouts holds it: mistakes are planted in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from heatv2x.data.datasets.base import open_dataset
from tests.formats.dair_writer import ROOT as DAIR
from tests.formats.dair_writer import write_cloud
from tests.formats.folder_writer import quaternion
from tests.formats.moving_scene import camera_at
from tests.formats.opv2v_tree import carla_pose, pcd_bytes
from tests.formats.opv2v_writer import mirrored

SIZES = {"opv2v": (800, 600), "folder": (400, 300), "dair": (1920, 1080)}


@dataclass
class Labels:
    """Objects of one frame in the world; `seen[agent]` are the rows that the agent labels."""

    ids: np.ndarray
    T: np.ndarray
    size: np.ndarray
    speed: np.ndarray
    seen: dict[int, np.ndarray]


@dataclass
class Recording:
    """Frames of a few agents; every list has one entry per frame.

    Attributes:
        poses, clouds: by agent id, (4, 4) T_world_agent and (P, 4) points.
        labels: where the objects are.
        labelled_from: poses that sensor-frame labels are made with; by default the true ones, before any mistake.
        times_s: by agent id.
        images: by agent id.
        labels_of: by agent id, what it labels itself, if that is not `labels`.
        focal, centre: focal length and principal point of the cameras, as shares of the image's size.
        T_agent_camera: where every agent's camera is.
    """

    poses: dict[int, list[np.ndarray]]
    clouds: dict[int, list[np.ndarray]]
    labels: list[Labels]
    labelled_from: dict[int, list[np.ndarray]]
    times_s: dict[int, list[float]]
    images: dict[int, list[np.ndarray]] = field(default_factory=dict)
    labels_of: dict[int, list[Labels]] = field(default_factory=dict)
    focal: float = 0.7
    centre: float = 0.5
    T_agent_camera: np.ndarray = field(default_factory=lambda: camera_at((1.5, 0.0, -0.4), 0.0))

    @property
    def frames(self) -> range:
        return range(len(self.labels))

    def intrinsics(self, size: tuple[int, int]) -> np.ndarray:
        """(3, 3) intrinsics; the principal point lies at `centre` of the image."""
        focal = self.focal * size[0]
        return np.array([[focal, 0, self.centre * size[0]], [0, focal, self.centre * size[1]], [0, 0, 1.0]])


def read_recording(root: Path) -> Recording:
    """The vehicles 0, 1 and the roadside unit -1 of the first scenario of a synthetic world."""
    dataset = open_dataset("opv2v", root, "train")
    frames = [dataset.read(i, ["lidar64"]) for i in range(len(dataset))]
    frames = [frame for frame in frames if frame.scenario == frames[0].scenario]
    known = {agent.agent_id: min(n, 1) if agent.agent_id >= 0 else -1 for n, agent in enumerate(frames[0].agents)}
    assert list(known.values()) == [0, 1, -1], known
    poses: dict[int, list[np.ndarray]] = {0: [], 1: [], -1: []}
    clouds: dict[int, list[np.ndarray]] = {0: [], 1: [], -1: []}
    labels = []
    for frame in frames:
        for agent in frame.agents:
            poses[known[agent.agent_id]].append(agent.pose.matrix)
            clouds[known[agent.agent_id]].append(agent.lidars["lidar64"].points)
        objects = frame.objects
        places = np.stack([agent.pose.xyz[:2] for agent in frame.agents])
        apart = np.linalg.norm(objects.T_world_object[:, None, :2, 3] - places, axis=2).min(axis=1)
        kept = (objects.hits > 0).any(axis=1) & ~np.isin(objects.ids, list(known)) & (apart < 45)
        seen = {known[a.agent_id]: objects.hits[kept, n] > 0 for n, a in enumerate(frame.agents)}
        labels.append(
            Labels(
                objects.ids[kept],
                objects.T_world_object[kept],
                objects.size[kept].astype(float),
                objects.speed[kept].astype(float),
                seen,
            )
        )
    times = {agent: [0.5 * k for k in range(len(frames))] for agent in poses}
    return Recording(poses, clouds, labels, poses, times)


def write(recording: Recording, reader: str, root: Path) -> None:
    """Write it as OPV2V, as DAIR-V2X-C (vehicle 0 and roadside unit -1), or as own recordings."""
    {"opv2v": _opv2v, "dair": _dair, "folder": _folder}[reader](recording, root)


def _opv2v(recording: Recording, root: Path) -> None:
    size = SIZES["opv2v"]
    for agent in recording.poses:
        folder = root / "train" / "2031_01_01_00_00_00" / str(agent)
        folder.mkdir(parents=True)
        for k in recording.frames:
            stem, T = f"{68 + 2 * k:06d}", recording.poses[agent][k]
            labels = recording.labels_of.get(agent, recording.labels)[k]
            content: dict[str, Any] = {"lidar_pose": carla_pose(mirrored(T)), "vehicles": {}}
            for n in np.flatnonzero(labels.seen[agent]):
                x, y, z, roll, yaw, pitch = carla_pose(mirrored(labels.T[n]))
                content["vehicles"][int(labels.ids[n])] = {
                    "location": [x, y, z],
                    "center": [0.0, 0.0, 0.0],
                    "angle": [roll, yaw, pitch],
                    "extent": (labels.size[n] / 2).tolist(),
                    "speed": float(labels.speed[n] * 3.6),
                }
            if agent in recording.images:
                body = np.linalg.inv(camera_at((0, 0, 0), 0.0))
                cords = carla_pose(mirrored(T @ recording.T_agent_camera @ body))
                K = recording.intrinsics(size).tolist()
                for number in range(4):
                    camera = {"cords": cords, "extrinsic": np.eye(4).tolist(), "intrinsic": K}
                    content[f"camera{number}"] = camera
                    image = _image(np.roll(recording.images[agent][k], number, 0), size)
                    image.save(folder / f"{stem}_camera{number}.png", compress_level=1)
            (folder / f"{stem}.yaml").write_text(
                yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
            )
            if agent in recording.clouds:
                (folder / f"{stem}.pcd").write_bytes(pcd_bytes(recording.clouds[agent][k] * np.float32([1, -1, 1, 1])))


def _folder(recording: Recording, root: Path) -> None:
    size = SIZES["folder"]
    base = root / "train" / "monday"
    lines = ["frame,id,x,y,z,length,width,height,yaw,speed"]
    for k in recording.frames:
        labels = recording.labels[k]
        for n, T in enumerate(labels.T):
            numbers = [*T[:3, 3], *labels.size[n], np.arctan2(T[1, 0], T[0, 0]), labels.speed[n]]
            lines.append(f"{1000 + k},{labels.ids[n]}," + ",".join(f"{number:.9g}" for number in numbers))
    base.mkdir(parents=True)
    (base / "boxes.csv").write_text("\n".join(lines) + "\n")
    for agent in recording.poses:
        folder = base / str(agent)
        folder.mkdir()
        rows = ["frame,time_s,x,y,z,qx,qy,qz,qw"]
        for k in recording.frames:
            T = recording.poses[agent][k]
            numbers = [recording.times_s[agent][k], *T[:3, 3], *_quaternion(T)]
            rows.append(f"{1000 + k}," + ",".join(f"{number:.12g}" for number in numbers))
            if agent in recording.clouds:
                (folder / "lidar").mkdir(exist_ok=True)
                np.save(folder / "lidar" / f"{1000 + k}.npy", recording.clouds[agent][k])
            if agent in recording.images:
                (folder / "camera0").mkdir(exist_ok=True)
                _image(recording.images[agent][k], size).save(folder / "camera0" / f"{1000 + k}.png")
        (folder / "poses.csv").write_text("\n".join(rows) + "\n")
        if agent in recording.images:
            camera = {"size": list(size), "K": recording.intrinsics(size).tolist()}
            camera["T_agent_camera"] = recording.T_agent_camera.tolist()
            (folder / "calibration.json").write_text(json.dumps({"camera0": camera}))


def _dair(recording: Recording, root: Path) -> None:
    size = SIZES["dair"]
    K = {"cam_K": recording.intrinsics(size).ravel().tolist()}
    base, pairs = root / DAIR, []
    infos: dict[str, list[dict[str, str]]] = {"vehicle-side": [], "infrastructure-side": []}
    for k in recording.frames:
        for side, agent, lidar in (("vehicle-side", 0, "lidar"), ("infrastructure-side", -1, "virtuallidar")):
            folder, stem = base / side, f"{(10 if agent == 0 else 50) + k:06d}"
            calib, T = folder / "calib", recording.poses[agent][k]
            _json(calib / "camera_intrinsic" / f"{stem}.json", K)
            _json(calib / f"{lidar}_to_camera" / f"{stem}.json", _rigid(np.linalg.inv(recording.T_agent_camera)))
            if agent == 0:
                _json(calib / "lidar_to_novatel" / f"{stem}.json", {"transform": _rigid(np.eye(4))})
                _json(calib / "novatel_to_world" / f"{stem}.json", _rigid(T))
            else:
                _json(calib / "virtuallidar_to_world" / f"{stem}.json", _rigid(T))
            labels = recording.labels[k]
            local = np.linalg.inv(recording.labelled_from[agent][k]) @ labels.T
            rows = [_dair_label(local[n], labels.size[n]) for n in np.flatnonzero(labels.seen[agent])]
            _json(folder / "label" / lidar / f"{stem}.json", rows)
            if agent in recording.clouds:
                write_cloud(folder / "velodyne" / f"{stem}.pcd", recording.clouds[agent][k])
            if agent in recording.images:
                (folder / "image").mkdir(exist_ok=True)
                _image(recording.images[agent][k], size).save(folder / "image" / f"{stem}.jpg")
            time_us = str(1_626_155_123_000_000 + round(recording.times_s[agent][k] * 1e6))
            info = {"pointcloud_path": f"velodyne/{stem}.pcd", "pointcloud_timestamp": time_us, "batch_id": "7"}
            infos[side].append(info)
        own, other = f"{10 + k:06d}", f"{50 + k:06d}"
        pair = {"vehicle_pointcloud_path": f"velodyne/{own}.pcd", "infrastructure_pointcloud_path": f"v/{other}.pcd"}
        pairs.append(pair | {"system_error_offset": {"delta_x": 0.0, "delta_y": 0.0}})
    _json(base / "cooperative" / "data_info.json", pairs)
    for side, entries in infos.items():
        _json(base / side / "data_info.json", entries)
    _json(base / "train.json", [f"{10 + k:06d}" for k in recording.frames])


def _dair_label(T: np.ndarray, size: np.ndarray) -> dict[str, Any]:
    length, width, height = size.tolist()
    place = dict(zip("xyz", T[:3, 3].tolist(), strict=True))
    shape = {"l": length, "w": width, "h": height}
    return {
        "type": "Car",
        "3d_dimensions": shape,
        "3d_location": place,
        "rotation": float(np.arctan2(T[1, 0], T[0, 0])),
    }


def _rigid(T: np.ndarray) -> dict[str, Any]:
    return {"rotation": T[:3, :3].tolist(), "translation": T[:3, 3:].tolist()}


def _image(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def _quaternion(T: np.ndarray) -> tuple[float, float, float, float]:
    if np.trace(T[:3, :3]) > -0.99:
        return quaternion(T)
    eigenvalues, vectors = np.linalg.eigh(T[:3, :3] + T[:3, :3].T)  # half a turn: about the axis that stays
    x, y, z = vectors[:, eigenvalues.argmax()]
    return float(x), float(y), float(z), 0.0


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# --- planting ---------------------------------------------------------------------------------------------------------

Change = Callable[[Recording], Recording]
EVERYONE = (0, 1, -1)


def points(change: Callable[[np.ndarray], np.ndarray], agents: tuple[int, ...] = EVERYONE) -> Change:
    """Change the points (P, 3) of some agents."""

    def planted(recording: Recording) -> Recording:
        clouds = dict(recording.clouds)
        for agent in agents:
            clouds[agent] = [
                np.column_stack([change(cloud[:, :3]), cloud[:, 3]]).astype(np.float32) for cloud in clouds[agent]
            ]
        return replace(recording, clouds=clouds)

    return planted


def poses(change: Callable[[np.ndarray], np.ndarray], agents: tuple[int, ...] = EVERYONE) -> Change:
    """Change the poses of some agents; labels in sensor frames stay as they are."""

    def planted(recording: Recording) -> Recording:
        changed = {agent: [change(T) for T in each] for agent, each in recording.poses.items() if agent in agents}
        return replace(recording, poses=recording.poses | changed)

    return planted


def boxes(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Change:
    """Change poses (N, 4, 4) and sizes (N, 3) of the boxes in the world."""

    def planted(recording: Recording) -> Recording:
        changed = [change(each.T, each.size) for each in recording.labels]
        labels = [replace(old, T=T, size=size) for old, (T, size) in zip(recording.labels, changed, strict=True)]
        return replace(recording, labels=labels)

    return planted
