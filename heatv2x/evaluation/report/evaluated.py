"""An evaluation with something to look at: the frames it keeps become scenes.json, and the run gets a report.html."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from heatv2x import __version__
from heatv2x.core import distributed
from heatv2x.core.files import write_json
from heatv2x.evaluation.detections import FILE_NAME as DETECTIONS_FILE
from heatv2x.evaluation.job import EvalConfig, EvaluatedRow, run_eval
from heatv2x.evaluation.report.build import FILE_NAME as REPORT_FILE
from heatv2x.evaluation.report.build import build_report
from heatv2x.evaluation.report.collect import extent_of, scene_view
from heatv2x.evaluation.report.scene import FILE_NAME as SCENES_FILE
from heatv2x.evaluation.report.scene import GridExtent, Scenes, SceneView
from heatv2x.evaluation.results import SceneResult
from heatv2x.evaluation.roster import Cast
from heatv2x.evaluation.rows import machine


class Album:
    """The kept frames of the row in which the ego hears most; the first such row if there are several.

    Attributes:
        row: its name; "" before the first row.
    """

    def __init__(self) -> None:
        self.row = ""
        self._heard = -1
        self._extent: GridExtent | None = None
        self._views: dict[int, SceneView] = {}

    def add(self, row: EvaluatedRow) -> None:
        """Look at a row as soon as it is evaluated. Every process looks at the frames it kept; they decide alike."""
        kept = row.evaluation.scenes
        heard = sum(distributed.all_gather_objects(sum(len(scene.heard) for scene in kept.values())))
        if heard <= self._heard:
            return
        self.row, self._heard, self._extent = row.name, heard, extent_of(row.model)
        self._views = {index: _view(row, index, scene) for index, scene in kept.items()}

    def scenes(self) -> Scenes | None:
        """All processes' frames in the order of the split; None if no row was evaluated."""
        views = {index: view for part in distributed.all_gather_objects(self._views) for index, view in part.items()}
        return None if self._extent is None else Scenes(self._extent, [views[index] for index in sorted(views)])


def _view(row: EvaluatedRow, index: int, scene: SceneResult) -> SceneView:
    if row.roster.drop:
        return scene_view(row.model, scene)
    return scene_view(row.model, row.evaluator.run(row.model, hearing_nobody(row.roster), index), scene)


def hearing_nobody(roster: Cast) -> Cast:
    """The same egos and types, but no ego hears anybody."""
    mute: Cast = dataclasses.replace(cast("Any", roster), drop=True)  # every cast is a dataclass
    return mute


def evaluate(
    config: EvalConfig, tell: Callable[[str, int, int], None] | None = None, command: str = ""
) -> tuple[list[dict[str, Any]], Path | None]:
    """Evaluate packs; with `scenes` the run folder also gets scenes.json and report.html.

    Args:
        tell: progress.
        command: that makes the run again, for the report.

    Returns:
        The rows of metrics.json, and the report if there is one.
    """
    about = {
        "title": f"Evaluation on {config.data.name}, split {config.split}",
        "world": {"data": str(config.data), "split": config.split},
        "machine": machine(),
        "code_version": __version__,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    album = Album()
    rows = run_eval(config, tell, album.add if config.scenes else None, about)
    scenes = album.scenes()
    if distributed.rank() > 0:
        return rows, None
    # what an earlier evaluation left in this folder does not belong to these numbers
    stale = [DETECTIONS_FILE] if not config.detections else []
    stale += [SCENES_FILE, REPORT_FILE] if scenes is None else []
    for name in stale:
        (config.out / name).unlink(missing_ok=True)
    if scenes is None:
        return rows, None
    write_json(config.out / SCENES_FILE, scenes.to_json())
    return rows, build_report(config.out)
