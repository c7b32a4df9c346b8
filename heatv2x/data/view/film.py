"""A clip as a GIF: frame after frame from above, around the ego, with what a model detects if one is given."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from heatv2x.core.files import atomic_path
from heatv2x.data.datasets.base import Dataset
from heatv2x.data.view.frame_view import View
from heatv2x.data.view.picture import draw_from_above
from heatv2x.errors import ConfigError

FRAMES = 20
SIDE_PX, COLOURS = 640, 64
"""With 60 frames at most, these bound the size of a film: a frame takes some 70 kB."""
_SHORTEST_MS, _LONGEST_MS, _UNKNOWN_MS = 50, 1000, 100


def clip_from(dataset: Dataset, index: int, frames: int) -> list[int]:
    """A number of frames from this one on, at most to the end of its scenario."""
    scenario = dataset.name(index).rpartition("/")[0]
    clip = [index]
    while len(clip) < frames and clip[-1] + 1 < len(dataset):
        if dataset.name(clip[-1] + 1).rpartition("/")[0] != scenario:
            break
        clip.append(clip[-1] + 1)
    return clip


def durations_ms(dataset: Dataset, clip: Sequence[int]) -> list[int]:
    """How long each frame is shown: in real time, but never too short or too long to watch; 100 ms if unknown."""
    try:
        times = [dataset.capture_us(index, dataset.agent_ids(index)[0]) for index in clip]
    except ConfigError:
        return [_UNKNOWN_MS] * len(clip)
    gaps = [int(np.clip((b - a) // 1000, _SHORTEST_MS, _LONGEST_MS)) for a, b in itertools.pairwise(times)]
    return [*gaps, gaps[-1] if gaps else _UNKNOWN_MS]


def write_film(views: Iterable[View], durations: Sequence[int], out: Path) -> None:
    """Draw views into an endless GIF; of two sights the later one, so together.

    Raises:
        DataError: the file cannot be written.
    """
    pictures = [_picture(view) for view in views]
    with atomic_path(out) as path:
        first, *rest = pictures
        first.save(path, save_all=True, append_images=rest, duration=list(durations), loop=0, optimize=False)


def _picture(view: View) -> Image.Image:
    """One frame on an own palette; always the same ground around the ego, so that nothing jumps."""
    figure = Figure((6.4, 6.4), dpi=SIDE_PX / 6.4, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sight = view.sights[-1] if view.sights else None
    draw_from_above(view, axes, sight, half_m=view.reach_m, legend=False)
    axes.set_title(axes.get_title(), fontsize=9)
    axes.set_xlabel(axes.get_xlabel(), fontsize=7)
    axes.set_ylabel(axes.get_ylabel(), fontsize=7)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
