"""What point-cloud files hold that is not a usable point."""

from __future__ import annotations

from dataclasses import dataclass

from heatv2x.core.plurals import counted
from heatv2x.data.plausibility.verdict import Verdict
from heatv2x.structures import PointCloud


@dataclass
class Returns:
    """What point-cloud files hold that is not a usable point, gathered over a dataset."""

    clouds: int = 0
    points: int = 0
    left_out: int = 0
    clipped: int = 0
    without_intensity: int = 0

    def add(self, cloud: PointCloud) -> None:
        """Take in one sweep."""
        self.clouds += 1
        self.points += len(cloud)
        self.left_out += cloud.left_out
        self.clipped += cloud.clipped
        self.without_intensity += not cloud.has_intensity

    def verdicts(self) -> list[Verdict]:
        """What was seen; nothing if no cloud was read."""
        if not self.clouds:
            return []
        given, notes = self.points + self.left_out, []
        if self.left_out:
            notes.append(f"{_share(self.left_out, given)} of all points have no position (NaN or infinite): left out")
        if self.clipped:
            notes.append(
                f"{_share(self.clipped, self.points)} of all intensities exceed intensity_max: they count as 1"
            )
        clouds = counted(self.clouds, "cloud")
        if self.without_intensity:
            notes.append(f"{self.without_intensity:,} of {clouds} without intensity: it counts as 0")
        if notes:
            return [Verdict("points", "note", "; ".join(notes))]
        usable = f"{counted(given, 'point')} of {clouds}, all with a position and an intensity"
        return [Verdict("points", "ok", usable)]


def _share(part: int, whole: int) -> str:
    """A share in percent that is not shown as 0 unless it is."""
    share = part / max(whole, 1)
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
