"""One clip: a town, some seconds of traffic, the agents in it, and what they sense at each labelled frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from heatv2x.errors import ConfigError
from heatv2x.structures import Bool, Float64, Int64, Pose, UInt8
from heatv2x.world import visibility
from heatv2x.world.camera import Views, Weather, draw_weather, render
from heatv2x.world.ground import ASPHALT, GRASS, PAVEMENT
from heatv2x.world.lidar import MODELS, Sweep, sweep
from heatv2x.world.meshes import merge_meshes
from heatv2x.world.rays import Moment, RayScene, flat_ground
from heatv2x.world.rig import Rig, car_rig, roadside_rig
from heatv2x.world.styles import TownStyle
from heatv2x.world.town import Town, build_town
from heatv2x.world.traffic import Snapshot, Traffic
from heatv2x.world.vehicles import CARS

WARM_UP_TICKS = 80
LINK_M = 70.0  # connected vehicles are at most this far from the first one
_FIRST_ID, _LAST_ID = 100, 9999


@dataclass(frozen=True)
class ClipPlan:
    """The specification of a clip.

    Attributes:
        seed: words that seed everything in it.
        style: the split's towns.
        frames: labelled frames.
        stride: 10 Hz frames from one labelled frame to the next.
        agents: smallest and largest number of connected agents, roadside unit included.
        roadside: chance of a roadside unit.
        sensors: which sensors to simulate.
        azimuth_steps: LiDAR rays per turn and ring.
        resolution: width and height of the cameras' ray grid.
    """

    seed: tuple[int, ...]
    style: TownStyle
    frames: int
    stride: int
    agents: tuple[int, int]
    roadside: float
    sensors: tuple[str, ...]
    azimuth_steps: int
    resolution: tuple[int, int]


@dataclass(frozen=True)
class Sensed:
    """What one agent sensed at one moment.

    Attributes:
        rig: the agent's sensors.
        T_world_carrier, T_world_lidar: (4, 4) float64.
        speed: its own, m/s.
        sweeps: by sensor name.
        hits: (N,) int64 returns of its 64-beam LiDAR on each vehicle of the moment.
        views, raster: what its cameras saw, and where; None if no cameras are built.
        camera_visible: (N,) bool by the raster, all False without cameras.
    """

    rig: Rig
    T_world_carrier: Float64
    T_world_lidar: Float64
    speed: float
    sweeps: dict[str, Sweep]
    hits: Int64
    views: Views | None
    raster: UInt8 | None
    camera_visible: Bool


@dataclass(frozen=True)
class Clip:
    """A simulated clip whose sensors have not been read yet.

    Attributes:
        plan: what it was asked to be.
        town: where it is.
        moments: one per labelled frame.
        rigs: the agents, roadside unit last.
        weather: its light.
        first_tick: simulator tick (0.05 s) of the first frame.
    """

    plan: ClipPlan
    town: Town
    moments: tuple[Moment, ...]
    rigs: tuple[Rig, ...]
    weather: Weather
    first_tick: int

    def timestamp(self, frame: int) -> str:
        """OPV2V's file number: 10 Hz frames are two ticks of 0.05 s apart."""
        return f"{self.first_tick + 2 * self.plan.stride * frame:06d}"

    def sense(self) -> Iterator[tuple[str, Moment, list[Sensed]]]:
        """Cast all rays, frame by frame."""
        scenery = merge_meshes([flat_ground(), self.town.scenery])
        for frame, moment in enumerate(self.moments):
            scene = RayScene(scenery, moment)
            sensed = [self._agent(scene, moment, frame, slot) for slot in range(len(self.rigs))]
            yield self.timestamp(frame), moment, sensed

    def _agent(self, scene: RayScene, moment: Moment, frame: int, slot: int) -> Sensed:
        rig, plan = self.rigs[slot], self.plan
        own = moment.row(rig.agent_id)
        carrier = moment.T_world_vehicle[own] if rig.foot is None else rig.foot
        lidar = carrier @ rig.T_carrier_lidar
        sweeps = {}
        for number, (name, model) in enumerate(MODELS.items()):
            if name == "lidar64" or name in plan.sensors:
                rng = np.random.default_rng([*plan.seed, 1000 + frame, slot, number])
                sweeps[name] = sweep(
                    scene,
                    model,
                    lidar,
                    rng,
                    azimuth_steps=plan.azimuth_steps,
                    vehicles=len(moment.ids),
                    own=own,
                    tilt_deg=rig.tilt_deg,
                )
        speed = float(moment.speed[own]) if own >= 0 else 0.0
        hits = sweeps["lidar64"].hits
        if "camera" not in plan.sensors:
            unseen = np.zeros(len(moment.ids), np.bool_)
            return Sensed(rig, carrier, lidar, speed, sweeps, hits, None, None, unseen)
        views = render(scene, self.town.ground, self.weather, lidar @ rig.T_lidar_cameras, plan.resolution, own)
        image = visibility.raster(views, moment, lidar, own)
        seen = visibility.visible(image, moment, lidar)
        return Sensed(rig, carrier, lidar, speed, sweeps, hits, views, image, seen)


def simulate(plan: ClipPlan) -> Clip:
    """Draw towns until one has enough connected vehicles, and let its traffic run.

    Raises:
        ConfigError: the clip is so long that vehicles do not stay together.
    """
    for attempt in range(50):
        rng = np.random.default_rng([*plan.seed, attempt])
        town = build_town(rng, plan.style)
        few, many = plan.style.moving
        traffic = Traffic(town.network, dict(plan.style.kinds), round(few + town.density * (many - few)), rng)
        traffic.run(WARM_UP_TICKS)
        snapshots = [traffic.snapshot()]
        for _ in range(plan.frames - 1):
            traffic.run(plan.stride)
            snapshots.append(traffic.snapshot())
        ids = rng.permutation(np.arange(_FIRST_ID, _LAST_ID + 1))
        moments = tuple(_moment(town, traffic, snapshot, ids) for snapshot in snapshots)
        rigs = _draw_rigs(rng, plan, town, traffic, snapshots, ids)
        if rigs:
            first_tick = 2 * int(rng.integers(30, 100))
            return Clip(plan, town, moments, rigs, draw_weather(rng), first_tick)
    raise ConfigError(
        f"none of 50 towns keeps {plan.agents[0]} agents together for {plan.frames * plan.stride / 10:.0f} s; "
        "lower clip_frames, stride or min_agents"
    )


def _moment(town: Town, traffic: Traffic, now: Snapshot, ids: Int64) -> Moment:
    parked = town.parked
    moving = [_standing(now, k) for k in range(len(now.keys))]
    vehicles = tuple(spot.vehicle for spot in parked) + tuple(traffic.fleet[int(key)] for key in now.keys)
    return Moment(
        ids=np.concatenate([ids[: len(parked)], ids[len(parked) + now.keys]]),
        vehicles=vehicles,
        T_world_vehicle=np.array([spot.pose.matrix for spot in parked] + moving).reshape(-1, 4, 4),
        speed=np.concatenate([np.zeros(len(parked)), now.speed]),
    )


def _standing(now: Snapshot, k: int) -> Float64:
    (cp, cr), (sp, sr) = np.cos([-now.pitch[k], now.roll[k]]), np.sin([-now.pitch[k], now.roll[k]])
    lean = np.eye(4)
    lean[:3, :3] = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]]) @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return Pose.planar(float(now.xy[k, 0]), float(now.xy[k, 1]), float(now.yaw[k])).matrix @ lean


def _draw_rigs(
    rng: np.random.Generator, plan: ClipPlan, town: Town, traffic: Traffic, snapshots: list[Snapshot], ids: Int64
) -> tuple[Rig, ...]:
    """Connected vehicles near each other for the whole clip, and perhaps a roadside unit; empty if too few."""
    fewest, most = plan.agents
    pole = _place_pole(rng, town) if most > 1 and rng.uniform() < plan.roadside else None
    count = int(rng.integers(fewest, most + 1))
    cars = min(max(count - 1, fewest), most - 1) if pole is not None else count
    chosen = _connected(rng, traffic, snapshots, cars)
    if len(chosen) + (pole is not None) < fewest:
        return ()
    offset = len(town.parked)
    rigs = [car_rig(int(ids[offset + key]), float(rng.uniform(1.9, 2.1))) for key in chosen]
    rigs.sort(key=lambda rig: str(rig.agent_id))
    return (*rigs, pole) if pole is not None else tuple(rigs)


def _connected(rng: np.random.Generator, traffic: Traffic, snapshots: list[Snapshot], count: int) -> list[int]:
    first = snapshots[0]
    always = set(first.keys.tolist()).intersection(*(snapshot.keys.tolist() for snapshot in snapshots))
    keys = [key for key in sorted(always) if traffic.fleet[key].kind in CARS]
    tracks = {key: np.array([s.xy[np.flatnonzero(s.keys == key)[0]] for s in snapshots]) for key in keys}
    central = [key for key in keys if np.hypot(*tracks[key][0]) < 45.0]
    if not central:
        return []
    chosen = [central[int(rng.integers(len(central)))]]
    for key in rng.permutation(np.array(keys)).tolist():
        apart = [np.hypot(*(tracks[key] - tracks[other]).T) for other in chosen]
        if len(chosen) < count and key not in chosen and apart[0].max() < LINK_M and min(d.min() for d in apart) > 12.0:
            chosen.append(key)
    return chosen


def _place_pole(rng: np.random.Generator, town: Town) -> Rig | None:
    """A roadside unit beside a road near the middle of the town."""
    for _ in range(200):
        distance, angle = rng.uniform(8.0, 30.0), rng.uniform(-np.pi, np.pi)
        place = distance * np.array([np.cos(angle), np.sin(angle)])
        near_road = _near_asphalt(town, place)
        if near_road and town.ground.claim(place, (0.3, 0.3), 0.0, (GRASS, PAVEMENT)):
            foot = Pose.planar(float(place[0]), float(place[1]), float(angle + np.pi + rng.uniform(-0.5, 0.5)))
            return roadside_rig(foot.matrix, float(rng.uniform(4.0, 5.0)))
    return None


def _near_asphalt(town: Town, place: Float64) -> bool:
    around = np.arange(12) * np.pi / 6
    ring = place + 5.0 * np.stack([np.cos(around), np.sin(around)], axis=1)
    return bool((town.ground.codes[town.ground.cells(ring)] == ASPHALT).any())
