"""Parameters at published size: within the target, as the page says, and as the jobs train them (`test_recipes.py`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from heatv2x.model.published_types import TYPES
from studies.parameters import PAGE, TARGET, Count, count, page, write_page
from tests.model.test_published_types import PARAMETERS

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"


@pytest.fixture(scope="module")
def counts() -> list[Count]:
    return count()


def test_every_newcomer_trains_at_most_the_target(counts: list[Count]) -> None:
    assert len(counts) == 10 and TARGET == 0.02
    assert not [each for each in counts if each.gcft > 0.02 * each.full]
    assert all(0 < each.lhft <= each.gcft and each.narrow <= each.base_parameters for each in counts)


def test_encoders_are_those_of_the_papers(counts: list[Count]) -> None:
    for each in counts:
        if each.newcomer in TYPES:
            assert each.encoder == PARAMETERS[each.newcomer]
        if each.base == "opv2v_h_pyramid":
            assert each.base_parameters == 5_237_847 + PARAMETERS["lidar64_pillars"]


def test_the_page_is_what_the_command_writes(counts: list[Count], tmp_path: Path) -> None:
    assert write_page(counts, tmp_path).read_text() == (DOCS / PAGE).read_text(), "run: heatv2x bench parameters"


def test_a_missed_target_is_said(counts: list[Count]) -> None:
    assert "met by all" in page(counts)
    small = replace(counts[0], newcomer="small", encoder=1, base_parameters=1_000_000, narrow=1_000_000)
    assert "**missed** by `small`" in page([*counts, small])
