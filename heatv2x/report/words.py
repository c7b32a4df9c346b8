"""What the numbers say, in plain words that stay true whichever way they fall."""

from __future__ import annotations

from dataclasses import dataclass

from heatv2x.report.results import Results, Row

NO_DIFFERENCE_POINTS = 1.0  # two spikes: seeds alone move AP50 by up to about a point (SPIKES.md)

ADAPTED = ("lhft_gcft", "lhft", "gcft_only")
TYPES = {
    "lidar64": "64-beam LiDAR",
    "lidar32": "32-beam LiDAR",
    "lidar16": "16-beam LiDAR",
    "camera": "cameras, no LiDAR",
}
STAGES = {
    "base": "Base training",
    "local": "Local adapters (LHFT)",
    "collaborative": "Collaborative adapters (GCFT)",
    "full_finetune": "Full fine-tuning",
    "backward_alignment": "Whole encoder, base frozen",
    "scratch_mix": "Everything from scratch",
}


@dataclass(frozen=True)
class Wording:
    """How a row is called on the page, and what it is."""

    label: str
    explanation: str


ROWS = {
    "no_fusion": Wording(
        "Ego alone", "The collaborative network with no message at all: what the ego sees by itself. The fair baseline."
    ),
    "single_agent": Wording(
        "Dedicated single-agent net", "A network trained only ever to work alone, so collaboration cost it nothing."
    ),
    "late": Wording("Late fusion", "Everyone detects alone and sends boxes, which the ego merges."),
    "maximum": Wording("Maximum fusion", "Features fused by a plain per-cell maximum instead of the graph."),
    "unaligned": Wording(
        "Newcomer, not adapted", "The newcomer's features go straight into the alliance's fusion, with nothing trained."
    ),
    "gcft_only": Wording("GCFT only", "Only the collaborative stage: adapters trained through the fusion."),
    "lhft": Wording("LHFT", "Only the local stage: adapters trained on the newcomer's own data."),
    "lhft_gcft": Wording(
        "LHFT + GCFT",
        "Our full method: adapters trained locally, then collaboratively. The base stays frozen.",
    ),
    "backward_alignment": Wording(
        "Encoder alignment",
        "The newcomer's whole encoder trained against the frozen base, as HEAL does.",
    ),
    "full_finetune": Wording(
        "Full fine-tuning",
        "Every parameter trained on the mixed fleet, deployed networks included.",
    ),
    "scratch_mix": Wording("Trained from scratch", "One network for the mixed fleet, trained from random weights."),
    "homogeneous": Wording(
        "All base type", "Everyone carries the base's sensor and network: what collaboration gives when nobody differs."
    ),
}


def wording(name: str) -> Wording:
    """Label and explanation of a row; an unknown name is shown as it is."""
    method = name.rpartition("/")[2]
    return ROWS.get(method, Wording(method, ""))


def sensor(agent_type: str | None) -> str:
    """An agent type in words: "16-beam LiDAR"; an unknown one as it is."""
    return TYPES.get(agent_type or "", agent_type or "another sensor")


def stage_label(name: str) -> str:
    """A stage in words; an unknown one as it is."""
    prefix, _, stage = name.rpartition("/")
    return STAGES.get(stage, stage) + (f" · {prefix}" if prefix else "")


def group_label(prefix: str) -> str:
    """The heading over rows that share a prefix."""
    if not prefix:
        return "The main story"
    if prefix == "control":
        return "Controls"
    if prefix.startswith("ego_"):
        return f"Other ego: {sensor(prefix.removeprefix('ego_'))}"
    return f"Newcomer: {sensor(prefix)}" if prefix in TYPES else prefix


def points(value: float | None) -> str:
    """AP points with one decimal: "85.1"; a dash if not measured."""
    return "–" if value is None else f"{value:.1f}"


def count(value: float | None) -> str:
    """A rounded count: "51 k", "1.2 M"; a dash if unknown."""
    if value is None:
        return "–"
    for limit, divisor, digits, unit in ((1e4, 1, 0, ""), (999.5e3, 1e3, 0, "\u202fk"), (1e12, 1e6, 1, "\u202fM")):
        if abs(value) < limit:
            return f"{value / divisor:,.{digits}f}{unit}".replace(",", "\u202f")
    return f"{value:.2g}"


def seconds(value: float | None) -> str:
    """A duration: "70 s", "4 min 12 s", "2 h 05 min"; a dash if unknown."""
    if value is None:
        return "–"
    if value < 120:
        return f"{value:.0f}\u202fs" if value >= 10 or value == 0 else f"{value:.1f}\u202fs"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest:02d}\u202fs"
    return f"{minutes // 60}\u202fh {minutes % 60:02d}\u202fmin"


def size(value: float | None) -> str:
    """Bytes: "812 B", "12.3 kB", "1.4 MB"; a dash if unknown."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.0f}\u202fB"
    return f"{value / 1e3:.1f}\u202fkB" if value < 1e6 else f"{value / 1e6:.1f}\u202fMB"


def percent(part: float | None, whole: float | None) -> str | None:
    """The share in words: "12 %"; None if it cannot be formed."""
    if part is None or not whole:
        return None
    share = 100 * part / whole
    return f"{share:.0f}\u202f%" if share >= 1 or share == 0 else f"{share:.1f}\u202f%"


def overlap(one: Row, other: Row) -> bool:
    """Whether the AP50 intervals of two rows overlap; False if one has none."""
    a, b = one.interval(), other.interval()
    return a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]


def comparable(one: Row, other: Row) -> bool:
    """Whether two rows may be compared: same protocol and same kind of ego, as far as they say."""
    same_ego = one.ego_type == other.ego_type or one.ego_type is None or other.ego_type is None
    return one.protocol == other.protocol and same_ego


def alone(results: Results, told: Row) -> Row | None:
    """What the ego of that row sees without any message, by the same protocol; None if it was not measured."""
    names = [f"{told.prefix}/no_fusion"] if told.prefix else []
    rows = (results.row(name) for name in (*names, "no_fusion", "single_agent"))
    return next((row for row in rows if row is not None and row.points() is not None and comparable(row, told)), None)


@dataclass(frozen=True)
class Milestone:
    """One large number of the page's head.

    Attributes:
        role: "alone", "unaligned", "adapted" or "reference": decides its colour.
        label: what the number is.
        value: AP50 in points.
        note: one line under it.
    """

    role: str
    label: str
    value: float
    note: str


@dataclass(frozen=True)
class Story:
    """The head of the page.

    Attributes:
        headline: what came of it, one line.
        lead: what happened to the newcomer.
        context: how that compares, and what did not change.
        warning: what the reader must know first; "" if nothing.
        milestones: the numbers that carry the story.
    """

    headline: str
    lead: str
    context: str
    warning: str
    milestones: list[Milestone]


@dataclass(frozen=True)
class _Cast:
    """The rows a story is told with; any may be missing. All of them are comparable with the first that is there."""

    alone: Row | None
    unaligned: Row | None
    adapted: Row | None
    full: Row | None
    homogeneous: Row | None

    @classmethod
    def of(cls, results: Results, prefix: str = "") -> _Cast:
        told = [row for row in results.rows if row.prefix == prefix and row.points() is not None]
        by_method = {row.method: row for row in reversed(told)}
        adapted = next((by_method[name] for name in ADAPTED if name in by_method), None)
        unaligned = by_method.get("unaligned")
        anchor = adapted or unaligned
        borrowed = {row.method: row for row in results.rows if not row.prefix and row.points() is not None}

        def find(name: str, borrow: bool = False) -> Row | None:
            row = by_method.get(name) or (borrowed.get(name) if borrow else None)
            return row if row is None or anchor is None or comparable(row, anchor) else None

        baseline = alone(results, anchor) if anchor else by_method.get("no_fusion")
        return cls(baseline, unaligned, adapted, find("full_finetune"), find("homogeneous", borrow=True))


def tell(results: Results) -> Story:
    """The story of a run, from whichever of its rows are there."""
    cast = _Cast.of(results)
    kept, warning = _frozen(results)
    return Story(
        headline=_headline(cast, _newcomer(results)),
        lead=" ".join([*_opening(results, cast), *_before(cast), *_after(cast)]),
        context=" ".join([*_rival(cast), *_upper(cast), *kept, *_others(results)]),
        warning=warning,
        milestones=_milestones(cast),
    )


def _newcomer(results: Results) -> str | None:
    named = results.story.get("newcomer")
    return (
        str(named) if named else next((row.newcomer for row in results.rows if row.newcomer and not row.prefix), None)
    )


def _headline(cast: _Cast, newcomer: str | None) -> str:
    who = "A camera-only newcomer" if newcomer == "camera" else f"A {sensor(newcomer)} newcomer"
    told = cast.adapted or cast.unaligned
    if told is None:
        return "What this run measured"
    joins = f"{who} joins" if cast.adapted else f"{who} joins, not adapted"
    if cast.alone is None:
        return f"{joins}: AP50 {points(told.points())}"
    before, after = cast.alone.points() or 0.0, told.points() or 0.0
    if abs(after - before) < NO_DIFFERENCE_POINTS:
        return f"{joins}, but it did not help: AP50 {points(before)} before, {points(after)} after"
    verb = "rises" if after > before else "falls"
    return f"{joins}: AP50 {verb} from {points(before)} to {points(after)}"


def _opening(results: Results, cast: _Cast) -> list[str]:
    base, newcomer = results.story.get("base_type"), _newcomer(results)
    if not newcomer or not base or (cast.unaligned is None and cast.adapted is None):
        return []
    carries = "only cameras" if newcomer == "camera" else f"a {sensor(newcomer)}"
    network = " and another network" if newcomer != base else ""
    whose = "camera-only cars" if base == "camera" else f"cars with a {sensor(str(base))}"
    return [f"A car with {carries}{network} joined an alliance of {whose}."]


def _before(cast: _Cast) -> list[str]:
    if cast.unaligned is None:
        return []
    before = cast.unaligned.points()
    if cast.alone is None:
        return [f"Before adapting, AP50 was {points(before)}."]
    alone = cast.alone.points()
    verdict = _verdict(
        cast.unaligned,
        cast.alone,
        better="its messages already helped",
        same="its messages made no difference to speak of",
        worse="its messages hurt",
    )
    return [f"Before adapting, {verdict}: AP50 {points(before)}, against {points(alone)} alone."]


def _verdict(row: Row, against: Row, better: str, same: str, worse: str) -> str:
    """Which of three wordings is true of AP50, with a caution where the intervals overlap."""
    gap = (row.points() or 0.0) - (against.points() or 0.0)
    if abs(gap) < NO_DIFFERENCE_POINTS:
        return same
    caution = " (but the intervals overlap)" if overlap(row, against) else ""
    return (better if gap > 0 else worse) + caution


def _effort(row: Row, full: Row | None) -> str:
    """What a row cost: "training 51 k parameters (12 % of full fine-tuning) for 70 s"."""
    words = "adapting"
    if row.cumulative_parameters is not None:
        share = percent(row.cumulative_parameters, full.cumulative_parameters if full else None)
        words = f"training {count(row.cumulative_parameters)} parameters" + (
            f" ({share} of full fine-tuning)" if share else ""
        )
    if row.train_seconds is not None:
        return f"{words} for {seconds(row.train_seconds)} of processor time"
    if row.provenance_seconds is not None:
        return f"{words} (shipped ready-made; it once took {seconds(row.provenance_seconds)} of processor time)"
    return words


def _after(cast: _Cast) -> list[str]:
    if cast.adapted is None:
        return []
    reached = f"After {_effort(cast.adapted, cast.full)}, AP50 is {points(cast.adapted.points())}"
    if cast.alone is None:
        return [reached + "."]
    verdict = _verdict(
        cast.adapted,
        cast.alone,
        better="more than the ego sees alone",
        same="no better than the ego alone: it did not help",
        worse="less than the ego sees alone: it did not help",
    )
    return [f"{reached}, {verdict}."]


def _rival(cast: _Cast) -> list[str]:
    if cast.full is None or cast.adapted is None:
        return []
    cost = [
        f"{count(cast.full.cumulative_parameters)} parameters" if cast.full.cumulative_parameters is not None else "",
        seconds(cast.full.seconds) if cast.full.seconds is not None else "",
    ]
    price = " and ".join(part for part in cost if part)
    sentence = f"Full fine-tuning{f', with {price},' if price else ''} reached {points(cast.full.points())}"
    gap = (cast.adapted.points() or 0.0) - (cast.full.points() or 0.0)
    if abs(gap) < NO_DIFFERENCE_POINTS:
        return [f"{sentence}: no difference to speak of."]
    caution = " (the intervals overlap)" if overlap(cast.adapted, cast.full) else ""
    return [f"{sentence}: {points(abs(gap))} points {'less' if gap > 0 else 'more'}{caution}."]


def _upper(cast: _Cast) -> list[str]:
    if cast.homogeneous is None:
        return []
    return [f"If everyone carried the base's sensor and network, it would be {points(cast.homogeneous.points())}."]


def _frozen(results: Results) -> tuple[list[str], str]:
    """What the comparison of frozen tensors allows to be said, and the warning if it failed."""
    proofs = [(stage, stage.frozen_proof) for stage in results.stages if stage.frozen_proof is not None]
    broken = [stage_label(stage.name) for stage, proof in proofs if not proof.bit_identical]
    if broken:
        return [], f"Tensors that should stay frozen changed in: {', '.join(broken)}."
    if not proofs:
        return [], ""
    tensors = max(proof.tensors for _, proof in proofs)
    return [f"Nobody deployed was retrained: all {tensors} frozen tensors are bit-identical before and after."], ""


def _others(results: Results) -> list[str]:
    """One sentence for every further newcomer that has an adapted row."""
    prefixes = dict.fromkeys(row.prefix for row in results.rows if row.prefix and row.prefix in TYPES)
    sentences = []
    for prefix in prefixes:
        cast = _Cast.of(results, prefix)
        if cast.adapted is None:
            continue
        before = f"{points(cast.unaligned.points())} before adapting, " if cast.unaligned else ""
        alone = f" ({points(cast.alone.points())} alone)" if cast.alone else ""
        who = "A camera-only newcomer" if prefix == "camera" else f"A {sensor(prefix)} newcomer"
        sentences.append(f"{who}: {before}{points(cast.adapted.points())} after{alone}.")
    return sentences


def _milestones(cast: _Cast) -> list[Milestone]:
    named = (
        ("alone", "Ego alone", cast.alone, "no message used"),
        ("unaligned", "Newcomer joins", cast.unaligned, "nothing trained"),
        ("adapted", "Adapted", cast.adapted, _cost_note(cast.adapted)),
        ("reference", "Full fine-tuning", cast.full, _cost_note(cast.full)),
    )
    return [Milestone(role, label, row.points() or 0.0, note) for role, label, row, note in named if row is not None]


def _cost_note(row: Row | None) -> str:
    if row is None:
        return ""
    parts = [
        f"{count(row.cumulative_parameters)} parameters" if row.cumulative_parameters is not None else "",
        seconds(row.seconds) if row.seconds is not None else "",
    ]
    return ", ".join(part for part in parts if part)
