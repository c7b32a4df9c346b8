"""PCD files as PCL, ROS, Open3D, sensors and simulators write them, made from columns; independent of the reader."""

from __future__ import annotations

from dataclasses import dataclass

import lzf
import numpy as np

_KINDS = {"f": "F", "u": "U", "i": "I"}


@dataclass(frozen=True)
class Column:
    """One field.

    Attributes:
        name: "_" for padding.
        values: (P,) or (P, count); None for padding.
        padding: how many bytes of padding.
        count: written into the header instead of the true one.
        kind: the type letter written into the header instead of the true one.
    """

    name: str
    values: np.ndarray | None = None
    padding: int = 0
    count: int | None = None
    kind: str | None = None

    @property
    def header(self) -> tuple[str, str, str, str]:
        """Name, size, type and count."""
        if self.values is None:
            return self.name, "1", "U", str(self.padding if self.count is None else self.count)
        width = 1 if self.values.ndim == 1 else self.values.shape[1]
        kind = self.kind or _KINDS[self.values.dtype.kind]
        return self.name, str(self.values.dtype.itemsize), kind, str(width if self.count is None else self.count)

    def block(self, points: int) -> np.ndarray:
        """(P, bytes) of this field."""
        if self.values is None:
            return np.zeros((points, self.padding), np.uint8)
        little = self.values.astype(self.values.dtype.newbyteorder("<"))
        return np.frombuffer(little.tobytes(), np.uint8).reshape(points, little[:1].nbytes if points else 0)

    def words(self, row: int) -> list[str]:
        """What a line of text says."""
        if self.values is None:
            return ["0"] * self.padding
        return [f"{value:.9g}" if value.dtype.kind == "f" else str(value) for value in np.atleast_1d(self.values[row])]


def cloud(points: np.ndarray, **more: np.ndarray) -> list[Column]:
    """x, y, z as float32 and more columns by name."""
    xyz = [Column(axis, points[:, n].astype(np.float32)) for n, axis in enumerate("xyz")]
    return [*xyz, *(Column(name, values) for name, values in more.items())]


def pcd_file(
    columns: list[Column],
    encoding: str = "binary",
    *,
    width: int | None = None,
    height: int = 1,
    version: str | None = "0.7",
    leave_out: tuple[str, ...] = (),
    newline: str = "\n",
) -> bytes:
    """The bytes of a file.

    Args:
        columns: in their order.
        encoding: ascii, binary or binary_compressed; padding is left out of the last, as PCL does.
        width, height: of an organised cloud.
        version: None leaves the line out.
        leave_out: lines of the header that are not written, "POINTS".
        newline: what ends a line of the header and of text.
    """
    points = next(len(each.values) for each in columns if each.values is not None)
    names, sizes, kinds, counts = zip(*(each.header for each in columns), strict=True)
    lines = [("VERSION", version), ("FIELDS", " ".join(names)), ("SIZE", " ".join(sizes)), ("TYPE", " ".join(kinds))]
    lines += [("COUNT", " ".join(counts)), ("WIDTH", str(width or points)), ("HEIGHT", str(height))]
    lines += [("VIEWPOINT", "0 0 0 1 0 0 0"), ("POINTS", str(points)), ("DATA", encoding)]
    text = ["# .PCD - Point Cloud Data file format"]
    text += [f"{key} {value}" for key, value in lines if value is not None and key not in leave_out]
    header = (newline.join(text) + newline).encode()
    if encoding == "ascii":
        rows = [" ".join(word for each in columns for word in each.words(row)) for row in range(points)]
        return header + "".join(row + newline for row in rows).encode()
    if encoding == "binary":
        return header + np.concatenate([each.block(points) for each in columns], axis=1).tobytes()
    blocks = [each.block(points).tobytes() for each in columns if each.values is not None]
    plain = b"".join(blocks)
    packed = lzf.compress(plain, 2 * len(plain) + 64) if plain else b""
    return header + np.array([len(packed), len(plain)], "<u4").tobytes() + packed


def real_files(points: np.ndarray) -> dict[str, bytes]:
    """One cloud as many programs write it, by the program; intensities from 0 to 255.

    Args:
        points: (P, 4) float32 with intensities in [0, 1] that are whole 255ths; P is a multiple of 5.
    """
    full = np.rint(255 * points[:, 3]).astype(np.uint8)
    red = full.astype(np.uint32) << 16
    alpha = red | np.uint32(0xFF000000)
    velodyne = [
        *cloud(points),
        Column("_", padding=4),
        Column("intensity", full.astype(np.float32)),
        Column("_", padding=0),
        Column("timestamp", np.full(len(full), 1.5e9)),
        Column("_", padding=6),
        Column("ring", np.arange(len(full), dtype=np.uint16)),
        Column("_", padding=12),
    ]
    autoware = cloud(points, intensity=full, return_type=full, channel=full.astype(np.uint16))
    features = cloud(points, fpfh=np.ones((len(full), 33), np.float32), intensity=full.astype(np.float32))
    return {
        "PCL": pcd_file(cloud(points, intensity=full.astype(np.float32))),
        "PCL, ascii": pcd_file(cloud(points, intensity=full.astype(np.float32)), "ascii"),
        "PCL, compressed": pcd_file(cloud(points, intensity=full.astype(np.float32)), "binary_compressed"),
        "PCL, organised": pcd_file(cloud(points, intensity=full.astype(np.float32)), width=len(points) // 5, height=5),
        "PCL, rgba": pcd_file(cloud(points, rgba=alpha)),
        "PCL, rgba, compressed": pcd_file(cloud(points, rgba=alpha), "binary_compressed"),
        "PCL, rgb as a float": pcd_file(cloud(points, rgb=red.view(np.float32))),
        "PCL, rgb as a number in text": pcd_file([*cloud(points), Column("rgb", red, kind="F")], "ascii"),
        "PCL, rgba in text": pcd_file(cloud(points, rgba=alpha), "ascii"),
        "PCL, many values": pcd_file(features),
        "PCL, many values, ascii": pcd_file(features, "ascii"),
        "PCL, many values, compressed": pcd_file(features, "binary_compressed"),
        "PCL before 1.0": pcd_file(
            cloud(points, intensity=full.astype(np.float32)), "ascii", version=".5", leave_out=("COUNT", "VIEWPOINT")
        ),
        "ROS, Velodyne": pcd_file(velodyne),
        "ROS, Velodyne, compressed": pcd_file(velodyne, "binary_compressed"),
        "ROS, Velodyne, ascii": pcd_file(velodyne, "ascii"),
        "ROS, COUNT 0 for 1": pcd_file([*cloud(points), Column("intensity", full.astype(np.float32), count=0)]),
        "ROS, COUNT 0 of a field": pcd_file(
            [*cloud(points, intensity=full), Column("tags", np.zeros((len(full), 0), np.uint8))]
        ),
        "Autoware": pcd_file(autoware),
        "Open3D, doubles": pcd_file(
            [*(Column(a, points[:, n].astype(np.float64)) for n, a in enumerate("xyz")), Column("intensity", full)]
        ),
        "CloudCompare": pcd_file(cloud(points, Scalar_Intensity=full.astype(np.float32))),
        "pypcd, i": pcd_file(cloud(points, i=full.astype(np.float32)), leave_out=("VERSION",)),
        "Intensity": pcd_file(cloud(points, Intensity=full.astype(np.uint16))),
        "reflectivity": pcd_file(cloud(points, reflectivity=full.astype(np.int32))),
        "Ouster, both": pcd_file(cloud(points, reflectivity=full // 2, intensity=full.astype(np.float32))),
        "other order": pcd_file([cloud(points, intensity=full.astype(np.float32))[n] for n in (3, 2, 0, 1)]),
        "odd fields": pcd_file([*cloud(points, intensity=full), Column("s", np.zeros(len(full), np.uint64), kind="S")]),
        "without POINTS": pcd_file(cloud(points, intensity=full), leave_out=("POINTS",)),
        "without WIDTH": pcd_file(cloud(points, intensity=full), leave_out=("WIDTH", "HEIGHT")),
        "without HEIGHT": pcd_file(cloud(points, intensity=full), leave_out=("HEIGHT", "POINTS")),
        "Windows": pcd_file(cloud(points, intensity=full.astype(np.float32)), newline="\r\n"),
        "Windows, ascii": pcd_file(cloud(points, intensity=full.astype(np.float32)), "ascii", newline="\r\n"),
        "Windows, marked": b"\xef\xbb\xbf" + pcd_file(cloud(points, intensity=full), "ascii", version="0.7"),
        "small letters": pcd_file(cloud(points, intensity=full))
        .replace(b"FIELDS", b"fields")
        .replace(b"DATA", b"data"),
        "COLUMNS": pcd_file(cloud(points, intensity=full)).replace(b"FIELDS", b"COLUMNS"),
        "a line break at the end": pcd_file(cloud(points, intensity=full)) + b"\n",
        "a whole memory page": pcd_file(cloud(points, intensity=full)) + bytes(4096),
    }
