"""The ego corrects a sender's reported pose from the boxes that both detected.

Poses from satellites are off by decimetres, and a feature that is warped with a wrong pose harms more than it helps.
The sender's boxes ride on its message (`message.Message.boxes`); the rigid motion that lays them on the ego's own boxes
is the error of its pose. Matching agents' boxes to correct poses is the idea of CoAlign (Lu et al., ICRA 2023, arXiv
2211.07214), which optimises one graph of all agents and objects. Ours treats every sender by itself: the posterior mode
of three numbers under the deviation that the sender reports, so a small deviation leaves little to correct.

A sender's box is a mixture, as in Coherent Point Drift (Myronenko and Song, TPAMI 2010): one of the ego's boxes with
gaussian noise, or none of them. Rows of parked cars make many local modes; therefore every way to lay one box on
another within the prior is tried, and the best ones are followed to their modes. This part is our own design.

Shapes: S boxes of the sender, E boxes of the ego, P pairs of them, H hypotheses. A correction is (dx, dy, dyaw): a
shift in the ego's axes in metres, and a turn about the sender's own position in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydantic
import torch

from heatv2x.core.config import Config
from heatv2x.geometry.boxes import transform_boxes
from heatv2x.structures import Boxes3D, Float64


class RefinementConfig(Config):
    """How boxes are compared. The deviations and the outlier weight were estimated on a generated validation split.

    Attributes:
        along_m, across_m: standard deviation by which two agents' centres of one object differ, along and across it.
        heading_deg: standard deviation by which their headings differ, modulo half a turn.
        outlier: weight of "the ego has no such box" against a perfect match of weight 1.
        min_score: detections below it are ignored.
        reach: how many of its deviations the prior reaches; it is cut off beyond.
        min_matches: with fewer matches in total, the pose stays as reported.
        floor_m, floor_deg: the least uncertainty assumed of a sender; 0 trusts what it reports.
    """

    along_m: float = pydantic.Field(0.55, gt=0)
    across_m: float = pydantic.Field(0.3, gt=0)
    heading_deg: float = pydantic.Field(7.0, gt=0)
    outlier: float = pydantic.Field(0.05, gt=0, lt=1)
    min_score: float = pydantic.Field(0.3, ge=0, le=1)
    reach: float = pydantic.Field(3.0, gt=0)
    min_matches: float = pydantic.Field(1.0, ge=0)
    floor_m: float = pydantic.Field(0.0, ge=0)
    floor_deg: float = pydantic.Field(0.0, ge=0)


@dataclass(frozen=True, eq=False)
class Refined:
    """What is known of a sender's pose after its boxes were compared with the ego's.

    Attributes:
        T_ego_sender: (4, 4) float64.
        sigma_m, sigma_rad: posterior deviation of position and heading, never above the prior's.
        matches: expected number of the sender's boxes that are boxes of the ego; 0 if nothing was corrected.
    """

    T_ego_sender: Float64
    sigma_m: float
    sigma_rad: float
    matches: float = 0.0


_HEADINGS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # headings tried, in deviations of the prior
_FOLLOWED, _STEPS = 8, 12  # hypotheses followed to their modes, Gauss-Newton steps each
_MOST_BOXES = 256  # of either side; a scene holds some dozens
_MOST_PAIRS = 256  # the nearest ones; what a message holds must not decide how long the ego works on it


def refine(
    own: Boxes3D,
    theirs: Boxes3D,
    T_ego_sender: Float64,
    sigma_m: float,
    sigma_rad: float,
    config: RefinementConfig | None = None,
) -> Refined:
    """The posterior mode of a sender's pose, and what remains of its uncertainty.

    A sender that reports no uncertainty is believed: its pose comes back as it is (unless the config has a floor). So
    does the pose of a sender that shares no box with the ego.

    Args:
        own: the ego's detections in its own frame.
        theirs: the sender's detections in the sender's frame.
        T_ego_sender: (4, 4) as reported.
        sigma_m: reported deviation of the sender's position, along x and along y.
        sigma_rad: reported deviation of its heading.
        config: how boxes are compared.
    """
    config = config or RefinementConfig()
    unchanged = Refined(T_ego_sender, sigma_m, sigma_rad)
    prior = np.array([max(sigma_m, config.floor_m)] * 2 + [max(sigma_rad, np.radians(config.floor_deg))])
    own, theirs = _confident(own, config), _confident(theirs, config)
    if not prior.any() or len(own) == 0 or len(theirs) == 0:
        return unchanged
    moved = transform_boxes(torch.from_numpy(theirs.boxes).double(), torch.from_numpy(T_ego_sender)).numpy()
    pairs = _Pairs.near(own.boxes.astype(np.float64), moved, T_ego_sender[:2, 3], np.maximum(prior, 1e-6), config)
    if len(pairs.arms) == 0:
        return unchanged
    starts = pairs.hypotheses()
    modes = pairs.modes(_apart(starts[np.argsort(-pairs.log_posterior(starts), kind="stable")], config.along_m))
    score = pairs.log_posterior(modes)
    best = int(np.argmax(score))
    weights, _, information = pairs.normal_equations(modes[best][None])
    matches = float(weights.sum())
    if matches < config.min_matches:
        return unchanged
    # another mode that is nearly as good, a parking slot further on, is uncertainty too
    rival = np.exp(score - score[best]) * (np.abs(modes - modes[best])[:, :2].max(axis=1) > config.along_m)
    between = (rival[:, None] * (modes - modes[best]) ** 2).sum(axis=0) / (1 + rival.sum())
    deviation = np.minimum(np.sqrt(np.diag(np.linalg.inv(information[0])) + between), prior)
    return Refined(corrected(T_ego_sender, modes[best]), float(deviation[:2].max()), float(deviation[2]), matches)


def corrected(T_ego_sender: Float64, correction: Float64) -> Float64:
    """(4, 4) the transform after a (3,) correction."""
    dx, dy, dyaw = correction
    cos, sin = np.cos(dyaw), np.sin(dyaw)
    T = T_ego_sender.copy()
    T[:2, :3] = np.array([[cos, -sin], [sin, cos]]) @ T[:2, :3]
    T[:2, 3] = T_ego_sender[:2, 3] + (dx, dy)
    return T


def _apart(starts: Float64, distance: float) -> Float64:
    """The first of (H, 3) hypotheses whose positions are further apart than a distance in metres."""
    kept: list[Float64] = []
    while len(starts) and len(kept) < _FOLLOWED:
        kept.append(starts[0])
        starts = starts[np.hypot(*(starts - starts[0])[:, :2].T) > distance]
    return np.stack(kept)


def _confident(boxes: Boxes3D, config: RefinementConfig) -> Boxes3D:
    """The boxes worth comparing: the best ones above the least score."""
    if boxes.scores is None:
        return boxes[:_MOST_BOXES]
    kept = boxes[boxes.scores >= config.min_score]
    assert kept.scores is not None
    if len(kept) <= _MOST_BOXES:
        return kept
    return kept[np.sort(np.argsort(-kept.scores, kind="stable")[:_MOST_BOXES])]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of a sender's and an ego's box that can be one object under the prior.

    Attributes:
        arms: (P, 2) from the sender's position to its box, in the ego's axes, metres.
        axes: (P, 3, 3) turns an offset into the axes of the ego's box, in deviations of its noise.
        offsets: (P, 3) the ego's box minus the sender's: x, y, heading modulo half a turn.
        of_box: (P, S) 1 where the pair holds the sender's box.
        prior: (3,) deviations of the correction.
        config: how boxes are compared.
    """

    arms: Float64
    axes: Float64
    offsets: Float64
    of_box: Float64
    prior: Float64
    config: RefinementConfig

    @classmethod
    def near(cls, own: Float64, moved: Float64, position: Float64, prior: Float64, config: RefinementConfig) -> _Pairs:
        """From (E, 7) and (S, 7) boxes in the ego's frame and the sender's (2,) position there."""
        along, across, turn = config.along_m, config.across_m, np.radians(config.heading_deg)
        arms = moved[:, :2] - position
        offsets = own[None][..., [0, 1, 6]] - moved[:, None][..., [0, 1, 6]]
        offsets[..., 2] -= np.pi * np.round(offsets[..., 2] / np.pi)
        reach = config.reach * (prior[0] + np.linalg.norm(arms, axis=1) * prior[2] + along)
        distance = np.linalg.norm(offsets[..., :2], axis=2)
        possible = (distance <= reach[:, None]) & (np.abs(offsets[..., 2]) <= config.reach * (prior[2] + turn))
        rows, columns = np.nonzero(possible)
        nearest = np.argsort(distance[rows, columns], kind="stable")[:_MOST_PAIRS]
        rows, columns = rows[nearest], columns[nearest]
        cos, sin, zero = np.cos(own[columns, 6]), np.sin(own[columns, 6]), np.zeros(len(columns))
        axes = [[cos / along, sin / along, zero], [-sin / across, cos / across, zero], [zero, zero, zero + 1 / turn]]
        of_box = (rows[:, None] == np.arange(len(moved))).astype(np.float64)
        return cls(arms[rows], np.array(axes).transpose(2, 0, 1), offsets[rows, columns], of_box, prior, config)

    def hypotheses(self) -> Float64:
        """(H, 3) corrections to start from: none, and all that lay one box on another for a few headings."""
        yaw = np.repeat(np.array(_HEADINGS) * self.prior[2], len(self.arms))
        arms, shifts = (np.tile(part, (len(_HEADINGS), 1)) for part in (self.arms, self.offsets[:, :2]))
        starts = np.column_stack([shifts - _swing(arms, yaw), yaw])
        return np.concatenate(
            [np.zeros((1, 3)), starts[(np.abs(starts) <= self.config.reach * self.prior).all(axis=1)]]
        )

    def log_posterior(self, corrections: Float64) -> Float64:
        """(H,) unnormalised log posterior of (H, 3) corrections."""
        fit = np.log(self.config.outlier + self._likelihood(self._residuals(corrections)) @ self.of_box).sum(axis=1)
        result: Float64 = fit - 0.5 * ((corrections / self.prior) ** 2).sum(axis=1)
        return result

    def modes(self, corrections: Float64) -> Float64:
        """(H, 3) the modes that expectation maximisation reaches from (H, 3) corrections."""
        for _ in range(_STEPS):
            _, gradient, information = self.normal_equations(corrections)
            corrections = corrections + np.linalg.solve(information, gradient[..., None])[..., 0]
        return corrections

    def normal_equations(self, corrections: Float64) -> tuple[Float64, Float64, Float64]:
        """(H, P) weights of the pairs, (H, 3) gradients and (H, 3, 3) information at (H, 3) corrections."""
        residuals = self._residuals(corrections)
        likelihood = self._likelihood(residuals)
        weights = likelihood / (self.config.outlier + likelihood @ self.of_box @ self.of_box.T)
        motion = np.zeros((*likelihood.shape, 3, 3)) + np.eye(3)
        turned = self.arms + _swing(self.arms, corrections[:, 2, None])
        motion[..., 0, 2], motion[..., 1, 2] = -turned[..., 1], turned[..., 0]
        jacobian = self.axes @ motion
        weighted = (weights[..., None, None] * jacobian).swapaxes(-1, -2)
        gradient = (weighted @ residuals[..., None])[..., 0].sum(axis=1) - corrections / self.prior**2
        return weights, gradient, (weighted @ jacobian).sum(axis=1) + np.diag(self.prior**-2)

    def _residuals(self, corrections: Float64) -> Float64:
        """(H, P, 3) what (H, 3) corrections leave of the offsets, in deviations of their noise."""
        motion = np.repeat(corrections[:, None], len(self.arms), axis=1)
        motion[..., :2] += _swing(self.arms, corrections[:, 2, None])
        result: Float64 = (self.axes @ (self.offsets - motion)[..., None])[..., 0]
        return result

    def _likelihood(self, residuals: Float64) -> Float64:
        result: Float64 = np.exp(-0.5 * (residuals**2).sum(axis=-1))
        return result


def _swing(arms: Float64, yaw: Float64) -> Float64:
    """(..., 2) how far the ends of arms move when they are turned by yaw radians."""
    cos, sin = np.cos(yaw) - 1, np.sin(yaw)
    x, y = arms[..., 0], arms[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
