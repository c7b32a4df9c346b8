"""Names and numbers as the page writes them."""

from __future__ import annotations

import pytest

from heatv2x.evaluation.report import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.count(51180), "51\u202fk"),
        (words.count(7776), "7\u202f776"),
        (words.count(1234567), "1.2\u202fM"),
        (words.count(None), "–"),
        (words.seconds(70.2), "70\u202fs"),
        (words.seconds(3.14), "3.1\u202fs"),
        (words.seconds(174), "2\u202fmin 54\u202fs"),
        (words.seconds(3725), "1\u202fh 02\u202fmin"),
        (words.size(812), "812\u202fB"),
        (words.size(36864), "36.9\u202fkB"),
        (words.points(None), "–"),
        (words.percent(51180, 429535), "12\u202f%"),
        (words.percent(1, 0), None),
    ],
)
def test_numbers_are_short_and_have_units(text: str | None, expected: str | None) -> None:
    assert text == expected


def test_unknown_names_are_shown_as_they_are() -> None:
    assert words.wording("control/my_control") == words.Wording("my_control", "")
    assert words.sensor("radar") == "radar"
    assert words.stage_label("camera/local") == "Local adapters (LHFT) · camera"
    assert words.group_label("snow") == "snow"
