"""Which packs a run folder ended with: what `heatv2x demo`, `train` and `adapt` leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heatv2x.core.files import read_json
from heatv2x.errors import ConfigError

_STAGES = ("local", "collaborative")  # a later one takes the place of an earlier one of the same newcomer
_NO_PACKS = ("checkpoint", "cache")


def packs_of(run: Path) -> list[Path]:
    """The base, the encoders and the adapters of a run, in that order.

    A folder with a base holds everything it needs. A folder with an adapter names its base and encoders in its
    settings. A folder of such folders, as the demo leaves it, has several newcomers: each counts with its last stage.

    Raises:
        ConfigError: there are no packs in it, or its newcomers joined different bases.
    """
    if (run / "base.safetensors").exists():
        others = sorted(p for p in run.glob("*.safetensors") if p.stem not in (*_NO_PACKS, "base"))
        return [run / "base.safetensors", *others]
    joined: dict[str, tuple[int, Path, dict[str, Any]]] = {}
    for folder in [run, *sorted(path for path in run.glob("*") if path.is_dir())]:
        if not (folder / "adapter.safetensors").exists() or (folder / "base.safetensors").exists():
            continue  # it has its own base, so its packs fit no other: full fine-tuning, the yardstick
        settings, stage = read_json(folder / "config.json"), read_json(folder / "record.json")["stage"]
        rank = _STAGES.index(stage) if stage in _STAGES else len(_STAGES)
        if rank >= joined.get(settings["newcomer"], (-1,))[0]:
            joined[settings["newcomer"]] = (rank, folder / "adapter.safetensors", settings)
    if not joined:
        raise ConfigError(
            f"run={run}: holds no packs.\n  Way out: name a folder that heatv2x demo, train or adapt wrote, or set "
            "packs=[base.safetensors, ...]"
        )
    bases = {Path(settings["base"]) for _, _, settings in joined.values()}
    if len(bases) > 1:
        raise ConfigError(f"run={run}: its newcomers joined different bases: {', '.join(map(str, sorted(bases)))}")
    agents = dict.fromkeys(Path(path) for _, _, settings in joined.values() for path in settings["agents"])
    return [*bases, *agents, *(adapter for _, adapter, _ in joined.values())]
