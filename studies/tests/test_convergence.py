"""The convergence study: the search chooses by its rule, and the page shows what was tried and found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from studies import convergence
from studies.cells import identities_of
from studies.convergence import METHODS, ConvergenceConfig, Limits, Try, final_cells, search, search_cells, settled
from studies.convergence_page import LINES, summarise, write_page

CONFIG = ConvergenceConfig(seeds=(0, 1))


def nobody(what: str, done: int, total: int) -> None:
    """Progress nobody looks at."""


def tried(ap50: float, one: Try, seconds: float = 10.0) -> dict[str, Any]:
    return {**one.about(), "ap": {"0.5": ap50, "0.7": ap50 / 2}, "train_seconds": seconds, "steps": [3, 4]}


@pytest.mark.parametrize(
    ("scores", "enough"),
    [
        ([0.70], False),
        ([0.70, 0.70], False),
        ([0.70, 0.702, 0.704], True),
        ([0.70, 0.702, 0.706], False),
        ([0.70, 0.60, 0.50], True),
        ([0.70, 0.71, 0.713, 0.7135], True),
    ],
)
def test_a_method_has_had_enough_when_two_doublings_bring_nothing(scores: list[float], enough: bool) -> None:
    assert settled([{"ap": {"0.5": score}} for score in scores]) is enough


def test_the_search_takes_the_best_rate_and_teacher_then_doubles_while_it_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def fake(config: ConvergenceConfig, place: object, one: Try, tell: object) -> dict[str, Any]:
        asked.append(one)
        bonus = {1.0: 0.0, 2.0: 0.02, 4.0: 0.021, 8.0: 0.5}[one.times]
        return tried(0.6 + 0.01 * one.rate + 0.05 * one.taught + bonus, one)

    monkeypatch.setattr(convergence, "_tried", fake)
    content = search(CONFIG, "backward_alignment", nobody)
    assert len(content["tries"]) == 6 and {(t["rate"], t["taught"]) for t in content["tries"]} == {
        (rate, taught) for rate in CONFIG.rates for taught in (True, False)
    }
    assert [one["times"] for one in content["doublings"]] == [1.0, 2.0, 4.0, 8.0], "0.021 in two is not enough to stop"
    assert content["chosen"]["rate"] == 3.0 and content["chosen"]["taught"] and content["chosen"]["times"] == 8.0
    assert not content["settled"] and len(asked) == 9
    limited = CONFIG.model_copy(update={"limits": Limits(backward_alignment=2)})
    assert [one["times"] for one in search(limited, "backward_alignment", nobody)["doublings"]] == [1.0, 2.0]


def test_a_final_cell_is_another_one_when_something_else_was_chosen() -> None:
    one, other = ({method: {"rate": rate} for method in METHODS} for rate in (1.0, 3.0))
    first, second = (identities_of(final_cells(CONFIG, chosen)) for chosen in (one, other))
    assert first["networks/seed0"] == second["networks/seed0"] and first["final/seed0"] != second["final/seed0"]
    assert set(identities_of(search_cells(CONFIG))) == {"networks/seed0", *(f"search/{method}" for method in METHODS)}


def test_the_page_shows_what_was_tried_and_what_came_of_it(tmp_path: Path) -> None:
    about = {"date": "2026-12-01", "machine": {"processor": "p", "bfloat16": True}, "code_version": "0"}
    contents: dict[str, Any] = {}
    for number, method in enumerate(METHODS):
        tries = [tried(0.6 + 0.01 * rate, Try(method, rate, False)) for rate in CONFIG.rates]
        doublings = [tries[-1], tried(0.7, Try(method, 3.0, False, 2.0), 20.0)]
        found = {"tries": tries, "doublings": doublings, "settled": number != 1, "chosen": doublings[-1]}
        contents[f"search/{method}"] = {**about, **found}
    for seed in (0, 1):
        rows = [
            {
                "name": f"{line}/{ego}/{link}",
                "line": line,
                "ego": ego,
                "link": link,
                "n_frames": 5,
                "steps": [3],
                "trained_parameters": 1234,
                "ap": {"0.5": 0.5 + 0.01 * number + 0.1 * seed, "0.7": 0.3},
                "message_bytes": 4000.0,
                "train_seconds": 12.0,
                "seed": seed,
            }
            for number, line in enumerate(LINES)
            for link in ("clean", "noise")
            for ego in convergence._rosters(line, link)
        ]
        contents[f"final/seed{seed}"] = {**about, "seed": seed, "rows": rows}
    config = CONFIG.model_copy(update={"docs": tmp_path})
    summary = summarise(contents, "the command")
    gain = {row["name"]: row["over_ours"]["0.5"]["mean"] for row in summary["rows"]}
    assert gain["lhft_gcft/end/lidar64/clean"] == 0 and gain["backward_alignment/reader/lidar64/noise"] > 0.05
    page = write_page(summary, config).read_text()
    assert "`the command`" in page and page.count("**chosen**") == 3
    assert "Backward alignment (HEAL) was stopped at its limit" in page and "Full fine-tuning was stopped" not in page
    assert page.count("| 1,234 |") == 2 * len(LINES) + 3 and (tmp_path / "images" / "convergence.png").exists()
