"""Messages and packs as an attacker, a broken sender or a bad link would make them; for `fuzz`."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heatv2x.link.limits import LIMITS
from heatv2x.link.message import Message, boxes_to_bytes, pack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import Pack, write_pack
from heatv2x.structures import Boxes3D, PointCloud

_HEADER = 176


@dataclass
class Scene:
    """A frame in one way to exchange: what is said, what the ego finds alone, and what it sees."""

    model: Collaboration
    ego: Message
    honest: list[Message]
    alone: Boxes3D
    truth: Boxes3D


def _some(scene: Scene, rng: np.random.Generator) -> Message:
    return scene.honest[int(rng.integers(len(scene.honest)))]


def sealed(head: bytes, payload: bytes) -> bytes:
    """A header and a payload with valid length and checksums: what everybody can compute."""
    changed = bytearray(head[: _HEADER - 4])
    struct.pack_into("<I", changed, 8, _HEADER + len(payload))
    changed[140:172] = hashlib.sha256(payload).digest()
    return bytes(changed) + struct.pack("<I", zlib.crc32(changed)) + payload


def _noise(_: Scene, rng: np.random.Generator) -> bytes:
    start = b"HV2M\x01\xb0" if rng.random() < 0.5 else b""
    return start + rng.bytes(int(rng.integers(0, 2000)))


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.integers(1, 9))):
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)


def _damaged(scene: Scene, rng: np.random.Generator) -> bytes:
    data = pack(_some(scene, rng))
    return _flipped(data, rng) if rng.random() < 0.5 else data[: int(rng.integers(len(data)))]


def _resealed(scene: Scene, rng: np.random.Generator) -> bytes:
    data = pack(_some(scene, rng))
    if rng.random() < 0.5:
        return sealed(_flipped(data[:_HEADER], rng), data[_HEADER:])
    return sealed(data[:_HEADER], _flipped(data[_HEADER:], rng)) if len(data) > _HEADER else data


_EXTREMES = (0.0, -1.0, 1e5, 9.9e5, 1e6, 1e39, -1e39, 1e300, np.inf, np.nan, 1e-300, np.pi, -np.pi, 7.0)


def _fields(scene: Scene, rng: np.random.Generator) -> bytes:
    data = pack(_some(scene, rng))
    head = bytearray(data[:_HEADER])
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.integers(5)
        if kind == 0:
            struct.pack_into("<d", head, 76 + 8 * int(rng.integers(6)), rng.choice(_EXTREMES))
        elif kind == 1:
            value = float(rng.choice([0.0, 50.0, 99.0, 3.1, 1e38, -1.0, np.inf, np.nan]))
            struct.pack_into("<f", head, 124 + 4 * int(rng.integers(2)), value)
        elif kind == 2:
            struct.pack_into("<H", head, 132 + 2 * int(rng.integers(4)), int(rng.choice([0, 1, 64, 65, 1001, 65535])))
        elif kind == 3:
            struct.pack_into("<Q", head, 20, (0, 1, 2**40, 2**63, 2**64 - 1)[int(rng.integers(5))])
        else:
            head[6 + int(rng.integers(2))] = int(rng.integers(256))
    return sealed(bytes(head), data[_HEADER:])


def _other_base(scene: Scene, rng: np.random.Generator) -> bytes:
    message = replace(_some(scene, rng), feature_space=rng.bytes(16))
    name = str(rng.choice(["lidar64", "nobody", "x" * 32, "camera"]))
    return pack(replace(message, agent_type=name))


def _bomb(scene: Scene, rng: np.random.Generator) -> bytes:
    data = pack(_some(scene, rng))
    head = bytearray(data[:_HEADER])
    shape = [int(rng.choice([1, 48, 64, 4096, 65535])) for _ in range(3)]
    struct.pack_into("<3H", head, 132, *shape)
    size = int(np.prod([float(side) for side in shape]))
    frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x02\x00\x10\x00" * 50
    return sealed(bytes(head), np.ones(min(shape[0], 4096), "<f4").tobytes() + frame)


def _feature(scene: Scene, rng: np.random.Generator) -> bytes:
    message = _some(scene, rng)
    if message.feature is None:
        return _boxes(scene, rng) if message.boxes is not None else _points(scene, rng)
    feature, size = message.feature, float(message.feature.abs().max())
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    drawn = torch.randn(feature.shape, generator=generator)
    hostile = {
        "scaled": feature * float(rng.choice([-1.0, 3.0, 10.0, 100.0, 1e3])),
        "constant": torch.full_like(
            feature, float(rng.choice([-1, 1])) * float(rng.choice([1.0, size, 1e3, LIMITS.feature]))
        ),
        "noise": drawn * float(rng.choice([0.1, 1.0, size, 1e3])),
        "bright": torch.where(drawn[:1] > 2.5, feature.new_tensor(float(rng.choice([size, 1e3]))), feature),
        "empty": torch.zeros_like(feature),
    }
    codec = str(rng.choice(["int8", "raw", "half", "sparse"]))
    said = replace(message, feature=hostile[str(rng.choice(list(hostile)))], codec=codec, cells=None, codes=None)
    if message.codes is not None and rng.random() < 0.5:
        any_code = torch.randint(1, 256, message.codes.shape, generator=generator).float()
        one_code = torch.full_like(message.codes, float(rng.integers(1, 256)))
        said = replace(message, codes=any_code if rng.random() < 0.5 else one_code, cells=None)
    return pack(replace(said, pose=scene.ego.pose) if rng.random() < 0.5 else said)


def _boxes(scene: Scene, rng: np.random.Generator) -> bytes:
    """Boxes over and beside the ego's own, floods, and boxes that cannot be, past what `pack` would let through."""
    message = replace(_some(scene, rng), pose=scene.ego.pose)
    own, count = scene.alone.boxes, int(rng.integers(1, 400))
    rows = np.zeros((count, 8), np.float32)
    rows[:, :2], rows[:, 3:7] = rng.uniform(-50, 50, (count, 2)), [4.5, 2.0, 1.6, 0.0]
    rows[:, 7] = rng.uniform(0.5, 1.0, count)
    way = str(rng.choice(["touching", "flood", "crossed", "extreme", "riding"]))
    if way in ("touching", "crossed") and len(own):
        rows = np.column_stack([own, np.ones(len(own))]).astype(np.float32)
        rows[:, :2] += rng.normal(0, 2.0, (len(own), 2)) if way == "touching" else 0.0
        rows[:, 6] += np.pi / 2 if way == "crossed" else 0.0
    written = np.frombuffer(boxes_to_bytes(Boxes3D(rows[:, :7], rows[:, 7])), "<u2").reshape(len(rows), 8).copy()
    if way == "extreme":
        column = int(rng.integers(8))
        beyond = [2**15 - 1, 2**15] if column < 3 else [0, 1, 2**16 - 1]
        written[rng.random(len(written)) < 0.5, column] = int(rng.choice(beyond))
    data = pack(replace(message, feature=None, codes=None, points=None, boxes=Boxes3D.empty()))
    head = bytearray(data[:_HEADER])
    if way == "riding" and message.feature is not None:  # as many as may ride on a feature
        data, written = pack(replace(message, boxes=None)), written[:64]
        head = bytearray(data[:_HEADER])
        head[6] = 3
        struct.pack_into("<H", head, 138, len(written))
        return sealed(bytes(head), data[_HEADER:] + written.tobytes())
    struct.pack_into("<H", head, 132, len(written))
    return sealed(bytes(head), written.tobytes())


def _points(scene: Scene, rng: np.random.Generator) -> bytes:
    count = int(rng.integers(0, 60_000))
    points = rng.uniform([-60, -60, -2, 0], [60, 60, 2, 1], (count, 4))
    if rng.random() < 0.5:  # a wall around the ego
        angle = rng.uniform(0, 2 * np.pi, count)
        points[:, :2] = np.column_stack([np.cos(angle), np.sin(angle)]) * rng.uniform(3, 30)
    message = replace(
        _some(scene, rng), feature=None, codes=None, boxes=None, points=PointCloud(points.astype(np.float32))
    )
    return pack(replace(message, pose=scene.ego.pose))


def _honest(scene: Scene, rng: np.random.Generator) -> bytes:
    return pack(_some(scene, rng))


CONTROL = "honest, for comparison"


KINDS: dict[str, Callable[[Scene, np.random.Generator], bytes]] = {
    CONTROL: _honest,
    "noise": _noise,
    "damaged": _damaged,
    "changed, checksums valid": _resealed,
    "extreme fields": _fields,
    "other base or type": _other_base,
    "claims of size": _bomb,
    "hostile features": _feature,
    "hostile boxes": _boxes,
    "hostile points": _points,
}


LIES = ("changed, checksums valid", "hostile features", "hostile boxes", "hostile points")
"""Kinds that can stay within all limits."""


def hostile_pack(packs: Sequence[Pack], rng: np.random.Generator) -> bytes:
    """The bytes of a pack that was damaged, or whose settings somebody changed before it was sealed again."""
    chosen = packs[int(rng.integers(len(packs)))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack"
        if rng.random() < 0.4:
            return _flipped(write_pack(chosen, path).read_bytes(), rng)
        config = json.loads(json.dumps(chosen.config))
        for _ in range(int(rng.integers(1, 4))):
            _spoil(config, rng)
        kind = chosen.kind if rng.random() < 0.8 else str(rng.choice(["base", "agent", "adapter"]))
        return write_pack(replace(chosen, config=config, kind=kind), path).read_bytes()  # type: ignore[arg-type]


def _spoil(config: Any, rng: np.random.Generator) -> None:
    """Put something else in place of one value, somewhere in nested settings."""
    while isinstance(config, dict) and config:
        key = str(rng.choice(list(config)))
        if not isinstance(config[key], dict) or rng.random() < 0.2:
            choices: list[Any] = ["os:system", "evil:Evil", "maximum", "", -1, 0, 10**9, 1e308, None, [], {}, [1] * 99]
            config[key] = choices[int(rng.integers(len(choices)))]
            return
        config = config[key]
