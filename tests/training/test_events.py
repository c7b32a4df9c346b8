"""What TensorBoard is given."""

from __future__ import annotations

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from heatv2x.training.events import EventWriter


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """By name, by step, what the event files of a folder hold."""
    found: dict[str, dict[int, float]] = {}
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", data)
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
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
