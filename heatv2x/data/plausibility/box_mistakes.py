"""The ways in which labelled boxes or points are commonly wrong: each as the boxes that would then fit the points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from heatv2x.data.plausibility.pose_mistakes import about_z, pose_mistakes
from heatv2x.data.plausibility.sweep import Sweep
from heatv2x.structures import Float64

MIRRORED = "mirrored points"
_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
_SWAP = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Explanation:
    """Boxes as they would be if a certain mistake was made.

    Attributes:
        key: names the mistake.
        cause: the mistake, a clause.
        T_agent_object, size: (N, 4, 4), (N, 3) where the boxes would be in the agent's frame.
    """

    key: str
    cause: str
    T_agent_object: Float64
    size: Float64


def as_labelled(sweep: Sweep) -> Explanation:
    """The boxes as they are."""
    return Explanation("as labelled", "", sweep.T_agent_object, sweep.size)


def plain_mistakes(sweep: Sweep) -> Iterator[Explanation]:
    """Mistakes that are cheap to try and can hide in boxes that fit a little."""
    boxes, size = sweep.T_agent_object, sweep.size
    yield Explanation(
        MIRRORED,
        "left and right are swapped: the points are left-handed (y to the right) where poses and boxes are "
        "right-handed, or the other way round",
        _MIRROR @ boxes,
        size,
    )
    yield Explanation(
        "half sizes", "the boxes have half sizes (extents), expected full length, width and height", boxes, size * 2
    )
    yield Explanation("double sizes", "the boxes are twice as large as the objects", boxes, size / 2)
    yield Explanation(
        "length and width swapped",
        "length and width of the boxes are swapped, or their headings are turned by 90°",
        boxes,
        size[:, [1, 0, 2]],
    )
    up = np.zeros((len(size), 4, 4))
    up[:, 2, 3] = size[:, 2] / 2
    for sign, where in ((1, "bottom"), (-1, "top")):
        yield Explanation(
            f"centre at the {where}",
            f"the boxes are given about the middle of their {where} face, expected their geometric centre",
            sweep.T_agent_world @ (sweep.T_world_object + sign * up),
            size,
        )


def mistakes(sweep: Sweep) -> Iterator[Explanation]:
    """All other mistakes that have a name."""
    size = sweep.size
    others = {agent: T for agent, T in sweep.poses.items() if agent != sweep.agent_id}
    for each in pose_mistakes(sweep.T_world_agent, others):
        yield Explanation(each.key, each.cause, np.linalg.inv(each.matrix) @ sweep.T_world_object, size)
    yield from _points(sweep)
    yield from _boxes(sweep)


def _points(sweep: Sweep) -> Iterator[Explanation]:
    boxes, size = sweep.T_agent_object, sweep.size
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    yield Explanation("points upside down", "z of the points counts downwards", flip @ boxes, size)
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    yield Explanation("points with z down", "the points are in axes with y to the right and z down", flip @ boxes, size)
    yield Explanation("points with x and y swapped", "x and y of the points are swapped", _SWAP @ boxes, size)
    for quarter, axes in (
        (1, "x to the right and y forward"),
        (2, "x backward and y to the right"),
        (3, "x to the left and y backward"),
    ):
        turn = np.eye(4)
        turn[:2, :2] = [
            [np.cos(quarter * np.pi / 2), -np.sin(quarter * np.pi / 2)],
            [np.sin(quarter * np.pi / 2), np.cos(quarter * np.pi / 2)],
        ]
        yield Explanation(
            f"points turned by {90 * quarter}",
            f"the points are in axes with {axes}: turned by {90 * quarter}° against the pose",
            turn @ boxes,
            size,
        )
    yield Explanation(
        "points in the world",
        "the points are in world coordinates, expected the LiDAR's own frame",
        sweep.T_world_object,
        size,
    )


def _boxes(sweep: Sweep) -> Iterator[Explanation]:
    world, size, to_agent = sweep.T_world_object, sweep.size, sweep.T_agent_world
    yield Explanation(
        "left-handed boxes",
        "the boxes are left-handed (y and yaw count to the right)",
        to_agent @ (_MIRROR @ world @ _MIRROR),
        size,
    )
    yield Explanation(
        "boxes with x and y swapped", "x and y of the boxes are swapped", to_agent @ _with_xy(world, [1, 0]), size
    )
    yield Explanation(
        "boxes in the agent's frame",
        f"the boxes are in the frame of agent {sweep.agent_id}, expected the world",
        world,
        size,
    )
    yield Explanation(
        "boxes through the pose twice", "the boxes were moved by the pose twice", to_agent @ to_agent @ world, size
    )
    yaw = np.arctan2(world[:, 1, 0], world[:, 0, 0])
    for key, cause, other in (
        ("headings with the wrong sign", "the headings of the boxes have the wrong sign", -yaw),
        (
            "headings counted from north",
            "the headings of the boxes are compass headings (clockwise from y)",
            np.pi / 2 - yaw,
        ),
        ("headings in degrees", "the headings of the boxes are in degrees where radians are expected", np.radians(yaw)),
        ("headings in radians", "the headings of the boxes are in radians where degrees are expected", np.degrees(yaw)),
    ):
        yield Explanation(key, cause, to_agent @ _with_yaw(world, other), size)
    for factor, unit in ((0.01, "centimetres"), (0.001, "millimetres")):
        scaled = world.copy()
        scaled[:, :3, 3] *= factor
        yield Explanation(
            f"boxes in {unit}", f"the boxes are in {unit}, expected metres", to_agent @ scaled, size * factor
        )
        yield Explanation(
            f"box positions in {unit}",
            f"the positions of the boxes are in {unit}, expected metres",
            to_agent @ scaled,
            size,
        )


def turned(sweep: Sweep, degrees: Float64) -> Iterator[Explanation]:
    """The agent turned about its own z axis by every angle (S,)."""
    for number, angle in enumerate(degrees):
        yield Explanation(f"turned {number}", "", about_z(-angle) @ sweep.T_agent_object, sweep.size)


def shifted(sweep: Sweep, steps: Float64) -> Iterator[Explanation]:
    """The boxes moved by every step (S, 3) of the agent's frame."""
    for number, step in enumerate(steps):
        moved = sweep.T_agent_object.copy()
        moved[:, :3, 3] += step
        yield Explanation(f"shifted {number}", "", moved, sweep.size)


def _with_xy(world: Float64, order: list[int]) -> Float64:
    moved = world.copy()
    moved[:, :2, 3] = world[:, order, 3]
    return moved


def _with_yaw(world: Float64, yaw: Float64) -> Float64:
    turned_boxes = world.copy()
    turned_boxes[:, :3, :3] = np.eye(3)
    turned_boxes[:, 0, 0] = turned_boxes[:, 1, 1] = np.cos(yaw)
    turned_boxes[:, 1, 0] = np.sin(yaw)
    turned_boxes[:, 0, 1] = -np.sin(yaw)
    return turned_boxes
