"""What every fusion promises; a new file in heatv2x/fusion/ is tested by being there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from heatv2x.core import plugins
from heatv2x.fusion.base import Edges, Fusion, Received, maximum_with
from heatv2x.structures import Pose
from tests.parts import parts
from tests.scene_factory import CHANNELS, changed, shaken, state_copy

PARTS = parts("fusion")
TYPES = ["lidar64", "camera"]
SIZE = (12, 16)
SELECTING = ("maximum", "none")  # add nothing up, so no order can be seen in the last bit


def build_fusion(part: str, types: Sequence[str] = TYPES, shake: float = 0.2) -> Fusion:
    fusion_class = plugins.find("fusion", part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        fusion: Fusion = fusion_class(fusion_class.Config(), CHANNELS, list(types)).eval()
    return shaken(fusion, shake) if shake else fusion


def random_pose(generator: torch.Generator) -> Tensor:
    x, y, yaw = torch.randn(3, generator=generator).tolist()
    return torch.from_numpy(Pose.planar(20 * x, 20 * y, yaw).matrix)


def scene(
    sender_types: Sequence[Sequence[str]], ego_types: Sequence[str] | None = None, seed: int = 0, hidden: bool = True
) -> tuple[Tensor, Received]:
    """Egos' features and received ones; "" is an empty slot, and half of every map is out of sight."""
    generator = torch.Generator().manual_seed(seed)
    batch, slots = len(sender_types), len(sender_types[0])
    ego = torch.randn(batch, CHANNELS, *SIZE, generator=generator)
    features = torch.randn(batch, slots, CHANNELS, *SIZE, generator=generator)
    visible = torch.rand(batch, slots, *SIZE, generator=generator) < (0.5 if hidden else 2.0)
    T = torch.stack([random_pose(generator) for _ in range(batch * slots)] or [torch.eye(4).double()])
    T = T[: batch * slots].view(batch, slots, 4, 4)
    sigma_m, sigma_rad, age_s = torch.rand(3, batch, slots, generator=generator)
    full = torch.tensor([[bool(name) for name in row] for row in sender_types]).view(batch, slots)
    visible &= full[..., None, None]
    edges = Edges(
        torch.where(full[..., None, None], T, torch.eye(4).double()),
        sigma_m * full,
        0.1 * sigma_rad * full,
        age_s * full,
    )
    egos = list(ego_types or ["lidar64"] * batch)
    return ego, Received(features * visible[:, :, None], visible, edges, egos, [list(row) for row in sender_types])


def permuted(received: Received, order: Sequence[int]) -> Received:
    rows, e = list(order), received.edges
    return Received(
        received.features[:, rows],
        received.visible[:, rows],
        Edges(e.T_ego_sender[:, rows], e.sigma_m[:, rows], e.sigma_rad[:, rows], e.age_s[:, rows]),
        received.ego_types,
        [[row[i] for i in rows] for row in received.sender_types],
    )


def without_slots(received: Received) -> Received:
    return permuted(received, [])


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def fusion(part: str) -> Fusion:
    return build_fusion(part)


MIXED = [["camera", "lidar64", ""], ["", "camera", "camera"]]


class TestNobody:
    def test_no_slots(self, fusion: Fusion) -> None:
        ego, received = scene(MIXED)
        assert torch.equal(fusion(ego, without_slots(received)), fusion.alone(ego, received.ego_types))

    def test_empty_slots(self, fusion: Fusion) -> None:
        ego, received = scene([["", "", ""], ["", "", ""]], ["lidar64", "camera"])
        fused, alone = fusion(ego, received), fusion.alone(ego, received.ego_types)
        assert torch.equal(fused, alone)
        assert np.array_equal(fused.detach().numpy().view(np.int32), alone.detach().numpy().view(np.int32))

    def test_whatever_an_empty_slot_holds(self, fusion: Fusion) -> None:
        ego, received = scene([["", ""]])
        loud = replace(received, features=torch.full_like(received.features, 1e6))
        assert torch.equal(fusion(ego, loud), fusion.alone(ego, received.ego_types))

    def test_senders_that_see_nothing_here(self, fusion: Fusion) -> None:
        ego, received = scene([["camera", "lidar64"]])
        blind = replace(received, visible=torch.zeros_like(received.visible))
        assert torch.equal(fusion(ego, blind), fusion.alone(ego, received.ego_types))

    def test_an_empty_slot_more_changes_nothing(self, fusion: Fusion) -> None:
        ego, received = scene([["camera", "lidar64", ""]])
        torch.testing.assert_close(fusion(ego, received), fusion(ego, permuted(received, [0, 1])))

    def test_nothing_to_look_at_either(self, fusion: Fusion) -> None:
        ego, received = scene(MIXED)
        assert fusion.contributions(ego, without_slots(received)).shape == (2, 0, *SIZE)
        ego, received = scene([["", ""]])
        assert not fusion.contributions(ego, received).any()


def test_cells_that_nobody_sees_keep_the_egos_value(fusion: Fusion) -> None:
    ego, received = scene(MIXED)
    fused, alone = fusion(ego, received), fusion.alone(ego, received.ego_types)
    unseen = ~received.visible.any(dim=1)[:, None].expand_as(alone)
    if fusion.local:
        assert unseen.any() and torch.equal(fused[unseen], alone[unseen])
    else:
        assert fused.shape == alone.shape and fused.isfinite().all()


def test_what_a_sender_does_not_see_does_not_count(fusion: Fusion) -> None:
    ego, received = scene(MIXED)
    loud = torch.where(received.visible[:, :, None], received.features, 1e3)
    torch.testing.assert_close(fusion(ego, replace(received, features=loud)), fusion(ego, received))


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
def test_the_order_of_senders_does_not_matter(part: str, fusion: Fusion, order: tuple[int, ...]) -> None:
    ego, received = scene(MIXED, ["camera", "lidar64"])
    one, other = fusion(ego, received), fusion(ego, permuted(received, order))
    if part in SELECTING:
        assert torch.equal(one, other)
    largest = max(1.0, float(one.detach().abs().max()))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * largest)
    shown = fusion.contributions(ego, received)[:, list(order)]
    torch.testing.assert_close(fusion.contributions(ego, permuted(received, order)), shown)


def test_egos_of_a_batch_do_not_touch_one_another(fusion: Fusion) -> None:
    ego, received = scene(MIXED, ["camera", "lidar64"])
    together = fusion(ego, received)
    for row in range(2):
        alone = Received(
            received.features[row : row + 1],
            received.visible[row : row + 1],
            Edges(*(value[row : row + 1] for value in vars(received.edges).values())),
            received.ego_types[row : row + 1],
            received.sender_types[row : row + 1],
        )
        torch.testing.assert_close(together[row : row + 1], fusion(ego[row : row + 1], alone), rtol=1e-5, atol=1e-5)


def test_contributions_are_shares(fusion: Fusion) -> None:
    ego, received = scene(MIXED)
    shares = fusion.contributions(ego, received)
    assert shares.shape == received.visible.shape and not shares[~received.visible].any()
    assert (shares >= 0).all() and (shares.sum(dim=1) <= 1 + 1e-6).all()


def test_senders_that_change_nothing_contribute_nothing(fusion: Fusion) -> None:
    ego, received = scene(MIXED)
    if torch.equal(fusion(ego, received), fusion.alone(ego, received.ego_types)):
        assert not fusion.contributions(ego, received).any()


def test_every_parameter_learns_and_so_does_the_sender(fusion: Fusion) -> None:
    ego, received = scene(MIXED, ["camera", "lidar64"])
    features = received.features.clone().requires_grad_()
    fused = fusion(ego.requires_grad_(), replace(received, features=features))
    loss = fused.square().mean()
    occupancy = fusion.occupancy(received.features.flatten(0, 1))
    if occupancy is not None:
        assert occupancy.shape == (6, 1, *SIZE)
        loss = loss + occupancy.square().mean()
    loss.backward()
    assert ego.grad is not None and ego.grad.isfinite().all() and ego.grad.any()
    if part_uses_features(fusion):
        assert features.grad is not None and features.grad.any() and features.grad.isfinite().all()
        assert not features.grad[~received.visible[:, :, None].expand_as(features)].any()
    silent = [name for name, p in fusion.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent, silent


def test_occupancy_comes_in_levels(fusion: Fusion) -> None:
    features = torch.randn(2, CHANNELS, *SIZE, generator=torch.Generator().manual_seed(0))
    first, levels = fusion.occupancy(features), fusion.occupancies(features)
    assert bool(levels) == (first is not None)
    for level, logits in enumerate(levels):
        assert logits.shape == (2, 1, SIZE[0] // 2**level, SIZE[1] // 2**level)
    if first is not None:
        assert torch.equal(levels[0], first)


def part_uses_features(fusion: Fusion) -> bool:
    ego, received = scene([["camera"]], hidden=False)
    alone = fusion.alone(ego, received.ego_types)
    return not torch.equal(fusion(ego, received), alone)


class TestNewcomers:
    """`add_type` may be called on any fusion at any time; nobody else may notice."""

    SCENES = (MIXED, [["lidar64", "lidar64", "lidar64"], ["camera", "", ""]])

    def test_starts_as_the_type_it_is_like(self, fusion: Fusion) -> None:
        fusion.add_type("lidar16", "camera")
        for seed, ego_type in enumerate(["lidar64", "camera"]):
            ego, received = scene([["camera", "lidar64", "camera"]], [ego_type], seed)
            renamed = [["lidar16" if name == "camera" else name for name in row] for row in received.sender_types]
            egos = ["lidar16" if name == "camera" else name for name in received.ego_types]
            torch.testing.assert_close(
                fusion(ego, replace(received, sender_types=renamed, ego_types=egos)),
                fusion(ego, received),
                rtol=1e-5,
                atol=1e-5,
            )

    def test_starts_as_the_newcomer_it_is_like(self, fusion: Fusion) -> None:
        fusion.add_type("lidar16", "camera")
        first = fusion.typed_module("lidar16")
        if first is not None:
            shaken(first, 0.3, seed=4)
        fusion.add_type("lidar32", "lidar16")
        ego, received = scene([["lidar16", "lidar64", "lidar16"]], ["lidar16"])
        renamed = replace(received, sender_types=[["lidar32", "lidar64", "lidar32"]], ego_types=["lidar32"])
        torch.testing.assert_close(fusion(ego, renamed), fusion(ego, received), rtol=1e-5, atol=1e-5)

    def test_scenes_without_it_stay_bit_identical(self, fusion: Fusion) -> None:
        scenes = [scene(types, ["lidar64", "camera"], seed) for seed, types in enumerate(self.SCENES)]
        before, state = [fusion(*each) for each in scenes], state_copy(fusion)
        fusion.add_type("lidar16", "lidar64")
        added = fusion.typed_module("lidar16")
        if added is not None:
            shaken(added, 1.0)
        assert all(torch.equal(fusion(*each), old) for each, old in zip(scenes, before, strict=True))
        assert not changed(state, {key: fusion.state_dict()[key] for key in state})

    def test_its_parameters_are_its_own(self, fusion: Fusion) -> None:
        fusion.add_type("lidar16", "lidar64")
        added = fusion.typed_module("lidar16")
        if added is None:  # nothing here belongs to a type, not even to a deployed one
            assert fusion.typed_module("lidar64") is None
            assert not [name for name, _ in fusion.named_parameters() if "lidar16" in name]
            return
        mine = {id(parameter) for parameter in added.parameters()}
        names = {name for name, parameter in fusion.named_parameters() if id(parameter) in mine}
        assert names and all(name.startswith("types.lidar16.") for name in names)
        ego, received = scene([["lidar16", "camera"]], ["lidar64"])
        before = fusion(ego, received)
        shaken(added, 0.5)
        assert not torch.equal(fusion(ego, received), before)

    def test_its_size_does_not_depend_on_how_many_there_are(self, part: str) -> None:
        sizes = []
        for types in (["lidar64"], [f"type{number}" for number in range(8)]):
            fusion = build_fusion(part, types)
            before = sum(parameter.numel() for parameter in fusion.parameters())
            fusion.add_type("lidar16", types[0])
            sizes.append(sum(parameter.numel() for parameter in fusion.parameters()) - before)
        assert sizes[0] == sizes[1]

    def test_its_parameters_learn(self, fusion: Fusion) -> None:
        fusion.add_type("lidar16", "lidar64")
        added = fusion.typed_module("lidar16")
        if added is None:
            return
        shaken(added, 0.1)
        for ego_type, sender in (("lidar16", "camera"), ("lidar64", "lidar16")):
            fusion(*scene([[sender, "camera"]], [ego_type])).square().mean().backward()
        silent = [name for name, p in added.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent, silent


def test_starts_as_maximum_fusion_if_it_starts_as_anything() -> None:
    """Never worse than maximum fusion: hetero_graph and maximum agree until something is learned."""
    for ego_types, types in ((["lidar64", "camera"], MIXED), (["camera", "camera"], [["lidar64"], ["camera"]])):
        ego, received = scene(types, ego_types)
        fused = build_fusion("hetero_graph", shake=0.0)(ego, received)
        assert torch.equal(fused, maximum_with(ego, received.features, received.visible))
        assert torch.equal(fused, build_fusion("maximum")(ego, received))
