"""Damages files of every format and reads them: each ends in a normal read or in one clear DataError.

`python -m tests.formats mutate 10000` runs that many, in processes with limited memory, and says what it found. A
case is named by format and number, and the same name is the same bytes everywhere.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import yaml
from PIL import Image
from pypcd4 import Encoding
from pypcd4 import PointCloud as Pypcd4Cloud

from heatv2x.core.files import MAX_JSON_BYTES, read_bytes, read_json
from heatv2x.errors import DataError
from heatv2x.formats import dair_json, frame_index, image, opv2v_index, opv2v_yaml, pcd, tagged_yaml
from heatv2x.formats.arrays import read_bin, read_npy
from heatv2x.formats.cloud_files import CloudFiles
from heatv2x.formats.folder_layout import read_recordings
from heatv2x.formats.opv2v_layout import Layout
from tests.formats import opv2v_tree
from tests.formats.dair_writer import write_dair_v2x
from tests.formats.folder_writer import write_folder
from tests.formats.pcd_writer import cloud, pcd_file, real_files

SECONDS = 10.0
"""No single file may take longer, on a busy machine either; a normal one takes milliseconds."""
MEMORY_BYTES = 3_000_000_000
"""Address space of a process that reads damaged files: the libraries take half of it."""
NUMBERS = (b"nan", b"-inf", b"1e999", b"-1", b"0", b"2147483648", b"99999999999999999999", b"0x10", b"''", b"true")
TRAP = "heatv2x_ran_foreign_code"
"""A file that the payloads below would make if they ran."""


@dataclass(frozen=True)
class Format:
    """One kind of file and how it is read.

    Attributes:
        name: names the case, too.
        filename: of the file that is damaged, as its dataset names it.
        originals: the bytes of good files.
        read: reads it; raises DataError if it is bad.
        special: damage that only this format knows, as whole files.
        folder: what must lie around the file, written once.
        never_fails: a damaged file is no error, because it is only a copy of others (the index).
    """

    name: str
    filename: str
    originals: Callable[[], tuple[bytes, ...]]
    read: Callable[[Path], object]
    special: Callable[[], tuple[bytes, ...]] = tuple
    folder: Callable[[Path], None] = lambda folder: folder.mkdir(parents=True, exist_ok=True)
    never_fails: bool = False


@dataclass(frozen=True)
class Ending:
    """How one damaged file ended: "read", "refused", or what is wrong with the reader."""

    case: str
    what: str
    detail: str = ""

    @property
    def is_defect(self) -> bool:
        """True unless it was read or refused."""
        return self.what not in ("read", "refused")


# --- damage that any file can have ------------------------------------------------------------------------------------


def damaged(original: bytes, others: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    """One to three kinds of damage on a good file."""
    content = original
    for _ in range(int(rng.integers(1, 4))):
        content = _DAMAGE[int(rng.integers(len(_DAMAGE)))](content, others, rng)
    return content


def _truncated(content: bytes, _: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def _flipped(content: bytes, _: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    bits = bytearray(content)
    reach = len(bits) if rng.random() < 0.5 else min(len(bits), 300)  # headers are short, and they decide
    for place in rng.integers(0, max(reach, 1), int(rng.integers(1, 9))):
        if bits:
            bits[int(place)] ^= 1 << int(rng.integers(8))
    return bytes(bits)


def _zeroed(content: bytes, _: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 400))
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def _repeated(content: bytes, _: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 400))
    return content[: start + length] + content[start : start + length] * int(rng.integers(1, 20)) + content[start:]


def _longer(content: bytes, _: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 3000)))


def _another_number(content: bytes, _: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    """Numbers in text become absurd ones; in binary files the header's."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:4000]))
    if not found:
        return content
    chosen = found[int(rng.integers(len(found)))]
    return content[: chosen.start()] + NUMBERS[int(rng.integers(len(NUMBERS)))] + content[chosen.end() :]


def _line_moved(content: bytes, _: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    """A line twice, at another place or gone: keys and ids that are duplicated or missing."""
    lines = content.split(b"\n")
    taken = lines.pop(int(rng.integers(len(lines))))
    for _ in range(int(rng.integers(3))):
        lines.insert(int(rng.integers(len(lines) + 1)), taken)
    return b"\n".join(lines)


def _spliced(content: bytes, others: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    other = others[int(rng.integers(len(others)))]
    cut = float(rng.random())
    return content[: int(cut * len(content))] + other[int(cut * len(other)) :]


_DAMAGE = (_truncated, _flipped, _flipped, _zeroed, _repeated, _longer, _another_number, _another_number, _line_moved)
_DAMAGE = (*_DAMAGE, _spliced)


# --- the formats and the damage that only they know -------------------------------------------------------------------


@functools.cache
def clouds() -> tuple[bytes, ...]:
    """A small cloud in every encoding."""
    rng = np.random.default_rng(5)
    points = np.column_stack([rng.uniform(-50, 50, (60, 3)), rng.integers(0, 256, 60) / 255]).astype(np.float32)
    red = np.rint(points[:, 3] * 255).astype(np.uint32) << 16
    written = Pypcd4Cloud.from_points([*points[:, :3].T, red], ("x", "y", "z", "rgb"), (np.float32,) * 3 + (np.uint32,))
    files = []
    for encoding in Encoding:
        stream = io.BytesIO()
        written.save(stream, encoding)
        files.append(stream.getvalue())
    return (opv2v_tree.pcd_bytes(points), *files)


@functools.cache
def foreign_clouds() -> tuple[bytes, ...]:
    """A small cloud as many programs write it."""
    rng = np.random.default_rng(6)
    points = np.column_stack([rng.uniform(-50, 50, (25, 3)), rng.integers(0, 256, 25) / 255]).astype(np.float32)
    nothing = np.full((25, 4), np.nan, np.float32)
    nothing[::2] = points[::2]
    organised = pcd_file(cloud(nothing, intensity=nothing[:, 3]), width=5, height=5)
    return (*real_files(points).values(), organised, pcd_file(cloud(points)), pcd_file(cloud(points[:0])))


@functools.cache
def cloud_bombs() -> tuple[bytes, ...]:
    """Headers that promise more than any file holds, and points that are no numbers."""
    head = b"FIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\n"
    wide = head.replace(b"SIZE", b"COUNT 1 1 1 900\nSIZE")
    huge = np.array([100, 3612 * 1_100_000], "<u4").tobytes()
    not_numbers = np.full((5, 4), np.nan, "<f4").tobytes()
    lines = (b"FIELDS x y z intensity", b"SIZE 4 4 4 4", b"TYPE F F F F", b"POINTS 20000000")
    return (
        b"",
        wide + b"POINTS 1100000\nDATA binary_compressed\n" + huge + bytes(100),
        head + b"POINTS 20000000\nDATA binary_compressed\n" + np.array([20, 320_000_000], "<u4").tobytes() + bytes(20),
        head + b"POINTS 20000000\nDATA ascii\n" + b"1 2 3 0.5\n" * 5,
        head + b"POINTS 5\nDATA binary\n" + not_numbers,
        head + b"POINTS 2\nDATA ascii\nnan nan nan nan\n1 2 3 inf\n",
        head + b"POINTS 1\nDATA ascii\n" + b"9" * 100_000 + b" 2 3 0\n",
        b"VERSION 0.7\n" * 100_000,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
        b"<!DOCTYPE html>" + b" " * 5000,
        head + b"WIDTH 99999999999\nHEIGHT 99999999999\nDATA binary\n" + not_numbers,
        head + b"WIDTH 999999999999\nHEIGHT 0\nDATA ascii\n" + b"1 2 3 4\n",
        head.replace(b"SIZE", b"COUNT 0 0 0 0\nSIZE") + b"POINTS 20000000\nDATA binary\n",
        head.replace(b"SIZE", b"COUNT 0 0 0 0\nSIZE") + b"POINTS 20000000\nDATA ascii\n",
        head.replace(b"SIZE", b"COUNT 0 0 0 0\nSIZE") + b"POINTS 20000000\nDATA binary_compressed\n" + bytes(8),
        head.replace(b"4 4 4 4", b"0 0 0 0") + b"POINTS 20000000\nDATA binary\n",
        head + b"POINTS 0\nDATA binary_compressed\n",
        b"\n".join([*(line + b" 1" * 20_000 for line in lines), b"DATA ascii\n"]),
    )


@functools.cache
def pictures(mode: str, size: tuple[int, int]) -> tuple[bytes, ...]:
    """A flat and a speckled image."""
    noise = np.random.default_rng(1).integers(0, 255, (size[1] // 40 + 1, size[0] // 40 + 1, 3), np.uint8)
    speckled = Image.fromarray(noise).resize(size).convert(mode)
    stream = io.BytesIO()
    speckled.save(stream, "PNG", compress_level=1)
    flat = opv2v_tree.png_bytes(mode, size, 40 if mode == "L" else (10, 20, 30))
    return flat, stream.getvalue()


@functools.cache
def packed_zeros() -> bytes:
    """120 MB of zeros as half a megabyte."""
    zeros = zlib.compressobj(1)
    return b"".join(zeros.compress(bytes(1_000_000)) for _ in range(120)) + zeros.flush()


@functools.cache
def picture_bombs(mode: str, size: tuple[int, int]) -> tuple[bytes, ...]:
    """Huge headers, wrong kinds, and text chunks that unpack to a gigabyte."""
    good = pictures(mode, size)[0]
    bomb = packed_zeros()
    stream = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(stream, "JPEG")
    return (
        b"",
        stream.getvalue(),
        _with_header(good, (100_000, 100_000)),
        _with_header(good, (2**31 - 1, 2**31 - 1)),
        _with_header(good, (0, 0)),
        good[:33] + _chunk(b"zTXt", b"Comment\0\0" + bomb) + good[33:],
        good[:33] + _chunk(b"iCCP", b"icc\0\0" + bomb) + good[33:],
        good[:33] + _chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb) + good[33:],
        good[:33] + _chunk(b"IDAT", bomb) + good[-12:],
        good[:33] + _chunk(b"acTL", b"\xff" * 8) + good[33:],
        opv2v_tree.png_bytes("RGB" if mode == "L" else "L", size, 7 if mode != "L" else (1, 2, 3)),
    )


def _with_header(png: bytes, size: tuple[int, int]) -> bytes:
    header = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big") + png[24:29]
    return png[:8] + _chunk(b"IHDR", header) + png[33:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


@functools.cache
def photos() -> tuple[bytes, ...]:
    """A small photograph as JPEG."""
    noise = np.random.default_rng(1).integers(0, 255, (12, 20, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((192, 108)).save(stream, "JPEG")
    return (stream.getvalue(),)


@functools.cache
def descriptions() -> tuple[bytes, ...]:
    """An agent's yaml as the writers make it, and one with the one foreign tag of real files."""
    content = opv2v_tree.agent_yaml(641)
    tagged = yaml.safe_dump(content) + "observations: !!python/tuple\n- 1\n- 2\n"
    return yaml.safe_dump(content).encode(), yaml.safe_dump(content, default_flow_style=True).encode(), tagged.encode()


@functools.cache
def yaml_bombs() -> tuple[bytes, ...]:
    """Foreign tags, alias bombs, endless nesting, wrong types."""
    run = f"open({TRAP!r}, 'w').close()"
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))
    good = descriptions()[0]
    return (
        b"",
        f"lidar_pose: !!python/object/apply:os.system ['touch {TRAP}']\n".encode() + good,
        f'lidar_pose: !!python/object/apply:builtins.eval ["{run}"]\n'.encode(),
        f"? !!python/object/apply:os.mkdir [{TRAP}]\n: 1\n".encode() + good,
        b"x: !!python/object/new:os.popen [ls]\n" + good,
        b"x: !!python/name:os.system\n" + good,
        b"x: !!python/tuple 3\n" + good,
        b"x: !!python/tuple {a: 1}\n" + good,
        b"x: !!binary AAAA\n" + good,
        b"x: !!set {a, b}\n" + good,
        f"a0: &a0 [1, 1, 1]\n{levels}\n".encode() + good,
        b"x: &x [*x]\n" + good,
        b"x: &x {y: *x}\n" + good,
        b"x: " + b"[" * 200_000,
        b"x: " + b"{a: " * 100_000,
        b"- " * 100_000,
        b"x: " + b"9" * 200_000 + b"\n" + good,
        b"x: '" + b"a" * 16_000_001 + b"'\n",
        good.replace(b"lidar_pose:", b"lidar_pose: {}\nx:"),
        re.sub(rb"vehicles:[\s\S]*", b"vehicles: [1, 2]\n", good),
        re.sub(rb"vehicles:[\s\S]*", b"vehicles: {300: 5}\n", good),
        good.replace(b"301:", b"300:"),
        good.replace(b"301:", b"'0300':"),
    )


@functools.cache
def sidecars() -> tuple[bytes, ...]:
    """Hit counts of a frame."""
    return (json.dumps({str(i): {"hits": i, "camera_visible": i % 2 == 0} for i in range(300, 340)}).encode(),)


@functools.cache
def assignments() -> tuple[bytes, ...]:
    """Types of the agents of some scenarios."""
    return (json.dumps({f"2099_01_01_00_00_{i:02}": {"641": "m1", "1045": "m2"} for i in range(20)}).encode(),)


@functools.cache
def json_bombs(good: bytes) -> tuple[bytes, ...]:
    """Endless nesting, endless numbers, keys twice, numbers that JSON has not."""
    return (
        b"",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"300": ' + b"9" * 200_000 + b"}",
        b'{"300": {"hits": NaN, "camera_visible": true}}',
        b'{"300": {"hits": 1e400, "camera_visible": true}}',
        b'{"300": {"hits": -1, "camera_visible": true}}',
        b'{"300": {"hits": true, "camera_visible": 1}}',
        b'{"300": 1, "300": 2}',
        b"[]",
        b"null",
        good[:-1] + b"," + good[1:],
        "﻿".encode() + good,
        good.decode().encode("utf-16"),
    )


@functools.cache
def indexes() -> tuple[bytes, ...]:
    """The index of a small split."""
    with tempfile.TemporaryDirectory() as name:
        around = Path(name)
        split(around)
        opv2v_index.open_index(Layout.find(around / "data", "train"), around / "index")
        return (next((around / "index").glob("*.npz")).read_bytes(),)


@functools.cache
def index_bombs() -> tuple[bytes, ...]:
    """Arrays that promise more than the file holds, objects to unpickle, packed zeros."""
    trapped = io.BytesIO()
    np.savez(trapped, version=np.array([_Trap()], object))
    packed = io.BytesIO()
    np.savez_compressed(packed, version=np.array(1), frame_name=np.zeros(100_000_000, np.int8))
    original = indexes()[0]
    return b"", trapped.getvalue(), packed.getvalue(), original.replace(b"'shape': (2,), ", b"'shape': (2**40,), ")


class _Trap:
    """Would make a file if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (TRAP,)


def split(folder: Path) -> None:
    """A split of two agents and two frames, for the index."""
    if not (folder / "data").exists():
        opv2v_tree.write_tree(folder / "data", images=False)


def read_index(path: Path) -> None:
    """Open the split whose index was damaged: the records are those of the files, whatever the index says."""
    layout, cache = Layout.find(path.parent / "data", "train"), path.parent / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    if os.path.lexists(path):
        path.rename(frame_index.index_path(layout.opv2v, layout.split, cache))
    records = opv2v_index.open_index(layout, cache)
    names = [record.name for record in records]
    if names != [f"{opv2v_tree.SCENARIO}/{frame}" for frame in opv2v_tree.FRAMES]:
        raise AssertionError(f"the damaged index was believed: {names}")
    if not all(np.isfinite(record.T_world_agent).all() and len(record.objects) == 5 for record in records):
        raise AssertionError("the damaged index was believed")


@functools.cache
def arrays() -> tuple[bytes, ...]:
    """A cloud as .npy, of three and four columns, and other types."""
    points = np.random.default_rng(2).uniform(0, 1, (60, 4))
    files = []
    structured = np.zeros(60, [("x", "<f4"), ("y", "<f8"), ("z", "<f4"), ("intensity", "u1"), ("ring", "<u2")])
    others = (np.asfortranarray(points), (points > 0.5).astype(np.int16), points.reshape(6, 10, 4), structured)
    others = (*others, points.astype(np.float16), np.hstack([points, points]), points.astype(">f8"))
    for array in (points.astype(np.float32), points[:, :3], *others):
        stream = io.BytesIO()
        np.save(stream, array)
        files.append(stream.getvalue())
    return tuple(files)


@functools.cache
def array_bombs() -> tuple[bytes, ...]:
    """Objects to unpickle, shapes that no file holds, other shapes and types."""
    trapped = io.BytesIO()
    np.save(trapped, np.array([[_Trap()] * 4], object))
    good = arrays()[0]
    odd = []
    for array in (np.zeros(4), np.zeros((2, 17)), np.zeros((2, 4), complex), np.full((2, 4), np.nan), np.array(3.0)):
        stream = io.BytesIO()
        np.save(stream, array)
        odd.append(stream.getvalue())
    huge = (b"(9999999999, 4)", b"(60, 400000000000)", b"(-60, 4)", b"(60, 4) * 9", b"(60.0, 4)")
    shapes = [good.replace(b"(60, 4), }" + b" " * (len(shape) - 7), shape + b", }") for shape in huge]
    return b"", trapped.getvalue(), b"PK\3\4" + good, *shapes, *odd


def bins() -> tuple[bytes, ...]:
    """KITTI's form: float32, four a point."""
    return (np.random.default_rng(3).uniform(0, 1, (60, 4)).astype("<f4").tobytes(),)


def five_columns() -> tuple[bytes, ...]:
    """nuScenes' form: x, y, z, intensity and ring."""
    return (np.random.default_rng(3).uniform(0, 1, (60, 5)).astype("<f4").tobytes(),)


@functools.cache
def recording_files() -> dict[str, bytes]:
    """The descriptive files of an own recording, by name."""
    with tempfile.TemporaryDirectory() as name:
        write_folder(Path(name))
        return {
            path.name: path.read_bytes() for path in sorted(Path(name).glob("train/*/**/*.[cj]s*")) if path.is_file()
        }


def recording(folder: Path) -> None:
    """A recording whose files are good, without sensor data."""
    agent = folder / "root" / "train" / "day" / "5"
    agent.mkdir(parents=True, exist_ok=True)


def read_recording(path: Path) -> object:
    """Open the recording with the damaged file in its place."""
    agent = path.parent / "root" / "train" / "day" / "5"
    for name, content in recording_files().items():
        target = agent.parent / name if name == "boxes.csv" else agent / name
        if target.is_dir() and not target.is_symlink():
            target.rmdir()
        target.unlink(missing_ok=True)
        if name != path.name:
            target.write_bytes(content)
        elif os.path.lexists(path):
            path.rename(target)
    return read_recordings(path.parent / "root", "train")


def csv_bombs() -> tuple[bytes, ...]:
    """Quotes that never end, endless lines, columns twice, other encodings."""
    good = recording_files()["poses.csv"]
    lines = good.splitlines(keepends=True)
    return (
        b"",
        lines[0],
        lines[0] + b'"' + good * 3,
        lines[0].strip() + b",frame\n" + lines[1].strip() + b",x\n",
        good + lines[1],
        lines[0] + b"," * 200_000,
        lines[0] + b"9" * 200_000 + b"," + lines[1],
        good.replace(b",", b";"),
        good.decode().encode("utf-16"),
        good.replace(lines[1].split(b",")[1], b"nan"),
        b"\0" * 1000,
    )


@functools.cache
def dair_files() -> dict[str, bytes]:
    """A calibration, labels of one side and cooperative labels."""
    with tempfile.TemporaryDirectory() as name:
        write_dair_v2x(Path(name))
        inside = Path(name) / "cooperative-vehicle-infrastructure"
        places = {
            "transform": "vehicle-side/calib/lidar_to_novatel",
            "intrinsics": "vehicle-side/calib/camera_intrinsic",
            "side": "vehicle-side/label/lidar",
            "cooperative": "cooperative/label_world",
        }
        return {key: next(iter(sorted((inside / place).glob("*.json")))).read_bytes() for key, place in places.items()}


def dair_format(key: str, parse: Callable[[bytes, Path], object]) -> Format:
    """One kind of DAIR-V2X's JSON files."""
    return Format(
        f"dair_{key}",
        "000001.json",
        lambda: (dair_files()[key],),
        lambda path: parse(read_bytes(path, MAX_JSON_BYTES), path),
        lambda: json_bombs(dair_files()[key]),
    )


RASTER = (image.RASTER_CELLS, image.RASTER_CELLS)
COLOUR, DEPTH, VISIBLE = ("RGB", image.CAMERA_SIZE), ("L", image.CAMERA_SIZE), ("L", RASTER)
FORMATS = (
    Format("pcd", "000068.pcd", clouds, pcd.read_pcd, cloud_bombs),
    Format("foreign_pcd", "1532402927.647951.PCD", foreign_clouds, CloudFiles(255.0).read, cloud_bombs),
    Format("rgb", "000068_camera0.png", lambda: pictures(*COLOUR), image.read_rgb, lambda: picture_bombs(*COLOUR)),
    Format("depth", "000068_depth0.png", lambda: pictures(*DEPTH), image.read_depth, lambda: picture_bombs(*DEPTH)),
    Format(
        "visibility",
        "000068_bev_visibility.png",
        lambda: pictures(*VISIBLE),
        image.read_visibility,
        lambda: picture_bombs(*VISIBLE),
    ),
    Format("yaml", "000068.yaml", descriptions, opv2v_yaml.read_agent_yaml, yaml_bombs),
    Format(
        "hits",
        "000068_hits.json",
        sidecars,
        lambda path: opv2v_yaml.parse_hits(read_bytes(path, tagged_yaml.MAX_BYTES), path),
        lambda: json_bombs(sidecars()[0]),
    ),
    Format("assignment", "types.json", assignments, opv2v_yaml.assignment, lambda: json_bombs(assignments()[0])),
    Format("json", "data_info.json", assignments, read_json, lambda: json_bombs(assignments()[0])),
    Format("jpg", "000001.jpg", photos, lambda path: image.read_rgb(path, (192, 108), ("JPEG",))),
    Format("npy", "1000.npy", arrays, read_npy, array_bombs),
    Format("bin", "1000.bin", bins, read_bin),
    Format("nuscenes_bin", "LIDAR_TOP__1532402927647951.pcd.bin", five_columns, CloudFiles().read),
    Format("poses", "poses.csv", lambda: (recording_files()["poses.csv"],), read_recording, csv_bombs, recording),
    Format("boxes", "boxes.csv", lambda: (recording_files()["boxes.csv"],), read_recording, csv_bombs, recording),
    Format(
        "calibration",
        "calibration.json",
        lambda: (recording_files()["calibration.json"],),
        read_recording,
        lambda: json_bombs(recording_files()["calibration.json"]),
        recording,
    ),
    dair_format("transform", dair_json.parse_transform),
    dair_format("intrinsics", dair_json.parse_intrinsics),
    dair_format("side", dair_json.parse_side_labels),
    dair_format("cooperative", dair_json.parse_cooperative_labels),
    Format("index", "damaged.npz", indexes, read_index, index_bombs, split, never_fails=True),
)


# --- what is no file though it looks like one -------------------------------------------------------------------------


def _folder(path: Path) -> None:
    path.mkdir()


def _missing(path: Path) -> None:
    path.unlink(missing_ok=True)


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _links_in_a_circle(path: Path) -> None:
    other = path.with_name(f"other_{path.name}")
    other.unlink(missing_ok=True)
    other.symlink_to(path.name)
    path.symlink_to(other.name)


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def _endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _pipe_that_nobody_writes(path: Path) -> None:
    os.mkfifo(path)


def _sparse_terabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _not_to_be_read(path: Path) -> None:
    path.write_bytes(b"secret")
    path.chmod(0)


DISGUISES = (_folder, _missing, _link_to_itself, _links_in_a_circle, _link_to_nothing, _endless_device)
DISGUISES = (*DISGUISES, _pipe_that_nobody_writes, _sparse_terabyte, _not_to_be_read)


# --- running ----------------------------------------------------------------------------------------------------------


def place(kind: Format, number: int, path: Path) -> None:
    """Put the file of a case: first what is no file, then what only this format knows, then damage at random."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    if number < len(DISGUISES):
        DISGUISES[number](path)
    else:
        path.write_bytes(content_of(kind, number - len(DISGUISES)))


def content_of(kind: Format, number: int) -> bytes:
    """The bytes of a case whose file is one."""
    special = kind.special()
    if number < len(special):
        return special[number]
    rng = np.random.default_rng([zlib.crc32(kind.name.encode()), number])
    originals = kind.originals()
    return damaged(originals[int(rng.integers(len(originals)))], originals, rng)


def run_case(kind: Format, number: int, folder: Path) -> Ending:
    """Read one damaged file in a folder of its own format."""
    case, path = f"{kind.name}/{number}", folder / kind.filename
    place(kind, number, path)
    start = time.monotonic()
    try:
        with _alarm():
            kind.read(path)
        ending = Ending(case, "read")
    except DataError as error:
        text = str(error)
        clear = error.problem and kind.filename in text and len(text) < 1000 and "Traceback" not in text
        ending = Ending(case, "refused") if clear else Ending(case, "unclear", text[:300])
        if kind.never_fails:
            ending = Ending(case, "failed", text[:300])
    except Exception as error:  # exactly what must not happen
        ending = Ending(case, type(error).__name__, str(error)[:300])
    if (seconds := time.monotonic() - start) > SECONDS and not ending.is_defect:
        ending = Ending(case, "slow", f"{seconds:.0f} s")
    if Path(TRAP).exists():
        ending = Ending(case, "ran foreign code")
    return ending


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"longer than {SECONDS:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_many(kind: Format, numbers: range, folder: Path) -> list[Ending]:
    """Read the damaged files of one format."""
    kind.folder(folder)
    return [run_case(kind, number, folder) for number in numbers]


def run_in_process(kind: Format, numbers: range) -> list[Ending]:
    """The same in a process of its own whose memory is limited; if it dies, the file that killed it is found."""
    endings: list[Ending] = []
    while numbers:
        words = [
            sys.executable,
            "-m",
            "tests.formats",
            "mutate",
            "--worker",
            kind.name,
            str(numbers.start),
            str(numbers.stop),
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        new = [Ending(*json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]
        endings += new
        numbers = range(numbers.start + len(new), numbers.stop)
        if done.returncode and numbers:
            endings.append(Ending(f"{kind.name}/{numbers.start}", "killed the process", done.stderr[-300:]))
            numbers = numbers[1:]
    return endings


def _work(kind: Format, numbers: range) -> None:
    import logging

    logging.disable(logging.WARNING)
    content_of(kind, 0)  # the originals are made before memory is limited
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / kind.name
        kind.folder(folder)
        for number in numbers:
            ending = run_case(kind, number, folder)
            print(json.dumps([ending.case, ending.what, ending.detail]), flush=True)


def main(words: list[str] | None = None) -> int:
    """Run N damaged files, shared among the formats; exit code 1 if a reader has a defect."""
    parser = argparse.ArgumentParser(prog="python -m tests.formats mutate", description=__doc__)
    parser.add_argument("files", type=int, nargs="?", default=10_000, help="how many in all")
    parser.add_argument("--worker", nargs=3, metavar=("FORMAT", "FROM", "TO"), help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    by_name = {kind.name: kind for kind in FORMATS}
    if given.worker:
        _work(by_name[given.worker[0]], range(int(given.worker[1]), int(given.worker[2])))
        return 0
    start, total, defects = time.monotonic(), 0, []
    each = -(-given.files // len(FORMATS))
    for kind in FORMATS:
        endings = run_in_process(kind, range(each))
        defects += [ending for ending in endings if ending.is_defect]
        counts = Counter(ending.what for ending in endings)
        total += len(endings)
        print(f"{kind.name:<12}{', '.join(f'{count} {what}' for what, count in counts.most_common())}", flush=True)
    for ending in defects[:40]:
        print(f"DEFECT {ending.case}: {ending.what}: {ending.detail}")
    print(f"{total} damaged files in {time.monotonic() - start:.0f} s, {len(defects)} defects")
    return 1 if defects else 0
