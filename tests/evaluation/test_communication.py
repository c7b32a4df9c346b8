"""Traffic from measured message lengths."""

from __future__ import annotations

import json

import pytest

from heatv2x.evaluation.communication import measure_link_load


def test_traffic_by_hand() -> None:
    traffic = measure_link_load([[1000, 3000], [], [2000]])
    assert traffic.message_bytes == 2000
    assert traffic.frame_bytes == 2000
    assert (traffic.n_messages, traffic.n_frames) == (3, 3)
    assert traffic.sender_mbit_per_s == pytest.approx(0.16)
    uneven = measure_link_load([[1000, 3000, 2000], []])
    assert (uneven.message_bytes, uneven.frame_bytes) == (2000, 3000)
    assert measure_link_load([[1000, 3000], []], rate_hz=20).received_mbit_per_s == pytest.approx(0.32)
    assert json.loads(json.dumps(traffic.to_dict()))["sender_mbit_per_s"] == pytest.approx(0.16)


def test_silence_costs_nothing() -> None:
    assert measure_link_load([]).message_bytes == 0
    assert measure_link_load([[], []]).received_mbit_per_s == 0
