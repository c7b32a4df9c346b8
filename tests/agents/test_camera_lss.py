"""The published camera networks against the reference vectors: geometry, lift, trunks, depth, whole encoders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from heatv2x.agents.camera_lss import CameraLss
from heatv2x.errors import ConfigError
from heatv2x.geometry.grid import BevGrid
from heatv2x.interop.heal.names import CAMERA, renamed
from heatv2x.nn.images import CameraInput
from heatv2x.nn.lift import depth_bin, depth_edges, lifted_points, published_rays, splat_cells
from heatv2x.nn.losses import softmax_focal
from tests.golden_weights import GOLDEN, reference_weights
from tests.scene_factory import GRID as SMALL

GRID = BevGrid(-12.8, 12.8, -6.4, 6.4, 1.6)
DEPTHS = (2.0, 20.0, 8)
ABOUT = json.loads((GOLDEN / "k_o_camera_config.json").read_text())
SIZE = tuple(ABOUT["data_aug_conf"]["final_dim"])


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as vectors:
        return {key: torch.from_numpy(vectors[key]) for key in vectors}


def intrinsics(vectors: dict[str, Tensor], prefix: str = "") -> Tensor:
    """(..., 3, 3) intrinsics of the images after the reference's augmentation, which acts on pixels."""
    augmented = vectors[f"{prefix}post_rots"].clone()
    augmented[..., :2, 2] = vectors[f"{prefix}post_trans"][..., :2]
    return augmented @ vectors[f"{prefix}intrins"]


def mounts(vectors: dict[str, Tensor], prefix: str = "") -> Tensor:
    T = torch.eye(4).repeat(*vectors[f"{prefix}rots"].shape[:-2], 1, 1)
    T[..., :3, :3], T[..., :3, 3] = vectors[f"{prefix}rots"], vectors[f"{prefix}trans"]
    return T


@pytest.fixture(scope="module")
def vectors() -> dict[str, Tensor]:
    return load("k_lss")


class TestLift:
    def test_where_pixels_may_lie(self, vectors: dict[str, Tensor]) -> None:
        K, T = intrinsics(vectors), mounts(vectors)
        for row in range(2):
            points = lifted_points(published_rays(*SIZE, 8, K[row, 0]), depth_edges(*DEPTHS), T[row, 0])
            torch.testing.assert_close(points, vectors["geom_one_camera"][row, 0], rtol=1e-5, atol=2e-5)

    def test_sums_per_cell_and_their_gradient(self, vectors: dict[str, Tensor]) -> None:
        fine, K, T = GRID.finer(2), intrinsics(vectors, "all_"), mounts(vectors, "all_")
        cells = torch.stack(
            [
                splat_cells(
                    published_rays(*SIZE, 8, K[n, m]), depth_edges(*DEPTHS), T[n, m], fine, (-10, 10), truncate=True
                )
                for n in range(2)
                for m in range(4)
            ]
        )
        features = vectors["pool_features"].clone().requires_grad_()
        rows = torch.arange(2).repeat_interleave(4)[:, None, None, None] * (fine.shape[0] * fine.shape[1]) + cells
        flat, at = features.flatten(0, 1), cells >= 0
        bev = torch.zeros(2 * fine.shape[0] * fine.shape[1], 3).index_add(0, rows[at], flat[at])
        bev = bev.view(2, *fine.shape, 3).permute(0, 3, 1, 2)
        torch.testing.assert_close(bev, vectors["pooled"], rtol=1e-5, atol=1e-5)
        (bev * vectors["pool_cotangent"]).sum().backward()
        assert features.grad is not None
        torch.testing.assert_close(features.grad, vectors["pool_grad"])

    def test_depth_bins(self, vectors: dict[str, Tensor]) -> None:
        torch.testing.assert_close(depth_edges(*DEPTHS).double(), vectors["depth_bins_LID_2_20_8"])
        edges = depth_edges(2, 50, 48).double()
        torch.testing.assert_close(edges, vectors["depth_bins_LID_2_50_48"], rtol=1e-6, atol=1e-6)
        bins, inside = depth_bin(vectors["depth_map"], *DEPTHS)
        assert torch.equal(inside, vectors["depth_bin_infer_mask"])
        assert torch.equal(bins[inside], vectors["depth_bin_target"][inside])

    def test_depth_loss(self) -> None:
        given = load("j_loss")
        loss = softmax_focal(given["depth_logit"], given["depth_index"])
        torch.testing.assert_close(loss, given["depth_focal"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "trunk"), [("m2", "efficientnet_b0"), ("m4", "resnet")])
def test_a_whole_encoder(name: str, trunk: str) -> None:
    vectors = load(f"o_camera_encoder_{name}")
    config = CameraLss.Config(
        trunk=trunk, classifier=name == "m2", image_size=SIZE, lifted=16, depth_range=DEPTHS[:2], depth_bins=DEPTHS[2]
    )
    agent = CameraLss(config, GRID, 8).eval()
    prefix = f"encoder_{name}."
    state, unknown = renamed(reference_weights(f"o_camera_encoder_{name}_state_dict_shapes.json", prefix), CAMERA)
    own = agent.state_dict()
    assert not unknown and {key for key in own if not key.startswith(("bev.", "aligner."))} == set(state)
    agent.load_state_dict({**own, **state})
    images, K, T = vectors["imgs"][0], intrinsics(vectors)[0], mounts(vectors)[0]
    cells = torch.stack(
        [
            splat_cells(
                published_rays(*SIZE, 8, K[m]), depth_edges(*DEPTHS), T[m], agent.splat_grid, (-10, 10), truncate=True
            )
            for m in range(2)
        ]
    )
    with torch.no_grad():
        bev, logits = agent.splatted(CameraInput(images[:, :3], cells, None, torch.zeros(2, dtype=torch.long)))
    torch.testing.assert_close(logits, vectors["depth_logit"], rtol=1e-4, atol=1e-5)
    scale = float(vectors["bev"].abs().max())
    torch.testing.assert_close(bev, vectors["bev"], rtol=1e-4, atol=1e-5 * scale)
    target, inside = depth_bin(images[:, 3, 4::8, 4::8], *DEPTHS)  # elsewhere the reference takes an outermost bin
    assert torch.equal(target[inside], vectors["depth_gt_index"][inside]) and inside.any()


def test_beyond_its_own_range_it_says_nothing() -> None:
    agent = CameraLss(CameraLss.Config(own_half_extent_m=(6.4, 4.8)), SMALL, 8).eval()
    image = torch.zeros(1, 3, 96, 128)
    cells = torch.zeros(1, 40, 12, 16, dtype=torch.long)
    feature = agent(CameraInput(image, cells, None, torch.zeros(1, dtype=torch.long)))
    assert feature.shape == (1, 8, 16, 16)
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[5:11, 4:12] = False
    assert not feature[..., outside].any() and feature[..., ~outside].any()


@pytest.mark.parametrize("settings", [{"image_size": (100, 128)}, {"trunk": "efficientnet_b0", "image_size": (48, 64)}])
def test_images_that_do_not_divide_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="multiples"):
        CameraLss(CameraLss.Config(**settings), SMALL, 8)
