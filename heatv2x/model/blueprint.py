"""Networks that a pack describes, drawn before they are built: torch's meta device knows shapes and takes no memory.

A pack comes from somebody else. Its settings may ask for networks of any size, so what they describe is drawn first,
within limits, and compared with the tensors that the pack really holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from heatv2x.errors import HeatError, PackError

MAX_TENSORS = 20_000
MAX_VALUES = 250_000_000
"""Of all networks that one pack describes, a gigabyte; the largest published ones have some 50 million."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def drawn(build: Callable[[], ModuleT], where: str) -> ModuleT:
    """What `build` returns, on the meta device: shapes, but no memory.

    Args:
        where: the pack, for messages.

    Raises:
        PackError: the settings describe networks that are larger than any that are in use, or none at all.
    """
    try:
        with _limited(where), torch.device("meta"):
            return build()
    except HeatError:
        raise
    except (RuntimeError, ValueError, TypeError, OverflowError, ZeroDivisionError, MemoryError) as error:
        reason = str(error).splitlines()[0][:200]
        raise PackError(f"{where}: its settings do not describe a network that can be built ({reason})") from error


@contextmanager
def _limited(where: str) -> Iterator[None]:
    tensors = values = 0

    def count(_module: nn.Module, _name: str, parameter: Any) -> None:
        nonlocal tensors, values
        tensors, values = tensors + 1, values + parameter.numel()
        if tensors > MAX_TENSORS or values > MAX_VALUES:
            raise PackError(
                f"{where}: its settings describe networks of more than {MAX_VALUES:,} values or {MAX_TENSORS:,} "
                "tensors, far more than any real model has: do not trust this pack"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def refuse_misfits(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that tensors have the names and shapes that a network needs.

    Raises:
        PackError: they have not; lists what differs.
    """
    wrong = [f"missing {name}" for name in sorted(set(wanted) - set(tensors))]
    wrong += [f"unknown {name}" for name in sorted(set(tensors) - set(wanted))]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, needed {tuple(wanted[name].shape)}"
        for name in sorted(set(tensors) & set(wanted))
        if tensors[name].shape != wanted[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise PackError(f"{where}: its tensors do not fit the network: {'; '.join(wrong[:5])}{more}")
