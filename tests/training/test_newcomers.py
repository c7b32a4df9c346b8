"""The model that newcomers join: whose adapters count when a stage starts from an adapter pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from heatv2x.errors import ConfigError
from heatv2x.model.assembly import adapter_pack, agent_pack, base_pack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig
from heatv2x.model.packs import write_pack
from heatv2x.training.job_config import CollaborativeConfig
from heatv2x.training.newcomers import load_for_adaptation
from tests.scene_factory import NEWCOMER, SLICES, joined, same_state, small_model

KERNEL_5 = {"part": "hetero_aware", "settings": {"kernel": 5}}
MULTI = {"part": "multi_cognitive", "settings": {"rank": 4}}


def settings(folder: Path, newcomer: AdapterConfig) -> tuple[dict[str, Any], Collaboration]:
    """What GCFT is given after an LHFT whose newcomer joined with these adapters."""
    model = joined(small_model(), config=newcomer, shake=0.1)
    packs = {
        "base": base_pack(model, {}),
        "lidar64": agent_pack(model, "lidar64", {}),
        "lidar16": agent_pack(model, "lidar16", {}),
        "adapter": adapter_pack(model, "lidar16", {}),
    }
    files = {name: write_pack(pack, folder / f"{name}.safetensors") for name, pack in packs.items()}
    agents = (files["lidar64"], files["lidar16"])
    start = {"base": files["base"], "agents": agents, "adapter": files["adapter"]}
    return {"data": folder, "out": folder, "newcomer": "lidar16", **start}, model


@pytest.mark.parametrize(
    "newcomer",
    [
        NEWCOMER,
        AdapterConfig(agent=SLICES),
        AdapterConfig(agent=SLICES, before=None),
        AdapterConfig(**{"agent": SLICES, "before": KERNEL_5, "received": MULTI}),
    ],
)
def test_a_stage_goes_on_with_the_adapters_of_the_one_before(newcomer: AdapterConfig, tmp_path: Path) -> None:
    given, before = settings(tmp_path, newcomer)
    model = load_for_adaptation(CollaborativeConfig(**given))
    assert same_state(model.state_dict(), before.state_dict())


def test_global_fine_tuning_may_add_the_adapter_on_the_receivers_side(tmp_path: Path) -> None:
    given, before = settings(tmp_path, AdapterConfig(agent=SLICES))
    model = load_for_adaptation(CollaborativeConfig(**given, received=MULTI))
    added = {name for name in model.state_dict() if name not in before.state_dict()}
    assert added and all(name.startswith("receivers.lidar16.") for name in added)
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(model.receivers["lidar16"](x), x), "it starts as the identity"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"before": KERNEL_5}, "before=hetero_aware, but .*adapter.safetensors holds hetero_aware there"),
        ({"before": None}, "before=null, but .* holds hetero_aware there: leave before= out"),
        ({"received": None}, "received=null, but .* holds multi_cognitive there"),
        ({"received": MULTI}, "received=multi_cognitive, but .* holds multi_cognitive there"),
    ],
)
def test_settings_that_contradict_the_pack_are_refused(asked: dict[str, Any], says: str, tmp_path: Path) -> None:
    given, _ = settings(tmp_path, NEWCOMER)
    with pytest.raises(ConfigError, match=says):
        load_for_adaptation(CollaborativeConfig(**given, **asked))


def test_settings_that_say_the_same_are_fine(tmp_path: Path) -> None:
    given, before = settings(tmp_path, NEWCOMER)
    model = load_for_adaptation(CollaborativeConfig(**given, received={"part": "multi_cognitive"}))
    assert same_state(model.state_dict(), before.state_dict())
