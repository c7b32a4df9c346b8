"""Wrong recordings are called wrong, with what is wrong about which agent: planted mistakes times three readers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heatv2x.core.config import build
from heatv2x.data.check import CheckConfig, Inspection, inspect
from heatv2x.world.build import WorldConfig, build_world
from tests.data.plausibility.recording import (
    EVERYONE,
    Change,
    Labels,
    Recording,
    boxes,
    points,
    poses,
    read_recording,
    write,
)
from tests.formats.moving_scene import place, rotation

MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
READERS = ("opv2v", "folder", "dair")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    out = tmp_path_factory.mktemp("world")
    wanted = {"train": 4, "validate": 0, "test": 0, "clip_frames": 4, "stride": 5, "seed": 8, "workers": 1}
    agents = {"min_agents": 3, "max_agents": 3, "roadside": 1.0, "sensors": ["lidar64"], "azimuth_steps": 200}
    build_world(build(WorldConfig, {"out": out, **wanted, **agents}), lambda done, total: None)
    return read_recording(out)


def checked(recording: Recording, reader: str, root: Path, **settings: object) -> Inspection:
    write(recording, reader, root)
    return inspect(root, build(CheckConfig, settings))


def said(inspection: Inspection) -> str:
    """Everything that is called wrong, and what the faults of the files say."""
    wrong = [f"{each.name}: {each.detail}" for each in inspection.verdicts if each.state == "fault"]
    return "\n".join([*wrong, *(f"{each.kind} {each.what}: {each.problem}" for each in inspection.faults)])


def shifted(*step: float) -> Change:
    return boxes(lambda T, size: (place(step) @ T, size))


def turned(degrees: float, agents: tuple[int, ...]) -> Change:
    return poses(lambda T: T @ rotation(np.radians(degrees)), agents)


def angles(T: np.ndarray) -> np.ndarray:
    return np.array([np.arctan2(T[1, 0], T[0, 0]), -np.arcsin(T[2, 0]), np.arctan2(T[2, 1], T[2, 2])])


def with_angles(T: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return place(T[:3, 3]) @ rotation(*change(angles(T)))


def tilted(recording: Recording, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Recording:
    """The same with the roadside unit's LiDAR turned in its mount: still right."""
    turn = rotation(yaw, pitch, roll)
    recording = points(lambda p: p @ turn[:3, :3], (-1,))(recording)
    recording = poses(lambda T: T @ turn, (-1,))(recording)
    return replace(recording, labelled_from=recording.poses)


def pitch_in_degrees(recording: Recording) -> Recording:
    """A pitch of 0.3 rad is written where degrees are expected."""
    return poses(lambda T: with_angles(T, lambda a: a * [1, np.pi / 180, 1]), (-1,))(tilted(recording, pitch=0.3))


def roll_in_degrees(recording: Recording) -> Recording:
    return poses(lambda T: with_angles(T, lambda a: a * [1, 1, np.pi / 180]), (-1,))(tilted(recording, roll=0.35))


def pitch_in_radians(recording: Recording) -> Recording:
    """A pitch of 0.4 degrees is written where radians are expected."""
    small = tilted(recording, pitch=np.radians(0.4))
    return poses(lambda T: with_angles(T, lambda a: a * [1, 180 / np.pi, 1]), (-1,))(small)


def yaw_in_degrees(recording: Recording) -> Recording:
    """The yaw is written in radians where degrees are expected."""
    return poses(lambda T: with_angles(T, lambda a: a * [np.pi / 180, 1, 1]), (0,))(recording)


def written_w_first(T: np.ndarray) -> np.ndarray:
    from tests.data.plausibility.recording import _quaternion

    x, y, z, w = _quaternion(T)
    x, y, z, w = w, x, y, z
    matrix = place(T[:3, 3])
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return matrix


def compass(T: np.ndarray) -> np.ndarray:
    """The heading counted clockwise from y."""
    return with_angles(T, lambda a: np.array([np.pi / 2 - a[0], a[1], a[2]]))


def late(recording: Recording) -> Recording:
    """Agent -1's times are 0.37 s behind."""
    return replace(recording, times_s=recording.times_s | {-1: [t + 0.37 for t in recording.times_s[-1]]})


def in_milliseconds(recording: Recording) -> Recording:
    """As a recorder that runs at 2 Hz writes them."""
    return replace(recording, times_s={a: [1000 * t for t in each] for a, each in recording.times_s.items()})


def standing_still(recording: Recording) -> Recording:
    return replace(recording, times_s={a: [7.0 for _ in each] for a, each in recording.times_s.items()})


def empty(recording: Recording) -> Recording:
    return replace(recording, clouds=recording.clouds | {-1: [np.zeros((0, 4), np.float32) for _ in recording.frames]})


def frozen(recording: Recording) -> Recording:
    return replace(recording, clouds=recording.clouds | {0: [recording.clouds[0][0]] * len(recording.frames)})


def frozen_camera(recording: Recording) -> Recording:
    with_images = photographed(recording)
    images = with_images.images | {0: [with_images.images[0][0]] * len(recording.frames)}
    return replace(with_images, images=images)


def stale_labels(recording: Recording) -> Recording:
    """Every frame has the labels of the frame before; the last one stays."""
    return replace(recording, labels=[recording.labels[0], *recording.labels[:-1]])


def swapped_agents(recording: Recording) -> Recording:
    return replace(recording, clouds=recording.clouds | {0: recording.clouds[-1], -1: recording.clouds[0]})


def repeated_frames(recording: Recording) -> Recording:
    """The second frame is the first one again, sweeps, poses and labels; then the agents drive on."""
    again = [0, 0, *range(2, len(recording.frames))]

    def of(each: dict[int, list[np.ndarray]]) -> dict[int, list[np.ndarray]]:
        return {agent: [frames[k] for k in again] for agent, frames in each.items()}

    labels = [recording.labels[k] for k in again]
    parts = (of(recording.poses), of(recording.clouds), of(recording.labelled_from))
    return replace(recording, poses=parts[0], clouds=parts[1], labelled_from=parts[2], labels=labels)


def renumbered(recording: Recording) -> Recording:
    rng = np.random.default_rng(3)
    labels = [replace(each, ids=rng.permutation(len(each.ids)) + 1) for each in recording.labels]
    return replace(recording, labels=labels)


def photographed(recording: Recording) -> Recording:
    """With an image of noise per frame and agent."""
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (108, 192, 3)).astype(np.uint8) for _ in recording.frames]
    return replace(recording, images={a: [np.roll(i, 20 * a, 0) for i in images] for a in recording.poses})


def in_the_world(recording: Recording) -> Recording:
    """The points are in world coordinates; the scene lies far from the world's origin."""
    away = place((900.0, -400.0, 10.0))
    moved = poses(lambda T: away @ T)(boxes(lambda T, size: (away @ T, size))(recording))
    moved = replace(moved, labelled_from=moved.poses)
    clouds = {
        agent: [
            np.column_stack([each[:, :3] @ T[:3, :3].T + T[:3, 3], each[:, 3]]).astype(np.float32)
            for each, T in zip(moved.clouds[agent], moved.poses[agent], strict=True)
        ]
        for agent in EVERYONE
    }
    return replace(moved, clouds=clouds)


def left_handed(T: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return MIRROR @ T @ MIRROR, size


def in_centimetres(T: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return T * [[1, 1, 1, 100]], size * 100


def about_the_bottom(T: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lower = T.copy()
    lower[:, 2, 3] -= size[:, 2] / 2
    return lower, size


def transposed(T: np.ndarray) -> np.ndarray:
    matrix = place(T[:3, 3])
    matrix[:3, :3] = T[:3, :3].T
    return matrix


def y_forward(p: np.ndarray) -> np.ndarray:
    return np.stack([-p[:, 1], p[:, 0], p[:, 2]], axis=1)


def for_larger_images(recording: Recording) -> Recording:
    return replace(photographed(recording), centre=1.0, focal=1.4)


def camera_inverted(recording: Recording) -> Recording:
    return replace(photographed(recording), T_agent_camera=np.linalg.inv(recording.T_agent_camera))


def camera_as_body(recording: Recording) -> Recording:
    return replace(photographed(recording), T_agent_camera=place((1.5, 0.0, -0.4)))


def one_frame_apart(recording: Recording) -> Recording:
    """What agent 1 calls frame k is what it sensed and labelled at frame k + 1: OPV2V, where each agent labels."""
    later = [*range(1, len(recording.frames)), len(recording.frames) - 1]
    poses_of, clouds = recording.poses | {}, recording.clouds | {}
    poses_of[1], clouds[1] = ([each[1][k] for k in later] for each in (recording.poses, recording.clouds))
    return replace(recording, poses=poses_of, clouds=clouds, labels_of={1: [recording.labels[k] for k in later]})


HAND = "left and right are swapped|left-handed"
POINT = "pose is not that of the LiDAR|boxes are shifted"
# name: (what is planted, what must be said; of a reader alone if it tells it otherwise)
MISTAKES: dict[str, tuple[Change, dict[str, str]]] = {
    "left-handed points": (points(lambda p: p * [1, -1, 1]), {"": HAND}),
    "left-handed points of one agent": (points(lambda p: p * [1, -1, 1], (0,)), {"": f"agent 0 .*({HAND})"}),
    "left-handed boxes": (boxes(left_handed), {"": "boxes are left-handed"}),
    "left-handed poses": (poses(lambda T: MIRROR @ T @ MIRROR), {"": "left-handed|swapped"}),
    "inverse poses": (poses(np.linalg.inv), {"": "the pose is inverted"}),
    "inverse pose of one agent": (poses(np.linalg.inv, (0,)), {"": "agent 0 .*the pose is inverted|inverted.*agent 0"}),
    "body pose": (poses(lambda T: T @ place((0.0, 0.0, -1.9)), (0,)), {"": f"agent 0 .*({POINT})", "dair": POINT}),
    "body pose of everyone": (poses(lambda T: T @ place((0.9, 0.0, -1.7))), {"": POINT, "dair": ""}),
    "half sizes": (boxes(lambda T, size: (T, size / 2)), {"": "half sizes"}),
    "double sizes": (boxes(lambda T, size: (T, size * 2)), {"": "twice as large"}),
    "length and width swapped": (boxes(lambda T, size: (T, size[:, [1, 0, 2]])), {"": "length and width"}),
    "heading of one agent off by 160": (turned(160, (0,)), {"": "heading .*off by about 1[56]\\d°"}),
    "heading of one agent off by 90": (turned(90, (0,)), {"": "agent 0.*(off by about 90°|turned by (90|270)°)"}),
    "heading of one agent off by 20": (turned(20, (-1,)), {"": "off by about (2\\d|1\\d)°"}),
    "pitch in degrees": (pitch_in_degrees, {"": "agent -1.*pitch of the pose"}),
    "pitch in radians": (pitch_in_radians, {"": "agent -1.*pitch of the pose"}),
    "roll in degrees": (roll_in_degrees, {"": "agent -1.*roll of the pose"}),
    "yaw in degrees": (yaw_in_degrees, {"": "agent 0.*(angles|yaw) of the pose"}),
    "quaternion order": (poses(written_w_first), {"": "quaternion|tilted by", "dair": "quaternion|tilted by"}),
    "compass headings": (poses(compass), {"": "compass"}),
    "transposed rotations": (poses(transposed), {"": "rotation of the pose is inverted|wrong sign"}),
    "x and y of the points swapped": (points(lambda p: p[:, [1, 0, 2]]), {"": "x and y of the points are swapped"}),
    "points with y forward": (points(y_forward), {"": "turned by \\d+° against the pose"}),
    "points with z down": (points(lambda p: p * [1, -1, -1]), {"": "z down|counts downwards|upside down"}),
    "points in centimetres": (points(lambda p: p * 100), {"": "points are in centimetres"}),
    "points in millimetres": (points(lambda p: p * 1000), {"": "points are in millimetres"}),
    "points in the world": (in_the_world, {"": "points are in world coordinates"}),
    "boxes in centimetres": (boxes(in_centimetres), {"": "boxes are in centimetres|measures"}),
    "boxes shifted": (shifted(2.0, 1.0, 0.0), {"": "would fit if moved|off by"}),
    "boxes about their bottoms": (boxes(about_the_bottom), {"": "bottom face"}),
    "labels of the frame before": (stale_labels, {"": "another frame"}),
    "swapped agents": (swapped_agents, {"": "those of agent (-1|0)"}),
    "empty sensor": (empty, {"": "agent -1 .*4 of 4 clouds .*empty"}),
    "frozen sensor": (frozen, {"": "agent 0 .*same .*cloud.*frozen"}),
    "frozen camera": (frozen_camera, {"": "agent 0 .*same .*camera image.*frozen"}),
    "frames twice": (repeated_frames, {"": "written twice"}),
    "clocks apart": (late, {"": "0\\.370 s.*clocks are not synchronised", "opv2v": ""}),
    "times in milliseconds": (in_milliseconds, {"": "times are in milliseconds", "opv2v": ""}),
    "time that stands still": (standing_still, {"": "time does not advance", "opv2v": ""}),
    "frames of one agent apart": (one_frame_apart, {"": "agent 1 .*s apart", "folder": "", "dair": ""}),
    "ids that change": (renumbered, {"": "different id|different size", "dair": ""}),
    "intrinsics of a larger image": (for_larger_images, {"": "intrinsics, which are for about"}),
    "inverse camera pose": (camera_inverted, {"": "T_agent_camera is inverted"}),
    "camera axes": (camera_as_body, {"": "x forward, y left, z up"}),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str, reader: str, sound: Recording, tmp_path: Path) -> None:
    change, told = MISTAKES[mistake]
    expected = told.get(reader, told[""])
    if not expected:
        pytest.skip("this layout cannot hold that mistake, or is right with it")
    inspection = checked(change(sound), reader, tmp_path)
    assert not inspection.ok
    assert re.search(expected, said(inspection)), said(inspection)


def as_it_is(recording: Recording) -> Recording:
    return recording


def sparse(recording: Recording) -> Recording:
    """Every 12th point: about what 16 beams return."""
    return replace(recording, clouds={a: [c[::12] for c in each] for a, each in recording.clouds.items()})


def one_agent(recording: Recording) -> Recording:
    alone = {0: recording.poses[0]}
    return replace(recording, poses=alone, clouds={0: recording.clouds[0]})


def without_objects(recording: Recording) -> Recording:
    return every(10_000, recording)


def every(step: int, recording: Recording) -> Recording:
    """Every so many labelled objects only."""
    fewer = []
    for each in recording.labels:
        rows = np.arange(step, len(each.ids), step)
        seen = {agent: seen[rows] for agent, seen in each.seen.items()}
        fewer.append(Labels(each.ids[rows], each.T[rows], each.size[rows], each.speed[rows], seen))
    return replace(recording, labels=fewer)


def few_objects(recording: Recording) -> Recording:
    return every(20, recording)


def on_a_slope(recording: Recording) -> Recording:
    """Everything on a road that climbs by 8 degrees."""
    slope = place((50.0, -20.0, 3.0)) @ rotation(0.3, -np.radians(8))
    moved = poses(lambda T: slope @ T)(boxes(lambda T, size: (slope @ T, size))(recording))
    return replace(moved, labelled_from=moved.poses)


def noisy(recording: Recording) -> Recording:
    """3 cm of noise on points, 10 cm and 2 degrees on boxes."""
    rng = np.random.default_rng(2)

    def shaken(T: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shake = np.stack([place((*rng.normal(0, 0.1, 2), 0.0)) for _ in T])
        turn = np.stack([rotation(rng.normal(0, np.radians(2))) for _ in T])
        return shake @ T @ turn, size * rng.normal(1, 0.04, size.shape)

    return boxes(shaken)(points(lambda p: p + rng.normal(0, 0.03, p.shape))(recording))


def parked(recording: Recording) -> Recording:
    """The same moment in every frame, with the noise of a real sensor."""
    first = {a: [each[0]] * len(recording.frames) for a, each in recording.poses.items()}
    still = replace(recording, poses=first, labelled_from=first, labels=[recording.labels[0]] * len(recording.frames))
    rng = np.random.default_rng(4)
    noise = np.array([0.01, 0.01, 0.01, 0.0])
    clouds = {
        agent: [(each[0] + noise * rng.normal(size=each[0].shape)).astype(np.float32) for _ in recording.frames]
        for agent, each in recording.clouds.items()
    }
    return replace(still, clouds=clouds)


def cameras_only(recording: Recording) -> Recording:
    return replace(photographed(recording), clouds={})


SOUND: dict[str, Change] = {
    "as it is": as_it_is,
    "with images": photographed,
    "tilted sensor": lambda recording: tilted(recording, 0.2, 0.35, -0.1),
    "sparse sensors": sparse,
    "one agent": one_agent,
    "no objects": without_objects,
    "few objects": few_objects,
    "slope": on_a_slope,
    "noise": noisy,
    "parked": parked,
    "cameras only": cameras_only,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", SOUND)
def test_sound_data_pass(case: str, reader: str, sound: Recording, tmp_path: Path) -> None:
    if case == "one agent" and reader == "dair":
        pytest.skip("DAIR-V2X-C always has two agents")
    inspection = checked(SOUND[case](sound), reader, tmp_path)
    assert inspection.ok, said(inspection)
    state = {verdict.name: verdict.state for verdict in inspection.verdicts}
    if case == "no objects":
        assert state["points and labels"] == state["handedness"] == "note"
    elif case not in {"cameras only", "few objects"}:
        assert state["points and labels"] == state["handedness"] == state["ground plane"] == "ok"


def test_equal_scores_for_both_hands_prove_nothing(sound: Recording, tmp_path: Path) -> None:
    """A street that looks the same to both sides: whether left and right are swapped cannot be told."""

    alone = one_agent(sound)
    both = [np.concatenate([each, each * np.float32([1, -1, 1, 1])]) for each in alone.clouds[0]]
    inspection = checked(replace(alone, clouds={0: both}), "folder", tmp_path)
    (handedness,) = [each for each in inspection.verdicts if each.name == "handedness"]
    assert handedness.state == "note" and "left and right swapped" in handedness.detail


def test_what_one_agent_does_wrong_is_not_said_of_others(sound: Recording, tmp_path: Path) -> None:
    inspection = checked(turned(90, (1,))(sound), "folder", tmp_path)
    told = said(inspection)
    assert "agent 1 " in told and "agent 0 of" not in told and "agent -1 of" not in told


UNLABELLED: dict[str, tuple[Change, str]] = {
    "inverse pose": (poses(np.linalg.inv, (0,)), "the pose is inverted"),
    "left-handed points": (points(lambda p: p * [1, -1, 1]), HAND),
    "heading": (turned(160, (0,)), "heading of the pose is off by about 1[56]\\d°"),
}


@pytest.mark.parametrize("mistake", UNLABELLED)
def test_without_labels_the_sweeps_of_several_agents_tell(mistake: str, sound: Recording, tmp_path: Path) -> None:
    change, expected = UNLABELLED[mistake]
    told = said(checked(change(without_objects(sound)), "folder", tmp_path))
    assert "agents together" in told and re.search(expected, told), told
