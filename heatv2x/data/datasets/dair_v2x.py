"""DAIR-V2X-C: a real vehicle and a real roadside unit, in pairs of frames of the same moment."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pydantic
import torch

from heatv2x.core import config
from heatv2x.data.datasets.base import Dataset, Sensors, wanted_sensors
from heatv2x.data.ground_truth import boxes_in_frame, in_image
from heatv2x.data.survey import Recognised, SensorFile, Visit
from heatv2x.errors import ConfigError, DataError
from heatv2x.formats.cloud_files import CloudFiles
from heatv2x.formats.dair_json import (
    Labels,
    parse_cooperative_labels,
    parse_intrinsics,
    parse_relative_error,
    parse_side_labels,
    parse_transform,
)
from heatv2x.formats.dair_layout import FOLDER, OFFICIAL_FILE, Annotations, DairLayout, Pair, Splits, Truth
from heatv2x.formats.frame_index import Contents, fingerprint, open_records
from heatv2x.formats.frame_record import CameraRecord, FrameRecord
from heatv2x.formats.image import SAME_SIZE, intrinsics_fault, read_rgb
from heatv2x.formats.own_body import without_body
from heatv2x.geometry.boxes import rotated_iou_bev
from heatv2x.structures import LIDARS, AgentFrame, Bool, Camera, Float64, Frame, Int32, Objects, PointCloud, Pose

_log = logging.getLogger(__name__)
VEHICLE, INFRASTRUCTURE = 0, -1
_NAMES = {VEHICLE: "vehicle", INFRASTRUCTURE: "roadside"}
IMAGE_SIZE = (1920, 1080)
_PUBLISHED = {"coalign": {"train": 4811, "validate": 1789}, "official": {"train": 4813, "validate": 1783}}
"""Entries of the split files; the official ones name frames, some of which have two pairs."""
SAME_OBJECT_IOU = 0.05
"""Labels of both sides whose footprints overlap more are one object, as in the dataset of HEAL (yifanlu0227/HEAL)."""


class DairV2x(Dataset):
    """One split of DAIR-V2X-C; its description is parsed once and kept in an index.

    Agent 0 is the vehicle, agent -1 the roadside unit. Each has one LiDAR (40 beams on the vehicle, 300 at the road)
    and one camera. The dataset counts no LiDAR returns: an object is seen by the sides that label it.

    Args:
        root: the folder `cooperative-vehicle-infrastructure`, or its parent.
        split: "train" or "validate"; with the official splits also "test", whose files are not published.
        cache_dir: where the index is kept; by default `~/.cache/heatv2x/index`.
        settings: the fields of `Config`.

    Raises:
        DataError: not DAIR-V2X-C, or a descriptive file is missing or corrupt.
    """

    stem_step = 1
    _unmerged: Mapping[tuple[str, str], Path] = MappingProxyType({})

    source = "DAIR-V2X, arXiv 2204.05575"
    expected_layout = "cooperative, vehicle-side and infrastructure-side (docs/datasets/dair_v2x.md)"

    class Config(config.Config):
        """What is read.

        Attributes:
            splits: whose split files: "coalign" (train.json, val.json) or "official".
            truth: "sides" joins the labels of both sides (HEAL); "cooperative" takes the cooperative labels (official
                tool). The numbers differ.
            annotations: "complemented" labels all around, "original" ones (the vehicle's only where its camera looks),
                "auto" takes those in place. Numbers on the two are not comparable.
            correction: what is added to the roadside unit's position: "system_error_offset" of the pair (HEAL), or
                "relative_error" of its calibration (official tool). The official tool ignores the former, HEAL the
                latter. The numbers differ.
            infrastructure_delay: age of the roadside unit's data, in frames of 100 ms (VIC-Async-k).
            lidar_as: sensor names that each agent's only LiDAR answers to.
            intensity_max: the value in the files that means intensity 1; HEAL divides by 256.
            remove_body: drop points in the rectangle of OPV2V's vehicles from both agents, as HEAL does; they are
                real points here.
        """

        splits: Splits = "coalign"
        truth: Truth = "sides"
        annotations: Annotations = "auto"
        correction: Literal["system_error_offset", "relative_error"] = "system_error_offset"
        infrastructure_delay: int = pydantic.Field(0, ge=0)
        lidar_as: tuple[str, ...] = ("lidar", "lidar64")
        intensity_max: float = pydantic.Field(256.0, gt=0)
        remove_body: bool = False

    def __init__(self, root: str | Path, split: str, cache_dir: str | Path | None = None, **settings: object) -> None:
        self._list(root, split, settings)
        kept = self.settings
        # an index must not outlive the list of pairs: files that the list names may stay the same while it changes
        listed = hashlib.sha256(repr((kept.correction, self._pairs)).encode()).hexdigest()
        what = f"dair-{split}-{kept.splits}-{kept.truth}-{self.annotations}-{kept.infrastructure_delay}-{listed[:8]}"
        cache = None if cache_dir is None else Path(cache_dir)
        self._records = open_records(self.layout.root, what, self._pairs, self._parse, cache)
        self._fingerprint = hashlib.sha256(f"{fingerprint(self._records)}{listed}".encode()).hexdigest()

    def _list(self, root: str | Path, split: str, settings: Mapping[str, object]) -> None:
        """Find the pairs of the split; nothing of them is read yet."""
        self.settings = self.Config.model_validate(settings)
        self._clouds = CloudFiles(self.settings.intensity_max)
        self.layout = DairLayout(root)
        self.annotations = self.layout.annotations(self.settings.annotations)
        if self.annotations == "original":
            _log.warning("%s: original labels; the vehicle's cover only what its camera sees", self.layout.root)
        kept = self.settings
        self._pairs = self.layout.pairs(split, kept.splits, self._label_folders(), kept.infrastructure_delay)

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return self._records[index].name

    def agent_ids(self, index: int) -> tuple[int, ...]:
        return VEHICLE, INFRASTRUCTURE

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def capture_us(self, index: int, agent_id: int) -> int:
        pair = self._pairs[index]
        if agent_id == VEHICLE:
            return self.layout.vehicle[pair.vehicle].captured_us
        frame = self.layout.infrastructure.get(pair.sent)
        return self.layout.vehicle[pair.vehicle].captured_us if frame is None else frame.captured_us

    def read(self, index: int, sensors: Sensors) -> Frame:
        """Read a pair and decode only the sensors asked for.

        Raises:
            ConfigError: a sensor has an unknown name, or DAIR-V2X does not have it.
            DataError: a file is missing or corrupt; names file, key and way out.
        """
        record = self._records[index]
        scenario, _, timestamp = record.name.partition("/")
        agents = tuple(
            self._agent(record, number, agent_id, wanted_sensors(sensors, agent_id))
            for number, agent_id in enumerate(self.agent_ids(index))
        )
        return Frame(scenario, timestamp, agents, record.objects)

    @classmethod
    def recognise(cls, root: Path) -> Recognised | None:
        inside = root / FOLDER if (root / FOLDER).is_dir() else root
        if not all((inside / side).is_dir() for side in ("cooperative", "vehicle-side", "infrastructure-side")):
            return None
        coalign = [
            split for split, name in (("train", "train"), ("validate", "val")) if (inside / f"{name}.json").exists()
        ]
        official = ["train", "validate"] if (inside / OFFICIAL_FILE).exists() else []
        if not coalign and not official:
            problem = "has no split file: neither train.json and val.json (CoAlign) nor cooperative-split-data.json"
            raise DataError(inside, problem, way_out="put one of them there")
        published = _PUBLISHED["coalign" if coalign else "official"]
        there = tuple(coalign or official)
        return Recognised("DAIR-V2X-C", there, published, tracked=False, labels_in_world=False)

    @classmethod
    def survey(cls, root: Path, split: str, settings: Mapping[str, Any] | None = None) -> Iterator[Visit]:
        reader = cls.__new__(cls)  # lists the pairs but opens none: a broken one must not hide the others
        inside = root / FOLDER if (root / FOLDER).is_dir() else root
        splits = "coalign" if any((inside / name).exists() for name in ("train.json", "val.json")) else "official"
        try:
            reader._list(root, split, {"splits": splits, **(settings or {})})
        except DataError as error:
            yield Visit(split, faults=(("list of frames", error),))
            return
        reader._unmerged = reader.layout.unmerged()
        for (side, kind), folder in reader._unmerged.items():
            fault = (f"archive of {side}/{kind}", reader.layout.not_merged(side, kind, folder))
            yield Visit(f"{split}: {side}/{kind}", faults=(fault,))
        for pair in reader._pairs:
            yield replace(reader._visit(pair), of=len(reader._pairs))

    def available(self, index: int) -> dict[int, tuple[str, ...]]:
        sides = zip(self.agent_ids(index), self._records[index].folders, strict=True)
        sensors = {}
        for agent, folder in sides:
            side, _, stem = folder.partition("/")
            lidars = self.settings.lidar_as if self.layout.sensor_file(side, "velodyne", stem).exists() else ()
            image = self.layout.sensor_file(side, "image", stem)
            sensors[agent] = (*lidars, *(["camera"] if image.exists() else []))
        return sensors

    def _visit(self, pair: Pair) -> Visit:
        root = self.layout.root
        sides = (("vehicle-side", pair.vehicle, VEHICLE), ("infrastructure-side", pair.sent, INFRASTRUCTURE))
        sources = {VEHICLE: root / pair.labels["vehicle"], INFRASTRUCTURE: root / pair.labels["infrastructure"]}
        try:
            record = self._parse(pair, Contents(root, []))
        except DataError as error:
            files = self._sensor_files(sides, ((), ()))
            return Visit(pair.name, None, files, (("calibration or labels", error),), sources)
        files = self._sensor_files(sides, record.cameras)
        scenario, _, timestamp = record.name.partition("/")
        agents = tuple(
            AgentFrame(agent, stem, Pose(T)) for (_, stem, agent), T in zip(sides, record.T_world_agent, strict=True)
        )
        times_us = {VEHICLE: self.layout.vehicle[pair.vehicle].captured_us}
        if (sent := self.layout.infrastructure.get(pair.sent)) is not None:  # its lateness is asked for
            times_us[INFRASTRUCTURE] = sent.captured_us + 100_000 * self.settings.infrastructure_delay
        frame = Frame(scenario, timestamp, agents, record.objects)
        return Visit(pair.name, frame, files, (), sources, times_us=times_us)

    def _sensor_files(
        self, sides: Sequence[tuple[str, str, int]], cameras: Sequence[Sequence[CameraRecord]]
    ) -> tuple[SensorFile, ...]:
        """Cloud and image of both sides."""
        files = []
        for (side, stem, agent), described in zip(sides, cameras, strict=True):
            for what, kind, read in (
                ("cloud", "velodyne", self._read_sweep),
                ("camera image", "image", functools.partial(_read_image, described)),
            ):
                if (side, kind) in self._unmerged:  # told once, not file by file
                    continue
                path = self.layout.sensor_file(side, kind, stem)
                sensor = "camera" if kind == "image" else "lidar"
                reading = functools.partial(read, path)
                name = f"{_NAMES[agent]} {what}"
                files.append(SensorFile(name, agent, f"{side} {kind}", False, reading, path, sensor))
        return tuple(files)

    def _read_sweep(self, path: Path) -> PointCloud:
        return self._clouds.read(path)

    def _agent(self, record: FrameRecord, number: int, agent_id: int, sensors: frozenset[str]) -> AgentFrame:
        side, _, stem = record.folders[number].partition("/")
        lidars = {}
        asked = [name for name in LIDARS if name in sensors]
        if foreign := [name for name in asked if name not in self.settings.lidar_as]:
            names = ", ".join(self.settings.lidar_as)
            raise ConfigError(f"DAIR-V2X has no {foreign[0]}: its agents' only LiDAR is {names} (setting lidar_as)")
        if asked:
            cloud = self._read_sweep(self._there(side, "velodyne", stem))
            cloud = PointCloud(without_body(cloud.points)) if self.settings.remove_body else cloud
            lidars = dict.fromkeys(asked, cloud)
        cameras: tuple[Camera, ...] = ()
        if "camera" in sensors:
            (camera,) = record.cameras[number]
            image = read_rgb(self._there(side, "image", stem), IMAGE_SIZE, ("JPEG",))
            cameras = (Camera(camera.name, image, camera.K, camera.T_agent_camera),)
        return AgentFrame(agent_id, stem, Pose(record.T_world_agent[number]), lidars, cameras)

    def _there(self, side: str, kind: str, stem: str) -> Path:
        """The path of a sensor file.

        Raises:
            DataError: it is missing because its archive was not put into the dataset's folder.
        """
        path = self.layout.sensor_file(side, kind, stem)
        if not path.exists() and (beside := self.layout.unmerged().get((side, kind))) is not None:
            raise self.layout.not_merged(side, kind, beside)
        return path

    def _label_folders(self) -> dict[str, str]:
        """Label folders of both sides, and of the cooperative labels if they are asked for."""
        replaced = self.layout.root / "vehicle-side" / "label" / "lidar_backup"
        backup = "_backup" if self.annotations == "original" and replaced.is_dir() else ""
        folders = {"vehicle": f"lidar{backup}", "infrastructure": "virtuallidar"}
        return folders | ({"cooperative": f"label_world{backup}"} if self.settings.truth == "cooperative" else {})

    def _parse(self, pair: Pair, files: Contents) -> FrameRecord:
        contents = {path: files.read(path) for path in pair.present}
        root, calibration = files.root, pair.calibration
        T = {
            what: parse_transform(contents[path], root / path)
            for what, path in calibration.items()
            if not what.endswith("_K")
        }
        K = {
            what: parse_intrinsics(contents[path], root / path)
            for what, path in calibration.items()
            if what.endswith("_K")
        }
        for what, each in K.items():
            if (fault := intrinsics_fault(each, IMAGE_SIZE)) is not None:
                raise DataError(root / calibration[what], fault, key="cam_K", way_out=SAME_SIZE)
        for what in ("virtuallidar_to_world", "sent_to_world"):
            source = calibration[what]
            of_pair = self.settings.correction == "system_error_offset"
            T[what] = T[what].copy()
            T[what][:2, 3] += pair.offset if of_pair else parse_relative_error(contents[source], root / source)
        T_world_vehicle = T["novatel_to_world"] @ T["lidar_to_novatel"]
        cameras = tuple(
            (CameraRecord("camera0", K[f"{side}_K"], Pose(T[f"{side}_camera"]).inverse()),)
            for side in ("vehicle", "infrastructure")
        )
        sides = [
            _in_world(parse_side_labels(contents[pair.labels[side]], root / pair.labels[side]), T_world_side)
            for side, T_world_side in (("vehicle", T_world_vehicle), ("infrastructure", T["virtuallidar_to_world"]))
        ]
        path = pair.labels.get("cooperative")
        whole = None if path is None else parse_cooperative_labels(contents[path], root / path)
        labels, hits = _joined(*sides) if whole is None else _attributed(whole, sides)
        poses = np.stack([T_world_vehicle, T["sent_to_world"]])
        visible = [
            in_image(labels.T_frame_object, Pose(pose), camera[0].T_agent_camera, camera[0].K, IMAGE_SIZE)
            for pose, camera in zip(poses, cameras, strict=True)
        ]
        return FrameRecord(
            name=pair.name,
            folders=(f"vehicle-side/{pair.vehicle}", f"infrastructure-side/{pair.sent}"),
            T_world_agent=poses,
            cameras=cameras,
            objects=_objects(labels, hits, np.stack(visible, axis=1) & (hits > 0)),
            without_center=0,
            stamps=tuple(files.stamps),
        )


def _read_image(described: Sequence[CameraRecord], path: Path) -> tuple[Camera, ...]:
    image = read_rgb(path, IMAGE_SIZE, ("JPEG",))
    return tuple(Camera(camera.name, image, camera.K, camera.T_agent_camera) for camera in described)


def _in_world(labels: Labels, T_world_side: Float64) -> Labels:
    return Labels(T_world_side @ labels.T_frame_object, labels.size)


def _objects(labels: Labels, hits: Int32, visible: Bool) -> Objects:
    """Objects with ids by their order, from 1: the dataset has no identities across sides."""
    count = len(labels)
    return Objects(
        ids=np.arange(1, count + 1, dtype=np.int64),
        T_world_object=labels.T_frame_object,
        size=labels.size.astype(np.float32),
        speed=np.full(count, np.nan, np.float32),
        hits=hits,
        camera_visible=visible,
        counted=False,
    )


def _overlaps(first: Labels, second: Labels) -> Bool:
    """(N, M) whose footprints overlap by more than `SAME_OBJECT_IOU`, seen from above the first one's middle."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)), bool)
    x, y = first.T_frame_object[:, :2, 3].mean(axis=0)
    middle = Pose.planar(x, y, 0.0)  # near the boxes, because they become float32
    boxes = [
        boxes_in_frame(_objects(each, np.ones((len(each), 1), np.int32), np.ones((len(each), 1), bool)), middle).boxes
        for each in (first, second)
    ]
    overlap = rotated_iou_bev(*(torch.from_numpy(each.astype(np.float64)) for each in boxes))
    return np.asarray(overlap.numpy() > SAME_OBJECT_IOU)


def _joined(vehicle: Labels, infrastructure: Labels) -> tuple[Labels, Int32]:
    """The vehicle's labels, and those of the roadside unit that overlap none of them; (N, 2) which side lists each."""
    same = _overlaps(vehicle, infrastructure)
    new = ~same.any(axis=0)
    labels = Labels(
        np.concatenate([vehicle.T_frame_object, infrastructure.T_frame_object[new]]),
        np.concatenate([vehicle.size, infrastructure.size[new]]),
    )
    hits = np.zeros((len(labels), 2), np.int32)
    hits[: len(vehicle), 0], hits[: len(vehicle), 1] = 1, same.any(axis=1)
    hits[len(vehicle) :, 1] = 1
    return labels, hits


def _attributed(whole: Labels, sides: list[Labels]) -> tuple[Labels, Int32]:
    """Cooperative labels; (N, 2) which side's labels overlap each, both where neither does."""
    hits = np.stack([_overlaps(whole, side).any(axis=1) for side in sides], axis=1).astype(np.int32)
    hits[hits.sum(axis=1) == 0] = 1
    return whole, hits
