"""Blocks that are computed again in the backward pass, instead of keeping what is inside them: memory for time.

`torch.utils.checkpoint` does it. What it does not know: batch normalisations of a block must not count the same batch
twice. With that, weights and statistics are those of a training that keeps everything, bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Block(nn.Module, ABC):
    """A block of a network that can be computed again.

    Attributes:
        recompute: do so in training; set by `recomputing`.
    """

    recompute = False

    @abstractmethod
    def compute(self, x: Tensor) -> Tensor:
        """What the block does."""

    def forward(self, x: Tensor) -> Tensor:
        """What `compute` gives."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return self.compute(x)
        again: Any = checkpoint(self.compute, x, use_reentrant=False, context_fn=partial(_contexts, self))
        found: Tensor = again
        return found


@contextmanager
def recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """A context in which all blocks of a model are computed again, if wanted."""
    blocks = [module for module in model.modules() if isinstance(module, Block)] if wanted else []
    for block in blocks:
        block.recompute = True
    try:
        yield
    finally:
        for block in blocks:
            block.recompute = False


def _contexts(block: Block) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first time, and of the second."""
    return nullcontext(), _uncounted(block)


@contextmanager
def _uncounted(block: nn.Module) -> Iterator[None]:
    """Let the batch count nothing in the statistics, which are used as before otherwise: what is kept must be alike."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
