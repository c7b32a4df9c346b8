"""Named protocols: what an average precision means, and the ones that the papers' tables are made with.

The field's tables differ by 13 to 20 points for the same detections because of the order alone (CoAlign issue 4,
GenComm issue 4), so a number is only ever produced together with its `Protocol`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from heatv2x.core.config import nearest
from heatv2x.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """What an average precision means; frozen and stored beside the number.

    Attributes:
        name: the key in `PROTOCOLS`.
        description: one sentence for reports.
        iou: overlap of footprints ("bev") or of volumes ("3d").
        thresholds: the overlaps from which a detection counts as correct.
        sort: "global" orders all detections of all frames by score before precision is taken; "per_frame" leaves the
            frames one after another, so that the result depends on their order (OpenCOOD's default).
        matching: "score": by descending score, a detection takes the best-overlapping ground truth that is left.
            "gt_centric": in the order of the labels, a ground truth takes the best-overlapping detection that is left.
        first_recall_step: False leaves out the area under the first detection of the ranking (DAIR-V2X).
        max_detections: only so many of a frame's best-scored detections count; None for all.
        max_extent_m: detections whose axis-aligned footprint is longer than this in x or y are dropped; None for none.
        x_range_m, y_range_m: the evaluation range in the ego's frame; None takes the model's grid, which the evaluator
            then writes here. `ApAccumulator` itself filters nothing.
        z_range_m: heights of the range, used by the rule "all_corners" only.
        range_rule: a box is in range if its "centre" is, in x and y, or if "all_corners" are, in z, too (HEAL).
        comm_range_m: agents farther from the ego are not heard and label nothing; None takes the channel's range.
        max_agents: agents after so many in the dataset's order are left out altogether, before any distance is taken.
        visible_to: objects count that the "lidar" of an agent returns from, or that its "camera" sees.
        own_body: boxes around the ego, listed by others, stay in the ground truth; no code base removes them.
    """

    name: str
    description: str
    iou: Literal["bev", "3d"] = "bev"
    thresholds: tuple[float, ...] = (0.3, 0.5, 0.7)
    sort: Literal["global", "per_frame"] = "global"
    matching: Literal["score", "gt_centric"] = "score"
    first_recall_step: bool = True
    max_detections: int | None = None
    max_extent_m: float | None = None
    x_range_m: tuple[float, float] | None = None
    y_range_m: tuple[float, float] | None = None
    z_range_m: tuple[float, float] | None = None
    range_rule: Literal["centre", "all_corners"] = "centre"
    comm_range_m: float | None = None
    max_agents: int | None = None
    visible_to: Literal["lidar", "camera"] = "lidar"
    own_body: bool = False

    def __post_init__(self) -> None:
        if not self.thresholds or any(not 0 < threshold <= 1 for threshold in self.thresholds):
            raise ConfigError(f"protocol thresholds are {self.thresholds}; expected overlaps above 0 and up to 1")
        if len(set(self.thresholds)) != len(self.thresholds):
            raise ConfigError(f"protocol thresholds are {self.thresholds}; each may appear only once")

    @property
    def breakdown_threshold(self) -> float:
        """The threshold of the breakdowns by distance and hits: 0.5, or else the nearest one to it."""
        return min(self.thresholds, key=lambda threshold: abs(threshold - 0.5))

    @property
    def limits(self) -> tuple[float, float, float, float, float, float]:
        """x, y, z minimum, then maximum, of the evaluation range; without bounds where it says none."""
        everywhere = (-np.inf, np.inf)
        x, y, z = self.x_range_m or everywhere, self.y_range_m or everywhere, self.z_range_m or everywhere
        return x[0], y[0], z[0], x[1], y[1], z[1]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON; those of `_SCOPE` only where they say something."""
        quiet = {name for name in _SCOPE if getattr(self, name) == getattr(Protocol, name)}
        fields = {key: value for key, value in asdict(self).items() if key not in quiet}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


_SCOPE = ("z_range_m", "range_rule", "comm_range_m", "max_agents", "visible_to", "own_body")

HEATV2X = Protocol("heatv2x", "BEV overlap, all frames' detections sorted by score; no box is filtered")
HEAL = Protocol(
    "heal",
    "HEAL: BEV overlap, global sort; boxes longer than 6 m (axis-aligned) dropped as by its post-processing",
    max_extent_m=6.0,
)
OPENCOOD_UNSORTED = Protocol(
    "opencood_unsorted",
    "OpenCOOD's default, used by the tables of OPV2V and V2X-ViT: no sort across frames; for old numbers only",
    sort="per_frame",
)
_DAIR = "DAIR-V2X official: matched from the ground truth, global sort, first recall step not integrated"
DAIR_OFFICIAL_BEV = Protocol("dair_official_bev", _DAIR, matching="gt_centric", first_recall_step=False)
DAIR_OFFICIAL_3D = Protocol("dair_official_3d", _DAIR, iou="3d", matching="gt_centric", first_recall_step=False)

# The papers' tables: how average precision is taken, and on what (docs/protocols.md).
_AS_HEAL = replace(HEAL, range_rule="all_corners", max_agents=5, own_body=True)
HEAL_OPV2V = replace(
    _AS_HEAL,
    name="heal_opv2v",
    description="HEAL's inference on OPV2V and OPV2V-H: 102.4 m to all sides, heights from -3 to 1 m, 70 m apart",
    x_range_m=(-102.4, 102.4),
    y_range_m=(-102.4, 102.4),
    z_range_m=(-3.0, 1.0),
    comm_range_m=70.0,
)
HEAL_IN_ORDER = replace(
    HEAL_OPV2V,
    name="heal_in_order",
    description="HEAL's in-order evaluation: 204.8 by 102.4 m, agents up to 180 m apart; types from the in-order file",
    x_range_m=(-204.8, 204.8),
    comm_range_m=180.0,
)
GENCOMM_OPV2V_H = replace(
    HEAL_OPV2V,
    name="gencomm_opv2v_h",
    description="GenComm on OPV2V-H: 102.4 by 51.2 m; the rest is taken to be as in HEAL's in-order evaluation",
    y_range_m=(-51.2, 51.2),
    comm_range_m=180.0,
)
OPENCOOD_OPV2V = replace(
    OPENCOOD_UNSORTED,
    name="opencood_opv2v",
    description="The tables of OPV2V: 140 by 40 m, at most 7 agents, no sort across frames; for old numbers only",
    x_range_m=(-140.0, 140.0),
    y_range_m=(-40.0, 40.0),
    z_range_m=(-3.0, 1.0),
    range_rule="all_corners",
    comm_range_m=70.0,
    max_agents=7,
    own_body=True,
)
HEAL_DAIR = replace(
    _AS_HEAL,
    name="heal_dair",
    description="HEAL on DAIR-V2X: 102.4 by 51.2 m, heights widened by 1 m, 100 m apart; state the labels used",
    x_range_m=(-102.4, 102.4),
    y_range_m=(-51.2, 51.2),
    z_range_m=(-4.5, 2.5),
    comm_range_m=100.0,
    max_agents=2,
)
DAIR_SCRIPTS_BEV = replace(
    DAIR_OFFICIAL_BEV,
    name="dair_scripts_bev",
    description=f"{_DAIR}; range of the published scripts",
    x_range_m=(0.0, 100.0),
    y_range_m=(-39.68, 39.68),
)
DAIR_SCRIPTS_3D = replace(DAIR_SCRIPTS_BEV, name="dair_scripts_3d", iou="3d")

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        HEATV2X,
        HEAL,
        OPENCOOD_UNSORTED,
        DAIR_OFFICIAL_BEV,
        DAIR_OFFICIAL_3D,
        HEAL_OPV2V,
        HEAL_IN_ORDER,
        GENCOMM_OPV2V_H,
        OPENCOOD_OPV2V,
        HEAL_DAIR,
        DAIR_SCRIPTS_BEV,
        DAIR_SCRIPTS_3D,
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol '{name}'; {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]
