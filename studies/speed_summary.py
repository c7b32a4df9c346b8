"""From the measurements to the benchmark's JSON: medians, shares of the machine's peak, ratios to the reference.

A ratio to the reference translates our CPU seconds to the reference's machine by how fast both multiply matrices in the
precision that was used: bfloat16 is compared on what bfloat16 was worth there. Medians are taken over rounds, each with
its own peak.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from heatv2x import __version__
from heatv2x.evaluation.rows import machine
from studies import reference_speed, sweeps
from studies.cells import Content
from studies.frame_speed import OF_AN_AGENT, OF_THE_EGO, Variant
from studies.speed import BUILDS, SpeedConfig, cells_of, compiler, precisions
from studies.speed_models import MODELS
from studies.speed_targets import targets

FORWARD = ("encode", "backbone", "fuse", "neck", "head")
"""The stages of the reference's whole forward pass."""
_OWN = ("voxelise", "encode", "backbone")
Round = Mapping[str, Any]


def summarise(contents: Mapping[str, Content], config: SpeedConfig, command: str, is_quick: bool) -> dict[str, Any]:
    """The benchmark's JSON from the contents of all its measurements."""
    variants = {cell.name: cell.arguments[1] for cell in cells_of(config) if cell.name.startswith("frames/")}
    flops = {v.model: contents[name]["flops"] for name, v in variants.items() if v.build == "plain" and v.threads == 1}
    frames, variant_rows, failed = [], [], {}
    for name, variant in variants.items():
        content = contents[name]
        if "failed" in content:
            failed[variant.name] = content["failed"]
            continue
        variant_rows.append(_variant(variant, content))
        frames += [_frame(variant, content, count, flops.get(variant.model)) for count in content["peak_bytes"]]
    dates = sorted({content["date"] for content in contents.values()})
    steps = [name for name in contents if name.startswith("step/")]
    found = {
        "title": "Speed",
        "command": command,
        "quick": is_quick,
        "date": dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        "machine": {key: value for key, value in machine().items() if key != "threads_per_process"},
        "code_version": __version__,
        "settings": config.model_dump(mode="json", exclude={"out", "docs"}),
        "builds": list(BUILDS),
        "precisions": list(precisions()),
        "compiler": compiler(),
        "compile_failed": failed,
        "sweeps": {"made_as": sweeps.MADE_AS, **_sweeps(contents)},
        "reference": reference_speed.facts(),
        "peak_gflops": _peaks(contents, variants),
        "models": {name: _model(name, contents, variants) for name in {v.model: 0 for v in variants.values()}},
        "variants": variant_rows,
        "frames": frames,
        "steps": [_step(name, contents[name]) for name in steps],
        "average_precision": _evaluation(contents["average_precision"]),
        "cpu_seconds": round(sum(content["cpu_seconds"] for content in contents.values())),
    }
    return {**found, "targets": targets(found)}


def middle(values: Iterable[float], scale: float = 1.0) -> dict[str, float]:
    """Median and the quartiles around it, four digits each."""
    scaled = sorted(scale * value for value in values)
    if len(scaled) == 1:
        return dict.fromkeys(("median", "low", "high"), _rounded(scaled[0]))
    low, median, high = statistics.quantiles(scaled, n=4, method="inclusive")
    return {"median": _rounded(median), "low": _rounded(low), "high": _rounded(high)}


def seconds_of(one: Round, count: int) -> dict[str, float]:
    """CPU seconds of one round's frame of `count` agents.

    Returns:
        The ego's own by stage; "forward", what the reference calls so, of all agents together; "frame", all that the
        ego itself does; "all encode" and "all backbone" of every agent.
    """
    ego, agents = one["ego"][str(count)], one["agents"][:count]
    own = {stage: agents[0][stage] for stage in _OWN} | {stage: ego[stage] for stage in OF_THE_EGO}
    everyone = {f"all {stage}": sum(agent[stage] for agent in agents) for stage in ("encode", "backbone")}
    forward = sum(everyone.values()) + sum(own[stage] for stage in ("fuse", "neck", "head"))
    return {**own, **everyone, "forward": forward, "frame": sum(own.values())}


def _frame(variant: Variant, content: Content, agents: str, flops: Mapping[str, Any] | None) -> dict[str, Any]:
    """One row: a frame of so many agents."""
    count, rounds = int(agents), content["rounds"]
    seconds = [seconds_of(one, count) for one in rounds]
    peaks = [one["peak_gflops"] for one in rounds]
    alone = [seconds_of(one, 1)["frame"] for one in rounds if "1" in one["ego"]]
    row = {
        **_about(variant),
        "agents": count,
        "rounds": len(rounds),
        "cpu_ms": {stage: middle((s[stage] for s in seconds), 1000) for stage in seconds[0]},
        "forward_matmul_gflop": _median(s["forward"] * p["float32"] for s, p in zip(seconds, peaks, strict=True)),
        "frame_matmul_gflop": _median(s["frame"] * p["float32"] for s, p in zip(seconds, peaks, strict=True)),
        "decode_share": _median(s["decode"] / s["frame"] for s in seconds),
        "to_alone": middle(s["frame"] / a for s, a in zip(seconds, alone, strict=True)) if alone else None,
        "peak_bytes": content["peak_bytes"][agents],
        "wall_to_cpu": _median(one["ego"][agents]["wall"] / sum(one["ego"][agents][s] for s in OF_THE_EGO)
                               for one in rounds),
    }  # fmt: skip
    if flops is not None:
        work = _work(flops, count)
        row["gflop"] = {stage: _rounded(amount / 1e9) for stage, amount in work.items()}
        row["of_peak"] = {
            stage: _median(amount / 1e9 / s[_key(stage)] / p[variant.precision]
                           for s, p in zip(seconds, peaks, strict=True))
            for stage, amount in work.items() if amount
        }  # fmt: skip
    reference = reference_speed.FORWARD_S.get(count)
    if MODELS[variant.model].same_grid and reference is not None and variant.threads == 1:
        there = reference_speed.PEAK_GFLOPS
        row["times_reference"] = {
            how: _median(reference * there[by] / (s["forward"] * p[by]) for s, p in zip(seconds, peaks, strict=True))
            for how, by in (("same_precision", variant.precision), ("float32", "float32"))
        }
    return row


def _work(flops: Mapping[str, Any], agents: int) -> dict[str, int]:
    """Operations by stage, of all agents in `encode` and `backbone`; nothing for a frame that was not counted.

    Two per multiply-add of convolutions and matrix products of the plain network, whatever a build makes of them.
    """
    if str(agents) not in flops:
        return {}
    ego, agent = flops[str(agents)], flops["agent"]
    work = {stage: agents * agent[stage] for stage in ("encode", "backbone")}
    work |= {stage: ego[stage] for stage in ("fuse", "neck", "head")}
    return {**work, "forward": sum(work.values())}


def _key(stage: str) -> str:
    return f"all {stage}" if stage in ("encode", "backbone") else stage


def _variant(variant: Variant, content: Content) -> dict[str, Any]:
    """What does not depend on how many agents there are."""
    agents = [agent for one in content["rounds"] for agent in one["agents"]]
    return {
        **_about(variant),
        "sender_ms": {stage: middle((agent[stage] for agent in agents), 1000) for stage in OF_AN_AGENT},
        "sender_of_all_ms": middle((sum(agent[stage] for stage in OF_AN_AGENT) for agent in agents), 1000),
        "preparing_s": round(content["preparing_s"], 2),
        "warming_up_s": round(content["warming_up_s"], 2),
        "load": content["load"],
    }


def _step(name: str, content: Content) -> dict[str, Any]:
    """One training step of the measurement "step/model/precision"."""
    _, model, precision = name.split("/")
    parts = ("forward", "backward", "optimiser")
    rounds = content["rounds"]
    sums = [sum(one["seconds"][part] for part in parts) for one in rounds]
    row = {
        "model": model,
        "precision": precision,
        "agents": content["agents"],
        "rounds": len(rounds),
        "cpu_ms": {part: middle((one["seconds"][part] for one in rounds), 1000) for part in parts}
        | {"step": middle(sums, 1000)},
        "matmul_gflop": _median(s * one["peak_gflops"]["float32"] for s, one in zip(sums, rounds, strict=True)),
        "peak_bytes": content["peak_bytes"],
    }
    if MODELS[model].same_grid and content["agents"] == reference_speed.STEP["agents"]:
        there = reference_speed.PEAK_GFLOPS[precision]
        row["times_reference"] = _median(
            reference_speed.STEP["seconds"] * there / (s * one["peak_gflops"][precision])
            for s, one in zip(sums, rounds, strict=True)
        )
    return row


def _evaluation(content: Content) -> dict[str, Any]:
    """Average precision against loops; both by the whole number of frames."""
    frames, loops = content["frames"], content["loops"]
    ours = content["matching_s"] + content["ranking_s"]
    return {
        "frames": frames,
        "boxes": content["boxes"],
        "cpu_s": _rounded(ours),
        "ms_per_frame": _rounded(1000 * content["matching_s_per_frame"]),
        "loop_frames": content["loop_frames"],
        "loops_cpu_s": loops and {how: _rounded(frames * seconds) for how, seconds in loops.items()},
        "times_loops": loops and {how: _rounded(frames * seconds / ours) for how, seconds in loops.items()},
    }


def _model(name: str, contents: Mapping[str, Content], variants: Mapping[str, Variant]) -> dict[str, Any]:
    content = next(contents[cell] for cell, v in variants.items() if v.model == name and "failed" not in contents[cell])
    return {
        "title": MODELS[name].title,
        "parameters": content["parameters"],
        "cells": content["grid"],
        "message_bytes": content["message_bytes"],
    }


def _peaks(contents: Mapping[str, Content], variants: Mapping[str, Variant]) -> dict[str, dict[str, dict[str, float]]]:
    """Median and quartiles by threads and precision."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, variant in variants.items():
        for one in contents[name].get("rounds", []):
            for precision, rate in one["peak_gflops"].items():
                found.setdefault(str(variant.threads), {}).setdefault(precision, []).append(rate)
    return {threads: {p: middle(rates) for p, rates in by.items()} for threads, by in found.items()}


def _sweeps(contents: Mapping[str, Content]) -> dict[str, Any]:
    about = [c for name, c in contents.items() if name.startswith("frames/published/") and "failed" not in c]
    points = [count for content in about[:1] for count in content["points"]]
    pillars = [count for content in about[:1] for count in content["pillars"]]
    return {"points": points, "pillars": pillars}


def _about(variant: Variant) -> dict[str, Any]:
    return {
        "model": variant.model,
        "build": variant.build,
        "precision": variant.precision,
        "threads": variant.threads,
    }


def _median(values: Iterable[float]) -> float:
    return _rounded(statistics.median(values))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def of(rows: Sequence[Mapping[str, Any]], **wanted: Any) -> list[Mapping[str, Any]]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]
