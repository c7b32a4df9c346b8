"""A LiDAR sweep as bytes: centimetres and 8-bit intensity, then zstandard, for messages of early fusion.

A point takes 7 bytes before compression: x, y, z as int16 centimetres and intensity as u8, column by column. That is
finer than a LiDAR's own noise of some centimetres. Points beyond 327.67 m or without a finite place are left out.

Shapes: P points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import zstandard

from heatv2x.link.codecs.int8 import unpacked
from heatv2x.structures import Float64, PointCloud

POINT_BYTES = 7
_PER_METRE = 100.0
_REACH = 32767
_ZSTD_LEVEL = 1


def to_bytes(cloud: PointCloud) -> tuple[int, bytes]:
    """Number of points that are sent, and their bytes."""
    with np.errstate(invalid="ignore"):
        place = np.rint(cloud.points[:, :3] * _PER_METRE)
        kept = (np.abs(place) <= _REACH).all(axis=1)  # false for what is not a number
        intensity = np.rint(np.clip(np.nan_to_num(cloud.points[:, 3]), 0.0, 1.0) * 255)
    columns = place[kept].astype("<i2").T.tobytes() + intensity[kept].astype(np.uint8).tobytes()
    return int(kept.sum()), zstandard.compress(columns, _ZSTD_LEVEL)


def from_bytes(payload: bytes, count: int) -> PointCloud:
    """The points of a payload; never unpacks more than `count` needs.

    Raises:
        MessageError: the payload is not what `to_bytes` writes for so many points.
    """
    content = unpacked(payload, POINT_BYTES * count)
    place = np.frombuffer(content, "<i2", 3 * count).reshape(3, count)
    intensity = np.frombuffer(content, np.uint8, offset=6 * count)
    points = np.empty((count, 4), np.float32)
    points[:, :3] = place.T / np.float32(_PER_METRE)
    points[:, 3] = intensity / np.float32(255)
    return PointCloud(points)


def pooled(ego: PointCloud, received: Sequence[tuple[Float64, PointCloud]]) -> PointCloud:
    """The ego's points, then those of the senders.

    Encoders may keep the first points of a full cell only, so who calls gives the senders in an order that does not
    depend on how they arrived.

    Args:
        ego: in the ego's frame.
        received: (4, 4) T_ego_sender and points in the sender's frame.
    """
    if not received:
        return ego
    moved = []
    for T_ego_sender, cloud in received:
        place = cloud.points[:, :3] @ T_ego_sender[:3, :3].T + T_ego_sender[:3, 3]
        moved.append(np.column_stack([place, cloud.points[:, 3]]).astype(np.float32))
    return PointCloud(np.concatenate([ego.points, *moved]))
