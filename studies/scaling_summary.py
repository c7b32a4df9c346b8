"""From the cells of the scaling study to its JSON: joinings, everybody's AP after each, and what a crowd costs.

AP is a fraction in the JSON and points (0-100) in text. "Unchanged" is meant literally: the bytes of all messages and
the bytes of all boxes and scores over all test frames are the same before and after a joining.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heatv2x.errors import HeatError
from studies import crowd, fleet
from studies.adaptation import world_of
from studies.cells import Content
from studies.scaling import ScalingConfig
from studies.table import THRESHOLDS, over_seeds
from studies.targets import line

PACK_BYTES = 250_000
FURTHER = 10.0
"""Percent of an ego's own frame that one more collaborator may cost."""


def summarise(contents: Mapping[str, Content], config: ScalingConfig, command: str) -> dict[str, Any]:
    """The study's JSON from the contents of all its cells."""
    seeds = list(config.seeds)
    rows = _rows(contents, config)
    joinings = _joinings(contents, config)
    facts = contents[f"seed{seeds[0]}/crowd"]["facts"]
    unchanged = _unchanged(contents, config)
    dates = sorted({content["date"] for content in contents.values()})
    return {
        "title": "Scaling: more agent types, more agents",
        "command": command,
        "date": dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        "machine": contents[f"seed{seeds[0]}/crowd"]["machine"],
        "code_version": ", ".join(sorted({content["code_version"] for content in contents.values()})),
        "world": world_of(config.networks_here).content(),
        "crowded_world": crowd.world_of(config).content(),
        "settings": config.networks.decisive(),
        "protocol": next(row["protocol"] for content in contents.values() for row in content["rows"]),
        "seeds": seeds,
        "base_parameters": contents[f"seed{seeds[0]}/after_1"]["facts"]["base_parameters"],
        "joinings": joinings,
        "rows": rows,
        "unchanged": unchanged,
        "crowd": facts,
        "targets": _targets(joinings, unchanged, facts),
    }


def further_agent(ego: Sequence[Mapping[str, Any]], fusion: str, senders: str) -> float:
    """Percent of the ego's frame alone that one more collaborator costs, on average up to the largest scene."""
    most = max((each for each in ego if (each["fusion"], each["senders"]) == (fusion, senders)),
               key=lambda each: int(each["agents"]))  # fmt: skip
    return float(100 * (most["ratio_to_alone"]["median"] - 1) / (most["agents"] - 1))


def _joinings(contents: Mapping[str, Content], config: ScalingConfig) -> list[dict[str, Any]]:
    """One line per newcomer, in the order of joining."""
    found, cumulative = [], 0
    first = config.seeds[0]
    base = contents[f"seed{first}/after_1"]["facts"]["base_parameters"]
    for rank, name in enumerate(config.types, start=2):
        facts = [contents[f"seed{seed}/{name}/joined"]["facts"] for seed in config.seeds]
        encoders = [contents[f"seed{seed}/{name}/encoder"]["stages"][0] for seed in config.seeds]
        same = ("trained_parameters", "encoder_parameters")
        if any(fact[key] != facts[0][key] for fact in facts for key in same):
            raise HeatError(f"{name}: the number of parameters differs between seeds")
        cumulative += facts[0]["trained_parameters"]
        found.append(
            {
                "types": rank,
                "type": name,
                "about": fleet.ABOUT[name],
                "encoder_parameters": facts[0]["encoder_parameters"],
                "pretrain_seconds": over_seeds([stage["cpu_seconds"] for stage in encoders]),
                "trained_parameters": facts[0]["trained_parameters"],
                "cumulative_parameters": cumulative,
                "cumulative_percent_of_base": 100 * cumulative / base,
                "seconds": over_seeds([fact["seconds"] for fact in facts]),
                "adapter_pack_bytes": max(fact["adapter_pack_bytes"] for fact in facts),
            }
        )
    return found


def _rows(contents: Mapping[str, Content], config: ScalingConfig) -> list[dict[str, Any]]:
    """AP of every role after every joining, over seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for count in range(1, len(config.types) + 2):
        for seed in config.seeds:
            for row in contents[f"seed{seed}/after_{count}"]["rows"]:
                found.setdefault(row["name"], []).append(row)
    kept = ("name", "after", "what", "newcomer", "ego_type", "n_frames", "n_ground_truth")
    return [
        {
            **{key: rows[0][key] for key in kept},
            "ap": {iou: over_seeds([row["ap"][iou] for row in rows]) for iou in THRESHOLDS},
        }
        for rows in found.values()
    ]


def _unchanged(contents: Mapping[str, Content], config: ScalingConfig) -> dict[str, Any]:
    """Every row of a deployed type against the same row before the last joining."""
    compared, different, moved = 0, [], []
    for seed in config.seeds:
        before: dict[str, Any] = {}
        for count in range(1, len(config.types) + 2):
            content = contents[f"seed{seed}/after_{count}"]
            rows = {row["what"]: row for row in content["rows"] if row["what"] != "mixed"}
            for what in sorted(set(before) & set(rows)):
                compared += 1
                if any(before[what][key] != rows[what][key] for key in ("arrived", "found", "ap")):
                    different.append(f"seed{seed}/{rows[what]['name']}")
            if not content["facts"]["base_unchanged"]:
                moved.append(f"seed{seed}/after_{count}")
            before = rows
    return {"compared": compared, "different": different, "base_changed": moved}


def _targets(
    joinings: Sequence[Mapping[str, Any]], unchanged: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What can be judged."""
    same = unchanged["compared"] - len(unchanged["different"])
    text = f"{same} of {unchanged['compared']} rows have the same messages and the same boxes, byte for byte"
    text += "" if not unchanged["base_changed"] else f"; base CHANGED in {', '.join(unchanged['base_changed'])}"
    met = not unchanged["different"] and not unchanged["base_changed"]
    found = [line("deployed types after every joining", "bit-identical", text, met)]
    largest = max(joining["adapter_pack_bytes"] for joining in joinings)
    found.append(line("largest adapter pack on disk", "≤ 250 kB", f"{largest / 1000:.1f} kB", largest <= PACK_BYTES))
    for senders in crowd.SENDERS:
        share = further_agent(facts["ego"], "hetero_graph", senders)
        what = f"one more collaborator, share of the ego's own frame alone ({senders})"
        found.append(line(what, f"≤ {FURTHER:g} %", f"{share:.1f} %", share <= FURTHER))
    return found
