"""Who hears whom in a batch, and how received maps come into an ego's frame and window.

Shapes: A agents of a batch in one flat list, B egos, K message slots per ego, C channels, Y X shared grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from heatv2x.fusion.base import Edges, Received
from heatv2x.geometry.grid import BevGrid, at_origin
from heatv2x.geometry.handedness import transforms_on
from heatv2x.link.message import Message
from heatv2x.nn.move import ON_HOST


@dataclass
class Links:
    """Who hears whom in a batch.

    Attributes:
        ego: (B,) int64 index of each ego in the flat list of agents; stays on the CPU.
        senders: (B, K) int64 indices, -1 in an empty slot; stays on the CPU.
        T_sender_ego: (B, K, 4, 4) float64, identity in an empty slot; maps ego coordinates to the sender's, as
            reported, in the grid's axes.
        sigma_m, sigma_rad, age_s: (B, K) float32.
        windows: (B,) grids to compute on: the shared grid, or windows of it of one common shape.
    """

    ego: Tensor = field(metadata=ON_HOST)
    senders: Tensor = field(metadata=ON_HOST)
    T_sender_ego: Tensor
    sigma_m: Tensor
    sigma_rad: Tensor
    age_s: Tensor
    windows: list[BevGrid] = field(default_factory=list)


def links_of(ego: Message, messages: Sequence[Message], grid: BevGrid) -> Links:
    """The links of one ego with the given messages; the ego is agent 0 of the flat list, the messages follow."""
    T = np.stack([ego.pose.relative_to(m.pose) for m in messages]) if messages else np.zeros((0, 4, 4))
    ages = [(ego.captured_us - m.captured_us) / 1e6 for m in messages]
    return Links(
        torch.zeros(1, dtype=torch.long),
        torch.arange(1, len(messages) + 1)[None],
        transforms_on(grid, torch.from_numpy(T)[None]),
        torch.tensor([[m.sigma_m for m in messages]]),
        torch.tensor([[m.sigma_rad for m in messages]]),
        torch.tensor([ages]),
    )


def nothing_received(ego: Tensor, links: Links, ego_types: list[str]) -> Received:
    """The received part of an ego that got no messages: every slot empty."""
    batch, _, rows, columns = ego.shape
    edges = Edges(links.T_sender_ego, links.sigma_m, links.sigma_rad, links.age_s)
    visible = torch.zeros(batch, 0, rows, columns, dtype=torch.bool, device=ego.device)
    return Received(ego[:, None][:, :0], visible, edges, ego_types, [[] for _ in ego_types])


def pull_to_windows(T_sender_ego: Tensor, windows: Sequence[BevGrid]) -> tuple[BevGrid, Tensor]:
    """One grid for windows of a common shape, and matrices that pull from the senders' frames to each window's corner.

    Args:
        T_sender_ego: (B, K, 4, 4) float64.
        windows: B grids in the ego's frame.

    Returns:
        A grid that starts at the origin, and (B * K, 4, 4) float64 T_sender_window.
    """
    target = at_origin(windows[0])
    T_ego_window = torch.eye(4, dtype=torch.float64).repeat(len(windows), 1, 1, 1)
    T_ego_window[:, 0, :2, 3] = torch.tensor([[w.x_min, w.y_min] for w in windows], dtype=torch.float64)
    return target, (T_sender_ego @ T_ego_window.to(T_sender_ego.device)).flatten(0, 1)


def rows_of(tensor: Tensor, indices: Tensor) -> Tensor:
    """Rows of a tensor by (N,) indices; a view where they follow one another, as an ego's senders do on a road."""
    count = len(indices)
    first = int(indices[0]) if count else 0
    if not torch.equal(indices, torch.arange(first, first + count, device=indices.device)):
        return tensor[indices]
    return tensor[first : first + count]


def in_order(by_type: Mapping[str, Tensor], types: Sequence[str]) -> Tensor:
    """(A, ...) rows of several types put into the order of the flat list."""
    names = list(by_type)
    rows = torch.cat([by_type[name] for name in names])
    position = [index for name in names for index, t in enumerate(types) if t == name]
    order = torch.empty(len(types), dtype=torch.long)
    order[torch.tensor(position, dtype=torch.long)] = torch.arange(len(types))
    return rows[order.to(rows.device)]
