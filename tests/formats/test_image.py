"""Images: sizes and kinds are checked before anything is decompressed; the visibility rule is the golden one."""

import contextlib
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heatv2x.errors import DataError
from heatv2x.formats.carla import from_carla
from heatv2x.formats.image import intrinsics_fault, read_depth, read_rgb, read_visibility, visible_at
from heatv2x.structures import Pose
from tests.formats.opv2v_tree import png_bytes

GOLDEN = Path(__file__).parents[1] / "golden"


def png(tmp_path: Path, content: bytes | np.ndarray) -> Path:
    path = tmp_path / "a.png"
    if isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    else:
        path.write_bytes(content)
    return path


def test_colour_and_depth(tmp_path: Path) -> None:
    assert read_rgb(png(tmp_path, png_bytes("RGB", (800, 600), (1, 2, 3))))[599, 799].tolist() == [1, 2, 3]
    assert read_rgb(png(tmp_path, png_bytes("RGBA", (800, 600), (1, 2, 3, 9))), (800, 600)).shape == (600, 800, 3)
    depth = read_depth(png(tmp_path, png_bytes("L", (800, 600), 37)))
    assert depth.dtype == np.float32 and depth.shape == (600, 800) and (depth == 37).all()
    assert read_rgb(png(tmp_path, png_bytes("RGB", (4, 2), (1, 2, 3))), size=(4, 2)).shape == (2, 4, 3)


def bomb() -> bytes:
    """A PNG of 60000 x 60000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (800, 600)).save(stream, "JPEG")
    return stream.getvalue()


BAD = {
    "size": (
        png_bytes("RGB", (640, 480), (1, 2, 3)),
        r"is 640x480 pixels, expected 800x600\n.*fx and cx by the new width over the old one, fy and cy by",
    ),
    "grey": (png_bytes("L", (800, 600), 3), "pixels of kind L, expected RGB"),
    "cut": (png_bytes("RGB", (800, 600), (1, 2, 3))[:900], "not a readable PNG"),
    "cut in the header": (png_bytes("RGB", (800, 600), (1, 2, 3))[:20], "not a readable PNG"),
    "empty": (b"", "is empty, not an image"),
    "jpeg": (jpeg(), "not a readable PNG image: it is a JPEG file"),
    "web page": (b"\n<!doctype html>", "is a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "is a Git LFS pointer"),
    "bomb": (bomb(), "has more pixels than the limit of 40,000,000"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_one_clear_error(case: str, tmp_path: Path) -> None:
    content, problem = BAD[case]
    with pytest.raises(DataError, match=problem) as caught:
        read_rgb(png(tmp_path, content), (800, 600))
    assert caught.value.way_out and "BytesIO" not in str(caught.value)


def intrinsics(width: float, height: float) -> np.ndarray:
    """Of a camera whose optical axis meets the middle of an image of this size."""
    return np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1]])


@pytest.mark.parametrize("size", [(800, 600), (1920, 1080), (1280, 720), (64, 48)])
def test_images_have_the_size_that_their_intrinsics_are_for(tmp_path: Path, size: tuple[int, int]) -> None:
    K = intrinsics(*size)
    path = png(tmp_path, png_bytes("RGB", size, (1, 2, 3)))
    assert read_rgb(path, K=K, simulated=True).shape == (size[1], size[0], 3)
    K[:2, 2] -= 0.5  # pixels may be counted from their centres
    assert read_rgb(path, K=K).shape == (size[1], size[0], 3)
    for other in ((800, 600), (1920, 1080), (1280, 720), (64, 48)):
        if other != size:
            for simulated in (True, False):
                with pytest.raises(DataError, match=f"{size[0]}x{size[1]} pixels contradict .* {other[0]}x{other[1]}"):
                    read_rgb(path, K=intrinsics(*other), simulated=simulated)
    with pytest.raises(DataError, match=r"contradict(?s:.*)scale fx and cx by the new width over the old one"):
        read_depth(png(tmp_path, png_bytes("L", size, 3)), K=intrinsics(size[0] * 2, size[1] * 2))


def test_real_cameras_need_not_look_through_the_middle() -> None:
    """KITTI, nuScenes, DAIR-V2X and Waymo's side cameras (images cut at the top); then resized ones."""
    for cx, cy, size in (
        (610, 173, (1242, 375)),
        (816, 491, (1600, 900)),
        (941, 568, (1920, 1080)),
        (962, 641, (1920, 886)),
    ):
        K = np.array([[1000, 0, cx], [0, 1000, cy], [0, 0, 1]], float)
        assert intrinsics_fault(K, size) is None
        for scale in (0.4, 0.5, 0.75, 1.5, 2.0):
            smaller = (round(scale * size[0]), round(scale * size[1]))
            fault = intrinsics_fault(K, smaller)
            assert fault is not None or (cy / size[1] > 0.6 and scale > 1), (smaller, fault)


def test_depth_must_be_one_channel_of_bytes(tmp_path: Path) -> None:
    for content in (np.zeros((600, 800, 3), np.uint8), np.zeros((600, 800), np.uint16)):
        with pytest.raises(DataError, match="expected L"):
            read_depth(png(tmp_path, content))


def test_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the image is missing"):
        read_depth(tmp_path / "000068_depth0.png")


def test_random_damage_never_raises_anything_else(tmp_path: Path) -> None:
    original, rng = png_bytes("L", (256, 256), 9), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(original)
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(DataError):
            assert read_visibility(png(tmp_path, bytes(damaged))).shape == (256, 256)


def test_visibility_follows_the_golden_rule(tmp_path: Path) -> None:
    golden = np.load(GOLDEN / "l_objects.npz")
    vehicles = json.loads((GOLDEN / "l_vehicles.json").read_text())
    raster = read_visibility(png(tmp_path, golden["visibility_map"]))
    agent = Pose(from_carla(golden["camera_agent_pose"].tolist()))
    centres = np.array([np.add(v["location"], v.get("center", [0, 0, 0])) * [1, -1, 1] for v in vehicles.values()])
    xy = (np.c_[centres, np.ones(len(centres))] @ agent.inverse().T)[:, :2]
    seen = np.array([int(i) for i in vehicles])[visible_at(raster, xy)]
    assert set(golden["visible_ids"].tolist()) <= set(seen.tolist())


def test_visibility_at_the_raster_edges() -> None:
    raster = np.zeros((256, 256), bool)
    raster[127, 127] = raster[0, 0] = raster[255, 255] = True
    cells = np.array(
        [[0, 0], [0.97, -0.97], [1.03, 0], [127.5, 127.5], [-128.5, -128.5], [-129.5, -129.5], [1e12, -1e12]]
    )
    assert visible_at(raster, 0.39 * cells).tolist() == [True, True, False, True, True, False, False]
