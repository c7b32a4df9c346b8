"""A view as a recording for the 3D viewer rerun."""

from __future__ import annotations

from pathlib import Path

from heatv2x.core.files import atomic_path
from heatv2x.data.view.frame_view import EDGES, View
from heatv2x.data.view.picture import FALSE, HIT
from heatv2x.errors import ConfigError

ROUND = [0, 1, 2, 3, 0, 4, 5, 1, 5, 6, 2, 6, 7, 3, 7, 4]
"""All edges of a box in one stroke, by the numbers of its corners in `View.corners`."""


def log_to_rerun(view: View, out: Path) -> None:
    """Write a recording for the 3D viewer rerun.

    Raises:
        ConfigError: rerun is not installed; names the extra.
    """
    try:
        import rerun  # noqa: PLC0415 - 680 MB that only this needs
    except ImportError as error:
        raise ConfigError(
            f"an .rrd file needs rerun ({error}): pip install 'heatv2x[view]', or set out=frame.html"
        ) from error
    recording = rerun.RecordingStream("heatv2x")
    T_ego_world = view.ego.pose.inverse()
    with atomic_path(out) as path:
        recording.save(path)
        recording.log("world", rerun.ViewCoordinates.FLU, static=True)
        for agent in view.frame.agents:
            rgb = _rgb(view.colour(agent))
            recording.log(
                f"world/agents/{agent.agent_id}/points", rerun.Points3D(view.points(agent), colors=rgb, radii=0.05)
            )
            for camera in agent.cameras:
                T = T_ego_world @ agent.pose.matrix @ camera.T_agent_camera
                place = f"world/agents/{agent.agent_id}/{camera.name}"
                recording.log(place, rerun.Transform3D(translation=T[:3, 3], mat3x3=T[:3, :3]))
                height, width = camera.image.shape[:2]
                recording.log(place, rerun.Pinhole(image_from_camera=camera.K, width=width, height=height))
                recording.log(place, rerun.Image(camera.image).compress())
        edges = [
            (corners @ T_ego_world[:3, :3].T + T_ego_world[:3, 3])[list(edge)]
            for corners in view.corners()
            for edge in EDGES
        ]
        recording.log("world/objects", rerun.LineStrips3D(edges, colors=[255, 212, 0], radii=0.05))
        for sight in view.sights:
            scores, name = sight.judged.detections.scores, "together" if sight.heard else "alone"
            assert scores is not None
            paths = [
                (corners @ T_ego_world[:3, :3].T + T_ego_world[:3, 3])[ROUND]
                for corners in view.detected_corners(sight)
            ]
            colours = [_rgb(HIT if hit or not sight.labelled else FALSE) for hit in sight.judged.hit]
            texts = [f"{score:.2f}" for score in scores]
            recording.log(
                f"world/detections/{name}", rerun.LineStrips3D(paths, colors=colours, labels=texts, radii=0.06)
            )
        recording.flush()
        recording.disconnect()


def _rgb(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
