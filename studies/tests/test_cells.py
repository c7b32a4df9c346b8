"""What is done is not done again; what follows from a change is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heatv2x.core.files import read_json
from heatv2x.core.workers import Tell
from heatv2x.errors import HeatError
from heatv2x.training.job_config import LocalConfig
from studies.adaptation import cells_of
from studies.cells import Cell, defaults_of, finished, identities_of, path_of, run_cells, unfinished, written_out
from studies.config import AdaptationConfig


def count(path: Path, tell: Tell) -> dict[str, Any]:
    """Leave a mark for every call, and a pack for others."""
    with path.open("a") as marks:
        marks.write("x")
    return {"calls": len(path.read_text())}


def fail(tell: Tell) -> dict[str, Any]:
    """A cell that goes wrong."""
    raise ValueError("no such luck")


def nobody(what: str, done: int, total: int) -> None:
    """Progress nobody looks at."""


def study(folder: Path, rate: float = 1.0, last: int = 0) -> list[Cell]:
    """Base, and two that need it, one with a setting of its own."""
    base = Cell("seed0/base", count, (folder / "base",), {"rate": rate}, packs=(folder / "base",))
    return [
        base,
        Cell("seed0/one", count, (folder / "one",), {}, ("seed0/base",)),
        Cell("seed0/two", count, (folder / "two",), {"last": last}, ("seed0/base",)),
    ]


def calls(contents: dict[str, dict[str, Any]]) -> list[int]:
    return [content["calls"] for content in contents.values()]


def test_finished_cells_are_not_done_again(tmp_path: Path) -> None:
    cells = study(tmp_path)
    assert calls(run_cells(cells, tmp_path / "cells", 2, nobody)) == [1, 1, 1]
    assert calls(run_cells(cells, tmp_path / "cells", 2, nobody)) == [1, 1, 1]
    content = read_json(path_of("seed0/two", tmp_path / "cells"))
    assert content["identity"] == identities_of(cells)["seed0/two"] and content["settings"] == {"last": 0}


@pytest.mark.parametrize(
    ("change", "again"),
    [({"last": 1}, ["seed0/two"]), ({"rate": 2.0}, ["seed0/base", "seed0/one", "seed0/two"])],
)
def test_a_changed_setting_redoes_a_cell_and_what_follows(
    tmp_path: Path, change: dict[str, Any], again: list[str]
) -> None:
    run_cells(study(tmp_path), tmp_path / "cells", 1, nobody)
    changed = study(tmp_path, **change)
    assert [cell.name for cell in unfinished(changed, tmp_path / "cells")] == again
    assert set(finished(changed, tmp_path / "cells")) == {cell.name for cell in changed} - set(again)


def test_packs_that_are_gone_are_made_again_only_if_somebody_needs_them(tmp_path: Path) -> None:
    run_cells(study(tmp_path), tmp_path / "cells", 1, nobody)
    (tmp_path / "base").unlink()
    assert unfinished(study(tmp_path), tmp_path / "cells") == []
    names = [cell.name for cell in unfinished(study(tmp_path, last=1), tmp_path / "cells")]
    assert names == ["seed0/base", "seed0/two"]
    assert [cell.name for cell in unfinished(study(tmp_path), tmp_path / "cells", True)] == ["seed0/base"]


def test_a_failure_leaves_what_was_finished(tmp_path: Path) -> None:
    cells = [*study(tmp_path)[:1], Cell("seed0/bad", fail, (), {}, ("seed0/base",))]
    with pytest.raises(ValueError, match="no such luck"):
        run_cells(cells, tmp_path / "cells", 1, nobody)
    assert set(finished(cells, tmp_path / "cells")) == {"seed0/base"}


def test_a_need_must_come_first(tmp_path: Path) -> None:
    with pytest.raises(HeatError, match="seed0/one needs seed0/base"):
        identities_of(study(tmp_path)[1:])


def test_defaults_are_values_without_places() -> None:
    defaults = defaults_of(LocalConfig)
    assert defaults["closed_form"] is True and defaults["before"]["part"] == "hetero_aware"
    assert not {"out", "data", "base"} & set(defaults)


def test_a_cells_identity_holds_every_setting_of_its_networks() -> None:
    """Also those that a job or recipe leaves at the defaults of its parts, and none that changes no result."""
    joining = defaults_of(LocalConfig)
    assert joining["before"] == {"part": "hetero_aware", "settings": {"kernel": 3}}
    assert joining["received"] is None and joining["window"]["cells"] == 40
    assert not {"hold_data", "device", "data"} & set(joining)
    base = written_out({"lr": 1.0, "model": {"fusion": {"part": "hetero_graph"}}})
    assert base["lr"] == 1.0 and base["model"]["fusion"]["settings"]["attention"] is True
    assert base["model"]["agents"]["lidar64"]["settings"]["pillar_channels"] == 24
    assert written_out({"agent": {"part": "lidar_slices"}})["agent"]["settings"]["slices"] == 10


def test_the_committed_cells_are_those_of_this_code() -> None:
    """A changed default asks for the study to be run again: that is meant, or the default must not be written."""
    study = AdaptationConfig(docs=Path(__file__).parents[2] / "docs" / "benchmarks")
    assert set(finished(cells_of(study), study.cells)) == {cell.name for cell in cells_of(study)}
