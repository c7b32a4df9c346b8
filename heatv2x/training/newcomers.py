"""The model that newcomers join: the base and the agents of a job, and its newcomers with fresh adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from heatv2x.core import plugins
from heatv2x.core.config import build
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError
from heatv2x.model.assembly import (
    add_adapter,
    add_agent,
    assemble,
    compare_with_encoder,
    encoder_of,
    refuse_twins,
    resolved,
)
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig
from heatv2x.model.packs import Pack, read_pack
from heatv2x.training.job_config import AdaptConfig, JobConfig


def load_for_adaptation(
    config: AdaptConfig, together: Sequence[str] = (), frozen_encoders: bool = True
) -> Collaboration:
    """The base with its encoders, and the newcomer joined with identity adapters or those of `adapter`.

    Args:
        together: further newcomers that join likewise.
        frozen_encoders: newcomers' encoders will not be trained, so the detectors behind them stay of use.

    Raises:
        ConfigError: no agent pack of a newcomer was given.
        PackError: a pack does not fit.
    """
    given = [read_pack(path, "agent") for path in config.agents]
    refuse_twins(given)
    packs = {pack.agent_type: pack for pack in given}
    newcomers = (config.newcomer, *together)
    for name in newcomers:
        if name not in packs:
            have = ", ".join(packs) or "none"
            raise ConfigError(f"newcomer='{name}' has no encoder among agents=, which holds {have}")

    def build_model() -> Collaboration:
        model = assemble(
            Collaboration, read_pack(config.base, "base"), [pack for t, pack in packs.items() if t not in newcomers]
        )
        adapter = None if config.adapter is None else read_pack(config.adapter, "adapter")
        parts = _parts(config, adapter)
        for name in newcomers:
            with plugins.from_a_pack(str(packs[name].path)):
                pack = packs[name] if frozen_encoders else encoder_of(packs[name])
                encoder = build(PartConfig, encoder_of(pack).config, source=str(pack.path), complete=True)
                compare_with_encoder(encoder, pack, model)
                model.join(name, AdapterConfig(agent=encoder, like=config.like, **parts))
            add_agent(model, pack)
        if adapter is not None:
            if adapter.agent_type != config.newcomer:
                raise ConfigError(
                    f"adapter={config.adapter} belongs to '{adapter.agent_type}', but newcomer='{config.newcomer}': "
                    "give the newcomer's own adapter pack"
                )
            add_adapter(model, adapter)
        return model

    with plugins.allowing(config.allow_parts):
        return seeded(config, build_model)


def _parts(config: AdaptConfig, adapter: Pack | None) -> dict[str, PartConfig | None]:
    """The newcomer's adapters: those of the pack that it starts from, and a `received` that this stage adds.

    Raises:
        ConfigError: the settings ask for another adapter than the pack holds.
    """
    wanted = {"before": config.before, "after": config.after, "received": config.received}
    if adapter is None:
        return wanted
    have = {side: adapter.config.get(side) for side in wanted}
    found: dict[str, PartConfig | None] = {}
    for side, part in wanted.items():
        told = have[side]
        here = None if told is None else build(PartConfig, told, source=str(adapter.path), complete=True)
        if side == "received" and here is None:
            found[side] = part
            continue
        asked = None if part is None else resolved("adapters", part)
        if side in config.model_fields_set and asked != here:
            wish = "null" if part is None else part.part
            raise ConfigError(
                f"{side}={wish}, but adapter={config.adapter} holds {here.part if here else 'none'} there: leave "
                f"{side}= out, or make the adapter pack again with it"
            )
        found[side] = here
    return found


def seeded(config: JobConfig, make: Callable[[], Collaboration]) -> Collaboration:
    """Build a model whose initial weights depend on the seed alone, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return make()
