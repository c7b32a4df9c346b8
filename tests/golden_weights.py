"""The weights that the reference networks had: drawn by name, so that they need not be stored.

Every tensor comes from numpy's frozen legacy generator, seeded by the CRC-32 of its name in the reference's state dict.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
SEED = 20240


def reference_weights(file: str, prefix: str = "") -> dict[str, Tensor]:
    """All tensors named in a file of shapes, under the names they have there.

    Args:
        file: a file in tests/golden that holds {name: [shape, dtype]}.
        prefix: what stood before these names when the weights were drawn.
    """
    shapes = json.loads((GOLDEN / file).read_text())
    return {name: torch.from_numpy(_drawn(prefix + name, tuple(about[0]))) for name, about in shapes.items()}


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ SEED) & 0xFFFFFFFF)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith(("running_mean", "bias")):
        return np.asarray(0.1 * random.standard_normal(shape), np.float32)
    if name.endswith("running_var") or len(shape) == 1:
        return np.asarray(random.uniform(0.5, 1.5, shape), np.float32)
    return np.asarray(random.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)
