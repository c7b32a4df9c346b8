"""Own recordings in a minimal layout: poses as CSV, points as pcd, npy or bin, optional boxes, images, calibration."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from heatv2x.core import config
from heatv2x.data.datasets.base import Dataset, Sensors, wanted_sensors
from heatv2x.data.ground_truth import in_image
from heatv2x.data.survey import Recognised, SensorFile, Visit
from heatv2x.errors import DataError
from heatv2x.formats.cloud_files import CLOUDS, CloudFiles
from heatv2x.formats.folder_layout import (
    IMAGES,
    FolderCamera,
    RecordedAgent,
    RecordedBoxes,
    Recording,
    read_recordings,
)
from heatv2x.formats.image import read_rgb
from heatv2x.structures import LIDARS, AgentFrame, Camera, Float64, Frame, Int32, Objects, PointCloud, Pose

_log = logging.getLogger(__name__)
_SURFACE_M = 0.1  # a return this far outside a box still counts: labels are not exact
_NO_BOXES = RecordedBoxes(np.zeros(0, np.int64), np.zeros((0, 7)), np.zeros(0, np.float32))


class Folder(Dataset):
    """One split of own recordings (docs/datasets/folder.md).

    LiDAR returns on an object are counted in the agent's cloud when a frame is read. An agent without LiDAR "sees"
    every labelled object. An object is visible to an agent's cameras if it sees it and an image holds its centre.

    Args:
        root: the folder that holds the splits.
        split: one of its folders.
        settings: the fields of `Config`.

    Raises:
        DataError: not such a folder, or a descriptive file is missing or corrupt; names file, line or key.
    """

    source = "own recordings; the layout is ours"
    expected_layout = "<split>/<recording>/<agent id>/poses.csv (docs/own_recordings.md)"

    class Config(config.Config):
        """What is read.

        Attributes:
            intensity_max: the value in the files that means intensity 1; larger ones are clipped. Null takes 255 for
                intensities of one byte and 1 for all others, and refuses larger ones.
            lidar_as: read the sensor folder `lidar` as this sensor, such as lidar64, which types ask for by name.
            bin_columns: how many float32 numbers a point has in `.bin` files: x, y, z, intensity and more that are not
                read, or 3. Null takes 5 for `.pcd.bin` (nuScenes) and 4 for all others (KITTI).
        """

        intensity_max: float | None = pydantic.Field(None, gt=0)
        bin_columns: int | None = pydantic.Field(None, ge=3, le=16)
        lidar_as: Literal["lidar64", "lidar32", "lidar16"] | None = None

    def __init__(self, root: str | Path, split: str, **settings: object) -> None:
        self.settings = self.Config.model_validate(settings)
        self._clouds = CloudFiles(self.settings.intensity_max, self.settings.bin_columns)
        self.recordings, self._fingerprint = read_recordings(root, split)
        if self.settings.lidar_as is not None:
            self.recordings = [self._renamed(recording, self.settings.lidar_as) for recording in self.recordings]
        self._frames = [(recording, frame) for recording in self.recordings for frame in recording.frames()]
        if unlabelled := [recording.name for recording in self.recordings if not recording.boxes]:
            _log.warning("%s/%s: %s without boxes.csv", root, split, ", ".join(unlabelled))
        for recording in self.recordings:
            if unknown := sorted(set(recording.boxes) - set(recording.frames())):
                shown = ", ".join(unknown[:3]) + (" and more" if len(unknown) > 3 else "")
                _log.warning(
                    "%s/%s/%s: boxes.csv names frames that no agent has: %s", root, split, recording.name, shown
                )

    def __len__(self) -> int:
        return len(self._frames)

    def name(self, index: int) -> str:
        recording, frame = self._frames[index]
        return f"{recording.name}/{frame}"

    def agent_ids(self, index: int) -> tuple[int, ...]:
        return tuple(agent.agent_id for agent in self._agents(index))

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def capture_us(self, index: int, agent_id: int) -> int:
        frame = self._frames[index][1]
        agent = next(agent for agent in self._agents(index) if agent.agent_id == agent_id)
        return round(agent.stances[frame].time_s * 1e6)

    def labelled(self, index: int) -> bool:
        recording, frame = self._frames[index]
        return frame in recording.boxes

    def read(self, index: int, sensors: Sensors) -> Frame:
        """Read a frame and decode only the sensors asked for, and a cloud of each agent to count returns.

        Raises:
            ConfigError: a sensor has an unknown name.
            DataError: a file is missing or corrupt; names file and way out.
        """
        recording, frame = self._frames[index]
        agents = self._agents(index)
        boxes = recording.boxes.get(frame, _NO_BOXES)
        poses = [agent.stances[frame].pose for agent in agents]
        T_world_object = np.stack([_box_pose(box) for box in boxes.boxes]) if len(boxes.ids) else np.zeros((0, 4, 4))
        hits = np.ones((len(boxes.ids), len(agents)), np.int32)
        visible = np.zeros((len(boxes.ids), len(agents)), np.bool_)
        sensed = []
        for number, (agent, pose) in enumerate(zip(agents, poses, strict=True)):
            wanted = wanted_sensors(sensors, agent.agent_id)
            clouds = {name: self._cloud(agent, name, frame) for name in LIDARS if name in wanted}
            if agent.lidars and len(boxes.ids):
                name = agent.lidars[0]
                cloud = clouds[name] if name in clouds else self._cloud(agent, name, frame)
                T_agent_object = pose.inverse() @ T_world_object
                hits[:, number] = _returns(cloud, T_agent_object, boxes.boxes[:, 3:6])
            shown = [
                in_image(T_world_object, pose, camera.T_agent_camera, camera.K, camera.size) for camera in agent.cameras
            ]
            visible[:, number] = np.any(shown, axis=0) & (hits[:, number] > 0) if shown else False
            cameras = self._cameras(agent, frame) if "camera" in wanted else ()
            sensed.append(AgentFrame(agent.agent_id, frame, pose, clouds, cameras))
        objects = Objects(
            ids=boxes.ids,
            T_world_object=T_world_object,
            size=boxes.boxes[:, 3:6].astype(np.float32),
            speed=boxes.speed,
            hits=hits,
            camera_visible=visible,
            counted=all(agent.lidars for agent in agents),
        )
        return Frame(recording.name, frame, tuple(sensed), objects)

    @classmethod
    def recognise(cls, root: Path) -> Recognised | None:
        splits = dict.fromkeys(path.relative_to(root).parts[0] for path in sorted(root.glob("*/*/*/poses.csv")))
        return Recognised("own recordings", tuple(splits)) if splits else None

    @classmethod
    def survey(cls, root: Path, split: str, settings: Mapping[str, Any] | None = None) -> Iterator[Visit]:
        try:
            dataset = cls(root, split, **(settings or {}))
        except DataError as error:
            yield Visit(split, faults=(("poses, boxes or calibration", error),))
            return
        for index in range(len(dataset)):
            yield dataset._visit(index)

    def available(self, index: int) -> dict[int, tuple[str, ...]]:
        agents = self._agents(index)
        return {agent.agent_id: (*agent.lidars, *(["camera"] if agent.cameras else [])) for agent in agents}

    def _visit(self, index: int) -> Visit:
        recording, stem = self._frames[index]
        agents = self._agents(index)
        files: list[SensorFile] = []
        for agent in agents:
            for name in agent.lidars:
                read = functools.partial(self._cloud, agent, name, stem)
                folder = "lidar" if name == self.settings.lidar_as else name
                files.append(_sensor_file(f"{name} cloud", agent, folder, stem, CLOUDS, "lidar", read))
            for camera in agent.cameras:
                look = functools.partial(self._camera, agent, camera, stem)
                files.append(_sensor_file("camera image", agent, camera.name, stem, IMAGES, "camera", look))
        sources = {agent.agent_id: agent.folder / "poses.csv" for agent in agents}
        times_us = {agent.agent_id: round(agent.stances[stem].time_s * 1e6) for agent in agents}
        boxes = recording.boxes.get(stem, _NO_BOXES)
        none = np.zeros((len(boxes.ids), len(agents)))
        objects = Objects(  # nobody labels them in particular, and hits are not counted: clouds may be broken
            ids=boxes.ids,
            T_world_object=np.array([_box_pose(box) for box in boxes.boxes]).reshape(-1, 4, 4),
            size=boxes.boxes[:, 3:6].astype(np.float32),
            speed=boxes.speed,
            hits=none.astype(np.int32),
            camera_visible=none.astype(np.bool_),
            counted=False,
        )
        posed = tuple(AgentFrame(agent.agent_id, stem, agent.stances[stem].pose) for agent in agents)
        frame = Frame(recording.name, stem, posed, objects)
        return Visit(self.name(index), frame, tuple(files), (), sources, of=len(self), times_us=times_us)

    @staticmethod
    def _renamed(recording: Recording, name: str) -> Recording:
        """A recording whose LiDAR folders `lidar` count as another sensor."""
        both = next((agent for agent in recording.agents if {"lidar", name} <= set(agent.lidars)), None)
        if both is not None:
            problem = f"has a folder {name}, too, so lidar_as={name} is ambiguous"
            raise DataError(both.folder / "lidar", problem, way_out="leave lidar_as out, or rename one of the folders")
        agents = [
            replace(agent, lidars=tuple(name if each == "lidar" else each for each in agent.lidars))
            for agent in recording.agents
        ]
        return replace(recording, agents=tuple(agents))

    def _agents(self, index: int) -> list[RecordedAgent]:
        recording, frame = self._frames[index]
        return [agent for agent in recording.agents if frame in agent.stances]

    def _cloud(self, agent: RecordedAgent, name: str, frame: str) -> PointCloud:
        if name not in agent.lidars:
            have = ", ".join(agent.lidars) or "no LiDAR"
            way_out = (
                f"this agent has {have}. To read its folder lidar as {name}, set dataset.settings.lidar_as={name}"
                if "lidar" in agent.lidars and name != "lidar"
                else f"this agent has {have}: use a type with such a sensor, or other recordings"
            )
            raise DataError(agent.folder / name, "is missing: the agent has no such LiDAR", way_out=way_out)
        folder = "lidar" if name == self.settings.lidar_as else name
        return self._clouds.read(agent.sensor_file(folder, frame, CLOUDS))

    def _cameras(self, agent: RecordedAgent, frame: str) -> tuple[Camera, ...]:
        if not agent.cameras:
            way_out = "write it (docs/datasets/folder.md), or do not request cameras of this agent"
            raise DataError(
                agent.folder / "calibration.json", "is missing, but cameras were requested", way_out=way_out
            )
        return tuple(self._camera(agent, camera, frame) for camera in agent.cameras)

    def _camera(self, agent: RecordedAgent, camera: FolderCamera, frame: str) -> Camera:
        image = read_rgb(agent.sensor_file(camera.name, frame, IMAGES), camera.size, ("PNG", "JPEG"))
        return Camera(camera.name, image, camera.K, camera.T_agent_camera)


def _sensor_file(
    kind: str,
    agent: RecordedAgent,
    sensor: str,
    frame: str,
    suffixes: Sequence[str],
    what: str,
    read: Callable[[], PointCloud | Camera],
) -> SensorFile:
    """A file of a recording; it has no path if there is not exactly one, and reading it then says what is wrong."""
    path = None
    with contextlib.suppress(DataError):
        path = agent.sensor_file(sensor, frame, suffixes)
    return SensorFile(kind, agent.agent_id, "recordings", True, read, path, what)


def _box_pose(box: Float64) -> Float64:
    return Pose.planar(box[0], box[1], box[6], box[2]).matrix


def _returns(cloud: PointCloud, T_agent_object: Float64, size: Float64) -> Int32:
    """(N,) points of the cloud in each box or on its surface."""
    points = cloud.points[:, :3].astype(np.float64)
    counts = np.zeros(len(size), np.int32)
    for n, (T, extent) in enumerate(zip(T_agent_object, size, strict=True)):
        near = points[np.abs(points[:, :2] - T[:2, 3]).max(axis=1) <= np.linalg.norm(extent) / 2 + _SURFACE_M]
        local = (near - T[:3, 3]) @ T[:3, :3]
        # from just above the bottom face: what lies below it is ground
        above = local[:, 2] > -extent[2] / 2 + _SURFACE_M
        counts[n] = (above & (np.abs(local) <= extent / 2 + _SURFACE_M).all(axis=1)).sum()
    return counts
