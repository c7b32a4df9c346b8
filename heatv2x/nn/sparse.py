"""Sparse 3D convolution in plain torch: only occupied voxels are stored and computed, on CPU and CUDA, gradients too.

After SECOND (Yan et al. 2018): a submanifold convolution (Graham et al. 2018) keeps the occupied sites, a strided one
makes a site wherever its window holds one. Sites are sorted by a key, so a neighbour is found by bisection; which pairs
of sites meet in which tap of a kernel is worked out once per resolution and shared by all its layers.

Weights are (C_out, kz, ky, kx, C_in), spconv's layout.

Shapes: V sites, N maps, C channels, Z Y X grid (rows, columns, heights as in a dense map (N, C, Z, Y, X)).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from heatv2x.core import distributed
from heatv2x.errors import ConfigError

Triple = tuple[int, int, int]
Pairs = list[tuple[Tensor, Tensor]]  # for every tap of a kernel: indices of input and output sites that meet there


@dataclass
class Sites:
    """Where something is.

    Attributes:
        keys: (V,) int64 ((n Z + z) Y + y) X + x, ascending.
        shape: (Z, Y, X).
        maps: N.
    """

    keys: Tensor
    shape: Triple
    maps: int
    _pairs: dict[Triple, Pairs] = field(default_factory=dict, repr=False)

    def coordinates(self) -> Tensor:
        """(V, 4) int64 n, z, y, x."""
        depth, rows, columns = self.shape
        x = self.keys % columns
        y = self.keys // columns % rows
        z = self.keys // (columns * rows) % depth
        return torch.stack([self.keys // (columns * rows * depth), z, y, x], dim=1)

    def find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) index of each key, and whether it is there at all."""
        if len(self.keys) == 0:
            return torch.zeros_like(keys), torch.zeros_like(keys, dtype=torch.bool)
        index = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return index, self.keys[index] == keys

    def neighbours(self, kernel: Triple) -> Pairs:
        """Which sites meet in each tap of a kernel that is centred on every site."""
        if kernel not in self._pairs:
            at = self.coordinates()
            centre = at.new_tensor([side // 2 for side in kernel])
            self._pairs[kernel] = [self._meeting(at, at.new_tensor(tap) - centre) for tap in taps(kernel)]
        return self._pairs[kernel]

    def _meeting(self, at: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        there = at[:, 1:] + offset
        inside = ((there >= 0) & (there < there.new_tensor(self.shape))).all(dim=1)
        target = torch.nonzero(inside)[:, 0]
        index, found = self.find(keys_of(at[target, 0], there[target], self.shape))
        return index[found], target[found]

    def strided(self, kernel: Triple, stride: Triple, padding: Triple) -> tuple[Sites, Pairs]:
        """The sites of a strided convolution's result, and which sites meet in each tap."""
        at = self.coordinates()
        sizes = zip(self.shape, kernel, stride, padding, strict=True)
        depth, rows, columns = ((size + 2 * pad - side) // step + 1 for size, side, step, pad in sizes)
        shape = (depth, rows, columns)
        step = at.new_tensor(stride)
        sources, keys = [], []
        for tap in taps(kernel):
            position = at[:, 1:] + at.new_tensor(padding) - at.new_tensor(tap)
            there = torch.div(position, step, rounding_mode="floor")
            fits = ((position % step == 0) & (there >= 0) & (there < there.new_tensor(shape))).all(dim=1)
            source = torch.nonzero(fits)[:, 0]
            sources.append(source)
            keys.append(keys_of(at[source, 0], there[source], shape))
        result = Sites(torch.unique(torch.cat(keys)), shape, self.maps)
        return result, [(source, result.find(key)[0]) for source, key in zip(sources, keys, strict=True)]


@dataclass
class SparseMap:
    """Features at sites.

    Attributes:
        features: (V, C).
        sites: where they are.
    """

    features: Tensor
    sites: Sites

    def dense(self) -> Tensor:
        """(N, C, Z, Y, X), zero where there is no site."""
        depth, rows, columns = self.sites.shape
        cells = self.features.new_zeros(self.sites.maps * depth * rows * columns, self.features.shape[1])
        cells = cells.index_copy(0, self.sites.keys, self.features)
        return cells.view(self.sites.maps, depth, rows, columns, -1).permute(0, 4, 1, 2, 3)


class SparseConvolution(nn.Module):
    """A convolution without bias over sites.

    Args:
        channels_in, channels_out: C of input and output.
        kernel: kz, ky, kx.
        stride, padding: None for a submanifold convolution, which keeps the sites.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Triple = (3, 3, 3),
        stride: Triple | None = None,
        padding: Triple = (0, 0, 0),
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.padding = padding
        self.weight = nn.Parameter(torch.empty(channels_out, *kernel, channels_in))
        # He et al. 2015, for the taps that meet an occupied site on the surface of an object: about a third
        nn.init.normal_(self.weight, std=(2 / (channels_in * max(1, self.weight[0, ..., 0].numel() // 3))) ** 0.5)

    def forward(self, x: SparseMap) -> SparseMap:
        """Features (V, C_in) to (V', C_out) at the sites of the result."""
        if self.stride is None:
            sites, pairs = x.sites, x.sites.neighbours(self.kernel)
        else:
            sites, pairs = x.sites.strided(self.kernel, self.stride, self.padding)
        weights = self.weight.flatten(1, 3).unbind(dim=1)
        # summed in float32: adding at indices needs it under autocast
        total = x.features.new_zeros(len(sites.keys), len(self.weight)).float()
        for weight, (source, target) in zip(weights, pairs, strict=True):
            if len(source):
                total = total.index_add(0, target, (x.features[source] @ weight.T).float())
        return SparseMap(total, sites)


class SparseBlock(nn.Module):
    """Sparse convolution, batch normalisation, ReLU; arguments as `SparseConvolution`."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Triple = (3, 3, 3),
        stride: Triple | None = None,
        padding: Triple = (0, 0, 0),
    ) -> None:
        super().__init__()
        self.convolution = SparseConvolution(channels_in, channels_out, kernel, stride, padding)
        self.norm = nn.BatchNorm1d(channels_out, eps=1e-3, momentum=0.01)

    def forward(self, x: SparseMap) -> SparseMap:
        """Features (V, C_in) to (V', C_out), non-negative."""
        raw: SparseMap = self.convolution(x)
        rows = distributed.all_reduce_count(len(raw.features)) if self.training else len(raw.features)
        if rows == 0:  # nothing to take statistics from
            return raw
        # one site alone has no variance: it is normalised by the running statistics
        alone = self.training and rows == 1
        norm = self.norm
        normalised = (
            nn.functional.batch_norm(
                raw.features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
            if alone
            else norm(raw.features)
        )
        return SparseMap(torch.relu(normalised), raw.sites)


class SparseStages(nn.Module):
    """SECOND's middle network: stages of submanifold layers, strided ones between, then the height is halved once more.

    Args:
        features: channels of a voxel.
        widths: channels of the stages; the first keeps the resolution, each further one halves it.
    """

    def __init__(self, features: int, widths: Sequence[int]) -> None:
        super().__init__()
        stages = [nn.Sequential(SparseBlock(features, widths[0]), SparseBlock(widths[0], widths[0]))]
        for level, (before, width) in enumerate(itertools.pairwise(widths), start=1):
            # the last halving leaves no padding in height: so the published height of 41 ends at 2
            padding = (0, 1, 1) if level == len(widths) - 1 else (1, 1, 1)
            down = SparseBlock(before, width, stride=(2, 2, 2), padding=padding)
            stages.append(nn.Sequential(down, SparseBlock(width, width), SparseBlock(width, width)))
        self.stages = nn.ModuleList(stages)
        self.flatten = SparseBlock(widths[-1], widths[-1], (3, 1, 1), stride=(2, 1, 1))

    def heights(self, layers: int) -> int:
        """How many heights remain of a number of voxel layers.

        Raises:
            ConfigError: none is left.
        """
        left = layers
        for _ in self.stages[1:-1]:
            left = (left - 1) // 2 + 1
        left = ((left - 3) // 2 + 1 - 3) // 2 + 1
        if left < 1:
            raise ConfigError(
                f"{layers} layers of voxels are too few for {len(self.stages)} stages; set a smaller height_m"
            )
        return left

    def forward(self, x: SparseMap) -> Tensor:
        """(N, C Z', Y', X') image: the heights that are left become channels."""
        for stage in self.stages:
            x = stage(x)
        image: Tensor = self.flatten(x).dense().flatten(1, 2)
        return image


def taps(kernel: Triple) -> Iterator[Triple]:
    """Positions in a kernel, in the order of its weights."""
    depth, rows, columns = kernel
    yield from itertools.product(range(depth), range(rows), range(columns))


def keys_of(maps: Tensor, zyx: Tensor, shape: Triple) -> Tensor:
    """(V,) keys from (V,) map numbers and (V, 3) coordinates."""
    depth, rows, columns = shape
    return ((maps * depth + zyx[:, 0]) * rows + zyx[:, 1]) * columns + zyx[:, 2]
