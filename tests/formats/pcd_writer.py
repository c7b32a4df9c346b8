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
