"""What an average precision means, in sentences: the protocol of metrics.json as a reader wants to know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heatv2x.evaluation.report import words

_OVERLAP = {"bev": "footprint, seen from above,", "3d": "volume"}
_ORDER = {
    "global": "the detections of all frames are ranked together by score",
    "per_frame": "detections are ranked within each frame only, so the result depends on the order of the frames",
}
_MATCHING = {
    "score": "a detection takes the label it overlaps most among those still free",
    "gt_centric": "a label takes the detection that overlaps it most among those still free",
}


def sentences(protocol: Mapping[str, Any]) -> str:
    """A protocol as text; what this page does not know is written after it, by name.

    Args:
        protocol: the fields of `metrics.protocols.Protocol` by name; any may be missing.
    """
    left = {key: value for key, value in protocol.items() if key not in ("name", "description")}
    about = str(protocol.get("description") or "").rstrip(".")
    text = [f"{about}." if about else "", *_matching(left), *_region(left), *_dropped(left), *_agents(left)]
    if rest := [f"{key.replace('_', ' ')} {readable(value)}" for key, value in left.items() if value is not None]:
        text.append(f"Further settings: {'; '.join(rest)}.")
    return " ".join(part for part in text if part)


def _matching(left: dict[str, Any]) -> list[str]:
    thresholds, overlap = left.pop("thresholds", None), left.pop("iou", None)
    sort, matching = left.pop("sort", None), left.pop("matching", None)
    parts = []
    if thresholds or overlap:
        at_least = words.listed([f"{value:g}" for value in thresholds or ()], "or")
        what = _OVERLAP.get(str(overlap), str(overlap or "box"))
        parts.append(
            f"A detection counts as correct if its {what} overlaps a label by at least {at_least or 'so much'}"
        )
    parts += [_ORDER.get(str(sort), f"order: {sort}")] if sort else []
    parts += [_MATCHING.get(str(matching), f"matching: {matching}")] if matching else []
    first = left.pop("first_recall_step", True)
    parts += [] if first else ["the area under the first detection of the ranking is left out"]
    return [f"{'; '.join(parts)}."] if parts else []


def _region(left: dict[str, Any]) -> list[str]:
    ranges = [(left.pop(f"{axis}_range_m", None), where) for axis, where in _AXES]
    rule = left.pop("range_rule", "centre")
    known = [f"{_number(low_high[0])} to {_number(low_high[1])} m {where}" for low_high, where in ranges if low_high]
    if not known:
        return []
    who = "Boxes with all corners" if rule == "all_corners" else "Boxes whose centre lies"
    return [f"{who} within {words.listed(known)} of the ego count."]


_AXES = (("x", "ahead"), ("y", "to the left"), ("z", "up"))


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "\u2212")


def _dropped(left: dict[str, Any]) -> list[str]:
    most, extent = left.pop("max_detections", None), left.pop("max_extent_m", None)
    parts = [] if most is None else [f"only the {most} best detections of a frame count"]
    parts += [] if extent is None else [f"detections longer than {extent:g} m along x or y are dropped"]
    parts += ["the ego's own body, where others label it, is not removed"] if left.pop("own_body", False) else []
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _agents(left: dict[str, Any]) -> list[str]:
    reach, most, seen = left.pop("comm_range_m", None), left.pop("max_agents", None), left.pop("visible_to", "lidar")
    parts = [] if reach is None else [f"Agents farther than {reach:g} m from the ego are neither heard nor label."]
    parts += [] if most is None else [f"At most {most} agents of a frame take part."]
    return parts + (["Objects count that some agent's camera sees."] if seen == "camera" else [])


def readable(value: Any) -> str:
    """A setting's value as text: nested ones flattened, underscores opened."""
    if isinstance(value, dict):
        return ", ".join(f"{str(key).replace('_', ' ')} {readable(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(readable(inner) for inner in value)
    return "–" if value is None else str(value)
