"""One frame from disk to boxes: through few files and functions, and nothing is looked up or hashed on the way."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import heatv2x
from heatv2x.data.datasets.opv2v import Opv2v
from heatv2x.link.message import pack, unpack
from heatv2x.model.collaboration import Collaboration
from heatv2x.structures import Boxes3D
from heatv2x.world.build import build_world
from heatv2x.world.config import WorldConfig

PACKAGE = str(Path(heatv2x.__file__).parent)
FILES, FUNCTIONS = 37, 194
"""Four agents, three messages. Eleven of the files read a point cloud and see that a message can be true."""


class Way:
    """Counts what is called while it is entered.

    Attributes:
        functions: calls of the package's functions, by file and name; comprehensions belong to their function.
        listings: of folders.
    """

    def __init__(self) -> None:
        self.functions: Counter[tuple[str, str]] = Counter()
        self.listings = 0

    def __call__(self, frame: FrameType, event: str, called: Any) -> None:
        """What `sys.setprofile` calls."""
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<"):
            self.functions[code.co_filename, code.co_qualname] += 1
        if event == "c_call" and getattr(called, "__name__", "") in ("listdir", "scandir"):
            self.listings += 1

    def __enter__(self) -> Way:
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


def line(dataset: Opv2v, model: Collaboration, index: int) -> Boxes3D:
    """What the first of four agents detects with the messages of the others, bytes in between."""
    ego, *others = dataset.read(index, ["lidar64"]).agents
    data = [pack(model.encode(agent)) for agent in others]
    assert len(data) == 3
    return model.detect(ego, [unpack(each) for each in data], guard=False)


def test_it_is_short_and_straight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"train": 0, "validate": 0, "test": 2, "min_agents": 4, "max_agents": 4, "sensors": ["lidar64"]}
    build_world(WorldConfig(out=tmp_path / "world", seed=1, workers=1, **settings))
    dataset = Opv2v(tmp_path / "world", "test", cache_dir=tmp_path / "cache")
    model = Collaboration.from_packs("shipped:base", "shipped:lidar64")
    line(dataset, model, 0)

    hashes = []
    monkeypatch.setattr("heatv2x.model.collaboration.tensors_digest", lambda *_: hashes.append(1) or "00" * 32)
    with Way() as way:
        found = line(dataset, model, 1)
    files = {file for file, _ in way.functions}
    assert len(found) > 0
    assert (way.listings, len(hashes)) == (0, 0)
    assert len(files) <= FILES, sorted(files)
    assert len(way.functions) <= FUNCTIONS, sorted(way.functions)


def test_a_changed_base_has_another_name() -> None:
    """The name is taken once, and again after a change: in place, by training, or by loading."""
    model = Collaboration.from_packs("shipped:base", "shipped:lidar64")
    names = [model.feature_space]
    weight = next(model.head.parameters())
    with torch.no_grad():
        weight.add_(1)
    names.append(model.feature_space)
    state = model.state_dict()
    model.load_state_dict({name: value + 1 if value.is_floating_point() else value for name, value in state.items()})
    names.append(model.feature_space)
    model.double()
    names.append(model.feature_space)
    assert len(set(names)) == 4
