"""Returns of a vehicle's LiDAR from the vehicle itself."""

from __future__ import annotations

import numpy as np

from heatv2x.structures import Float32

_BODY_X_M = (-1.95, 2.95)
_BODY_Y_M = 1.1


def without_body(points: Float32) -> Float32:
    """(P, 4) points without those in the rectangle that OPV2V's vehicles fill, as HEAL does."""
    x, y = points[:, 0], points[:, 1]
    body = (x >= _BODY_X_M[0]) & (x <= _BODY_X_M[1]) & (np.abs(y) <= _BODY_Y_M)
    return points[~body]
