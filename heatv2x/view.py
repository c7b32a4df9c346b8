"""Draw a frame as it was read: all agents' points and boxes from above, and boxes in the cameras' images.

A picture that looks right means poses, handedness, labels and calibration belong together. No display is needed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pydantic
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from heatv2x.config import Config, nearest
from heatv2x.datasets.base import Dataset, DatasetConfig
from heatv2x.errors import ConfigError
from heatv2x.files import atomic_path, write_text
from heatv2x.structures import LIDARS, AgentFrame, Camera, Float64, Frame

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#6f4fb0", "#7f7f7f")
"""Told apart by colour-blind eyes, too (Okabe and Ito, darkened for white ground)."""
BOX, UNSEEN, AHEAD = "#111111", "#9a9a9a", "#ffd400"
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
_NEAR_PLANE_M = 0.2
_DRAWN_IN_IMAGES_M = 80.0
_POINTS_PER_AGENT = 60_000
_SUFFIXES = (".png", ".html", ".rrd")


class ViewConfig(Config):
    """Attributes:
    out: the picture: .png, .html, or .rrd for rerun.
    dataset: the dataset part that reads the folder, where it is not recognised; dataset.settings.KEY=VALUE are the
        part's own settings.
    split: the first one of the folder by default.
    frame: its number, or "scenario/timestamp"; also the word after the folder.
    lidar: which sweep of those who have several; the one with most beams by default.
    cameras: whether images are drawn.
    reach_m: how far around the agents, metres.
    """

    out: Path = Path("frame.png")
    dataset: str | DatasetConfig | None = None
    split: str | None = None
    frame: str | int = 0
    lidar: str | None = None
    cameras: bool = True
    reach_m: float = pydantic.Field(50.0, gt=0, le=500)

    @pydantic.field_validator("out")
    @classmethod
    def _known(cls, out: Path) -> Path:
        if out.suffix.lower() not in _SUFFIXES:
            raise ValueError(f"'{out.name}' must end in {', '.join(_SUFFIXES)}")
        return out


@dataclass(frozen=True)
class View:
    """What is drawn of a frame.

    Attributes:
        frame: with one sweep and the cameras of each agent.
        lidars: the sweep's name by agent id.
        reach_m: how far around the agents.
    """

    frame: Frame
    lidars: dict[int, str]
    reach_m: float

    @property
    def ego(self) -> AgentFrame:
        """The agent in whose frame everything is drawn: the first one."""
        return self.frame.agents[0]

    def points(self, agent: AgentFrame) -> Float64:
        """(P, 3) in the ego's frame, thinned."""
        name = self.lidars.get(agent.agent_id)
        if name is None:
            return np.zeros((0, 3))
        points = agent.lidars[name].points
        points = points[:: max(1, len(points) // _POINTS_PER_AGENT)]
        T_ego_agent = agent.pose.relative_to(self.ego.pose)
        return np.asarray(points[:, :3] @ T_ego_agent[:3, :3].T + T_ego_agent[:3, 3])

    def corners(self) -> Float64:
        """(N, 8, 3) of all objects in the world: bottom front left, then round, then the top."""
        objects = self.frame.objects
        signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
        unit = np.array([[*sign, z] for z in (-1, 1) for sign in signs])
        local = unit[None] * objects.size[:, None] / 2
        T = objects.T_world_object
        return np.asarray(local @ T[:, :3, :3].transpose(0, 2, 1) + T[:, None, :3, 3])


def frame_number(dataset: Dataset, wanted: str | int) -> int:
    """The index of a frame by number or name.

    Raises:
        ConfigError: there is no such frame; the message names the nearest.
    """
    text = str(wanted)
    if text.lstrip("-").isdecimal() and "/" not in text:
        index = int(text)
        if not -len(dataset) <= index < len(dataset):
            raise ConfigError(f"there is no frame {index}: the split has frames 0 to {len(dataset) - 1}")
        return index % len(dataset)
    names = {dataset.name(index): index for index in range(len(dataset))}
    if text not in names:
        raise ConfigError(f"there is no frame '{text}'; {nearest(text, list(names)[:200])[:400]}")
    return names[text]


def look(dataset: Dataset, index: int, config: ViewConfig) -> View:
    """Read a frame with one sweep and, if wanted, all cameras of every agent.

    Raises:
        DataError: a file is missing or corrupt.
        ConfigError: no agent has the sweep that `lidar` names.
    """
    available = dataset.available(index)
    lidars: dict[int, str] = {}
    for agent, names in available.items():
        wanted = LIDARS if config.lidar is None else (config.lidar,)
        if sweep := next((name for name in wanted if name in names), None):
            lidars[agent] = sweep
    if config.lidar is not None and not lidars:
        raise ConfigError(f"no agent of {dataset.name(index)} has lidar={config.lidar}: {available}")
    camera = ["camera"] if config.cameras else []
    sensors = {
        agent: [*([lidars[agent]] if agent in lidars else []), *(name for name in camera if name in names)]
        for agent, names in available.items()
    }
    return View(dataset.read(index, sensors), lidars, config.reach_m)


def draw(view: View, out: Path) -> None:
    """Draw a frame into a .png, .html or .rrd file.

    Raises:
        ConfigError: rerun is asked for and not installed.
        DataError: the file cannot be written.
    """
    if out.suffix.lower() == ".png":
        with atomic_path(out) as path:
            figure_of(view).savefig(path, dpi=130)
    elif out.suffix.lower() == ".html":
        write_text(out, page_of(view))
    else:
        log_to_rerun(view, out)


def figure_of(view: View) -> Figure:
    """One picture: from above on the left, a row of images per agent on the right."""
    rows = [agent for agent in view.frame.agents if agent.cameras]
    columns = max((len(agent.cameras) for agent in rows), default=0)
    if not rows:
        figure = Figure((9.5, 9.5), layout="constrained")
        FigureCanvasAgg(figure)
        draw_from_above(view, figure.add_subplot())
        return figure
    image = rows[0].cameras[0].image
    aspect = image.shape[1] / image.shape[0]
    cell_width = min(8.0 / len(rows) * aspect, 11.0 / columns, 8.0)
    height = max(8.0, (cell_width / aspect + 0.25) * len(rows))
    figure = Figure((height + cell_width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(height, cell_width * columns))
    draw_from_above(view, left.add_subplot())
    cells = right.subplots(len(rows), columns, squeeze=False)
    for row, agent in enumerate(rows):
        for column, cell in enumerate(cells[row]):
            cell.set_axis_off()
            if column < len(agent.cameras):
                draw_image(view, agent, agent.cameras[column], cell)
                cell.set_title(f"{agent.agent_id} {agent.cameras[column].name}", fontsize=8, color=_colour(view, agent))
    return figure


def draw_from_above(view: View, axes: Axes) -> None:
    """All agents' points and all boxes in the ego's frame, x to the right and y upwards."""
    frame, T_ego_world = view.frame, view.ego.pose.inverse()
    for agent in frame.agents:
        points, colour = view.points(agent), _colour(view, agent)
        if len(points):
            high = points[:, 2] > np.percentile(points[:, 2], 20) + 0.4
            axes.scatter(points[~high, 0], points[~high, 1], s=0.3, c=colour, alpha=0.3, linewidths=0, rasterized=True)
            axes.scatter(points[high, 0], points[high, 1], s=0.8, c=colour, alpha=0.8, linewidths=0, rasterized=True)
    for corners, hits in zip(view.corners(), frame.objects.hits, strict=True):
        box = (corners @ T_ego_world[:3, :3].T + T_ego_world[:3, 3])[:4, :2]
        seen = hits.sum() > 0
        style: dict[str, Any] = {"color": BOX if seen else UNSEEN, "lw": 1.1, "ls": "-" if seen else (0, (2, 2))}
        axes.plot(*np.vstack([box, box[:1]]).T, **style)
        axes.plot(*np.stack([box.mean(axis=0), box[:2].mean(axis=0)]).T, **style)
    for agent in frame.agents:
        _draw_agent(view, agent, axes)
    places = np.stack([agent.pose.relative_to(view.ego.pose)[:2, 3] for agent in frame.agents])
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    half = float(np.ptp(places, axis=0).max()) / 2 + view.reach_m
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal")
    axes.set_xlabel(f"x forward of agent {view.ego.agent_id}, metres", fontsize=9)
    axes.set_ylabel("y to its left, metres", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e6e6e6", lw=0.5)
    axes.set_axisbelow(True)
    axes.set_title(f"{frame.name}: {len(frame.agents)} agents, {len(frame.objects)} labelled objects", fontsize=11)
    _draw_legend(view, axes)


def draw_image(view: View, agent: AgentFrame, camera: Camera, axes: Axes) -> None:
    """A camera's image with the boxes of near objects."""
    axes.imshow(camera.image, aspect="equal", interpolation="antialiased")
    lines = list(projected_edges(view, agent, camera))
    axes.add_collection(LineCollection(lines, colors=AHEAD, linewidths=0.7))
    axes.set(xlim=(-0.5, camera.image.shape[1] - 0.5), ylim=(camera.image.shape[0] - 0.5, -0.5))


def projected_edges(view: View, agent: AgentFrame, camera: Camera) -> Iterator[Float64]:
    """(2, 2) pixels of every edge of the near objects' boxes, as far as it lies in front of the camera."""
    T_camera_world = np.linalg.inv(agent.pose.matrix @ camera.T_agent_camera)
    column = [each.agent_id for each in view.frame.agents].index(agent.agent_id)
    objects = view.frame.objects
    drawn = (objects.hits[:, column] > 0) | objects.camera_visible[:, column]
    for corners in view.corners()[drawn]:
        local = corners @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]
        if local[:, 2].max() < _NEAR_PLANE_M or np.linalg.norm(local.mean(axis=0)) > _DRAWN_IN_IMAGES_M:
            continue
        for start, end in _EDGES:
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
    axes.fill(*(shape @ turn.T + T[:2, 3]).T, fc=_colour(view, agent), ec="white", lw=0.8, zorder=5)
    axes.annotate(
        _name(view, agent),
        (float(T[0, 3]), float(T[1, 3])),
        xytext=(7, 7),
        textcoords="offset points",
        fontsize=8,
        color="white",
        zorder=6,
        bbox={"boxstyle": "round,pad=0.25", "fc": _colour(view, agent), "ec": "none", "alpha": 0.9},
    )


def _draw_legend(view: View, axes: Axes) -> None:
    lines = []
    for agent in view.frame.agents:
        sweep = view.lidars.get(agent.agent_id)
        what = f"{sweep}, {len(agent.lidars[sweep]):,} points" if sweep else "no LiDAR"
        lines.append(
            Line2D([], [], color=_colour(view, agent), marker="o", ls="", ms=5, label=f"{_name(view, agent)}: {what}")
        )
    lines.append(Line2D([], [], color=BOX, lw=1.2, label="object, the line shows its front"))
    if (view.frame.objects.hits.sum(axis=1) == 0).any():
        lines.append(Line2D([], [], color=UNSEEN, lw=1.2, ls=(0, (2, 2)), label="object without a LiDAR return"))
    axes.legend(handles=lines, fontsize=8, loc="upper right", framealpha=0.9)


def _name(view: View, agent: AgentFrame) -> str:
    role = ", ego" if agent is view.ego else ", roadside" if agent.is_roadside else ""
    return f"{agent.agent_id}{role}"


def _colour(view: View, agent: AgentFrame) -> str:
    number = [each.agent_id for each in view.frame.agents].index(agent.agent_id)
    return COLOURS[number % len(COLOURS)]


# --- other forms ------------------------------------------------------------------------------------------------------

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{{ frame.name }}</title><style>
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1500px;padding:0 1rem;color:#1a1a1a}
body{background:#fff}img{max-width:100%;height:auto}table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #e4e4e4}
td:first-child,th:first-child{text-align:left}th{font-weight:600}.tables{display:flex;flex-wrap:wrap;gap:2.5rem}
</style><h1>{{ frame.name }}</h1>
<p>Everything in the frame of agent {{ frame.agents[0].agent_id }}: x forward, y left, metres.</p>
<img alt="the frame from above, and the cameras" src="data:image/png;base64,{{ picture }}"><div class="tables">
{% for title, head, rows in tables %}<div><h2>{{ title }}</h2><table>
<tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endfor %}
</div></html>
"""


def page_of(view: View) -> str:
    """A self-contained HTML page: the picture, and agents and objects as tables."""
    stream = io.BytesIO()
    figure_of(view).savefig(stream, format="png", dpi=130)
    picture = base64.b64encode(stream.getvalue()).decode()
    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    return template.render(frame=view.frame, picture=picture, tables=[_agents(view), _objects(view)])


def _agents(view: View) -> tuple[str, list[str], list[list[str]]]:
    rows = []
    for agent in view.frame.agents:
        T, sweep = agent.pose.relative_to(view.ego.pose), view.lidars.get(agent.agent_id)
        yaw = np.degrees(np.arctan2(T[1, 0], T[0, 0]))
        points = f"{len(agent.lidars[sweep]):,}" if sweep else "-"
        place = [*(_number(value) for value in T[:3, 3]), f"{_number(yaw, 0)}°"]
        rows.append([_name(view, agent), *place, sweep or "-", points, str(len(agent.cameras))])
    return "Agents", ["agent", "x", "y", "z", "yaw", "sweep", "points", "cameras"], rows


def _objects(view: View) -> tuple[str, list[str], list[list[str]]]:
    objects, rows = view.frame.objects, []
    T = view.ego.pose.inverse() @ objects.T_world_object
    for n in np.argsort(np.hypot(T[:, 0, 3], T[:, 1, 3])):
        size = " × ".join(f"{side:.1f}" for side in objects.size[n])
        seen = [str(hits) if objects.counted else "yes" if hits else "" for hits in objects.hits[n]]
        rows.append([str(objects.ids[n]), _number(T[n, 0, 3]), _number(T[n, 1, 3]), size, *seen])
    column = "hits of" if objects.counted else "seen by"
    return "Objects", ["object", "x", "y", "size", *(f"{column} {a.agent_id}" for a in view.frame.agents)], rows


def _number(value: float, digits: int = 1) -> str:
    return f"{round(float(value), digits) + 0.0:.{digits}f}"  # minus zero becomes zero


def log_to_rerun(view: View, out: Path) -> None:
    """Write a recording for the 3D viewer rerun.

    Raises:
        ConfigError: rerun is not installed; names the extra.
    """
    try:
        import rerun  # noqa: PLC0415 - 680 MB that only this needs
    except ImportError as error:
        raise ConfigError(
            f"an .rrd file needs rerun ({error}): pip install 'heatv2x[view]', or say out=frame.html"
        ) from error
    recording = rerun.RecordingStream("heatv2x")
    T_ego_world = view.ego.pose.inverse()
    with atomic_path(out) as path:
        recording.save(path)
        recording.log("world", rerun.ViewCoordinates.FLU, static=True)
        for agent in view.frame.agents:
            colour = _colour(view, agent)
            rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
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
            for edge in _EDGES
        ]
        recording.log("world/objects", rerun.LineStrips3D(edges, colors=[255, 212, 0], radii=0.05))
        recording.flush()
        recording.disconnect()
