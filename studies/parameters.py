"""How much a newcomer trains at published size, counted from the recipes: no data and no training needed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from heatv2x.core.config import Config, build, read_recipe
from heatv2x.core.files import write_json, write_text
from heatv2x.evaluation.cost import count_parameters
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig, ModelConfig
from heatv2x.training import recipes
from heatv2x.training.job_config import BaseConfig, CollaborativeConfig, EncoderConfig
from heatv2x.training.stage import names_below
from studies.markdown import table

BASES = ("opv2v_h", "opv2v_h_pyramid", "dair_v2x", "dair_v2x_pyramid")
NEWCOMERS = {
    "opv2v_h": ("camera_efficientnet", "lidar32_voxels", "camera_resnet"),
    "dair_v2x": ("camera", "lidar_voxels"),
}
TARGET = 0.02
"""Of the parameters of full fine-tuning, at most this share is a newcomer to train."""
JSON, PAGE = "parameters.json", "parameters.md"


class ParametersConfig(Config):
    """Attributes:
    docs: folder of the page and its JSON.
    """

    docs: Path = Path("docs/benchmarks")


@dataclass(frozen=True)
class Count:
    """One newcomer on one base.

    Attributes:
        base: its recipe.
        newcomer: the type that joins.
        base_parameters: backbone, fusion, neck, head and the encoder of the base's own type.
        encoder: parameters of the newcomer's encoder: what backward alignment trains.
        lhft: what local fine-tuning trains.
        gcft: what global fine-tuning trains, those of LHFT among them: all that a newcomer ever trains on this base.
        narrow: the base's parameters if its neck were as narrow as the default, not as wide as the recipe makes it.
    """

    base: str
    newcomer: str
    base_parameters: int
    encoder: int
    lhft: int
    gcft: int
    narrow: int

    @property
    def full(self) -> int:
        """What full fine-tuning trains: the base and the newcomer's encoder."""
        return self.base_parameters + self.encoder

    @property
    def share(self) -> float:
        """Of full fine-tuning's parameters, the newcomer trains this share."""
        return self.gcft / self.full

    @property
    def share_of_narrow(self) -> float:
        """The same with the default neck."""
        return self.gcft / (self.narrow + self.encoder)


@functools.cache
def count() -> tuple[Count, ...]:
    """Every newcomer on every base of the published recipes."""
    return tuple(
        count_newcomer(base, newcomer) for base in BASES for newcomer in NEWCOMERS[base.removesuffix("_pyramid")]
    )


def count_newcomer(base: str, newcomer: str) -> Count:
    """One newcomer on one base, as their recipes build them; tensors have no content here."""
    nowhere: dict[str, Any] = {"data": ".", "base": ".", "agents": (), "newcomer": newcomer}
    dataset = base.removesuffix("_pyramid")
    model_config = build(BaseConfig, {**read_recipe(recipes.FOLDER / f"{base}.yaml"), "data": "."}).model
    agent = build(EncoderConfig, {**read_recipe(recipes.FOLDER / f"{dataset}_{newcomer}.yaml"), "data": "."}).agent
    joining = build(CollaborativeConfig, {**read_recipe(recipes.FOLDER / f"{base}_collaborative.yaml"), **nowhere})
    narrow = model_config.model_copy(update={"neck_channels": ModelConfig().neck_channels})
    with torch.device("meta"):
        model = Collaboration(model_config)
        base_parameters = count_parameters(model).total
        narrow_parameters = count_parameters(Collaboration(narrow)).total if model_config.neck == "two_scale" else None
        sides = {"before": joining.before, "after": joining.after, "received": joining.received}
        model.join(newcomer, AdapterConfig(agent=agent, like=joining.like, **sides))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}

    def total(*parts: str) -> int:
        return sum(sizes[name] for name in names_below(model, tuple(f"{part}.{newcomer}." for part in parts)))

    return Count(
        base,
        newcomer,
        base_parameters,
        encoder=total("agents"),
        lhft=total("senders"),
        gcft=total("senders", "receivers", "fusion.types"),
        narrow=base_parameters if narrow_parameters is None else narrow_parameters,
    )


def write_page(counts: Sequence[Count], folder: Path) -> Path:
    """Write parameters.json and parameters.md; gives the page."""
    rows = [{**asdict(each), "full": each.full, "share": round(each.share, 6)} for each in counts]
    write_json(folder / JSON, {"rows": rows, "target": TARGET})
    write_text(folder / PAGE, page(counts))
    return folder / PAGE


def page(counts: Sequence[Count]) -> str:
    """The page as text."""
    head = (
        "base",
        "newcomer",
        "base's parameters",
        "newcomer's encoder",
        "full fine-tuning",
        "LHFT",
        "GCFT",
        "share",
        "with a default neck",
    )
    lines = [
        [
            f"`{each.base}`",
            f"`{each.newcomer}`",
            *(f"{number:,}" for number in (each.base_parameters, each.encoder, each.full, each.lhft, each.gcft)),
            f"{100 * each.share:.2f} %",
            f"{100 * each.share_of_narrow:.2f} %",
        ]
        for each in counts
    ]
    largest = max(counts, key=lambda each: each.share)
    verdict = "met by all" if largest.share <= TARGET else f"**missed** by `{largest.newcomer}` on `{largest.base}`"
    parts = [
        "# What a newcomer trains, at published size",
        "Counted from the recipes by `heatv2x bench parameters`; how they are run: [recipes.md](../recipes.md).",
        table(head, lines),
        f"Target: at most {100 * TARGET:.0f} % of what full fine-tuning trains, which is the base (with the encoder of "
        f"its own type) and the newcomer's encoder: {verdict}. GCFT trains what LHFT trained, and the newcomer's typed "
        "fusion parameters: its number is all that a newcomer ever trains on this base, besides eleven numbers "
        "where the base has a reader. Pretraining its encoder, alone and without the base, is not in it.",
        "A share is as small as its denominator is large. The recipes `opv2v_h` and `dair_v2x` make our own neck wider "
        "than its default, as published necks are; the last column says what the share would be with the default one. "
        "The pyramids are HEAL's networks, in which nothing was widened.",
    ]
    return "\n\n".join(parts) + "\n"
