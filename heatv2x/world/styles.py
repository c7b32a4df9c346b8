"""What the towns of each split are like; they differ, so that a test split is not more of the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_TRAFFIC = {"hatchback": 0.3, "sedan": 0.3, "suv": 0.2, "van": 0.2, "truck": 0.08, "bus": 0.06}


@dataclass(frozen=True)
class TownStyle:
    """How the towns of a split look and how full they are.

    Attributes:
        layouts: weight of each road layout.
        lane_width_m, building_height_m, building_depth_m, setback_m, gap_m: ranges, metres.
        gabled: share of houses with a pitched roof.
        trees, hedges: chance per 10 m of kerb.
        medians: chance of a hedge between the directions of a wide street.
        moving: range of the number of vehicles in motion at first.
        parked: range of the share of parking places that are taken.
        parallel_parking: chance that a street has parking along the kerb.
        kinds: weight of each vehicle kind.
        walls: (K, 3) RGB colours of buildings.
    """

    layouts: Mapping[str, float]
    lane_width_m: tuple[float, float] = (3.3, 3.7)
    building_height_m: tuple[float, float] = (8.0, 24.0)
    building_depth_m: tuple[float, float] = (10.0, 16.0)
    setback_m: tuple[float, float] = (0.0, 1.5)
    gap_m: tuple[float, float] = (1.0, 9.0)
    gabled: float = 0.1
    trees: float = 0.35
    hedges: float = 0.15
    medians: float = 0.6
    moving: tuple[int, int] = (28, 52)
    parked: tuple[float, float] = (0.4, 0.85)
    parallel_parking: float = 0.85
    kinds: Mapping[str, float] = field(default_factory=lambda: _TRAFFIC)
    walls: tuple[tuple[int, int, int], ...] = ((196, 182, 160), (168, 110, 88), (150, 150, 148), (206, 200, 190))


STYLES: Mapping[str, TownStyle] = {
    "train": TownStyle({"straight": 0.08, "t_junction": 0.3, "crossing": 0.44, "car_park": 0.1, "roundabout": 0.08}),
    "validate": TownStyle(
        {"straight": 0.08, "t_junction": 0.3, "crossing": 0.38, "car_park": 0.1, "roundabout": 0.14},
        building_height_m=(5.0, 14.0),
        gap_m=(2.0, 12.0),
        gabled=0.4,
        trees=0.5,
        moving=(26, 50),
        walls=((214, 196, 150), (120, 128, 140), (186, 150, 120)),
    ),
    "test": TownStyle(
        {"straight": 0.06, "t_junction": 0.26, "crossing": 0.36, "car_park": 0.1, "roundabout": 0.22},
        lane_width_m=(3.1, 3.5),
        building_height_m=(4.0, 11.0),
        building_depth_m=(7.0, 13.0),
        setback_m=(0.5, 3.5),
        gap_m=(1.5, 7.0),
        gabled=0.7,
        trees=0.6,
        hedges=0.4,
        medians=0.75,
        moving=(26, 56),
        parked=(0.35, 0.95),
        kinds={"hatchback": 0.36, "sedan": 0.16, "suv": 0.24, "van": 0.2, "truck": 0.07, "bus": 0.06},
        walls=((225, 214, 196), (178, 80, 62), (208, 190, 120), (142, 160, 150)),
    ),
}
