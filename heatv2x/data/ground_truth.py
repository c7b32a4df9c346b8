"""What a detector is asked to find: the labelled objects that the participants see, in the ego's frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from heatv2x.structures import Bool, Boxes3D, Float64, Frame, Objects, Pose

_CORNER_SIGNS = np.array(
    [[x, y, z] for z in (-0.5, 0.5) for x, y in ((0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5))]
)


def ground_truth(
    frame: Frame,
    ego: int,
    participants: Sequence[int] | None = None,
    limits: Sequence[float] | None = None,
    comm_range_m: float | None = None,
    visible_to: Literal["lidar", "camera"] = "lidar",
    min_hits: int = 1,
    all_corners: bool = False,
    own_body: bool = False,
) -> Boxes3D:
    """The union of what the participants see, without the ego's own body.

    Args:
        frame: the labelled frame.
        ego: index into `frame.agents`.
        participants: indices into `frame.agents` whose view counts; all agents if None.
        limits: (6) x, y, z minimum, then maximum, in the ego's frame; no limits if None.
        comm_range_m: participants farther than this from the ego in the plane do not count; all count if None.
        visible_to: count an object as seen by an agent's LiDAR, or by its cameras.
        min_hits: LiDAR returns an agent needs on an object to see it; unused for cameras, and where a dataset does not
            count returns: there an object is seen if an agent lists it.
        all_corners: HEAL's range rule (all eight corners inside `limits`, z included) in place of ours (the centre
            inside in x and y).
        own_body: keep boxes of the ego itself, which other agents list, as the field's code does.

    Returns:
        Upright boxes in the ego's LiDAR frame with ids, and the hits summed over the participants (None if the dataset
        does not count them).
    """
    counted = _participants(frame, ego, participants, comm_range_m)
    objects = frame.objects
    if visible_to == "lidar":
        seen = (objects.hits[:, counted] >= (min_hits if objects.counted else min(min_hits, 1))).any(axis=1)
    elif visible_to == "camera":
        seen = objects.camera_visible[:, counted].any(axis=1)
    else:
        raise ValueError(f"visible_to is 'lidar' or 'camera', got {visible_to!r}")
    upright = _upright(objects, frame.agents[ego].pose)
    keep = seen if own_body else seen & (objects.ids != frame.agents[ego].agent_id)
    if not frame.agents[ego].is_roadside and not own_body:  # a vehicle may well drive under a roadside unit
        keep &= ~_contains_origin(upright)
    if limits is not None:
        keep &= in_range(upright, limits, all_corners=all_corners)
    hits = objects.hits[:, counted].sum(axis=1, dtype=np.int32)[keep] if objects.counted else None
    return Boxes3D(upright[keep].astype(np.float32), ids=objects.ids[keep], hits=hits)


def boxes_in_frame(objects: Objects, pose: Pose) -> Boxes3D:
    """All objects as upright boxes in the frame at `pose`, whoever sees them; hits (if counted) over all agents."""
    hits = objects.hits.sum(axis=1, dtype=np.int32) if objects.counted else None
    return Boxes3D(_upright(objects, pose).astype(np.float32), ids=objects.ids, hits=hits)


def in_range(boxes: Float64, limits: Sequence[float], *, all_corners: bool = False) -> Bool:
    """Which boxes lie inside the limits, bounds included.

    Args:
        boxes: (N, 7) x, y, z, length, width, height, yaw.
        limits: (6) x, y, z minimum, then maximum.
        all_corners: all eight corners in x, y and z; otherwise the centre in x and y.

    Returns:
        (N,) bool.
    """
    low, high = np.split(np.asarray(limits, np.float64), 2)
    if not all_corners:
        return np.asarray(((boxes[:, :2] >= low[:2]) & (boxes[:, :2] <= high[:2])).all(axis=1))
    corners = _corners(boxes)
    return np.asarray(((corners >= low) & (corners <= high)).all(axis=(1, 2)))


def in_image(T_world_object: Float64, pose: Pose, T_agent_camera: Float64, K: Float64, size: tuple[int, int]) -> Bool:
    """Which objects have their centre in a camera's image, hidden or not.

    Args:
        T_world_object: (N, 4, 4).
        pose: of the camera's agent.
        T_agent_camera: (4, 4), camera axes as OpenCV's.
        K: (3, 3) intrinsics in pixels.
        size: width and height in pixels.

    Returns:
        (N,) bool.
    """
    T_camera_world = Pose(pose.matrix @ T_agent_camera).inverse()
    centres = T_world_object[:, :3, 3] @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]
    ahead = centres[:, 2] > 0.1
    pixels = centres @ K.T
    u, v = (pixels[:, :2] / np.where(ahead, pixels[:, 2], 1.0)[:, None]).T
    return np.asarray(ahead & (u >= 0) & (u < size[0]) & (v >= 0) & (v < size[1]))


def _participants(frame: Frame, ego: int, participants: Sequence[int] | None, comm_range_m: float | None) -> list[int]:
    everyone = range(len(frame.agents)) if participants is None else participants
    pose = frame.agents[ego].pose
    return [i for i in everyone if comm_range_m is None or pose.planar_distance(frame.agents[i].pose) <= comm_range_m]


def _upright(objects: Objects, pose: Pose) -> Float64:
    """(N, 7) float64: the eight corners moved with all six degrees of freedom, then made upright again.

    A rigid motion keeps a box's opposite edges parallel, so OpenCOOD's means over its edges have a closed form:
    length and width are the planar lengths of the moved edges, height the rise of the moved vertical edge.
    """
    T_ego_object = pose.inverse() @ objects.T_world_object
    rotation, size = T_ego_object[:, :3, :3], objects.size.astype(np.float64)
    planar = np.linalg.norm(rotation[:, :2, :2], axis=1)
    yaw = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    height = size[:, 2] * np.abs(rotation[:, 2, 2])
    return np.column_stack([T_ego_object[:, :3, 3], size[:, :2] * planar, height, yaw])


def _corners(boxes: Float64) -> Float64:
    local = boxes[:, None, 3:6] * _CORNER_SIGNS
    cos, sin = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    x = local[..., 0] * cos - local[..., 1] * sin
    y = local[..., 0] * sin + local[..., 1] * cos
    return np.stack([x, y, local[..., 2]], axis=-1) + boxes[:, None, :3]


def _contains_origin(boxes: Float64) -> Bool:
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    along = boxes[:, 0] * cos + boxes[:, 1] * sin
    across = boxes[:, 1] * cos - boxes[:, 0] * sin
    return np.asarray((2 * np.abs(along) <= boxes[:, 3]) & (2 * np.abs(across) <= boxes[:, 4]))
