"""What rows, stages and sensors are called on the page, and how numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TYPES = {
    "lidar64": "64-beam LiDAR",
    "lidar32": "32-beam LiDAR",
    "lidar16": "16-beam LiDAR",
    "camera": "cameras, no LiDAR",
}
HEARS = "<-"
"""Between the ego's type and the senders' types in the name of an evaluation's row."""
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
    "collaborators_dropped": Wording(
        "Adapted, but hearing nobody",
        "The adapted model with its messages dropped: a gain that remains is not the newcomer's.",
    ),
    "deployed_after_joining": Wording(
        "Deployed fleet after LHFT + GCFT",
        "Only base types in the scene, after the newcomer joined: must equal all base type.",
    ),
    "deployed_after_full_finetune": Wording(
        "Deployed fleet after full fine-tuning", "Only base types in the scene, after everything was trained again."
    ),
}


def wording(name: str) -> Wording:
    """Label and explanation of a row; an unknown name is shown as it is."""
    method = name.rpartition("/")[2]
    if HEARS in method:
        return Wording(heard(method), "")
    return ROWS.get(method, Wording(method, ""))


def heard(name: str) -> str:
    """Who hears whom: "lidar64<-lidar16+camera" is "64-beam LiDAR hears 16-beam LiDAR, cameras"."""
    ego, _, senders = name.partition(HEARS)
    return f"{_short(ego)} hears {', '.join(map(_short, senders.split('+')))}"


def _short(agent_type: str) -> str:
    return "cameras" if agent_type == "camera" else sensor(agent_type)


def sensor(agent_type: str | None) -> str:
    """An agent type in words: "16-beam LiDAR"; an unknown one as it is."""
    return TYPES.get(agent_type or "", agent_type or "another sensor")


def stage_label(name: str) -> str:
    """A stage in words; an unknown one as it is."""
    prefix, _, stage = name.rpartition("/")
    return STAGES.get(stage, stage) + (f" · {prefix}" if prefix else "")


def work(name: str) -> str:
    """A part of a run in words, inside a sentence: full fine-tuning, or the newcomer of that type; else as it is."""
    if name == "full_finetune":
        return "full fine-tuning (the yardstick)"
    if name.rpartition("/")[2] == "controls":
        return "the controls" + (f" of {newcomer(name.partition('/')[0])}" if "/" in name else "")
    return newcomer(name) if name in TYPES else name


def newcomer(agent_type: str | None) -> str:
    """A newcomer of that type, inside a sentence: "the 16-beam LiDAR newcomer"."""
    return "the camera-only newcomer" if agent_type == "camera" else f"the {sensor(agent_type)} newcomer"


def listed(items: Sequence[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    return f" {last} ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)


def group_label(prefix: str) -> str:
    """The heading over rows that share a prefix."""
    if not prefix:
        return "The main story"
    if HEARS in prefix:
        return heard(prefix)
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
