"""From evaluated scenes to what the report draws."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from heatv2x.data.ground_truth import ground_truth
from heatv2x.evaluation.report.scene import (
    AgentView,
    CameraView,
    DetectionSet,
    GridExtent,
    Scenes,
    SceneView,
    jpeg,
    pack_map,
    pack_points,
)
from heatv2x.evaluation.results import SceneResult
from heatv2x.geometry.handedness import maps_on
from heatv2x.link.message import Message
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.links import links_of
from heatv2x.structures import AgentFrame, Float32


def collect_scenes(
    model: Collaboration, alone: Mapping[int, SceneResult], together: Mapping[int, SceneResult] | None = None
) -> Scenes:
    """The frames of the report's browser.

    Args:
        model: the model that collaborated; it is asked what each sender contributed.
        alone, together: the same frames without and with messages, by index; without `together` nobody was heard.
    """
    views = [scene_view(model, alone[i], None if together is None else together[i]) for i in sorted(alone)]
    return Scenes(extent_of(model), views)


def extent_of(model: Collaboration) -> GridExtent:
    """The ground that a model looks at."""
    grid = model.grid
    return GridExtent(grid.x_min, grid.x_max, grid.y_min, grid.y_max, grid.cell)


def scene_view(model: Collaboration, alone: SceneResult, together: SceneResult | None = None) -> SceneView:
    """One frame of the browser, from the same frame evaluated without and with messages."""
    scene = alone if together is None else together
    frame, truth = scene.frame, scene.truth
    ego = frame.agents[scene.ego]
    members = [scene.ego, *scene.heard]
    types = [scene.ego_message.agent_type, *(message.agent_type for message in scene.messages)]
    sizes = [None, *scene.message_bytes]
    hits = _hits_by_agent(scene, members)
    agents = []
    for column, member in enumerate(members):
        sole = (hits[:, column] > 0) & ((hits > 0).sum(axis=1) == 1)
        view = AgentView.at(
            frame.agents[member],
            ego,
            types[column],
            message_bytes=sizes[column],
            points=pack_points(_points_in_ego(frame.agents[member], ego)),
            sole_objects=int(sole.sum()),
        )
        agents.append(view)
    cameras = [
        CameraView(frame.agents[member].agent_id, camera.name, jpeg(camera.image))
        for member in members
        for camera in frame.agents[member].cameras
    ]
    visible = ground_truth(frame, scene.ego, [scene.ego])
    seen = set() if visible.ids is None else set(visible.ids.tolist())
    detections = {"ego_alone": DetectionSet.of(alone.detections)}
    if together is not None:
        detections["collaborative"] = DetectionSet.of(together.detections)
    return SceneView(
        frame.name,
        agents,
        ground_truth=truth.boxes.tolist(),
        visible_to_ego=[bool(i in seen) for i in ([] if truth.ids is None else truth.ids.tolist())],
        hits=[] if truth.hits is None else truth.hits.tolist(),
        hits_by_agent=hits.tolist() if frame.objects.counted else [],
        detections=detections,
        contribution=list(contributions(model, scene)),
        cameras=cameras,
    )


@torch.no_grad()
def contributions(model: Collaboration, scene: SceneResult) -> list[str]:
    """A packed map for every sender: the share of feature channels it won in each cell."""
    ego, received = scene.ego_message, scene.messages
    if ego.feature is None or not received:
        return []
    messages: list[Message] = [ego, *received]
    features = torch.stack([model.feature_of(message) for message in messages])
    types = [message.agent_type for message in messages]
    ego_feature, arrived = model.receive(
        features, features, types, links_of(ego, received, model.grid), model.hears_parts
    )
    shares = model.fusion.contributions(ego_feature, arrived)[0]
    return [pack_map(maps_on(model.grid, share).cpu().numpy()) for share in shares]


def _hits_by_agent(scene: SceneResult, members: list[int]) -> np.ndarray:
    """(N, A) returns on every ground-truth box by member."""
    objects = scene.frame.objects
    row = {int(identity): index for index, identity in enumerate(objects.ids)}
    ids = [] if scene.truth.ids is None else scene.truth.ids.tolist()
    return objects.hits[[row[i] for i in ids]][:, members] if ids else np.zeros((0, len(members)), np.int32)


def _points_in_ego(agent: AgentFrame, ego: AgentFrame) -> Float32:
    """(P, 2) points of an agent's LiDAR above the ground, in the ego's frame; none for an agent without one."""
    if not agent.lidars:
        return np.zeros((0, 2), np.float32)
    T = agent.pose.relative_to(ego.pose)
    points = next(iter(agent.lidars.values())).points
    # the road is no news in a picture: keep what stands up from it
    ground = np.percentile(points[:, 2], 5) if len(points) else 0.0
    points = points[points[:, 2] > ground + 0.3]
    return np.asarray(points[:, :2] @ T[:2, :2].T + T[:2, 3], np.float32)
