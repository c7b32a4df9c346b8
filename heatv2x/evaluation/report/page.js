"use strict";
/* The frame browser. Everything is in the ego's frame (metres, radians); the picture has x (forward) up and y (left) left. */
(() => {
  const root = document.documentElement;
  window.addEventListener("error", (event) => { root.dataset.error = String(event.message); });

  const IOU_FOUND = 0.5;
  const TAU = 2 * Math.PI;
  const byId = (id) => document.getElementById(id);
  const { grid, scenes, types } = JSON.parse(byId("data").textContent);
  const canvas = byId("canvas");
  const context = canvas.getContext("2d");

  const PRESETS = {
    alone: { points: true, truth: true, alone: true, together: false, gained: false, heat: false },
    together: { points: true, truth: true, alone: false, together: true, gained: true, heat: false },
    both: { points: true, truth: true, alone: true, together: true, gained: true, heat: false },
  };
  const state = {
    frame: 0,
    preset: "together",
    layers: { ...PRESETS.together },
    threshold: 0.3,
    hidden: new Set(),
    view: { zoom: 1, x: (grid.x_min + grid.x_max) / 2, y: (grid.y_min + grid.y_max) / 2 },
    picked: null,
    printing: false,
  };

  /* ---- reading the data ---- */

  function bytes(base64) {
    return Uint8Array.from(atob(base64 || ""), (character) => character.charCodeAt(0));
  }

  function unpackPoints(base64) {
    const raw = bytes(base64);
    const view = new DataView(raw.buffer);
    const points = new Float32Array(raw.length >> 1);
    for (let i = 0; i < points.length; i += 1) points[i] = view.getInt16(2 * i, true) * 0.05;
    return points;
  }

  function prepare(scene) {
    const ego = scene.agents.find((agent) => agent.is_ego);
    const senders = scene.agents.filter((agent) => !agent.is_ego);
    senders.forEach((agent, index) => { agent.color = `--agent-${(index % 6) + 1}`; });
    ego.color = "--alone";
    scene.ego = ego;
    scene.senders = senders;
    scene.truth = scene.ground_truth.map((box, index) => ({ index, box, corners: corners(box) }));
    for (const way of ["ego_alone", "collaborative"]) {
      const set = scene.detections[way] || { boxes: [], scores: [] };
      const found = set.boxes.map((box, index) => ({ box, score: set.scores[index], corners: corners(box) }));
      scene[way] = found.sort((a, b) => b.score - a.score);
      scene.pairs = { ...scene.pairs, [way]: overlaps(scene[way], scene.truth) };
    }
    scene.knows = { ego_alone: "ego_alone" in scene.detections, collaborative: "collaborative" in scene.detections };
  }

  /* ---- boxes ---- */

  function corners([x, y, , length, width, , yaw]) {
    const c = Math.cos(yaw), s = Math.sin(yaw);
    return [[1, 1], [1, -1], [-1, -1], [-1, 1]].map(([a, b]) => {
      const u = (a * length) / 2, v = (b * width) / 2;
      return [x + c * u - s * v, y + s * u + c * v];
    });
  }

  function area(polygon) {
    let twice = 0;
    polygon.forEach(([x, y], i) => {
      const [nx, ny] = polygon[(i + 1) % polygon.length];
      twice += x * ny - nx * y;
    });
    return Math.abs(twice) / 2;
  }

  /* Part of `polygon` inside the convex, clockwise `clip` (Sutherland and Hodgman 1974). */
  function clipped(polygon, clip) {
    let inside = polygon;
    for (let e = 0; e < clip.length && inside.length; e += 1) {
      const [ax, ay] = clip[e], [bx, by] = clip[(e + 1) % clip.length];
      const side = ([x, y]) => (by - ay) * (x - ax) - (bx - ax) * (y - ay);
      const next = [];
      inside.forEach((p, i) => {
        const q = inside[(i + 1) % inside.length];
        const sp = side(p), sq = side(q);
        if (sp >= 0) next.push(p);
        if (sp * sq < 0) {
          const t = sp / (sp - sq);
          next.push([p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])]);
        }
      });
      inside = next;
    }
    return inside;
  }

  function iou(a, b) {
    const reach = (Math.hypot(a.box[3], a.box[4]) + Math.hypot(b.box[3], b.box[4])) / 2;
    if (Math.hypot(a.box[0] - b.box[0], a.box[1] - b.box[1]) > reach) return 0;
    const shared = clipped(a.corners, b.corners);
    if (shared.length < 3) return 0;
    const both = area(shared);
    return both / (area(a.corners) + area(b.corners) - both);
  }

  /* For every detection the objects it overlaps enough, best first. */
  function overlaps(detections, truth) {
    return detections.map((detection) => truth
      .map((object) => [object.index, iou(detection, object)])
      .filter(([, value]) => value >= IOU_FOUND)
      .sort((a, b) => b[1] - a[1]));
  }

  /* Highest score first, every object once, as AP does it. Gives the finding detection per object, and false alarms. */
  function match(scene, way) {
    const by = new Array(scene.truth.length).fill(null);
    let shown = 0, hit = 0;
    scene[way].forEach((detection, d) => {
      if (detection.score < state.threshold) return;
      shown += 1;
      const free = scene.pairs[way][d].find(([object]) => by[object] === null);
      if (free) { by[free[0]] = detection; hit += 1; }
    });
    return { by, hit, extra: shown - hit };
  }

  function judge(scene) {
    const alone = match(scene, "ego_alone"), together = match(scene, "collaborative");
    const gained = scene.truth.filter(({ index }) => !alone.by[index] && together.by[index]).length;
    const lost = scene.truth.filter(({ index }) => alone.by[index] && !together.by[index]).length;
    const compare = scene.knows.ego_alone && scene.knows.collaborative;
    return { alone, together, gained: compare ? gained : 0, lost: compare ? lost : 0, compare };
  }

  /* ---- drawing ---- */

  let palette = {};
  function readPalette() {
    const style = getComputedStyle(state.printing ? byId("light-palette") : root);
    const names = ["ink", "soft", "line", "sky", "ring", "alone", "together", "gained", "lost", "card"];
    names.push(...[1, 2, 3, 4, 5, 6].map((n) => `agent-${n}`));
    palette = Object.fromEntries(names.map((name) => [`--${name}`, style.getPropertyValue(`--${name}`).trim()]));
    heats.clear();
  }

  const spanX = grid.x_max - grid.x_min, spanY = grid.y_max - grid.y_min;
  const heats = new Map();
  const size = { width: 0, height: 0, ratio: 1 };

  function resize() {
    const width = byId("canvas-box").clientWidth;
    const height = Math.round(Math.min(width * (spanX / spanY), Math.max(320, window.innerHeight * 0.86)));
    Object.assign(size, { width, height, ratio: Math.min(window.devicePixelRatio || 1, 2.5) });
    canvas.width = Math.round(width * size.ratio);
    canvas.height = Math.round(height * size.ratio);
    canvas.style.height = `${height}px`;
    draw();
  }

  function scale() {
    return state.view.zoom * Math.min(size.width / spanY, size.height / spanX);
  }

  function toScreen(x, y) {
    const s = scale();
    return [size.width / 2 - (y - state.view.y) * s, size.height / 2 - (x - state.view.x) * s];
  }

  function toGround(px, py) {
    const s = scale();
    return [state.view.x - (py - size.height / 2) / s, state.view.y - (px - size.width / 2) / s];
  }

  function outline(shape) {
    context.beginPath();
    shape.forEach(([x, y], i) => {
      const [px, py] = toScreen(x, y);
      if (i) context.lineTo(px, py); else context.moveTo(px, py);
    });
    context.closePath();
  }

  function drawGround() {
    context.fillStyle = palette["--sky"];
    context.fillRect(0, 0, size.width, size.height);
    const s = scale();
    const [cx, cy] = toScreen(0, 0);
    context.strokeStyle = palette["--ring"];
    context.fillStyle = palette["--soft"];
    context.lineWidth = 1;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    const farthest = Math.hypot(Math.max(-grid.x_min, grid.x_max), Math.max(-grid.y_min, grid.y_max));
    for (let r = 20; r < farthest; r += 20) {
      context.beginPath();
      context.arc(cx, cy, r * s, 0, TAU);
      context.stroke();
      context.fillText(`${r} m`, cx - r * s * 0.7071, cy + r * s * 0.7071 - 3);
    }
    const [left, top] = toScreen(grid.x_max, grid.y_max), [right, bottom] = toScreen(grid.x_min, grid.y_min);
    context.strokeRect(left, top, right - left, bottom - top);
  }

  /* The sender's map as a picture, tinted; row 0 is y_min and column 0 x_min, so both are turned round. */
  function heatPicture(key, base64, color) {
    if (heats.has(key)) return heats.get(key);
    const values = bytes(base64);
    const side = Math.round(Math.sqrt(values.length));
    const picture = document.createElement("canvas");
    picture.width = picture.height = side;
    const pen = picture.getContext("2d");
    pen.fillStyle = color;
    pen.fillRect(0, 0, side, side);
    const image = pen.getImageData(0, 0, side, side);
    for (let py = 0; py < side; py += 1) {
      for (let px = 0; px < side; px += 1) {
        image.data[4 * (py * side + px) + 3] = values[(side - 1 - px) * side + (side - 1 - py)] * 0.6;
      }
    }
    pen.putImageData(image, 0, 0);
    heats.set(key, picture);
    return picture;
  }

  function drawHeat(scene) {
    const [left, top] = toScreen(grid.x_max, grid.y_max), [right, bottom] = toScreen(grid.x_min, grid.y_min);
    context.imageSmoothingEnabled = true;
    scene.senders.forEach((agent, index) => {
      const packed = scene.contribution[index];
      if (!packed || state.hidden.has(String(agent.id))) return;
      const picture = heatPicture(`${state.frame}/${index}`, packed, palette[agent.color]);
      context.drawImage(picture, left, top, right - left, bottom - top);
    });
  }

  function drawPoints(scene) {
    const dot = Math.max(1, Math.min(2.6, scale() * 0.16));
    for (const agent of scene.agents) {
      const only = state.preset === "alone" && !agent.is_ego;
      if (only || state.hidden.has(String(agent.id))) continue;
      agent.cloud = agent.cloud || unpackPoints(agent.points);
      context.fillStyle = palette[agent.color];
      context.globalAlpha = 0.62;
      for (let i = 0; i + 1 < agent.cloud.length; i += 2) {
        const [px, py] = toScreen(agent.cloud[i], agent.cloud[i + 1]);
        context.fillRect(px - dot / 2, py - dot / 2, dot, dot);
      }
    }
    context.globalAlpha = 1;
  }

  function drawTruth(scene, verdict) {
    const ways = [state.layers.alone && verdict.alone, state.layers.together && verdict.together].filter(Boolean);
    context.strokeStyle = palette["--ink"];
    for (const object of scene.truth) {
      const found = !ways.length || ways.some(({ by }) => by[object.index]);
      outline(object.corners);
      context.globalAlpha = found ? 0.1 : 0.04;
      context.fillStyle = palette["--ink"];
      context.fill();
      context.globalAlpha = found ? 0.85 : 0.7;
      context.setLineDash(found ? [] : [2.5, 2.5]);
      context.lineWidth = 1.2;
      context.stroke();
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  function drawGained(scene, verdict) {
    if (!verdict.compare) return;
    for (const object of scene.truth) {
      const alone = verdict.alone.by[object.index], together = verdict.together.by[object.index];
      if (Boolean(alone) === Boolean(together)) continue;
      const [px, py] = toScreen(object.box[0], object.box[1]);
      const color = together ? palette["--gained"] : palette["--lost"];
      const radius = Math.max(11, (Math.hypot(object.box[3], object.box[4]) / 2) * scale() + 5);
      outline(object.corners);
      context.fillStyle = color;
      context.globalAlpha = together ? 0.85 : 0.3;
      context.fill();
      context.globalAlpha = 1;
      context.strokeStyle = color;
      context.lineWidth = 2;
      context.beginPath();
      context.arc(px, py, radius, 0, TAU);
      context.stroke();
      if (!together) {
        context.beginPath();
        context.moveTo(px - 5, py - 5); context.lineTo(px + 5, py + 5);
        context.moveTo(px + 5, py - 5); context.lineTo(px - 5, py + 5);
        context.stroke();
      }
    }
  }

  function drawDetections(scene, way, color, dashed) {
    context.strokeStyle = color;
    context.lineWidth = dashed ? 1.8 : 2;
    for (const { box, score, corners: shape } of scene[way]) {
      if (score < state.threshold) continue;
      context.setLineDash(dashed ? [5, 3] : []);
      outline(shape);
      context.stroke();
      context.setLineDash([]);
      const [ax, ay] = toScreen(box[0] + Math.cos(box[6]) * box[3] * 0.28, box[1] + Math.sin(box[6]) * box[3] * 0.28);
      const [bx, by] = toScreen(box[0] + Math.cos(box[6]) * box[3] * 0.5, box[1] + Math.sin(box[6]) * box[3] * 0.5);
      context.beginPath();
      context.moveTo(ax, ay);
      context.lineTo(bx, by);
      context.stroke();
    }
  }

  function drawAgents(scene) {
    const [egoX, egoY] = toScreen(scene.ego.x, scene.ego.y);
    const visible = scene.agents.filter((agent) => agent.is_ego
      || (!state.hidden.has(String(agent.id)) && state.preset !== "alone"));
    for (const agent of visible) {
      const [px, py] = toScreen(agent.x, agent.y);
      const color = palette[agent.color];
      if (!agent.is_ego && agent.message_bytes) {
        context.strokeStyle = color;
        context.globalAlpha = 0.75;
        context.lineWidth = 1.4;
        context.setLineDash([1, 5]);
        context.lineCap = "round";
        context.beginPath();
        context.moveTo(px, py);
        context.lineTo(egoX, egoY);
        context.stroke();
        context.setLineDash([]);
        context.lineCap = "butt";
        context.globalAlpha = 1;
      }
    }
    for (const agent of visible) drawAgent(agent, palette[agent.color]);
    const taken = [];
    for (const agent of visible) drawLabel(agent, palette[agent.color], taken);
  }

  function drawAgent(agent, color) {
    const grow = Math.max(1, 15 / (4.6 * scale()));
    const c = Math.cos(agent.yaw), s = Math.sin(agent.yaw);
    const roadside = agent.kind === "roadside";
    const shape = roadside
      ? [[1.6, 0], [0, 1.6], [-1.6, 0], [0, -1.6]]
      : [[2.3, 0], [1.3, 1], [-2.3, 1], [-2.3, -1], [1.3, -1]];
    outline(shape.map(([u, v]) => [agent.x + (c * u - s * v) * grow, agent.y + (s * u + c * v) * grow]));
    context.fillStyle = color;
    context.fill();
    context.strokeStyle = palette["--sky"];
    context.lineWidth = 1.5;
    context.stroke();
  }

  function drawLabel(agent, color, taken) {
    const [px, py] = toScreen(agent.x, agent.y);
    const text = agent.is_ego ? "ego" : String(agent.id);
    context.font = "600 12px system-ui, sans-serif";
    const width = context.measureText(text).width + 12;
    const off = Math.max(12, 2.4 * scale() + 3);
    const spots = [[px + off, py - 9], [px - off - width, py - 9], [px - width / 2, py - off - 22], [px - width / 2, py + off + 4]];
    const clear = ([x, y]) => taken.every(([tx, ty, tw]) => x > tx + tw || x + width < tx || Math.abs(y - ty) > 19);
    const [x, y] = spots.find(clear) || spots[0];
    taken.push([x, y, width]);
    context.fillStyle = color;
    context.beginPath();
    if (context.roundRect) context.roundRect(x, y, width, 18, 5); else context.rect(x, y, width, 18);
    context.fill();
    context.fillStyle = palette["--sky"];
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(text, x + 6, y + 9.5);
    context.textBaseline = "alphabetic";
  }

  function drawPicked(scene) {
    const object = state.picked === null ? null : scene.truth[state.picked];
    if (!object) return;
    outline(object.corners);
    context.strokeStyle = palette["--ink"];
    context.lineWidth = 3;
    context.stroke();
    scene.agents.forEach((agent, a) => {
      if (!scene.hits_by_agent.length || !scene.hits_by_agent[object.index][a]) return;
      context.strokeStyle = palette[agent.color];
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(...toScreen(agent.x, agent.y));
      context.lineTo(...toScreen(object.box[0], object.box[1]));
      context.stroke();
    });
  }

  let queued = false;
  function draw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; paint(); });
  }

  function paint() {
    const scene = scenes[state.frame];
    const verdict = judge(scene);
    context.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
    drawGround();
    if (state.layers.heat) drawHeat(scene);
    if (state.layers.points) drawPoints(scene);
    if (state.layers.truth) drawTruth(scene, verdict);
    if (state.layers.gained) drawGained(scene, verdict);
    if (state.layers.together) drawDetections(scene, "collaborative", palette["--together"], false);
    if (state.layers.alone) drawDetections(scene, "ego_alone", palette["--alone"], true);
    drawAgents(scene);
    drawPicked(scene);
    placeTip(scene, verdict);
  }

  /* ---- words beside the picture ---- */

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  const typeName = (type) => types[type] || type;
  const objects = (n) => `${n} ${n === 1 ? "object" : "objects"}`;
  const alarms = (n) => (n ? `, ${n} false ${n === 1 ? "alarm" : "alarms"}` : "");

  function dataSize(count) {
    if (count < 1000) return `${count} B`;
    return count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
  }

  function found(name, result, className) {
    const part = element("span", undefined, className);
    part.append(`${name} `, element("b", String(result.hit)));
    return part;
  }

  function writeTally() {
    const scene = scenes[state.frame], verdict = judge(scene), tally = byId("tally");
    tally.replaceChildren();
    if (!scene.truth.length) {
      tally.append("No ground truth in this frame.");
    } else {
      tally.append(`Of ${objects(scene.truth.length)}: `);
      if (scene.knows.ego_alone) tally.append(found("the ego alone finds", verdict.alone, "t-alone"), alarms(verdict.alone.extra));
      if (verdict.compare) tally.append("; ");
      if (scene.knows.collaborative) tally.append(found("together", verdict.together, "t-together"), alarms(verdict.together.extra));
      if (!scene.knows.ego_alone && !scene.knows.collaborative) tally.append("no detections were kept");
      tally.append(".");
      if (verdict.lost) tally.append(` ${verdict.lost} found alone ${verdict.lost === 1 ? "is" : "are"} missed together.`);
    }
    tally.append(writeTotal());
    canvas.setAttribute("aria-label", `Bird's-eye view of frame ${scene.name}. ${tally.textContent}`);
  }

  function writeTotal() {
    let all = 0, alone = 0, together = 0;
    const compared = scenes.filter((scene) => scene.knows.ego_alone && scene.knows.collaborative);
    for (const scene of compared) {
      const verdict = judge(scene);
      all += scene.truth.length; alone += verdict.alone.hit; together += verdict.together.hit;
    }
    if (!all || scenes.length < 2) return "";
    const share = (part) => `${Math.round((100 * part) / all)} %`;
    return element("span", `All ${scenes.length} frames here: ${share(alone)} of ${objects(all)} found alone, ${share(together)} together.`, "t-all");
  }

  function writeAgents() {
    const scene = scenes[state.frame], list = byId("agents");
    list.replaceChildren();
    for (const agent of scene.agents) {
      const label = element("label"), box = element("input"), name = element("b");
      box.type = "checkbox";
      box.checked = !state.hidden.has(String(agent.id));
      box.addEventListener("change", () => {
        if (box.checked) state.hidden.delete(String(agent.id)); else state.hidden.add(String(agent.id));
        draw();
      });
      label.style.setProperty("--swatch", `var(${agent.color})`);
      const dot = element("i");
      dot.style.background = `var(${agent.color})`;
      name.append(dot, agent.is_ego ? `Ego (${agent.id})` : `${agent.kind === "roadside" ? "Roadside unit" : "Car"} ${agent.id}`);
      const sent = agent.is_ego ? "" : agent.message_bytes ? dataSize(agent.message_bytes) : "silent";
      const sole = agent.sole_objects ? ` · only it sees ${objects(agent.sole_objects)}` : "";
      label.append(box, name, element("em", sent), element("small", typeName(agent.type) + sole));
      const item = element("li");
      item.append(label);
      list.append(item);
    }
    const bar = byId("layer-heat");
    bar.hidden = !scenes.some((each) => each.contribution.some(Boolean));
    bar.style.display = bar.hidden ? "none" : "";
  }

  function writeCameras() {
    const box = byId("cameras");
    box.replaceChildren();
    for (const camera of scenes[state.frame].cameras) {
      const figure = element("figure"), image = element("img");
      image.src = `data:image/jpeg;base64,${camera.jpeg_base64}`;
      image.alt = `${camera.name} of agent ${camera.agent_id}`;
      figure.append(image, element("figcaption", `Agent ${camera.agent_id}, ${camera.name}`));
      box.append(figure);
    }
  }

  function writeStrip() {
    const strip = byId("strip");
    strip.replaceChildren();
    strip.hidden = scenes.length < 2;
    scenes.forEach((scene, index) => {
      const { gained, lost, compare } = judge(scene), button = element("button", String(index + 1));
      const net = gained - lost;
      button.type = "button";
      button.setAttribute("aria-current", String(index === state.frame));
      button.title = compare ? `${scene.name}: ${gained} more found together, ${lost} fewer` : scene.name;
      if (compare) button.append(element("span", net > 0 ? `+${net}` : String(net)));
      button.addEventListener("click", () => show(index));
      strip.append(button);
    });
  }

  function writeControls() {
    byId("counter").textContent = `${state.frame + 1} of ${scenes.length} · ${scenes[state.frame].name}`;
    byId("score").value = String(state.threshold);
    byId("score-value").textContent = state.threshold.toFixed(2);
    for (const button of document.querySelectorAll("[data-preset]")) {
      button.setAttribute("aria-pressed", String(button.dataset.preset === state.preset));
    }
    for (const box of document.querySelectorAll("[data-layer]")) box.checked = state.layers[box.dataset.layer];
  }

  /* ---- what is under the pointer ---- */

  function objectAt(px, py) {
    const [x, y] = toGround(px, py), margin = 7 / scale();
    let best = null, nearest = Infinity;
    for (const object of scenes[state.frame].truth) {
      const [ox, oy, , length, width, , yaw] = object.box;
      const u = Math.cos(yaw) * (x - ox) + Math.sin(yaw) * (y - oy);
      const v = -Math.sin(yaw) * (x - ox) + Math.cos(yaw) * (y - oy);
      const distance = Math.hypot(x - ox, y - oy);
      if (Math.abs(u) <= length / 2 + margin && Math.abs(v) <= width / 2 + margin && distance < nearest) {
        best = object.index;
        nearest = distance;
      }
    }
    return best;
  }

  function pick(index) {
    if (state.picked === index) return;
    state.picked = index;
    draw();
  }

  function whoFound(verdict, index) {
    const say = (detection) => (detection ? `found (score ${detection.score.toFixed(2)})` : "missed");
    return [`Ego alone: ${say(verdict.alone.by[index])}`, `Together: ${say(verdict.together.by[index])}`];
  }

  function placeTip(scene, verdict) {
    const tip = byId("tip"), object = state.picked === null ? null : scene.truth[state.picked];
    tip.hidden = !object;
    if (!object) return;
    const { index, box } = object;
    const gained = verdict.compare && !verdict.alone.by[index] && verdict.together.by[index];
    tip.replaceChildren(element("b", gained ? "Seen only together" : `Object ${index + 1}`));
    tip.append(`${Math.hypot(box[0], box[1]).toFixed(0)} m away, ${box[3].toFixed(1)} × ${box[4].toFixed(1)} m`);
    const list = element("ul");
    for (const line of whoFound(verdict, index)) list.append(element("li", line));
    if (scene.hits_by_agent.length) {
      const rows = scene.agents.map((agent, a) => [agent, scene.hits_by_agent[index][a]]).filter(([, hits]) => hits);
      for (const [agent, hits] of rows) {
        const item = element("li"), dot = element("i");
        dot.style.background = `var(${agent.color})`;
        item.append(dot, `${agent.is_ego ? "Ego" : agent.id}: ${hits} LiDAR ${hits === 1 ? "return" : "returns"}`);
        list.append(item);
      }
      if (!rows.length) list.append(element("li", "No LiDAR return from anyone"));
    } else if (scene.hits.length) {
      list.append(element("li", `${scene.hits[index]} LiDAR returns in all`));
    }
    if (scene.visible_to_ego.length && !scene.visible_to_ego[index]) list.append(element("li", "Hidden from the ego's own sensors"));
    tip.append(list);
    const [px, py] = toScreen(box[0], box[1]);
    const off = 12 + Math.min(80, Math.max(box[3], box[4]) * 0.5 * scale());
    const left = px + off + tip.offsetWidth < size.width ? px + off : px - off - tip.offsetWidth;
    tip.style.left = `${Math.max(6, Math.min(left, size.width - tip.offsetWidth - 6))}px`;
    tip.style.top = `${Math.max(6, Math.min(py - tip.offsetHeight / 2, size.height - tip.offsetHeight - 6))}px`;
  }

  /* ---- moving about ---- */

  function show(index) {
    state.frame = (index + scenes.length) % scenes.length;
    state.picked = null;
    writeAll();
  }

  function writeAll() {
    writeControls();
    writeTally();
    writeAgents();
    writeCameras();
    writeStrip();
    draw();
  }

  function zoomAt(px, py, factor) {
    const [x, y] = toGround(px, py);
    state.view.zoom = Math.max(1, Math.min(14, state.view.zoom * factor));
    const s = scale();
    state.view.x = x + (py - size.height / 2) / s;
    state.view.y = y + (px - size.width / 2) / s;
    settle();
  }

  function settle() {
    const { view } = state;
    if (view.zoom <= 1.001) Object.assign(view, { zoom: 1, x: (grid.x_min + grid.x_max) / 2, y: (grid.y_min + grid.y_max) / 2 });
    view.x = Math.max(grid.x_min, Math.min(grid.x_max, view.x));
    view.y = Math.max(grid.y_min, Math.min(grid.y_max, view.y));
    canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
    draw();
  }

  const pointers = new Map();
  let travelled = 0;

  function place(event) {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, place(event));
    travelled = 0;
    if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
  });

  canvas.addEventListener("pointermove", (event) => {
    const here = place(event), before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") pick(objectAt(...here));
      return;
    }
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    pointers.set(event.pointerId, here);
    travelled += Math.hypot(here[0] - before[0], here[1] - before[1]);
    if (others.length) {
      const reach = (a) => Math.hypot(a[0] - others[0][0], a[1] - others[0][1]);
      zoomAt((here[0] + others[0][0]) / 2, (here[1] + others[0][1]) / 2, reach(here) / Math.max(reach(before), 1));
    } else if (event.pointerType === "mouse" || state.view.zoom > 1) {
      state.view.x += (here[1] - before[1]) / scale();
      state.view.y += (here[0] - before[0]) / scale();
      settle();
    }
  });

  const release = (event) => {
    if (event.type === "pointerup" && travelled < 8 && pointers.size === 1) pick(objectAt(...place(event)));
    pointers.delete(event.pointerId);
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && !pointers.size) pick(null);
  });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    zoomAt(...place(event), Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)));
  }, { passive: false });

  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof Element && event.target.closest("input[type=range], input[type=radio], .table-box");
    if (typing || event.altKey || event.ctrlKey || event.metaKey) return;
    const count = scenes[state.frame].truth.length;
    const actions = {
      ArrowLeft: () => show(state.frame - 1),
      ArrowRight: () => show(state.frame + 1),
      o: () => count && pick(((state.picked ?? -1) + 1) % count),
      Escape: () => pick(null),
      "+": () => zoomAt(size.width / 2, size.height / 2, 1.4),
      "-": () => zoomAt(size.width / 2, size.height / 2, 1 / 1.4),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  byId("previous").addEventListener("click", () => show(state.frame - 1));
  byId("next").addEventListener("click", () => show(state.frame + 1));
  byId("zoom-in").addEventListener("click", () => zoomAt(size.width / 2, size.height / 2, 1.5));
  byId("zoom-out").addEventListener("click", () => zoomAt(size.width / 2, size.height / 2, 1 / 1.5));
  byId("zoom-fit").addEventListener("click", () => { state.view.zoom = 1; settle(); });
  byId("score").addEventListener("input", (event) => {
    state.threshold = Number(event.target.value);
    writeControls();
    writeTally();
    writeStrip();
    draw();
  });
  for (const button of document.querySelectorAll("[data-preset]")) {
    button.addEventListener("click", () => {
      state.preset = button.dataset.preset;
      state.layers = { ...PRESETS[state.preset], heat: state.layers.heat && state.preset !== "alone" };
      writeControls();
      draw();
    });
  }
  for (const box of document.querySelectorAll("[data-layer]")) {
    box.addEventListener("change", () => {
      state.layers[box.dataset.layer] = box.checked;
      if (state.preset === "alone") state.preset = "both";
      writeControls();
      draw();
    });
  }

  const recolor = () => { readPalette(); paint(); };
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
  window.addEventListener("beforeprint", () => { state.printing = true; recolor(); });
  window.addEventListener("afterprint", () => { state.printing = false; recolor(); });
  new ResizeObserver(resize).observe(byId("canvas-box"));

  scenes.forEach(prepare);
  const gains = scenes.map((scene) => { const { gained, lost } = judge(scene); return gained - lost; });
  state.frame = Math.max(0, gains.indexOf(Math.max(...gains))); // open where working together shows most
  readPalette();
  resize();
  writeAll();
  paint();
  root.dataset.ready = String(scenes.length);
})();
