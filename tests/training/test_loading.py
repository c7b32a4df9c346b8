"""Batches prepared ahead by workers: the same to the last bit, and clear words when one of them fails."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heatv2x.errors import ConfigError, DataError, HeatError
from heatv2x.training.loading import Prepared, batches
from heatv2x.training.loop import train
from tests.scene_factory import same_state
from tests.training.stages import FAST, STAGES, build_stage
from tests.training.test_loop import KilledError, loss_curve, stop_after


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the tests run."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)


@pytest.mark.parametrize("name", STAGES)
def test_the_weights_do_not_depend_on_the_workers(name: str) -> None:
    alone, helped = build_stage(name), build_stage(name)
    wanted, record = train(alone, FAST), train(helped, FAST.model_copy(update={"workers": 2}))
    assert same_state(helped.model.state_dict(), alone.model.state_dict())
    assert loss_curve(record) == loss_curve(wanted)
    assert record.cpu_seconds > 0 and 0 < record.waiting_seconds <= record.wall_seconds


def test_a_run_goes_on_with_other_workers(tmp_path: Path) -> None:
    whole, again, path = build_stage("base"), build_stage("base"), tmp_path / "checkpoint.safetensors"
    train(whole, FAST)
    with pytest.raises(KilledError):
        train(build_stage("base"), FAST.model_copy(update={"workers": 3}), path, progress=stop_after(4))
    train(again, FAST.model_copy(update={"workers": 1}), path)
    assert same_state(again.model.state_dict(), whole.model.state_dict())


class _Broken:
    """A stage whose batch 2 cannot be made."""

    def __init__(self, how: str) -> None:
        self.how, self.main = how, os.getpid()

    def batch(self, rng: np.random.Generator) -> torch.Tensor:
        if rng.random() != np.random.default_rng([0, 2, 0]).random():
            return torch.ones(1)
        if self.how == "killed" and os.getpid() != self.main:
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("town/0007.pcd", "is cut off", key="points", way_out="get it again")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_named(workers: int) -> None:
    stage: Any = _Broken("file")
    seen: list[Prepared] = []
    with pytest.raises(DataError, match=r"town/0007.pcd, key 'points': is cut off\n  Way out: get it again"):
        for prepared in batches(stage, 0, 0, 5, workers):
            seen.append(prepared)
    assert len(seen) == 2


def test_a_killed_worker_is_explained() -> None:
    stage: Any = _Broken("killed")
    with pytest.raises(HeatError, match=r"(?s)died at step \d.*smaller workers= or hold_data=false.*last checkpoint"):
        list(batches(stage, 0, 0, 5, 2))


def test_more_workers_than_cores_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="workers=5, but only 4 cores are available to this process: set workers=4 or fewer"
    ):
        next(batches(build_stage("base"), 0, 0, 5, 5))


def test_without_fork_there_are_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(ConfigError, match="workers=1 needs a system that can fork"):
        next(batches(build_stage("base"), 0, 0, 5, 1))
