"""From packs to a model and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from heatv2x.core import plugins
from heatv2x.core.config import build
from heatv2x.core.plugins import PartConfig, build_part
from heatv2x.errors import PackError
from heatv2x.model.blueprint import drawn, refuse_misfits
from heatv2x.model.config import AdapterConfig, ModelConfig
from heatv2x.model.detector import Detector, DetectorConfig
from heatv2x.model.packs import Pack, read_pack

if TYPE_CHECKING:
    from heatv2x.model.collaboration import Collaboration

log = logging.getLogger(__name__)
SIDES = ("sender", "receiver")
DETECTOR = "detector"
"""Where an agent pack describes its detector, and what its tensors' names start with."""
Make = Callable[[ModelConfig], "Collaboration"]


def assemble(
    make: Make,
    base: Pack,
    agents: Sequence[Pack] = (),
    adapters: Sequence[Pack] = (),
    sides: Collection[str] = SIDES,
) -> Collaboration:
    """A model in evaluation mode from its packs, which may come in any order.

    Args:
        make: builds a model that knows nothing yet from its settings: the class `Collaboration`.
        base: the base pack.
        agents: encoders. A type of the base, or one that an adapter names, without an encoder can only be listened to.
        adapters: what newcomers trained.
        sides: which part of the adapter packs to load: an ego that never carries the newcomer's sensor needs "receiver"
            only.

    Raises:
        PackError: an adapter was made for another base, a pack does not fit, two packs are of one kind and type, or a
            newcomer starts from a type that no pack contains.
    """
    refuse_twins([base, *agents, *adapters])
    model = bare_base(make, base)
    load_base(model, base)
    model.comes_from_packs = True
    model.lacking = {name: {"encoder"} for name in model.config.agents}
    space = model.feature_space.hex()
    if base.feature_space == model.former_feature_space.hex() != space:
        raise PackError(
            f"{_where(base)}: was written before feature spaces covered the settings of their parts.\n"
            "  Way out: heatv2x pack rewrite BASE AGENT ADAPTER ... (the base and all packs that belong to it)"
        )
    if space != base.feature_space:
        raise PackError(
            f"{_where(base)}: its tensors yield feature space {space}, but its manifest says {base.feature_space}"
        )
    for pack in _in_order_of_joining(model, agents, adapters):
        if pack.kind == "adapter":
            add_adapter(model, pack, sides)
        else:
            add_agent(model, pack)
    return model.eval()


def bare_base(make: Make, base: Pack) -> Collaboration:
    """The model that a base pack describes, built but not loaded, after its description was compared with its tensors.

    Raises:
        PackError: the settings describe other tensors than the pack holds, networks beyond any use, or code from
            outside that is not allowed.
    """
    where = _where(base)
    with plugins.from_a_pack(where):
        config = build(ModelConfig, base.config, source=where, complete=True)
        refuse_misfits(drawn(lambda: make(config), where).base_state(), base.tensors, where)
        return make(config)


def refuse_twins(packs: Sequence[Pack]) -> None:
    """Check that no two packs have the same kind and type.

    Raises:
        PackError: two are; names both files.
    """
    known: dict[tuple[str, str], Pack] = {}
    for pack in packs:
        first = known.setdefault((pack.kind, pack.agent_type), pack)
        if first is not pack:
            about = f" for agent type '{pack.agent_type}'" if pack.agent_type else ""
            raise PackError(
                f"two {pack.kind} packs{about} were given: {_where(first)} and {_where(pack)}.\n"
                "  Way out: drop one of them; only one can be used"
            )


def _in_order_of_joining(model: Collaboration, agents: Sequence[Pack], adapters: Sequence[Pack]) -> list[Pack]:
    """Sort the packs so that every newcomer comes after the type it starts from.

    Raises:
        PackError: a newcomer starts from a type that no pack contains, or newcomers start from one another in a circle.
    """
    known = set(model.known_types())
    bare = [pack for pack in agents if pack.agent_type not in {*known, *(each.agent_type for each in adapters)}]
    waiting = [*adapters, *bare]
    ordered: list[Pack] = []
    while waiting:
        ready = [pack for pack in waiting if _starts_from(pack) in known]
        if not ready:
            raise PackError(_why_none_can_join(waiting))
        ordered += ready
        known |= {pack.agent_type for pack in ready}
        waiting = [pack for pack in waiting if pack.agent_type not in known]
    joining = {id(pack) for pack in ordered}
    return [*ordered, *(pack for pack in agents if id(pack) not in joining)]


def _starts_from(pack: Pack) -> str:
    """The type whose parameters a newcomer starts from."""
    like = pack.config.get("like") if pack.kind == "adapter" else None
    return like if isinstance(like, str) else str(AdapterConfig.model_fields["like"].default)


def _why_none_can_join(waiting: Sequence[Pack]) -> str:
    """Why none of the remaining newcomers can join: each starts from a type that is not there yet."""
    brought = {pack.agent_type for pack in waiting}
    for pack in waiting:
        if (like := _starts_from(pack)) not in brought:
            if pack.kind == "agent":
                return (
                    f"{_where(pack)}: '{pack.agent_type}' is not a type of this base and has no adapter pack here.\n"
                    f"  Way out: add the adapter pack with which '{pack.agent_type}' joined this base"
                )
            return (
                f"{_where(pack)}: newcomer '{pack.agent_type}' starts from type '{like}', which neither the base nor "
                f"any other pack contains.\n  Way out: add the packs of '{like}'"
            )
    circle = "; ".join(f"'{pack.agent_type}' ({_where(pack)}) starts from '{_starts_from(pack)}'" for pack in waiting)
    return f"newcomers start from one another in a circle, so none of them can join first: {circle}"


def add_agent(model: Collaboration, pack: Pack) -> None:
    """Load an encoder; a type that the model does not know yet joins without trained adapters, with a warning."""
    name = pack.agent_type
    space = model.feature_space.hex()
    if name in model.config.agents and pack.feature_space != space:
        raise PackError(
            f"{_where(pack)}: was trained with base {pack.feature_space}, but this base is {space}.\n"
            f"  Way out: use the '{name}' agent pack that came with this base"
        )
    if name not in model.agents:
        log.warning("'%s' joins without an adapter pack, so what it sends is not aligned with this base", name)
        where = _where(pack)
        with plugins.from_a_pack(where):
            part = build(PartConfig, encoder_of(pack).config, source=where, complete=True)
            compare_with_encoder(part, pack, model)
            model.join(name, AdapterConfig(agent=part))
    load_into(model.agent(name), encoder_of(pack), "")
    model.lacking.get(name, set()).discard("encoder")
    if name not in model.config.agents and DETECTOR in pack.config:
        _bring_detector(model, pack)


def encoder_of(pack: Pack) -> Pack:
    """An agent pack without the detector that it may bring along."""
    config = {key: value for key, value in pack.config.items() if key != DETECTOR}
    tensors = {name: value for name, value in pack.tensors.items() if not name.startswith(f"{DETECTOR}.")}
    return replace(pack, config=config, tensors=tensors)


def with_detector(agent: Pack, network: Pack) -> Pack:
    """An agent pack that brings along what it detects alone with.

    Args:
        agent: an encoder.
        network: the base pack that the encoder was trained with: its own backbone, neck and head, without a fusion.

    Raises:
        PackError: the encoder was not trained with that network, or the network's agents fuse.
    """
    if agent.feature_space != network.feature_space or network.config["fusion"]["part"] != "none":
        raise PackError(f"{_where(network)}: is not the network that {_where(agent)} was trained with, alone")
    names = DetectorConfig.model_fields
    tensors = {f"{DETECTOR}.{name}": value for name, value in network.tensors.items()}
    detector = {key: value for key, value in network.config.items() if key in names}
    return replace(agent, config={**agent.config, DETECTOR: detector}, tensors={**agent.tensors, **tensors})


def _bring_detector(model: Collaboration, pack: Pack) -> None:
    """Load the detector of a newcomer, after its description was compared with its tensors."""
    where, prefix = _where(pack), f"{DETECTOR}."
    tensors = {name.removeprefix(prefix): value for name, value in pack.tensors.items() if name.startswith(prefix)}
    with plugins.from_a_pack(where):
        config = build(DetectorConfig, pack.config[DETECTOR], source=where, complete=True)
        sketch = drawn(lambda: Detector(config, model.config.channels, model.grid), where)
        refuse_misfits(sketch.state_dict(), tensors, where)
        model.bring(pack.agent_type, config).load_state_dict(tensors)


def compare_with_encoder(part: PartConfig, pack: Pack, model: Collaboration) -> None:
    """Check that a pack holds the tensors of the encoder it describes, before building that encoder.

    Raises:
        PackError: it does not, or the encoder is larger than any in use.
    """
    encoder = drawn(lambda: build_part("agents", part, model.grid, model.config.channels), _where(pack))
    refuse_misfits(encoder.state_dict(), encoder_of(pack).tensors, _where(pack))


def add_adapter(model: Collaboration, pack: Pack, sides: Collection[str] = SIDES) -> None:
    """Let a newcomer join with its trained adapters.

    Raises:
        PackError: the adapter belongs to another base.
    """
    space = model.feature_space.hex()
    if pack.feature_space != space:
        raise PackError(
            f"{_where(pack)}: was trained for base {pack.feature_space}, but this base is {space}.\n"
            f"  Way out: use the base pack it was trained with, or adapt '{pack.agent_type}' to this base"
        )
    name = pack.agent_type
    if name not in model.joined:
        where = _where(pack)
        with plugins.from_a_pack(where):
            config = build(AdapterConfig, pack.config, source=where, complete=True)
            drawn(lambda: _newcomer(model, config), where)
            model.join(name, config)
        model.lacking.setdefault(name, set()).update(SIDES)
    for side in sides:
        load_into(_side(model, name, side), _fitted(pack, model, name), f"{side}.")
        model.lacking.get(name, set()).discard(side)


def _fitted(pack: Pack, model: Collaboration, name: str) -> Pack:
    """An adapter pack with as much about boxes as the base can read.

    A base gets its reader without becoming another one, so adapters from before know nothing of it: their type is
    trusted as the one it starts from. One that was trained with a reader serves the base without it, too. Likewise
    a stage may add an adapter on the receiver's side.
    """
    prefix = "receiver.trust."
    tensors = {key: value for key, value in pack.tensors.items() if not key.startswith(prefix)}
    if pack.config.get("received") is None and name in model.receivers:  # this stage adds it
        fresh = model.receivers[name].state_dict()
        tensors |= {f"receiver.received.{key}": value for key, value in fresh.items()}
    if model.reader is not None:
        known = {f"{prefix}{key}": value for key, value in model.reader.types[name].state_dict().items()}
        tensors |= known | {key: value for key, value in pack.tensors.items() if key.startswith(prefix)}
    return replace(pack, tensors=tensors)


def _newcomer(model: Collaboration, config: AdapterConfig) -> nn.Module:
    """All networks that a newcomer adds, built outside any model."""
    channels = model.config.channels
    adapters = [part for part in (config.before, config.after, config.received) if part is not None]
    agent = build_part("agents", config.agent, model.grid, channels)
    return nn.ModuleList([agent, *(build_part("adapters", part, channels) for part in adapters)])


def base_pack(model: Collaboration, provenance: dict[str, Any]) -> Pack:
    """The base of a model as a pack."""
    settings = resolved_model(model.config).model_dump(mode="json")
    return Pack("base", "", model.feature_space.hex(), settings, dict(model.base_state()), provenance)


def agent_pack(model: Collaboration, name: str, provenance: dict[str, Any]) -> Pack:
    """One encoder as a pack."""
    part = resolved("agents", model.config.agents[name] if name in model.config.agents else model.joined[name].agent)
    space = model.feature_space.hex() if name in model.config.agents else ""
    return Pack("agent", name, space, part.model_dump(mode="json"), dict(model.agent(name).state_dict()), provenance)


def adapter_pack(model: Collaboration, name: str, provenance: dict[str, Any]) -> Pack:
    """What a newcomer trained, as a pack with a sender and a receiver part."""
    tensors = {f"{side}.{k}": v for side in SIDES for k, v in _side(model, name, side).state_dict().items()}
    joined = model.joined[name]
    adapters = {side: getattr(joined, side) for side in ("before", "after", "received")}
    parts = {side: resolved("adapters", part) for side, part in adapters.items() if part is not None}
    settings = joined.model_copy(update={**parts, "agent": resolved("agents", joined.agent)}).model_dump(mode="json")
    return Pack("adapter", name, model.feature_space.hex(), settings, tensors, provenance)


def resolved(kind: str, part: PartConfig) -> PartConfig:
    """A part with every setting written out, so that a pack does not depend on defaults that may change."""
    settings = build(plugins.find(kind, part.part).Config, part.settings).model_dump(mode="json")
    return PartConfig(part=part.part, settings=settings)


def resolved_model(config: ModelConfig) -> ModelConfig:
    """A model with every setting of its parts written out."""
    parts = {"fusion": resolved("fusion", config.fusion), "head": resolved("heads", config.head)}
    agents = {name: resolved("agents", part) for name, part in config.agents.items()}
    return config.model_copy(update={**parts, "agents": agents})


def read_all(paths: Sequence[str | Path]) -> tuple[Pack, list[Pack], list[Pack]]:
    """Sort pack files by kind: the base, agents, adapters.

    Raises:
        PackError: there is not exactly one base, or two packs are of one kind and type.
    """
    packs = [read_pack(path) for path in paths]
    refuse_twins([pack for pack in packs if pack.kind != "base"])
    bases = [pack for pack in packs if pack.kind == "base"]
    if len(bases) != 1:
        raise PackError(
            f"expected exactly one base pack, got {len(bases)} among "
            f"{', '.join(_where(pack) for pack in bases or packs) or 'no files'}"
        )
    return bases[0], [p for p in packs if p.kind == "agent"], [p for p in packs if p.kind == "adapter"]


def load_base(model: Collaboration, pack: Pack) -> None:
    """Load a base pack: everything but the agents.

    Raises:
        PackError: names or shapes differ; lists them.
    """
    _load_into(model, model.base_state(), pack, "")


def load_into(module: nn.Module, pack: Pack, prefix: str) -> None:
    """Load the tensors of a pack whose names start with a prefix.

    Raises:
        PackError: names or shapes differ; lists them.
    """
    _load_into(module, module.state_dict(), pack, prefix)


def _load_into(module: nn.Module, wanted: Mapping[str, Tensor], pack: Pack, prefix: str) -> None:
    tensors = {name.removeprefix(prefix): value for name, value in pack.tensors.items() if name.startswith(prefix)}
    refuse_misfits(wanted, tensors, _where(pack))
    module.load_state_dict({**module.state_dict(), **tensors})


def _side(model: Collaboration, name: str, side: str) -> nn.Module:
    """The modules of one side of a newcomer."""
    if side == "sender":
        return model.senders[name]
    parts: dict[str, nn.Module] = {}
    if name in model.receivers:
        parts["received"] = model.receivers[name]
    typed = model.fusion.typed_module(name)
    if typed is not None:
        parts["typed"] = typed
    if model.reader is not None:
        parts["trust"] = model.reader.types[name]
    return nn.ModuleDict(parts)


def _where(pack: Pack) -> str:
    return str(pack.path) if pack.path else f"{pack.kind} pack"
