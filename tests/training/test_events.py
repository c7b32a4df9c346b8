"""What TensorBoard is given."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from heatv2x.data.view.picture import FALSE, HIT, MISSED
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.picture import from_above
from heatv2x.evaluation.roster import Roster
from heatv2x.structures import Boxes3D
from heatv2x.training.events import EventWriter
from tests.scene_factory import GRID, SmallScenes, small_model


def events(folder: Path) -> Iterator[Event]:
    """What the event files of a folder hold."""
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", data)
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """By name, by step, what the event files of a folder hold."""
    found: dict[str, dict[int, float]] = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_points_come_back(tmp_path: Path) -> None:
    for step in (10, 20):  # two starts of one run
        writer = EventWriter(tmp_path / "run")
        writer.add({"step": step, "loss": 2.5, "heatmap": 1.5})
        writer.add({"step": step, "ap50": 0.25})
        writer.close()
    wanted = {"training/loss": 2.5, "training/heatmap": 1.5, "validation/ap50": 0.25}
    assert scalars(tmp_path / "run") == {name: {10: value, 20: value} for name, value in wanted.items()}


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    writer = EventWriter(None)
    writer.add({"step": 1, "loss": 2.5})
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_scene_comes_back_as_a_picture(tmp_path: Path) -> None:
    """What is found, missed and false in it has its colours, and TensorBoard gets the same pixels."""
    evaluator = Evaluator(SmallScenes(frames=1), keep=[0])
    scene = evaluator.evaluate(small_model(), Roster("lidar64", "lidar64")).scenes[0]
    nothing = Boxes3D(np.zeros((0, 7), np.float32), scores=np.zeros(0, np.float32))
    right = Boxes3D(scene.truth.boxes, scores=np.full(len(scene.truth), 0.9, np.float32))
    wrong = Boxes3D(scene.truth.boxes + np.float32([3, 0, 0, 0, 0, 0, 0]), scores=right.scores)
    drawn = {}
    for name, found in (("missed", nothing), ("hit", right), ("false", wrong)):
        pixels = from_above(replace(scene, detections=found), GRID)
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
        colours = {"missed": MISSED, "hit": HIT, "false": FALSE}
        drawn[name] = {
            what: int((pixels == [int(c[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).sum())
            for what, c in colours.items()
        }
    assert all(drawn[name][name] > drawn[other][name] for name in drawn for other in drawn if name != other)
    writer = EventWriter(tmp_path)
    writer.picture(7, pixels)
    writer.close()
    (event,) = [each for each in events(tmp_path) if each.summary.value]
    (value,) = event.summary.value
    shown = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    assert (value.tag, event.step) == ("validation/scene", 7) and np.array_equal(shown, pixels)
