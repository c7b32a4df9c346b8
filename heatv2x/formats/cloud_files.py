"""The point-cloud files of a dataset: each kind by its suffix, and one warning for what applies to all of them."""

from __future__ import annotations

import logging
from pathlib import Path

from heatv2x.core.plurals import counted
from heatv2x.errors import DataError
from heatv2x.formats.arrays import read_bin_cloud, read_npy_cloud
from heatv2x.formats.pcd import read_pcd_cloud
from heatv2x.structures import PointCloud

_log = logging.getLogger(__name__)
CLOUDS = (".pcd", ".npy", ".bin", ".pcd.bin")
"""Suffixes of point clouds, in any mixture of capital letters."""
NUSCENES_COLUMNS = 5
KITTI_COLUMNS = 4


class CloudFiles:
    """Reads point clouds, and says once what is special about them.

    Args:
        intensity_max: value in the files that means intensity 1; larger ones are clipped. None: see `read_pcd_cloud`.
        bin_columns: float32 numbers of a point in `.bin` files; None: 5 for nuScenes' `.pcd.bin`, otherwise 4.
    """

    def __init__(self, intensity_max: float | None = None, bin_columns: int | None = None) -> None:
        self.intensity_max = intensity_max
        self.bin_columns = bin_columns
        self._said: set[str] = set()

    def read(self, path: Path) -> PointCloud:
        """One sweep, in the file's axes.

        Raises:
            DataError: the file is missing, corrupt, or not what its format says.
        """
        name = path.name.lower()
        if name.endswith(".bin"):
            usual = NUSCENES_COLUMNS if name.endswith(".pcd.bin") else KITTI_COLUMNS
            cloud = read_bin_cloud(path, intensity_max=self.intensity_max, columns=self.bin_columns or usual)
        elif name.endswith(".npy"):
            cloud = read_npy_cloud(path, intensity_max=self.intensity_max)
        elif name.endswith(".pcd"):
            cloud = read_pcd_cloud(path, intensity_max=self.intensity_max)
        else:
            raise DataError(path, "is not a supported kind of point cloud", way_out=f"write {', '.join(CLOUDS)}")
        self._tell(cloud, path)
        return cloud

    def _tell(self, cloud: PointCloud, path: Path) -> None:
        if not cloud.has_intensity:
            self._once(
                "intensity",
                logging.WARNING,
                f"{path}: has no intensity; 0 is used here and in every other file without one",
            )
        if cloud.clipped:
            share = cloud.clipped / max(len(cloud), 1)
            self._once(
                "clipped",
                logging.WARNING,
                f"{path}: {share:.1%} of intensities lie above intensity_max={self.intensity_max:g} and count as 1; "
                "choose another dataset.settings.intensity_max if that is too many (reported once for all files)",
            )
        if cloud.left_out:
            total = cloud.left_out + len(cloud)
            text = (
                f"{path}: left out {cloud.left_out:,} of {counted(total, 'point')} without a position (NaN or infinite)"
            )
            self._once("left out", logging.INFO, f"{text}; later files are counted in the debug log only")
            _log.debug("%s", text)

    def _once(self, what: str, level: int, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.log(level, "%s", text)
