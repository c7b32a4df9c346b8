"""What a receiver accepts at all: names, poses, uncertainties and boxes beyond these limits are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heatv2x.errors import MessageError
from heatv2x.structures import Bool, Boxes3D


@dataclass(frozen=True)
class Limits:
    """The most a receiver accepts. Anything beyond is damage or malice, never a vehicle.

    Attributes:
        position_m: of the sender in x and y of the world.
        height_m: of the sender in the world.
        angle_rad: of roll, pitch and yaw of the sender, and of a box's yaw.
        sigma_m, sigma_rad: of the reported uncertainty.
        boxes: how many boxes a message of late fusion carries.
        box_m: of a box's centre in the sender's frame.
        size_m: of a box's sides; they are above 0.
        feature: of a feature's values, either sign.
    """

    position_m: float = 1e6
    height_m: float = 1e4
    angle_rad: float = 2 * math.pi
    sigma_m: float = 100.0
    sigma_rad: float = math.pi
    boxes: int = 1000
    box_m: float = 500.0
    size_m: float = 100.0
    feature: float = 1e4


LIMITS = Limits()


def check_name(name: str) -> None:
    """Check that an agent type's name fits a message.

    Raises:
        MessageError: it does not.
    """
    if not re.fullmatch(r"[!-~]{1,32}", name):
        raise MessageError(f"the agent type {name[:40]!r} is not a name of 1 to 32 printable characters")


def check_stance(pose: Sequence[float], sigma: Sequence[float]) -> None:
    """Check that x, y, z, roll, pitch, yaw and the two deviations are within the limits.

    Raises:
        MessageError: one is not; says which.
    """
    x, y, z, *angles = pose
    within = (
        *((f"position {value:g} m", abs(value) <= LIMITS.position_m) for value in (x, y)),
        (f"height {z:g} m", abs(z) <= LIMITS.height_m),
        *((f"angle {value:g} rad", abs(value) <= LIMITS.angle_rad) for value in angles),
        (f"uncertainty {sigma[0]:g} m", 0 <= sigma[0] <= LIMITS.sigma_m),
        (f"uncertainty {sigma[1]:g} rad", 0 <= sigma[1] <= LIMITS.sigma_rad * (1 + 1e-6)),  # of a float32
    )
    for what, fine in within:  # a comparison with what is not a number is false
        if not fine:
            raise MessageError(f"the sender's {what} is outside the range that receivers accept")


def credible(boxes: Boxes3D) -> Bool:
    """(N,) which boxes are within the limits."""
    rows = boxes.boxes.astype(np.float64)
    with np.errstate(invalid="ignore"):
        fine = (np.abs(rows[:, :3]) <= LIMITS.box_m).all(axis=1) & (np.abs(rows[:, 6]) <= LIMITS.angle_rad)
        fine &= ((rows[:, 3:6] > 0) & (rows[:, 3:6] <= LIMITS.size_m)).all(axis=1)
        if boxes.scores is not None:
            fine &= (boxes.scores >= 0) & (boxes.scores <= 1)
    return np.asarray(fine)
