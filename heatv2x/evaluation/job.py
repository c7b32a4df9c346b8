"""The evaluation job: packs and a split in, metrics.json out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from heatv2x.core import distributed, plugins
from heatv2x.core.config import Config
from heatv2x.core.files import read_json, write_json
from heatv2x.data.assignment import Assignment
from heatv2x.data.datasets.base import Dataset, DatasetConfig, open_dataset, recognise
from heatv2x.errors import ConfigError, DataError
from heatv2x.evaluation.coverage import BeforeFirst, Coverage, notes_on
from heatv2x.evaluation.detections import FILE_NAME as DETECTIONS_FILE
from heatv2x.evaluation.detections import FoundFrame, spread, write_detections
from heatv2x.evaluation.evaluator import Evaluator, require_types
from heatv2x.evaluation.protocols import HEATV2X, find_protocol
from heatv2x.evaluation.results import Evaluation
from heatv2x.evaluation.roster import AssignedRoster, Cast, Roster
from heatv2x.link.channel import ChannelConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import EXCHANGE_OF
from heatv2x.model.pretrained import PackPath
from heatv2x.model.variants import exchanging, fusing_by, reaching, without_reader
from heatv2x.nn.move import Device, find_device

_NOT_ABOUT_RESULTS = {"out", "overwrite", "device", "scenes", "detections"}


class EvalConfig(Config):
    """One evaluation from packs.

    Attributes:
        data: the dataset's folder.
        dataset: the dataset part that reads it, if the folder is not recognised; dataset.settings.KEY=VALUE are the
            part's own settings.
        hetero_root: the folder of OPV2V-H's second download, if it is not inside `data`.
        split: which split.
        packs: base, agent and adapter packs, any order.
        allow_parts: parts from outside HeatV2X ("package.module:Class") that packs may name; their code is imported.
        ego: the ego's type.
        senders: the senders' type; several types take turns.
        drop: true drops all messages, so that the ego detects alone.
        assignment: a file that assigns a type to each agent of each scenario; then `plays` maps each of its types to
            one of ours, `ego` is the type that the ego must have, and `senders` is unused.
        plays: which of our types stands for each type of the assignment, such as plays.m1=lidar64; agents whose type is
            missing here, or set to null, take no part.
        agents: how many agents take part, the ego first; several numbers give one row each (in-order evaluation).
        channel: the link.
        refine_poses: senders send their boxes along, and the ego corrects the reported poses by them.
        share_boxes: senders send their boxes along, and the ego adds them to what the fused features show.
        guard: the ego ignores messages that would cost it its own detections, as it should where anyone may send; the
            agents of a dataset are honest.
        fusion: exchange boxes ("late") or points ("early") instead of features, or fuse features with another part that
            has no parameters, such as "maximum".
        share: senders send only this share of their cells, those they are most confident about; several numbers give a
            row each.
        budget_bytes: how long a message with a feature may be; its most relevant cells go first. Several numbers give a
            row each, null lifts the base's own limit; by default that limit holds.
        read_boxes: false sends no boxes and leaves the base's reader out.
        codec: how features are packed into messages; by default the base's codec.
        protocol: the rules by which average precision is computed (docs/protocols.md).
        half_extent_m, half_extent_y_m: how far the grid reaches ahead and to the sides; by default as far as in
            training.
        frames: evaluate only the first so many labelled frames.
        before_first: what to do with a frame that has no frame `channel.latency_ms` before it: "clamp" takes the
            messages of the oldest frame there is, "leave_out" does not score it. metrics.json counts these frames.
        skip_scenarios_without_ego: leave out scenarios in which no agent has the ego's type, instead of refusing to
            start.
        device: "auto" uses CUDA if there is a GPU.
        scenes: how many frames, spread over the scenarios, to show in a report.html with what was detected.
        detections: write the detections of every frame to detections.json.
        out: folder for metrics.json, detections.json, and scenes.json and report.html.
        overwrite: replace the results of another evaluation in that folder.
    """

    data: Path
    dataset: str | DatasetConfig | None = None
    hetero_root: Path | None = None
    split: str = "test"
    packs: tuple[PackPath, ...]
    allow_parts: tuple[str, ...] = ()
    ego: str = "lidar64"
    senders: str | tuple[str, ...] = "lidar64"
    drop: bool = False
    assignment: Path | None = None
    plays: dict[str, str | None] = pydantic.Field(default_factory=dict)
    agents: tuple[pydantic.PositiveInt, ...] = ()
    channel: ChannelConfig = ChannelConfig()
    refine_poses: bool = False
    share_boxes: bool = False
    guard: bool = False
    fusion: str | None = None
    share: float | tuple[float, ...] = ()
    budget_bytes: int | tuple[int, ...] | None = ()
    read_boxes: bool = True
    codec: str | None = None
    protocol: str = HEATV2X.name
    half_extent_m: float | None = pydantic.Field(None, gt=0)
    half_extent_y_m: float | None = pydantic.Field(None, gt=0)
    frames: int | None = pydantic.Field(None, gt=0)
    before_first: BeforeFirst = "clamp"
    skip_scenarios_without_ego: bool = False
    device: Device = "auto"
    scenes: int = pydantic.Field(0, ge=0, le=100)
    detections: bool = True
    out: Path = Path("runs/eval")
    overwrite: bool = False


@dataclass
class EvaluatedRow:
    """A row of metrics.json with everything it was measured with.

    Attributes:
        name: of the row.
        model, roster, evaluator: what was evaluated, who played what, and on which frames.
        evaluation: the result.
    """

    name: str
    model: Collaboration
    roster: Cast
    evaluator: Evaluator
    evaluation: Evaluation


def run_eval(
    config: EvalConfig,
    report: Callable[[str, int, int], None] | None = None,
    watch: Callable[[EvaluatedRow], None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Evaluate packs on a split and write metrics.json and detections.json; gives the rows of metrics.json.

    Args:
        report: progress.
        watch: called after every row, by every process; `report.evaluated` makes pictures of what it is given.
        about: more for metrics.json, such as a title and the command.

    Raises:
        ConfigError: results of another evaluation lie in `out`, and they are not to be overwritten.
        HeatError: the packs, the data or the roster allow no evaluation.
    """
    model = _model(config)
    rosters = _rosters(config)
    for roster in rosters.values():
        require_types(model, roster)  # an unknown type or a missing pack is told before the data are read
    config = config.model_copy(update={"dataset": named_dataset(config.dataset, config.data)})
    dataset = open_part(config.dataset, config.data, config.split, config.hetero_root)
    made_from = {
        "settings": config.model_dump(mode="json"),
        "data_fingerprint": dataset.fingerprint,
        "pack_digests": [hashlib.sha256(path.read_bytes()).hexdigest() for path in config.packs],
    }
    refuse_to_overwrite(config, made_from)
    evaluator = Evaluator(
        dataset,
        config.channel,
        find_protocol(config.protocol),
        config.frames,
        refine_poses=config.refine_poses,
        share_boxes=config.share_boxes,
        guard=config.guard,
        before_first=config.before_first,
        skip_scenarios_without_ego=config.skip_scenarios_without_ego,
    )
    evaluator.keep = {evaluator.indices[k] for k in spread([dataset.name(i) for i in evaluator.indices], config.scenes)}
    tell = None if report is None else lambda done, total: report("evaluating", done, total)
    rows: list[dict[str, Any]] = []
    found: list[tuple[str, Mapping[str, Any], list[FoundFrame]]] = []
    shares = config.share if isinstance(config.share, tuple) else (config.share,)
    budgets = config.budget_bytes if isinstance(config.budget_bytes, tuple) else (config.budget_bytes,)
    for (who, roster), share, budget in itertools.product(rosters.items(), shares or (None,), budgets or (None,)):
        name = who if share is None else f"{who}/{100 * share:g}%"
        name = name if budget is None else f"{name}/{budget / 1000:g}kB"
        if share is not None:
            model.fusion.sends_at_most(share)
        if budget is not None:
            model.use_budget(budget)
        evaluation = evaluator.evaluate(model, roster, tell)
        row: dict[str, Any] = {"name": name, "newcomer": None, "ego_type": config.ego, "seed": config.channel.seed}
        row |= {**evaluation.to_row(model.payload), "trained_parameters": None, "train_seconds": None}
        rows.append({**row, "ap_by_scenario": evaluation.by_scenario})
        found.append((name, row["protocol"], evaluation.frames))
        if watch is not None:
            watch(EvaluatedRow(name, model, roster, evaluator, evaluation))
    if distributed.rank() == 0:
        counts = {name: rows[0][name] for name in Coverage().to_dict()}
        content = {"rows": rows, **counts, "notes": notes_of(rows, config.channel.latency_ms), **made_from}
        if config.detections:
            write_detections(config.out / DETECTIONS_FILE, found)
        write_json(config.out / "metrics.json", {**(about or {}), **content})
    return rows


def refuse_to_overwrite(config: EvalConfig, about: Mapping[str, Any]) -> None:
    """Refuse a folder that holds the results of anything but the same evaluation.

    Args:
        about: settings, data and packs as they are going to be written.

    Raises:
        ConfigError: it does; says what differs and the way out.
    """
    path = config.out / "metrics.json"
    if config.overwrite or not path.exists():
        return
    way_out = "Way out: set another out=FOLDER, or overwrite=true to replace them"
    try:
        before = read_json(path)
    except DataError as error:
        raise ConfigError(f"{path} cannot be read, so it may hold results of another run.\n  {way_out}") from error
    settings = before.get("settings") if isinstance(before, dict) else None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds results of another command.\n  {way_out}")
    ours = about["settings"]
    defaults = {key: field.get_default() for key, field in EvalConfig.model_fields.items() if not field.is_required()}
    known = {key: settings.get(key, defaults.get(key)) for key in ours}
    differs = [key for key in ours if key not in _NOT_ABOUT_RESULTS and known[key] != ours[key]]
    differs += [key for key in ("data_fingerprint", "pack_digests") if before.get(key, about[key]) != about[key]]
    if differs:
        names = ", ".join(key.replace("_", " ") if key.startswith(("data_f", "pack_d")) else key for key in differs)
        raise ConfigError(f"{path} holds the results of an evaluation with different {names}.\n  {way_out}")


def notes_of(rows: Sequence[Mapping[str, Any]], latency_ms: int) -> list[str]:
    """What a reader of a table must know about the frames behind it, one sentence each."""
    most = {name: max(row[name] for row in rows) for name in Coverage().to_dict()}
    notes = notes_on(most)
    ages = [row["message_age_ms"] for row in rows if row["message_age_ms"] is not None]
    if latency_ms and ages and not most["frames_clamped"] and abs(max(ages) - latency_ms) > 0.25 * latency_ms:
        notes.append(
            f"messages were {max(ages):.0f} ms old on average when they were used, not {latency_ms}, going by the "
            "capture times in the data"
        )
    if most["frames_clamped"] and most["frames_clamped"] == rows[0]["n_frames"]:
        notes.append(
            f"no frame used messages as old as {latency_ms} ms, so these numbers do not show the effect of that latency"
        )
    if rows[0]["n_scenarios"] == 1:
        notes.append("one scenario only: its frames are not independent of one another, so there is no interval")
    if bare := [name for name, ap in rows[0]["ap_by_scenario"].items() if None in ap.values()]:
        notes.append(f"no labelled object in range in {len(bare)} of {rows[0]['n_scenarios']} scenarios")
    return notes


def _model(config: EvalConfig) -> Collaboration:
    """The packs' model, on the requested grid and with the requested exchange."""
    with plugins.allowing(config.allow_parts):
        model = Collaboration.from_packs(*config.packs)
    if config.codec is not None:
        model.use_codec(config.codec)
    if not config.read_boxes:
        model = without_reader(model)
    if config.budget_bytes is None:
        model.use_budget(None)
    if config.half_extent_m is not None or config.half_extent_y_m is not None:
        own = model.grid
        model = reaching(model, config.half_extent_m or own.x_max, config.half_extent_y_m or own.y_max)
    if config.fusion is not None:
        exchange = EXCHANGE_OF.get(config.fusion)
        model = fusing_by(model, config.fusion) if exchange is None else exchanging(model, exchange)
    return model.to(find_device(config.device))


def open_part(dataset: str | DatasetConfig | None, data: Path, split: str, hetero_root: Path | None) -> Dataset:
    """A split of the dataset that a command names, read by the part it names or else by the one that recognises it."""
    named = named_dataset(dataset, data)
    part = DatasetConfig(part=named) if isinstance(named, str) else named
    assert part.part is not None
    root = {} if hetero_root is None else {"hetero_root": hetero_root}
    return open_dataset(part.part, data, split, {**part.settings, **root})


def named_dataset(dataset: str | DatasetConfig | None, data: Path) -> str | DatasetConfig:
    """The setting `dataset` with its part filled in: the given one, or else the one that recognises `data`.

    Raises:
        DataError: no such folder, or no part recognises it.
        ConfigError: several parts do; says how to choose.
    """
    if isinstance(dataset, str) or (dataset is not None and dataset.part is not None):
        return dataset
    reader = recognise(data, dataset)
    return DatasetConfig(part=reader.part, settings=dict(reader.settings)) if reader.settings else reader.part


def _rosters(config: EvalConfig) -> dict[str, Cast]:
    """Which agent has which type, by the name of the row.

    Raises:
        ConfigError: settings of an assignment without one.
    """
    if config.assignment is None:
        if config.plays or config.agents:
            raise ConfigError("plays= and agents= need an assignment: set assignment=FILE")
        roster = Roster(config.ego, config.senders, config.drop)
        name = "no_fusion" if config.drop else f"{config.ego}<-{'+'.join(roster.in_turn)}"
        return {name: roster}
    assigned = Assignment.read(config.assignment)
    plays = {name: ours for name, ours in config.plays.items() if ours is not None}
    assigned.knows(plays)
    counts = config.agents or (None,)
    return {
        "no_fusion" if config.drop else "assigned" if count is None else f"assigned/{count}": AssignedRoster(
            assigned, plays, (config.ego,), count, config.drop
        )
        for count in counts
    }
