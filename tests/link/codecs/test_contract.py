"""What every codec promises; a new file in heatv2x/link/codecs/ is tested by being there."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heatv2x.core import plugins
from heatv2x.errors import MessageError
from heatv2x.link.codecs.base import Codec
from tests.parts import parts

PARTS = parts("codecs")
SHAPE = (3, 8, 10)


def codec_of(part: str) -> Codec:
    codec: Codec = plugins.find("codecs", part)()
    return codec


@st.composite
def maps(draw: st.DrawFn) -> Tensor:
    """(C, Y, X) features: empty or dense, tiny or huge, with and without negative values, whole channels zero."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    values = torch.randn(shape, generator=generator) * 10.0 ** draw(st.sampled_from([-30, -8, -3, 0, 2, 5, 30]))
    values = values * (torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.1, 1.0])))
    values = values.relu() if draw(st.booleans()) else values
    if draw(st.booleans()):
        values[draw(st.integers(0, shape[0] - 1))] = 0
    if draw(st.booleans()):
        values[0, 0, 0] = draw(st.sampled_from([65504.0, 65520.0, 1e30, -3e38]))
    return values


@pytest.fixture(params=PARTS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return codec_of(request.param)


def feature(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).relu()


@pytest.mark.parametrize("part", PARTS)
@settings(max_examples=60, deadline=None)
@given(values=maps())
def test_bytes_and_quantise_give_the_same_tensor(part: str, values: Tensor) -> None:
    codec = codec_of(part)
    seen = codec.quantise(values[None])[0]
    through_bytes = codec.from_bytes(codec.to_bytes(values), (values.shape[0], values.shape[1], values.shape[2]))
    assert through_bytes.dtype == torch.float32 and through_bytes.shape == values.shape
    assert torch.equal(through_bytes, seen)


@pytest.mark.parametrize("part", PARTS)
@settings(max_examples=60, deadline=None)
@given(values=maps())
def test_gradients_pass_straight_through_and_change_no_value(part: str, values: Tensor) -> None:
    codec = codec_of(part)
    leaf = values[None].clone().requires_grad_()
    quantised = codec.quantise(leaf)
    assert torch.equal(quantised.detach(), codec.quantise(values[None]))
    weight = torch.arange(float(values.numel())).view_as(leaf)
    (quantised * weight).sum().backward()
    assert leaf.grad is not None and torch.equal(leaf.grad, weight)


def test_stays_close(codec: Codec) -> None:
    x = 5 * torch.randn(4, 3, 8, 10)
    if codec.wire_id == codec_of("codes").wire_id:  # of whole numbers
        x = torch.randint(1, 256, (4, 3, 8, 10)).float()
    worst = (codec.quantise(x) - x).abs().amax(dim=(2, 3))
    assert (worst <= x.abs().amax(dim=(2, 3)) / 127 / 2 * 1.001).all()


def test_agents_of_a_batch_do_not_touch_one_another(codec: Codec) -> None:
    x = torch.stack([feature(0), 100 * feature(1), torch.zeros(SHAPE)])
    for row, alone in zip(codec.quantise(x), x, strict=True):
        assert torch.equal(row, codec.quantise(alone[None])[0])


def test_zero_stays_zero(codec: Codec) -> None:
    x = feature() * (torch.rand(SHAPE) < 0.3)
    assert not codec.quantise(x[None])[0][x == 0].any()


def test_strided_features_are_no_problem(codec: Codec) -> None:
    x = feature().permute(0, 2, 1)
    assert torch.equal(codec.from_bytes(codec.to_bytes(x), (3, 10, 8)), codec.quantise(x[None])[0])


def test_wire_ids_are_unique_and_fit_a_byte() -> None:
    ids = {part: codec_of(part).wire_id for part in PARTS}
    assert len(set(ids.values())) == len(ids), ids
    assert all(0 < wire_id < 256 for wire_id in ids.values()), ids


def test_wire_ids_are_never_reused() -> None:
    """Ids that have been given away; a new codec adds its own line, and none ever changes."""
    given_away = {"int8": 1, "sparse": 4, "codes": 5, "raw": 128, "half": 129}
    assert {part: codec_of(part).wire_id for part in given_away} == given_away


def test_compact_means_smaller_than_float32() -> None:
    raw = len(codec_of("raw").to_bytes(feature()))
    for part in PARTS:
        if codec_of(part).compact:
            assert len(codec_of(part).to_bytes(feature())) < raw / 3, part


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "doubled"])
def test_another_length_is_refused(codec: Codec, damage: str) -> None:
    payload = codec.to_bytes(feature())
    wrong = {"cut": payload[:-1], "empty": b"", "longer": payload + b"\0", "doubled": payload * 2}[damage]
    with pytest.raises(MessageError):
        codec.from_bytes(wrong, SHAPE)


@pytest.mark.parametrize("shape", [(3, 8, 9), (4, 8, 10), (3, 80, 100), (60000, 60000, 60000), (0, 8, 10)])
def test_another_shape_is_refused(codec: Codec, shape: tuple[int, int, int]) -> None:
    with pytest.raises(MessageError):
        codec.from_bytes(codec.to_bytes(feature()), shape)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_does_not_arrive(codec: Codec, value: float) -> None:
    x = feature()
    x[1, 2, 3] = value
    try:
        arrived = codec.from_bytes(codec.to_bytes(x), SHAPE)
    except MessageError:
        return
    assert arrived.isfinite().all()


@pytest.mark.parametrize("part", PARTS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_a_finite_feature(part: str, data: st.DataObject) -> None:
    payload = bytearray(codec_of(part).to_bytes(feature()))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrived = codec_of(part).from_bytes(
            bytes(payload[: data.draw(st.sampled_from([None, len(payload) // 2]))]), SHAPE
        )
    except MessageError:
        return
    assert arrived.shape == SHAPE and arrived.isfinite().all()


class TestInt8:
    """What an attacker may send instead of scales and a zstandard frame."""

    def payload(self, scales: float, levels: bytes) -> bytes:
        return np.full(SHAPE[0], scales, "<f4").tobytes() + levels

    @pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, 3.4e38])
    def test_a_scale_that_makes_no_number_is_refused(self, scale: float) -> None:
        levels = zstandard.compress(np.full(SHAPE, 127, np.int8).tobytes())
        with pytest.raises(MessageError, match="scale"):
            codec_of("int8").from_bytes(self.payload(scale, levels), SHAPE)

    def test_a_level_nobody_writes_is_refused(self) -> None:
        with pytest.raises(MessageError, match="level"):
            codec_of("int8").from_bytes(self.payload(1.0, zstandard.compress(b"\x80" * 240)), SHAPE)

    @pytest.mark.parametrize("claimed", [241, 2**20, 2**40, 2**63])
    def test_a_frame_that_claims_more_than_the_feature_is_refused_before_it_is_unpacked(self, claimed: int) -> None:
        frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", claimed) + (b"\x02\x00\x10\x00" * 8)
        with pytest.raises(MessageError, match=r"needs 240|cannot be unpacked"):
            codec_of("int8").from_bytes(self.payload(1.0, frame), SHAPE)

    def test_a_frame_that_holds_more_than_it_claims_is_refused(self) -> None:
        honest = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**22))
        assert len(honest) < 1000
        lying = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 240) + _rle_block(2**17)
        for frame in (honest, lying):
            with pytest.raises(MessageError):
                codec_of("int8").from_bytes(self.payload(1.0, frame), SHAPE)

    def test_empty_maps_take_next_to_nothing(self) -> None:
        assert len(codec_of("int8").to_bytes(torch.zeros(16, 64, 64))) < 4 * 16 + 40


class TestSparse:
    """Cells that hold nothing cost next to nothing, and what an attacker may say about them is checked."""

    def few_cells(self, share: float) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(48, 64, 64, generator=generator).relu()
        return values * (torch.rand(64, 64, generator=generator) < share)

    @pytest.mark.parametrize("share", [0.02, 0.1, 0.25])
    def test_is_smaller_than_int8_where_few_cells_are_sent(self, share: float) -> None:
        feature = self.few_cells(share)
        sizes = {part: len(codec_of(part).to_bytes(feature)) for part in ("sparse", "int8")}
        assert sizes["sparse"] < 0.95 * sizes["int8"], sizes

    def test_bytes_follow_the_number_of_cells(self) -> None:
        sizes = [len(codec_of("sparse").to_bytes(self.few_cells(share))) for share in (0.0, 0.05, 0.1, 0.2)]
        fixed, growth = sizes[0], np.diff(sizes) / np.diff([0.0, 0.05, 0.1, 0.2])
        assert fixed < 4 * 48 + 40 and growth.max() < 1.15 * growth.min(), sizes

    def payload(self, count: int, bits: bytes, levels: bytes) -> bytes:
        scales = np.ones(SHAPE[0], "<f4").tobytes()
        return scales + struct.pack("<I", count) + zstandard.compress(bits + levels)

    def test_a_map_that_marks_other_cells_than_claimed_is_refused(self) -> None:
        good = self.payload(2, b"\xc0" + bytes(9), b"\1" * 6)
        assert codec_of("sparse").from_bytes(good, SHAPE)[:, 0, :2].eq(1).all()
        for count, bits in ((2, b"\x80" + bytes(9)), (1, b"\xc0" + bytes(9))):
            with pytest.raises(MessageError, match="bit map"):
                codec_of("sparse").from_bytes(self.payload(count, bits, b"\1" * 3 * count), SHAPE)
        with pytest.raises(MessageError, match="claims 81 cells"):
            codec_of("sparse").from_bytes(self.payload(81, bytes(10), b"\1" * 243), SHAPE)

    def test_bits_beyond_the_map_are_refused(self) -> None:
        shape = (3, 3, 3)  # 9 cells, 7 bits of padding
        assert codec_of("sparse").from_bytes(self.payload(1, b"\x80\0", b"\1" * 3), shape).sum() == 3
        with pytest.raises(MessageError, match="bit map"):
            codec_of("sparse").from_bytes(self.payload(1, b"\x80\1", b"\1" * 3), shape)

    def test_a_level_nobody_writes_is_refused(self) -> None:
        with pytest.raises(MessageError, match="level"):
            codec_of("sparse").from_bytes(self.payload(1, b"\x80" + bytes(9), b"\x80" * 3), SHAPE)


def _rle_block(size: int) -> bytes:
    """The last block of a zstandard frame: `size` zeros in four bytes."""
    return struct.pack("<I", (size << 3) | 0b011)[:3] + b"\0"
