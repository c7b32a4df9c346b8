"""Conversion to and from a grid whose y points to the right.

Everything in this project is right-handed (y to the left). Networks that were trained in CARLA's left-handed axes, such
as HEAL's, keep their axes: their grid says so (`BevGrid.y_right`), and what goes in and comes out is mirrored here and
nowhere else. On other grids these functions change nothing.

It is the description that is mirrored, not the world: images stay as they are, and a camera's pose gets a reflection.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from heatv2x.geometry.grid import BevGrid
from heatv2x.structures import AgentFrame, Frame, PointCloud, Pose

_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


def agent_on(grid: BevGrid, frame: AgentFrame) -> AgentFrame:
    """One agent's pose and sensor data in the grid's axes."""
    if not grid.y_right:
        return frame
    flip = np.array([1, -1, 1, 1], np.float32)
    lidars = {name: PointCloud(cloud.points * flip) for name, cloud in frame.lidars.items()}
    cameras = tuple(replace(camera, T_agent_camera=_MIRROR @ camera.T_agent_camera) for camera in frame.cameras)
    return replace(frame, pose=Pose(_MIRROR @ frame.pose.matrix @ _MIRROR), lidars=lidars, cameras=cameras)


def frame_on(grid: BevGrid, frame: Frame) -> Frame:
    """All agents and labelled objects of a frame in the grid's axes."""
    if not grid.y_right:
        return frame
    objects = replace(frame.objects, T_world_object=_MIRROR @ frame.objects.T_world_object @ _MIRROR)
    return replace(frame, agents=tuple(agent_on(grid, agent) for agent in frame.agents), objects=objects)


def transforms_on(grid: BevGrid, T: Tensor) -> Tensor:
    """(..., 4, 4) transforms between agents, in the grid's axes or back."""
    if not grid.y_right:
        return T
    mirror = torch.from_numpy(_MIRROR).to(T)
    return mirror @ T @ mirror


def boxes_on(grid: BevGrid, boxes: Tensor) -> Tensor:
    """(N, 7) boxes in the grid's axes, or back: left becomes right, and yaw turns the other way."""
    if not grid.y_right:
        return boxes
    return boxes * boxes.new_tensor([1, -1, 1, 1, 1, 1, -1])


def maps_on(grid: BevGrid, maps: Tensor) -> Tensor:
    """(..., Y, X) maps in the grid's axes, or back; the grid reaches as far to the left as to the right."""
    return maps.flip(-2) if grid.y_right else maps
