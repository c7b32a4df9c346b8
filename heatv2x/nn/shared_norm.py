"""Batch normalisation over the rows of all processes, so that several of them compute what one would.

As torch.nn.SyncBatchNorm, which runs on GPUs alone; this runs everywhere.

Shapes: N rows, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from heatv2x.core import distributed


class SharedBatchNorm(nn.BatchNorm2d):
    """A batch normalisation whose statistics, in training, are those of all processes' rows.

    Args:
        norm: the one it takes the place of; parameters and statistics are the same tensors.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats, self.training = norm.affine, norm.track_running_stats, norm.training
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) normalised."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps
            )
        rows = x.float()
        over = [axis for axis in range(x.dim()) if axis != 1]
        own = torch.tensor(x.numel() // x.shape[1], dtype=torch.float64, device=x.device)
        count = distributed.all_reduce_detached(own)
        if count < 2:
            raise ValueError(f"expected more than one value per channel in training, got {tuple(x.shape)}")
        shape = (1, -1, *([1] * (x.dim() - 2)))
        mean = distributed.all_reduce_with_gradient(rows.sum(dim=over)) / count
        centred = rows - mean.view(shape)
        variance = distributed.all_reduce_with_gradient(centred.square().sum(dim=over)) / count
        self._track(mean.detach(), (variance * (count / (count - 1))).detach())
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            return (centred * (scale * self.weight).view(shape) + self.bias.view(shape)).to(x.dtype)
        return (centred * scale.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


@contextmanager
def shared_norms(model: nn.Module) -> Iterator[None]:
    """A context in which a model's batch normalisations span all processes; with one process nothing changes."""
    if distributed.world_size() == 1:
        yield
        return
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    for parent, name, child in places:
        setattr(parent, name, SharedBatchNorm(child))
    try:
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)
