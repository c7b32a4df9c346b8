"""Run tasks in several single-threaded processes; a task may wait for others to finish."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import Empty
from typing import Any, Protocol

import torch

from heatv2x.core.host import keep_freed_memory
from heatv2x.errors import HeatError


class Tell(Protocol):
    """A progress callback: the current work, how much of it is done, and the total."""

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Receive progress."""
        ...


@dataclass(frozen=True)
class Task:
    """Something to do in a separate process.

    Attributes:
        name: of this task.
        work: a function of a module, called with `arguments` and a `Tell`.
        arguments: what it is called with; must be picklable by the standard library, between processes of ours only.
        needs: names of tasks that must finish first.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    needs: tuple[str, ...] = ()


def run_tasks(
    tasks: Sequence[Task], processes: int, tell: Tell, done: Callable[[str, Any], None] | None = None
) -> dict[str, Any]:
    """Run tasks, as many at a time as there are processes, and pass their progress on; the first failure ends them all.

    Ctrl-C ends them, too, and this function then returns at once: no process works on, and none complains. Every task
    has a process of its own, so that the most memory it took is its own, not that of a task before it.

    Args:
        tasks: in the order in which they start when nothing else decides.
        done: called with every task's name and result as soon as it has one.

    Returns:
        Results by name, in the order of `tasks`.

    Raises:
        HeatError: a process was killed from outside.
    """
    waiting = {task.name: task for task in tasks}
    results: dict[str, Any] = {}
    if not tasks:
        return results
    context = _Context()
    with context.Manager() as manager:
        queue = manager.Queue()
        running: dict[str, tuple[ProcessPoolExecutor, Future[Any]]] = {}
        try:
            while waiting or running:
                for task in list(waiting.values()):
                    blocked = any(need in waiting or need in running for need in task.needs)
                    if len(running) < processes and not blocked:
                        own = ProcessPoolExecutor(1, context, _prepare)
                        running[task.name] = own, own.submit(_work, task.work, task.arguments, queue)
                        del waiting[task.name]
                if not running:
                    raise ValueError(f"tasks wait for each other: {', '.join(waiting)}")
                with contextlib.suppress(Empty):
                    tell(*queue.get(timeout=0.2))
                for name in [name for name, (_, future) in running.items() if future.done()]:
                    own, future = running.pop(name)
                    results[name] = _result(name, future)
                    own.shutdown(wait=False)
                    if done is not None:
                        done(name, results[name])
        except BaseException:  # do not wait for work that no longer counts
            for pool, _ in running.values():
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                pool.shutdown(wait=False, cancel_futures=True)
            raise
        while not queue.empty():
            tell(*queue.get())
    return {task.name: results[task.name] for task in tasks}


class _Process(SpawnProcess):
    """A process that exits silently if its pool is abandoned while it waits for work."""

    def run(self) -> None:
        """Run tasks until none are left; an error inside a task is that task's result."""
        try:
            super().run()
        except EOFError:  # what a pool that breaks sends to those that wait
            sys.exit(1)


class _Context(SpawnContext):
    Process = _Process


def _result(name: str, future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise HeatError(
            f"{name}: a process was killed, most likely because memory ran out. Finished work is kept: run the "
            "same command again to continue, with processes=1 to use less memory"
        ) from error


def _prepare() -> None:
    """Use one thread, and leave Ctrl-C to the parent process, which then ends this one in an orderly way.

    Leaving by an exception removes the temporary file of anything half-written.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    keep_freed_memory()


def _work(work: Callable[..., Any], arguments: tuple[Any, ...], queue: Any) -> Any:
    return work(*arguments, lambda what, done, total: queue.put((what, done, total)))
