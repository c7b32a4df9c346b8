"""One small frame, and a model that two newcomers have joined."""

from __future__ import annotations

import pytest

from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig
from heatv2x.structures import Frame
from tests.model.comparing import SENSORS
from tests.scene_factory import (
    CAMERA,
    SmallScenes,
    joined,
    small_model,
)


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SmallScenes().read(0, SENSORS)


@pytest.fixture(scope="module")
def model() -> Collaboration:
    """A base, two newcomers that have learned something."""
    return joined(joined(small_model(), shake=0.1), "camera", AdapterConfig(agent=CAMERA), shake=0.1)
