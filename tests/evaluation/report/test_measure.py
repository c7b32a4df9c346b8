"""A protocol in sentences: nothing it says is lost, and nothing is said that it does not say."""

from __future__ import annotations

import pytest

from heatv2x.evaluation.protocols import PROTOCOLS
from heatv2x.evaluation.report.measure import sentences


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_every_protocol_can_be_read_aloud(name: str) -> None:
    text = sentences(PROTOCOLS[name].to_dict())
    assert text.startswith(PROTOCOLS[name].description) and text.endswith(".")
    assert "at least 0.3, 0.5 or 0.7" in text and "Further settings" not in text
    for raw in ("None", "_", "[", "{", "gt centric", "per frame", "..", "bev,"):
        assert raw not in text.removeprefix(PROTOCOLS[name].description)


def test_what_a_protocol_leaves_out_or_adds_is_said() -> None:
    text = sentences(PROTOCOLS["heal_in_order"].to_dict())
    assert "\u2212204.8 to 204.8 m ahead, \u2212102.4 to 102.4 m to the left and \u22123 to 1 m up" in text
    assert "all corners" in text and "longer than 6 m" in text and "farther than 180 m" in text
    assert "At most 5 agents" in text and "own body" in text
    assert "first detection of the ranking is left out" in sentences(PROTOCOLS["dair_official_3d"].to_dict())
    assert "volume" in sentences(PROTOCOLS["dair_official_3d"].to_dict())
    assert "within each frame only" in sentences(PROTOCOLS["opencood_unsorted"].to_dict())
    assert "camera" in sentences({"visible_to": "camera"})


def test_unknown_settings_are_kept_and_nothing_is_invented() -> None:
    assert sentences({"name": "x"}) == ""
    assert sentences({"name": "x", "split_rule": ["a", 1]}) == "Further settings: split rule a, 1."
