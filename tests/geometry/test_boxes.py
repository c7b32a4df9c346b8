"""Boxes, overlaps and suppression against shapely, first principles and the vectors in tests/golden."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heatv2x.geometry import boxes as geometry
from heatv2x.structures import Pose

GOLDEN = Path(__file__).parents[1] / "golden"
FAST = settings(max_examples=50, deadline=None)

# Round numbers make coinciding corners and edges likely, which is where polygon clipping goes wrong.
coordinate = st.one_of(st.integers(-4, 4).map(float), st.floats(-4, 4))
side = st.one_of(st.integers(1, 6).map(float), st.floats(0.05, 12))
angle = st.one_of(st.sampled_from([0, math.pi / 4, math.pi / 2, math.pi, -math.pi / 2]), st.floats(-7, 7))
box = st.tuples(coordinate, coordinate, st.floats(-1, 1), side, side, side, angle).map(list)
boxes = st.lists(box, min_size=1, max_size=4).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


def random_boxes(count: int, reach: float, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    unit = torch.rand(count, 7, generator=draw, dtype=torch.float64)
    low = torch.tensor([-reach, -reach, -1, 3, 1.5, 1.4, -math.pi], dtype=torch.float64)
    high = torch.tensor([reach, reach, 1, 6, 2.5, 2, math.pi], dtype=torch.float64)
    return low + unit * (high - low)


def shapely_iou(a: Tensor, b: Tensor) -> np.ndarray:
    polygons_a, polygons_b = (shapely.polygons(_corners_by_hand(boxes.numpy())) for boxes in (a, b))
    overlap = shapely.area(shapely.intersection(polygons_a[:, None], polygons_b[None]))
    return overlap / (shapely.area(polygons_a)[:, None] + shapely.area(polygons_b) - overlap)


def _corners_by_hand(boxes: np.ndarray) -> list[np.ndarray]:
    corners = []
    for x, y, _, length, width, _, yaw in boxes:
        forward, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        signs = ((1, -1), (1, 1), (-1, 1), (-1, -1))
        corners.append([np.array([x, y]) + i * length / 2 * forward + j * width / 2 * left for i, j in signs])
    return np.array(corners)


def rigid(x: float, y: float, yaw: float) -> Tensor:
    T = torch.eye(4, dtype=torch.float64)
    T[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    T[:2, 3] = torch.tensor([x, y])
    return T


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name) as arrays:
        return {key: torch.from_numpy(arrays[key].copy()) for key in arrays.files}


def same_angle(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((geometry.wrap_angle(a - b).abs() < tolerance).all())


def test_corners_of_a_box_that_looks_left() -> None:
    corners = geometry.corners_bev(torch.tensor([[10.0, 5.0, 0.0, 4.0, 2.0, 1.0, math.pi / 2]]))
    expected = torch.tensor([[[11.0, 7.0], [9.0, 7.0], [9.0, 3.0], [11.0, 3.0]]])
    torch.testing.assert_close(corners, expected)


def test_corners_and_back_agree_with_heal() -> None:
    vectors = golden("b_boxes.npz")
    ours = vectors["boxes_lwh"]
    corners = geometry.corners_3d(ours)
    # HEAL rounds its angles or corners to float32 on the way, so float32 of the coordinates is what can agree.
    near = 2e-6 * corners.abs().max().item()
    torch.testing.assert_close(corners, vectors["corners_from_hwl_torch64"], rtol=0, atol=near)
    back, theirs = geometry.boxes_from_corners(corners), vectors["center_lwh_from_corners"]
    torch.testing.assert_close(back[:, :6], ours[:, :6])
    assert same_angle(back[:, 6], ours[:, 6], 1e-9)
    torch.testing.assert_close(back[:, :6], theirs[:, :6], rtol=2e-6, atol=2e-5)
    ordinary = [i for i in range(len(ours)) if i not in (1, 2)]  # on +-pi, where HEAL's mean of four angles is wrong
    assert same_angle(back[ordinary, 6], theirs[ordinary, 6], 1e-5)


def test_yaw_at_the_seam_is_not_averaged_away() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 2.0, 1.5, math.pi], [0.0, 0.0, 0.0, 4.0, 2.0, 1.5, -math.pi]])
    corners = geometry.corners_3d(boxes) + 1e-6 * torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(1))
    assert same_angle(geometry.boxes_from_corners(corners)[:, 6], torch.tensor(math.pi), 1e-5)


def test_transform_with_roll_and_pitch_agrees_with_heal() -> None:
    vectors = golden("b_boxes.npz")
    moved = geometry.transform_boxes(vectors["boxes_lwh"], vectors["project_T"])
    theirs = vectors["projected_center_hwl"][:, [0, 1, 2, 5, 4, 3, 6]]
    torch.testing.assert_close(moved[:, :6], theirs[:, :6], rtol=2e-6, atol=1e-4)
    wrong = geometry.wrap_angle(moved[:, 6] - theirs[:, 6]).abs() > 1e-5
    assert int(wrong.sum()) <= 2, "only boxes on the +-pi seam may differ"


@FAST
@given(boxes, coordinate, coordinate, angle)
def test_transform_and_back_is_the_identity(given_boxes: Tensor, x: float, y: float, yaw: float) -> None:
    T = rigid(1000 * x, 1000 * y, yaw)
    back = geometry.transform_boxes(geometry.transform_boxes(given_boxes, T), torch.linalg.inv(T))
    torch.testing.assert_close(back[:, :6], given_boxes[:, :6], rtol=0, atol=1e-9)
    assert same_angle(back[:, 6], given_boxes[:, 6], 1e-9)


def test_one_transform_per_box() -> None:
    boxes = random_boxes(3, 20)
    transforms = torch.stack([rigid(1, 2, 0.3), rigid(-5, 0, 2), rigid(0, 9, -1)])
    one_by_one = [geometry.transform_boxes(boxes[i : i + 1], transforms[i]) for i in range(3)]
    torch.testing.assert_close(geometry.transform_boxes(boxes, transforms), torch.cat(one_by_one))


def test_points_keep_their_intensity() -> None:
    points = torch.tensor([[1.0, 2.0, 3.0, 0.25]])
    turned = geometry.transform_points(points, rigid(10, 0, math.pi / 2))
    torch.testing.assert_close(turned, torch.tensor([[8.0, 1.0, 3.0, 0.25]]))


def test_float32_points_far_from_the_origin_are_moved_exactly() -> None:
    points = torch.tensor([[100_000.5, -50_000.25, 2.0]])
    T = torch.linalg.inv(rigid(100_000, -50_000, 1.0))
    moved = geometry.transform_points(points, T)
    assert moved.dtype == torch.float32
    expected = torch.tensor([[0.5 * math.cos(1) - 0.25 * math.sin(1), -0.5 * math.sin(1) - 0.25 * math.cos(1), 2.0]])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


def test_the_inverse_of_rigid_transforms() -> None:
    poses = [Pose.planar(30.0, -40.0, 0.7), Pose.planar(-5.0, 2.0, -3.0), Pose.planar(0.0, 0.0, 0.0)]
    T = torch.from_numpy(np.stack([pose.matrix for pose in poses])).view(3, 1, 4, 4)
    torch.testing.assert_close(geometry.inverse_rigid(T), torch.linalg.inv(T), rtol=0, atol=1e-12)


def test_transforms_are_exact_under_autocast() -> None:
    boxes, T = random_boxes(4, 50).float(), rigid(3, 4, 0.7)
    expected = geometry.transform_boxes(boxes, T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(geometry.transform_boxes(boxes, T), expected, rtol=0, atol=0)


@FAST
@given(boxes, boxes)
def test_bev_iou_equals_shapely(a: Tensor, b: Tensor) -> None:
    iou = geometry.rotated_iou_bev(a, b).numpy()
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_allclose(iou, shapely_iou(a, b), rtol=0, atol=1e-6)


def test_bev_iou_of_many_boxes_equals_shapely() -> None:
    a, b = random_boxes(120, 8, seed=1), random_boxes(40, 8, seed=2)
    iou = geometry.rotated_iou_bev(a, b).numpy()
    assert (iou > 0.1).sum() > 100
    np.testing.assert_allclose(iou, shapely_iou(a, b), rtol=0, atol=1e-9)


@FAST
@given(boxes, boxes, coordinate, coordinate, angle)
def test_bev_iou_is_symmetric_and_does_not_change_with_the_frame(
    a: Tensor, b: Tensor, x: float, y: float, yaw: float
) -> None:
    iou = geometry.rotated_iou_bev(a, b)
    torch.testing.assert_close(geometry.rotated_iou_bev(b, a).T, iou, rtol=0, atol=1e-9)
    T = rigid(100 * x, 100 * y, yaw)
    moved = geometry.rotated_iou_bev(geometry.transform_boxes(a, T), geometry.transform_boxes(b, T))
    torch.testing.assert_close(moved, iou, rtol=0, atol=1e-9)
    mirror = torch.tensor([1, -1, 1, 1, 1, 1, -1], dtype=torch.float64)
    torch.testing.assert_close(geometry.rotated_iou_bev(a * mirror, b * mirror), iou, rtol=0, atol=1e-9)


@FAST
@given(box, st.sampled_from([torch.float32, torch.float64]))
def test_identical_boxes_overlap_fully(given_box: list[float], dtype: torch.dtype) -> None:
    one = torch.tensor([given_box], dtype=dtype)
    assert geometry.rotated_iou_bev(one, one).item() == pytest.approx(1, abs=1e-9)
    assert geometry.rotated_iou_3d(one, one).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([4.0, 0, 0, 4, 2, 1, 0], 0.0),  # a shared edge
        ([4.0, 2, 0, 4, 2, 1, 0], 0.0),  # a shared corner
        ([0.5, 0.2, 0, 2, 1, 1, 0], 0.25),  # contained
        ([1.0, 0, 0, 2, 2, 1, 0], 0.5),  # contained, three shared edges
        ([0.0, 0, 0, 4, 2, 1, math.pi / 2], 1 / 3),  # crossed
        ([0.0, 0, 0, 4, 2, 1, math.pi], 1.0),  # turned round
        ([0.0, 0, 0, 4, 0, 1, 0], 0.0),  # a line
        ([0.0, 0, 0, 0, 0, 1, 0], 0.0),  # a point
        ([3e38, 0, 0, 4, 2, 1, 0], 0.0),  # absurdly far
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bev_iou_of_special_pairs(other: list[float], expected: float, dtype: torch.dtype) -> None:
    one, second = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0]], dtype=dtype), torch.tensor([other], dtype=dtype)
    iou = geometry.rotated_iou_bev(one, second)
    assert iou.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12  # pi itself is rounded in float32
    assert iou.item() == pytest.approx(expected, abs=tolerance)
    assert geometry.rotated_iou_bev(second, one).item() == pytest.approx(expected, abs=tolerance)


def test_two_empty_boxes_and_no_boxes() -> None:
    empty = torch.zeros(1, 7)
    assert geometry.rotated_iou_bev(empty, empty).item() == 0
    assert geometry.rotated_iou_3d(empty, empty).item() == 0
    assert geometry.rotated_iou_bev(torch.zeros(0, 7), empty).shape == (0, 1)
    assert geometry.rotated_iou_bev(empty, torch.zeros(0, 7)).shape == (1, 0)
    assert geometry.nms(torch.zeros(0, 7), torch.zeros(0), 0.1).shape == (0,)
    assert geometry.corners_3d(torch.zeros(0, 7)).shape == (0, 8, 3)
    assert geometry.boxes_from_corners(torch.zeros(0, 8, 3)).shape == (0, 7)
    assert geometry.transform_boxes(torch.zeros(0, 7), rigid(1, 2, 3)).shape == (0, 7)


@FAST
@given(boxes, boxes)
def test_3d_iou_is_the_footprint_times_the_shared_height(a: Tensor, b: Tensor) -> None:
    iou = geometry.rotated_iou_3d(a, b)
    bev = shapely_iou(a, b)
    for i, one in enumerate(a.tolist()):
        for j, other in enumerate(b.tolist()):
            area, other_area = one[3] * one[4], other[3] * other[4]
            shared_area = bev[i, j] * (area + other_area) / (1 + bev[i, j])
            top = min(one[2] + one[5] / 2, other[2] + other[5] / 2)
            bottom = max(one[2] - one[5] / 2, other[2] - other[5] / 2)
            shared = shared_area * max(top - bottom, 0)
            union = area * one[5] + other_area * other[5] - shared
            assert iou[i, j].item() == pytest.approx(shared / union, abs=1e-6)


def test_iou_agrees_with_heal() -> None:
    vectors = golden("e_nms.npz")
    boxes = geometry.boxes_from_corners(vectors["corners"][:30])
    expected = vectors["pair_iou_first30"]
    assert int((expected > 0).sum()) > 60
    torch.testing.assert_close(geometry.rotated_iou_bev(boxes, boxes), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("key", "threshold"), [("keep_0p01", 0.01), ("keep_0p15", 0.15), ("keep_0p5", 0.5)])
def test_nms_agrees_with_heal(key: str, threshold: float) -> None:
    vectors = golden("e_nms.npz")
    boxes = geometry.boxes_from_corners(vectors["corners"])
    assert geometry.nms(boxes, vectors["scores"], threshold).tolist() == vectors[key].tolist()


def test_nms_of_more_boxes_than_candidates_agrees_with_heal() -> None:
    vectors = golden("e_nms.npz")
    face = torch.nn.functional.pad(vectors["big_corners_4x2"], (0, 1))
    boxes = geometry.boxes_from_corners(torch.cat((face, face + torch.tensor([0, 0, 1.5])), dim=1))
    assert geometry.nms(boxes, vectors["big_scores"], 0.15).tolist() == vectors["big_keep_0p15"].tolist()
    everything = geometry.nms(boxes, vectors["big_scores"], 0.15, max_candidates=2000)
    assert len(everything) > len(vectors["big_keep_0p15"])


@pytest.mark.parametrize("threshold", [0.05, 0.3])
def test_nms_equals_the_greedy_loop(threshold: float) -> None:
    boxes = random_boxes(120, 8, seed=3)
    scores = torch.rand(120, generator=torch.Generator().manual_seed(4)).mul(20).round()  # many ties
    iou = shapely_iou(boxes, boxes)
    kept: list[int] = []
    for index in sorted(range(120), key=lambda i: (-scores[i].item(), i)):
        if all(iou[index, other] <= threshold for other in kept):
            kept.append(index)
    assert 10 < len(kept) < 110
    assert geometry.nms(boxes, scores, threshold).tolist() == kept


def test_a_removed_box_removes_nothing() -> None:
    chain = torch.zeros(5, 7)
    chain[:, 0], chain[:, 3:6] = torch.arange(5) * 2.0, torch.tensor([4.0, 2.0, 1.5])
    assert geometry.nms(chain, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), 0.2).tolist() == [0, 2, 4]
    assert geometry.nms(chain, torch.full((5,), 0.5), 0.2).tolist() == [0, 2, 4]
    assert geometry.nms(chain, torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9]), 0.2, max_candidates=2).tolist() == [4]


def test_range_filter_agrees_with_heal() -> None:
    vectors = golden("b_boxes.npz")
    boxes, limits = vectors["boxes_lwh"], vectors["limit_range"]
    assert torch.equal(geometry.inside_range(boxes, limits), vectors["mask_all8_corners"])
    assert 0 < int(vectors["mask_all8_corners"].sum()) < len(boxes)


def test_range_filter_by_centre_and_with_bounds() -> None:
    boxes = torch.tensor([[8.0, 0, 0, 4, 2, 1, 0], [9.0, 0, 0, 4, 2, 1, 0], [11.0, 0, 0, 4, 2, 1, 0]])
    limits = (-10, -10, -1, 10, 10, 1)
    assert geometry.inside_range(boxes, limits).tolist() == [True, False, False]
    assert geometry.inside_range(boxes, limits, all_corners=False).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("key", "offset", "period"),
    [("off05_2pi", 0.5, 2 * math.pi), ("off0_pi", 0, math.pi), ("off0_2pi", 0, 2 * math.pi)],
)
def test_wrap_angle_agrees_with_heal(key: str, offset: float, period: float) -> None:
    vectors = golden("b_limit_period.npz")
    wrapped = geometry.wrap_angle(vectors["angle"], period, offset)
    torch.testing.assert_close(wrapped, vectors[key], rtol=1e-9, atol=1e-9)


def test_results_follow_the_dtype() -> None:
    boxes = random_boxes(6, 5).float()
    assert geometry.corners_3d(boxes).dtype == torch.float32
    assert geometry.transform_boxes(boxes, rigid(1, 2, 3)).dtype == torch.float32
    assert geometry.rotated_iou_3d(boxes, boxes).dtype == torch.float32
    assert geometry.nms(boxes, torch.arange(6.0), 0.1).dtype == torch.int64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    boxes, scores = random_boxes(300, 15).float(), torch.rand(300, generator=torch.Generator().manual_seed(6))
    there = boxes.cuda()
    torch.testing.assert_close(geometry.rotated_iou_3d(there, there).cpu(), geometry.rotated_iou_3d(boxes, boxes))
    torch.testing.assert_close(
        geometry.transform_boxes(there, rigid(3, 4, 1)).cpu(), geometry.transform_boxes(boxes, rigid(3, 4, 1))
    )
    assert geometry.nms(there, scores.cuda(), 0.15).tolist() == geometry.nms(boxes, scores, 0.15).tolist()
    limits = (-10, -10, -9, 10, 10, 9)
    assert torch.equal(geometry.inside_range(there, limits).cpu(), geometry.inside_range(boxes, limits))
