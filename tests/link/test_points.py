"""A sweep as bytes: small, to the centimetre, and nothing that is not a place."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from heatv2x.errors import MessageError
from heatv2x.link.points import POINT_BYTES, from_bytes, to_bytes
from heatv2x.structures import PointCloud


def cloud(count: int = 300, seed: int = 0) -> PointCloud:
    low, high = [-100, -100, -4, 0], [100, 100, 4, 1]
    return PointCloud(np.random.default_rng(seed).uniform(low, high, (count, 4)).astype(np.float32))


@pytest.mark.parametrize("count", [0, 1, 300, 70_000])
def test_arrive_to_the_centimetre_in_their_order(count: int) -> None:
    sent = cloud(count)
    number, payload = to_bytes(sent)
    arrived = from_bytes(payload, number)
    assert number == len(arrived) == count and arrived.points.dtype == np.float32
    np.testing.assert_allclose(arrived.points[:, :3], sent.points[:, :3], rtol=0, atol=0.00501)
    np.testing.assert_allclose(arrived.points[:, 3], sent.points[:, 3], rtol=0, atol=0.5 / 255 + 1e-6)


def test_take_less_than_half_of_float32() -> None:
    number, payload = to_bytes(cloud(10_000))
    assert len(payload) < POINT_BYTES * number * 1.01 < 0.45 * cloud(10_000).points.nbytes


def test_what_is_far_or_nowhere_is_left_out() -> None:
    points = cloud(6).points.copy()
    points[1, 0], points[2, 1], points[3, 2] = 400.0, np.nan, -np.inf
    points[4, 3] = 7.0  # an intensity out of range is only clipped
    number, payload = to_bytes(PointCloud(points))
    arrived = from_bytes(payload, number)
    np.testing.assert_allclose(arrived.points[:, 0], points[[0, 4, 5], 0], atol=0.00501)
    assert arrived.points[1, 3] == 1.0


@pytest.mark.parametrize("count", [299, 301, 0, 2**31])
def test_another_number_is_refused(count: int) -> None:
    with pytest.raises(MessageError):
        from_bytes(to_bytes(cloud())[1], count)


def test_damage_is_refused() -> None:
    _, payload = to_bytes(cloud())
    for wrong in (b"", payload[:-1], payload + b"\0", zstandard.compress(bytes(5))):
        with pytest.raises(MessageError):
            from_bytes(wrong, 300)
