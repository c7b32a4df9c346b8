"""The one loop: exact continuation, the proof that frozen tensors stayed, and what it refuses."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heatv2x.core.config import build
from heatv2x.errors import ConfigError, DataError, HeatError
from heatv2x.training.loop import LoopConfig, TrainingRecord, frozen_digest, train
from heatv2x.training.optimiser import learning_rate
from heatv2x.training.stage import Stage
from tests.scene_factory import changed, same_state, shaken, state_copy
from tests.training.stages import FAST, STAGES, build_stage


class KilledError(Exception):
    """Stands for a process that ends in the middle."""


def stop_after(step: int) -> Any:
    def progress(done: int, total: int, terms: dict[str, float]) -> None:
        if done == step:
            raise KilledError

    return progress


def loss_curve(record: TrainingRecord) -> list[dict[str, float]]:
    """The curve without its seconds."""
    return [{key: value for key, value in point.items() if key != "cpu_seconds"} for point in record.curve]


class TestResume:
    @pytest.mark.parametrize("name", STAGES)
    @pytest.mark.parametrize("stop", [4, 5])
    def test_continued_is_bit_identical_to_uninterrupted(self, name: str, stop: int, tmp_path: Path) -> None:
        whole = build_stage(name)
        wanted = train(whole, FAST)
        path = tmp_path / "checkpoint.safetensors"
        with pytest.raises(KilledError):
            train(build_stage(name), FAST, path, progress=stop_after(stop))
        again = build_stage(name)
        shaken(again.model.head.output, 0.0)  # type: ignore[arg-type]
        record = train(again, FAST, path)
        assert same_state(again.model.state_dict(), whole.model.state_dict())
        assert loss_curve(record) == loss_curve(wanted) and record.steps == 6
        assert record.frozen_proof == wanted.frozen_proof

    def test_only_what_was_missing_is_done(self, tmp_path: Path) -> None:
        path, steps = tmp_path / "c.safetensors", []
        with pytest.raises(KilledError):
            train(build_stage("local"), FAST, path, progress=stop_after(4))
        train(build_stage("local"), FAST, path, progress=lambda done, total, _: steps.append((done, total)))
        assert steps == [(4, 6), (5, 6), (6, 6)]

    def test_a_finished_stage_is_not_trained_again(self, tmp_path: Path) -> None:
        path, first, again = tmp_path / "c.safetensors", build_stage("local"), build_stage("local")
        record = train(first, FAST, path)
        steps: list[int] = []
        after = train(again, FAST, path, progress=lambda done, *_: steps.append(done))
        assert not steps and same_state(again.model.state_dict(), first.model.state_dict())
        assert (after.steps, after.cpu_seconds, after.curve) == (record.steps, record.cpu_seconds, record.curve)

    def test_seconds_add_up(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        with pytest.raises(KilledError):
            train(build_stage("local"), FAST, path, progress=stop_after(4))
        record = train(build_stage("local"), FAST, path)
        points = [point["cpu_seconds"] for point in record.curve]
        assert points == sorted(points) and record.cpu_seconds >= points[-1] - 1e-3 and record.wall_seconds > 0

    @pytest.mark.parametrize("change", [{"lr": 1e-3}, {"steps": 7}, {"seed": 1}, {"clip": 1.0}])
    def test_other_settings_are_refused_and_named(self, change: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        train(build_stage("local"), FAST, path)
        with pytest.raises(ConfigError, match=next(iter(change))) as caught:
            train(build_stage("local"), FAST.model_copy(update=change), path)
        assert str(path) in str(caught.value) and "delete it" in str(caught.value)

    def test_another_identity_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        train(build_stage("local"), FAST, path, identity={"steps": 6, "data": "a"})
        with pytest.raises(ConfigError, match="data"):
            train(build_stage("local"), FAST, path, identity={"steps": 6, "data": "b"})
        train(build_stage("local"), FAST, path, identity={"steps": 6, "data": "a"})

    def test_another_base_is_refused_before_a_step_is_made(self, tmp_path: Path) -> None:
        """The checkpoint holds the frozen tensors as well: continuing would silently replace this base by that one."""
        path, steps = tmp_path / "c.safetensors", []
        with pytest.raises(KilledError):
            train(build_stage("local"), FAST, path, progress=stop_after(4))
        other = build_stage("local")
        shaken(other.model.backbone, 0.1)
        with pytest.raises(HeatError):
            train(other, FAST, path, progress=lambda done, *_: steps.append(done))
        assert not steps

    @pytest.mark.parametrize("damage", ["cut", "empty", "text", "flip", "other model", "no record"])
    def test_a_broken_checkpoint_is_a_data_error(self, damage: str, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        train(build_stage("collaborative" if damage == "other model" else "local"), FAST, path)
        content = path.read_bytes()
        damaged = {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "text": b"not a checkpoint",
            "flip": content[:9] + b"\xff" + content[10:],
            "no record": content.replace(b'"record"', b'"rekord"'),
        }
        if damage == "other model":
            stage = build_stage("base")
        else:
            path.write_bytes(damaged[damage])
            stage = build_stage("local")
        with pytest.raises(DataError, match="training cannot continue from it") as caught:
            train(stage, FAST, path)
        assert str(path) in str(caught.value) and "Way out" in str(caught.value)

    def test_nothing_is_written_unless_asked(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        train(build_stage("local"), FAST.model_copy(update={"checkpoint_every": 0}), path)
        assert not list(tmp_path.iterdir())


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from heatv2x.training.loop import train
from tests.training.stages import FAST, build_stage
def progress(done, total, terms):
    print("step", done, flush=True)
    if done == 5:
        sys.stdin.read()  # until it is killed, or nobody is left who would
train(build_stage("base"), FAST, Path(sys.argv[1]), progress=progress)
"""


@pytest.mark.slow
def test_killed_without_warning_and_continued_is_bit_identical(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "step 5\n" for line in lines), process.stderr.read() if process.stderr else ""
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    whole, again = build_stage("base"), build_stage("base")
    train(whole, FAST)
    steps: list[int] = []
    train(again, FAST, path, progress=lambda done, *_: steps.append(done))
    assert steps == [4, 5, 6] and same_state(again.model.state_dict(), whole.model.state_dict())


class TestSeed:
    def test_the_same_seed_gives_the_same_weights(self) -> None:
        states = []
        for seed, noise in ((0, 1), (0, 2), (1, 1)):
            stage = build_stage("collaborative")
            torch.manual_seed(noise)
            np.random.seed(noise)
            train(stage, FAST.model_copy(update={"seed": seed}))
            states.append(state_copy(stage.model))
        assert same_state(states[0], states[1]) and not same_state(states[0], states[2])


class Cheat(Stage):
    """Declares one stage's tensors and touches others all the same."""

    name = "cheat"

    def __init__(self, honest: Stage, how: str) -> None:
        super().__init__(honest.model)
        self.honest, self.how = [honest], how

    def trainable(self) -> list[str]:
        return self.honest[0].trainable()

    def draw(self, rng: np.random.Generator) -> Any:
        return self.honest[0].draw(rng)

    def collate(self, items: Any, drawn: Any) -> Any:
        return self.honest[0].collate(items, drawn)

    def set_mode(self) -> None:
        self.model.train(self.how == "statistics")

    def losses(self, batch: Any) -> dict[str, Tensor]:
        if self.how == "weight":
            with torch.no_grad():
                self.model.head.output.bias[3] += 1e-6  # type: ignore[union-attr,index]
        if self.how == "buffer":
            self.model.backbone[0].first[1].running_var[0] *= 1.0001  # type: ignore[index,union-attr]
        return self.honest[0].losses(batch)


class TestFrozen:
    @pytest.mark.parametrize("how", ["weight", "statistics", "buffer"])
    @pytest.mark.parametrize("name", ["local", "collaborative"])
    def test_a_stage_that_cheats_is_found_out(self, name: str, how: str) -> None:
        with pytest.raises(RuntimeError, match="stage 'cheat' changed a frozen tensor"):
            train(Cheat(build_stage(name), how), FAST.model_copy(update={"steps": 1}))

    def test_an_honest_one_is_not(self) -> None:
        assert train(Cheat(build_stage("local"), "not"), FAST).frozen_proof["bit_identical"]

    def test_only_the_declared_tensors_are_free(self) -> None:
        stage = build_stage("local")
        train(stage, FAST.model_copy(update={"steps": 1}))
        free = {name for name, p in stage.model.named_parameters() if p.requires_grad}
        assert free == set(stage.trainable())

    def test_the_digest_knows_every_frozen_tensor(self) -> None:
        model = build_stage("local").model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("senders."))
        count, before = frozen_digest(model)
        assert count == sum(1 for name in model.state_dict() if not name.startswith("senders."))
        for name, value in model.state_dict().items():
            old = value.clone()
            value.add_(1)
            assert (frozen_digest(model)[1] == before) == name.startswith("senders."), name
            value.copy_(old)
        assert frozen_digest(model) == (count, before)

    def test_nothing_to_train_is_a_config_error(self) -> None:
        stage = build_stage("local")
        stage.trainable = list  # type: ignore[method-assign]
        with pytest.raises(ConfigError, match="nothing to train"):
            train(stage, FAST)


class TestSteps:
    def test_the_rate_rises_and_falls(self) -> None:
        rates = [learning_rate(step, 100, 2e-3) for step in range(100)]
        assert rates[14] == max(rates) == 2e-3 and rates.index(max(rates)) == 14
        assert rates[0] == pytest.approx(2e-3 / 15) and np.allclose(np.diff(rates[:15]), 2e-3 / 15)
        assert all(later < earlier for earlier, later in itertools.pairwise(rates[15:]))
        assert rates[-1] == pytest.approx(2e-5, rel=0.2)
        assert learning_rate(57, 100, 1.0) == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 42 / 85)))

    @pytest.mark.parametrize("steps", [1, 2, 3, 7])
    def test_short_runs_have_a_rate_too(self, steps: int) -> None:
        rates = [learning_rate(step, steps, 1.0) for step in range(steps)]
        assert all(0 < rate <= 1 for rate in rates) and rates[0] == 1.0

    def test_points_of_the_curve(self) -> None:
        record = train(build_stage("local"), FAST.model_copy(update={"measure_every": 4}))
        assert [point["step"] for point in record.curve] == [1, 4, 6]
        assert all({"loss", "heatmap", "box", "cpu_seconds"} <= set(point) for point in record.curve)
        assert record.peak_memory_mb > 10 and record.precision == "float32" and record.stage == "local"

    def test_measurements_are_made_in_between_and_leave_no_trace(self) -> None:
        plain, measured = build_stage("base"), build_stage("base")
        train(plain, FAST)

        def measure(step: int) -> dict[str, float]:
            measured.model.eval()
            torch.rand(3)
            return {"ap50": step / 10}

        record = train(measured, FAST, measure=measure, measure_at=(2, 5))
        assert [(p["step"], p["ap50"]) for p in record.curve if "ap50" in p] == [(2, 0.2), (5, 0.5)]
        assert same_state(plain.model.state_dict(), measured.model.state_dict())

    def test_a_loss_that_is_no_number_stops_with_a_hint(self) -> None:
        stage = build_stage("local")
        stage.losses = lambda batch: {"heatmap": next(iter(stage.model.senders.parameters())).sum() * math.nan}  # type: ignore[method-assign]
        with pytest.raises(ConfigError, match=r"loss is not finite at step 1.*lower lr"):
            train(stage, FAST)

    def test_gradients_are_clipped(self) -> None:
        norms = []
        for clip in (1e-6, 10.0):
            stage = build_stage("local")
            before = state_copy(stage.model)
            train(stage, FAST.model_copy(update={"clip": clip, "steps": 1}))
            assert changed(before, stage.model.state_dict())
            grads = [p.grad for p in stage.model.parameters() if p.grad is not None]
            norms.append(float(torch.stack([grad.norm() for grad in grads]).norm()))
        assert norms[0] == pytest.approx(1e-6, rel=1e-2) and 1e-3 < norms[1] <= 10.01

    @pytest.mark.parametrize("name", STAGES)
    def test_bfloat16(self, name: str) -> None:
        full, half = build_stage(name), build_stage(name)
        exact = train(full, FAST)
        record = train(half, FAST.model_copy(update={"precision": "bfloat16"}))
        assert record.precision == "bfloat16" and exact.precision == "float32"
        state = half.model.state_dict()
        assert all(value.isfinite().all() for value in state.values())
        assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}
        assert not same_state(state, full.model.state_dict())
        assert record.curve[0]["loss"] == pytest.approx(exact.curve[0]["loss"], rel=0.1)

    @pytest.mark.parametrize(
        "wrong", [{"steps": 0}, {"lr": 0}, {"clip": -1}, {"precision": "float16"}, {"measure_every": 0}, {"step": 3}]
    )
    def test_impossible_settings(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            build(LoopConfig, wrong)


class TestBest:
    """The best weights are kept beside the last ones."""

    def run(self, scores: dict[int, float], path: Path, stop: int | None = None) -> tuple[Stage, TrainingRecord | None]:
        """Train; the score of a step is what `scores` says."""
        stage, checkpoint, best = build_stage("local"), path / "checkpoint.safetensors", path / "best.safetensors"
        progress = stop_after(-1 if stop is None else stop)
        record = None
        with contextlib.suppress(KilledError):
            record = train(
                stage, FAST, checkpoint, progress, lambda step: {"ap50": scores[step]}, tuple(scores), best=best
            )
        return stage, record

    @pytest.mark.parametrize("stop", [None, 3, 5])
    def test_the_model_ends_with_the_best_weights(self, stop: int | None, tmp_path: Path) -> None:
        scores = {1: 0.1, 3: 0.7, 5: 0.3, 6: 0.7}
        if stop is not None:
            self.run(scores, tmp_path, stop)
        stage, record = self.run(scores, tmp_path)
        wanted = build_stage("local")
        with contextlib.suppress(KilledError):
            train(wanted, FAST, progress=stop_after(3))
        assert record is not None and record.best == {"step": 3, "ap50": 0.7} and record.steps == 6
        assert same_state(stage.model.state_dict(), wanted.model.state_dict())

    def test_the_checkpoint_still_holds_the_last_ones(self, tmp_path: Path) -> None:
        self.run({1: 0.7, 6: 0.1}, tmp_path)
        last, again = build_stage("local"), build_stage("local")
        train(last, FAST)
        train(again, FAST, tmp_path / "checkpoint.safetensors")
        assert same_state(again.model.state_dict(), last.model.state_dict())

    @pytest.mark.parametrize("damage", ["gone", "other", "cut"])
    def test_lost_best_weights_are_told(self, damage: str, tmp_path: Path) -> None:
        self.run({1: 0.7, 6: 0.1}, tmp_path)
        best = tmp_path / "best.safetensors"
        if damage == "cut":
            best.write_bytes(best.read_bytes()[:-9])
        elif damage == "gone":
            best.unlink()
        else:
            self.run({1: 0.8, 6: 0.1}, tmp_path / "other")
            (tmp_path / "other/best.safetensors").rename(best)
        with pytest.raises(DataError, match=r"(?s)best weights cannot be read.*keep=last"):
            self.run({1: 0.7, 6: 0.1}, tmp_path)


class TestOneStep:
    """Several batches a step, averaged weights, milestones: each does what it says, and all continue exactly."""

    def test_two_batches_a_step_are_their_mean(self) -> None:
        """One step of plain gradient: half the gradient of the one batch plus half that of the other."""
        gradients = []
        for place in (0, 1):
            stage = build_stage("base")
            stage.set_mode()
            stage(stage.batch(np.random.default_rng([0, 0, place]))).backward()
            gradients.append({n: p.grad.clone() for n, p in stage.model.named_parameters() if p.grad is not None})
        stage = build_stage("base")
        config = FAST.model_copy(update={"steps": 1, "accumulate": 2, "clip": 1e9})
        record = train(stage, config)
        found = {n: p.grad for n, p in stage.model.named_parameters() if p.grad is not None}
        for name, gradient in found.items():
            wanted = (gradients[0][name] + gradients[1][name]) / 2
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)
        assert record.steps == 1 and record.curve[-1]["loss"] > 0

    def test_workers_prepare_the_same_rounds(self) -> None:
        config = FAST.model_copy(update={"steps": 3, "accumulate": 2})
        states = []
        for workers in (0, 2):
            stage = build_stage("base")
            train(stage, config.model_copy(update={"workers": workers}))
            states.append(state_copy(stage.model))
        assert same_state(*states)

    def test_the_model_ends_with_the_average(self) -> None:
        config = FAST.model_copy(update={"steps": 4, "checkpoint_every": 0})
        seen: list[dict[str, torch.Tensor]] = []
        plain = build_stage("local")
        train(plain, config, progress=lambda *_: seen.append(state_copy(plain.model)))
        averaged = build_stage("local")
        train(averaged, config.model_copy(update={"ema": 0.9}))
        trained = {name for name, p in averaged.model.named_parameters() if p.requires_grad}
        start = state_copy(build_stage("local").model)
        for name, value in averaged.model.state_dict().items():
            wanted = start[name] if name in trained else seen[-1][name]
            for step, state in enumerate(seen, start=1):
                decay = min(0.9, (1 + step) / (10 + step))
                wanted = wanted * decay + state[name] * (1 - decay) if name in trained else wanted
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)

    def test_measurements_see_the_average_and_training_goes_on_with_the_weights(self) -> None:
        config = FAST.model_copy(update={"steps": 4, "checkpoint_every": 0, "ema": 0.9})
        measured: list[dict[str, torch.Tensor]] = []
        stage, undisturbed = build_stage("local"), build_stage("local")

        def measure(step: int) -> dict[str, float]:
            measured.append(state_copy(stage.model))
            return {"ap50": 0.5}

        train(stage, config, measure=measure, measure_at=(2, 4))
        train(undisturbed, config)
        assert same_state(state_copy(stage.model), state_copy(undisturbed.model))
        assert same_state(measured[-1], state_copy(stage.model)) and not same_state(measured[0], measured[-1])

    @pytest.mark.parametrize("more", [{"accumulate": 2}, {"ema": 0.9}, {"schedule": "steps", "milestones": (0.5,)}])
    def test_a_stopped_run_goes_on_exactly(self, more: dict[str, Any], tmp_path: Path) -> None:
        config = FAST.model_copy(update={"steps": 6, "checkpoint_every": 3, **more})
        whole = build_stage("local")
        train(whole, config)

        def stop(done: int, *_: object) -> None:
            if done == 5:
                raise KeyboardInterrupt

        part = build_stage("local")
        with pytest.raises(KeyboardInterrupt):
            train(part, config, tmp_path / "c.safetensors", progress=stop)
        again = build_stage("local")
        record = train(again, config, tmp_path / "c.safetensors")
        assert record.steps == 6 and same_state(state_copy(again.model), state_copy(whole.model))

    def test_a_checkpoint_without_an_average_is_not_continued_with_one(self, tmp_path: Path) -> None:
        train(build_stage("local"), FAST, tmp_path / "c.safetensors")
        with pytest.raises(ConfigError, match="ema"):
            train(build_stage("local"), FAST.model_copy(update={"ema": 0.9}), tmp_path / "c.safetensors")

    def test_the_rate_falls_to_a_tenth_at_each_milestone(self) -> None:
        rates = [learning_rate(step, 120, 1.0, "steps", (0.5, 5 / 6)) for step in range(120)]
        assert rates[17] == 1.0 and rates[59] == 1.0
        assert rates[60] == pytest.approx(0.1) and rates[99] == pytest.approx(0.1)
        assert rates[100] == pytest.approx(0.01) and rates[-1] == pytest.approx(0.01)
        assert rates[:18] == [learning_rate(step, 120, 1.0) for step in range(18)], "both rise alike"

    def test_settings_that_came_later_count_where_they_change_something(self) -> None:
        assert not {"ema", "accumulate", "schedule", "milestones"} & set(LoopConfig().decisive())
        assert not {"schedule", "milestones"} & set(LoopConfig(milestones=(0.1,)).decisive())
        assert LoopConfig(schedule="steps", milestones=(0.3,), ema=0.5).decisive().keys() >= {
            "schedule",
            "milestones",
            "ema",
        }
