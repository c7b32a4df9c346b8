"""One evaluated scene as pixels, drawn as `heatv2x view` draws a frame."""

from __future__ import annotations

import numpy as np

from heatv2x.data.view.frame_view import Sight, View
from heatv2x.evaluation.results import SceneResult
from heatv2x.geometry.grid import BevGrid
from heatv2x.geometry.matching import judge
from heatv2x.structures import UInt8

_SCORE = 0.3  # detections below it are not drawn
_SIZE_IN, _DPI = 8.0, 90


def from_above(scene: SceneResult, grid: BevGrid) -> UInt8:
    """(H, W, 3) uint8: all points, and what was found, missed and false, around the ego.

    Args:
        scene: with its sensors.
        grid: the ego's range.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes long to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    from heatv2x.data.view.picture import draw_from_above  # noqa: PLC0415

    agents = scene.frame.agents
    ids = [agent.agent_id for agent in agents]
    ego = agents[scene.ego]
    frame = scene.frame.with_agents((ego, *(agent for agent in agents if agent is not ego)))
    types = {message.sender: message.agent_type for message in (scene.ego_message, *scene.messages)}
    sight = Sight(tuple(ids[j] for j in scene.heard), types, judge(scene.detections, scene.truth, _SCORE))
    lidars = {agent.agent_id: next(iter(agent.lidars)) for agent in agents if agent.lidars}
    figure = Figure((_SIZE_IN, _SIZE_IN * 1.2), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    view = View(frame, lidars, max(grid.x_max, grid.y_max), (sight,))
    draw_from_above(view, figure.subplots(), sight)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()
