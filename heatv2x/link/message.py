"""The message between agents: a fixed header and one payload. The only thing that crosses the link.

Layout, little-endian, no pickle, no JSON: header of 176 bytes, payload, nothing else. Features travel in the sender's
own frame with the sender's pose at capture; the receiver warps. The feature-space id says which base (backbone, fusion,
head, grid) the feature belongs to; a receiver with another base refuses it.

  0 magic 'HV2M' | 4 version u8 | 5 header length u8
  6 kind u8 (1 feature, 2 boxes, 3 a feature, then boxes, 4 points, 5 points, then boxes)
  7 codec u8 (1 int8, 4 sparse, 5 codes of the base's codebook, 128 raw, 129 half) | 8 total length u32
 12 sender i64 | 20 capture time u64, microseconds | 28 feature space 16 bytes
 44 agent type 32 bytes, UTF-8, zero padded | 76 pose: x y z f64, roll pitch yaw f64 | 124 sigma: metres, radians f32
132 C, Y, X u16 (codes: their number per cell instead of C; boxes alone: their number, 0, 0; points: the upper and lower
    16 bits of their number, 0)
138 number of boxes behind a feature or points u16, at most 64; a box takes 16 bytes: x, y, z i16 in 1/64 m; length,
    width, height u16 in 1/512 m; yaw i16 in pi/32768; score u16 in 1/65535
140 SHA-256 of the payload, first 32 bytes | 172 CRC-32 of bytes 0..171

What a message may say is limited (`link.limits`): well-formed bytes with a pose beyond the horizon, a box of no size or
a feature that outshines every other would blind whoever uses them. `pack` leaves out boxes that no receiver would take,
`unpack` refuses everything else, and `model.vehicle.Vehicle.detect` checks once more what came another way.

Signatures, certificates and replay protection are not in this version.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from heatv2x.core import plugins
from heatv2x.errors import MessageError
from heatv2x.link import points as point_bytes
from heatv2x.link.codecs.base import Codec
from heatv2x.link.limits import LIMITS, check_name, check_stance, credible
from heatv2x.structures import Boxes3D, PointCloud, Pose

_MAGIC, _VERSION = b"HV2M", 2
_HEADER = struct.Struct("<4sBBBBIqQ16s32s6d2f4H32sI")
_POSE_FIELDS = slice(10, 18)
"""Pose and deviations among the fields of the header."""
_FEATURE, _BOXES, _FEATURE_AND_BOXES, _POINTS, _POINTS_AND_BOXES = 1, 2, 3, 4, 5
_BOX = np.dtype([("centre", "<i2", 3), ("size", "<u2", 3), ("yaw", "<i2"), ("score", "<u2")])
_CENTRES_PER_M, _SIZES_PER_M, _YAWS_PER_RAD, _SCORES = 64.0, 512.0, 2**15 / np.pi, 65535.0
MAX_BYTES = 64 * 2**20
"""No receiver looks at anything longer, nor unpacks a feature that is larger as float32; published sizes fit."""
CODES = "codes"
"""The codec whose maps are codes of the base's codebook, not features."""
MAX_BOXES = 64
"""So many boxes may ride on a feature or on points."""


@dataclass(frozen=True)
class Message:
    """What one agent tells the others about one moment.

    Attributes:
        sender: agent id.
        agent_type: the sender's type name, at most 32 bytes.
        captured_us: capture time, microseconds.
        pose: T_world_sender at capture, as the sender believes it.
        sigma_m, sigma_rad: the standard deviation the sender reports for its position and heading.
        feature_space: 16 bytes, the base the feature belongs to (`model.Collaboration.feature_space`).
        feature: (C, Y, X) float32 in the sender's frame, for intermediate fusion.
        boxes: detections in the sender's frame, for late fusion; or, behind a feature or points, at most 64 for the ego
            to correct the pose by.
        points: the sender's sweep in its own frame, for early fusion. One of feature and points, or boxes, are set.
        cells: (Y, X) bool, the feature's cells that are sent, the others arrive as zeros; None sends all. It stays with
            the sender: an arrived message has none.
        codec: the feature's codec by part name; "boxes" or "points" for those.
        size_bytes: length of the packed bytes; 0 for a message that has not been packed.
        codes: (S, Y, X) the feature in the codes of the base's codebook (`model.codebook`), which travel in its place;
            an arrived message has only them.
    """

    sender: int
    agent_type: str
    captured_us: int
    pose: Pose
    sigma_m: float
    sigma_rad: float
    feature_space: bytes
    feature: Tensor | None = None
    boxes: Boxes3D | None = None
    points: PointCloud | None = None
    cells: Tensor | None = None
    codec: str = "int8"
    size_bytes: int = 0
    codes: Tensor | None = None

    @property
    def map(self) -> Tensor | None:
        """What travels of the feature: its codes if it has any, or the feature itself."""
        return self.feature if self.codes is None else self.codes


def pack(message: Message) -> bytes:
    """The message as bytes.

    Boxes that are beyond what a receiver takes (`link.limits`) are left out; of boxes alone the best ones are sent.

    Raises:
        MessageError: it holds neither feature nor boxes, or more boxes, a name or a number that do not fit.
    """
    behind = 0
    message = _sendable(message)
    check_header(message)
    if message.map is not None and message.points is not None:
        raise MessageError("a message carries a feature or points, not both")
    if message.map is not None:
        if (message.codec == CODES) != (message.codes is not None):
            raise MessageError("a message has codes if its codec is codes, and only then")
        codec = _codec(message.codec)
        kind, codec_id, payload = _FEATURE, codec.wire_id, codec.to_bytes(_sent(message.map, message.cells))
        shape = tuple(message.map.shape)
    elif message.points is not None:
        count, payload = point_bytes.to_bytes(message.points)
        kind, codec_id, shape = _POINTS, 0, (count >> 16, count & 0xFFFF, 0)
    elif message.boxes is not None:
        kind, codec_id, payload, shape = _BOXES, 0, boxes_to_bytes(message.boxes), (len(message.boxes), 0, 0)
    else:
        raise MessageError("a message carries a feature, points, boxes, or boxes behind one of the others")
    if message.boxes is not None and kind != _BOXES:
        kind = _FEATURE_AND_BOXES if kind == _FEATURE else _POINTS_AND_BOXES
        behind, payload = len(message.boxes), payload + boxes_to_bytes(message.boxes)
    if behind > MAX_BOXES:
        raise MessageError(f"{behind} boxes behind a feature or points are more than {MAX_BOXES}: send the best ones")
    name = message.agent_type.encode()
    if len(name) > 32 or len(message.feature_space) != 16:
        raise MessageError(f"agent type '{message.agent_type}' must fit 32 bytes and a feature-space id has 16")
    digest = hashlib.sha256(payload).digest()
    total = _HEADER.size + len(payload)
    fields = (
        _MAGIC,
        _VERSION,
        _HEADER.size,
        kind,
        codec_id,
        total,
        message.sender,
        message.captured_us,
        message.feature_space,
        name,
        *_euler(message.pose),
        message.sigma_m,
        message.sigma_rad,
        *shape,
        behind,
        digest,
    )
    try:
        head = _HEADER.pack(*fields, 0)[:-4]
    except struct.error as error:
        raise MessageError(f"sender, time or shape does not fit the header: {error}") from error
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def packed_size(message: Message) -> int:
    """How many bytes `pack` makes of a message with a feature, at most: boxes that nobody would take do not travel."""
    assert message.map is not None
    boxes = 0 if message.boxes is None else _BOX.itemsize * len(message.boxes)
    return _HEADER.size + boxes + len(_codec(message.codec).to_bytes(_sent(message.map, message.cells)))


def unpack(data: bytes, feature_space: bytes | None = None) -> Message:
    """Read a message; everything is checked before anything is allocated by size.

    Args:
        data: the bytes of one message.
        feature_space: the receiver's own id; a message from another base is refused. None accepts any.

    Raises:
        MessageError: the bytes are damaged, of another version or base, or lie about their sizes.
    """
    if not _HEADER.size <= len(data) <= MAX_BYTES:
        raise MessageError(f"{len(data)} bytes cannot be a message")
    (magic, version, header, kind, codec_id, total, sender, captured, space, name, *numbers) = _HEADER.unpack_from(data)
    pose, sigma, shape, behind, digest, crc = numbers[:6], numbers[6:8], numbers[8:11], *numbers[11:14]
    if magic != _MAGIC or version != _VERSION or header != _HEADER.size:
        raise MessageError(f"not a message of version {_VERSION}")
    if zlib.crc32(data[: _HEADER.size - 4]) != crc:
        raise MessageError("the header is damaged")
    payload = data[_HEADER.size :]
    if total != len(data) or hashlib.sha256(payload).digest() != digest:
        raise MessageError("the payload is damaged or cut off")
    check_stance(pose, sigma)
    if feature_space is not None and space != feature_space:
        raise MessageError(
            f"the sender's base is {space.hex()}, this receiver's is {feature_space.hex()}: load the same base pack"
        )
    try:
        agent_type = name.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise MessageError("the agent type is not UTF-8") from error
    check_name(agent_type)
    contents = _contents(kind, codec_id, (shape[0], shape[1], shape[2]), behind, payload)
    about = (sender, agent_type, captured, _pose(pose), sigma[0], sigma[1], space)
    message = Message(*about, **contents, size_bytes=len(data))
    check_contents(message)
    return message


def check_header(message: Message) -> None:
    """Whether a message's name, pose and uncertainty are such that a receiver may use them.

    Raises:
        MessageError: one of them is beyond the limits; says which.
    """
    check_name(message.agent_type)
    check_stance([*_euler(message.pose)], (message.sigma_m, message.sigma_rad))


def check_contents(message: Message) -> None:
    """Whether a message's feature, boxes and points are such that a receiver may use them.

    Raises:
        MessageError: one of them is beyond the limits; says which.
    """
    if message.map is not None:
        largest = float(message.map.detach().abs().amax()) if message.map.numel() else 0.0
        if not largest <= LIMITS.feature:
            raise MessageError(f"the feature holds {largest:g}; no honest one goes beyond {LIMITS.feature:g}")
    if message.points is not None and not np.isfinite(message.points.points).all():
        raise MessageError("a point is not finite")
    if message.boxes is not None:
        if len(message.boxes) > LIMITS.boxes:
            raise MessageError(f"{len(message.boxes)} boxes are more than the {LIMITS.boxes} that a receiver takes")
        wrong = np.flatnonzero(~credible(message.boxes))
        if len(wrong):
            row = message.boxes.boxes[wrong[0]].tolist()
            score = None if message.boxes.scores is None else float(message.boxes.scores[wrong[0]])
            raise MessageError(
                f"box {wrong[0]} {[round(value, 3) for value in row]}, score {score}, cannot be: a centre lies within "
                f"{LIMITS.box_m:g} m, sides are above 0 and up to {LIMITS.size_m:g} m, a score is between 0 and 1"
            )


def _sendable(message: Message) -> Message:
    """The message without boxes that no receiver would take."""
    boxes = message.boxes
    if boxes is None:
        return message
    fine = credible(boxes)
    alone = message.map is None and message.points is None
    if alone and fine.sum() > LIMITS.boxes and boxes.scores is not None:
        best = np.argsort(-np.where(fine, boxes.scores, -1), kind="stable")[: LIMITS.boxes]
        return replace(message, boxes=boxes[np.sort(best)])
    return message if fine.all() else replace(message, boxes=boxes[fine])


def with_reported_pose(data: bytes, pose: Pose, sigma_m: float, sigma_rad: float) -> bytes:
    """The bytes of a message with another pose and other deviations (metres, radians); its payload stays as it is."""
    fields = list(_HEADER.unpack_from(data))
    fields[_POSE_FIELDS] = [*_euler(pose), sigma_m, sigma_rad]
    head = _HEADER.pack(*fields)[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + data[_HEADER.size :]


def _contents(kind: int, codec_id: int, shape: tuple[int, int, int], behind: int, payload: bytes) -> dict[str, Any]:
    """What a payload with `behind` boxes at its end holds, by the names of a message's attributes."""
    if kind not in (_FEATURE, _BOXES, _FEATURE_AND_BOXES, _POINTS, _POINTS_AND_BOXES):
        raise MessageError(f"unknown kind of message {kind}")
    followed = kind in (_FEATURE_AND_BOXES, _POINTS_AND_BOXES)
    if behind > (MAX_BOXES if followed else 0):
        raise MessageError(f"a message of kind {kind} cannot have {behind} boxes behind a feature or points")
    if kind == _BOXES:
        return {"boxes": _boxes_from_bytes(payload, shape[0]), "codec": "boxes"}
    end = max(len(payload) - behind * _BOX.itemsize, 0)
    boxes = _boxes_from_bytes(payload[end:], behind) if followed else None
    if kind in (_POINTS, _POINTS_AND_BOXES):
        count = (shape[0] << 16) + shape[1]
        if shape[2] or point_bytes.POINT_BYTES * count > MAX_BYTES:
            raise MessageError(f"{count} points are more than any receiver unpacks, or their number is not written so")
        return {"boxes": boxes, "points": point_bytes.from_bytes(payload[:end], count), "codec": "points"}
    codec_name, codec = _codec_by_id(codec_id)
    if 4 * math.prod(shape) > MAX_BYTES:
        raise MessageError(f"a feature of shape {shape} is larger than any receiver unpacks")
    content = "codes" if codec_name == CODES else "feature"
    return {content: codec.from_bytes(payload[:end], shape), "boxes": boxes, "codec": codec_name}


def _sent(feature: Tensor, cells: Tensor | None) -> Tensor:
    return feature if cells is None else feature * cells


@functools.cache
def _codec(name: str) -> Codec:
    codec: Codec = plugins.find("codecs", name)()
    return codec


@functools.cache
def _names_of_codecs() -> dict[int, str]:
    """The built-in codecs by their number in the header."""
    return {_codec(name).wire_id: name for name in plugins.available("codecs")}


def _codec_by_id(wire_id: int) -> tuple[str, Codec]:
    name = _names_of_codecs().get(wire_id)
    if name is None:
        raise MessageError(f"unknown codec {wire_id}")
    return name, _codec(name)


def boxes_to_bytes(boxes: Boxes3D) -> bytes:
    """16 bytes of each box, rounded; they are within the limits."""
    scores = np.ones(len(boxes), np.float32) if boxes.scores is None else boxes.scores
    rows = boxes.boxes.astype(np.float64)
    written = np.empty(len(boxes), _BOX)
    written["centre"] = np.rint(rows[:, :3] * _CENTRES_PER_M)
    written["size"] = np.rint(rows[:, 3:6] * _SIZES_PER_M).clip(min=1)
    written["yaw"] = (np.rint(rows[:, 6] * _YAWS_PER_RAD).astype(np.int64) + 2**15) % 2**16 - 2**15
    written["score"] = np.rint(scores * _SCORES)
    return written.tobytes()


def _boxes_from_bytes(payload: bytes, count: int) -> Boxes3D:
    if count > LIMITS.boxes:
        raise MessageError(f"{count} boxes are more than the {LIMITS.boxes} that a receiver takes")
    if len(payload) != count * _BOX.itemsize:
        raise MessageError(f"payload of {len(payload)} bytes does not hold {count} boxes")
    read = np.frombuffer(payload, _BOX)
    yaw = read["yaw"][:, None] / _YAWS_PER_RAD
    rows = np.concatenate([read["centre"] / _CENTRES_PER_M, read["size"] / _SIZES_PER_M, yaw], axis=1)
    return Boxes3D(rows.astype(np.float32), scores=(read["score"] / _SCORES).astype(np.float32))


def _euler(pose: Pose) -> tuple[float, ...]:
    """x, y, z, roll, pitch, yaw of R = Rz(yaw) Ry(pitch) Rx(roll), right-handed, radians."""
    m = pose.matrix
    angles = (
        np.arctan2(m[2, 1], m[2, 2]),
        np.arctan2(-m[2, 0], np.hypot(m[2, 1], m[2, 2])),
        np.arctan2(m[1, 0], m[0, 0]),
    )
    return (*(float(v) for v in m[:3, 3]), *(float(v) for v in angles))


def _pose(numbers: list[float]) -> Pose:
    x, y, z, roll, pitch, yaw = numbers
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x
    matrix[:3, 3] = x, y, z
    return Pose(matrix)
