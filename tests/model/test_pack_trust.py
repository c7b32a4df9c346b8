"""Packs of strangers: no code of theirs runs, no network of any size is built, and another base has another name."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from heatv2x.cli import main as cli
from heatv2x.core import plugins
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import HeatError, PackError
from heatv2x.evaluation.cost import peak_memory
from heatv2x.model.assembly import adapter_pack, agent_pack, assemble, base_pack
from heatv2x.model.blueprint import MAX_TENSORS, drawn
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.pack_rewriting import rewrite
from heatv2x.model.packs import Pack, read_pack, write_pack
from tests.scene_factory import joined, same_state, small_model

EVIL = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
from heatv2x.fusion.maximum import Maximum
class Evil(Maximum):
    "A part from outside."
"""


@pytest.fixture(scope="module")
def model() -> Collaboration:
    return joined(small_model(), shake=0.05)


@pytest.fixture(scope="module")
def packs(model: Collaboration) -> dict[str, Pack]:
    return {
        "base": base_pack(model, {}),
        "lidar64": agent_pack(model, "lidar64", {}),
        "lidar16": agent_pack(model, "lidar16", {}),
        "adapter": adapter_pack(model, "lidar16", {}),
    }


def assembled(packs: dict[str, Pack]) -> Collaboration:
    return assemble(Collaboration, packs["base"], [packs["lidar64"], packs["lidar16"]], [packs["adapter"]])


def changed(pack: Pack, path: str, value: Any) -> Pack:
    """A pack with another setting."""
    *keys, last = path.split(".")
    config = inner = copy.deepcopy(pack.config)
    for key in keys:
        inner = inner[key]
    inner[last] = value
    return replace(pack, config=config)


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a trace when it is imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return tmp_path / "evil.ran"


class TestCode:
    @pytest.mark.parametrize(
        ("which", "path"),
        [
            ("base", "fusion.part"),
            ("base", "head.part"),
            ("base", "codec"),
            ("base", "agents.lidar64.part"),
            ("lidar16", "part"),
            ("adapter", "agent.part"),
            ("adapter", "before.part"),
            ("adapter", "received.part"),
        ],
    )
    def test_nothing_that_a_pack_names_is_imported(
        self, which: str, path: str, packs: dict[str, Pack], evil: Path
    ) -> None:
        hostile = {**packs, which: changed(packs[which], path, "evil:Evil")}
        if which == "lidar16":
            del hostile["adapter"]
        with pytest.raises(PackError, match=r"names the .* part 'evil:Evil', code from outside HeatV2X"):
            assemble(
                Collaboration, hostile["base"], [hostile["lidar64"], hostile["lidar16"]], list(hostile.values())[3:]
            )
        assert not evil.exists() and "evil" not in sys.modules

    def test_nor_what_stands_in_the_settings_of_a_part(self, packs: dict[str, Pack], evil: Path) -> None:
        both = changed(packs["base"], "agents.lidar64", {"part": "lidar_camera", "settings": {"camera": "evil:Evil"}})
        with pytest.raises(PackError, match="evil:Evil"):
            assembled({**packs, "base": both})
        assert not evil.exists()

    def test_the_command_line_refuses_it_too(
        self, packs: dict[str, Pack], evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_pack(changed(packs["base"], "fusion", {"part": "evil:Evil", "settings": {}}), tmp_path / "b.st")
        monkeypatch.setattr(sys, "argv", ["heatv2x", "pack", "verify", str(path)])
        with pytest.raises(SystemExit, match="2"):
            cli.main()
        assert not evil.exists()

    def test_what_is_allowed_is_used(self, evil: Path) -> None:
        own = small_model("maximum")
        base = base_pack(own, {})
        foreign = changed(base, "fusion", {"part": "evil:Evil", "settings": {}})
        with plugins.allowing(["evil:Evil"]), pytest.raises(PackError, match="feature space"):
            assemble(Collaboration, foreign)  # built; that it is another base is another matter
        assert evil.exists()
        with plugins.allowing(["evil:Other"]), pytest.raises(PackError, match="names the fusion part"):
            assemble(Collaboration, foreign)

    def test_settings_of_ones_own_need_no_permission(self, evil: Path) -> None:
        assert plugins.find("fusion", "evil:Evil").__name__ == "Evil" and evil.exists()


class TestSizes:
    @pytest.mark.parametrize(
        ("which", "path", "value"),
        [
            ("base", "channels", 8000),
            ("base", "neck_channels", 100_000),
            ("base", "backbone_blocks", 10**9),
            ("base", "half_extent_m", 1.6 * 10**6),
            ("base", "cell_m", 1e-6),
            ("base", "agents.lidar64.settings.pillar_channels", 10**7),
            ("base", "head.settings.hidden", 10**8),
            ("lidar16", "settings.slices", 10**8),
            ("adapter", "agent.settings.slices", 10**8),
            ("adapter", "before.settings.kernel", 10**5 + 1),
        ],
    )
    def test_what_nobody_could_use_is_not_built(
        self, which: str, path: str, value: Any, packs: dict[str, Pack]
    ) -> None:
        hostile = {**packs, which: changed(packs[which], path, value)}
        adapters = [] if which == "lidar16" else [hostile["adapter"]]
        before = peak_memory().resident_bytes
        with pytest.raises(HeatError):
            assemble(Collaboration, hostile["base"], [hostile["lidar64"], hostile["lidar16"]], adapters)
        assert peak_memory().resident_bytes - before < 300 * 2**20

    def test_very_many_small_tensors(self) -> None:
        with pytest.raises(PackError, match="far more than any real model has: do not trust this pack"):
            drawn(lambda: torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(MAX_TENSORS))), "a pack")

    def test_the_limit_ends_with_the_drawing(self) -> None:
        with pytest.raises(PackError):
            drawn(lambda: torch.nn.Linear(10**6, 10**6), "a pack")
        drawn(lambda: torch.nn.Linear(2, 2), "a pack")
        assert torch.nn.Linear(2, 2).weight.device.type == "cpu"

    def test_honest_packs_come_back(self, model: Collaboration, packs: dict[str, Pack]) -> None:
        assert same_state(assembled(packs).state_dict(), model.state_dict())


class TestFeatureSpace:
    def test_two_fusions_without_parameters_are_two_bases(self) -> None:
        spaces = set()
        for part in ("maximum", "attention", "none"):
            model = small_model("maximum")
            other = Collaboration(model.config.model_copy(update={"fusion": PartConfig(part=part)}))
            other.load_state_dict(model.state_dict())
            spaces.add(other.feature_space)
            assert other.former_feature_space == model.former_feature_space
        assert len(spaces) == 3

    def test_settings_count_and_defaults_do_not(self) -> None:
        model = small_model()
        head = model.config.head
        defaults = type(model.head).Config().model_dump(mode="json")
        spelled = head.model_copy(update={"settings": {**defaults, **head.settings}})
        stricter = head.model_copy(update={"settings": {**head.settings, "nms_iou": 0.3}})
        for changed_head, same in ((spelled, True), (stricter, False)):
            other = Collaboration(model.config.model_copy(update={"head": changed_head}))
            other.load_state_dict(model.state_dict())
            assert (other.feature_space == model.feature_space) == same


class TestRewriting:
    @pytest.fixture
    def old(self, model: Collaboration, packs: dict[str, Pack], tmp_path: Path) -> dict[str, Path]:
        """Files as an earlier version wrote them."""
        former = model.former_feature_space.hex()
        return {
            name: write_pack(
                replace(pack, feature_space=former if pack.feature_space else "", provenance={"seed": 1}),
                tmp_path / f"{name}.safetensors",
            )
            for name, pack in packs.items()
        }

    def test_an_old_pack_says_how_to_go_on(self, old: dict[str, Path]) -> None:
        with pytest.raises(PackError, match=r"(?s)before feature spaces covered.*heatv2x pack rewrite BASE AGENT"):
            Collaboration.from_packs(*old.values())

    def test_they_are_the_same_with_another_name(self, model: Collaboration, old: dict[str, Path]) -> None:
        before = {name: read_pack(path) for name, path in old.items()}
        assert rewrite(list(old.values())) == [old[name] for name in ("base", "lidar64", "adapter")]
        assert same_state(Collaboration.from_packs(*old.values()).state_dict(), model.state_dict())
        for name, path in old.items():
            now = read_pack(path)
            assert same_state(now.tensors, before[name].tensors) and now.config == before[name].config
            assert now.provenance["seed"] == 1
            if name != "lidar16":
                assert now.provenance["rewritten_from"]["feature_space"] == before[name].feature_space
        assert rewrite(list(old.values())) == []

    def test_a_base_is_needed_and_no_other_name_is_taken(self, old: dict[str, Path]) -> None:
        with pytest.raises(PackError, match="exactly one base pack, got 0"):
            rewrite([old["adapter"]])
        pack = read_pack(old["base"])
        write_pack(replace(pack, feature_space="ab" * 16), old["base"])
        with pytest.raises(PackError, match="do not match feature space abab"):
            rewrite([old["base"]])


def test_the_packs_that_come_along_are_up_to_date() -> None:
    model = Collaboration.from_packs("shipped:base", "shipped:lidar64")
    base = read_pack("shipped:base")
    assert base.feature_space == model.feature_space.hex() != model.former_feature_space.hex()
    assert base.provenance["rewritten_from"]["feature_space"] == model.former_feature_space.hex()
