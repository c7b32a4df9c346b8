"""OPV2V, OPV2V-H, V2XSet and the synthetic world: simulated vehicles and roadside units in OPV2V's layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from heatv2x.config import nearest
from heatv2x.datasets.base import Dataset, Sensors
from heatv2x.errors import ConfigError, DataError
from heatv2x.formats.image import read_depth, read_rgb
from heatv2x.formats.opv2v_index import FrameRecord, fingerprint, open_index
from heatv2x.formats.opv2v_layout import Layout
from heatv2x.formats.opv2v_yaml import CameraRecord
from heatv2x.formats.pcd import read_pcd
from heatv2x.structures import SENSORS, AgentFrame, Camera, Float32, Frame, PointCloud, Pose

_LIDAR_SUFFIX = {"lidar64": "", "lidar32": "_32", "lidar16": "_16"}
_BODY_X_M = (-1.95, 2.95)
_BODY_Y_M = 1.1
"""Returns of a vehicle's LiDAR in this rectangle are from its own body (facts: coordinates, points)."""


class Opv2v(Dataset):
    """One split of a dataset in OPV2V's layout; its description is parsed once and kept in an index.

    Args:
        root: the parent of `OPV2V/` and `OPV2V_Hetero/`, or the OPV2V folder itself.
        split: "train", "validate", "test", ...
        hetero_root: the folder of 16- and 32-beam clouds and depth images, if it is elsewhere.
        cache_dir: where the index is kept; by default `~/.cache/heatv2x/index`.
        depth: whether cameras come with depth; None takes it where `OPV2V_Hetero` has it for the agent.

    Raises:
        DataError: not a dataset folder, or a descriptive file is missing or corrupt.
    """

    source = "OPV2V, arXiv 2109.07644; OPV2V-H: HEAL, arXiv 2401.13964"

    def __init__(
        self,
        root: str | Path,
        split: str,
        hetero_root: str | Path | None = None,
        cache_dir: str | Path | None = None,
        depth: bool | None = None,
    ) -> None:
        self.layout = Layout.find(root, split, hetero_root)
        self._depth = depth
        self._records = open_index(self.layout, None if cache_dir is None else Path(cache_dir))
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

    def read(self, index: int, sensors: Sensors) -> Frame:
        """Read a frame and decode only the sensors asked for; an agent that a mapping does not name gets none.

        Raises:
            ConfigError: a sensor has an unknown name.
            DataError: a file is missing or corrupt; names file, key and way out.
        """
        record = self._records[index]
        scenario, _, timestamp = record.name.partition("/")
        agents = tuple(
            self._agent(record, number, _of_agent(sensors, int(folder))) for number, folder in enumerate(record.folders)
        )
        return Frame(scenario, timestamp, agents, record.objects)

    def _agent(self, record: FrameRecord, number: int, sensors: frozenset[str]) -> AgentFrame:
        scenario, _, timestamp = record.name.partition("/")
        folder = record.folders[number]
        lidars = {name: self._lidar(scenario, folder, timestamp, name) for name in _LIDAR_SUFFIX if name in sensors}
        cameras = self._cameras(record, number) if "camera" in sensors else ()
        return AgentFrame(int(folder), timestamp, Pose(record.T_world_agent[number]), lidars, cameras)

    def _lidar(self, scenario: str, folder: str, timestamp: str, name: str) -> PointCloud:
        filename = f"{timestamp}{_LIDAR_SUFFIX[name]}.pcd"
        path = self.layout.sensor_file(scenario, folder, filename, hetero=name != "lidar64")
        if name != "lidar64" and not path.exists():
            problem = f"the point cloud for {name} is missing"
            raise DataError(path, problem, way_out="complete OPV2V-H beside OPV2V, or say hetero_root=<its folder>")
        points = read_pcd(path)
        points[:, 1] *= -1
        return PointCloud(points if int(folder) < 0 else _without_body(points))

    def _cameras(self, record: FrameRecord, number: int) -> tuple[Camera, ...]:
        scenario, _, timestamp = record.name.partition("/")
        folder, cameras = record.folders[number], record.cameras[number]
        if not cameras:
            path = self.layout.sensor_file(scenario, folder, f"{timestamp}.yaml", hetero=False)
            raise DataError(path, "describes no cameras", key="camera0", way_out="do not ask this agent for cameras")
        depths = [
            self.layout.sensor_file(scenario, folder, f"{timestamp}_{_depth_name(camera)}.png", hetero=True)
            for camera in cameras
        ]
        with_depth = any(path.exists() for path in depths) if self._depth is None else self._depth
        return tuple(
            Camera(
                name=camera.name,
                image=read_rgb(
                    self.layout.sensor_file(scenario, folder, f"{timestamp}_{camera.name}.png", hetero=False)
                ),
                K=camera.K,
                T_agent_camera=camera.T_agent_camera,
                depth=read_depth(path) if with_depth else None,
            )
            for camera, path in zip(cameras, depths, strict=True)
        )


def _of_agent(sensors: Sensors, agent_id: int) -> frozenset[str]:
    wanted = sensors.get(agent_id, ()) if isinstance(sensors, Mapping) else sensors
    names = frozenset([wanted] if isinstance(wanted, str) else wanted)
    for name in names - set(SENSORS):
        raise ConfigError(f"unknown sensor '{name}'; {nearest(name, SENSORS)}")
    return names


def _without_body(points: Float32) -> Float32:
    x, y = points[:, 0], points[:, 1]
    body = (x >= _BODY_X_M[0]) & (x <= _BODY_X_M[1]) & (np.abs(y) <= _BODY_Y_M)
    return points[~body]


def _depth_name(camera: CameraRecord) -> str:
    return camera.name.replace("camera", "depth")
