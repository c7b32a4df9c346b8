"""Settings of `heatv2x data view`."""

from __future__ import annotations

from pathlib import Path

import pydantic

from heatv2x.core.config import Config
from heatv2x.data.datasets.base import DatasetConfig
from heatv2x.model.pretrained import PackPath

MAX_FILM_FRAMES = 60


_SUFFIXES = (".png", ".html", ".rrd", ".gif")


class ViewConfig(Config):
    """Attributes:
    out: the picture: .png, .html, .rrd for rerun, or .gif for a film of the clip from this frame on.
    dataset: the dataset part that reads the folder, if it is not recognised; dataset.settings.KEY=VALUE are the
        part's own settings.
    split: by default the folder's first.
    frame: its number, or "scenario/timestamp"; also the word after the folder.
    frames: length of a film in frames; it ends at the scenario's end if that comes first.
    lidar: which sweep to draw of agents with several; by default the one with the most beams.
    cameras: whether to draw the images.
    reach_m: how far around the agents to draw, metres.
    packs: base, agent and adapter packs; what their model detects is drawn beside the labels.
    allow_parts: parts from outside HeatV2X ("package.module:Class") that packs may name; their code is imported.
    ego: the ego's type; by default the first that has a pack.
    senders: types that the other agents take in turn; by default all others that have a pack, or else the ego's.
    score: detections below this score are not drawn.
    """

    out: Path = Path("frame.png")
    dataset: str | DatasetConfig | None = None
    split: str | None = None
    frame: str | int = 0
    frames: int | None = pydantic.Field(None, gt=0, le=MAX_FILM_FRAMES)
    lidar: str | None = None
    cameras: bool = True
    reach_m: float = pydantic.Field(50.0, gt=0, le=500)
    packs: tuple[PackPath, ...] = ()
    allow_parts: tuple[str, ...] = ()
    ego: str | None = None
    senders: str | tuple[str, ...] | None = None
    score: float = pydantic.Field(0.3, ge=0, le=1)

    @pydantic.field_validator("out")
    @classmethod
    def _known(cls, out: Path) -> Path:
        if out.suffix.lower() not in _SUFFIXES:
            raise ValueError(f"'{out.name}' must end in {', '.join(_SUFFIXES)}")
        return out

    @pydantic.model_validator(mode="after")
    def _fits(self) -> ViewConfig:
        if self.frames is not None and not self.is_film:
            raise ValueError(f"frames={self.frames} is the length of a film: set out=clip.gif, or leave frames= out")
        if not self.packs and (self.ego is not None or self.senders is not None):
            raise ValueError("ego= and senders= choose types of a model: name its packs, too, with packs=[...]")
        return self

    @property
    def is_film(self) -> bool:
        """Whether a film is asked for."""
        return self.out.suffix.lower() == ".gif"
