"""Tasks in processes: order, results, the first failure."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from heatv2x.errors import HeatError
from heatv2x.workers import Task, Tell, run_tasks


def double(number: int, tell: Tell) -> int:
    """Work that says what it does."""
    tell("doubling", 1, 1)
    return 2 * number


def read(path: Path, tell: Tell) -> str:
    """What an earlier task has written, and the number of threads."""
    return f"{path.read_text()} {torch.get_num_threads()}"


def write(path: Path, tell: Tell) -> None:
    """Leave something for a later task."""
    path.write_text("here")


def fail(tell: Tell) -> None:
    """Something goes wrong."""
    raise ValueError("no such luck")


def die(tell: Tell) -> None:
    """A process that is killed from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def chatter(path: Path, tell: Tell) -> bool:
    """Keep telling something until somebody has seen the end of another task."""
    while not path.exists():
        tell("talking", 0, 1)
    return True


def nobody(what: str, done: int, total: int) -> None:
    """Progress nobody looks at."""


def test_results_by_name_in_the_order_of_the_tasks_and_needs_first(tmp_path: Path) -> None:
    path, told, ended = tmp_path / "note", [], []
    tasks = [
        Task("reader", read, (path,), needs=("writer",)),
        Task("writer", write, (path,)),
        Task("number", double, (21,)),
    ]
    results = run_tasks(tasks, 2, lambda *words: told.append(words), lambda name, _: ended.append(name))
    assert list(results.items()) == [("reader", "here 1"), ("writer", None), ("number", 42)]
    assert ended.index("writer") < ended.index("reader") and ("doubling", 1, 1) in told


def test_the_first_failure_arrives_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such luck"):
        run_tasks([Task("bad", fail, ()), Task("after", write, (tmp_path / "x",), needs=("bad",))], 1, nobody)
    assert not (tmp_path / "x").exists()


def test_a_killed_process_ends_the_work_instead_of_hanging(tmp_path: Path) -> None:
    with pytest.raises(HeatError, match="victim: a process was killed"):
        run_tasks([Task("victim", die, ()), Task("after", write, (tmp_path / "x",), needs=("victim",))], 2, nobody)


def test_a_finished_task_is_seen_while_another_one_keeps_talking(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    tasks = [Task("talks", chatter, (path,)), Task("ends", double, (1,))]
    results = run_tasks(tasks, 2, nobody, lambda name, _: path.touch() if name == "ends" else None)
    assert results == {"talks": True, "ends": 2}


def test_tasks_that_wait_for_each_other() -> None:
    with pytest.raises(ValueError, match="wait for each other: one, two"):
        run_tasks([Task("one", fail, (), needs=("two",)), Task("two", fail, (), needs=("one",))], 1, nobody)


def test_no_tasks() -> None:
    assert run_tasks([], 2, nobody) == {}
