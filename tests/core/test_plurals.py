"""Numbers of things in messages."""

import pytest

from heatv2x.core.plurals import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 agents"), (1, "1 agent"), (2, "2 agents"), (1_024, "1,024 agents"), (-1, "-1 agents")]
)
def test_the_noun_goes_with_the_number(number: int, text: str) -> None:
    assert counted(number, "agent") == text


def test_nouns_with_a_plural_of_their_own() -> None:
    assert counted(1, "box", "boxes") == "1 box" and counted(3, "box", "boxes") == "3 boxes"
