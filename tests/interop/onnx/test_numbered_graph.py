"""The graph with types as numbers is the graph."""

from __future__ import annotations

import pytest
import torch

from heatv2x.core.plugins import PartConfig
from heatv2x.interop.onnx.ego import GraphFusion, fusion_of
from heatv2x.model.config import AdapterConfig
from tests.scene_factory import CAMERA, joined, small_model


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("settings", [{}, {"attention": False}, {"gate": False}])
def test_numbers_say_what_names_say(settings: dict[str, bool], number: int) -> None:
    fusion = PartConfig(part="hetero_graph", settings=settings)
    model = joined(small_model(fusion, shake=0.3), "camera", AdapterConfig(agent=CAMERA), shake=0.3)
    stage = fusion_of(model)
    assert isinstance(stage, GraphFusion) and stage.graph.names == ["lidar64", "camera"]
    example = stage.example(number, torch.Generator().manual_seed(1))
    with torch.no_grad():
        (found,), (expected,) = stage(*example.inputs), example.expected()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        others = [*example.inputs[:-1], 1 - example.inputs[-1]]
        assert not torch.allclose(stage(*others)[0], expected, atol=1e-4)  # the types do matter
