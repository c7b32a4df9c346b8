"""What all tests share: one torch thread per process, a cache folder of their own, the reference vectors."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch when it is imported

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from heatv2x.core.host import keep_freed_memory
from tests import parts

torch.set_num_threads(1)
keep_freed_memory()  # the suite takes less time


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--part package.module:Class`: run a contract test on a part of your own."""
    parser.addoption("--part", metavar="PACKAGE.MODULE:CLASS", help="run the contract tests on this part alone")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported: they list their parts then."""
    parts.outside = config.getoption("--part")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for this session, so that tests neither see nor change the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference vectors."""
    return Path(__file__).parent / "golden"
