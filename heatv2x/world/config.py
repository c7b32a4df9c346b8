"""The settings of a synthetic world."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from heatv2x.core.config import Config

SPLITS = ("train", "validate", "test")
Sensor = Literal["lidar64", "lidar32", "lidar16", "camera"]
Count = Annotated[int, Field(ge=0)]


class WorldConfig(Config):
    """Settings of a synthetic world.

    Attributes:
        out: folder to write OPV2V/, OPV2V_Hetero/, the assignments and the manifest to.
        frames: labelled frames per split.
        train, validate, test: labelled frames of one split, instead of `frames`; 0 leaves the split out.
        seed: same seed, same bytes.
        workers: number of processes; does not change the result.
        sensors: which to simulate; the 64-beam LiDAR always is, because labels come from it.
        min_agents, max_agents: fewest and most connected agents per clip, a roadside unit included.
        roadside: chance that a clip has a roadside unit.
        render_resolution: rays per camera, width and height, 4:3; images are upsampled to 800 x 600.
        clip_frames: labelled frames per clip (scenario); few, because neighbouring frames are near-duplicates.
        stride: 10 Hz frames from one labelled frame to the next; 1 with long clips gives video, for latency.
        azimuth_steps: LiDAR rays per turn and ring.
    """

    out: Path
    frames: Annotated[int, Field(ge=1)] = 40
    train: Count | None = None
    validate_: Annotated[Count | None, Field(alias="validate")] = None
    test: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=1)] = min(2, os.cpu_count() or 1)
    sensors: tuple[Sensor, ...] = ("lidar64", "lidar32", "lidar16", "camera")
    min_agents: Annotated[int, Field(ge=1, le=8)] = 2
    max_agents: Annotated[int, Field(ge=1, le=8)] = 5
    roadside: Annotated[float, Field(ge=0, le=1)] = 0.25
    render_resolution: tuple[Annotated[int, Field(ge=16, le=800)], Annotated[int, Field(ge=12, le=600)]] = (160, 120)
    clip_frames: Annotated[int, Field(ge=1, le=500)] = 2
    stride: Annotated[int, Field(ge=1, le=100)] = 20
    azimuth_steps: Annotated[int, Field(ge=60, le=3600)] = 600

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> WorldConfig:
        width, height = self.render_resolution
        if width * 3 != height * 4:
            raise ValueError(
                f"render_resolution={width},{height} is not 4:3 like the 800 x 600 images; write for example 160,120"
            )
        if self.min_agents > self.max_agents:
            raise ValueError(f"min_agents={self.min_agents} is more than max_agents={self.max_agents}")
        if not self.sensors:
            raise ValueError("sensors is empty; write for example [lidar64, lidar16]")
        if not sum(self.frames_of(split) for split in SPLITS):
            raise ValueError("every split has 0 frames")
        return self

    def frames_of(self, split: str) -> int:
        """Labelled frames of one split."""
        chosen = {"train": self.train, "validate": self.validate_, "test": self.test}[split]
        return self.frames if chosen is None else chosen

    def content(self) -> dict[str, Any]:
        """What decides the bytes that are written: everything but `out` and `workers`, sensors in canonical order."""
        settings = self.model_dump(mode="json", exclude={"out", "workers", "train", "validate_", "test", "frames"})
        known = ("lidar64", "lidar32", "lidar16", "camera")
        settings["sensors"] = [name for name in known if name == "lidar64" or name in self.sensors]
        return {"frames": {split: self.frames_of(split) for split in SPLITS}, **settings}
