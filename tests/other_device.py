"""A second device for machines without one: it computes on the CPU, and refuses what CUDA would refuse.

Tensors on it report the device "meta" but hold real values, so results can be compared. An operation on tensors of both
devices is an error, with CUDA's exceptions: copies, single values in element-wise arithmetic, and CPU indices. So is a
way to numpy without `.cpu()`. What it cannot find is a kernel that CUDA lacks or that computes something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

AWAY = torch.device("meta")
_COPIES = {"_to_copy", "copy_", "_copy_from"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_NO_SINGLE_VALUES = {"cat", "stack", "mm", "bmm", "addmm", "convolution", "gather", "index_select"}


class MixedDevicesError(RuntimeError):
    """An operation on tensors of two devices."""


class Away(Tensor):
    """A tensor that is not on the CPU, as far as anybody can tell."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Away:
        about = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        tensor = Tensor._make_wrapper_subclass(cls, inner.size(), device=AWAY, **about)  # type: ignore[attr-defined]
        tensor.inner = inner
        return tensor  # type: ignore[no-any-return]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Away({self.inner!r})"

    def numpy(self, **_: Any) -> Any:
        """Refused, as by CUDA."""
        raise TypeError("can't convert a tensor of another device to numpy: call .cpu() first")

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """In here tensors can be made on, and brought to, the other device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def other_device() -> Iterator[torch.device]:
    """The device, while it can be used."""

    def tensor(data: Any, *, dtype: Any = None, device: Any = None, **more: Any) -> Tensor:
        made = make(data, dtype=dtype, **more)
        return made if device is None else made.to(device)

    def new_tensor(self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, **more: Any) -> Tensor:
        return tensor(data, dtype=dtype or self.dtype, device=device or self.device, **more)

    make = torch.tensor  # for "meta" torch leaves the values out
    with pytest.MonkeyPatch.context() as patch, OtherDevice():
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(Tensor, "new_tensor", new_tensor)
        yield AWAY


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.rpartition("::")[2]
    wanted = kwargs.get("device")
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
    away = [value for value in tensors if isinstance(value, Away)]
    if away and name not in _COPIES:
        checked = [args[0], *args[2:]] if name in _INDEXED else [args, kwargs]
        for value in tree_iter(checked):
            here = isinstance(value, Tensor) and not isinstance(value, Away)
            if here and (value.dim() > 0 or name in _NO_SINGLE_VALUES):
                shapes = ", ".join(f"{'away' if isinstance(t, Away) else 'cpu'} {tuple(t.shape)}" for t in tensors)
                raise MixedDevicesError(f"{name} on tensors of two devices: {shapes}")
    if name in _INDEXED and not isinstance(args[0], Away) and away:
        raise MixedDevicesError(f"{name}: a CPU tensor cannot be indexed by, or take, what is on another device")
    wrappers = {id(value.inner): value for value in away}
    if wanted is not None and torch.device(wanted) == AWAY:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*_inner(args), **_inner(kwargs))
    if name == "copy_":
        return args[0]
    stays_here = torch.device(wanted) != AWAY if wanted is not None else not away
    return result if stays_here else tree_map(lambda value: _wrapped(value, wrappers), result)


def _inner(values: Any) -> Any:
    return tree_map(lambda value: value.inner if isinstance(value, Away) else value, values)


def _wrapped(value: Any, known: dict[int, Away]) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, Away):
        return value
    return known[id(value)] if id(value) in known else Away(value)
