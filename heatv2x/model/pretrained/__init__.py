"""The packs that come with HeatV2X, by name: `shipped:base` stands for a file that pip put somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pydantic

from heatv2x.errors import PackError, nearest

PREFIX = "shipped:"
FOLDER = Path(__file__).parent


def pretrained() -> dict[str, Path]:
    """The file of every pack that comes with HeatV2X, by its name ("shipped:base")."""
    return {f"{PREFIX}{path.stem}": path for path in sorted(FOLDER.glob("*.safetensors"))}


def pack_path(path: str | Path) -> Path:
    """The file of a pack that is given as a path or as `shipped:NAME`.

    Raises:
        PackError: no pack of that name comes with HeatV2X; the message names the nearest.
    """
    name = str(path)
    if not name.startswith(PREFIX):
        return Path(path)
    known = pretrained()
    if name not in known:
        raise PackError(f"HeatV2X ships no pack called '{name}'; {nearest(name, known)}")
    return known[name]


def _of_setting(value: Any) -> Any:
    return pack_path(value) if isinstance(value, str | Path) else value


PackPath = Annotated[Path, pydantic.BeforeValidator(_of_setting)]
"""A setting that takes a pack: a path, or `shipped:NAME`."""
