"""Errors say where and what to do, also when they come from another process."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from heatv2x.errors import DataError


def fail(path: str) -> None:
    raise DataError(path, "is cut off", key="POINTS", way_out="get it again")


def test_a_data_error_names_file_key_and_way_out() -> None:
    with pytest.raises(DataError, match=r"(?s)a\.pcd, key 'POINTS': is cut off.*Way out: get it again"):
        fail("a.pcd")


def test_it_comes_back_whole_from_a_worker_process() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(DataError) as caught:
        pool.submit(fail, "a.pcd").result()
    error = caught.value
    assert (str(error.path), error.key, error.way_out) == ("a.pcd", "POINTS", "get it again")
    with pytest.raises(DataError) as direct:
        fail("a.pcd")
    assert str(error) == str(direct.value)
