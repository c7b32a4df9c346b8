"""A study is a graph of cells. A finished cell is one JSON file; what is there is not done again.

So a study can be interrupted, spread over days and machines, and looked at while it runs. A cell's identity covers its
settings and those of everything it needs: when one changes, what follows from it is done again.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import heatv2x
import studies
from heatv2x import __version__
from heatv2x.core.files import read_json, write_json
from heatv2x.core.plugins import PartConfig
from heatv2x.core.workers import Task, Tell, run_tasks
from heatv2x.errors import HeatError
from heatv2x.evaluation.cost import Stopwatch
from heatv2x.evaluation.rows import machine
from heatv2x.model.assembly import resolved, resolved_model
from heatv2x.model.config import ModelConfig
from heatv2x.training.job_config import BackwardConfig, FullConfig

Content = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One piece of a study, minutes long.

    Attributes:
        name: unique; also its file, "seed0/lidar16/joined".
        work: a function of a module, called with `arguments` and a `Tell`; gives JSON content.
        arguments: what it is called with.
        settings: what decides its result, as JSON.
        needs: cells whose packs it uses.
        packs: files it leaves for others; they lie beside the results and are not part of them.
        seconds: rough CPU seconds, for the time left.
    """

    name: str
    work: Callable[..., Content]
    arguments: tuple[Any, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    packs: tuple[Path, ...] = ()
    seconds: float = 60.0


def run_cells(
    cells: Sequence[Cell], folder: Path, processes: int, tell: Tell, with_packs: bool = False
) -> dict[str, Content]:
    """Do what is not done yet; gives the content of every cell by name.

    Args:
        folder: where the JSON files lie.
        processes: how many cells run side by side, one thread each.
        with_packs: somebody else needs the packs: cells whose packs are gone are done again.
    """
    identities = identities_of(cells)
    todo = unfinished(cells, folder, with_packs)
    total = round(sum(cell.seconds for cell in todo))
    spent = 0.0
    by_name = {cell.name: cell for cell in todo}

    def done(name: str, _: Content) -> None:
        nonlocal spent
        spent += by_name[name].seconds
        tell("whole study", round(spent), total)

    tasks = [Task(c.name, _run_cell, (c, identities[c.name], folder), c.needs) for c in todo]
    if tasks:
        tell("whole study", 0, total)
    run_tasks(tasks, processes, tell, done)
    return {cell.name: read_json(path_of(cell.name, folder)) for cell in cells}


def unfinished(cells: Sequence[Cell], folder: Path, with_packs: bool = False) -> list[Cell]:
    """Cells without a result, and finished ones whose packs are gone but needed by those, or by others."""
    identities = identities_of(cells)
    todo = {cell.name for cell in cells if not _is_done(cell, identities[cell.name], folder)}
    for cell in reversed(cells):  # what is needed comes before what needs it
        missing = not all(path.exists() for path in cell.packs)
        if missing and (with_packs or any(cell.name in other.needs and other.name in todo for other in cells)):
            todo.add(cell.name)
    return [cell for cell in cells if cell.name in todo]


def identities_of(cells: Sequence[Cell]) -> dict[str, str]:
    """Short hash of every cell's settings and those of all it needs.

    Raises:
        HeatError: a cell needs one that does not come before it.
    """
    found: dict[str, str] = {}
    for cell in cells:
        unknown = [need for need in cell.needs if need not in found]
        if unknown:
            raise HeatError(f"cell {cell.name} needs {', '.join(unknown)}, which must come before it")
        about = {"settings": dict(cell.settings), "needs": [found[need] for need in cell.needs]}
        found[cell.name] = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return found


def finished(cells: Sequence[Cell], folder: Path) -> dict[str, Content]:
    """The contents of the cells that are done with these very settings."""
    identities = identities_of(cells)
    done = [cell.name for cell in cells if _is_done(cell, identities[cell.name], folder)]
    return {name: read_json(path_of(name, folder)) for name in done}


def path_of(name: str, folder: Path) -> Path:
    """The file of a cell's result."""
    return folder / f"{name}.json"


INDIFFERENT = {"device", "allow_parts", "overwrite", "checkpoint_every", "hold_data", "keep_cache", "workers", "keep"}
INDIFFERENT |= {"on_bad_file", "recompute", "schedule", "milestones", "accumulate", "ema"}
"""Settings of jobs that leave their results as they are, or do so at the defaults that every study keeps."""


def defaults_of(job: type[BaseModel]) -> dict[str, Any]:
    """A job's own defaults, those of its adapters included.

    When one changes, what was measured with the old one is done again.
    """
    found: dict[str, Any] = {}
    for name, about in job.model_fields.items():
        if name in INDIFFERENT or (name.startswith("validate_") and job is not FullConfig):
            continue  # full fine-tuning was validated before the others were
        value = None if about.is_required() else about.get_default()
        value = "opv2v" if name == "dataset" else value  # a study's world is in this layout, recognised or named
        if name == "teacher" and job in (BackwardConfig, FullConfig):
            value = "auto"  # what was written down of them before they could have a teacher
        if isinstance(value, PartConfig):
            value = resolved("adapters", value)
        if not about.is_required() and not isinstance(value, Path):
            found[name] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return found


@functools.cache
def code_digest() -> str:
    """A short hash over the package's and the studies' source files: which program made a cell.

    It is written down, and not a part of a cell's identity: a changed comment would have everything done again.
    """
    digest = hashlib.sha256()
    for package in (heatv2x, studies):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            if "tests" not in path.parts:
                digest.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def written_out(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with every setting of its networks, for the same reason."""
    found = dict(recipe)
    if "model" in recipe:
        found["model"] = resolved_model(ModelConfig(**recipe["model"])).model_dump(mode="json")
    if "agent" in recipe:
        found["agent"] = resolved("agents", PartConfig(**recipe["agent"])).model_dump(mode="json")
    return found


def _is_done(cell: Cell, identity: str, folder: Path) -> bool:
    path = path_of(cell.name, folder)
    return path.exists() and read_json(path).get("identity") == identity


def _run_cell(cell: Cell, identity: str, folder: Path, tell: Tell) -> Content:
    with Stopwatch() as watch:
        content = cell.work(*cell.arguments, lambda what, a, b: tell(f"{cell.name}: {what}", a, b))
    about = {
        "cell": cell.name,
        "identity": identity,
        "settings": dict(cell.settings),
        "code": code_digest(),
        "cpu_seconds": round(watch.cpu_s, 1),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "code_version": __version__,
    }
    content = {**about, **content}
    write_json(path_of(cell.name, folder), content)
    return content
