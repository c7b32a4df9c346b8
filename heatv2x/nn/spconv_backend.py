"""`nn.sparse` run by spconv (the `cuda` extra): the same weights and the same result, faster on a GPU.

spconv's CPU build computes forward passes only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from heatv2x.errors import ConfigError
from heatv2x.nn.sparse import SparseBlock, SparseMap, SparseStages


def flat_image(stages: SparseStages, x: SparseMap) -> Tensor:
    """(N, C Z', Y', X') image, as `SparseStages.forward` gives it.

    Raises:
        ConfigError: spconv is not installed, or cannot train on this device.
    """
    if len(x.features) == 0:  # spconv does not take an empty tensor
        return stages(x)  # type: ignore[no-any-return]
    spconv = _spconv()
    if torch.is_grad_enabled() and not x.features.is_cuda:
        raise ConfigError("backend=spconv trains on CUDA only; set backend=torch")
    indices = x.sites.coordinates().int()
    tensor = spconv.SparseConvTensor(x.features, indices, list(x.sites.shape), x.sites.maps)
    for level, stage in enumerate(stages.stages):
        assert isinstance(stage, torch.nn.Sequential)
        for block in stage:
            assert isinstance(block, SparseBlock)
            name = f"at{level}" if block.convolution.stride is None else f"to{level}"
            tensor = _block(spconv, block, tensor, name)
    tensor = _block(spconv, stages.flatten, tensor, "flatten")
    image: Tensor = tensor.dense().flatten(1, 2)
    return image


def _block(spconv: Any, block: SparseBlock, tensor: Any, name: str) -> Any:
    """Convolution, normalisation, ReLU; layers with one name share their pairs of sites."""
    ours = block.convolution
    channels_out, channels_in = ours.weight.shape[0], ours.weight.shape[-1]
    with torch.device("meta"):  # no weights are drawn: ours take their place
        if ours.stride is None:
            layer = spconv.SubMConv3d(channels_in, channels_out, list(ours.kernel), bias=False, indice_key=name)
        else:
            layer = spconv.SparseConv3d(
                channels_in,
                channels_out,
                list(ours.kernel),
                list(ours.stride),
                list(ours.padding),
                bias=False,
                indice_key=name,
            )
    layer.weight = ours.weight
    result = layer.train(block.training)(tensor)
    return result.replace_feature(torch.relu(block.norm(result.features)))


def _spconv() -> Any:
    try:
        import spconv.pytorch as spconv  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "backend=spconv needs spconv: install it with pip install 'heatv2x[cuda]', or set backend=torch"
        ) from error
    return spconv
