"""The channel: who is heard, what is lost, what a sender believes of its pose. All from the seed, in any order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heatv2x.core.config import build
from heatv2x.errors import ConfigError
from heatv2x.link.channel import Channel, ChannelConfig, disturbed
from heatv2x.structures import Pose

POSE = Pose.planar(10.0, -5.0, 0.7, 1.9)
FRAMES = [f"clip/{number:06d}" for number in range(3000)]


def noisy(**settings: object) -> Channel:
    return Channel(ChannelConfig(**{"sigma_m": 0.4, "sigma_deg": 0.4, **settings}))


class TestLoss:
    def test_frequency(self) -> None:
        channel = Channel(ChannelConfig(loss=0.3))
        delivered = np.mean([channel.delivers(frame, 5) for frame in FRAMES])
        assert delivered == pytest.approx(0.7, abs=4 * math.sqrt(0.3 * 0.7 / len(FRAMES)))

    @pytest.mark.parametrize(("loss", "delivered"), [(0.0, True), (1.0, False)])
    def test_always_and_never(self, loss: float, delivered: bool) -> None:
        channel = Channel(ChannelConfig(loss=loss))
        assert all(channel.delivers(frame, 5) == delivered for frame in FRAMES[:500])

    def test_senders_are_lost_independently(self) -> None:
        channel = Channel(ChannelConfig(loss=0.5))
        one, other = (np.array([channel.delivers(frame, sender) for frame in FRAMES]) for sender in (1, 2))
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.08


class TestSeed:
    def test_draws_do_not_depend_on_the_order_of_calls(self) -> None:
        def draw(channel: Channel, frame: str, sender: int) -> tuple[object, ...]:
            pose, *sigma = channel.reported_pose(frame, sender, POSE)
            return channel.delivers(frame, sender), pose.matrix.tolist(), *sigma

        keys = [(frame, sender) for frame in FRAMES[:20] for sender in (-1, 3, 12)]
        forward, backward = noisy(loss=0.5), noisy(loss=0.5)
        first = {key: draw(forward, *key) for key in keys}
        second = {key: draw(backward, *key) for key in reversed(keys)}
        assert first == second and len({str(value) for value in first.values()}) == len(keys)

    def test_another_seed_draws_otherwise(self) -> None:
        one, other = (noisy(seed=seed).reported_pose("clip/000001", 1, POSE)[0] for seed in (0, 1))
        assert not np.array_equal(one.matrix, other.matrix)

    def test_loss_and_noise_are_drawn_apart(self) -> None:
        channel = noisy(loss=0.97)
        shift = np.array([abs(channel.reported_pose(frame, 1, POSE)[0].xyz[0] - POSE.xyz[0]) for frame in FRAMES])
        delivered = np.array([channel.delivers(frame, 1) for frame in FRAMES])
        assert shift[delivered].mean() == pytest.approx(shift.mean(), abs=0.3 * 0.4), (
            "few arrive; their noise is no other"
        )
        wanted = noisy().reported_pose("clip/000001", 1, POSE)[0].matrix
        assert np.array_equal(channel.reported_pose("clip/000001", 1, POSE)[0].matrix, wanted)


class TestPoseNoise:
    def test_deviation(self) -> None:
        channel = noisy(sigma_m=0.4, sigma_deg=1.5)
        poses = [channel.reported_pose(frame, 5, POSE)[0] for frame in FRAMES]
        shift = np.array([pose.xyz - POSE.xyz for pose in poses])
        turn = np.degrees([pose.yaw - POSE.yaw for pose in poses])
        assert np.std(shift[:, :2], axis=0) == pytest.approx([0.4, 0.4], rel=0.06) and not shift[:, 2].any()
        assert np.std(turn) == pytest.approx(1.5, rel=0.06)
        assert np.abs(np.mean(shift[:, :2], axis=0)).max() < 0.03 and abs(np.mean(turn)) < 0.1
        assert abs(np.corrcoef(shift[:, 0], turn)[0, 1]) < 0.08

    @pytest.mark.parametrize(("reported", "sigma"), [("true", (0.4, math.radians(2.0))), ("hidden", (0.0, 0.0))])
    def test_what_is_reported(self, reported: str, sigma: tuple[float, float]) -> None:
        pose, *told = noisy(sigma_deg=2.0, reported=reported).reported_pose("clip/000001", 5, POSE)
        assert told == pytest.approx(sigma)
        assert not np.allclose(pose.matrix, POSE.matrix, atol=1e-6)

    def test_hidden_noise_is_the_same_noise(self) -> None:
        poses = [noisy(reported=reported).reported_pose("clip/000001", 5, POSE)[0] for reported in ("true", "hidden")]
        assert np.array_equal(poses[0].matrix, poses[1].matrix)

    def test_a_share_of_the_senders_knows_its_pose_ten_times_better(self) -> None:
        mixed, plain = noisy(precise_share=0.3, sigma_deg=2.0), noisy(sigma_deg=2.0)
        senders = range(1000)
        precise = [sender for sender in senders if mixed.precise("clip/000001", sender)]
        assert len(precise) == pytest.approx(300, abs=60)
        for sender in senders:
            pose, *told = mixed.reported_pose("clip/000001", sender, POSE)
            usual, *_ = plain.reported_pose("clip/000001", sender, POSE)
            scale = 0.1 if sender in precise else 1.0
            assert told == pytest.approx([scale * 0.4, scale * math.radians(2.0)])
            np.testing.assert_allclose(pose.xyz - POSE.xyz, scale * (usual.xyz - POSE.xyz), atol=1e-12)
            assert pose.yaw - POSE.yaw == pytest.approx(scale * (usual.yaw - POSE.yaw))

    def test_who_is_precise_stays_so_for_a_scenario_and_is_drawn_again_in_the_next(self) -> None:
        mixed = noisy(precise_share=0.5)
        drawn = {clip: [mixed.precise(f"{clip}/{n:06d}", 7) for n in range(5)] for clip in map(str, range(40))}
        assert all(len(set(frames)) == 1 for frames in drawn.values())
        assert len({frames[0] for frames in drawn.values()}) == 2

    def test_without_noise_the_pose_is_untouched(self) -> None:
        assert Channel().reported_pose("clip/000001", 5, POSE) == (POSE, 0.0, 0.0)

    def test_heading_noise_alone(self) -> None:
        pose, _, sigma_rad = noisy(sigma_m=0.0).reported_pose("clip/000001", 5, POSE)
        assert np.array_equal(pose.xyz, POSE.xyz) and pose.yaw != POSE.yaw and sigma_rad > 0

    def test_a_disturbed_pose_turns_about_itself(self) -> None:
        matrix = POSE.matrix.copy()
        tilt = np.array([[1, 0, 0], [0, math.cos(0.1), -math.sin(0.1)], [0, math.sin(0.1), math.cos(0.1)]])
        matrix[:3, :3] = matrix[:3, :3] @ tilt
        moved = disturbed(Pose(matrix), 0.5, -0.25, 0.2)
        np.testing.assert_allclose(moved.xyz, POSE.xyz + np.array([0.5, -0.25, 0.0]))
        turn = moved.matrix[:3, :3] @ matrix[:3, :3].T
        np.testing.assert_allclose(turn, Pose.planar(0, 0, 0.2).matrix[:3, :3], atol=1e-12)
        assert np.array_equal(Pose(matrix).matrix, matrix)


class TestRange:
    OTHERS = tuple(Pose.planar(x, 0.0, 0.0, z) for x, z in ((40, 0), (-12, 30), (70, 0), (70.01, 0), (3, 0), (40, 5)))

    def test_nearest_first_within_range(self) -> None:
        channel = Channel(ChannelConfig(range_m=70.0))
        assert channel.hears(Pose.planar(0, 0, 1.0), list(self.OTHERS)) == [4, 1, 0, 5, 2]

    @pytest.mark.parametrize(("most", "heard"), [(0, []), (1, [4]), (3, [4, 1, 0]), (8, [4, 1, 0, 5, 2])])
    def test_so_many_at_most(self, most: int, heard: list[int]) -> None:
        channel = Channel(ChannelConfig(max_senders=most))
        assert channel.hears(Pose.planar(0, 0, 1.0), list(self.OTHERS)) == heard

    def test_nobody_there(self) -> None:
        assert Channel().hears(POSE, []) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("range_m", 0),
        ("loss", 1.2),
        ("loss", -0.1),
        ("latency_ms", -100),
        ("sigma_m", -1),
        ("sigma_deg", -1),
        ("reported", "maybe"),
        ("max_senders", -1),
        ("precise_share", 1.5),
    ],
)
def test_impossible_settings_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        build(ChannelConfig, {key: value})
