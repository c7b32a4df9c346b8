"""The LiDAR agents beyond the contract."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from heatv2x.agents.lidar_slices import LidarSlices
from heatv2x.errors import ConfigError
from heatv2x.structures import PointCloud
from tests.scene_factory import GRID, agent_frame, build_agent

NOTHING = np.zeros((0, 3))


def slices(points: list[list[float]], **settings: object) -> tuple[LidarSlices, torch.Tensor]:
    agent = build_agent("lidar_slices", {"slices": 4, "z_range": (-2.0, 2.0), **settings})
    assert isinstance(agent, LidarSlices)
    frame = replace(agent_frame(NOTHING, []), lidars={"lidar16": PointCloud(np.float32(points))})
    return agent, agent.prepare(frame)


def test_slices_show_heights_intensity_and_number() -> None:
    agent, image = slices([[8.2, 5.3, -1.5, 0.2], [8.3, 5.4, 1.5, 0.6], [-3.1, -4.1, 0.1, 1.0]])
    row, column = int((5.3 + 12.8) / 0.8), int((8.2 + 12.8) / 0.8)
    assert image.shape == (6, 32, 32) and agent.image_grid.shape == (32, 32)
    assert image[:4, row, column].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert float(image[4, row, column]) == pytest.approx(0.4)
    assert float(image[5, row, column]) == pytest.approx(np.log(3) / 3)
    row, column = int((-4.1 + 12.8) / 0.8), int((-3.1 + 12.8) / 0.8)
    assert image[:5, row, column].tolist() == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert int((image[:4] > 0).sum()) == 3 and int((image[5] > 0).sum()) == 2


@pytest.mark.parametrize("z_range", [(-2.0, 2.0), (-2.4, 1.6), (-3.1, 0.7)])
def test_the_highest_point_lies_in_the_highest_slice(z_range: tuple[float, float]) -> None:
    highest = float(np.nextafter(np.float32(z_range[1]), np.float32(-10)))
    _, image = slices([[0.1, 0.1, highest, 0.5], [0.1, 0.1, z_range[1] + 1e-3, 0.5]], z_range=z_range)
    assert image[:4].sum(dim=(1, 2)).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert float(image[4].max()) == 0.5


@pytest.mark.parametrize("kind", ["lidar_pillar", "lidar_slices"])
@pytest.mark.parametrize("sensor", ["lidar64", "lidar32", "lidar16"])
def test_the_sensor_is_a_setting(kind: str, sensor: str) -> None:
    agent = build_agent(kind, {"sensor": sensor})
    assert agent.sensors == (sensor,)
    assert agent(agent.collate([agent.prepare(agent_frame(NOTHING, [sensor]))])).shape[2:] == GRID.shape


@pytest.mark.parametrize("kind", ["lidar_pillar", "lidar_slices"])
@pytest.mark.parametrize("cell_m", [0.3, 1.2, 3.2, 1.6001])
def test_a_cell_that_does_not_divide_the_shared_one_is_refused(kind: str, cell_m: float) -> None:
    with pytest.raises(ConfigError, match="does not divide the shared cell"):
        build_agent(kind, {"cell_m": cell_m})


@pytest.mark.parametrize("cell_m", [0.4, 0.8, 1.6])
def test_any_whole_stride_gives_the_shared_grid(cell_m: float) -> None:
    for kind in ("lidar_pillar", "lidar_slices"):
        agent = build_agent(kind, {"cell_m": cell_m})
        assert agent(agent.collate([agent.prepare(agent_frame(NOTHING, agent.sensors))])).shape[2:] == GRID.shape


def test_the_published_point_features_know_where_they_are() -> None:
    agent = build_agent("lidar_pillar", {"absolute_xy": True})
    features = agent.prepare(agent_frame(np.array([[8.0, 5.0, 0.0]]), ["lidar64"])).features
    assert features.shape[1] == 10
    assert (
        features[:, 0].max() > 7
        and build_agent("lidar_pillar").prepare(agent_frame(NOTHING, ["lidar64"])).features.shape[1] == 8
    )
