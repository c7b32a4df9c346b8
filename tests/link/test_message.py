"""Messages: what goes in comes out, and whatever else arrives is refused in words."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heatv2x.core import plugins
from heatv2x.errors import HeatError, MessageError
from heatv2x.link.message import MAX_BOXES, MAX_BYTES, Message, pack, unpack, with_reported_pose
from heatv2x.structures import Boxes3D, PointCloud, Pose

HEADER = 176
SPACE = bytes(range(16))
FEATURE = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0)).relu()
BOXES = Boxes3D(np.float32([[1, 2, 0, 4, 2, 1.5, 0.3], [-9, 4, 0.5, 8, 2.5, 3, -3]]), scores=np.float32([0.9, 0.25]))


def tilted(x: float, y: float, z: float, roll: float, pitch: float, yaw: float) -> Pose:
    cr, cp, cy = (math.cos(v) for v in (roll, pitch, yaw))
    sr, sp, sy = (math.sin(v) for v in (roll, pitch, yaw))
    rotation = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, (x, y, z)
    return Pose(matrix)


MESSAGE = Message(-7, "lidar16", 3_400_000, tilted(1e5, -2e5, 3.5, 0.02, -0.05, 2.5), 0.25, 0.01, SPACE, FEATURE)
BOX_MESSAGE = replace(MESSAGE, feature=None, boxes=BOXES, codec="boxes")
BOTH = replace(MESSAGE, boxes=BOXES)
CLOUD = PointCloud(np.random.default_rng(1).uniform([-80, -80, -3, 0], [80, 80, 3, 1], (500, 4)).astype(np.float32))
POINT_MESSAGE = replace(MESSAGE, feature=None, points=CLOUD, codec="points")
VALUES = [part for part in plugins.available("codecs") if part != "codes"]
CODED = replace(MESSAGE, feature=None, codes=FEATURE.abs().round().clamp(1, 255), codec="codes")
KINDS = {
    "codes": CODED,
    "codes and boxes": replace(CODED, boxes=BOXES),
    "boxes": BOX_MESSAGE,
    "points": POINT_MESSAGE,
    "points and boxes": replace(POINT_MESSAGE, boxes=BOXES),
    **{part: replace(MESSAGE, codec=part) for part in VALUES},
    **{f"{part} and boxes": replace(BOTH, codec=part) for part in VALUES},
}


def credible_rows(count: int) -> np.ndarray:
    """(N, 7) boxes that a receiver takes."""
    rows = np.random.default_rng(0).normal(size=(count, 7))
    return np.abs(rows).astype(np.float32) % np.float32(3) + np.float32(0.1)


def same_boxes(arrived: np.ndarray, sent: np.ndarray) -> bool:
    """Equal but for the coding: 1/64 m, 1/512 m and 1/32768 of half a turn."""
    steps = np.array([1 / 64] * 3 + [1 / 512] * 3 + [math.pi / 2**15])
    return arrived.shape == sent.shape and bool((np.abs(arrived - sent) <= steps / 2 + 1e-6).all())


def on_the_wire(rows: np.ndarray) -> bytes:
    """(N, 8) boxes and scores as 16 bytes each, whatever they say."""
    x = [(*np.rint(r[:3] * 64), *np.rint(r[3:6] * 512), round(r[6] / math.pi * 2**15), r[7] * 65535) for r in rows]
    return b"".join(struct.pack("<3h3HhH", *(int(value) for value in box)) for box in x)


@pytest.mark.parametrize("kind", KINDS)
def test_another_pose_is_the_same_as_packing_anew(kind: str) -> None:
    message = KINDS[kind]
    pose = tilted(-3.25, 17.5, 0.1, -0.3, 0.2, -3.1)
    wanted = pack(replace(message, pose=pose, sigma_m=0.7, sigma_rad=0.03))
    assert with_reported_pose(pack(message), pose, 0.7, 0.03) == wanted != pack(message)


def crafted(data: bytes, payload: bytes | None = None, **fields: tuple[str, int, object]) -> bytes:
    """A message with other header fields (format, offset, value) and valid checksums: what an attacker can make."""
    payload = data[HEADER:] if payload is None else payload
    head = bytearray(data[: HEADER - 4])
    struct.pack_into("<I", head, 8, HEADER + len(payload))
    head[140:172] = hashlib.sha256(payload).digest()
    for layout, offset, value in fields.values():
        struct.pack_into(layout, head, offset, value)
    return bytes(head) + struct.pack("<I", zlib.crc32(head)) + payload


class TestRoundTrip:
    @pytest.mark.parametrize("kind", KINDS)
    def test_everything_arrives(self, kind: str) -> None:
        message = KINDS[kind]
        data = pack(message)
        arrived = unpack(data, SPACE)
        assert (arrived.sender, arrived.agent_type, arrived.captured_us) == (-7, "lidar16", 3_400_000)
        assert (arrived.sigma_m, arrived.sigma_rad) == (0.25, pytest.approx(0.01))
        assert arrived.feature_space == SPACE and arrived.codec == message.codec
        np.testing.assert_allclose(arrived.pose.matrix, message.pose.matrix, rtol=0, atol=1e-9)
        assert (arrived.boxes is None, arrived.feature is None) == (message.boxes is None, message.feature is None)
        if arrived.boxes is not None:
            assert arrived.boxes.scores is not None and same_boxes(arrived.boxes.boxes, BOXES.boxes)
            assert arrived.boxes.scores.tolist() == pytest.approx([0.9, 0.25], abs=1e-5)
        if arrived.feature is not None:
            seen = plugins.find("codecs", message.codec)().quantise(FEATURE[None])[0]
            assert torch.equal(arrived.feature, seen)
        assert (arrived.points is None) == (message.points is None)
        if arrived.points is not None:
            np.testing.assert_allclose(arrived.points.points[:, :3], CLOUD.points[:, :3], rtol=0, atol=0.0051)
            np.testing.assert_allclose(arrived.points.points[:, 3], CLOUD.points[:, 3], rtol=0, atol=0.5 / 255 + 1e-6)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_size_is_that_of_the_bytes(self, kind: str) -> None:
        data = pack(KINDS[kind])
        assert unpack(data).size_bytes == len(data) > HEADER
        assert KINDS[kind].size_bytes == 0

    @pytest.mark.parametrize("kind", KINDS)
    def test_passing_it_on_loses_next_to_nothing(self, kind: str) -> None:
        assert pack(KINDS[kind]) == pack(KINDS[kind])
        once = unpack(pack(KINDS[kind]))
        twice = unpack(pack(once))
        np.testing.assert_allclose(twice.pose.matrix, once.pose.matrix, rtol=0, atol=1e-9)
        if once.feature is not None and twice.feature is not None:
            torch.testing.assert_close(twice.feature, once.feature)
        assert (once.boxes is None) == (twice.boxes is None)
        if once.boxes is not None and twice.boxes is not None:
            assert np.array_equal(twice.boxes.boxes, once.boxes.boxes)

    @settings(max_examples=150, deadline=None)
    @given(
        position=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e4, 1e4)),
        roll=st.floats(-math.pi, math.pi),
        pitch=st.floats(-1.5, 1.5),
        yaw=st.floats(-math.pi, math.pi),
        sender=st.integers(-(2**63), 2**63 - 1),
        captured=st.integers(0, 2**64 - 1),
        name=st.from_regex(r"[!-~]{1,32}", fullmatch=True),
    )
    def test_all_six_degrees_of_freedom(
        self, position: tuple[float, ...], roll: float, pitch: float, yaw: float, sender: int, captured: int, name: str
    ) -> None:
        pose = tilted(*position, roll, pitch, yaw)  # type: ignore[arg-type]
        arrived = unpack(pack(replace(BOX_MESSAGE, pose=pose, sender=sender, captured_us=captured, agent_type=name)))
        np.testing.assert_allclose(arrived.pose.matrix, pose.matrix, rtol=0, atol=1e-9)
        assert (arrived.sender, arrived.captured_us, arrived.agent_type) == (sender, captured, name)

    def test_no_boxes_are_a_message_too(self) -> None:
        arrived = unpack(pack(replace(BOX_MESSAGE, boxes=Boxes3D.empty())))
        assert arrived.boxes is not None and len(arrived.boxes) == 0

    def test_boxes_without_scores_are_sure(self) -> None:
        arrived = unpack(pack(replace(BOX_MESSAGE, boxes=Boxes3D(BOXES.boxes))))
        assert arrived.boxes is not None and arrived.boxes.scores is not None and (arrived.boxes.scores == 1).all()

    def test_nothing_arrived_shares_memory_with_the_bytes(self) -> None:
        for message in KINDS.values():
            arrived = unpack(pack(message))
            if arrived.feature is not None:
                arrived.feature.add_(1)
            if arrived.boxes is not None:
                arrived.boxes.boxes[:] = 0

    @pytest.mark.parametrize("count", [0, 1, MAX_BOXES])
    def test_boxes_behind_a_feature_add_their_bytes_and_nothing_else(self, count: int) -> None:
        """The feature's bytes are those of a message without boxes; 16 bytes a box follow."""
        rows = credible_rows(count)
        boxes = Boxes3D(rows, scores=np.linspace(1, 0, count, dtype=np.float32))
        data, alone = pack(replace(BOTH, boxes=boxes)), pack(MESSAGE)
        assert len(data) == len(alone) + 16 * count and data[HEADER : len(alone)] == alone[HEADER:]
        arrived = unpack(data, SPACE)
        assert arrived.boxes is not None and same_boxes(arrived.boxes.boxes, rows)

    @pytest.mark.parametrize(("message", "number"), [(MESSAGE, 1), (BOX_MESSAGE, 2), (BOTH, 3), (POINT_MESSAGE, 4)])
    def test_the_header_says_what_is_in_it(self, message: Message, number: int) -> None:
        data = pack(message)
        assert data[6] == number and struct.unpack_from("<H", data, 138)[0] == (2 if number == 3 else 0)


class TestSending:
    @pytest.mark.parametrize(
        "wrong",
        [
            replace(BOTH, boxes=Boxes3D(credible_rows(MAX_BOXES + 1))),
            replace(MESSAGE, feature=None),
            replace(MESSAGE, points=CLOUD),
            replace(MESSAGE, agent_type="l" * 33),
            replace(MESSAGE, agent_type="ü"),
            replace(MESSAGE, agent_type=""),
            replace(MESSAGE, sigma_m=math.inf),
            replace(MESSAGE, pose=Pose.planar(2e6, 0.0, 0.0)),
            replace(MESSAGE, feature_space=b"short"),
            replace(MESSAGE, captured_us=-1),
            replace(MESSAGE, sender=2**63),
            replace(MESSAGE, feature=torch.zeros(70_000, 1, 1)),
        ],
    )
    def test_what_does_not_fit_is_refused(self, wrong: Message) -> None:
        with pytest.raises(MessageError):
            pack(wrong)

    def test_an_unknown_codec_is_named(self) -> None:
        with pytest.raises(HeatError, match="int8"):
            pack(replace(MESSAGE, codec="int9"))


class TestRefusal:
    def test_another_base_is_refused_with_both_ids(self) -> None:
        other = bytes(16)
        with pytest.raises(MessageError) as caught:
            unpack(pack(MESSAGE), other)
        assert SPACE.hex() in str(caught.value) and other.hex() in str(caught.value)
        assert unpack(pack(MESSAGE), None).feature_space == SPACE

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_flipped_byte_is_noticed(self, kind: str) -> None:
        data = pack(KINDS[kind])
        rng = np.random.default_rng(0)
        places = {*range(HEADER), *rng.integers(HEADER, len(data), 120).tolist(), len(data) - 1}
        for place in sorted(places):
            damaged = bytearray(data)
            damaged[place] ^= int(rng.integers(1, 256))
            with pytest.raises(MessageError):
                unpack(bytes(damaged), SPACE)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_cut_is_noticed(self, kind: str) -> None:
        data = pack(KINDS[kind])
        for length in (0, 1, 4, HEADER - 1, HEADER, HEADER + 1, len(data) - 1):
            with pytest.raises(MessageError):
                unpack(data[:length])
        for longer in (data + b"\0", data * 2):
            with pytest.raises(MessageError):
                unpack(longer)

    def test_a_very_long_one_is_not_looked_at(self) -> None:
        with pytest.raises(MessageError, match="cannot be a message"):
            unpack(bytes(MAX_BYTES + 1))

    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def test_whatever_has_valid_checksums_is_refused_or_a_message(self, data: st.DataObject) -> None:
        """An attacker can compute checksums: only the contents can give the message away."""
        head = bytearray(pack(KINDS[data.draw(st.sampled_from(sorted(KINDS)))]))
        for _ in range(data.draw(st.integers(1, 3))):
            head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
        try:
            arrived = unpack(crafted(bytes(head)))
        except MessageError:
            return
        assert np.isfinite(arrived.pose.matrix).all() and arrived.sigma_m >= 0
        assert arrived.feature is None or arrived.feature.isfinite().all()
        assert arrived.points is None or np.isfinite(arrived.points.points).all()

    @settings(max_examples=200, deadline=None)
    @given(data=st.binary(max_size=400))
    def test_noise_is_refused(self, data: bytes) -> None:
        for noise in (data, b"HV2M\x01\xb0" + data):
            with pytest.raises(MessageError):
                unpack(noise)

    @pytest.mark.parametrize(
        ("layout", "offset", "value", "says"),
        [
            ("<d", 76, float("nan"), "outside the range"),
            ("<d", 116, float("inf"), "outside the range"),
            ("<f", 124, -1.0, "outside the range"),
            ("<f", 128, float("nan"), "outside the range"),
            ("<d", 76, 1e39, "position 1e.39 m is outside"),
            ("<d", 84, -1.1e6, "position"),
            ("<d", 92, 1e5, "height"),
            ("<d", 100, 1e9, "angle"),
            ("<d", 116, -7.0, "angle"),
            ("<f", 124, 1e38, "uncertainty 1e.38 m is outside"),
            ("<f", 128, 3.2, "uncertainty 3.2 rad"),
            ("<32s", 44, b"", "the agent type '' is not a name"),
            ("<32s", 44, b"a\nb", "is not a name"),
            ("<B", 6, 9, "kind"),
            ("<B", 7, 77, "codec"),
            ("<B", 4, 1, "version"),
            ("<B", 5, 100, "version"),
            ("<B", 44, 0xFF, "UTF-8"),
            ("<H", 132, 5, "payload"),
            ("<H", 134, 0, "payload"),
        ],
    )
    def test_lies_with_valid_checksums(self, layout: str, offset: int, value: object, says: str) -> None:
        with pytest.raises(MessageError, match=says):
            unpack(crafted(pack(MESSAGE), lie=(layout, offset, value)))

    @pytest.mark.parametrize("codec", plugins.available("codecs"))
    @pytest.mark.parametrize("count", [0, 1, 3, MAX_BOXES, MAX_BOXES + 1, 65535])
    def test_a_wrong_number_of_boxes_behind_a_feature(self, codec: str, count: int) -> None:
        """Every box too few or too many leaves the feature too long or too short."""
        with pytest.raises(MessageError):
            unpack(crafted(pack(replace(BOTH, codec=codec)), lie=("<H", 138, count)))

    @pytest.mark.parametrize("message", [MESSAGE, BOX_MESSAGE, POINT_MESSAGE])
    def test_boxes_behind_nothing(self, message: Message) -> None:
        with pytest.raises(MessageError, match="cannot have 2 boxes"):
            unpack(crafted(pack(message), lie=("<H", 138, 2)))

    @pytest.mark.parametrize(("kind", "says"), [(1, "behind"), (2, "behind")])
    def test_both_under_another_kind(self, kind: int, says: str) -> None:
        with pytest.raises(MessageError, match=says):
            unpack(crafted(pack(BOTH), lie=("<B", 6, kind)))

    @pytest.mark.parametrize("codec", plugins.available("codecs"))
    def test_a_payload_of_both_that_is_cut_or_too_long(self, codec: str) -> None:
        data = pack(KINDS[f"{codec} and boxes"])
        payload = data[HEADER:]
        for wrong in (payload[:-1], payload[:-16], payload[1:], payload + b"\0", payload[:40], payload[-32:], b""):
            with pytest.raises(MessageError):
                unpack(crafted(data, wrong))

    @pytest.mark.parametrize("codec", plugins.available("codecs"))
    def test_a_bomb_is_not_unpacked(self, codec: str) -> None:
        """A feature of 65535^3 values, a frame that claims as much: refused before anything is allocated."""
        size = 65535**3
        frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x02\x00\x10\x00" * 50
        bomb = np.zeros(65535, "<f4").tobytes() + frame
        lies = {name: ("<H", offset, 65535) for name, offset in (("c", 132), ("y", 134), ("x", 136))}
        with pytest.raises(MessageError):
            unpack(crafted(pack(replace(MESSAGE, codec=codec)), bomb, **lies))

    def test_a_small_bomb_is_not_unpacked(self) -> None:
        """5 GB of zeros in real zstandard blocks of four bytes each."""
        size, block = 16 * 20_000 * 16_384, 2**17
        blocks = size // block
        rle = struct.pack("<I", (block << 3) | 0b010)[:3] + b"\0"
        last = struct.pack("<I", (block << 3) | 0b011)[:3] + b"\0"
        frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + rle * (blocks - 1) + last
        lies = {"c": ("<H", 132, 16), "y": ("<H", 134, 20_000), "x": ("<H", 136, 16_384)}
        with pytest.raises(MessageError, match="larger than any receiver unpacks"):
            unpack(crafted(pack(MESSAGE), np.ones(16, "<f4").tobytes() + frame, **lies))

    @pytest.mark.parametrize("lie", [(1, 500), (0, 499), (0, 501), (0, 0), (65535, 65535)])
    def test_a_wrong_number_of_points(self, lie: tuple[int, int]) -> None:
        fields = {"high": ("<H", 132, lie[0]), "low": ("<H", 134, lie[1])}
        with pytest.raises(MessageError):
            unpack(crafted(pack(POINT_MESSAGE), **fields))

    @pytest.mark.parametrize(
        ("column", "value"),
        [(0, 501.0), (1, -511.0), (2, -500.5), (3, 0.0), (4, 0.0), (5, 100.5), (4, 127.0)],
    )
    def test_boxes_that_cannot_be(self, column: int, value: float) -> None:
        rows = np.column_stack([credible_rows(2), [0.5, 0.6]])
        unpack(crafted(pack(BOX_MESSAGE), on_the_wire(rows)))
        rows[1, column] = value
        with pytest.raises(MessageError, match=r"box 1 .* cannot be"):
            unpack(crafted(pack(BOX_MESSAGE), on_the_wire(rows)))
        with pytest.raises(MessageError, match=r"box 1 .* cannot be"):
            unpack(crafted(pack(BOTH), pack(MESSAGE)[HEADER:] + on_the_wire(rows)))

    def test_more_boxes_than_a_scene_holds(self) -> None:
        rows = np.column_stack([credible_rows(1001), np.full(1001, 0.5)])
        with pytest.raises(MessageError, match="1001 boxes are more than the 1000"):
            unpack(crafted(pack(BOX_MESSAGE), on_the_wire(rows), count=("<H", 132, 1001)))

    @pytest.mark.parametrize("codec", ["raw", "int8", "sparse"])
    def test_a_feature_that_outshines_all_others(self, codec: str) -> None:
        bright = replace(MESSAGE, codec=codec, feature=FEATURE / FEATURE.max() * 1.1e4)
        with pytest.raises(MessageError, match="the feature holds 11000; no honest one goes beyond 10000"):
            unpack(pack(bright))

    def test_what_no_receiver_takes_is_not_sent(self) -> None:
        rows = credible_rows(4)
        rows[1, 3], rows[2, 0] = np.inf, 5e3
        scores = np.float32([0.1, 0.2, 0.3, 0.4])
        for message in (BOX_MESSAGE, BOTH):
            arrived = unpack(pack(replace(message, boxes=Boxes3D(rows, scores=scores)))).boxes
            assert arrived is not None and same_boxes(arrived.boxes, rows[[0, 3]])
        many = Boxes3D(credible_rows(1500), scores=np.linspace(0, 1, 1500, dtype=np.float32))
        arrived = unpack(pack(replace(BOX_MESSAGE, boxes=many))).boxes
        assert arrived is not None and same_boxes(arrived.boxes, many.boxes[500:])

    def test_half_a_box(self) -> None:
        with pytest.raises(MessageError, match="does not hold 2 boxes"):
            unpack(crafted(pack(BOX_MESSAGE), pack(BOX_MESSAGE)[HEADER:-4]))

    @pytest.mark.parametrize("yaw", [-6.28, -math.pi, -1e-9, 0.0, 3.0, math.pi, 6.28])
    def test_a_yaw_arrives_as_the_same_direction(self, yaw: float) -> None:
        rows = np.float32([[1, 2, 0, 4, 2, 1.5, yaw]])
        arrived = unpack(pack(replace(BOX_MESSAGE, boxes=Boxes3D(rows)))).boxes
        assert arrived is not None and -math.pi <= arrived.boxes[0, 6] < math.pi
        assert abs(math.remainder(float(arrived.boxes[0, 6]) - yaw, 2 * math.pi)) < 1e-4
