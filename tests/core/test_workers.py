"""Tasks in processes: order, results, the first failure."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from heatv2x.core.files import atomic_path
from heatv2x.core.workers import Task, Tell, run_tasks
from heatv2x.errors import HeatError
from heatv2x.evaluation.cost import peak_memory


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


def linger(path: Path, tell: Tell) -> None:
    """Work that takes far too long, and leaves a temporary file only if it is torn away."""
    with atomic_path(path) as temporary:
        path.with_suffix(".begun").write_text(str(os.getpid()))
        time.sleep(600)
        temporary.write_text("done")


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


INTERRUPTED = """
import signal
from pathlib import Path
from heatv2x.core.workers import Task, run_tasks
from tests.core.test_workers import double, linger, nobody
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that puts us behind itself ignores it
    folder = Path({folder!r})
    tasks = [Task("short", double, (1,)), Task("long", linger, (folder / "long.txt",))]
    try:
        run_tasks(tasks, 2, nobody, lambda name, _: (folder / f"{{name}}.done").write_text(""))
    except KeyboardInterrupt:
        print("stopped")
"""


@pytest.mark.parametrize("whom", ["all", "first"])
def test_ctrl_c_ends_the_work_at_once_and_in_silence(tmp_path: Path, whom: str) -> None:
    """A terminal tells every process; `kill -INT` tells the first one only. One of the others is idle by then."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED.format(folder=str(tmp_path)))
    root = str(Path(__file__).parents[2])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": root}, start_new_session=True, **pipes
    )
    try:
        while not ((tmp_path / "long.begun").exists() and (tmp_path / "short.done").exists()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        worker = int((tmp_path / "long.begun").read_text())
        os.killpg(process.pid, signal.SIGINT) if whom == "all" else process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in err, err[-4000:]
    assert out == "stopped\n" and process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "long.begun", "short.done"}


def take(megabytes: int, tell: Tell) -> float:
    block = bytearray(megabytes * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    return peak_memory().resident_bytes / 2**20


def test_a_tasks_most_memory_is_its_own() -> None:
    """What a task before it took in the same slot does not count."""
    tasks = [Task("large", take, (600,)), Task("small", take, (1,), needs=("large",))]
    most = run_tasks(tasks, 1, nobody)
    assert most["large"] > most["small"] + 400
