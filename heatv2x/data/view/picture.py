"""Draw a view: all agents' points and boxes from above, and boxes in the cameras' images. No display is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from heatv2x.data.view.frame_view import EDGES, Sight, View
from heatv2x.structures import AgentFrame, Camera, Float64

BOX, UNSEEN, AHEAD, POINTS = "#111111", "#9a9a9a", "#ffd400", "#8c9299"
HIT, FALSE, MISSED = "#009e73", "#d55e00", "#b0368c"
_HIT_IN_IMAGE, _FALSE_IN_IMAGE = "#2be0a8", "#ff6a2b"
_DASHED: Any = (0, (2, 2))
_NEAR_PLANE_M = 0.2
_DRAWN_IN_IMAGES_M = 80.0


def figure_of(view: View) -> Figure:
    """One picture: from above on the left (with detections: alone, together), and a row of images per agent."""
    rows = [agent for agent in view.frame.agents if agent.cameras]
    panels = max(1, len(view.sights))
    # inches below the panels for what lines and colours mean, two of them side by side
    keys = len(agent_keys(view)) + len(box_keys(view, view.sights[-1])) if view.sights else 0
    keys_in = 1.3 + 0.18 * -(-keys // 2) if keys else 0.0
    if not rows:
        figure = Figure((9.5 * panels, 9.5 + keys_in), layout="constrained")
        FigureCanvasAgg(figure)
        _draw_panels(view, figure)
        return figure
    columns = max(len(agent.cameras) for agent in rows)
    image = rows[0].cameras[0].image
    aspect = image.shape[1] / image.shape[0]
    if view.sights:  # two panels above, images below
        width = 8.5 * panels
        row_height = min(width / columns / aspect, 5.0) + 0.25
        heights = (8.5 + keys_in, row_height * len(rows))
        figure = Figure((width, sum(heights)), layout="constrained")
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    else:
        cell_width = min(8.0 / len(rows) * aspect, 11.0 / columns, 8.0)
        height = max(8.0, (cell_width / aspect + 0.25) * len(rows))
        figure = Figure((height + cell_width * columns, height), layout="constrained")
        above, below = figure.subfigures(1, 2, squeeze=False, width_ratios=(height, cell_width * columns))[0]
    FigureCanvasAgg(figure)
    _draw_panels(view, above)
    cells = below.subplots(len(rows), columns, squeeze=False)
    for row, agent in enumerate(rows):
        for column, cell in enumerate(cells[row]):
            cell.set_axis_off()
            if column < len(agent.cameras):
                draw_image(view, agent, agent.cameras[column], cell)
                cell.set_title(f"{agent.agent_id} {agent.cameras[column].name}", fontsize=8, color=view.colour(agent))
    return figure


def _draw_panels(view: View, figure: Any) -> None:
    panels = view.sights or (None,)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, sight in zip(all_axes, panels, strict=True):
        draw_from_above(view, axes, sight, legend=axes is all_axes[0])


def draw_from_above(
    view: View, axes: Axes, sight: Sight | None = None, half_m: float | None = None, legend: bool = True
) -> None:
    """All agents' points and all boxes in the ego's frame, x to the right and y upwards.

    Args:
        sight: draw what a model detects, too; points are then grey, so that colours tell right from wrong.
        half_m: half the side of the square that is shown around the ego. None takes `reach_m` where detections are
            drawn; elsewhere the square then holds all agents and `reach_m` around them.
        legend: explain lines and colours inside the picture.
    """
    frame, T_ego_world = view.frame, view.ego.pose.inverse()
    half_m = view.reach_m if half_m is None and sight is not None else half_m
    middle, half = _extent(view) if half_m is None else (np.zeros(2), half_m)
    for agent in frame.agents:
        _draw_points(view, agent, axes, half, POINTS if sight else view.colour(agent))
    missed = view.missed(sight) if sight is not None else np.zeros(len(frame.objects), bool)
    seen = frame.objects.hits.sum(axis=1) > 0
    for corners, is_seen, is_missed in zip(view.corners(), seen, missed, strict=True):
        style: dict[str, Any] = {"color": BOX, "lw": 0.8 if sight else 1.1}
        if not is_seen:
            style = {"color": UNSEEN, "lw": 1.1, "ls": _DASHED}
        if is_missed:
            style = {"color": MISSED, "lw": 1.6, "ls": (0, (4, 2)), "zorder": 3}
        _draw_box(axes, (corners @ T_ego_world[:3, :3].T + T_ego_world[:3, 3])[:4, :2], style)
    if sight is not None:
        _draw_detections(view, sight, axes, middle, half)
    for agent in frame.agents:
        _draw_agent(view, agent, axes)
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal")
    axes.set_xlabel(f"x forward of agent {view.ego.agent_id}, metres", fontsize=9)
    axes.set_ylabel("y to its left, metres", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e6e6e6", lw=0.5)
    axes.set_axisbelow(True)
    count = f"{_counted(len(frame.agents), 'agent')}, {_counted(len(frame.objects), 'labelled object')}"
    axes.set_title(f"{frame.name}: {count}" if sight is None else f"{frame.name}\n{view.title(sight)}", fontsize=11)
    if legend:
        handles = [
            Line2D([], [], label=text, **style) for text, style in (*agent_keys(view, sight), *box_keys(view, sight))
        ]
        place: dict[str, Any] = {"loc": "upper right", "framealpha": 0.9}
        if sight is not None:  # detections may lie in any corner: explain them outside
            place = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.08), "ncols": 2, "frameon": False}
        axes.legend(handles=handles, fontsize=8, **place)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _extent(view: View) -> tuple[Float64, float]:
    """Middle (2,) and half the side of the square that holds all agents and what is around them, metres."""
    places = np.stack([agent.pose.relative_to(view.ego.pose)[:2, 3] for agent in view.frame.agents])
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    return middle, float(np.ptp(places, axis=0).max()) / 2 + view.reach_m


def _draw_points(view: View, agent: AgentFrame, axes: Axes, half_m: float, colour: str) -> None:
    """An agent's points; the fewer there are on the ground that is shown, the larger."""
    points = view.points(agent)
    if not len(points):
        return
    high = points[:, 2] > np.percentile(points[:, 2], 20) + 0.4
    size = float(np.clip(20_000 / len(points) * (50.0 / half_m), 0.8, 9.0))
    axes.scatter(points[~high, 0], points[~high, 1], s=0.4 * size, c=colour, alpha=0.35, linewidths=0, rasterized=True)
    axes.scatter(points[high, 0], points[high, 1], s=size, c=colour, alpha=0.8, linewidths=0, rasterized=True)


def _draw_box(axes: Axes, box: Float64, style: dict[str, Any]) -> None:
    """(4, 2) corners, front first, with a line from the middle to the front."""
    axes.plot(*np.vstack([box, box[:1]]).T, **style)
    axes.plot(*np.stack([box.mean(axis=0), box[:2].mean(axis=0)]).T, **style)


def _draw_detections(view: View, sight: Sight, axes: Axes, middle: Float64, half: float) -> None:
    T_ego_world, scores = view.ego.pose.inverse(), sight.judged.detections.scores
    assert scores is not None
    colours = [HIT if hit or not sight.labelled else FALSE for hit in sight.judged.hit]
    for corners, score, colour in zip(view.detected_corners(sight), scores, colours, strict=True):
        box = (corners @ T_ego_world[:3, :3].T + T_ego_world[:3, 3])[:4, :2]
        _draw_box(axes, box, {"color": colour, "lw": 1.5, "zorder": 4})
        corner = box[np.argmax(box.sum(axis=1))]
        if (np.abs(corner - middle) < half).all():
            text = axes.annotate(
                f"{score:.2f}",
                tuple(corner),
                xytext=(2, 2),
                textcoords="offset points",
                fontsize=6,
                color=colour,
                zorder=5,
                clip_on=True,
            )
            text.set_in_layout(False)


def draw_image(view: View, agent: AgentFrame, camera: Camera, axes: Axes) -> None:
    """A camera's image with the boxes of near objects, and with what a model detects there."""
    axes.imshow(camera.image, aspect="equal", interpolation="antialiased")
    axes.add_collection(LineCollection(list(projected_edges(view, agent, camera)), colors=AHEAD, linewidths=0.7))
    if view.sights:
        sight = view.sights[-1]
        colours = [_HIT_IN_IMAGE if hit or not sight.labelled else _FALSE_IN_IMAGE for hit in sight.judged.hit]
        for corners, colour in zip(view.detected_corners(sight), colours, strict=True):
            edges = list(_edges_in_image(corners[None], agent, camera))
            axes.add_collection(LineCollection(edges, colors=colour, linewidths=1.0))
    axes.set(xlim=(-0.5, camera.image.shape[1] - 0.5), ylim=(camera.image.shape[0] - 0.5, -0.5))


def projected_edges(view: View, agent: AgentFrame, camera: Camera) -> Iterator[Float64]:
    """(2, 2) pixels of every edge of the near objects' boxes, as far as it lies in front of the camera."""
    column = [each.agent_id for each in view.frame.agents].index(agent.agent_id)
    objects = view.frame.objects
    drawn = (objects.hits[:, column] > 0) | objects.camera_visible[:, column]
    yield from _edges_in_image(view.corners()[drawn], agent, camera)


def _edges_in_image(boxes: Float64, agent: AgentFrame, camera: Camera) -> Iterator[Float64]:
    """The same for (N, 8, 3) corners in the world."""
    T_camera_world = np.linalg.inv(agent.pose.matrix @ camera.T_agent_camera)
    for corners in boxes:
        local = corners @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]
        if local[:, 2].max() < _NEAR_PLANE_M or np.linalg.norm(local.mean(axis=0)) > _DRAWN_IN_IMAGES_M:
            continue
        for start, end in EDGES:
            edge = _before_camera(local[start], local[end])
            if edge is not None:
                pixels = edge @ camera.K.T
                yield pixels[:, :2] / pixels[:, 2:]


def _before_camera(start: Float64, end: Float64) -> Float64 | None:
    """(2, 3) the part of an edge beyond the near plane, None if there is none."""
    if start[2] < _NEAR_PLANE_M and end[2] < _NEAR_PLANE_M:
        return None
    if start[2] < _NEAR_PLANE_M:
        start = end + (start - end) * (end[2] - _NEAR_PLANE_M) / (end[2] - start[2])
    elif end[2] < _NEAR_PLANE_M:
        end = start + (end - start) * (start[2] - _NEAR_PLANE_M) / (start[2] - end[2])
    return np.stack([start, end])


def _draw_agent(view: View, agent: AgentFrame, axes: Axes) -> None:
    T = agent.pose.relative_to(view.ego.pose)
    yaw = np.arctan2(T[1, 0], T[0, 0])
    shape = np.array([[2.6, 0], [-1.6, 1.5], [-0.8, 0], [-1.6, -1.5]])
    if agent.is_roadside:
        shape = np.array([[1.6, 0], [0, 1.6], [-1.6, 0], [0, -1.6]])
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    axes.fill(*(shape @ turn.T + T[:2, 3]).T, fc=view.colour(agent), ec="white", lw=0.8, zorder=5)
    label = axes.annotate(  # clipped, and no part of the layout: agents may stand beyond the edge
        view.name(agent),
        (float(T[0, 3]), float(T[1, 3])),
        xytext=(7, 7),
        textcoords="offset points",
        fontsize=8,
        color="white",
        zorder=6,
        clip_on=True,
        bbox={"boxstyle": "round,pad=0.25", "fc": view.colour(agent), "ec": "none", "alpha": 0.9},
    )
    label.set_in_layout(False)


# --- what lines and colours mean --------------------------------------------------------------------------------------


def agent_keys(view: View, sight: Sight | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(text, style) of every agent: its sweep, and the type it plays."""
    keys = []
    for agent in view.frame.agents:
        sweep = view.lidars.get(agent.agent_id)
        what = f"{sweep}, {len(agent.lidars[sweep]):,} points" if sweep else "no LiDAR"
        role = sight.types.get(agent.agent_id) if sight is not None else None
        text = f"{view.name(agent)}: {what}" + (f"; plays {role}" if role else "")
        keys.append((text, {"color": view.colour(agent), "marker": "o", "ls": "", "ms": 5}))
    return keys


def box_keys(view: View, sight: Sight | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(text, style) of every kind of box that may be drawn."""
    keys: list[tuple[str, dict[str, Any]]] = [("object, the line shows its front", {"color": BOX, "lw": 1.2})]
    if (view.frame.objects.hits.sum(axis=1) == 0).any():
        keys.append(("object without a LiDAR return", {"color": UNSEEN, "lw": 1.2, "ls": _DASHED}))
    if sight is not None and sight.labelled:
        keys.append(("detection that finds an object, with its score", {"color": HIT, "lw": 1.6}))
        keys.append(("false detection", {"color": FALSE, "lw": 1.6}))
        keys.append(("object that was missed", {"color": MISSED, "lw": 1.6, "ls": (0, (4, 2))}))
    elif sight is not None:
        keys.append(("detection, with its score", {"color": HIT, "lw": 1.6}))
    return keys
