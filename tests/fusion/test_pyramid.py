"""Pyramid fusion against the reference vectors, names of its tensors included."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from heatv2x.errors import ConfigError
from heatv2x.fusion.base import Edges, Placement, Received
from heatv2x.fusion.pyramid import Pyramid, weighted_mean
from heatv2x.geometry.grid import BevGrid
from heatv2x.interop.heal.names import PYRAMID, renamed

GOLDEN = Path(__file__).parents[1] / "golden"
GRID = BevGrid(-16.0, 16.0, -16.0, 16.0, 1.0)
TYPES = [["m1", "m2", "m1"], ["m2", "m1"]]  # of the two samples, the ego first


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as vectors:
        return {key: torch.from_numpy(vectors[key]) for key in vectors}


def pyramid(vectors: dict[str, Tensor], crop: dict[str, tuple[float, float]] | None = None) -> Pyramid:
    about = json.loads((GOLDEN / "h_pyramid_fusion.json").read_text())["cfg"]
    config = Pyramid.Config(
        blocks=tuple(about["layer_nums"]), enlarged=about["num_upsample_filter"][0], crop=crop or {}
    )
    fusion = Pyramid(config, about["inplanes"], ["m1", "m2"])
    weights = {name.removeprefix("sd."): value for name, value in vectors.items() if name.startswith("sd.")}
    state, unknown = renamed(weights, PYRAMID)
    assert not unknown
    fusion.load_state_dict(state)
    return fusion


def received_of(x: Tensor, affine: Tensor) -> tuple[Tensor, Received]:
    """Two egos and their senders; the second one has an empty slot. The grid is square: `affine` is metric."""
    T = torch.eye(4, dtype=torch.float64).repeat(2, 2, 1, 1)
    T[..., :2, :2], T[..., :2, 3] = affine[:, 0, 1:3, :, :2], affine[:, 0, 1:3, :, 2] * 16
    T[1, 1] = torch.eye(4)
    ego, senders = x[[0, 3]], torch.stack([x[1], x[2], x[4], torch.full_like(x[0], 7.0)]).view(2, 2, *x.shape[1:])
    nothing = torch.zeros(2, 2)
    visible = GRID.visible(T.flatten(0, 1)).view(2, 2, *GRID.shape)
    visible[1, 1] = False
    edges = Edges(torch.linalg.inv(T), nothing, nothing, nothing)
    names = [TYPES[0][1:], [*TYPES[1][1:], ""]]
    return ego, Received(senders, visible, edges, ["m1", "m2"], names, Placement(GRID, GRID, T))


@pytest.fixture(scope="module")
def vectors() -> dict[str, Tensor]:
    return load("h_pyramid_fusion")


def test_the_fused_pyramid(vectors: dict[str, Tensor]) -> None:
    fused = pyramid(vectors).eval()(*received_of(vectors["x"], vectors["affine"]))
    torch.testing.assert_close(fused, vectors["fused"], rtol=2e-5, atol=2e-5)


def test_cameras_count_in_the_middle_only(vectors: dict[str, Tensor]) -> None:
    fusion, scene = pyramid(vectors, {"m2": (2.0, 2.0)}).eval(), received_of(vectors["x"], vectors["affine"])
    torch.testing.assert_close(fusion(*scene), vectors["fused_camcrop"], rtol=2e-5, atol=2e-5)
    assert not torch.allclose(vectors["fused"], vectors["fused_camcrop"], atol=1e-3)
    whole = pyramid(vectors).train()
    assert torch.equal(fusion.train()(*scene), whole(*scene))


def test_an_agent_alone(vectors: dict[str, Tensor]) -> None:
    fusion = pyramid(vectors).eval()
    torch.testing.assert_close(fusion.alone(vectors["x"], ["m1"] * 5), vectors["single"], rtol=2e-5, atol=2e-5)


def test_foreground_of_every_level(vectors: dict[str, Tensor]) -> None:
    for level, logits in enumerate(pyramid(vectors).eval().occupancies(vectors["x"])):
        torch.testing.assert_close(logits, vectors[f"occ{level}"], rtol=2e-5, atol=2e-5)


def test_a_training_pass(vectors: dict[str, Tensor]) -> None:
    """Statistics of the batch are those of the agents that are there; gradients reach input, scores and stages."""
    fusion, x = pyramid(vectors).train(), vectors["x"].clone().requires_grad_()
    fused = fusion(*received_of(x, vectors["affine"]))
    torch.testing.assert_close(fused, vectors["train_fused"], rtol=1e-4, atol=1e-4)
    (fused * vectors["train_cotangent"]).sum().backward()
    for ours, theirs in (
        (x.grad, "train_grad_x"),
        (fusion.foreground[1].weight.grad, "train_grad_single_head_1_weight"),
        (fusion.stages[2][0].spatial[0].weight.grad, "train_grad_layer2_conv2"),
    ):
        assert isinstance(ours, Tensor)
        torch.testing.assert_close(ours, vectors[theirs], rtol=1e-3, atol=1e-4 * float(vectors[theirs].abs().max()))


class TestWeightedMean:
    def fuse(self, x: Tensor, score: Tensor, vectors: dict[str, Tensor]) -> Tensor:
        fused, first = [], 0
        for sample, count in enumerate(vectors["record_len"].tolist()):
            rows = slice(first, first + count)
            theta = vectors["affine"][sample, 0, :count]
            at = functional.affine_grid(theta, [count, 1, *x.shape[-2:]], align_corners=False).float()
            maps, scores = (functional.grid_sample(v[rows], at, align_corners=False) for v in (x, score))
            fused.append(weighted_mean(maps[None].unbind(1), scores[None]))
            first += count
        return torch.cat(fused)

    def test_values_and_gradients(self) -> None:
        vectors = load("h_weighted_fuse")
        x, score = vectors["x"].requires_grad_(), vectors["score"].requires_grad_()
        fused = self.fuse(x, score, vectors)
        torch.testing.assert_close(fused, vectors["fused"], rtol=2e-5, atol=2e-5)
        (fused * vectors["cotangent"]).sum().backward()
        assert x.grad is not None and score.grad is not None
        torch.testing.assert_close(x.grad, vectors["grad_x"], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(score.grad, vectors["grad_score"], rtol=1e-4, atol=2e-5)

    def test_where_nobody_sees_anything(self) -> None:
        vectors = load("h_weighted_fuse")
        x, score = vectors["x"].requires_grad_(), vectors["score_zeroed"].requires_grad_()
        fused = self.fuse(x, score, vectors)
        torch.testing.assert_close(fused, vectors["fused_zeroed"], rtol=2e-5, atol=2e-5)
        fused.sum().backward()
        assert x.grad is not None and score.grad is not None
        assert x.grad.isfinite().all() and score.grad.isfinite().all()


@pytest.mark.parametrize(("channels", "settings"), [(24, {}), (16, {"blocks": (1, 2)})])
def test_what_cannot_be_built_is_said(channels: int, settings: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError, match=r"channels|widths"):
        Pyramid(Pyramid.Config(**settings), channels, ["m1"])


def test_windows_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 4"):
        Pyramid(Pyramid.Config(), 16, ["m1"]).alone(torch.zeros(1, 16, 10, 12), ["m1"])
