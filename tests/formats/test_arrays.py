"""Point clouds as arrays: what .npy and .bin may hold, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatv2x.errors import DataError
from heatv2x.formats.arrays import read_bin, read_bin_cloud, read_npy, read_npy_cloud

RNG = np.random.default_rng(4)
POINTS = np.column_stack([RNG.uniform(-50, 50, (24, 3)), RNG.uniform(0, 1, 24)]).astype(np.float32)
MORE = np.hstack([POINTS, np.full((24, 2), 900, np.float32)])


def structured(points: np.ndarray, intensity: str = "intensity", kind: Any = "<f4") -> np.ndarray:
    """As ros_numpy gives a point cloud: padding between the fields, and more of them."""
    dtype = np.dtype(
        {
            "names": ["x", "y", "z", intensity, "ring"],
            "formats": ["<f4", "<f4", "<f4", kind, "<u2"],
            "offsets": [0, 4, 8, 16, 24],
            "itemsize": 32,
        }
    )
    records = np.zeros(len(points), dtype)
    for name, column in zip(("x", "y", "z", intensity), points.T, strict=True):
        records[name] = column
    return records


GOOD = {
    "float32": POINTS,
    "float64": POINTS.astype(np.float64),
    "big endian": POINTS.astype(">f4"),
    "Fortran order": np.asfortranarray(POINTS),
    "five columns": MORE[:, :5],
    "six columns": MORE,
    "organised": POINTS.reshape(4, 6, 4),
    "organised, Fortran order": np.asfortranarray(POINTS.reshape(4, 6, 4)),
    "structured": structured(POINTS),
    "structured, organised": structured(POINTS).reshape(6, 4),
    "structured, reflectivity": structured(POINTS, "reflectivity", "<f8"),
}


@pytest.mark.parametrize("case", GOOD)
def test_good_arrays(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.npy"
    np.save(path, GOOD[case])
    read = read_npy_cloud(path)
    assert read.points.dtype == np.float32 and read.points.flags.writeable and read.has_intensity
    np.testing.assert_allclose(read.points, POINTS, rtol=1e-6)


def test_half_precision_and_whole_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", POINTS.astype(np.float16))
    np.testing.assert_allclose(read_npy(tmp_path / "a.npy"), POINTS, atol=0.02)
    whole = np.array([[1, -2, 3, 0], [4, 5, -6, 200]], np.int16)
    np.save(tmp_path / "a.npy", whole)
    np.testing.assert_allclose(read_npy(tmp_path / "a.npy", intensity_max=200), whole / [1, 1, 1, 200])


def test_intensity_of_one_byte(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", structured(np.rint(POINTS * [1, 1, 1, 255]), kind="u1"))
    np.testing.assert_allclose(read_npy(tmp_path / "a.npy")[:, 3], POINTS[:, 3], atol=0.002)


@pytest.mark.parametrize("array", [POINTS[:, :3], structured(POINTS)[["x", "y", "z"]]], ids=["columns", "fields"])
def test_without_intensity(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    read = read_npy_cloud(tmp_path / "a.npy")
    assert not read.has_intensity
    np.testing.assert_array_equal(read.points, POINTS * np.float32([1, 1, 1, 0]))


@pytest.mark.parametrize("suffix", ["npy", "bin"])
def test_points_without_a_position_are_left_out_and_counted(tmp_path: Path, suffix: str) -> None:
    points, path = POINTS.copy(), tmp_path / f"a.{suffix}"
    points[2, 0], points[5, 2], points[7, 3] = np.nan, -np.inf, np.nan

    def read(points: np.ndarray) -> Any:
        if suffix == "npy":
            np.save(path, points)
            return read_npy_cloud(path)
        path.write_bytes(points.tobytes())
        return read_bin_cloud(path)

    cloud = read(points)
    np.testing.assert_array_equal(cloud.points, np.delete(POINTS, [2, 5, 7], axis=0))
    assert cloud.left_out == 3
    with pytest.raises(DataError, match="holds 24 points, none of them with a position"):
        read(np.full_like(points, np.nan))
    if suffix == "npy":
        assert len(read(points[:0]).points) == 0
    else:
        with pytest.raises(DataError, match="is empty"):
            read(points[:0])


def test_intensities_above_their_scale(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, POINTS * np.float32([1, 1, 1, 400]))
    with pytest.raises(DataError, match=r"intensity.*full intensity is taken to be 1\n.*intensity_max=65535"):
        read_npy(path)
    read = read_npy_cloud(path, intensity_max=255)
    assert read.points[:, 3].max() == 1 and read.clipped == (POINTS[:, 3] * 400 > 255.3).sum() > 3


def test_bin_of_any_number_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for columns in (3, 4, 5, 6):
        path.write_bytes(np.ascontiguousarray(MORE[:, :columns]).astype("<f4").tobytes())
        read = read_bin_cloud(path, columns=columns)
        np.testing.assert_array_equal(read.points, POINTS * np.float32([1, 1, 1, columns > 3]))
        assert read.has_intensity == (columns > 3)
    path.write_bytes(MORE[:23, :5].tobytes())
    with pytest.raises(
        DataError, match=r"is 460 bytes, expected 16 .*\n.* has 5 float32 numbers, set dataset\.settings\.bin_columns"
    ):
        read_bin(path)
    path.write_bytes(b"123")
    with pytest.raises(DataError, match="is 3 bytes, expected 16 for each"):
        read_bin(path)


BAD = {
    "objects": (np.array([[{"a": 1}] * 4], object), "holds pickled Python objects, .*never unpickled"),
    "objects in a field": (np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "O")]), "holds pickled Python objects"),
    "one number": (np.array(3.0), "has the shape"),
    "one row": (np.zeros(4), "has the shape"),
    "two columns": (np.zeros((5, 2)), "expected .P, C. or .H, W, C. with 3 to 16 columns"),
    "many columns": (np.zeros((5, 17)), "expected"),
    "turned": (np.zeros((4, 100)), r"has the shape \(4, 100\)(?s:.*)transpose it"),
    "four dimensions": (np.zeros((2, 2, 2, 4)), "has the shape"),
    "text": (np.zeros((2, 4), "U3"), "expected numbers"),
    "complex": (np.zeros((2, 4), complex), "expected numbers"),
    "bool": (np.zeros((2, 4), bool), "expected numbers"),
    "times": (np.zeros((2, 4), "M8[s]"), "expected numbers"),
    "no z": (structured(POINTS)[["x", "y", "ring"]], "has no field z"),
    "field of several": (np.zeros(3, [("x", "f4", 2), ("y", "f4"), ("z", "f4")]), "expected one number per point"),
    "negative": (POINTS - np.float32([0, 0, 0, 0.5]), "cannot be negative"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(tmp_path: Path, case: str) -> None:
    array, problem = BAD[case]
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=problem) as caught:
        read_npy(tmp_path / "a.npy")
    assert caught.value.way_out


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, POINTS)
    content = path.read_bytes()
    for bad, problem in (
        (b"", "is empty"),
        (content[:40], "is not a readable .npy array"),
        (b"PK\3\4" + content, "a zip archive"),
        (b"\x80\4" + content, "is not a readable .npy array"),
        (content[:-1], "is truncated: an array of shape .24, 4. takes 384 bytes, but only 383 follow"),
        (content.replace(b"(24, 4)", b"(9999999999999, 4)"), "is not a readable|declares 9999999999999 points"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 9\n", "a Git LFS pointer"),
    ):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=problem) as caught:
            read_npy(path)
        assert "magic" not in str(caught.value) and "numpy" not in str(caught.value)
