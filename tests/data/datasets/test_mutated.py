"""Damaged files of DAIR-V2X and of own recordings end in a normal read or in one clear error.

`python -m tests.data.datasets.test_mutated 2000` tries so many damaged files of each.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from heatv2x.data.datasets.base import Sensors, open_dataset
from heatv2x.errors import DataError
from tests.formats.dair_writer import write_dair_v2x
from tests.formats.folder_writer import write_folder

WORDS = [
    b"",
    b"NaN",
    b"-1e999",
    b"[]",
    b"{}",
    b"null",
    b"1e400",
    b'"',
    b"\x00",
    b"[[[[",
    b"../../x",
    b"true",
    b"9" * 400,
]


SENSORS: dict[str, Sensors] = {
    "dair_v2x": ["lidar", "camera"],
    "folder": {1: ["lidar", "camera"], 2: ["lidar"], -1: ["lidar"]},
}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content cut, with flipped bits, doubled parts, foreign words, or replaced altogether."""
    kind, at = rng.integers(6), int(rng.integers(len(content) + 1))
    if kind == 0:
        return content[:at]
    if kind == 1:
        flipped = bytearray(content)
        for place in rng.integers(len(content), size=int(rng.integers(1, 9))):
            flipped[place] ^= 1 << int(rng.integers(8))
        return bytes(flipped)
    if kind == 2:
        return content[:at] + content[int(rng.integers(len(content))) :]
    if kind == 3:
        return content[:at] + WORDS[rng.integers(len(WORDS))] + content[at + int(rng.integers(9)) :]
    return rng.bytes(int(rng.integers(200))) if kind == 4 else content[at:] + content[:at]


def sweep(part: str, root: Path, count: int, seed: int = 0) -> dict[str, int]:
    """How many of so many damaged files were read, and how many refused; anything else is raised."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in root.rglob("*") if path.is_file() and "validate" not in path.parts)
    ends = {"read": 0, "refused": 0}
    for _ in range(count):
        path = files[rng.integers(len(files))]
        content = path.read_bytes()
        path.write_bytes(damaged(content, rng))
        try:
            dataset = open_dataset(part, root, "train")
            for index in range(len(dataset)):
                dataset.read(index, SENSORS[part])
            ends["read"] += 1
        except DataError as error:
            assert error.problem and "\n\n" not in str(error)
            ends["refused"] += 1
        finally:
            path.write_bytes(content)
    return ends


WRITERS: dict[str, Callable[[Path], object]] = {"dair_v2x": write_dair_v2x, "folder": write_folder}


@pytest.mark.parametrize("part", WRITERS)
def test_damaged_files(part: str, tmp_path: Path) -> None:
    WRITERS[part](tmp_path / "data")
    ends = sweep(part, tmp_path / "data", 25)
    assert ends["read"] + ends["refused"] == 25 and ends["refused"] > 3


if __name__ == "__main__":
    for name, write in WRITERS.items():
        folder = Path(tempfile.mkdtemp())
        write(folder)
        print(name, sweep(name, folder, int(sys.argv[1]), seed=1))
        shutil.rmtree(folder)
