"""Traffic that keeps to its lanes: car following by the Intelligent Driver Model, junctions by reservation.

IDM: Treiber, Hennecke, Helbing, Phys. Rev. E 62 (2000), eq. 2-3. The reservation rule is our own: a vehicle stops
before a junction until no vehicle from another approach is, or is about to be, in its way; so vehicles never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heatv2x.structures import Bool, Float64, Int64
from heatv2x.world import polyline
from heatv2x.world.roads import RoadNetwork, Route
from heatv2x.world.vehicles import LONG, Vehicle, draw_vehicle

TICK_S = 0.1
ACCELERATION, BRAKING, HEADWAY_S, STANDSTILL_M = 1.6, 2.2, 1.3, 2.0
LONGEST_BEND = 1 / 22.0  # a truck or bus keeps to routes with no sharper curvature than this, 1/metres
ASK_M = 26.0  # how far before the junction a driver asks for it
STOP_M = 1.0  # how far before the junction a driver stops


@dataclass(frozen=True)
class Snapshot:
    """Where the moving vehicles are at one tick.

    Attributes:
        keys: (N,) int64, one per vehicle for as long as it exists.
        xy: (N, 2) float64 middle of the footprint, world, metres.
        yaw: (N,) float64 heading, radians.
        speed: (N,) float64 m/s.
        pitch, roll: (N,) float64 radians, nose up and left side up positive: bodies nod when braking and lean in bends.
    """

    keys: Int64
    xy: Float64
    yaw: Float64
    speed: Float64
    pitch: Float64
    roll: Float64


class Traffic:
    """The moving vehicles of one town.

    Args:
        network: the roads they use.
        kinds: weight of each vehicle kind.
        count: how many to place at first; new ones enter at about the rate at which others leave.
        rng: draws vehicles, routes and characters.
    """

    def __init__(self, network: RoadNetwork, kinds: dict[str, float], count: int, rng: np.random.Generator) -> None:
        self.network, self.kinds, self.rng = network, kinds, rng
        self.routes = network.routes
        self._tabulate()
        self.fleet: dict[int, Vehicle] = {}
        self.key = np.zeros(0, np.int64)
        self.route = np.zeros(0, np.int64)
        self.length, self.s, self.v, self.eager, self.a = (np.zeros(0) for _ in range(5))
        self.held: Bool = np.zeros(0, np.bool_)
        self.count = count
        self._populate()

    def _tabulate(self) -> None:
        longest = max(len(route.points) for route in self.routes)
        self.points = np.stack([np.pad(r.points, ((0, longest - len(r.points)), (0, 0)), "edge") for r in self.routes])
        self.limits = np.stack([np.pad(r.limit_mps, (0, longest - len(r.limit_mps)), "edge") for r in self.routes])
        self.approach = np.array([route.approach for route in self.routes])
        self.connector = np.array([route.connector for route in self.routes])
        self.exit = np.array([route.exit for route in self.routes])
        self.enter_m = np.array([route.approach_m for route in self.routes])
        self.leave_m = self.enter_m + np.array([route.connector_m for route in self.routes])
        self.end_m = np.array([route.length_m for route in self.routes])
        self.sharpest = np.array([route.sharpest for route in self.routes])
        none = np.full((1, 1), -np.inf)
        self.clear_m = self.network.clear_m if len(self.network.connectors) else none

    def run(self, ticks: int) -> None:
        """Let time pass, `TICK_S` per tick."""
        for _ in range(ticks):
            self.step()

    def step(self) -> None:
        """One tick: drivers look, accelerate or brake, move; some leave the town and others enter."""
        self._reserve()
        gap, closing = self._ahead()
        wanted = self._limit() * self.eager
        ideal = STANDSTILL_M + np.maximum(
            0.0, self.v * HEADWAY_S + self.v * closing / (2 * np.sqrt(ACCELERATION * BRAKING))
        )
        accelerate = ACCELERATION * (1 - (self.v / wanted) ** 4 - (ideal / np.maximum(gap, 0.1)) ** 2)
        accelerate = np.clip(accelerate, -8.0, ACCELERATION)
        fastest = np.maximum(gap - 0.8, 0.0) / 0.8  # never further in one tick than there is room
        v = np.minimum(np.maximum(self.v + accelerate * TICK_S, 0.0), fastest)
        self.a = (v - self.v) / TICK_S
        self.s, self.v = self.s + v * TICK_S, v
        self._leave()
        self._enter()

    def snapshot(self) -> Snapshot:
        """Poses and speeds now."""
        front, rear = self._at(self.s + 0.3 * self.length), self._at(self.s - 0.3 * self.length)
        along = front - rear
        yaw = np.arctan2(along[:, 1], along[:, 0])
        bend = self._at(self.s + 3.0) - 2 * self._at(self.s) + self._at(self.s - 3.0)
        left = (bend[:, 1] * np.cos(yaw) - bend[:, 0] * np.sin(yaw)) / 9.0
        pitch = np.radians(np.clip(0.35 * self.a, -1.2, 0.8))
        roll = np.radians(np.clip(0.4 * left * self.v**2, -1.0, 1.0))
        return Snapshot(self.key.copy(), (front + rear) / 2, yaw, self.v.copy(), pitch, roll)

    def _at(self, s: Float64) -> Float64:
        at = np.clip(s / polyline.STEP_M, 0.0, self.points.shape[1] - 1.001)
        low = at.astype(np.int64)
        part = (at - low)[:, None]
        return np.asarray(self.points[self.route, low] * (1 - part) + self.points[self.route, low + 1] * part)

    def _limit(self) -> Float64:
        at = np.clip((self.s / polyline.STEP_M).astype(np.int64), 0, self.limits.shape[1] - 1)
        return np.asarray(self.limits[self.route, at])

    def _ahead(self) -> tuple[Float64, Float64]:
        """Room to the nearest thing ahead and how fast it comes nearer, (N,) each."""
        route, front, rear = self.route, self.s + self.length / 2, self.s - self.length / 2
        connector, approach, leave = self.connector[route], self.approach[route], self.exit[route]
        still_in_way = rear[None] < self.enter_m[route][None] + self.clear_m[connector[None], connector[:, None]]
        behind = (approach[:, None] == approach[None]) & (self.s[None] > self.s[:, None])
        behind &= (connector[:, None] == connector[None]) | still_in_way
        # the same exit lane, reached over another connector: compare distances past the junction
        past = rear - self.leave_m[route]
        merged = (leave[:, None] == leave[None]) & (connector[:, None] != connector[None]) & (past[None] >= 0)
        in_my_terms = past[None] + self.leave_m[route][:, None]
        merged &= in_my_terms + self.length[None] / 2 > self.s[:, None]
        place = np.where(behind, rear[None], np.where(merged, in_my_terms, np.inf))
        np.fill_diagonal(place, np.inf)
        gaps = place - front[:, None]
        leader = gaps.argmin(axis=1)
        gap, closing = gaps[np.arange(len(gaps)), leader], self.v - self.v[leader]
        must_stop = (connector >= 0) & ~self.held & (front < self.enter_m[route])
        line = self.enter_m[route] - STOP_M - front
        at_line = must_stop & (line < gap)
        gap, closing = np.where(at_line, line, gap), np.where(at_line, self.v, closing)
        return np.minimum(gap, 1e3), np.where(np.isfinite(gap), closing, 0.0)

    def _reserve(self) -> None:
        """Grant the junction to waiting drivers, nearest first, if no vehicle is in their way."""
        route = self.route
        to_go = self.enter_m[route] - (self.s + self.length / 2)
        waiting = np.flatnonzero((self.connector[route] >= 0) & ~self.held & (to_go > -1.0) & (to_go < ASK_M))
        asked: set[int] = set()
        for i in waiting[np.argsort(to_go[waiting], kind="stable")]:
            lane = int(self.approach[route[i]])
            if lane in asked:
                continue
            asked.add(lane)
            others = np.flatnonzero(self.held & (self.approach[route] != lane))
            rear = (self.s - self.length / 2 - self.enter_m[route])[others]
            if not (rear < self.clear_m[self.connector[route[others]], self.connector[route[i]]]).any():
                self.held[i] = True

    def _leave(self) -> None:
        stay = self.s + self.length / 2 < self.end_m[self.route] - 1.0
        if not stay.all():
            for name in ("key", "route", "length", "s", "v", "eager", "a", "held"):
                setattr(self, name, getattr(self, name)[stay])

    def _enter(self) -> None:
        if len(self.s) < self.count and self.rng.uniform() < 0.25:
            route, vehicle = self._draw()
            self._add_if_room(route, vehicle, vehicle.size[0] / 2 + 0.5, room_m=14.0)

    def _populate(self) -> None:
        for _ in range(self.count * 4):
            if len(self.s) >= self.count:
                break
            route, vehicle = self._draw()
            self._add_if_room(
                route, vehicle, self.rng.uniform(vehicle.size[0], self.end_m[route] - vehicle.size[0]), 7.0
            )
        gap, _ = self._ahead()
        self.v = np.minimum(self._limit(), np.maximum(gap - 2.0, 0.0) / 2.0)

    def _draw(self) -> tuple[int, Vehicle]:
        vehicle = draw_vehicle(self.rng, self.kinds)
        fits = np.flatnonzero(self.sharpest < LONGEST_BEND) if vehicle.kind in LONG else np.arange(len(self.routes))
        if not len(fits):
            cars = {kind: weight for kind, weight in self.kinds.items() if kind not in LONG}
            return int(self.rng.integers(len(self.routes))), draw_vehicle(self.rng, cars)
        return int(self.rng.choice(fits)), vehicle

    def _add_if_room(self, route: int, vehicle: Vehicle, s: float, room_m: float) -> None:
        """Add a vehicle unless it would stand in the junction or too near to another on the same lane."""
        half = vehicle.size[0] / 2
        path: Route = self.routes[route]
        inside = path.connector >= 0 and path.approach_m - 2.0 < s + half and s - half < self.leave_m[route] + 2.0
        before = s < self.enter_m[route]
        same = (self.approach[self.route] == path.approach) if before else (self.exit[self.route] == path.exit)
        lane = self.s if before else self.s - self.leave_m[self.route] + self.leave_m[route]
        near = same & (np.abs(lane - s) < half + self.length / 2 + room_m)
        if inside or near.any():
            return
        key = len(self.fleet)
        self.fleet[key] = vehicle
        self.key, self.route = np.append(self.key, key), np.append(self.route, route)
        self.length, self.s = np.append(self.length, vehicle.size[0]), np.append(self.s, s)
        speed = min(path.limit_mps[0], 8.0)
        self.v, self.a = np.append(self.v, speed), np.append(self.a, 0.0)
        self.eager = np.append(self.eager, self.rng.uniform(0.75, 1.1))
        self.held = np.append(self.held, not before)
