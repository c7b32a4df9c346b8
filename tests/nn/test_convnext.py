"""ConvNeXt blocks against the reference vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from heatv2x.interop.heal.names import CONVNEXT, below, renamed
from heatv2x.nn.convnext import convnext_aligner


def test_the_aligner_of_the_reference(golden: Path) -> None:
    with np.load(golden / "p_convnext_aligner.npz") as vectors:
        weights = {k.removeprefix("sd."): torch.from_numpy(vectors[k]) for k in vectors if k.startswith("sd.")}
        x, y = torch.from_numpy(vectors["x"]), torch.from_numpy(vectors["y"])
    state, unknown = renamed(weights, below(r"channel_align\.model\.(\d+)\.", r"\1.", CONVNEXT))
    aligner = convnext_aligner(8, 2)
    aligner.load_state_dict(state)
    assert not unknown
    torch.testing.assert_close(aligner(x), y, rtol=1e-4, atol=1e-5)


def test_starts_close_to_the_identity() -> None:
    x = torch.randn(2, 16, 6, 6)
    torch.testing.assert_close(convnext_aligner(16, 3)(x), x, rtol=0, atol=1e-4)
    assert torch.equal(convnext_aligner(16, 0)(x), x)
