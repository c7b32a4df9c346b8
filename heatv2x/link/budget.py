"""Messages that fit a link: of a feature the most relevant cells are sent, as many as there is room for."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from heatv2x.link.message import Message, packed_size


def most_relevant(relevance: Tensor, cells: Tensor | None, count: int) -> Tensor | None:
    """(Y, X) bool, the cells with the greatest relevance, at most `count`; None for all.

    Args:
        relevance: (Y, X).
        cells: (Y, X) bool, those that may be sent; None for all.
        count: how many.
    """
    if count >= relevance.numel():
        return cells
    best = torch.zeros(relevance.numel(), dtype=torch.bool, device=relevance.device)
    best[relevance.flatten().topk(count).indices] = True
    chosen = best.view_as(relevance)
    return chosen if cells is None else chosen & cells


def within(message: Message, relevance: Tensor, budget_bytes: int) -> Message:
    """The message with fewer cells, so that it packs into a number of bytes.

    Boxes go first, for they say most in few bytes; of them, too, only the best are sent if not all fit.

    Args:
        message: with a feature.
        relevance: (Y, X) of its cells; those it does not send anyway do not count.
        budget_bytes: the most that it may take.
    """
    if message.cells is not None:
        relevance = relevance.masked_fill(~message.cells, -torch.inf)
    sendable = int((relevance > -torch.inf).sum())
    order = relevance.flatten().argsort(descending=True, stable=True)

    def with_cells(count: int) -> Message:
        cells = torch.zeros_like(order, dtype=torch.bool)
        cells[order[:count]] = True
        return replace(message, cells=cells.view_as(relevance))

    def fits(some: Message) -> bool:
        return packed_size(some) <= budget_bytes

    if fits(message):
        return message
    while message.boxes is not None and len(message.boxes) and not fits(with_cells(0)):
        message = replace(message, boxes=message.boxes[: len(message.boxes) // 2])
    least, most = 0, sendable  # the first fits; whether the second does is not known
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(with_cells(middle)) else (least, middle - 1)
    return with_cells(least)
