"""From the numbers in a point-cloud file to points that can be used: what is left out, scaled, clipped or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from heatv2x.core.plurals import counted
from heatv2x.errors import DataError
from heatv2x.structures import Float32, PointCloud

MAX_POINTS = 20_000_000
MAX_BYTES = 512_000_000
"""Of a file, and of its points once they are decompressed; a sweep of a dense LiDAR has some megabytes."""
REACH_M = 100_000.0
"""No LiDAR measures farther. Some drivers write NaN, infinity or the largest float for a ray without a return."""
ROUNDING = 1e-3
"""Of the full scale: an intensity that exceeds its range by less was rounded."""
INTENSITIES = (
    "intensity",
    "i",
    "intensities",
    "reflectivity",
    "reflectance",
    "remission",
    "scalar_intensity",
    "scalar_reflectivity",
)
"""Names that writers give the intensity, the first one wins; `scalar_` is CloudCompare's prefix."""


def intensity_name(names: tuple[str, ...]) -> str | None:
    """Which of a file's columns is the intensity, whatever its capital letters; None if none is."""
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in INTENSITIES if name in lower), None)


def usable(
    points: Float32, source: Path, *, intensity_max: float | None = None, full: float | None = None
) -> PointCloud:
    """A cloud of the points that have a position, with intensities in [0, 1].

    Args:
        points: (P, 4) float32 x, y, z and intensity as the file gives them; changed in place.
        source: the file, for messages.
        intensity_max: the intensity that means 1, as the user says; larger ones are clipped. None takes `full`,
            and then larger ones are an error, because nobody said what they mean.
        full: the intensity that means 1 by the column's type. None: the file has no intensity column, and zeros or
            values from 0 to 1 are in place.

    Raises:
        DataError: no point has a position, an intensity is negative, or the scale of intensities is unknown.
    """
    given = len(points)
    with np.errstate(invalid="ignore"):
        # NaN makes both comparisons false
        plain = not given or bool(points.min() >= -REACH_M and points.max() <= REACH_M)
    if not plain:
        placed = (np.abs(points[:, :3]) <= REACH_M).all(axis=1) & np.isfinite(points[:, 3])
        points = points if placed.all() else points[placed]
    if given and not len(points):
        problem = (
            f"holds {counted(given, 'point')}, none of them with a position: x, y, z or intensity is NaN, infinite or "
            f"beyond {REACH_M / 1000:.0f} km"
        )
        way_out = "write metres in the LiDAR's own frame, or remove the frame if the sensor saw nothing"
        raise DataError(source, problem, key="x", way_out=way_out)
    clipped = 0 if full is None else _scale(points[:, 3], source, intensity_max, full)
    return PointCloud(points, left_out=given - len(points), clipped=clipped)


def _scale(intensity: Float32, source: Path, intensity_max: float | None, full: float) -> int:
    """Scale intensities in place to [0, 1]; how many were above it."""
    maximum = full if intensity_max is None else intensity_max
    if not len(intensity):
        return 0
    lowest, highest = float(intensity.min()), float(intensity.max())
    if lowest < -ROUNDING * maximum:
        problem = f"has intensities from {lowest:g} to {highest:g}; they cannot be negative"
        way_out = "write intensities from 0 up, and check that the file has the right columns"
        raise DataError(source, problem, key="intensity", way_out=way_out)
    limit = (1 + ROUNDING) * maximum
    if highest > limit and intensity_max is None:
        problem = f"has intensities up to {highest:g}, but full intensity is taken to be {full:g}"
        usual = float(np.percentile(intensity, 90))
        scale = 255 if usual <= 255 else 65535 if usual <= 65535 else f"{usual:.0f}"
        way_out = (
            f"set the value of full intensity, for example dataset.settings.intensity_max={scale}; "
            "larger ones are then clipped"
        )
        raise DataError(source, problem, key="intensity", way_out=way_out)
    clipped = int((intensity > limit).sum()) if highest > limit else 0
    intensity /= np.float32(maximum)
    np.clip(intensity, 0, 1, out=intensity)
    return clipped
