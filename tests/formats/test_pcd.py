"""Point clouds: every encoding gives the same points; a bad file is one clear error."""

import contextlib
import re
from pathlib import Path
from random import Random

import lzf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypcd4 import PointCloud as Pypcd4Cloud

from heatv2x.errors import DataError
from heatv2x.formats.pcd import read_pcd, read_pcd_cloud
from heatv2x.formats.returns import MAX_POINTS
from tests.formats.opv2v_tree import pcd_bytes
from tests.formats.pcd_writer import Column, cloud, pcd_file, real_files

RNG = np.random.default_rng(5)
POINTS = np.column_stack([RNG.uniform(-50, 50, (40, 3)), RNG.integers(0, 256, 40) / 255]).astype(np.float32)


def packed(points: np.ndarray) -> np.ndarray:
    return np.rint(points[:, 3] * 255).astype(np.uint32) << 16


def save(path: Path, encoding: str, points: np.ndarray = POINTS, rgb: type = np.float32) -> Path:
    columns = [*points[:, :3].T, packed(points).view(rgb)]
    Pypcd4Cloud.from_points(columns, ("x", "y", "z", "rgb"), (np.float32,) * 3 + (rgb,)).save(path, encoding)
    return path


def with_header(path: Path, fields: str, sizes: str, types: str, rows: np.ndarray, counts: str = "") -> Path:
    counts = counts or " ".join("1" for _ in fields.split())
    header = f"FIELDS {fields}\nSIZE {sizes}\nTYPE {types}\nCOUNT {counts}\nPOINTS {len(rows)}\n"
    path.write_bytes(header.encode() + b"DATA binary\n" + rows.tobytes())
    return path


@pytest.mark.parametrize("rgb_type", ["F", "U"])
def test_binary_as_open3d_writes_it(tmp_path: Path, rgb_type: str) -> None:
    path = tmp_path / "000068.pcd"
    path.write_bytes(pcd_bytes(POINTS, rgb_type=rgb_type))
    points = read_pcd(path)
    assert points.dtype == np.float32 and points.flags.owndata
    np.testing.assert_array_equal(points, POINTS)


@pytest.mark.parametrize("rgb", [np.float32, np.uint32])
@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_every_encoding_gives_the_same_points(tmp_path: Path, encoding: str, rgb: type) -> None:
    from pypcd4 import Encoding

    # This ascii writer gives a float rgb too few digits for its bits; integers are exact.
    points = POINTS if (encoding, rgb) != ("ascii", np.float32) else POINTS * np.array([1, 1, 1, 0], np.float32)
    read = read_pcd(save(tmp_path / "a.pcd", Encoding(encoding), points, rgb))
    np.testing.assert_allclose(read, points, atol=0 if encoding != "ascii" else 1e-5)


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_one_point_and_no_points(tmp_path: Path, encoding: str) -> None:
    from pypcd4 import Encoding

    for count in (0, 1):
        assert read_pcd(save(tmp_path / "a.pcd", Encoding(encoding), POINTS[:count], np.uint32)).shape == (count, 4)


def test_an_intensity_field_other_fields_and_padding(tmp_path: Path) -> None:
    rows = np.zeros(
        3, [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("_", "<u1", 3), ("intensity", "<u1"), ("ring", "<u2")]
    )
    rows["x"], rows["intensity"] = [1, 2, 3], [0, 51, 255]
    path = with_header(tmp_path / "a.pcd", "x y z _ intensity ring", "8 8 8 1 1 2", "F F F U U U", rows, "1 1 1 3 1 1")
    np.testing.assert_allclose(read_pcd(path)[:, [0, 3]], [[1, 0], [2, 0.2], [3, 1]], rtol=1e-6)


def test_a_float_intensity_needs_its_full_scale(tmp_path: Path) -> None:
    rows = np.array([[1, 2, 3, 0], [1, 2, 3, 200]], "<f4")
    path = with_header(tmp_path / "a.pcd", "x y z intensity", "4 4 4 4", "F F F F", rows)
    with pytest.raises(DataError, match=r"key 'intensity'.*up to 200, .* to be 1\n.*settings\.intensity_max=255"):
        read_pcd(path)
    assert read_pcd(path, intensity_max=200)[:, 3].tolist() == [0, 1]


def test_points_without_a_position_are_left_out_and_counted(tmp_path: Path) -> None:
    points = POINTS.copy()
    points[3, 1], points[7, 2], points[7, 0], points[9, 0] = np.nan, np.inf, np.nan, np.finfo(np.float32).max
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd_bytes(points))
    read = read_pcd_cloud(path)
    np.testing.assert_array_equal(read.points, np.delete(POINTS, [3, 7, 9], axis=0))
    assert (read.left_out, read.clipped, read.has_intensity) == (3, 0, True)
    points[:, 2] = -np.inf
    path.write_bytes(pcd_bytes(points))
    with pytest.raises(DataError, match=r"a\.pcd, key 'x': holds 40 points, none of them with a position.*\n  Way out"):
        read_pcd(path)


def edited(pattern: bytes, replacement: bytes) -> bytes:
    changed, count = re.subn(pattern, replacement, pcd_bytes(POINTS), count=1)
    assert count == 1
    return changed


BAD = {
    "truncated": (
        pcd_bytes(POINTS)[:-5],
        "POINTS",
        "40 points of 16 bytes and holds 635 bytes instead of 640",
    ),
    "cut in the header": (pcd_bytes(POINTS)[:60], "DATA", "not a PCD file"),
    "another file": (b"\x89PNG\r\n" * 100, "DATA", "not a PCD file"),
    "empty file": (b"", "DATA", "is empty"),
    "too long": (pcd_bytes(POINTS) + b"x" * 16, "POINTS", "declares 40 points of 16 bytes and holds 656"),
    "absurd count": (edited(rb"WIDTH 40\n(?s:.*)DATA", b"POINTS %d\nDATA" % (MAX_POINTS + 1)), "POINTS", "more than"),
    "negative count": (edited(rb"POINTS 40", b"POINTS -40"), "POINTS", "whole number"),
    "width": (edited(rb"WIDTH 40", b"WIDTH 41"), "POINTS", "WIDTH times HEIGHT"),
    "height": (edited(rb"HEIGHT 1", b"HEIGHT x"), "HEIGHT", "needs 'HEIGHT <whole number>'"),
    "nothing says how many": (edited(rb"WIDTH 40\n(?s:.*)DATA", b"DATA"), "POINTS", "neither POINTS nor WIDTH"),
    "count is a word": (edited(rb"COUNT 1 1 1 1", b"COUNT 1 1 1 one"), "rgb", "not whole numbers"),
    "small colours": (edited(rb"SIZE 4 4 4 4", b"SIZE 4 4 4 2"), "rgb", "holds colours of 2 bytes"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"7" * 64 + b"\nsize 206144\n",
        None,
        "is a Git LFS pointer",
    ),
    "a web page": (b"<!DOCTYPE html><html><title>Sign in</title>", None, "is a web page"),
    "no z": (edited(rb"x y z rgb", b"x y w rgb"), "z", "no field z"),
    "twice": (edited(rb"x y z rgb", b"x y z x"), "FIELDS", "twice"),
    "lengths": (edited(rb"SIZE 4 4 4 4", b"SIZE 4 4 4"), "FIELDS", "differ in length"),
    "type": (edited(rb"TYPE F F F F", b"TYPE F F O F"), "z", "type O"),
    "size": (edited(rb"SIZE 4 4 4 4", b"SIZE 4 4 3 4"), "z", "size 3"),
    "count": (edited(rb"COUNT 1 1 1 1", b"COUNT 1 1 1 99999"), "SIZE", "400,008 bytes for one point"),
    "encoding": (edited(rb"DATA binary", b"DATA zip"), "DATA", "'zip' is not an encoding"),
    "ascii rows": (
        edited(rb"DATA binary\n(?s:.*)", b"DATA ascii\n1 2 3 4\n"),
        "POINTS",
        "declares 40 points of 4 values and holds 4 values",
    ),
    "ascii words": (
        edited(rb"DATA binary\n(?s:.*)", b"DATA ascii\n" + b"1 2 three 4\n" * 40),
        "DATA",
        "one number for",
    ),
    "ascii rows of other lengths": (
        edited(rb"DATA binary\n(?s:.*)", b"DATA ascii\n" + b"1 2 3 4 5\n1 2 3\n" * 20),
        "DATA",
        "one number for each field",
    ),
    "compressed bomb": (
        edited(rb"DATA binary\n(?s:.*)", b"DATA binary_compressed\n\4\0\0\0\xff\xff\xff\xff1234"),
        "DATA",
        "block of 4 bytes that unpacks to 4,294,967,295",
    ),
    "compressed junk": (
        edited(rb"DATA binary\n(?s:.*)", b"DATA binary_compressed\n\x08\0\0\0\x80\2\0\0" + b"\xff" * 8),
        "DATA",
        "cannot be unpacked",
    ),
}
LIBRARIES = re.compile(r"pydantic|numpy|pypcd|lzf|Traceback|BytesIO|dtype|_io\\.", re.IGNORECASE)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, case: str) -> None:
    content, key, problem = BAD[case]
    path = tmp_path / "000068.pcd"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read_pcd(path)
    assert caught.value.key == key and caught.value.path == path and caught.value.way_out
    assert not LIBRARIES.search(str(caught.value).replace(str(path), ""))


FULL = 255
BYTES = np.rint(FULL * POINTS[:, 3]).astype(np.uint8)
WRITERS = real_files(POINTS)


@pytest.mark.parametrize("writer", WRITERS)
def test_real_writers(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "a.pcd"
    path.write_bytes(WRITERS[writer])
    read = read_pcd_cloud(path, intensity_max=FULL)
    assert read.points.dtype == np.float32 and read.points.flags.owndata and read.points.flags.writeable
    np.testing.assert_allclose(read.points, POINTS, rtol=1e-6, atol=1e-6)
    assert (read.left_out, read.clipped, read.has_intensity) == (0, 0, True)


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_an_organised_cloud_with_rays_without_return(tmp_path: Path, encoding: str) -> None:
    points, lost = POINTS.copy(), np.arange(40) % 5 == 0
    points[lost, :3], points[lost, 3] = np.nan, 0
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd_file(cloud(points, intensity=points[:, 3]), encoding, width=8, height=5))
    read = read_pcd_cloud(path)
    np.testing.assert_allclose(read.points, POINTS[~lost], rtol=1e-6, atol=1e-6)
    assert read.left_out == 8


def test_text_as_windows_writes_what_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "a.pcd"
    text = pcd_file(cloud(POINTS[:4], intensity=POINTS[:4, 3]), "ascii").decode().splitlines()
    text[-4:-1] = ["1.#QNAN -1.#IND 1.#INF 0", "nan(ind) -nan(ind) nan 0", "-1.#INF 0 0 0"]
    path.write_text("\n".join(text))
    read = read_pcd_cloud(path)
    np.testing.assert_allclose(read.points, POINTS[3:4], rtol=1e-6)
    assert read.left_out == 3


def test_without_intensity_all_are_0(tmp_path: Path) -> None:
    path = tmp_path / "a.pcd"
    for columns in (cloud(POINTS), cloud(POINTS, ring=BYTES, time=POINTS[:, 0].astype(np.float64))):
        path.write_bytes(pcd_file(columns))
        read = read_pcd_cloud(path)
        np.testing.assert_array_equal(read.points, POINTS * np.float32([1, 1, 1, 0]))
        assert not read.has_intensity


def test_intensities_without_an_upper_limit_are_clipped_if_somebody_gives_the_scale(tmp_path: Path) -> None:
    path = tmp_path / "a.pcd"
    raw = np.linspace(0, 1000, 40, dtype=np.float32)
    path.write_bytes(pcd_file(cloud(POINTS, intensity=raw)))
    read = read_pcd_cloud(path, intensity_max=500)
    np.testing.assert_allclose(read.points[:, 3], np.clip(raw / 500, 0, 1), rtol=1e-6)
    assert read.clipped == (raw > 500.5).sum() == 20
    with pytest.raises(DataError, match=r"up to 1000, but .* be 1\n.*intensity_max=65535"):
        read_pcd_cloud(path)


def test_bytes_are_of_255_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd_file(cloud(POINTS, intensity=BYTES // 2)))
    np.testing.assert_allclose(read_pcd(path)[:, 3], (BYTES // 2) / 255, rtol=1e-6)
    np.testing.assert_allclose(read_pcd(path, intensity_max=127)[:, 3], (BYTES // 2) / 127, rtol=1e-6)


def test_negative_intensities_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd_file(cloud(POINTS, intensity=POINTS[:, 3] - 0.5)))
    with pytest.raises(DataError, match=r"key 'intensity'.*cannot be negative"):
        read_pcd(path, intensity_max=255)


def test_a_header_that_lies_takes_no_memory(tmp_path: Path) -> None:
    """20 million points are promised: 320 MB that would be taken before anybody looks."""
    import tracemalloc

    path = tmp_path / "a.pcd"
    for encoding in ("ascii", "binary", "binary_compressed"):
        content = pcd_file(cloud(POINTS, intensity=POINTS[:, 3]), encoding, leave_out=("WIDTH", "HEIGHT"))
        content = content.replace(b"POINTS 40", b"POINTS 20000000")
        # the block's size agrees with the header: only what LZF can do at most contradicts it
        content = content.replace(np.array([640], "<u4").tobytes(), np.array([320_000_000], "<u4").tobytes())
        path.write_bytes(content)
        tracemalloc.start()
        with pytest.raises(DataError, match="truncated or corrupt"):
            read_pcd(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


def test_a_compressed_block_that_unpacks_to_another_size(tmp_path: Path) -> None:
    path = tmp_path / "a.pcd"
    content = pcd_file(cloud(POINTS, intensity=POINTS[:, 3]), "binary_compressed")
    head = content[: content.index(b"binary_compressed\n") + 18]
    for plain in (bytes(400), bytes(1000)):
        packed = lzf.compress(plain, 2000)
        path.write_bytes(head + np.array([len(packed), 640], "<u4").tobytes() + packed)
        with pytest.raises(DataError, match="cannot be unpacked"):
            read_pcd(path)


KINDS = ["f4", "f8", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"]


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 5)), max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
    st.sampled_from(["ascii", "binary", "binary_compressed"]),
    st.sampled_from(["f4", "f8"]),
    st.integers(0, 12),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_any_mixture_of_fields(
    tmp_path_factory: pytest.TempPathFactory,
    others: list[tuple[str, int]],
    padding: list[int],
    encoding: str,
    kind: str,
    points: int,
    random: Random,
) -> None:
    chosen = POINTS[:points]
    columns = [Column(axis, chosen[:, n].astype(kind)) for n, axis in enumerate("xyz")]
    columns.append(Column("intensity", chosen[:, 3].astype(kind)))
    columns += [Column(f"f{n}", np.ones((points, count), kind)) for n, (kind, count) in enumerate(others)]
    columns += [Column("_", padding=size) for size in padding]
    random.shuffle(columns)
    path = tmp_path_factory.mktemp("mixture") / "a.pcd"
    path.write_bytes(pcd_file(columns, encoding))
    np.testing.assert_allclose(read_pcd(path), chosen, rtol=1e-6, atol=1e-6)


def test_a_missing_file_is_an_error_not_an_empty_cloud(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"000068\.pcd: the point cloud is missing"):
        read_pcd(tmp_path / "000068.pcd")


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_random_damage_never_raises_anything_else(tmp_path: Path, encoding: str) -> None:
    from pypcd4 import Encoding

    path = save(tmp_path / "a.pcd", Encoding(encoding), rgb=np.uint32)
    original, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(original[: rng.integers(len(original)) if rng.random() < 0.3 else None])
        for place in rng.integers(0, max(len(damaged), 1), 4):
            if damaged:
                damaged[place % min(len(damaged), 400)] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            assert np.isfinite(read_pcd(path)).all()
