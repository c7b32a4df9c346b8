"""Hostile messages and packs by the thousand: an error, or a frame in which the ego still sees what it sees alone.

Every message is a function of (seed, number), so a finding can be made again; its bytes are kept, too. What is tried:
noise, cuts and flipped bytes, valid checksums around changed bytes, extreme header fields, other bases, claims of
sizes, features, boxes and points that blind or flood, and packs with changed bytes or hostile settings.

The oracle: `unpack` and `detect` raise a `MessageError` and nothing else, packs a `HeatError`; no message takes long or
much memory; and over all messages of a kind the average precision of what the ego detects by itself, and still detects
when it hears them, falls by no more than half a point below what honest messages leave of it (they move boxes, too).
Lies within all limits (features, boxes and points that could be, but are not) are held to five points: to tell them
takes trust in who speaks, which is not in this version. Detections that a message adds elsewhere do not count: false
ones cannot be told from true ones by one who sees neither.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch

from heatv2x.core.config import Config, build
from heatv2x.core.files import write_bytes, write_json
from heatv2x.data.datasets.base import Dataset, open_dataset
from heatv2x.data.ground_truth import ground_truth
from heatv2x.errors import HeatError, MessageError
from heatv2x.evaluation.average_precision import ApAccumulator
from heatv2x.evaluation.cost import peak_memory
from heatv2x.evaluation.protocols import HEATV2X
from heatv2x.geometry.boxes import rotated_iou_bev
from heatv2x.link.message import LIMITS, Message, pack, unpack
from heatv2x.model.assembly import assemble, exchanging, read_all
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import Pack, write_pack
from heatv2x.model.pretrained import PackPath, pack_path
from heatv2x.structures import Boxes3D, PointCloud
from heatv2x.world.build import WorldConfig, build_world

Tell = Callable[[str, int, int], None]
Scores = dict[str, tuple[ApAccumulator, ApAccumulator]]
_HEADER = 176
_POINTS_OF_AP, _POINTS_OF_A_LIE = 0.5, 5.0
_MEMORY_BYTES = 1 << 30


class FuzzConfig(Config):
    """What is tried.

    Attributes:
        messages: how many messages and packs; with less than 2,000, what they cost in average precision is chance.
        seed: of all of them; the same seed gives the same ones.
        packs: the base and the agent pack of the ego; features, boxes and points are exchanged in turn.
        frames: frames of a small generated world that the ego hears them in.
        seconds: no message may take longer.
        out: the folder for fuzz.json, and for the bytes of what should not have happened.
    """

    messages: int = pydantic.Field(2000, gt=0)
    seed: int = 0
    packs: tuple[PackPath, ...] = (pack_path("shipped:base"), pack_path("shipped:lidar64"))
    frames: int = pydantic.Field(4, gt=0)
    seconds: float = pydantic.Field(5.0, gt=0)
    out: Path = Path("runs/fuzz")


@dataclass
class Row:
    """What became of one kind of message.

    Attributes:
        tried: how many.
        refused: an error said what is wrong.
        used: let in by `unpack`; heard, or left out by the ego's own judgement.
        alone, heard: AP50 of what the ego detects by itself, and of what it still detects of that when it hears them.
        slowest_ms: CPU time of the slowest.
        violations: what should not have happened, and how often.
    """

    tried: int = 0
    refused: int = 0
    used: int = 0
    alone: float | None = None
    heard: float | None = None
    slowest_ms: float = 0.0
    violations: Counter[str] = field(default_factory=Counter)


@dataclass
class Scene:
    """A frame in one way to exchange: what is said, what the ego finds alone, and what it sees."""

    model: Collaboration
    ego: Message
    honest: list[Message]
    alone: Boxes3D
    truth: Boxes3D


def run_fuzz(config: FuzzConfig, tell: Tell) -> dict[str, Row]:
    """Try all messages and write fuzz.json; gives the rows of the table by kind.

    Raises:
        HeatError: the packs do not fit together, or no frame has two agents.
    """
    base, agents, adapters = read_all(config.packs)
    model = assemble(Collaboration, base, agents, adapters)
    agent_type = agents[0].agent_type
    with tempfile.TemporaryDirectory() as folder:
        splits = {"train": 0, "validate": 0, "test": config.frames}
        world = build(WorldConfig, {"out": folder, **splits, "seed": config.seed, "workers": 1})
        build_world(world, lambda done, total: tell("building a small world", done, total))
        dataset = open_dataset("opv2v", Path(folder), "test")
        scenes = scenes_of(model, dataset, agent_type)
        if not scenes:
            raise HeatError(f"in none of the {config.frames} frames is there a second agent to hear: give more frames=")
        with _quiet():
            rows, scores = try_all(scenes, [base, *agents, *adapters], config, tell)
    judge(rows, scores)
    write_json(config.out / "fuzz.json", {"settings": config.model_dump(mode="json"), "kinds": to_json(rows)})
    return rows


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of an ego that leaves a message out: here nearly every one is left out."""
    log = logging.getLogger("heatv2x")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def scenes_of(model: Collaboration, dataset: Dataset, agent_type: str) -> list[Scene]:
    """Every frame with more than one agent, in all ways to exchange."""
    ways = [model, exchanging(model, "boxes"), exchanging(model, "points")]
    scenes = []
    for index in range(len(dataset)):
        frame = dataset.read(index, model.agent(agent_type).sensors)
        if len(frame.agents) < 2:
            continue
        truth = ground_truth(frame, 0, [0])
        for way in ways:
            ego, *honest = (way.encode(agent, agent_type) for agent in frame.agents)
            scenes.append(Scene(way, ego, honest, way.detect(ego), truth))
    return scenes


def try_all(
    scenes: Sequence[Scene], packs: Sequence[Pack], config: FuzzConfig, tell: Tell
) -> tuple[dict[str, Row], Scores]:
    """Try `config.messages` messages and packs.

    Returns:
        What became of every kind, and what the ego detected alone and when it heard them.
    """
    rows = {kind: Row() for kind in (*KINDS, "packs")}
    scores = {kind: (ApAccumulator(HEATV2X), ApAccumulator(HEATV2X)) for kind in KINDS}
    memory = peak_memory().resident_bytes
    for number in range(config.messages):
        rng = np.random.default_rng([config.seed, number])
        kind = list(rows)[number % len(rows)]
        row = rows[kind]
        row.tried += 1
        start, data, wrong = time.process_time(), b"", ""
        try:
            data = hostile_pack(packs, rng) if kind == "packs" else KINDS[kind](scene := _any(scenes, rng), rng)
            if kind == "packs":
                _read(data)
            else:
                _hear(scene, data, scores[kind])
            row.used += 1
        except HeatError as error:
            row.refused += 1
            if kind != "packs" and not isinstance(error, MessageError):
                wrong = f"{type(error).__name__} instead of MessageError"
        except Exception as error:  # the very thing that is looked for
            wrong = f"{type(error).__name__}: {str(error)[:80]}"
        seconds = time.process_time() - start
        row.slowest_ms = max(row.slowest_ms, 1000 * seconds)
        if seconds > config.seconds:
            wrong = f"took more than {config.seconds:g} s"
        if peak_memory().resident_bytes - memory > _MEMORY_BYTES:
            wrong, memory = "took more than a gigabyte", peak_memory().resident_bytes
        if wrong:
            _note(row, wrong, config, number, data)
        if number % 50 == 49 or number == config.messages - 1:
            tell("trying messages", number + 1, config.messages)
    return rows, scores


def _any(scenes: Sequence[Scene], rng: np.random.Generator) -> Scene:
    return scenes[int(rng.integers(len(scenes)))]


def _hear(scene: Scene, data: bytes, scores: tuple[ApAccumulator, ApAccumulator]) -> None:
    """Unpack a message and detect with it; adds up what the ego detects by itself, and what is left of that."""
    message = unpack(data, scene.ego.feature_space if scene.ego.feature is not None else None)
    found = scene.model.detect(scene.ego, [message])
    for accumulator, boxes in zip(scores, (scene.alone, _surviving(scene.alone, found)), strict=True):
        accumulator.add(boxes, scene.truth)


def judge(rows: dict[str, Row], scores: Scores) -> None:
    """Average precisions, and whether a kind of message costs the ego more than honest ones do."""
    for kind, (alone, heard) in scores.items():
        before, after = alone.ap()["0.5"], heard.ap()["0.5"]
        if before is not None and after is not None:  # else none was used, or there was nothing to see
            rows[kind].alone, rows[kind].heard = 100 * before, 100 * after
    usual = _cost(rows[CONTROL])
    for kind in scores:
        allowed = usual + (_POINTS_OF_A_LIE if kind in LIES else _POINTS_OF_AP)
        if rows[kind].used and _cost(rows[kind]) > allowed:
            rows[kind].violations["the ego lost what it sees itself"] += 1


def _cost(row: Row) -> float:
    return 0.0 if row.alone is None or row.heard is None else row.alone - row.heard


def to_json(rows: dict[str, Row]) -> dict[str, Any]:
    """The rows for a file."""
    return {kind: {**asdict(row), "violations": dict(row.violations)} for kind, row in rows.items()}


def _surviving(alone: Boxes3D, found: Boxes3D) -> Boxes3D:
    """What the ego detects by itself and still detects: something overlaps it by half or more."""
    if len(alone) == 0 or len(found) == 0:
        return alone[:0]
    overlap = rotated_iou_bev(torch.from_numpy(alone.boxes), torch.from_numpy(found.boxes)).amax(dim=1)
    return alone[(overlap >= 0.5).numpy()]


def _note(row: Row, what: str, config: FuzzConfig, number: int, data: bytes) -> None:
    row.violations[what] += 1
    if row.violations[what] == 1:
        write_bytes(config.out / f"seed{config.seed}_{number}.bin", data)


# --- messages -------------------------------------------------------------------------------------------------------


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
    said = replace(message, feature=hostile[str(rng.choice(list(hostile)))], codec=codec, cells=None)
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
    if way == "extreme":
        column, value = int(rng.integers(8)), float(rng.choice([np.nan, np.inf, 1e38, -1e38, 0.0, 9.0, -9.0, 1e4]))
        rows[rng.random(count) < 0.5, column] = value
    data = pack(replace(message, feature=None, points=None, boxes=Boxes3D.empty()))
    head = bytearray(data[:_HEADER])
    if way == "riding" and message.feature is not None:  # as many as may ride on a feature
        data, rows = pack(replace(message, boxes=None)), rows[:64]
        head = bytearray(data[:_HEADER])
        head[6] = 3
        struct.pack_into("<H", head, 138, len(rows))
        return sealed(bytes(head), data[_HEADER:] + rows.astype("<f4").tobytes())
    struct.pack_into("<H", head, 132, len(rows))
    return sealed(bytes(head), rows.astype("<f4").tobytes())


def _points(scene: Scene, rng: np.random.Generator) -> bytes:
    count = int(rng.integers(0, 60_000))
    points = rng.uniform([-60, -60, -2, 0], [60, 60, 2, 1], (count, 4))
    if rng.random() < 0.5:  # a wall around the ego
        angle = rng.uniform(0, 2 * np.pi, count)
        points[:, :2] = np.column_stack([np.cos(angle), np.sin(angle)]) * rng.uniform(3, 30)
    message = replace(_some(scene, rng), feature=None, boxes=None, points=PointCloud(points.astype(np.float32)))
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


# --- packs ----------------------------------------------------------------------------------------------------------


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


def _read(data: bytes) -> None:
    """Read a pack and build what it describes, together with the packs that come along."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack.safetensors"
        path.write_bytes(data)
        base, agents, adapters = read_all([path])
        assemble(Collaboration, base, agents, adapters)
