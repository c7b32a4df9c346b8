"""A view as an HTML page: pictures, and agents, objects and detections as tables. It loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from typing import Any

import jinja2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from heatv2x.data.view.frame_view import Sight, View
from heatv2x.data.view.picture import agent_keys, box_keys, draw_from_above, draw_image
from heatv2x.geometry.boxes import in_world

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ frame.name }}</title><style>
*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1500px;padding:0 1rem;color:#1a1a1a}
body{background:#fff}
h1{font-size:clamp(1.15rem,4.5vw,1.9rem);line-height:1.2;overflow-wrap:anywhere;margin:0 0 .6rem}
h2{font-size:1.15rem;margin:1.4rem 0 .3rem}p{margin:.3rem 0 .8rem;overflow-wrap:anywhere}
img{display:block;width:100%;height:auto}figure{margin:0;min-width:0}figcaption{font-size:.9rem;margin:.2rem 0}
.above{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:1rem}
.above figure{max-width:900px}
.cameras{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:.6rem 1rem}
.keys{list-style:none;margin:.8rem 0;padding:0;display:flex;flex-wrap:wrap;gap:.25rem 1.4rem;font-size:.9rem}
.keys i{display:inline-block;vertical-align:middle;margin-right:.45rem}
.tables{display:flex;flex-wrap:wrap;gap:0 2.5rem}.tables>div{min-width:0;max-width:100%}
.box{overflow-x:auto;max-width:100%}table{border-collapse:collapse}
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #e4e4e4;white-space:nowrap}
td:first-child,th:first-child{text-align:left;padding-left:0}th{font-weight:600}
</style><h1>{{ frame.name }}</h1>
<p>Everything in the frame of agent {{ frame.agents[0].agent_id }}: x forward, y left, metres.</p>
<div class="above">
{% for caption, picture in above %}<figure><figcaption>{{ caption }}</figcaption>
<img alt="the frame from above" src="data:image/png;base64,{{ picture }}"></figure>{% endfor %}</div>
<ul class="keys">{% for text, style in keys %}<li><i style="{{ style }}"></i>{{ text }}</li>{% endfor %}</ul>
{% if cameras %}<h2>Cameras</h2><div class="cameras">
{% for caption, picture in cameras %}<figure><img alt="{{ caption }}" src="data:image/jpeg;base64,{{ picture }}">
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}</div>{% endif %}
<div class="tables">
{% for title, head, rows in tables %}<div><h2>{{ title }}</h2><div class="box" tabindex="0"><table>
<tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table></div></div>{% endfor %}
</div></html>
"""


def page_of(view: View) -> str:
    """A self-contained page that can be read on a phone, too."""
    sights: tuple[Sight | None, ...] = view.sights or (None,)
    above = [(view.title(sight) if sight else "", _from_above(view, sight)) for sight in sights]
    cameras = [
        (f"Agent {agent.agent_id}, {camera.name}", _camera(view, number, place))
        for number, agent in enumerate(view.frame.agents)
        for place, camera in enumerate(agent.cameras)
    ]
    keys = [(text, _css(style)) for text, style in (*agent_keys(view, sights[-1]), *box_keys(view, sights[-1]))]
    tables = [_agents(view), *(_detections(view, sight) for sight in view.sights), _objects(view)]
    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    return template.render(frame=view.frame, above=above, cameras=cameras, keys=keys, tables=tables)


def _from_above(view: View, sight: Sight | None) -> str:
    figure = Figure((6.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_from_above(view, axes, sight, legend=False)
    axes.set_title("")
    return _encoded(figure, "png", 190)


def _camera(view: View, number: int, place: int) -> str:
    agent = view.frame.agents[number]
    camera = agent.cameras[place]
    height, width = camera.image.shape[:2]
    figure = Figure((6.4, 6.4 * height / width))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    draw_image(view, agent, camera, axes)
    return _encoded(figure, "jpeg", 110)


def _encoded(figure: Figure, kind: str, dpi: int) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=dpi)
    return base64.b64encode(stream.getvalue()).decode()


def _css(style: dict[str, Any]) -> str:
    """A key's style as the page draws it: a dot for an agent, a line for a box."""
    if "marker" in style:
        return f"width:11px;height:11px;border-radius:50%;background:{style['color']}"
    kind = "dashed" if "ls" in style else "solid"
    return f"width:24px;height:0;border-top:{1.6 * style['lw']:.1f}px {kind} {style['color']}"


def _agents(view: View) -> tuple[str, list[str], list[list[str]]]:
    rows = []
    for agent in view.frame.agents:
        T, sweep = agent.pose.relative_to(view.ego.pose), view.lidars.get(agent.agent_id)
        yaw = np.degrees(np.arctan2(T[1, 0], T[0, 0]))
        points = f"{len(agent.lidars[sweep]):,}" if sweep else "-"
        place = [*(_number(value) for value in T[:3, 3]), f"{_number(yaw, 0)}°"]
        rows.append([view.name(agent), *place, sweep or "-", points, str(len(agent.cameras))])
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


def _detections(view: View, sight: Sight) -> tuple[str, list[str], list[list[str]]]:
    judged, rows = sight.judged, []
    scores, ids = judged.detections.scores, judged.truth.ids
    assert scores is not None
    boxes = judged.detections.boxes.astype(np.float64)
    world = in_world(boxes, view.ego.pose.matrix)
    for box, out, score, label, overlap in zip(boxes, world, scores, judged.label, judged.overlap, strict=True):
        size = " × ".join(f"{side:.1f}" for side in box[3:6])
        verdict = "false" if label < 0 else f"object {label if ids is None else ids[label]}"
        places = [_number(box[0]), _number(box[1]), size, f"{_number(np.degrees(box[6]), 0)}°"]
        shown = [verdict, f"{overlap:.2f}"] if sight.labelled else ["-", "-"]
        rows.append([f"{score:.2f}", *shown, *places, _number(out[0]), _number(out[1])])
    head = ["score", "finds", "overlap", "x", "y", "size", "yaw", "x in the world", "y in the world"]
    return view.title(sight), head, rows
