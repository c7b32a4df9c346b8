"""Several processes that do one piece of work together: who they are, how they share it, what they add up.

`torchrun` starts them; without it there is one process, and everything here gives back what it was given, bit for bit.
One rule makes training with several of them equal to training with one: a batch is drawn once, every process works on
its share, whatever is divided by a number of objects, cells or rows is divided by that of the whole batch
(`all_reduce_detached`), and gradients are added, never averaged. torch's DistributedDataParallel averages, and its own
collectives meet in another order where processes hold agents of other types; `all_reduce_gradients` is all that is
needed of it.

Collectives must be called by every process, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from heatv2x.errors import ConfigError, HeatError

_counts: ContextVar[bool] = ContextVar("counts", default=True)
_stores: list[Any] = []  # one of every meeting, the last one counts


class LostProcessError(HeatError):
    """Another process of this run has ended early."""


def world_size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; process 0 writes files and messages."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def own_share(length: int) -> slice:
    """This process's share of `length` things: the shares are consecutive and differ in size by one at most."""
    here, all_ = rank(), world_size()
    return slice(here * length // all_, (here + 1) * length // all_)


# --- meeting and parting --------------------------------------------------------------------------------------------


def join_processes() -> None:
    """Join the other processes, if torchrun started several. CPU tensors travel by gloo, CUDA tensors by NCCL."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        return
    store, own_rank, world = next(rendezvous("env://"))
    # what was left in torchrun's store before a restart, or at an earlier meeting, does not concern this one
    meeting = f"heatv2x/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{len(_stores)}"
    store = distributed.PrefixStore(meeting, store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=own_rank, world_size=world)
    _stores.append(store)


def leave_processes() -> None:
    """Leave the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def is_joined() -> bool:
    """Whether `join_processes` has joined other processes."""
    return distributed.is_initialized() and bool(_stores)


def first_to_fail() -> bool:
    """Whether this process is the first to fail: one failure ends all, and only its cause is worth a message."""
    try:
        return bool(_stores[-1].add("failed", 1) == 1)
    except RuntimeError:  # whoever kept the store is gone, and told nothing
        return True


# --- sums -----------------------------------------------------------------------------------------------------------


def all_reduce_detached(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without a gradient."""
    if world_size() == 1:
        return value
    value = value.detach().clone() if _counts.get() else torch.zeros_like(value)
    return _all_reduced(value)


def all_reduce_count(value: int) -> int:
    """The sum of a number over all processes."""
    return value if world_size() == 1 else int(all_reduce_detached(torch.tensor(value)))


def all_reduce_max(value: float) -> float:
    """The largest value that a process has."""
    if world_size() == 1:
        return value
    return float(_all_reduced(torch.tensor(value, dtype=torch.float64), distributed.ReduceOp.MAX))


def all_reduce_with_gradient(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; its gradient is that of the sum of all processes' losses."""
    if world_size() == 1:
        return value
    added: Tensor = _AllReduce.apply(value if _counts.get() else value * 0)  # type: ignore[no-untyped-call]
    return added


@contextmanager
def uncounted() -> Iterator[None]:
    """Inside, this process takes part in every sum but adds nothing, because only others have something to add."""
    token = _counts.set(False)
    try:
        yield
    finally:
        _counts.reset(token)


def all_reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Leave the sum of all processes' gradients in every parameter; None where no process has one."""
    if world_size() == 1:
        return
    has = all_reduce_detached(torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32))
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    pieces = torch.split(_all_reduced(flat), [parameter.numel() for parameter in parameters])
    for parameter, piece, processes in zip(parameters, pieces, has.tolist(), strict=True):
        parameter.grad = piece.view_as(parameter) if processes else None


def broadcast_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of process 0."""
    if world_size() == 1:
        return
    for tensor in tensors:
        with _others_there():
            distributed.broadcast(tensor.detach(), 0)


def all_reduce_rows(rows: Tensor) -> Tensor:
    """One tensor from those of all processes, each of which holds its own rows and zeros elsewhere; bit for bit."""
    return rows if world_size() == 1 else _all_reduced(rows.contiguous().view(torch.uint8)).view(rows.dtype)


def all_gather_objects(content: Any) -> list[Any]:
    """What every process has, in their order; pickled, between processes of one run only."""
    if world_size() == 1:
        return [content]
    found: list[Any] = [None] * world_size()
    with _others_there():
        distributed.all_gather_object(found, content)
    return found


def agree(here: bool, otherwise: str) -> bool:
    """The answer of all processes, which must be the same.

    Raises:
        ConfigError: it is not; its message is `otherwise`.
    """
    yes = all_reduce_count(int(here))
    if 0 < yes < world_size():
        raise ConfigError(otherwise)
    return yes > 0


class _AllReduce(torch.autograd.Function):
    """Sum over processes, forward and backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _all_reduced(value.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _all_reduced(gradient.detach().clone())


def _all_reduced(tensor: Tensor, operation: Any = distributed.ReduceOp.SUM) -> Tensor:
    with _others_there():
        distributed.all_reduce(tensor, operation)
    return tensor


@contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of this run ended early; run the same command again to continue from the last "
            f"checkpoint, if there is one ({str(error).splitlines()[0]})"
        ) from error
