"""Published sizes: parameter counts of the papers, and one table for everybody's numbers."""

from __future__ import annotations

import pytest
from torch import nn

from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig
from heatv2x.model.heads.anchor import PUBLISHED
from heatv2x.model.published_types import ALIASES, TYPES, published_type

PARAMETERS = {
    "lidar64_pillars": 226_944,
    "camera_efficientnet": 15_012_372,
    "lidar32_voxels": 1_076_032,
    "camera_resnet": 1_911_792,
}
"""Published, encoder, trunk and aligner together."""


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def model() -> Collaboration:
    """HEAL with its four types; the size of the grid changes no parameter."""
    return Collaboration(
        ModelConfig(
            half_extent_m=51.2,
            cell_m=0.8,
            channels=64,
            backbone_blocks=0,
            neck="shrink",
            neck_channels=256,
            agents={name: about.part for name, about in TYPES.items()},
            fusion=PartConfig(part="pyramid"),
            head=PartConfig(part="anchor", settings=PUBLISHED),
        )
    )


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_agents_have_the_published_number_of_parameters(model: Collaboration, name: str, parameters: int) -> None:
    assert count(model.agent(name)) == parameters


def test_shared_parts_have_the_published_number_of_parameters(model: Collaboration) -> None:
    assert count(model.fusion) == 3_757_635 and count(model.neck) == 1_475_072
    assert [count(part) for part in (model.head.score, model.head.box, model.head.direction)] == [514, 3_598, 1_028]
    assert sum(count(part) for part in model.base_modules().values()) == 5_237_847
    assert count(model) == 23_464_987


def test_numbers_mean_what_their_project_means() -> None:
    assert published_type("m2", "heal").sensor == "four cameras" and published_type("m2", "stamp").label == "L_S^32"
    assert published_type("camera_resnet").label == "C_R^336"
    assert {name for numbers in ALIASES.values() for name in numbers.values()} <= set(TYPES)


@pytest.mark.parametrize(
    ("name", "project", "hint"),
    [
        ("m2", None, "ambiguous"),
        ("m9", "heal", "m1"),
        ("m2", "haal", "heal"),
        ("camera_resnett", None, "camera_resnet"),
    ],
)
def test_what_is_not_known_is_said(name: str, project: str | None, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        published_type(name, project)
