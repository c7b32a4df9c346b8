"""A codebook shared by all agents of a base: a cell of a feature map becomes a few bytes.

Residual vector quantisation (Juang and Gray 1982; a codebook for shared features: CodeFilling, Hu et al. 2024, arXiv
2405.04966): of S tables with up to 255 vectors each, the first one's nearest vector stands for the cell, the second
one's for what is left of it, and so on. The tables are fitted once, by k-means on features of the finished base, and
frozen with it: nobody else needs to be retrained. Cells that probably hold an object are sampled more often, so that
the tables spend their vectors on them. The fit is ours.

A map of codes is an ordinary message of few channels: S whole numbers per cell, 1 to the number of entries, 0 where
the cell is not sent.

Shapes: N maps, C channels, S stages, E entries, Y X grid, R rows (cells).
"""

from __future__ import annotations

import pydantic
import torch
from torch import Tensor, nn

from heatv2x.core.config import Config
from heatv2x.errors import ConfigError
from heatv2x.link.codecs.base import straight_through

_ROUNDS = 15


class CodebookConfig(Config):
    """Attributes:
    stages: S, bytes per cell before compression.
    entries: E, vectors per table.
    """

    stages: int = pydantic.Field(4, gt=0, le=16)
    entries: int = pydantic.Field(255, gt=1, le=255)


class Codebook(nn.Module):
    """Features to codes and back.

    Attributes:
        tables: (S, E, C) float32 vectors.
    """

    tables: Tensor

    def __init__(self, config: CodebookConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("tables", torch.zeros(config.stages, config.entries, channels))

    def encode(self, features: Tensor, cells: Tensor | None = None) -> Tensor:
        """(N, S, Y, X) codes from (N, C, Y, X) features, as float32 whole numbers from 1 on.

        Args:
            cells: (N, Y, X) bool, which to encode, the others get 0; None encodes all.
        """
        batch, _, rows, columns = features.shape
        every = features.detach().float().permute(0, 2, 3, 1).flatten(0, 2)
        left = every if cells is None else every[cells.flatten()]
        found = []
        for table in self.tables:
            best = _nearest(left, table)
            left = left - table[best]
            found.append(best + 1)
        codes = torch.stack(found).float()
        if cells is not None:
            codes = codes.new_zeros(len(found), len(every)).masked_scatter(cells.flatten(), codes)
        return codes.view(-1, batch, rows, columns).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """(N, C, Y, X) features from (N, S, Y, X) codes; zero where nothing was sent."""
        sent = (codes > 0).all(dim=1, keepdim=True)
        index = (codes.long() - 1).clamp(0, self.config.entries - 1)
        vectors = torch.stack([table[stage] for table, stage in zip(self.tables, index.unbind(dim=1), strict=True)])
        return vectors.sum(dim=0).permute(0, 3, 1, 2) * sent

    def quantise(self, features: Tensor) -> Tensor:
        """(N, C, Y, X) as a receiver will see it; gradients pass straight through."""
        return straight_through(features, self.decode(self.encode(features)).to(features.dtype))

    @torch.no_grad()
    def fit(self, rows: Tensor, seed: int) -> None:
        """Fit the tables to (R, C) cells, one after the other.

        Raises:
            ConfigError: there are fewer cells than entries.
        """
        if len(rows) < self.config.entries:
            raise ConfigError(f"{len(rows)} cells are too few to fit a table of {self.config.entries} entries")
        generator = torch.Generator().manual_seed(seed)
        left = rows.float()
        for stage in range(self.config.stages):
            table = _k_means(left, self.config.entries, generator)
            left = left - table[_nearest(left, table)]
            self.tables[stage] = table.to(self.tables)


def _nearest(rows: Tensor, table: Tensor) -> Tensor:
    """(R,) index of the (E, C) entry that is nearest to each of (R, C) rows."""
    return torch.addmm((table * table).sum(dim=1), rows, table.T, alpha=-2).argmin(dim=1)


def _k_means(rows: Tensor, entries: int, generator: torch.Generator) -> Tensor:
    """(E, C) centres of (R, C) rows; one that loses all of its rows starts again at a random one."""
    centres = rows[torch.randperm(len(rows), generator=generator)[:entries]]
    for _ in range(_ROUNDS):
        nearest = _nearest(rows, centres)
        counts = torch.zeros(entries).index_add(0, nearest, torch.ones(len(rows)))
        sums = torch.zeros_like(centres).index_add(0, nearest, rows)
        again = rows[torch.randint(len(rows), (entries,), generator=generator)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], again)
    return centres
