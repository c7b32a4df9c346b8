"""Parts are found by file name or as "package.module:Class", and every one fulfils its contract."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

import pytest
import torch

from heatv2x.core import plugins
from heatv2x.core.config import Config
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError
from heatv2x.fusion.base import Fusion
from heatv2x.link.codecs.base import Codec
from heatv2x.model.collaboration import Collaboration
from tests.scene_factory import SmallScenes, model_config

ALL = [(kind, name) for kind in plugins.CONTRACTS for name in plugins.available(kind)]
OUTSIDE = '''
from heatv2x.core import config
from heatv2x.fusion.base import Fusion

class Twice(Fusion):
    """The ego, twice as loud where somebody listens."""

    class Config(config.Config):
        factor: float = 2.0

    def __init__(self, config, channels, types):
        super().__init__()
        self.factor = config.factor

    def forward(self, ego, received):
        return self.factor * ego
'''


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_part_fulfils_its_contract(kind: str, name: str) -> None:
    part = plugins.find(kind, name)
    contract = getattr(importlib.import_module(f"{plugins.package_of(kind)}.base"), plugins.CONTRACTS[kind])
    assert issubclass(part, contract) and not inspect.isabstract(part)
    assert part.__module__ == f"{plugins.package_of(kind)}.{name}"
    assert (inspect.getdoc(sys.modules[part.__module__]) or "").strip(), "the module says what the part is"
    assert vars(part).get("source", "").strip(), "source = ... says which paper it is after, or that it is ours"
    if "Config" in getattr(contract, "__annotations__", {}):
        assert issubclass(part.Config, Config)
        assert part.Config() is not None, "every setting has a default"


def test_the_parts_that_are_promised_are_there() -> None:
    found = {kind: set(plugins.available(kind)) for kind in plugins.CONTRACTS}
    assert found["agents"] >= {"lidar_pillar", "lidar_slices", "camera_lift"}
    assert found["adapters"] >= {"hetero_aware", "multi_cognitive"}
    assert found["codecs"] >= {"raw", "half", "int8", "sparse"}
    assert found["fusion"] >= {"none", "maximum", "attention", "disco", "hetero_graph"}
    assert found["fusion"] >= {"v2x_vit", "hm_vit", "where2comm"}
    assert found["heads"] >= {"center"} and found["datasets"] >= {"opv2v"}
    assert not any("base" in names for names in found.values())


@pytest.mark.parametrize("kind", plugins.CONTRACTS)
def test_an_unknown_name_gets_the_nearest_and_all(kind: str) -> None:
    names = plugins.available(kind)
    with pytest.raises(ConfigError) as caught:
        plugins.find(kind, names[0] + "x")
    assert f"did you mean '{names[0]}'?" in str(caught.value)
    assert all(name in str(caught.value) for name in names)


def test_the_contract_is_not_a_part() -> None:
    with pytest.raises(ConfigError, match="unknown fusion part 'base'"):
        plugins.find("fusion", "base")


class TestFromOutside:
    @pytest.fixture
    def outside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        (tmp_path / "their_fusion.py").write_text(OUTSIDE)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "their_fusion", raising=False)
        return "their_fusion:Twice"

    def test_is_found_and_works_in_a_model(self, outside: str) -> None:
        part = plugins.find("fusion", outside)
        assert issubclass(part, Fusion) and part.__name__ == "Twice"
        config = model_config(fusion=PartConfig(part=outside, settings={"factor": 3.0}))
        model = Collaboration(config).eval()
        ego = model.encode(SmallScenes().read(0, ["lidar64"]).agents[0], "lidar64")
        assert ego.feature is not None
        fused = model.fusion(ego.feature[None], None)  # type: ignore[arg-type]
        assert torch.equal(fused, 3 * ego.feature[None])
        assert len(model.detect(ego)) > 0

    def test_its_settings_are_checked_too(self, outside: str) -> None:
        with pytest.raises(ConfigError, match="did you mean 'factor'"):
            Collaboration(model_config(fusion=PartConfig(part=outside, settings={"faktor": 3.0})))

    @pytest.mark.parametrize(
        "name", ["no_such_module:X", "json:NoSuchClass", ":X", "json:", ".relative:X", "json:load:s"]
    )
    def test_what_is_not_there_is_a_config_error(self, name: str) -> None:
        with pytest.raises(ConfigError, match="codecs part"):
            plugins.find("codecs", name)

    @pytest.mark.parametrize("name", ["json:JSONDecoder", "json:loads", "their_fusion:Twice"])
    def test_what_is_no_such_part_is_a_config_error(self, name: str, outside: str) -> None:
        with pytest.raises(ConfigError, match=Codec.__name__):
            plugins.find("codecs", name)
