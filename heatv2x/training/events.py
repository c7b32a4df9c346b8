"""Event files that TensorBoard shows during a run: `tensorboard --logdir runs`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heatv2x.structures import UInt8


class EventWriter:
    """Writes the points of a training curve as they come.

    Every start of a run adds a file of its own to the run folder; TensorBoard shows them as one curve. Steps that were
    done again after an interruption are there twice, with the same values.

    Args:
        folder: the run folder; None writes nothing (processes after the first).
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is not None:
            from tensorboardX import SummaryWriter  # noqa: PLC0415 - its import sets environment variables

            folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(
                str(folder), filename_suffix=f".{time.time_ns()}"
            )  # two starts may share a second

    def add(self, point: Mapping[str, float]) -> None:
        """One point: average precision goes below "validation", everything else below "training".

        Args:
            point: "step", and numbers by name.
        """
        if self._writer is None:
            return
        for name, value in point.items():
            if name != "step":
                group = "validation" if name.startswith("ap") else "training"
                self._writer.add_scalar(f"{group}/{name}", value, int(point["step"]))
        self._writer.flush()

    def picture(self, step: int, pixels: UInt8) -> None:
        """A validation scene, (H, W, 3)."""
        if self._writer is not None:
            self._writer.add_image("validation/scene", pixels, step, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
