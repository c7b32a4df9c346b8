"""Everything that can be named in a setting: parts with their cost at one reference size, recipes, packs.

Everything is read from where it lies: the first line of a part's docstring, its `source`, the parameters and operations
of the part as it is built with its defaults, the head of a recipe, the manifest of a pack. Nothing here names a part.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from heatv2x.agents.base import Agent
from heatv2x.core import plugins
from heatv2x.core.plugins import PartConfig, build_part
from heatv2x.errors import HeatError
from heatv2x.evaluation.cost import FlopCount, count_parameters
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig
from heatv2x.model.links import Links
from heatv2x.model.packs import Pack, read_pack
from heatv2x.model.pretrained import pretrained
from heatv2x.nn.move import to_device
from heatv2x.structures import LIDARS, AgentFrame, Camera, PointCloud, Pose
from heatv2x.training import recipes

_META = torch.device("meta")
_POINTS = 20_000
_IMAGE = (600, 800)
_SENDERS = 2
_TYPES = ("first", "second")


@dataclass(frozen=True)
class Entry:
    """One part.

    Attributes:
        kind, name: where it is.
        about: what it is, in one sentence.
        source: the paper, or "ours".
        parameters: of the part alone, at the reference size; None if the kind has none.
        flops: two per multiply-add of one forward pass at the reference size, see `metrics.cost.FlopCount`.
    """

    kind: str
    name: str
    about: str
    source: str
    parameters: int | None = None
    flops: int | None = None


def catalogue(kind: str) -> list[Entry]:
    """The parts of one kind; one that cannot be used or counted is listed with the reason."""
    measure = {"agents": _agent, "adapters": _adapter, "fusion": _fusion, "heads": _head}.get(kind)
    return [_entry(kind, name, measure) for name in plugins.available(kind)]


def _entry(kind: str, name: str, measure: Callable[[str], tuple[int, int]] | None) -> Entry:
    try:
        part = plugins.find(kind, name)
    except Exception as error:  # a file somebody is still writing: whatever it raises is said in its row
        return Entry(kind, name, f"cannot be used: {_reason(error)}", "-")
    about, source = about_part(part), getattr(part, "source", "not stated")
    if measure is None:
        return Entry(kind, name, about, source)
    try:
        return Entry(kind, name, about, source, *measure(name))
    except Exception as error:  # the same
        return Entry(kind, name, f"{about} (cannot be counted: {_reason(error)})", source)


def about_part(part: type) -> str:
    """A part's description: the first line of its file's docstring, or else of its class's own."""
    texts = (inspect.getdoc(sys.modules[part.__module__]), vars(part).get("__doc__"))
    lines = [text.strip().splitlines()[0] for text in texts if text and text.strip()]
    return lines[0] if lines else "no description: its file has no docstring"


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0] if isinstance(error, HeatError) else f"{type(error).__name__}: {text.splitlines()[0]}"


@dataclass(frozen=True)
class Recipe:
    """One recipe that comes with HeatV2X.

    Attributes:
        name: `recipe=NAME`.
        verb: the command it is for.
        about: its first sentence.
    """

    name: str
    verb: str
    about: str


def all_recipes() -> list[Recipe]:
    """The recipes, described by the comments at the top of their files."""
    return [_recipe(path) for path in sorted(recipes.FOLDER.glob("*.yaml"))]


def _recipe(path: Path) -> Recipe:
    head = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    paragraph = " ".join(itertools.takewhile(bool, head))
    verb = re.search(rf"heatv2x ([a-z ]+?) recipe={re.escape(path.stem)}\b", "\n".join(head))
    return Recipe(path.stem, verb[1] if verb else "", re.split(r"(?<=\.)\s", paragraph)[0])


def packs() -> list[tuple[str, Pack]]:
    """The packs that come with HeatV2X, by the name that settings take."""
    return [(name, read_pack(path)) for name, path in pretrained().items()]


def reference() -> str:
    """The size at which everything is counted, in words."""
    config = ModelConfig()
    rows, columns = config.grid.shape
    return (
        f"Counted with default settings on {rows} x {columns} cells of {config.cell_m} m, {config.channels} channels. "
        f"An agent with one sweep of {_POINTS:,} points or one image of {_IMAGE[1]} x {_IMAGE[0]}; a fusion of "
        f"{len(_TYPES)} types with {_SENDERS} senders. FLOP: two per multiply-add of convolutions and matrix products, "
        "nothing else."
    )


def _agent(name: str) -> tuple[int, int]:
    config = ModelConfig()

    def count(device: torch.device) -> tuple[int, int]:
        agent: Agent = build_part("agents", PartConfig(part=name), config.grid, config.channels).eval()
        batch = agent.collate([agent.prepare(agent.reduce(reference_frame()))])
        agent.to(device)
        return _cost(agent, lambda: agent(to_device(batch, device)))

    return _without_numbers(count)


def _without_numbers(count: Callable[[torch.device], tuple[int, int]]) -> tuple[int, int]:
    """Count on tensors without values, or with them if a shape depends on the values, as in sparse convolution."""
    try:
        return count(_META)
    except RuntimeError as error:  # torch has no class of its own for an operation that needs the content
        if "meta" not in str(error):
            raise
        return count(torch.device("cpu"))


def _adapter(name: str) -> tuple[int, int]:
    config = ModelConfig()
    adapter: nn.Module = build_part("adapters", PartConfig(part=name), config.channels).to(_META)
    return _cost(adapter, lambda: adapter(_feature(config)))


def _head(name: str) -> tuple[int, int]:
    config = ModelConfig()
    head: nn.Module = build_part("heads", PartConfig(part=name), config.channels, config.grid).eval().to(_META)
    return _cost(head, lambda: head(_feature(config)))


def _fusion(name: str) -> tuple[int, int]:
    """An ego of one type and a sender of each; the model itself determines what the fusion receives."""
    config = ModelConfig(fusion=PartConfig(part=name), agents=dict.fromkeys(_TYPES, PartConfig(part="lidar_pillar")))
    still = torch.zeros(1, _SENDERS)
    T = torch.eye(4, dtype=torch.float64).expand(1, _SENDERS, 4, 4)
    links = Links(torch.tensor([0]), torch.arange(1, 1 + _SENDERS)[None], T, still, still, still)

    def count(device: torch.device) -> tuple[int, int]:
        with device:
            model = Collaboration(config).eval()
        features = torch.zeros(1 + _SENDERS, config.channels, *config.grid.shape, device=device)
        ego, received = to_device(model.receive(features, features, [_TYPES[0], *_TYPES], links), device)
        return _cost(model.fusion, lambda: model.fusion(ego, received))

    return _without_numbers(count)


def _cost(part: nn.Module, run: Callable[[], Any]) -> tuple[int, int]:
    with torch.no_grad(), FlopCount() as count:
        run()
    return count_parameters(part).total, count.flops


def _feature(config: ModelConfig) -> torch.Tensor:
    return torch.zeros(1, config.channels, *config.grid.shape, device=_META)


def reference_frame() -> AgentFrame:
    """What an agent of the reference size senses: a sweep of points all around, and one image ahead."""
    rng = np.random.default_rng(0)
    angle, distance = rng.uniform(-np.pi, np.pi, _POINTS), rng.uniform(2.0, 50.0, _POINTS)
    height, intensity = rng.uniform(-1.8, 0.5, _POINTS), rng.uniform(0.0, 1.0, _POINTS)
    points = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), height, intensity]).astype(np.float32)
    K = np.array([[_IMAGE[1] / 2, 0, _IMAGE[1] / 2], [0, _IMAGE[1] / 2, _IMAGE[0] / 2], [0, 0, 1]], dtype=np.float64)
    axes = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # columns: right, down, forward
    mount = np.eye(4)
    mount[:3, :3] = axes
    camera = Camera("camera0", np.zeros((*_IMAGE, 3), np.uint8), K, mount, np.full(_IMAGE, 20.0, np.float32))
    clouds = {name: PointCloud(points) for name in LIDARS}
    return AgentFrame(1, "000000", Pose.planar(0, 0, 0, 1.9), clouds, (camera,))
