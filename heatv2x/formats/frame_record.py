"""What a frame's descriptive files say, in our conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from heatv2x.structures import Float64, Objects


@dataclass(frozen=True)
class CameraRecord:
    """Where a camera is and how it projects.

    Attributes:
        name: "camera0" (front), "camera1", ...
        K: (3, 3) float64 intrinsics in pixels of the dataset's image.
        T_agent_camera: (4, 4) float64 from OpenCV camera axes to the agent's LiDAR frame.
    """

    name: str
    K: Float64
    T_agent_camera: Float64


@dataclass(frozen=True)
class FileStamp:
    """What identifies the content of a file: cheap (size, times) and certain (hash)."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    digest: bytes


@dataclass(frozen=True)
class FrameRecord:
    """Everything a frame's descriptive files say, in our conventions.

    Attributes:
        name: "scenario/timestamp".
        folders: (A) names that lead to the agents' files, in the order of `Frame.agents`.
        T_world_agent: (A, 4, 4) float64.
        cameras: (A) tuples of cameras.
        objects: union over the agents by id; the first agent that lists an object describes it.
        without_center: objects that lack the key `center`, summed over agents.
        stamps: the files this was read from.
        labelled: somebody labelled it, be it as empty.
    """

    name: str
    folders: tuple[str, ...]
    T_world_agent: Float64
    cameras: tuple[tuple[CameraRecord, ...], ...]
    objects: Objects
    without_center: int
    stamps: tuple[FileStamp, ...]
    labelled: bool = True


class ListedFrame(Protocol):
    """A frame that a dataset's layout holds."""

    @property
    def name(self) -> str:
        """ "scenario/timestamp"."""

    @property
    def present(self) -> tuple[str, ...]:
        """Its descriptive files, as paths relative to the root."""
