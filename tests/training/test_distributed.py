"""Two processes train one model: they draw other batches and end with equal weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from heatv2x.training.loop import train
from tests.scene_factory import same_state
from tests.training.stages import FAST, build_stage

CONFIG = FAST.model_copy(update={"steps": 3, "checkpoint_every": 3})


def one_process(rank: int, folder: str) -> None:
    """What torchrun would start."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    result = {}
    for name in ("base", "collaborative"):
        stage = build_stage(name)
        drawn = []
        draw = stage.batch

        def watched(rng, draw=draw, drawn=drawn):  # type: ignore[no-untyped-def]
            batch = draw(rng)
            drawn.append(torch.cat([boxes.flatten() for boxes in batch.boxes]))
            return batch

        stage.batch = watched  # type: ignore[method-assign]
        record = train(stage, CONFIG, Path(folder) / f"{name}_{rank}.safetensors")
        result[name] = {
            "parameters": {key: value.detach().clone() for key, value in stage.model.named_parameters()},
            "drawn": drawn,
            "steps": record.steps,
            "proof": record.frozen_proof,
        }
    distributed.destroy_process_group()
    torch.save(result, f"{folder}/result_{rank}.pt")


@pytest.mark.slow
def test_two_processes_end_with_equal_weights(tmp_path: Path) -> None:
    multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"result_{rank}.pt", weights_only=True) for rank in range(2))
    for name in ("base", "collaborative"):
        assert same_state(first[name]["parameters"], second[name]["parameters"])
        assert first[name]["steps"] == second[name]["steps"] == 3
        assert first[name]["proof"] == second[name]["proof"]
        for one, other in zip(first[name]["drawn"], second[name]["drawn"], strict=True):
            assert one.shape != other.shape or not torch.equal(one, other)
        alone = build_stage(name)
        train(alone, CONFIG)
        assert not same_state(first[name]["parameters"], dict(alone.model.named_parameters()))
        assert (tmp_path / f"{name}_0.safetensors").exists() and not (tmp_path / f"{name}_1.safetensors").exists()
