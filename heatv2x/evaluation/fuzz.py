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

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
from heatv2x.evaluation.hostile import CONTROL, KINDS, LIES, Scene, hostile_pack
from heatv2x.evaluation.protocols import HEATV2X
from heatv2x.geometry.boxes import rotated_iou_bev
from heatv2x.link.message import unpack
from heatv2x.model.assembly import assemble, read_all
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import Pack
from heatv2x.model.pretrained import PackPath, pack_path
from heatv2x.model.variants import exchanging
from heatv2x.structures import Boxes3D
from heatv2x.world.build import WorldConfig, build_world

Tell = Callable[[str, int, int], None]
Scores = dict[str, tuple[ApAccumulator, ApAccumulator]]
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
            raise HeatError(
                f"in none of the {config.frames} frames is there a second agent to listen to: raise frames="
            )
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


# --- packs ----------------------------------------------------------------------------------------------------------


def _read(data: bytes) -> None:
    """Read a pack and build what it describes, together with the packs that come along."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack.safetensors"
        path.write_bytes(data)
        base, agents, adapters = read_all([path])
        assemble(Collaboration, base, agents, adapters)
