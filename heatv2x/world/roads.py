"""Streets, their lanes, and the routes that lead through a junction.

Traffic keeps to the right. A street is a centre line with lanes on both sides; a junction joins the inner
ends of streets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Float64
from heatv2x.world import polyline

REACH_M = 110.0
CONFLICT_M = 3.2


@dataclass(frozen=True)
class Street:
    """A piece of road that runs outwards from its first point.

    Attributes:
        centre: (P, 2) float64 centre line in the world, metres.
        outward, inward: number of lanes that follow the centre line (on its right) and that oppose it (on its left).
        lane_width_m: width of every lane.
        parking: "none", "parallel" (along the kerb) or "stalls" (perpendicular), on both sides.
        speed_mps: what its traffic likes to drive.
        sidewalk_m: width of the paved strip beyond the kerb.
    """

    centre: Float64
    outward: int
    inward: int
    lane_width_m: float
    parking: str
    speed_mps: float
    sidewalk_m: float = 3.0

    @property
    def parking_m(self) -> float:
        """Width of the parking strip on each side."""
        return {"none": 0.0, "parallel": 2.4, "stalls": 5.3}[self.parking]

    def half_width(self, side: int) -> float:
        """Distance from the centre line to the kerb on the left (side = 1) or on the right (side = -1)."""
        return (self.inward if side > 0 else self.outward) * self.lane_width_m + self.parking_m

    def lanes(self, inward: bool) -> list[Float64]:
        """Centre lines of the lanes of one direction, in driving direction, the innermost first."""
        count = self.inward if inward else self.outward
        sideways = [(k + 0.5) * self.lane_width_m for k in range(count)]
        if inward:
            return [polyline.resample(polyline.offset(self.centre, d)[::-1]) for d in sideways]
        return [polyline.resample(polyline.offset(self.centre, -d)) for d in sideways]


@dataclass(frozen=True)
class Route:
    """One way through the town: a lane, and where there is a junction a connector and another lane.

    Attributes:
        approach, connector, exit: identities; routes share lanes and connectors. -1 where there is no junction.
        points: (P, 2) float64 the whole path, `polyline.STEP_M` apart.
        approach_m, connector_m: lengths of the first two parts, metres.
        limit_mps: (P,) float64 speed that the street and the bends ahead allow.
    """

    approach: int
    connector: int
    exit: int
    points: Float64
    approach_m: float
    connector_m: float
    limit_mps: Float64

    @property
    def length_m(self) -> float:
        """Length of the whole path."""
        return (len(self.points) - 1) * polyline.STEP_M

    @property
    def sharpest(self) -> float:
        """Largest curvature on the way, 1/metres; long vehicles avoid sharp bends."""
        return float(polyline.curvatures(self.points)[2:-2].max())


@dataclass(frozen=True)
class RoadNetwork:
    """All roads of one town.

    Attributes:
        layout: its name, for the record.
        streets: the streets.
        routes: the ways through it.
        connectors: paths inside the junction, for the ground's paint.
        clear_m: (C, C) float64; a vehicle on connector p is out of the way of connector q once its rear is this far
            along p; -inf where they never meet.
        island_m: radius of a roundabout's island at the origin, 0 without one.
    """

    layout: str
    streets: tuple[Street, ...]
    routes: tuple[Route, ...]
    connectors: tuple[Float64, ...]
    clear_m: Float64
    island_m: float = 0.0


def _limits(points: Float64, speed_mps: float) -> Float64:
    comfortable = np.sqrt(2.2 / np.maximum(polyline.curvatures(points), 1e-4))
    limit = np.minimum(speed_mps, np.maximum(comfortable, 3.0))
    ahead = int(10.0 / polyline.STEP_M)
    padded = np.concatenate([limit, np.full(ahead, limit[-1])])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, ahead + 1).min(axis=1))


def _clearances(connectors: list[Float64]) -> Float64:
    clear = np.full((len(connectors), len(connectors)), -np.inf)
    for p, path in enumerate(connectors):
        arc = polyline.lengths(path)[::2]
        for q, other in enumerate(connectors):
            difference = path[::2, None] - other[None, ::2]
            near = np.flatnonzero((difference**2).sum(-1).min(axis=1) < CONFLICT_M**2)
            if p != q and len(near):
                clear[p, q] = arc[near[-1]] + 1.0
    return clear


class _Plan:
    """Collects lanes and connectors while a layout is drawn."""

    def __init__(self, layout: str, streets: Iterable[Street]) -> None:
        self.layout = layout
        self.streets = tuple(streets)
        self.routes: list[Route] = []
        self.connectors: list[Float64] = []
        self.lanes = 0

    def new_lane(self) -> int:
        self.lanes += 1
        return self.lanes - 1

    def straight_on(self, street: Street) -> None:
        for inward in (False, True):
            for lane in street.lanes(inward):
                points = polyline.resample(lane)
                identity = self.new_lane()
                length = (len(points) - 1) * polyline.STEP_M
                limit = _limits(points, street.speed_mps)
                self.routes.append(Route(identity, -1, identity, points, length, 0.0, limit))

    def connect(self, entry: tuple[int, Float64], path: Float64, leave: tuple[int, Float64], speed: float) -> None:
        whole = polyline.resample(np.concatenate([entry[1][:-1], path[:-1], leave[1]]))
        approach_m, connector_m = float(polyline.lengths(entry[1])[-1]), float(polyline.lengths(path)[-1])
        limit = _limits(whole, speed)
        self.routes.append(Route(entry[0], len(self.connectors), leave[0], whole, approach_m, connector_m, limit))
        self.connectors.append(path)

    def finish(self, island_m: float = 0.0) -> RoadNetwork:
        clear = _clearances(self.connectors)
        return RoadNetwork(self.layout, self.streets, tuple(self.routes), tuple(self.connectors), clear, island_m)


def straight(rng: np.random.Generator, street: Street) -> RoadNetwork:
    """One road through the whole town, slightly curved; `street` gives everything but the centre line."""
    curvature, heading = rng.choice([-1, 1]) / rng.uniform(80.0, 300.0), rng.uniform(-np.pi, np.pi)
    ahead = polyline.arc(np.zeros(2), heading, REACH_M, curvature)
    back = polyline.arc(np.zeros(2), heading + np.pi, REACH_M, -curvature)
    centre = polyline.resample(np.concatenate([back[:0:-1], ahead]))
    plan = _Plan("straight", [_recentred(street, centre)])
    plan.straight_on(plan.streets[0])
    return plan.finish()


def junction(rng: np.random.Generator, arms: Float64, major: Street, minor: Street) -> RoadNetwork:
    """A crossing or T of streets that leave the origin under the angles `arms`; even arms are major streets."""
    models = [major if k % 2 == 0 else minor for k in range(len(arms))]
    stop_m = max(model.half_width(1) - model.parking_m for model in models) + 6.0
    plan = _Plan("crossing" if len(arms) > 3 else "t_junction", _arms(rng, arms, models, stop_m))
    entries = [[(plan.new_lane(), lane) for lane in street.lanes(inward=True)] for street in plan.streets]
    exits = [[(plan.new_lane(), lane) for lane in street.lanes(inward=False)] for street in plan.streets]
    for a, lanes in enumerate(entries):
        for k, entry in enumerate(lanes):
            for b in range(len(arms)):
                if b != a and _lane_may_turn(arms[b] - arms[a], k, len(lanes)):
                    leave = exits[b][min(k, len(exits[b]) - 1)]
                    path = polyline.bend(entry[1][-1], arms[a] + np.pi, leave[1][0], arms[b])
                    plan.connect(entry, path, leave, models[b].speed_mps)
    return plan.finish()


def roundabout(rng: np.random.Generator, arms: Float64, street: Street, radius_m: float) -> RoadNetwork:
    """One-lane roundabout about the origin; ring traffic turns counter-clockwise."""
    plan = _Plan("roundabout", _arms(rng, arms, [street] * len(arms), radius_m + 13.0))
    entries = [(plan.new_lane(), s.lanes(inward=True)[0]) for s in plan.streets]
    exits = [(plan.new_lane(), s.lanes(inward=False)[0]) for s in plan.streets]
    slip = 0.5
    for a, entry in enumerate(entries):
        for b, leave in enumerate(exits):
            if a == b:
                continue
            first = arms[a] + slip
            last = first + (arms[b] - slip - first) % (2 * np.pi)
            around = np.linspace(first, last, max(int((last - first) * radius_m / polyline.STEP_M), 2))
            ring = radius_m * np.stack([np.cos(around), np.sin(around)], axis=1)
            onto = polyline.bend(entry[1][-1], arms[a] + np.pi, ring[0], first + np.pi / 2)
            off = polyline.bend(ring[-1], last + np.pi / 2, leave[1][0], arms[b])
            plan.connect(entry, polyline.resample(np.concatenate([onto[:-1], ring, off[1:]])), leave, street.speed_mps)
    return plan.finish(island_m=radius_m - 3.2)


def car_park(rng: np.random.Generator, street: Street, aisles: int) -> RoadNetwork:
    """A street with a car park beside it: parallel aisles with stalls on both sides."""
    heading = rng.uniform(-np.pi, np.pi)
    along, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    origin = -left * (8.5 * aisles + rng.uniform(-6, 6))
    road = polyline.arc(origin - REACH_M * along, heading, 2 * REACH_M, 0.0)
    streets = [_recentred(street, road)]
    half_m = rng.uniform(30.0, 50.0)
    for k in range(aisles):
        start = origin + left * (street.half_width(1) + 12.0 + 17.8 * k) - half_m * along
        stalls = Street(polyline.arc(start, heading, 2 * half_m, 0.0), 1, 1, 3.1, "stalls", 4.0, sidewalk_m=1.0)
        streets.append(stalls)
    plan = _Plan("car_park", streets)
    for piece in plan.streets:
        plan.straight_on(piece)
    return plan.finish()


def _recentred(street: Street, centre: Float64) -> Street:
    return Street(
        centre, street.outward, street.inward, street.lane_width_m, street.parking, street.speed_mps, street.sidewalk_m
    )


def _arms(rng: np.random.Generator, arms: Float64, models: list[Street], inner_m: float) -> list[Street]:
    streets = []
    for angle, model in zip(arms, models, strict=True):
        start = inner_m * np.array([np.cos(angle), np.sin(angle)])
        centre = polyline.arc(start, float(angle), REACH_M - inner_m, rng.uniform(-1, 1) / 180.0)
        streets.append(_recentred(model, centre))
    return streets


def _lane_may_turn(turn: float, lane: int, lanes: int) -> bool:
    """Whether lane number `lane` (0 is the innermost) may be used for a turn between two arms."""
    change = (turn + np.pi + np.pi) % (2 * np.pi) - np.pi  # heading change of the driver, left positive
    if change > 0.5:
        return lane == 0
    if change < -0.5:
        return lane == lanes - 1
    return True
