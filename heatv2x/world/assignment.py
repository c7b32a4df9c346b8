"""Which agent type each agent plays: the two assignment files of HEAL's opencood/modality_assign."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from heatv2x.core.files import write_json
from heatv2x.data.assignment import Assignment
from heatv2x.formats.opv2v_layout import agent_order


def write_assignments(out: Path, split_of: Mapping[str, str]) -> None:
    """Write `opv2v_4modality.json` (a random permutation per scenario) and `..._in_order.json` (test, m1 first).

    Raises:
        DataError: a file cannot be written.
    """
    agents = {}
    for scenario, split in split_of.items():
        folders = [folder.name for folder in (out / "OPV2V" / split / scenario).iterdir() if folder.is_dir()]
        agents[scenario] = [int(folder) for folder in agent_order(folders)]
    test = {scenario: agents[scenario] for scenario, split in split_of.items() if split == "test"}
    write_json(out / "opv2v_4modality.json", Assignment.shuffled(agents).types)
    write_json(out / "opv2v_4modality_in_order.json", Assignment.in_order(test).types)
