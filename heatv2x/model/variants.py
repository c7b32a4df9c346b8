"""Variants of a model with the same networks: another exchange, another fusion, or a longer grid."""

from __future__ import annotations

from heatv2x.core.config import build
from heatv2x.core.plugins import PartConfig, build_part
from heatv2x.errors import ConfigError
from heatv2x.fusion.base import Fusion
from heatv2x.link.message import CODES
from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig
from heatv2x.model.detector import Detector
from heatv2x.model.reader import ReaderConfig


def exchanging(model: Collaboration, exchange: str) -> Collaboration:
    """A copy with the same networks whose agents exchange something else.

    Args:
        model: trained to exchange features.
        exchange: "boxes" (late fusion) or "points" (early fusion).

    Raises:
        ConfigError: there is no such exchange.
    """
    config = build(
        ModelConfig, {**model.config.model_dump(), "exchange": exchange}, "the wanted exchange", complete=True
    )
    return _same_networks(model, config, features=config.exchange == "features")


def fusing_by(model: Collaboration, fusion: str) -> Collaboration:
    """A copy with the same networks and another fusion, which must have no parameters.

    Raises:
        ConfigError: the other fusion has parameters, which nobody trained; or the model's own goes on computing when
            nobody is heard (`Fusion.alone`): neck and head were trained behind it.
    """
    if type(model.fusion).alone is not Fusion.alone:
        raise ConfigError(
            f"fusion '{model.config.fusion.part}' cannot be replaced by '{fusion}': neck and head were trained on its "
            "output. Way out: fusion=late or fusion=early, or train a base with the other fusion"
        )
    part = PartConfig(part=fusion)
    if list(build_part("fusion", part, model.config.channels, list(model.config.agents)).parameters()):
        raise ConfigError(f"fusion '{fusion}' has parameters that this base does not contain: train a base with it")
    return _same_networks(model, model.config.model_copy(update={"fusion": part}))


def reaching(model: Collaboration, half_extent_m: float, half_extent_y_m: float) -> Collaboration:
    """The same networks on a grid that reaches further, or less far, than the one they were trained on.

    HEAL trains on 102.4 by 51.2 m and evaluates up to 204.8 by 102.4 m. Messages name another base, for all agents must
    agree on the grid.
    """
    grid, fusion = model.grid, model.config.fusion
    longer = half_extent_m / grid.x_max, half_extent_y_m / grid.y_max
    settings = type(model.fusion).on_longer_grid(fusion.settings, *longer)
    extents = {"half_extent_m": half_extent_m, "half_extent_y_m": half_extent_y_m}
    changed = {**model.config.model_dump(), **extents, "fusion": {"part": fusion.part, "settings": settings}}
    config = build(ModelConfig, changed, "the wanted grid", complete=True)
    return _same_networks(model, config)


def reading(
    model: Collaboration,
    reader: ReaderConfig | None,
    codebook: CodebookConfig | None = None,
    budget_bytes: int | None = None,
) -> Collaboration:
    """A copy with the same networks, and with an untrained reader and an empty codebook in the place of its own.

    Args:
        reader, codebook: None for none; messages travel in the codebook's codes if there is one, else by int8.
        budget_bytes: how long messages may be.
    """
    codec = CODES if codebook is not None else "int8" if model.codec == CODES else model.codec
    wanted = {"reader": reader, "codebook": codebook, "budget_bytes": budget_bytes, "codec": codec}
    return _same_networks(model, model.config.model_copy(update=wanted), untrained=("reader.", "codebook."))


def without_reader(model: Collaboration) -> Collaboration:
    """A copy with the same networks that neither sends boxes behind its features nor reads any."""
    return _same_networks(model, model.config.model_copy(update={"reader": None}))


def _same_networks(
    model: Collaboration, config: ModelConfig, features: bool = True, untrained: tuple[str, ...] = ()
) -> Collaboration:
    """A model with another config and all tensors they share; no receiver adapters unless features are exchanged.

    Args:
        untrained: tensors whose names start so keep their initial values.
    """
    other = Collaboration(config)
    for name, joining in model.joined.items():
        other.join(name, joining.model_copy(update={} if features else {"received": None}))
    for name, detector in model.detectors.items():
        assert isinstance(detector, Detector)
        other.bring(name, detector.config)
    other.comes_from_packs = model.comes_from_packs
    other.lacking = {name: set(parts) for name, parts in model.lacking.items()}
    own = other.state_dict()
    known = {name: value for name, value in model.state_dict().items() if name in own}
    own.update({name: value for name, value in known.items() if not name.startswith(untrained)})
    other.load_state_dict(own)
    return other.to(next(model.parameters()).device).eval()
