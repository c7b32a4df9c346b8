"""OPV2V, OPV2V-H, V2XSet and the synthetic world: simulated vehicles and roadside units in OPV2V's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from heatv2x.core import config
from heatv2x.data import opv2v_survey
from heatv2x.data.datasets.base import Dataset, Sensors, wanted_sensors
from heatv2x.data.survey import Recognised, Visit
from heatv2x.errors import DataError
from heatv2x.formats.cloud_files import CloudFiles
from heatv2x.formats.frame_index import fingerprint
from heatv2x.formats.frame_record import CameraRecord, FrameRecord
from heatv2x.formats.image import read_depth, read_rgb
from heatv2x.formats.opv2v_index import open_index
from heatv2x.formats.opv2v_layout import Layout
from heatv2x.formats.own_body import without_body
from heatv2x.structures import AgentFrame, Camera, Frame, Objects, PointCloud, Pose

_NEAR_M = 45.0
_LIDAR_SUFFIX = {"lidar64": "", "lidar32": "_32", "lidar16": "_16", "lidar": ""}


class Opv2v(Dataset):
    """One split of a dataset in OPV2V's layout; its description is parsed once and kept in an index.

    Args:
        root: the parent of `OPV2V/` and `OPV2V_Hetero/`, or the OPV2V folder itself.
        split: "train", "validate", "test", ...
        hetero_root: the folder of 16- and 32-beam clouds and depth images, if it is not beside OPV2V.
        cache_dir: where the index is kept; by default `~/.cache/heatv2x/index`.
        depth, exclude, cameras, camera_truth, max_agents: see `Config`.

    Raises:
        DataError: not a dataset folder, or a descriptive file is missing or corrupt.
    """

    source = "OPV2V, arXiv 2109.07644; OPV2V-H: HEAL, arXiv 2401.13964"
    expected_layout = "[OPV2V/]<split>/<scenario>/<agent id>/<t>.yaml (docs/datasets/opv2v.md)"

    class Config(config.Config):
        """What is read.

        Attributes:
            hetero_root: the folder of 16- and 32-beam clouds and depth images, if it is not beside OPV2V.
            depth: whether to read depth for cameras; null reads it where `hetero_root` has it for the agent.
            exclude: scenarios that are left out, such as V2XSet's 2021_09_09_13_20_58, which has three cameras only.
            cameras: "complete" refuses an agent that lacks an image, "present" takes the cameras that have one.
            camera_truth: which objects count as visible to cameras: those in the "raster", or those "near", that is
                labelled by the agent and within 45 m in x and y, as HEAL does where V2XSet has no rasters.
            roadside_ego: whether a roadside unit may be the ego of a training scene; false treats V2XSet as HEAL does.
            intensity_max: the value that stands for 1 in clouds with an intensity field; for colours it is always 255.
            max_agents: keep only the first N agents of `Frame.agents`; objects that only others label are dropped.
        """

        hetero_root: Path | None = None
        depth: bool | None = None
        exclude: tuple[str, ...] = ()
        cameras: Literal["complete", "present"] = "complete"
        camera_truth: Literal["raster", "near"] = "raster"
        roadside_ego: bool = True
        intensity_max: float | None = pydantic.Field(None, gt=0)
        max_agents: int | None = pydantic.Field(None, gt=0)

    def __init__(
        self,
        root: str | Path,
        split: str,
        hetero_root: str | Path | None = None,
        cache_dir: str | Path | None = None,
        depth: bool | None = None,
        **settings: object,
    ) -> None:
        self.settings = self.Config.model_validate({"hetero_root": hetero_root, "depth": depth, **settings})
        self.layout = Layout.find(root, split, hetero_root)
        self._clouds = CloudFiles(self.settings.intensity_max)
        cache = None if cache_dir is None else Path(cache_dir)
        records = open_index(self.layout, cache, self.settings.exclude)
        most = self.settings.max_agents
        self._records = records if most is None else [_first_agents(record, most) for record in records]
        self._fingerprint = fingerprint(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return self._records[index].name

    def agent_ids(self, index: int) -> tuple[int, ...]:
        return tuple(int(folder) for folder in self._records[index].folders)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def labelled(self, index: int) -> bool:
        return self._records[index].labelled

    def read(self, index: int, sensors: Sensors) -> Frame:
        """Read a frame and decode only the sensors asked for; an agent that a mapping does not name gets none.

        Raises:
            ConfigError: a sensor has an unknown name.
            DataError: a file is missing or corrupt; names file, key and way out.
        """
        record = self._records[index]
        scenario, _, timestamp = record.name.partition("/")
        agents = tuple(
            self._agent(record, number, wanted_sensors(sensors, int(folder)))
            for number, folder in enumerate(record.folders)
        )
        objects = _near(record) if self.settings.camera_truth == "near" else record.objects
        egos = None if self.settings.roadside_ego else self._vehicles(record)
        return Frame(scenario, timestamp, agents, objects, egos)

    def _vehicles(self, record: FrameRecord) -> tuple[int, ...]:
        vehicles = tuple(number for number, folder in enumerate(record.folders) if int(folder) >= 0)
        if not vehicles:
            path = self.layout.opv2v / self.layout.split / record.name.partition("/")[0]
            raise DataError(path, "has roadside units only", way_out="exclude it, or set roadside_ego=true")
        return vehicles

    @classmethod
    def recognise(cls, root: Path) -> Recognised | None:
        return opv2v_survey.recognise(root)

    @classmethod
    def survey(cls, root: Path, split: str, settings: Mapping[str, Any] | None = None) -> Iterator[Visit]:
        kept = cls.Config.model_validate(settings or {})
        wanted = opv2v_survey.Wanted(
            kept.hetero_root, kept.exclude, kept.max_agents, kept.cameras == "present", kept.depth is not False
        )
        return opv2v_survey.survey(root, split, wanted)

    def available(self, index: int) -> dict[int, tuple[str, ...]]:
        record = self._records[index]
        scenario, _, timestamp = record.name.partition("/")
        sensors = {}
        for folder in record.folders:
            there = [
                name
                for name, suffix in _LIDAR_SUFFIX.items()
                if self.layout.sensor_file(scenario, folder, f"{timestamp}{suffix}.pcd", hetero=bool(suffix)).exists()
            ]
            image = self.layout.sensor_file(scenario, folder, f"{timestamp}_camera0.png", hetero=False)
            sensors[int(folder)] = (*there, *(["camera"] if image.exists() else []))
        return sensors

    def _agent(self, record: FrameRecord, number: int, sensors: frozenset[str]) -> AgentFrame:
        scenario, _, timestamp = record.name.partition("/")
        folder = record.folders[number]
        lidars = {name: self._lidar(scenario, folder, timestamp, name) for name in _LIDAR_SUFFIX if name in sensors}
        cameras = self._cameras(record, number) if "camera" in sensors else ()
        return AgentFrame(int(folder), timestamp, Pose(record.T_world_agent[number]), lidars, cameras)

    def _lidar(self, scenario: str, folder: str, timestamp: str, name: str) -> PointCloud:
        filename = f"{timestamp}{_LIDAR_SUFFIX[name]}.pcd"
        path = self.layout.sensor_file(scenario, folder, filename, hetero=bool(_LIDAR_SUFFIX[name]))
        if _LIDAR_SUFFIX[name] and not path.exists():
            problem = f"the point cloud for {name} is missing"
            raise DataError(path, problem, way_out="complete OPV2V-H beside OPV2V, or set hetero_root=<its folder>")
        cloud = self._clouds.read(path)
        cloud.points[:, 1] *= -1
        return cloud if int(folder) < 0 else replace(cloud, points=without_body(cloud.points))

    def _cameras(self, record: FrameRecord, number: int) -> tuple[Camera, ...]:
        scenario, _, timestamp = record.name.partition("/")
        folder, cameras = record.folders[number], record.cameras[number]
        if not cameras:
            path = self.layout.sensor_file(scenario, folder, f"{timestamp}.yaml", hetero=False)
            raise DataError(path, "describes no cameras", key="camera0", way_out="do not request cameras of this agent")
        if self.settings.cameras == "present":
            there = tuple(camera for camera in cameras if self._image(scenario, folder, timestamp, camera).exists())
            cameras = there or cameras  # without any image the first one is missed aloud
        depths = [
            self.layout.sensor_file(scenario, folder, f"{timestamp}_{_depth_name(camera)}.png", hetero=True)
            for camera in cameras
        ]
        with_depth = any(path.exists() for path in depths) if self.settings.depth is None else self.settings.depth
        return tuple(
            _camera(camera, self._image(scenario, folder, timestamp, camera), path if with_depth else None)
            for camera, path in zip(cameras, depths, strict=True)
        )

    def _image(self, scenario: str, folder: str, timestamp: str, camera: CameraRecord) -> Path:
        return self.layout.sensor_file(scenario, folder, f"{timestamp}_{camera.name}.png", hetero=False)


def _camera(camera: CameraRecord, image_file: Path, depth_file: Path | None) -> Camera:
    image = read_rgb(image_file, K=camera.K, simulated=True)
    depth = None if depth_file is None else read_depth(depth_file, (image.shape[1], image.shape[0]))
    return Camera(camera.name, image, camera.K, camera.T_agent_camera, depth)


def _first_agents(record: FrameRecord, count: int | None) -> FrameRecord:
    """The record with at most `max_agents` agents; objects that only the others list have no hits left."""
    if count is None or len(record.folders) <= count:
        return record
    objects = record.objects
    return replace(
        record,
        folders=record.folders[:count],
        T_world_agent=record.T_world_agent[:count],
        cameras=record.cameras[:count],
        objects=replace(objects, hits=objects.hits[:, :count], camera_visible=objects.camera_visible[:, :count]),
    )


def _near(record: FrameRecord) -> Objects:
    """The objects, visible to an agent's cameras if it lists them and they are near."""
    visible = np.zeros_like(record.objects.camera_visible)
    for number, T_world_agent in enumerate(record.T_world_agent):
        centres = (Pose(T_world_agent).inverse() @ record.objects.T_world_object)[:, :2, 3]
        visible[:, number] = (record.objects.hits[:, number] > 0) & (np.abs(centres) <= _NEAR_M).all(axis=1)
    return replace(record.objects, camera_visible=visible)


def _depth_name(camera: CameraRecord) -> str:
    return camera.name.replace("camera", "depth")
