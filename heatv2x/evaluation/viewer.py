"""`data view`: from a folder and a frame to a picture, a page, a recording or a film."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from heatv2x.core.files import atomic_path, write_text
from heatv2x.data.check import recognise
from heatv2x.data.datasets.base import Dataset, open_dataset
from heatv2x.data.view.film import FRAMES, clip_from, durations_ms, write_film
from heatv2x.data.view.frame_view import View, frame_number, look
from heatv2x.data.view.page import page_of
from heatv2x.data.view.picture import figure_of
from heatv2x.data.view.rerun_recording import log_to_rerun
from heatv2x.evaluation.sight import Watcher
from heatv2x.evaluation.view_config import ViewConfig

Progress = Callable[[str, int, int], None]


def show(folder: Path, config: ViewConfig, tell: Progress) -> list[str]:
    """Draw what the settings ask for; gives the lines to print.

    Raises:
        ConfigError: a setting names what is not there.
        DataError: the folder is no dataset, or a file is missing or corrupt, or cannot be written.
        PackError: the packs do not fit together.
    """
    part, _, tree = recognise(folder, config.dataset)
    dataset = open_dataset(part.part, folder, config.split or tree.splits[0], part.settings)
    index = frame_number(dataset, config.frame)
    watcher = Watcher(dataset, config) if config.packs else None
    if config.is_film:
        return _film(dataset, index, config, watcher, tell)
    view = _view(dataset, index, config, watcher)
    draw(view, config.out)
    lines = [view.title(sight) for sight in view.sights]
    unlabelled = "" if dataset.labelled(index) else ", not labelled"
    return [*lines, f"{dataset.name(index)}, frame {index} of {len(dataset)}{unlabelled}: {config.out}"]


def _film(dataset: Dataset, index: int, config: ViewConfig, watcher: Watcher | None, tell: Progress) -> list[str]:
    clip = clip_from(dataset, index, config.frames or FRAMES)
    config = config.model_copy(update={"cameras": False})  # a film shows the ground only
    views = []
    for done, each in enumerate(clip, start=1):
        views.append(_view(dataset, each, config, watcher))
        tell("looking at frames", done, len(clip))
    write_film(views, durations_ms(dataset, clip), config.out)
    asked = config.frames or FRAMES
    short = f"; the scenario ends there, though {asked} were requested" if len(clip) < asked else ""
    return [f"{dataset.name(clip[0])} to {dataset.name(clip[-1])}, {len(clip)} frames{short}: {config.out}"]


def _view(dataset: Dataset, index: int, config: ViewConfig, watcher: Watcher | None) -> View:
    sights = watcher.look(index) if watcher else ()
    return look(dataset, index, config.lidar, config.cameras, config.reach_m, sights)


def draw(view: View, out: Path) -> None:
    """Draw a frame into a .png, .html or .rrd file.

    Raises:
        ConfigError: rerun is asked for and not installed.
        DataError: the file cannot be written.
    """
    if out.suffix.lower() == ".png":
        with atomic_path(out) as path:
            figure_of(view).savefig(path, dpi=130)
    elif out.suffix.lower() == ".html":
        write_text(out, page_of(view))
    else:
        log_to_rerun(view, out)
