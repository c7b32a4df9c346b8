"""Reads the boxes that ride on messages: what the fused map says, corrected by what the senders saw themselves.

A warped feature map keeps its sender's axes and is interpolated; that costs localisation, hardly detection. A box can
be moved exactly. So senders add their own boxes to their messages (about a kilobyte), and behind neck and head the ego
lays them into the head's slots, in the head's own coding, as hypotheses beside what the head itself found there. A
small network scores every hypothesis k in a slot:

    terms = softmax(0, a_1, a_2, ...) . (head's, hypothesis 1's, hypothesis 2's, ...)
    logit = log(exp(head's + mean d_k) + sum_k exp(p_k)),   p_k = logit of the box's score, calibrated, + correction

It is attention over objects: every slot attends to the boxes that lie there, the head's own scoring 0. The ego's own
boxes, found without any message, are hypotheses, too. What a hypothesis is judged by: the neck's feature in the cell,
how it differs from the head's opinion, and what is known of its source: score, distance, how far the reported
deviations of the pose may have moved it, age, and whether other sources have a box there. Few numbers belong to each
type: how the scores of its boxes are to be read and how far it is trusted, as a sender and as the ego, and what its own
map counts against boxes. That is all a newcomer adds.

An ego that receives no box on its grid keeps what its head says, bit for bit. The design is ours; measurements:
docs/method.md.

Shapes: B egos, K message slots per ego, N boxes of all sources, P pairs of a slot and a box, U slots that are touched,
C channels of the neck, F terms of the head, Y X grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pydantic
import torch
from torch import Tensor, nn

from heatv2x.core.config import Config
from heatv2x.geometry.boxes import inverse_rigid, transform_boxes
from heatv2x.geometry.grid import BevGrid
from heatv2x.model.heads.base import Detections, Head
from heatv2x.model.links import Links
from heatv2x.nn.move import in_full_precision

_LEAST, _MOST = 1e-3, 1 - 1e-3  # scores whose logits are told apart
_BELIEVED, _MATCHED_M, _ENOUGH = 0.3, 2.0, 8.0  # boxes that tell whether a sender's pose is right
_NEAR_M, _FAR_M = 0.5, 2.0  # distances within which two boxes say the same, or nearly
_OWN_BODY_M = 2.0
_SCALE_M, _SPREAD_M, _SPREAD_LIMIT_M = 50.0, 0.1, 20.0
_FACTS, _GAIN = 13, 10.0
_IGNORED, _SILENT = -2.0, -4.0  # logits that copying and speaking start at


class ReaderConfig(Config):
    """How received boxes are read.

    Attributes:
        hidden: width of the network that judges them.
        min_score: boxes of at least this score are sent along.
    """

    hidden: int = pydantic.Field(64, gt=0)
    min_score: float = pydantic.Field(0.2, ge=0, le=1)


@dataclass
class Heard:
    """The boxes that several egos know of: their own, and those that they received.

    Attributes:
        boxes: (N, 7) on the grid that the maps cover, in the ego's axes.
        scores: (N,).
        scenes: (N,) int64 number of the ego.
        facts: (N, 13) what is known of each box and its source, see `hear`.
        types: (N,) type of the source.
        egos: (B,) types of the egos.
    """

    boxes: Tensor
    scores: Tensor
    scenes: Tensor
    facts: Tensor
    types: list[str]
    egos: list[str]


class TypeTrust(nn.Module):
    """How one type is believed: what it sends, what it detects alone as the ego, and what its fused map shows.

    Attributes:
        heard, own: (4,) of the boxes that it sends, and of those that are its own: scale and shift of the score's
            logit, trust, sensitivity to a wrong pose.
        ego: (3,) where it is the ego: added to what boxes, speaking up and muting count against the fused map.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard = nn.Parameter(torch.zeros(4))
        self.own = nn.Parameter(torch.zeros(4))
        self.ego = nn.Parameter(torch.zeros(3))

    def forward(self) -> Tensor:
        """(11,) all of them, larger than the parameters: a newcomer's few steps at a small rate shall move them."""
        return _GAIN * torch.cat([self.heard, self.own, self.ego])


class Reader(nn.Module):
    """Corrects a head's maps by boxes.

    Args:
        channels: C.
        terms: F of the head.
        types: names of the base's agent types.
    """

    def __init__(self, config: ReaderConfig, channels: int, terms: int, types: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.each = nn.Sequential(nn.Linear(channels + _FACTS + 2 * terms + 4, config.hidden), nn.ReLU())
        self.among = nn.Sequential(nn.Linear(2 * config.hidden, config.hidden), nn.ReLU())
        self.verdict = nn.Linear(config.hidden, 3)
        nn.init.zeros_(self.verdict.weight)
        with torch.no_grad():
            self.verdict.bias.copy_(torch.tensor([_IGNORED, _SILENT, 0.0]))
        self.types = nn.ModuleDict({name: TypeTrust() for name in types})

    def add_type(self, name: str, like: str) -> None:
        """Give a new type its own trust, starting as that of a known one."""
        self.types[name] = TypeTrust()
        self.types[name].load_state_dict(self.types[like].state_dict())

    def forward(
        self, trunk: Tensor, maps: dict[str, Tensor], heard: Heard, head: Head, grid: BevGrid
    ) -> dict[str, Tensor]:
        """The maps as corrected by boxes; the very same where no slot holds one.

        Args:
            trunk: (B, C, Y, X) output of the neck.
            maps: the head's, of that.
            heard: boxes.
            grid: of the maps.
        """
        slots = head.slots_of(heard.boxes, grid)
        slots[~_told_something(heard, slots)] = -1
        box, place = torch.nonzero(slots >= 0, as_tuple=True)
        if len(box) == 0:
            return maps
        slots = slots[box, place]
        scenes, device = heard.scenes[box], trunk.device
        drawn = head.terms_of(heard.boxes[box], slots, grid)
        cells = head.cells_of(slots, grid)
        per_scene = int(slots.max()) + 1
        touched, number = torch.unique(scenes * per_scene + slots, return_inverse=True)
        where = (touched // per_scene).to(device), (touched % per_scene).to(device)
        scenes, slots, cells, drawn, number = (x.to(device) for x in (scenes, slots, cells, drawn, number))
        facts, scores = heard.facts[box].to(device), heard.scores[box].to(device)
        with in_full_precision(device):
            logits, terms = head.read(maps, scenes, slots)
            trust, of_ego = self._trust(heard, box, device)
            said = scores.clamp(_LEAST, _MOST).logit()
            calibrated = said * (1 + trust[:, 0]) + trust[:, 1]
            about = [facts, drawn, (drawn - terms).clamp(-4, 4), logits[:, None] / 4, calibrated[:, None] / 4]
            about += [trust[:, 2:3], facts[:, 2:3] * trust[:, 3:4]]
            pair = self.each(torch.cat([trunk[scenes, :, cells[:, 0], cells[:, 1]].float(), *about], dim=1))
            best = _segment_max(pair, number, len(touched))
            verdict = self.verdict(self.among(torch.cat([pair, best[number]], dim=1))) + of_ego
            copy, speak, mute = verdict.unbind(dim=1)
            old_logits, old_terms = head.read(maps, *where)
            weights, own = _softmax_beside_zero(copy + trust[:, 2], number, len(touched))
            mixed = (old_terms * own[:, None]).index_add(0, number, drawn * weights[:, None])
            counts = torch.zeros_like(own).index_add(0, number, torch.ones_like(copy))
            muted = old_logits + torch.zeros_like(own).index_add(0, number, mute) / counts
            loudest = torch.maximum(muted, _segment_max((calibrated + speak)[:, None], number, len(touched))[:, 0])
            voices = torch.zeros_like(own).index_add(0, number, (calibrated + speak - loudest[number]).exp())
            heat = loudest + ((muted - loudest).exp() + voices).log()
            return head.rewritten(maps, *where, heat, mixed)

    def _trust(self, heard: Heard, box: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """(P, 4) how the source of each of the (P,) boxes is believed, and (P, 3) what its ego adds to the verdict."""
        sources = [heard.types[i] for i in box.tolist()]
        egos = [heard.egos[b] for b in heard.scenes[box].tolist()]
        known = sorted({*sources, *egos})
        values = torch.stack([self.types[name]() for name in known])
        source = values[torch.tensor([known.index(name) for name in sources], device=device)]
        own = heard.facts[box, 0].to(device)[:, None] > 0
        ego = values[torch.tensor([known.index(name) for name in egos], device=device)]
        return torch.where(own, source[:, 4:8], source[:, :4]), ego[:, 8:]


def hear(
    boxes: Sequence[Detections | None], types: Sequence[str], links: Links, grids: Sequence[BevGrid]
) -> Heard | None:
    """All boxes that egos know of, in the axes of their grids' corners, with what is known of each.

    An ego without received boxes is left out: it has only its own, which its map shows already. A received box within
    2 m of the ego is the ego itself.

    Args:
        boxes: of A agents, in their own frames; None where an agent sent none.
        types: (A,) of the agents.
        links: who hears whom.
        grids: B grids that the egos' maps cover.

    Returns:
        None if no ego received any. The facts of a box: 1 for the ego's own; 1, for a received one; the logarithm of
        how far the deviations of the pose may have moved it; the age of the message; its distance from its source, and
        from the ego; how near boxes of the ego, and of other senders, lie, by their scores within 0.5 and 2 m; over the
        sender's boxes that match one of the ego's, their number and mean displacement; and the score's logit.
    """
    found = [_scene(b, boxes, types, links) for b in range(len(links.ego))]
    kept = [(b, scene) for b, scene in enumerate(found) if scene is not None]
    if not kept:
        return None
    moved = []
    for b, (rows, *_) in kept:
        corner = rows.new_tensor([grids[b].x_min, grids[b].y_min, 0, 0, 0, 0, 0])
        moved.append(rows - corner)
    scenes = torch.cat([torch.full((len(scene[0]),), b) for b, scene in kept])
    names = [name for _, scene in kept for name in scene[3]]
    scores, facts = torch.cat([s[1] for _, s in kept]), torch.cat([s[2] for _, s in kept])
    return Heard(torch.cat(moved), scores, scenes, facts, names, [types[int(i)] for i in links.ego])


def _scene(
    b: int, boxes: Sequence[Detections | None], types: Sequence[str], links: Links
) -> tuple[Tensor, Tensor, Tensor, list[str]] | None:
    """Boxes, scores, facts and types of one ego, in its frame."""
    ego = int(links.ego[b])
    slots = [k for k, j in enumerate(links.senders[b].tolist()) if j >= 0]
    theirs = {k: boxes[int(links.senders[b, k])] for k in slots}
    if not any(each is not None and len(each.boxes) for each in theirs.values()):
        return None
    own = boxes[ego]
    T = inverse_rigid(links.T_sender_ego[b].cpu())
    rows, scores, names, source, reach, spread, age = [], [], [], [], [], [], []
    for k, each in [(-1, own), *theirs.items()]:
        if each is None or not len(each.boxes):
            continue
        far = torch.hypot(each.boxes[:, 0], each.boxes[:, 1]).float().cpu()
        here = each.boxes.cpu() if k < 0 else transform_boxes(each.boxes.cpu(), T[k])
        sigma_m, sigma_rad, seconds = (
            (0.0, 0.0, 0.0) if k < 0 else (float(x[b, k]) for x in (links.sigma_m, links.sigma_rad, links.age_s))
        )
        fine = torch.ones(len(here), dtype=torch.bool)
        if k >= 0:
            fine = torch.hypot(here[:, 0], here[:, 1]) > _OWN_BODY_M
        rows.append(here[fine].float())
        scores.append(each.scores.float().cpu()[fine])
        reach.append(far[fine])
        spread.append((sigma_m**2 + (sigma_rad * far[fine]) ** 2).sqrt())
        age.append(torch.full((int(fine.sum()),), seconds))
        source += [k] * int(fine.sum())
        names += [types[ego] if k < 0 else types[int(links.senders[b, k])]] * int(fine.sum())
    if not any(k >= 0 for k in source):
        return None
    every, score, who = torch.cat(rows), torch.cat(scores), torch.tensor(source)
    apart = torch.cdist(every[:, :2], every[:, :2])
    apart = apart.masked_fill(who[:, None] == who, torch.inf)
    mine = (who < 0)[None]
    facts = [(who < 0).float(), (who >= 0).float()]
    facts.append((torch.cat(spread).clamp(max=_SPREAD_LIMIT_M) / _SPREAD_M).log1p())
    facts += [torch.cat(age), torch.cat(reach) / _SCALE_M, every[:, :2].norm(dim=1) / _SCALE_M]
    for others in (mine, ~mine):
        for metres in (_NEAR_M, _FAR_M):
            close = score * (-((apart / metres) ** 2)).exp() * others
            facts.append(close.amax(dim=1))
    matches, shift = _displacement(every, score, who, apart)
    facts += [matches, shift, score.clamp(_LEAST, _MOST).logit() / 4]
    return every, score, torch.stack(facts, dim=1), names


def _told_something(heard: Heard, slots: Tensor) -> Tensor:
    """(N,) which boxes belong to an ego that received one on its grid: its own alone tell it nothing new."""
    received = (heard.facts[:, 1] > 0) & (slots >= 0).any(dim=1)
    return torch.isin(heard.scenes, heard.scenes[received])


def _displacement(boxes: Tensor, scores: Tensor, source: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """How many of a source's boxes match one of the ego's, and how far these lie from the ego's on average.

    Returns:
        (N,) matches, 1 for eight or more, and (N,) logarithm of the mean displacement; 0 for the ego's own boxes.
    """
    matches, shift = torch.zeros(len(boxes)), torch.zeros(len(boxes))
    believed = scores >= _BELIEVED
    own = torch.nonzero(believed & (source < 0))[:, 0]
    if not len(own):
        return matches, shift
    for k in sorted({k for k in source.tolist() if k >= 0}):
        theirs = torch.nonzero(believed & (source == k))[:, 0]
        nearest, index = apart[theirs][:, own].min(dim=1)
        pairs = nearest < _MATCHED_M
        count = int(pairs.sum())
        if count:
            mean = (boxes[theirs[pairs], :2] - boxes[own[index[pairs]], :2]).mean(dim=0).norm()
            matches[source == k] = min(count / _ENOUGH, 1.0)
            shift[source == k] = (mean / _SPREAD_M).log1p()
    return matches, shift


def _segment_max(values: Tensor, number: Tensor, count: int) -> Tensor:
    """(U, ...) greatest of the (P, ...) values with each number."""
    start = values.new_full((count, values.shape[1]), -torch.inf)
    return start.scatter_reduce(0, number[:, None].expand_as(values), values, "amax")


def _softmax_beside_zero(logits: Tensor, number: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(P,) weights of the logits among those with the same number and a 0, and (U,) the weight of the 0."""
    top = _segment_max(logits[:, None], number, count)[:, 0].clamp(min=0).detach()
    powers = (logits - top[number]).exp()
    total = (-top).exp().index_add(0, number, powers)
    return powers / total[number], (-top).exp() / total
