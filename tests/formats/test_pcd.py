"""Point clouds: every encoding gives the same points; a bad file is one clear error."""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
from pypcd4 import PointCloud as Pypcd4Cloud

from heatv2x.errors import DataError
from heatv2x.formats.pcd import MAX_POINTS, read_pcd
from tests.formats.opv2v_tree import pcd_bytes

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
    with pytest.raises(DataError, match=r"key 'intensity'.*0 to 200, not 0 to 1\n.*intensity_max"):
        read_pcd(path)
    assert read_pcd(path, intensity_max=200)[:, 3].tolist() == [0, 1]


def test_non_finite_points_are_counted_in_the_error(tmp_path: Path) -> None:
    points = POINTS.copy()
    points[3, 1], points[7, 2], points[7, 0] = np.nan, np.inf, np.nan
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd_bytes(points))
    with pytest.raises(DataError, match=r"a\.pcd: 2 of 40 points have a NaN or infinite number\n  Way out"):
        read_pcd(path)


def edited(pattern: bytes, replacement: bytes) -> bytes:
    changed, count = re.subn(pattern, replacement, pcd_bytes(POINTS), count=1)
    assert count == 1
    return changed


BAD = {
    "truncated": (pcd_bytes(POINTS)[:-5], "POINTS", "declares 40 points and holds 39"),
    "cut in the header": (pcd_bytes(POINTS)[:60], "DATA", "not a PCD file"),
    "another file": (b"\x89PNG\r\n" * 100, "DATA", "not a PCD file"),
    "empty file": (b"", "DATA", "not a PCD file"),
    "too long": (pcd_bytes(POINTS) + b"x" * 16, "POINTS", "declares 40 points and holds 41"),
    "absurd count": (edited(rb"POINTS 40", b"POINTS %d" % (MAX_POINTS + 1)), "POINTS", "more than"),
    "negative count": (edited(rb"POINTS 40", b"POINTS -40"), "POINTS", "whole number"),
    "width": (edited(rb"WIDTH 40", b"WIDTH 41"), "POINTS", "WIDTH times HEIGHT"),
    "no colour": (edited(rb"x y z rgb", b"x y z abc"), "rgb", "has no intensity"),
    "no z": (edited(rb"x y z rgb", b"x y w rgb"), "z", "no field z"),
    "twice": (edited(rb"x y z rgb", b"x y z x"), "FIELDS", "twice"),
    "lengths": (edited(rb"SIZE 4 4 4 4", b"SIZE 4 4 4"), "FIELDS", "differ in length"),
    "type": (edited(rb"TYPE F F F F", b"TYPE F F O F"), "z", "type O"),
    "size": (edited(rb"SIZE 4 4 4 4", b"SIZE 4 4 4 3"), "rgb", "size 3"),
    "count": (edited(rb"COUNT 1 1 1 1", b"COUNT 1 1 1 99999"), "rgb", "count 99999"),
    "encoding": (edited(rb"DATA binary", b"DATA zip"), "DATA", "'zip' is not an encoding"),
    "ascii rows": (
        edited(rb"DATA binary\n(?s:.*)", b"DATA ascii\n1 2 3 4\n"),
        "POINTS",
        "declares 40 points and holds 1",
    ),
    "ascii words": (edited(rb"DATA binary\n(?s:.*)", b"DATA ascii\n1 2 three 4\n"), "DATA", "corrupt"),
    "compressed bomb": (
        edited(rb"DATA binary\n(?s:.*)", b"DATA binary_compressed\n\4\0\0\0\xff\xff\xff\xff1234"),
        "DATA",
        "block sizes",
    ),
    "compressed junk": (
        edited(rb"DATA binary\n(?s:.*)", b"DATA binary_compressed\n\4\0\0\0\x80\2\0\0\xff\xff\xff\xff"),
        "DATA",
        "corrupt",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, case: str) -> None:
    content, key, problem = BAD[case]
    path = tmp_path / "000068.pcd"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read_pcd(path)
    assert caught.value.key == key and caught.value.path == path and caught.value.way_out


def test_points_with_nan_are_left_out_if_asked_for(tmp_path: Path) -> None:
    rows = np.column_stack([POINTS[:, :3], 255 * POINTS[:, 3]]).astype("<f4")
    rows[3, 1], rows[5, 3] = np.nan, np.nan
    path = with_header(tmp_path / "a.pcd", "x y z intensity", "4 4 4 4", "F F F F", rows)
    with pytest.raises(DataError, match="NaN or infinite"):
        read_pcd(path, intensity_max=255)
    kept = read_pcd(path, intensity_max=255, drop_nan=True)
    np.testing.assert_allclose(kept, np.delete(POINTS, [3, 5], axis=0), rtol=1e-6)
    rows[7, 0] = np.inf
    with_header(path, "x y z intensity", "4 4 4 4", "F F F F", rows)
    with pytest.raises(DataError, match="1 of 38 points have a NaN or infinite"):
        read_pcd(path, intensity_max=255, drop_nan=True)


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
