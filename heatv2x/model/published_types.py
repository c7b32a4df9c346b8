"""The agent types of the literature by name, and what each project calls them.

The same `m2` is a camera in HEAL and a LiDAR in STAMP. Here a type has a name that says what it is; the numbers live in
this one table and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heatv2x.agents import camera_lss, lidar_pillar
from heatv2x.core.config import nearest
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError


@dataclass(frozen=True)
class PublishedType:
    """A type of agent at its published size, for a shared grid of 0.8 m cells and 64 channels.

    Attributes:
        name: here.
        label: in HEAL's paper.
        sensor: what it carries.
        part: agent kind and settings.
    """

    name: str
    label: str
    sensor: str
    part: PartConfig


def _type(name: str, label: str, sensor: str, part: str, settings: Mapping[str, Any]) -> tuple[str, PublishedType]:
    return name, PublishedType(name, label, sensor, PartConfig(part=part, settings=dict(settings)))


TYPES: dict[str, PublishedType] = dict(
    [
        _type("lidar64_pillars", "L_P^64", "64-beam LiDAR", "lidar_pillar", lidar_pillar.PUBLISHED),
        _type("lidar32_voxels", "L_S^32", "32-beam LiDAR", "lidar_voxel", {}),
        _type("camera_efficientnet", "C_E^384", "four cameras", "camera_lss", camera_lss.EFFICIENTNET_384),
        _type("camera_resnet", "C_R^336", "four cameras", "camera_lss", camera_lss.RESNET_336),
    ]
)

# What the numbers mean in each project. STAMP's m0 and m4 are both PointPillars (m0 is its protocol).
ALIASES: dict[str, dict[str, str]] = {
    "heal": {
        "m1": "lidar64_pillars",
        "m2": "camera_efficientnet",
        "m3": "lidar32_voxels",
        "m4": "camera_resnet",
    },
    "stamp": {
        "m0": "lidar64_pillars",
        "m1": "camera_efficientnet",
        "m2": "lidar32_voxels",
        "m3": "camera_resnet",
        "m4": "lidar64_pillars",
    },
}


def published_type(name: str, project: str | None = None) -> PublishedType:
    """A type by its name here, or by a project's number for it.

    Args:
        name: such as "camera_resnet"; or such as "m4" with a project.
        project: whose numbering, a key of `ALIASES`.

    Raises:
        ConfigError: there is no such project, number or name.
    """
    if project is not None:
        if project not in ALIASES:
            raise ConfigError(f"unknown numbering '{project}'; {nearest(project, ALIASES)}")
        numbers = ALIASES[project]
        if name not in numbers:
            raise ConfigError(f"{project} has no agent type '{name}'; {nearest(name, numbers)}")
        name = numbers[name]
    if name not in TYPES:
        hint = " (a number alone is ambiguous: name its project, too)" if name[:1] == "m" and name[1:].isdigit() else ""
        raise ConfigError(f"unknown published type '{name}'{hint}; {nearest(name, TYPES)}")
    return TYPES[name]
