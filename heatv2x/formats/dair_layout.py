"""Where everything lies in DAIR-V2X-C, which pairs a split holds, and what was captured when.

cooperative-vehicle-infrastructure/
  vehicle-side/         image, velodyne, data_info.json, calib/{camera_intrinsic,...}, label/{lidar,camera}
  infrastructure-side/  image, velodyne, data_info.json, calib/{camera_intrinsic,...}, label/{virtuallidar,camera}
  cooperative/          data_info.json, label_world
  train.json val.json (CoAlign's split)    cooperative-split-data.json (the official one)
"""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from heatv2x.core.files import MAX_JSON_BYTES, parse_json, read_bytes
from heatv2x.errors import DataError
from heatv2x.formats.dair_json import parse_offset

_log = logging.getLogger(__name__)
FOLDER = "cooperative-vehicle-infrastructure"
OFFICIAL_FILE = "cooperative-split-data.json"
_STEM = re.compile(r"[0-9A-Za-z_]{1,32}")
_FILE_OF_SPLIT = {"train": "train", "validate": "val", "val": "val", "test": "test"}
_WAY_OUT = "complete the download"

SIDES = ("vehicle-side", "infrastructure-side")
SUFFIXES = {"velodyne": ".pcd", "image": ".jpg"}
KINDS = tuple(SUFFIXES)
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
        offset: `system_error_offset` of the pair, metres to add to x and y of the infrastructure's pose.
        labels: label files by "vehicle", "infrastructure", "cooperative", relative to the dataset's folder.
        occurrence: 1, or how often this vehicle frame has come in the split: the release pairs some vehicle frames with
            two roadside frames, and CoAlign's list names some twice.
    """

    batch: str
    vehicle: str
    infrastructure: str
    sent: str
    offset: tuple[float, float]
    labels: Mapping[str, str]
    occurrence: int = 1

    @property
    def name(self) -> str:
        """ "batch/vehicle stem", with "-2" behind it where the vehicle frame comes for the second time."""
        again = "" if self.occurrence == 1 else f"-{self.occurrence}"
        return f"{self.batch}/{self.vehicle}{again}"

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
            DataError: the complemented ones are requested, but they are missing.
        """
        backup = self.root / "vehicle-side" / "label" / "lidar_backup"
        found: Literal["complemented", "original"] = "complemented" if backup.is_dir() else "original"
        if wanted == "complemented" and found == "original":
            way_out = "add the complemented annotations (docs/datasets/dair_v2x.md), or set annotations=original"
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
            problem = f"{len(missing)} frames of split '{split}' are not listed here"
            raise DataError(self.root / "cooperative" / "data_info.json", problem, key=missing[0], way_out=_WAY_OUT)
        pairs = []
        occurrences: Counter[str] = Counter()
        for stem in wanted:
            # HEAL keeps the last pair of a frame, and evaluates a frame as often as the split names it
            for infrastructure, offset in listed[stem] if splits == "official" else listed[stem][-1:]:
                occurrences[stem] += 1
                pairs.append(self._pair(stem, infrastructure, offset, labels, delay, occurrences[stem]))
        if twice := sum(len(listed[stem]) > 1 for stem in occurrences):
            taken = "all their pairs are taken" if splits == "official" else "the last listed pair is taken, as by HEAL"
            _log.info("%d vehicle frames of '%s' have more than one roadside frame: %s", twice, split, taken)
        if repeated := len(wanted) - len(set(wanted)):
            _log.info("split '%s' names %d frames more than once: they count each time", split, repeated)
        kept = [pair for pair in pairs if pair is not None]
        if len(kept) < len(pairs):
            _log.info(
                "%d of %d pairs have no infrastructure frame %d frames earlier",
                len(pairs) - len(kept),
                len(pairs),
                delay,
            )
        if not kept:
            raise DataError(
                self.root,
                f"split '{split}' holds no pairs",
                way_out="choose another split or a smaller infrastructure_delay",
            )
        return sorted(kept, key=lambda pair: (len(pair.batch), pair.batch, pair.vehicle, pair.occurrence))

    def sensor_file(self, side: str, kind: str, stem: str) -> Path:
        """Where a cloud ("velodyne") or an image ("image") of a side lies, or should lie."""
        return self.root / side / kind / f"{stem}{SUFFIXES[kind]}"

    def unmerged(self) -> dict[tuple[str, str], Path]:
        """Folders of archives that were unpacked beside the dataset, by the (side, kind) whose files they hold.

        The release comes as five archives: one with descriptions and labels, four with clouds and images. Unpacked side
        by side they have to be put together.
        """
        found = {}
        for side, kind in itertools.product(SIDES, KINDS):
            if _holds(self.root / side / kind, kind):
                continue
            for beside in sorted({self.root.parent, self.root}):
                archives = (entry for entry in beside.iterdir() if side in entry.name and kind in entry.name)
                there = [folder for entry in sorted(archives) for folder in _below(entry) if _holds(folder, kind)]
                if there:
                    found[side, kind] = there[0]
        return found

    def not_merged(self, side: str, kind: str, folder: Path) -> DataError:
        """The error for such a folder."""
        target = self.root / side / kind
        problem = f"holds the files of {side}/{kind}, but lies beside the dataset instead of inside it"
        return DataError(folder, problem, way_out=f"move them: mkdir -p '{target}' && mv '{folder}'/* '{target}'/")

    def _pair(
        self,
        vehicle: str,
        infrastructure: str,
        offset: tuple[float, float],
        labels: Mapping[str, str],
        delay: int,
        occurrence: int,
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
        return Pair(batch, vehicle, infrastructure, sent, offset, files, occurrence)

    def _listed(self) -> dict[str, list[tuple[str, tuple[float, float]]]]:
        """Infrastructure stems and offsets by vehicle stem, in the order of the list, no pair twice."""
        path = self.root / "cooperative" / "data_info.json"
        listed: dict[str, list[tuple[str, tuple[float, float]]]] = {}
        for number, entry in enumerate(_entries(path)):
            own = _stem(entry, "vehicle_pointcloud_path", number, path)
            other = _stem(entry, "infrastructure_pointcloud_path", number, path)
            pair = other, parse_offset(entry, path, f"[{number}].system_error_offset")
            pairs = listed.setdefault(own, [])
            if pair in pairs:
                pairs.remove(pair)
            pairs.append(pair)
        return listed

    def _side(self, side: str) -> dict[str, _Info]:
        path = self.root / side / "data_info.json"
        frames = {}
        for number, entry in enumerate(_entries(path)):
            batch = str(entry.get("batch_id", "0"))
            if not _STEM.fullmatch(batch):
                raise DataError(path, f"'{batch[:40]}' is not a batch", key=f"[{number}].batch_id", way_out=_WAY_OUT)
            captured = str(entry.get("pointcloud_timestamp", "0"))
            if not captured.isdecimal() or len(captured) > 18:
                key = f"[{number}].pointcloud_timestamp"
                raise DataError(path, f"'{captured[:40]}' is not a time in microseconds", key=key, way_out=_WAY_OUT)
            frames[_stem(entry, "pointcloud_path", number, path)] = _Info(batch, int(captured))
        return frames

    def _stems(self, split: str, splits: Splits) -> list[str]:
        known = ("train", "validate") if splits == "coalign" else ("train", "validate", "test")
        if split not in (*known, "val"):
            reason = "; CoAlign's files of DAIR-V2X have no labelled test split, and papers report validate"
            problem = f"has no split '{split}'{reason if split == 'test' else ''}"
            raise DataError(self.root, problem, way_out=f"choose one of {', '.join(known)}")
        name = _FILE_OF_SPLIT[split]
        path = self.root / (f"{name}.json" if splits == "coalign" else OFFICIAL_FILE)
        other = "official" if splits == "coalign" else "coalign"
        way_out = f"put the {splits} split file there (docs/datasets/dair_v2x.md), or set splits={other}"
        data = parse_json(read_bytes(path, MAX_JSON_BYTES, way_out=way_out), path, way_out)
        if splits == "official":
            data = data.get("cooperative_split") if isinstance(data, dict) else None
            data = data.get(name) if isinstance(data, dict) else None
        if not isinstance(data, list) or not all(isinstance(stem, str) and _STEM.fullmatch(stem) for stem in data):
            raise DataError(path, "holds no list of frame ids", key=name, way_out=way_out)
        return data


def _holds(folder: Path, kind: str) -> bool:
    """Whether there is any file of a kind in a folder."""
    if not folder.is_dir():
        return False
    names = (entry.name for entry in itertools.islice(folder.iterdir(), 1000))
    return any(name.endswith(SUFFIXES[kind]) and not name.startswith(".") for name in names)


def _below(folder: Path) -> Iterator[Path]:
    """A folder, and those in it down to the depth that archives pack their paths in."""
    if not folder.is_dir():
        return
    yield folder
    for pattern in ("*", "*/*", "*/*/*"):
        yield from (entry for entry in itertools.islice(folder.glob(pattern), 1000) if entry.is_dir())


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
