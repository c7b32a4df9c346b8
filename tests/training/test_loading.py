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
from heatv2x.structures import Frame
from heatv2x.training.end_to_end import CollaborativeTraining
from heatv2x.training.loading import Prepared, batches
from heatv2x.training.loop import train
from heatv2x.training.pool import load_pool
from tests.scene_factory import SmallScenes, same_state, small_model
from tests.training.stages import FAST, SCENES, STAGES, build_stage
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


@pytest.mark.parametrize("workers", [0, 2])
def test_with_skip_another_batch_is_drawn_and_the_file_is_named(workers: int) -> None:
    """The same one whoever prepares it; all others stay what they were."""
    stage: Any = _Broken("file")
    found = list(batches(stage, 0, 0, 5, workers, skip=True))
    assert len(found) == 5 and [each.bad_files for each in found] == [(), (), ("town/0007.pcd",), (), ()]


def test_data_that_are_broken_throughout_are_an_error() -> None:
    class Hopeless:
        def batch(self, rng: np.random.Generator) -> torch.Tensor:
            raise DataError("town/0001.pcd", "is empty")

    stage: Any = Hopeless()
    with pytest.raises(HeatError, match=r"(?s)20 batches in a row .* town/0001.pcd.*data check"):
        list(batches(stage, 0, 0, 5, skip=True))


class _Holes(SmallScenes):
    """Scenes of which some cannot be read."""

    def __init__(self, bad: set[int], only_sensors: bool = False) -> None:
        super().__init__(frames=4, agents=2)
        self.bad, self.only_sensors = bad, only_sensors

    def read(self, index: int, sensors: Any) -> Frame:
        if index in self.bad and (sensors or not self.only_sensors):
            raise DataError(f"town/{index}.pcd", "is cut off")
        return super().read(index, sensors)


@pytest.mark.parametrize("hold", [True, False])
def test_frames_that_cannot_be_read_are_left_out_of_a_pool(hold: bool) -> None:
    agents = {"lidar64": small_model().agent("lidar64")}
    with pytest.raises(DataError, match=r"town/1\.pcd"):
        load_pool(_Holes({1}), agents, hold=hold)
    pool = load_pool(_Holes({1, 3}), agents, hold=hold, skip=True)
    dataset = SmallScenes(frames=4, agents=2)
    assert pool.bad_files == ["town/1.pcd", "town/3.pcd"]
    assert [frame.name for frame in pool.frames] == [dataset.name(0), dataset.name(2)]
    wanted = dataset.read(2, ["lidar64"]).agents[1]
    assert len(pool.agent(1, 1, "lidar64").lidars["lidar64"].points) == len(wanted.lidars["lidar64"].points)
    with pytest.raises(HeatError, match=r"none of the 4 frames can be read; the first bad file is town/0.pcd"):
        load_pool(_Holes({0, 1, 2, 3}), agents, hold=hold, skip=True)


def test_a_run_passes_over_a_bad_sweep_and_says_so() -> None:
    """Read from the disk at every draw, where only a draw finds out."""
    model = small_model(shake=0.05)
    pool = load_pool(_Holes({2}, only_sensors=True), {"lidar64": model.agent("lidar64")}, hold=False)
    stage = CollaborativeTraining(model, pool, {"lidar64": 1.0}, SCENES, 2)
    record = train(stage, FAST.model_copy(update={"on_bad_file": "skip"}))
    assert record.bad_files == ["town/2.pcd"] and record.steps == FAST.steps
    again = small_model(shake=0.05)
    stage = CollaborativeTraining(again, pool, {"lidar64": 1.0}, SCENES, 2)
    with pytest.raises(DataError, match=r"town/2\.pcd"):
        train(stage, FAST)
