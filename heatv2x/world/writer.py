"""Writing a clip in the OPV2V-H layout (docs/datasets/opv2v_h.md): the one place that knows CARLA's conventions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from heatv2x.formats.carla import carla_matrix, to_carla
from heatv2x.structures import Float32, Float64, UInt8
from heatv2x.world.clip import Sensed
from heatv2x.world.png import png_bytes
from heatv2x.world.rays import Moment
from heatv2x.world.rig import IMAGE_HEIGHT, IMAGE_WIDTH, intrinsic

KM_PER_H = 3.6
_SUFFIX = {"lidar64": "", "lidar32": "_32", "lidar16": "_16"}
_GNSS_NOISE_M = 0.25


def write_agent(
    base: Path, hetero: Path, timestamp: str, moment: Moment, sensed: Sensed, rng: np.random.Generator
) -> None:
    """Write everything one agent has at one time.

    Args:
        base: the agent's folder under OPV2V, hetero: its folder under OPV2V_Hetero; both are made.
        rng: draws the error of its satellite positioning.

    Raises:
        OSError: a file cannot be written.
    """
    base.mkdir(parents=True, exist_ok=True)
    (base / f"{timestamp}.yaml").write_text(agent_yaml(moment, sensed, rng))
    (base / f"{timestamp}_hits.json").write_text(hits_json(moment, sensed))
    for name, result in sensed.sweeps.items():
        folder = base if name == "lidar64" else hetero
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{timestamp}{_SUFFIX[name]}.pcd").write_bytes(pcd_bytes(result.points))
    if sensed.views is None or sensed.raster is None:
        return
    hetero.mkdir(parents=True, exist_ok=True)
    (base / f"{timestamp}_bev_visibility.png").write_bytes(png_bytes(sensed.raster))
    for k, (image, depth) in enumerate(zip(sensed.views.image, sensed.views.depth, strict=True)):
        (base / f"{timestamp}_camera{k}.png").write_bytes(png_bytes(_enlarged(image, Image.Resampling.BILINEAR)))
        (hetero / f"{timestamp}_depth{k}.png").write_bytes(png_bytes(_enlarged(depth, Image.Resampling.NEAREST)))


def agent_yaml(moment: Moment, sensed: Sensed, rng: np.random.Generator) -> str:
    """The agent's `<t>.yaml`, plain YAML without tags."""
    body = to_carla(sensed.T_world_carrier)
    guess = body.copy()
    guess[:2] = (np.array(body[:2]) + rng.normal(0, _GNSS_NOISE_M, 2)).tolist()
    lines = [
        f"ego_speed: {_number(sensed.speed * KM_PER_H)}",
        f"lidar_pose: {_row(to_carla(sensed.T_world_lidar))}",
        f"true_ego_pos: {_row(body)}",
        f"predicted_ego_pos: {_row(guess)}",
        f"plan_trajectory: {_rows(_plan(sensed))}",
    ]
    for k, T_lidar_camera in enumerate(sensed.rig.T_lidar_cameras):
        cords = to_carla(sensed.T_world_lidar @ T_lidar_camera)
        # OPV2V's quirk: `extrinsic` maps LiDAR to camera, both in CARLA's axes
        extrinsic = np.linalg.inv(carla_matrix(cords)) @ carla_matrix(to_carla(sensed.T_world_lidar))
        lines += [f"camera{k}:", f"  cords: {_row(cords)}", f"  extrinsic: {_rows(extrinsic)}"]
        lines += [f"  intrinsic: {_rows(intrinsic())}"]
    labelled = [n for n in np.flatnonzero(sensed.hits > 0) if moment.ids[n] != sensed.rig.agent_id]
    lines.append("vehicles:" if labelled else "vehicles: {}")
    for n in labelled:
        lines += _vehicle(moment, int(n))
    return "\n".join(lines) + "\n"


def hits_json(moment: Moment, sensed: Sensed) -> str:
    """The sidecar `<t>_hits.json`: returns and camera visibility of every object that the agent senses."""
    content = {
        str(moment.ids[n]): {"hits": int(sensed.hits[n]), "camera_visible": bool(sensed.camera_visible[n])}
        for n in np.flatnonzero((sensed.hits > 0) | sensed.camera_visible)
        if moment.ids[n] != sensed.rig.agent_id
    }
    return json.dumps(content) + "\n"


def pcd_bytes(points: Float32) -> bytes:
    """A binary PCD of (P, 4) points in our axes: x, y to the right, z, and the intensity in the red byte of rgb."""
    record = np.empty(len(points), [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])
    record["x"], record["y"], record["z"] = points[:, 0], -points[:, 1], points[:, 2]
    record["rgb"] = np.rint(points[:, 3] * 255).astype(np.uint32) << 16
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\n"
        f"COUNT 1 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA binary\n"
    )
    return header.encode() + record.tobytes()


def _vehicle(moment: Moment, n: int) -> list[str]:
    T, size = moment.T_world_vehicle[n], moment.vehicles[n].size
    location = to_carla(T)
    centre = T.copy()
    centre[:3, 3] += T[:3, 2] * size[2] / 2
    offset = np.array(to_carla(centre)[:3]) - location[:3]
    return [
        f"  {moment.ids[n]}:",
        f"    angle: {_row(location[3:])}",
        f"    center: {_row(offset)}",
        f"    extent: {_row(size / 2)}",
        f"    location: {_row(location[:3])}",
        f"    speed: {_number(float(moment.speed[n]) * KM_PER_H)}",
    ]


def _plan(sensed: Sensed) -> Float64:
    """Where the agent means to be in the next second: x, y and speed every 0.1 s, at constant velocity."""
    x, y, _, _, yaw, _ = to_carla(sensed.T_world_carrier)
    ahead = sensed.speed * 0.1 * np.arange(1, 11)
    along = np.radians(yaw)
    speed = np.full(10, sensed.speed * KM_PER_H)
    return np.stack([x + ahead * np.cos(along), y + ahead * np.sin(along), speed], axis=1)


def _number(value: float) -> str:
    return f"{round(float(value), 6) + 0.0:.6f}"


def _row(values: Iterable[float] | Float64) -> str:
    return "[" + ", ".join(_number(value) for value in values) + "]"


def _rows(values: Sequence[Iterable[float]] | Float64) -> str:
    return "[" + ", ".join(_row(row) for row in values) + "]"


def _enlarged(image: UInt8, method: Image.Resampling) -> UInt8:
    return np.asarray(Image.fromarray(image).resize((IMAGE_WIDTH, IMAGE_HEIGHT), method))
