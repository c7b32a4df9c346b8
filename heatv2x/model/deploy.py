"""A trained model rearranged for inference only: the same messages and boxes in less time.

    fast = optimised(model)          # or precision="float32", "bfloat16"
    fast.detect(ego_frame, messages)

What is rearranged, and what each step is worth: `docs/speed.md`. In short: normalisations are folded into the
convolutions before them, maps lie cell by cell in memory (channels last), convolutions compute in bfloat16 where the
processor does so natively, received maps are warped row by row, and the base's name is taken once.

How near the result is (tested): in float32 the largest difference in a map is 1e-4 of its largest value; in bfloat16
the root mean square of the difference is 3 % of that of the map. A camera's depth distribution and the networks before
it stay in float32 for this: rounded to 8 bits, they move features to other cells. A fusion that chooses what to send
may choose differently in bfloat16.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatv2x.agents.base import Agent
from heatv2x.core.host import keep_freed_memory
from heatv2x.fusion.base import Received
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.links import Links
from heatv2x.model.vehicle import Vehicle
from heatv2x.nn.move import precision_on
from heatv2x.nn.pillars import PillarEncoder, Pillars
from heatv2x.nn.row_grid import RowGrid
from heatv2x.structures import AgentFrame, Boxes3D

Precision = Literal["auto", "float32", "bfloat16"]


def optimised(model: Collaboration, precision: Precision = "auto") -> Deployed:
    """A copy of a model for inference only; the model itself is not touched.

    Args:
        model: trained, with all types that it is to know.
        precision: of the convolutions; "auto" takes bfloat16 where the device multiplies it natively. Point networks,
            messages and everything outside the networks stay in float32.

    On the CPU this also tells glibc to keep freed memory for the rest of the process (`heatv2x.core.host`), which
    an ego's frame gains a third from; HEATV2X_KEEP_MEMORY=0 in the environment leaves the allocator alone.
    """
    if model.device.type == "cpu":
        keep_freed_memory()
    return Deployed(model, precision)


class Deployed(Vehicle):
    """A vehicle with rearranged networks, which can no longer be trained, joined or packed.

    Its feature space is that of the model it was made from, so their messages are each other's.

    Attributes:
        networks: the rearranged copy; its tensors are folded and rounded.
        precision: "float32" or "bfloat16", of the convolutions.
    """

    def __init__(self, model: Collaboration, precision: Precision) -> None:
        self.networks = networks = copy.deepcopy(model).eval().requires_grad_(False)
        networks.__class__ = _Rearranged
        self.precision = precision_on(model.device, precision)
        self.exchange = model.exchange
        self.codebook = networks.codebook
        self._space = model.feature_space
        if networks.fusion.convolves:
            networks.grid = RowGrid(**dataclasses.asdict(model.grid))
        self.grid = networks.grid
        fold(networks)
        _fold_pillars(networks, torch.bfloat16 if self.precision == "bfloat16" else torch.float32)
        _lay_out(networks)
        if self.precision == "bfloat16":
            for module in (
                networks.agents,
                networks.senders,
                networks.receivers,
                networks.detectors,
                networks.backbone,
                networks.neck,
                networks.head,
            ):
                _narrow(module)
            networks.fusion.precision = torch.bfloat16
            if networks.fusion.convolves:
                _narrow(networks.fusion)

    @property
    def feature_space(self) -> bytes:
        return self._space

    @property
    def channels(self) -> int:
        return self.networks.channels

    @property
    def device(self) -> torch.device:
        return self.networks.device

    @property
    def budget_bytes(self) -> int | None:
        return self.networks.budget_bytes

    @property
    def codec(self) -> str:
        return self.networks.codec

    @property
    def sends_boxes_above(self) -> float | None:
        return self.networks.sends_boxes_above

    def known_types(self) -> list[str]:
        return self.networks.known_types()

    def encoded_types(self) -> list[str]:
        return self.networks.encoded_types()

    def agent(self, name: str) -> Agent:
        return self.networks.agent(name)

    def require(self, agent_types: Iterable[str], parts: Collection[str]) -> None:
        self.networks.require(agent_types, parts)

    def look(self, agent_type: str, frame: AgentFrame) -> Tensor:
        return self.networks.look(agent_type, frame)

    def look_and_detect(self, agent_type: str, frame: AgentFrame) -> tuple[Tensor, Boxes3D]:
        return self.networks.look_and_detect(agent_type, frame)

    def select(self, feature: Tensor) -> Tensor | None:
        return self.networks.select(feature)

    def relevance(self, feature: Tensor) -> Tensor:
        return self.networks.relevance(feature)

    def detect_alone(self, feature: Tensor, agent_type: str) -> Boxes3D:
        return self.networks.detect_alone(feature, agent_type)

    def detect_fused(
        self, features: Tensor, types: Sequence[str], links: Links, boxes: Sequence[Boxes3D | None] = ()
    ) -> Boxes3D:
        return self.networks.detect_fused(features, types, links, boxes)

    def voice(self, agent_type: str) -> str:
        return f"deployed {self.precision} {self.networks.voice(agent_type)}"


class _Rearranged(Collaboration):
    """A model whose convolutions take maps cell by cell and may return bfloat16."""

    def to_shared_space(self, agent_type: str, encoded: Tensor) -> Tensor:
        """(N, C, Y, X) shared features, in float32 as messages carry them."""
        return super().to_shared_space(agent_type, encoded).float()

    def receive(
        self, features: Tensor, messages: Tensor, types: Sequence[str], links: Links, partly: bool = False
    ) -> tuple[Tensor, Received]:
        """As in the model, cell by cell for a fusion that convolves."""
        if not self.fusion.convolves:
            return super().receive(features, messages, types, links, partly)
        own = features.contiguous(memory_format=torch.channels_last)
        sent = own if messages is features else messages.contiguous(memory_format=torch.channels_last)
        return super().receive(own, sent, types, links, partly)


def fold(network: nn.Module) -> None:
    """Multiply every batch normalisation that follows a convolution in a row of modules into the convolution, in place.

    The normalisation becomes the identity, so that what stands where stays the same.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            _fold_row(module)


def _fold_row(row: nn.Sequential) -> None:
    for index in range(1, len(row)):
        before, norm = row[index - 1], row[index]
        if isinstance(before, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
            transposed = isinstance(before, nn.ConvTranspose2d)
            row[index - 1] = nn.utils.fuse_conv_bn_eval(before, norm, transposed)
            row[index] = nn.Identity()


def _fold_pillars(network: nn.Module, precision: torch.dtype) -> None:
    for module in network.modules():
        if isinstance(module, PillarEncoder):
            module.linear = nn.utils.fuse_linear_bn_eval(module.linear, module.norm)
            module.__class__ = _FoldedPillarEncoder
            module.__dict__["precision"] = precision


def _lay_out(network: nn.Module) -> None:
    """Lay out convolution weights cell by cell, so that their maps come out that way, too."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _narrow(network: nn.Module) -> None:
    """Let the convolutions of a network compute in bfloat16, except in the parts that an agent names as `exact`.

    What a convolution in a row of modules gives stays bfloat16, for the next one to go on with; one that stands alone
    gives the precision that came in. Linear layers stay in float32, and so does what an agent wants exact.
    """
    agents = [module for module in network.modules() if isinstance(module, Agent)]
    exact = {part for agent in agents for name in agent.exact for part in agent.get_submodule(name).modules()}
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(_widened)
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_pre_hook(_widened_on_a_gpu)
    for parent in network.modules():
        for module in parent.children():
            if type(module) in _NARROW and module not in exact:
                # only the class changes: code that looks up its weights still finds them in the same place
                module.__class__ = _NARROW[type(module)]
                module.to(torch.bfloat16)
                module.__dict__["gives_back"] = not isinstance(parent, nn.Sequential)


class _NarrowConv2d(nn.Conv2d):
    """A convolution in bfloat16.

    Attributes:
        gives_back: the precision that came in, otherwise bfloat16.
    """

    gives_back: bool

    def forward(self, input: Tensor) -> Tensor:
        """(N, C', Y', X') from (N, C, Y, X)."""
        result = super().forward(input.to(torch.bfloat16))
        return result.to(input.dtype) if self.gives_back else result


class _NarrowConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution in bfloat16; see `_NarrowConv2d`."""

    gives_back: bool

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C', Y', X') from (N, C, Y, X)."""
        result = super().forward(input.to(torch.bfloat16), output_size)
        return result.to(input.dtype) if self.gives_back else result


class _FoldedPillarEncoder(PillarEncoder):
    """Pillars whose normalisation is in the linear layer, and whose ReLU comes after the maximum: both grow with it.

    Computed in float32: a point's coordinates have no room in the 8 bits of bfloat16.

    Attributes:
        precision: of the image.
    """

    precision: torch.dtype

    def of_pillars(self, pillars: Pillars) -> Tensor:
        """(V, C) one feature per pillar."""
        shift = self.linear.bias
        points = functional.linear(pillars.features, self.linear.weight)
        best = torch.segment_reduce(points, "max", lengths=pillars.counts, axis=0, unsafe=True)
        best = torch.relu_(best + shift)
        if self.slots:
            room = (pillars.counts < self.slots)[:, None]
            best = torch.where(room, torch.maximum(best, torch.relu(shift)), best)
        return best.to(self.precision)


_NARROW: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: _NarrowConv2d,
    nn.ConvTranspose2d: _NarrowConvTranspose2d,
}


def _widened_on_a_gpu(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
    """CUDA's normalisations, unlike the CPU's, reject an input whose precision differs from that of their weights."""
    return _widened(module, arguments) if arguments[0].is_cuda else arguments


def _widened(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
    return (arguments[0].float(),)
