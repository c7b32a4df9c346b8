"""Which agent type each agent plays: HEAL's two assignment files (facts: OPV2V-H, assignment json)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from heatv2x.files import write_json

_HEAL_SEED = 303


def agent_order(scenario: Path) -> list[str]:
    """Agent folders as strings in lexicographic order, roadside units last."""
    names = sorted(folder.name for folder in scenario.iterdir() if folder.is_dir())
    return sorted(names, key=lambda name: name.startswith("-"))


def write_assignments(out: Path, split_of: Mapping[str, str]) -> None:
    """Write `opv2v_4modality.json` (a random permutation per scenario) and `..._in_order.json` (test, m1 first).

    Raises:
        DataError: a file cannot be written.
    """
    rng = np.random.RandomState(_HEAL_SEED)
    shuffled, in_order = {}, {}
    for scenario in sorted(split_of):
        agents = agent_order(out / "OPV2V" / split_of[scenario] / scenario)
        types = rng.permutation(4) + 1
        shuffled[scenario] = {agent: f"m{types[k % 4]}" for k, agent in enumerate(agents)}
        if split_of[scenario] == "test":
            in_order[scenario] = {agent: f"m{k % 4 + 1}" for k, agent in enumerate(agents)}
    write_json(out / "opv2v_4modality.json", shuffled)
    write_json(out / "opv2v_4modality_in_order.json", in_order)
