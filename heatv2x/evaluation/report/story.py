"""What the numbers say, in plain words that stay true whichever way they fall."""

from __future__ import annotations

from dataclasses import dataclass

from heatv2x.evaluation.report import words
from heatv2x.evaluation.report.results import Results, Row

NO_DIFFERENCE_POINTS = 1.0  # measured: the training seed alone moves AP50 by up to about a point

ADAPTED = ("lhft_gcft", "lhft", "gcft_only")


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
        role: "alone", "unaligned", "late", "adapted" or "reference": decides its colour.
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
        pending: which parts of the run are missing, and how to get them; "" if none.
        milestones: the numbers that carry the story.
    """

    headline: str
    lead: str
    context: str
    warning: str
    pending: str
    milestones: list[Milestone]


@dataclass(frozen=True)
class _Cast:
    """The rows a story is told with; any may be missing. All of them are comparable with the first that is there."""

    alone: Row | None
    unaligned: Row | None
    adapted: Row | None
    full: Row | None
    homogeneous: Row | None
    late: Row | None

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
        full, homogeneous = find("full_finetune"), find("homogeneous", borrow=True)
        return cls(baseline, unaligned, adapted, full, homogeneous, find("late"))


def tell(results: Results) -> Story:
    """The story of a run, from whichever of its rows are there."""
    cast = _Cast.of(results)
    kept, warning = _frozen(results)
    return Story(
        headline=_headline(results, cast),
        lead=" ".join([*_opening(results, cast), *_before(cast), *_after(cast)]),
        context=" ".join([*_late(cast), *_rival(cast), *_upper(cast), *kept, *_others(results)]),
        warning=warning,
        pending=_pending(results),
        milestones=_milestones(cast),
    )


def _newcomer(results: Results) -> str | None:
    named = results.story.get("newcomer")
    return (
        str(named) if named else next((row.newcomer for row in results.rows if row.newcomer and not row.prefix), None)
    )


def _headline(results: Results, cast: _Cast) -> str:
    told = cast.adapted or cast.unaligned
    if told is None:
        measured = [row for row in results.rows if row.points() is not None]
        if len(measured) != 1:
            return "What this run measured"
        return f"{words.wording(measured[0].name).label}: AP50 {words.points(measured[0].points())}"
    newcomer = _newcomer(results)
    who = "A camera-only newcomer" if newcomer == "camera" else f"A {words.sensor(newcomer)} newcomer"
    joins = f"{who} joins" if cast.adapted else f"{who} joins, not adapted"
    against = _against_late(told, cast.late)
    if cast.alone is None:
        return f"{joins}: AP50 {words.points(told.points())}{against}"
    before, after = cast.alone.points() or 0.0, told.points() or 0.0
    if abs(after - before) < NO_DIFFERENCE_POINTS:
        return f"{joins}, but it did not help: AP50 {words.points(before)} before, {words.points(after)} after{against}"
    verb = "rises" if after > before else "falls"
    return f"{joins}: AP50 {verb} from {words.points(before)} to {words.points(after)}{against}"


def _against_late(told: Row, late: Row | None) -> str:
    """How late fusion of the same agents does, for the headline; "" if it was not measured."""
    if late is None:
        return ""
    gap = (told.points() or 0.0) - (late.points() or 0.0)
    if abs(gap) < NO_DIFFERENCE_POINTS:
        return f", level with late fusion ({words.points(late.points())})"
    if gap < 0:
        return f", but late fusion reaches {words.points(late.points())}"
    return f"; late fusion reaches {words.points(late.points())}"


def _pending(results: Results) -> str:
    if not results.pending:
        return ""
    missing = words.listed([words.work(name) for name in results.pending])
    return f"Not in this report yet: {missing}. The command under \u201cHow it was measured\u201d adds what is missing."


def _opening(results: Results, cast: _Cast) -> list[str]:
    base, newcomer = results.story.get("base_type"), _newcomer(results)
    if not newcomer or not base or (cast.unaligned is None and cast.adapted is None):
        return []
    carries = "only cameras" if newcomer == "camera" else f"a {words.sensor(newcomer)}"
    network = " and another network" if newcomer != base else ""
    whose = "camera-only cars" if base == "camera" else f"cars with a {words.sensor(str(base))}"
    return [f"A car with {carries}{network} joined an alliance of {whose}."]


def _before(cast: _Cast) -> list[str]:
    if cast.unaligned is None:
        return []
    before = cast.unaligned.points()
    if cast.alone is None:
        return [f"Before adapting, AP50 was {words.points(before)}."]
    alone = cast.alone.points()
    verdict = _verdict(
        cast.unaligned,
        cast.alone,
        better="its messages already helped",
        same="its messages made no difference to speak of",
        worse="its messages hurt",
    )
    return [f"Before adapting, {verdict}: AP50 {words.points(before)}, against {words.points(alone)} alone."]


def _verdict(row: Row, against: Row, better: str, same: str, worse: str) -> str:
    """Which of three wordings is true of AP50, with a caution where the intervals overlap."""
    gap = (row.points() or 0.0) - (against.points() or 0.0)
    if abs(gap) < NO_DIFFERENCE_POINTS:
        return same
    caution = " (but the intervals overlap)" if overlap(row, against) else ""
    return (better if gap > 0 else worse) + caution


def _effort(row: Row, full: Row | None) -> str:
    """What a row cost: "training 51 k parameters (12 % of full fine-tuning) for 70 s"."""
    effort = "adapting"
    if row.cumulative_parameters is not None:
        share = words.percent(row.cumulative_parameters, full.cumulative_parameters if full else None)
        effort = f"training {words.count(row.cumulative_parameters)} parameters" + (
            f" ({share} of full fine-tuning)" if share else ""
        )
    if row.train_seconds is not None:
        return f"{effort} for {words.seconds(row.train_seconds)} of processor time"
    if row.provenance_seconds is not None:
        return f"{effort} (shipped ready-made; it once took {words.seconds(row.provenance_seconds)} of processor time)"
    return effort


def _after(cast: _Cast) -> list[str]:
    if cast.adapted is None:
        return []
    reached = f"After {_effort(cast.adapted, cast.full)}, AP50 is {words.points(cast.adapted.points())}"
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


def _late(cast: _Cast) -> list[str]:
    """Late fusion beside the adapted newcomer, with everything that speaks for either."""
    late, told = cast.late, cast.adapted or cast.unaligned
    if late is None or told is None:
        return []
    verdict = _verdict(late, told, better="better", same="no difference to speak of", worse="less")
    sentence = f"Late fusion, where everyone sends boxes instead of features, reaches {words.points(late.points())}"
    strict = [row.points("0.7") for row in (late, told)]
    if None not in strict:
        sentence += f" (AP70 {words.points(strict[0])} against {words.points(strict[1])})"
    sentence += f": {verdict}"
    if late.message_bytes is not None and told.message_bytes is not None:
        sizes = [words.size(row.message_bytes) for row in (late, told)]
        sentence += f". Its messages have {sizes[0]}, those with features {sizes[1]}"
    return [sentence + "."]


def _rival(cast: _Cast) -> list[str]:
    if cast.full is None or cast.adapted is None:
        return []
    cost = [
        f"{words.count(cast.full.cumulative_parameters)} parameters"
        if cast.full.cumulative_parameters is not None
        else "",
        words.seconds(cast.full.seconds) if cast.full.seconds is not None else "",
    ]
    price = " and ".join(part for part in cost if part)
    sentence = f"Full fine-tuning{f', with {price},' if price else ''} reached {words.points(cast.full.points())}"
    gap = (cast.adapted.points() or 0.0) - (cast.full.points() or 0.0)
    if abs(gap) < NO_DIFFERENCE_POINTS:
        return [f"{sentence}: no difference to speak of."]
    caution = " (the intervals overlap)" if overlap(cast.adapted, cast.full) else ""
    return [f"{sentence}: {words.points(abs(gap))} points {'less' if gap > 0 else 'more'}{caution}."]


def _upper(cast: _Cast) -> list[str]:
    if cast.homogeneous is None:
        return []
    return [
        f"If everyone carried the base's sensor and network, it would be {words.points(cast.homogeneous.points())}."
    ]


def _frozen(results: Results) -> tuple[list[str], str]:
    """What the comparison of frozen tensors allows to be said, and the warning if it failed."""
    proofs = [(stage, stage.frozen_proof) for stage in results.stages if stage.frozen_proof is not None]
    broken = [words.stage_label(stage.name) for stage, proof in proofs if not proof.bit_identical]
    if broken:
        return [], f"Tensors that should stay frozen changed in: {', '.join(broken)}."
    if not proofs:
        return [], ""
    tensors = max(proof.tensors for _, proof in proofs)
    return [f"Nobody deployed was retrained: all {tensors} frozen tensors are bit-identical before and after."], ""


def _others(results: Results) -> list[str]:
    """One sentence for every further newcomer that has an adapted row."""
    prefixes = dict.fromkeys(row.prefix for row in results.rows if row.prefix and row.prefix in words.TYPES)
    sentences = []
    for prefix in prefixes:
        cast = _Cast.of(results, prefix)
        if cast.adapted is None:
            continue
        before = f"{words.points(cast.unaligned.points())} before adapting, " if cast.unaligned else ""
        alone = f" ({words.points(cast.alone.points())} alone)" if cast.alone else ""
        who = "A camera-only newcomer" if prefix == "camera" else f"A {words.sensor(prefix)} newcomer"
        sentences.append(f"{who}: {before}{words.points(cast.adapted.points())} after{alone}.")
    return sentences


def _milestones(cast: _Cast) -> list[Milestone]:
    named = (
        ("alone", "Ego alone", cast.alone, "no message used"),
        ("unaligned", "Newcomer joins", cast.unaligned, "nothing trained"),
        ("late", "Late fusion", cast.late, "boxes, no features"),
        ("adapted", "Adapted", cast.adapted, _cost_note(cast.adapted)),
        ("reference", "Full fine-tuning", cast.full, _cost_note(cast.full)),
    )
    return [Milestone(role, label, row.points() or 0.0, note) for role, label, row, note in named if row is not None]


def _cost_note(row: Row | None) -> str:
    if row is None:
        return ""
    parts = [
        f"{words.count(row.cumulative_parameters)} parameters" if row.cumulative_parameters is not None else "",
        words.seconds(row.seconds) if row.seconds is not None else "",
    ]
    return ", ".join(part for part in parts if part)
