"""A small DAIR-V2X-C in the real layout: two batches of a vehicle and a roadside unit, with labels that agree.

As in the release: the infrastructure has frames before its first pair (for late messages), the list of pairs names
pairs whose files are not part of it and some vehicle frames twice, with consecutive roadside frames and offsets of
their own, CoAlign's list names a frame twice, labels come in the original and in the complemented form, corners of
cooperative labels go around clockwise.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.formats.moving_scene import Street, camera_at, place, rotation, street

ROOT = "cooperative-vehicle-infrastructure"
VEHICLE, POLE = 0, -1
SIZE = (1920, 1080)
K = np.array([[1100.0, 0.0, 955.6], [0.0, 1100.0, 527.6], [0.0, 0.0, 1.0]])
_BLOCK = 20
T_WORLD_STREET = place((2650.0, 3370.0, 21.5)) @ rotation(0.7)
T_NOVATEL_LIDAR = place((0.1, -0.3, 1.7)) @ rotation(np.pi / 2, 0.01)
T_LIDAR_CAMERA = {VEHICLE: camera_at((1.5, 0.0, -0.4), 0.0), POLE: camera_at((0.2, 0.0, 0.0), 0.0, 0.35)}
OFFSETS = ({"delta_x": 0.8, "delta_y": -0.4}, {"delta_x": -0.3, "delta_y": 0.2}, None, {"delta_x": "", "delta_y": ""})
LATE = 2
"""Infrastructure frames of each batch before its first pair."""


@dataclass(frozen=True)
class Batch:
    """A recording: its split in CoAlign's files, and the ids of the paired frames of both sides."""

    split: str
    vehicle: range
    infrastructure: range


BATCHES = {
    "7": Batch("train", range(2, 6), range(19, 23)),
    "12": Batch("val", range(2000, 2003), range(5000, 5003)),
}
UNRELEASED = [("000900", "000901")]
DOUBLE = ("000004", "002000")
"""Vehicle frames that are paired with the roadside frame before theirs, too: listed first, as in the release."""
NAMED_TWICE = "000005"
"""A frame that CoAlign's list names twice; the release has some in val.json."""


def write_dair_v2x(out: Path, *, images: bool = True, complemented: bool = True) -> Path:
    """Write everything below `out`; gives the dataset's folder.

    Args:
        images: write the images, too.
        complemented: labels all around with the originals as `..._backup`, else only the originals.
    """
    root = out / ROOT
    pairs: list[dict[str, Any]] = []
    infos: dict[str, list[dict[str, Any]]] = {"vehicle-side": [], "infrastructure-side": []}
    for number, (batch, what) in enumerate(BATCHES.items()):
        start = _level_pole(street((VEHICLE, POLE), seed=40 + number, parked=10))
        first = min(what.infrastructure)
        for step in range(-LATE, len(what.vehicle)):
            moment, at_us = start.at(0.1 * step), 1_626_155_123_000_000 + 100_000 * step
            offset = OFFSETS[max(step, 0) % len(OFFSETS)]
            stem = f"{first + step:06d}"
            labels = _side(root, moment, POLE, stem, images, complemented, offset)
            last = max(what.infrastructure)
            infos["infrastructure-side"].append(
                _info("infrastructure-side", stem, batch, at_us + 30_000, first - LATE, last)
            )
            if step < 0:
                continue
            own = f"{what.vehicle[step]:06d}"
            labels = _side(root, moment, VEHICLE, own, images, complemented, None) | labels
            bounds = (min(what.vehicle), max(what.vehicle))
            infos["vehicle-side"].append(_info("vehicle-side", own, batch, at_us, *bounds))
            if own in DOUBLE:
                pairs.append(_pair(own, f"{first + step - 1:06d}", OFFSETS[max(step - 1, 0) % len(OFFSETS)]))
            pairs.append(_pair(own, stem, offset))
            _cooperative(root, moment, own, sorted(labels), offset, complemented)
    pairs += [_pair(own, other, OFFSETS[0]) for own, other in UNRELEASED]
    _json(root / "cooperative" / "data_info.json", pairs)
    for side, entries in infos.items():
        _json(root / side / "data_info.json", entries)
    _splits(root)
    return root


def lidar_matrix(moment: Street, agent: int) -> np.ndarray:
    """(4, 4) where the agent's LiDAR is in DAIR-V2X's world."""
    return T_WORLD_STREET @ moment.lidar_matrix(agent)


def _level_pole(moment: Street) -> Street:
    """The roadside unit's frame, as the virtual LiDAR, a little tilted."""
    poles = {agent: T @ rotation(0.1, 0.02, -0.01) for agent, T in moment.poles.items()}
    return Street(moment.T_world_car, moment.size, moment.speed, moment.ids, poles)


def _side(root: Path, moment: Street, agent: int, stem: str, images: bool, complemented: bool, offset: Any) -> set[int]:
    """Cloud, image, calibration and labels of one side; gives the rows of the cars it labels all around."""
    side, T = ("vehicle-side" if agent == VEHICLE else "infrastructure-side"), moment.lidar_matrix(agent)
    beams = (40, 360, -22.0, 5.0) if agent == VEHICLE else (64, 360, -50.0, -2.0)
    points, hits = moment.sweep(T, *beams)
    if agent == VEHICLE:
        hits[0] = 0  # its own body
    write_cloud(
        root / side / "velodyne" / f"{stem}.pcd", points, broken=3 if agent == POLE else 0, ascii=stem == "000002"
    )
    image, _, seen = moment.look(T @ T_LIDAR_CAMERA[agent], K, *SIZE, _BLOCK)
    if images:
        path = root / side / "image" / f"{stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=60)
    _calibration(root / side / "calib", moment, agent, stem, offset)
    around = np.flatnonzero(hits >= 3)
    ahead = np.array([n for n in around if seen[n]], int)
    labels = {n: _label(moment, n, T) for n in around}
    others = [_other(kind) for kind in ("Pedestrian", "Trafficcone")] + [_flat(labels[around[0]])]
    written = {"camera": [_texts(labels[n]) for n in ahead]}
    if agent == POLE:
        written["virtuallidar"] = [labels[n] for n in around] + others
    else:
        front = [labels[n] for n in ahead] + others
        written["lidar"] = [labels[n] for n in around] + others if complemented else front
        if complemented:
            written["lidar_backup"] = front
    for kind, content in written.items():
        _json(root / side / "label" / kind / f"{stem}.json", content)
    return {int(n) for n in around}


def _calibration(folder: Path, moment: Street, agent: int, stem: str, offset: Any) -> None:
    camera = np.linalg.inv(T_LIDAR_CAMERA[agent])
    intrinsic = {"cam_K": K.ravel().tolist(), "cam_D": [0.0] * 5}
    _json(folder / "camera_intrinsic" / f"{stem}.json", {**intrinsic, "P": np.c_[K, np.zeros(3)].ravel().tolist()})
    T = lidar_matrix(moment, agent)
    if agent == VEHICLE:
        _json(folder / "lidar_to_camera" / f"{stem}.json", _transform(camera))
        _json(folder / "lidar_to_novatel" / f"{stem}.json", {"transform": _transform(T_NOVATEL_LIDAR)})
        _json(folder / "novatel_to_world" / f"{stem}.json", _transform(T @ np.linalg.inv(T_NOVATEL_LIDAR)))
        return
    _json(folder / "virtuallidar_to_camera" / f"{stem}.json", _transform(camera))
    published = T.copy()  # the pair's offset corrects it
    if offset is not None and offset["delta_x"] != "":
        published[:2, 3] -= offset["delta_x"], offset["delta_y"]
    error = {"delta_x": "", "delta_y": ""} if int(stem) % 2 else {"delta_x": 0.11, "delta_y": -0.07}
    _json(folder / "virtuallidar_to_world" / f"{stem}.json", {**_transform(published), "relative_error": error})


def _cooperative(root: Path, moment: Street, stem: str, rows: list[int], offset: Any, complemented: bool) -> None:
    corners = [[x, y, z] for z in (-0.5, 0.5) for x, y in ((0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5))]
    entries = []
    for n in rows:
        if n == 0:
            continue  # the connected vehicle itself
        T = T_WORLD_STREET @ moment.T_world_car[n]
        world = np.c_[np.array(corners) * moment.size[n], np.ones(8)] @ T.T
        length, width, height = moment.size[n].tolist()
        entry: dict[str, Any] = {
            "type": ("car", "Van", "Truck", "bus")[n % 4],
            "occluded_state": 0,
            "truncated_state": 0,
            "3d_dimensions": {"h": height, "w": width, "l": length},
            "3d_location": dict(zip("xyz", T[:3, 3].tolist(), strict=True)),
            "rotation": float(np.arctan2(T[1, 0], T[0, 0])),
            "world_8_points": world[:, :3].tolist(),
        }
        entries.append(entry | ({} if offset is None else {"system_error_offset": offset}))
    _json(root / "cooperative" / "label_world" / f"{stem}.json", entries)
    if complemented:
        _json(root / "cooperative" / "label_world_backup" / f"{stem}.json", entries[: len(entries) // 2])


def _label(moment: Street, n: int, T_world_sensor: np.ndarray) -> dict[str, Any]:
    local = np.linalg.inv(T_world_sensor) @ moment.T_world_car[n]
    length, width, height = moment.size[n].tolist()
    return {
        "type": ("Car", "Van", "Truck", "Bus")[n % 4],
        "truncated_state": 0,
        "occluded_state": 0,
        "2d_box": {"xmin": 1.0, "ymin": 2.0, "xmax": 30.0, "ymax": 40.0},
        "3d_dimensions": {"h": height, "w": width, "l": length},
        "3d_location": dict(zip("xyz", local[:3, 3].tolist(), strict=True)),
        "rotation": float(np.arctan2(local[1, 0], local[0, 0])),
    }


def _other(kind: str) -> dict[str, Any]:
    """Something that is no vehicle."""
    place_of = {"x": 6.0, "y": 6.0, "z": -1.0}
    return {"type": kind, "3d_dimensions": {"h": 1.7, "w": 0.5, "l": 0.5}, "3d_location": place_of, "rotation": 0.0}


def _flat(label: dict[str, Any]) -> dict[str, Any]:
    """A label without extent, as the release has some."""
    return {**label, "type": "Car", "3d_dimensions": {"h": 0.0, "w": 0.0, "l": 0.0}}


def _texts(label: dict[str, Any]) -> dict[str, Any]:
    """A camera label: some numbers are strings."""
    as_text = {key: {k: str(v) for k, v in label[key].items()} for key in ("3d_dimensions", "3d_location")}
    return {**label, **as_text, "rotation": str(label["rotation"])}


def _transform(matrix: np.ndarray) -> dict[str, Any]:
    return {"rotation": matrix[:3, :3].tolist(), "translation": matrix[:3, 3:].tolist()}


def _info(side: str, stem: str, batch: str, at_us: int, first: int, last: int) -> dict[str, Any]:
    lidar = "lidar" if side == "vehicle-side" else "virtuallidar"
    info = {
        "image_path": f"image/{stem}.jpg",
        "image_timestamp": str(at_us + 5_000),
        "pointcloud_path": f"velodyne/{stem}.pcd",
        "pointcloud_timestamp": str(at_us),
        "label_lidar_std_path": f"label/{lidar}/{stem}.json",
        "label_camera_std_path": f"label/camera/{stem}.json",
        "calib_camera_intrinsic_path": f"calib/camera_intrinsic/{stem}.json",
        "batch_id": batch,
        "intersection_loc": "yizhuang09",
        "batch_start_id": f"{first:06d}",
        "batch_end_id": f"{last:06d}",
    }
    extra = {
        "vehicle-side": ("lidar_to_camera", "lidar_to_novatel", "novatel_to_world"),
        "infrastructure-side": ("virtuallidar_to_camera", "virtuallidar_to_world"),
    }[side]
    return info | {f"calib_{name}_path": f"calib/{name}/{stem}.json" for name in extra}


def _pair(own: str, other: str, offset: Any) -> dict[str, Any]:
    pair = {
        "infrastructure_image_path": f"infrastructure-side/image/{other}.jpg",
        "infrastructure_pointcloud_path": f"infrastructure-side/velodyne/{other}.pcd",
        "vehicle_image_path": f"vehicle-side/image/{own}.jpg",
        "vehicle_pointcloud_path": f"vehicle-side/velodyne/{own}.pcd",
        "cooperative_label_path": f"cooperative/label_world/{own}.json",
    }
    return pair | ({} if offset is None else {"system_error_offset": offset})


def _splits(root: Path) -> None:
    ids: dict[str, list[str]] = {"train": [], "val": [], "test": [own for own, _ in UNRELEASED]}
    for what in BATCHES.values():
        ids[what.split] += [f"{number:06d}" for number in what.vehicle]
    _json(root / "train.json", [*ids["train"], NAMED_TWICE])
    _json(root / "val.json", ids["val"])
    # the official split differs a little from CoAlign's, as it really does
    official = {"train": ids["train"] + ids["val"][:1], "val": ids["val"][1:], "test": ids["test"], "test_A": []}
    batches = {"train": ["7"], "val": ["12"], "test": []}
    content = {"batch_split": batches, "vehicle_split": official, "infrastructure_split": {}}
    _json(root / "cooperative-split-data.json", {**content, "cooperative_split": official})


def write_cloud(path: Path, points: np.ndarray, broken: int = 0, ascii: bool = False, full: float = 255.0) -> None:
    """x, y, z and intensity from 0 to `full`; the first `broken` points are NaN, as some of the roadside's are."""
    rows = points.astype("<f4") * np.float32([1, 1, 1, full])
    rows[:broken, :3] = np.nan
    header = "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\n"
    header += f"TYPE F F F F\nCOUNT 1 1 1 1\nWIDTH {len(rows)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
    header += f"POINTS {len(rows)}\nDATA {'ascii' if ascii else 'binary'}\n"
    stream = io.BytesIO()
    if ascii:
        np.savetxt(stream, rows, fmt="%.7g")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + (stream.getvalue() if ascii else rows.tobytes()))


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
