"""Rows by name and seed."""

from __future__ import annotations

import copy

import pytest

from heatv2x.errors import HeatError
from studies.table import RowName, paired
from studies.tests.adaptation_contents import make_contents, summary_of


def test_a_row_may_not_be_in_two_cells() -> None:
    contents = make_contents()
    contents["seed0/again"] = copy.deepcopy(contents["seed0/base"])
    with pytest.raises(HeatError, match="two cells"):
        summary_of(contents)


def test_names_are_taken_apart() -> None:
    assert RowName.of("lhft@x0.5") == RowName("", "lhft", "x0.5")
    assert RowName.of("ego_camera/late") == RowName("ego_camera", "late", "")
    assert RowName.of("camera/control/lhft_equal_steps") == RowName("control", "camera/lhft_equal_steps", "")


def test_pairs_need_both() -> None:
    assert paired({0: 1.0, 1: 5.0}, {1: 2.0, 2: 3.0}, lambda a, b: a - b) == {1: 3.0}
