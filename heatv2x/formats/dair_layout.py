"""Where everything lies in DAIR-V2X-C, which pairs a split holds, and what was captured when.

cooperative-vehicle-infrastructure/
  vehicle-side/         image, velodyne, data_info.json, calib/{camera_intrinsic,...}, label/{lidar,camera}
  infrastructure-side/  image, velodyne, data_info.json, calib/{camera_intrinsic,...}, label/{virtuallidar,camera}
  cooperative/          data_info.json, label_world
  train.json val.json (CoAlign's split)    cooperative-split-data.json (the official one)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from heatv2x.errors import DataError
from heatv2x.files import MAX_JSON_BYTES, parse_json, read_bytes
from heatv2x.formats.dair_json import parse_offset

_log = logging.getLogger(__name__)
FOLDER = "cooperative-vehicle-infrastructure"
OFFICIAL_FILE = "cooperative-split-data.json"
_STEM = re.compile(r"[0-9A-Za-z_]{1,32}")
_FILE_OF_SPLIT = {"train": "train", "validate": "val", "val": "val", "test": "test"}
_WAY_OUT = "complete the download"

Splits = Literal["coalign", "official"]
Annotations = Literal["auto", "complemented", "original"]
Truth = Literal["sides", "cooperative"]


@dataclass(frozen=True)
class Pair:
    """A vehicle's frame and the infrastructure's frame of the same moment, with their descriptive files.

    Attributes:
        batch: the recording both belong to: the scenario.
        vehicle, infrastructure: their file stems.
        sent: stem of the infrastructure frame whose data arrive, an earlier one if they are late.
        offset: metres to add to x and y of the infrastructure's pose.
        labels: label files by "vehicle", "infrastructure", "cooperative", relative to the dataset's folder.
    """

    batch: str
    vehicle: str
    infrastructure: str
    sent: str
    offset: tuple[float, float]
    labels: Mapping[str, str]

    @property
    def name(self) -> str:
        """ "batch/vehicle stem"."""
        return f"{self.batch}/{self.vehicle}"

    @property
    def calibration(self) -> dict[str, str]:
        """Calibration files by what they hold."""
        own, theirs = "vehicle-side/calib", "infrastructure-side/calib"
        return {
            "lidar_to_novatel": f"{own}/lidar_to_novatel/{self.vehicle}.json",
            "novatel_to_world": f"{own}/novatel_to_world/{self.vehicle}.json",
            "vehicle_camera": f"{own}/lidar_to_camera/{self.vehicle}.json",
            "vehicle_K": f"{own}/camera_intrinsic/{self.vehicle}.json",
            "virtuallidar_to_world": f"{theirs}/virtuallidar_to_world/{self.infrastructure}.json",
            "sent_to_world": f"{theirs}/virtuallidar_to_world/{self.sent}.json",
            "infrastructure_camera": f"{theirs}/virtuallidar_to_camera/{self.sent}.json",
            "infrastructure_K": f"{theirs}/camera_intrinsic/{self.sent}.json",
        }

    @property
    def present(self) -> tuple[str, ...]:
        """All descriptive files."""
        return tuple(dict.fromkeys([*self.labels.values(), *self.calibration.values()]))


@dataclass(frozen=True)
class _Info:
    """What `data_info.json` of a side says of one frame."""

    batch: str
    captured_us: int


class DairLayout:
    """One DAIR-V2X-C on disk.

    Args:
        root: the folder `cooperative-vehicle-infrastructure`, or its parent.

    Raises:
        DataError: it is neither.
    """

    def __init__(self, root: str | Path) -> None:
        given = Path(root)
        self.root = given / FOLDER if (given / FOLDER).is_dir() else given
        if not (self.root / "cooperative" / "data_info.json").is_file():
            problem = f"is not DAIR-V2X-C: expected {self.root}/cooperative/data_info.json"
            raise DataError(given, problem, way_out=f"give the folder {FOLDER} or its parent")
        self.vehicle = self._side("vehicle-side")
        self.infrastructure = self._side("infrastructure-side")

    def annotations(self, wanted: Annotations) -> Literal["complemented", "original"]:
        """Which labels to read; "auto" takes what lies in place.

        The complemented labels replace the originals, which they keep as `..._backup`.

        Raises:
            DataError: the complemented ones are wanted, and they are not there.
        """
        backup = self.root / "vehicle-side" / "label" / "lidar_backup"
        found: Literal["complemented", "original"] = "complemented" if backup.is_dir() else "original"
        if wanted == "complemented" and found == "original":
            way_out = "add the complemented annotations (docs/datasets/dair_v2x.md), or say annotations=original"
            raise DataError(backup, "is missing: the labels in place are the original ones", way_out=way_out)
        return found if wanted == "auto" else wanted

    def pairs(self, split: str, splits: Splits, labels: Mapping[str, str], delay: int) -> list[Pair]:
        """The pairs of a split, batch by batch, time by time.

        Args:
            split: "train", "validate" or "val", with the official splits also "test".
            splits: whose split files.
            labels: label folders by "vehicle", "infrastructure", "cooperative".
            delay: how many frames earlier the infrastructure captured what arrives; pairs without such a frame in
                their batch are left out.

        Raises:
            DataError: a split or list is missing, or names frames that are not listed.
        """
        listed = self._listed()
        wanted = self._stems(split, splits)
        if missing := [stem for stem in wanted if stem not in listed]:
            problem = f"{len(missing)} frames of split '{split}' are not listed"
            raise DataError(self.root / "cooperative" / "data_info.json", problem, key=missing[0], way_out=_WAY_OUT)
        pairs = [self._pair(stem, *listed[stem], labels, delay) for stem in dict.fromkeys(wanted)]
        kept = [pair for pair in pairs if pair is not None]
        if len(kept) < len(pairs):
            _log.info(
                "%d of %d pairs have no infrastructure frame %d earlier", len(pairs) - len(kept), len(pairs), delay
            )
        if not kept:
            raise DataError(self.root, f"split '{split}' holds no pairs", way_out="choose another split or less delay")
        return sorted(kept, key=lambda pair: (len(pair.batch), pair.batch, pair.vehicle))

    def _pair(
        self, vehicle: str, infrastructure: str, offset: tuple[float, float], labels: Mapping[str, str], delay: int
    ) -> Pair | None:
        if vehicle not in self.vehicle:
            path = self.root / "vehicle-side" / "data_info.json"
            raise DataError(path, "does not list a frame of the split", key=vehicle, way_out=_WAY_OUT)
        batch = self.vehicle[vehicle].batch
        sent = infrastructure
        if delay:
            sent = f"{int(infrastructure) - delay:0{len(infrastructure)}d}" if infrastructure.isdecimal() else ""
            there, now = self.infrastructure.get(sent), self.infrastructure.get(infrastructure)
            if there is None or now is None or there.batch != now.batch:
                return None
        files = {
            "vehicle": f"vehicle-side/label/{labels['vehicle']}/{vehicle}.json",
            "infrastructure": f"infrastructure-side/label/{labels['infrastructure']}/{infrastructure}.json",
        }
        if "cooperative" in labels:
            files["cooperative"] = f"cooperative/{labels['cooperative']}/{vehicle}.json"
        return Pair(batch, vehicle, infrastructure, sent, offset, files)

    def _listed(self) -> dict[str, tuple[str, tuple[float, float]]]:
        """Infrastructure stem and offset by vehicle stem."""
        path = self.root / "cooperative" / "data_info.json"
        listed: dict[str, tuple[str, tuple[float, float]]] = {}
        for number, entry in enumerate(_entries(path)):
            own = _stem(entry, "vehicle_pointcloud_path", number, path)
            other = _stem(entry, "infrastructure_pointcloud_path", number, path)
            if own in listed:
                raise DataError(path, f"lists vehicle frame {own} twice", key=f"[{number}]", way_out=_WAY_OUT)
            listed[own] = other, parse_offset(entry, path, f"[{number}].system_error_offset")
        return listed

    def _side(self, side: str) -> dict[str, _Info]:
        path = self.root / side / "data_info.json"
        frames = {}
        for number, entry in enumerate(_entries(path)):
            batch = str(entry.get("batch_id", "0"))
            if not _STEM.fullmatch(batch):
                raise DataError(path, f"'{batch[:40]}' is no batch", key=f"[{number}].batch_id", way_out=_WAY_OUT)
            captured = str(entry.get("pointcloud_timestamp", "0"))
            if not captured.isdecimal() or len(captured) > 18:
                key = f"[{number}].pointcloud_timestamp"
                raise DataError(path, f"'{captured[:40]}' is no time in microseconds", key=key, way_out=_WAY_OUT)
            frames[_stem(entry, "pointcloud_path", number, path)] = _Info(batch, int(captured))
        return frames

    def _stems(self, split: str, splits: Splits) -> list[str]:
        known = ("train", "validate") if splits == "coalign" else ("train", "validate", "test")
        if split not in (*known, "val"):
            reason = "; DAIR-V2X has no labelled test split in CoAlign's files, the field reports validate"
            problem = f"has no split '{split}'{reason if split == 'test' else ''}"
            raise DataError(self.root, problem, way_out=f"choose one of {', '.join(known)}")
        name = _FILE_OF_SPLIT[split]
        path = self.root / (f"{name}.json" if splits == "coalign" else OFFICIAL_FILE)
        other = "official" if splits == "coalign" else "coalign"
        way_out = f"put the {splits} split file there (docs/datasets/dair_v2x.md), or say splits={other}"
        data = parse_json(read_bytes(path, MAX_JSON_BYTES, way_out=way_out), path, way_out)
        if splits == "official":
            data = data.get("cooperative_split") if isinstance(data, dict) else None
            data = data.get(name) if isinstance(data, dict) else None
        if not isinstance(data, list) or not all(isinstance(stem, str) and _STEM.fullmatch(stem) for stem in data):
            raise DataError(path, "holds no list of frame ids", key=name, way_out=way_out)
        return data


def _entries(path: Path) -> list[dict[str, Any]]:
    data = parse_json(read_bytes(path, MAX_JSON_BYTES, way_out=_WAY_OUT), path, _WAY_OUT)
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise DataError(path, "does not hold a list of frames", way_out="download or write the file again")
    return data


def _stem(entry: dict[str, Any], key: str, number: int, path: Path) -> str:
    value = entry.get(key)
    stem = Path(value).stem if isinstance(value, str) else ""
    if not _STEM.fullmatch(stem):
        problem = f"expected the path of a frame's file, got {str(value)[:80]!r}"
        raise DataError(path, problem, key=f"[{number}].{key}", way_out="download or write the file again")
    return stem
