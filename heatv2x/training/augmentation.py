"""Changes to a frame that leave it a possible frame: turn an agent, mirror the world, thin out a sweep.

Turning and mirroring change sensor data and poses together, so labels and relative poses stay right.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from heatv2x.structures import AgentFrame, Camera, Frame, PointCloud, Pose

_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
_MIRROR_CAMERA = np.diag([-1.0, 1.0, 1.0, 1.0])  # a mirrored camera's x axis points the other way


def rotated_copy(frame: AgentFrame, yaw: float) -> AgentFrame:
    """The agent's frame as if its sensors were mounted turned by `yaw` radians.

    Data turn one way, the pose the other.
    """
    turn = Pose.planar(0.0, 0.0, yaw).matrix
    rotation = turn[:3, :3].astype(np.float32)
    lidars = {
        name: PointCloud(_with_xyz(cloud, cloud.points[:, :3] @ rotation.T)) for name, cloud in frame.lidars.items()
    }
    cameras = tuple(replace(camera, T_agent_camera=turn @ camera.T_agent_camera) for camera in frame.cameras)
    return replace(frame, pose=Pose(frame.pose.matrix @ turn.T), lidars=lidars, cameras=cameras)


def mirrored_copy(frame: AgentFrame) -> AgentFrame:
    """The agent in a world mirrored at the x-z plane: left becomes right."""
    flip = np.array([1, -1, 1], np.float32)
    lidars = {name: PointCloud(_with_xyz(cloud, cloud.points[:, :3] * flip)) for name, cloud in frame.lidars.items()}
    cameras = tuple(_mirrored_camera(camera) for camera in frame.cameras)
    return replace(frame, pose=Pose(_MIRROR @ frame.pose.matrix @ _MIRROR), lidars=lidars, cameras=cameras)


def mirrored_frame_copy(frame: Frame) -> Frame:
    """A frame's labels and agents in the mirrored world."""
    objects = replace(frame.objects, T_world_object=_MIRROR @ frame.objects.T_world_object @ _MIRROR)
    return replace(frame, agents=tuple(mirrored_copy(agent) for agent in frame.agents), objects=objects)


def thinned_copy(frame: AgentFrame, share: float, rng: np.random.Generator) -> AgentFrame:
    """The agent's sweeps without a random share of their points."""
    kept = {name: PointCloud(cloud.points[rng.random(len(cloud)) >= share]) for name, cloud in frame.lidars.items()}
    return replace(frame, lidars=kept)


def _with_xyz(cloud: PointCloud, xyz: np.ndarray) -> np.ndarray:
    return np.concatenate([xyz, cloud.points[:, 3:]], axis=1)


def _mirrored_camera(camera: Camera) -> Camera:
    K = camera.K.copy()
    K[0, 2] = camera.image.shape[1] - 1 - K[0, 2]
    return replace(
        camera,
        image=np.ascontiguousarray(camera.image[:, ::-1]),
        depth=None if camera.depth is None else np.ascontiguousarray(camera.depth[:, ::-1]),
        K=K,
        T_agent_camera=_MIRROR @ camera.T_agent_camera @ _MIRROR_CAMERA,
    )
