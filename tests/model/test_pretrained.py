"""The packs that come along, by name, wherever a pack's path is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from heatv2x.core.config import build, parse_overrides
from heatv2x.errors import PackError
from heatv2x.evaluation.job import EvalConfig
from heatv2x.interop.onnx.folder import ExportConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import read_pack
from heatv2x.model.pretrained import FOLDER, pack_path, pretrained
from heatv2x.training.job_config import LocalConfig


def test_every_file_that_comes_along_has_a_name() -> None:
    assert pretrained() == {f"shipped:{path.stem}": path for path in FOLDER.glob("*.safetensors")}
    assert {"shipped:base", "shipped:lidar64"} <= set(pretrained())


def test_names_stand_for_files_and_paths_stay() -> None:
    assert pack_path("shipped:base") == FOLDER / "base.safetensors" == pack_path(Path("shipped:base"))
    assert pack_path("runs/base.safetensors") == Path("runs/base.safetensors")


@pytest.mark.parametrize("name", ["shipped:lidar46", "shipped:", "shipped:../shipped/base", "shipped:base.safetensors"])
def test_an_unknown_name_tells_the_nearest(name: str) -> None:
    with pytest.raises(PackError, match=r"did you mean 'shipped:\w+'\? Known: shipped:base, "):
        pack_path(name)


def test_python_takes_them() -> None:
    assert read_pack("shipped:lidar64").agent_type == "lidar64"
    assert "lidar64" in Collaboration.from_packs("shipped:base", "shipped:lidar64").agents


def test_every_setting_that_takes_a_pack_takes_a_name() -> None:
    evaluation = build(EvalConfig, parse_overrides(["data=d", "packs=[shipped:base,x]"]))
    assert evaluation.packs == (FOLDER / "base.safetensors", Path("x"))
    words = [
        "data=d",
        "base=shipped:base",
        "agents=[shipped:lidar64,shipped:lidar16]",
        "newcomer=n",
        "adapter=shipped:camera",
    ]
    local = build(LocalConfig, parse_overrides(words))
    assert [path.parent for path in (local.base, *local.agents, local.adapter or Path())] == [FOLDER] * 4
    export = build(ExportConfig, parse_overrides(["packs=[shipped:base]", "out=o"]))
    assert export.packs == (FOLDER / "base.safetensors",)
    with pytest.raises(PackError, match="did you mean 'shipped:base'"):
        build(EvalConfig, parse_overrides(["data=d", "packs=[shipped:bse]"]))
