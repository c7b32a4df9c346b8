"""The page as a file: self-contained, escaped, and drawn without error in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from heatv2x.errors import DataError
from heatv2x.evaluation.report import AgentView, Results, Row, Scenes, SceneView, build_report
from heatv2x.evaluation.report.build import embed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
Writer = Callable[[Path, Results, Scenes], Path]
NASTY = "</script><img src=x onerror=alert(1)> \"quoted\" & 'more' <!-- \u2028"


def test_the_report_lies_in_the_run_folder_and_nothing_else_is_left(run_folder: Path) -> None:
    report = build_report(run_folder)
    assert report == run_folder / "report.html"
    assert {file.name for file in run_folder.iterdir()} == {"metrics.json", "scenes.json", "report.html"}
    text = report.read_text(encoding="utf-8")
    assert "AP50 rises from 60.0 to 85.1" in text
    assert "union_bev" in text
    assert "heatv2x demo" in text
    assert "12 frozen tensors bit-identical" in text


def test_the_page_loads_nothing(run_folder: Path) -> None:
    text = build_report(run_folder).read_text(encoding="utf-8")
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.", text)
    assert not re.search(r"<link(?![^>]*href=\"data:,\")|@import|<iframe|url\(", text)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|\bimport\(", text)
    assert all(source.startswith(("data:", "`data:")) for source in re.findall(r"src=[\"']([^\"']+)", text))
    assert "default-src 'none'" in text


def test_text_from_the_data_is_escaped(tmp_path: Path, results: Results, scenes: Scenes, write_run: Writer) -> None:
    results.title = results.command = results.code_version = NASTY
    results.story["newcomer"] = NASTY
    results.machine = {NASTY: NASTY}
    results.rows.append(Row(NASTY, {"0.5": 0.5}, protocol={"name": NASTY}, codec=NASTY))
    scenes.scenes[0].name = NASTY
    text = build_report(write_run(tmp_path, results, scenes)).read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert "<!--" not in text


def test_embedded_json_is_the_same_data_and_cannot_end_its_element() -> None:
    content = {"a": [NASTY, 1.23456, float("nan"), None, True]}
    text = str(embed(content))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": [NASTY, 1.235, None, None, True]}


def test_numbers_that_are_not_are_dashes(tmp_path: Path, results: Results, scenes: Scenes, write_run: Writer) -> None:
    results.rows[2].ap["0.5"] = float("nan")
    results.rows[2].train_seconds = float("inf")
    text = build_report(write_run(tmp_path, results, scenes)).read_text(encoding="utf-8")
    table = text[text.index("<tbody") :]
    assert "–" in table
    assert not re.search(r">\s*(nan|inf|None)\b", text)


def test_an_empty_proof_is_no_proof(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    for stage in metrics["stages"]:
        stage["frozen_proof"] = {}
    for row in metrics["rows"]:
        row |= {"n_frames": 200, "n_ground_truth": 9260, "unheard_of": 1}
    (run_folder / "metrics.json").write_text(json.dumps(metrics))
    text = build_report(run_folder).read_text(encoding="utf-8")
    assert "What stayed frozen" not in text
    assert "Every row is measured on 200 frames with 9\u202f260 objects." in text


def test_nan_in_the_file_itself_is_read_as_not_measured(run_folder: Path) -> None:
    file = run_folder / "metrics.json"
    file.write_text(file.read_text().replace("0.851", "NaN"))
    assert "AP50 rises" not in build_report(run_folder).read_text(encoding="utf-8")


def test_a_run_without_rows_stages_or_frames_has_a_page(tmp_path: Path, scenes: Scenes, write_run: Writer) -> None:
    bare = write_run(tmp_path, Results(rows=[]), Scenes(scenes.grid))
    text = build_report(bare).read_text(encoding="utf-8")
    assert "This run kept no frames to look at." in text
    assert "This run has no rows." in text
    assert "<script" not in text


@pytest.mark.parametrize("name", ["metrics.json", "scenes.json"])
def test_a_missing_or_broken_file_says_the_way_out(run_folder: Path, name: str) -> None:
    (run_folder / name).write_text("{}")
    with pytest.raises(DataError, match=f"{name}, key"):
        build_report(run_folder)
    (run_folder / name).write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        build_report(run_folder)
    assert not (run_folder / "report.html").exists()


def test_without_metrics_there_is_no_report(run_folder: Path) -> None:
    (run_folder / "metrics.json").unlink()
    with pytest.raises(DataError, match="Way out"):
        build_report(run_folder)


def test_without_scenes_the_page_says_how_to_get_some(run_folder: Path) -> None:
    (run_folder / "scenes.json").unlink()
    text = build_report(run_folder).read_text(encoding="utf-8")
    assert "This run kept no frames to look at." in text and "scenes=8" in text and "AP50 rises" in text


def test_what_is_still_missing_is_said_on_top(run_folder: Path, results: Results) -> None:
    assert "Not in this report yet" not in build_report(run_folder).read_text(encoding="utf-8")
    results.pending = ["full_finetune", "camera", "camera/controls"]
    (run_folder / "metrics.json").write_text(json.dumps(results.to_json()))
    text = build_report(run_folder).read_text(encoding="utf-8")
    missing = "full fine-tuning (the yardstick), the camera-only newcomer and the controls of the camera-only newcomer"
    assert f"Not in this report yet: {missing}." in text


def test_the_protocol_is_a_sentence(run_folder: Path, results: Results) -> None:
    for row in results.rows:
        row.protocol = {"name": "heatv2x", "iou": "bev", "thresholds": [0.3, 0.5, 0.7], "max_detections": None}
    (run_folder / "metrics.json").write_text(json.dumps(results.to_json()))
    text = build_report(run_folder).read_text(encoding="utf-8")
    assert "A detection counts as correct if its footprint, seen from above, overlaps a label" in text
    assert "max detections" not in text


WRAPPER = """<body style="margin:0"><iframe id="f" src="{page}" style="border:0;width:{width}px;height:1600px"></iframe>
<script>
// labels of neighbouring columns whose texts touch: their ranges, because a narrow box does not cut its text
const crowded = (page) => [...page.querySelectorAll(".panel-labels, .x-axis")].flatMap((row) => {{
  const places = [...row.children].map((label) => {{
    const range = page.createRange();
    range.selectNodeContents(label);
    return [label.textContent, range.getBoundingClientRect()];
  }});
  return places.slice(1).filter(([, at], i) => at.width && at.left < places[i][1].right + 1).map(([text]) => text);
}});
addEventListener("load", function begin(event, tries = 0) {{
  const page = document.getElementById("f").contentDocument, root = page.documentElement;
  if (!root.dataset.ready && !root.dataset.error && tries < 60) return setTimeout(begin, 50, event, tries + 1);
  const text = (id) => (page.getElementById(id) || {{}}).textContent || "";
  page.defaultView.requestAnimationFrame = (paint) => paint();  // a dumped page is never shown, so paints at once
  {action}
  setTimeout(() => {{ document.body.textContent = JSON.stringify({{
    ready: root.dataset.ready || null, error: root.dataset.error || null, width: root.scrollWidth,
    tally: text("tally"), tip: text("tip"), counter: text("counter"), crowded: crowded(page),
  }}); }}, 300);
}});</script></body>"""


def look(report: Path, width: int, action: str = "") -> dict[str, object]:
    """What the page says of itself in a headless browser at that width, after `action`."""
    wrapper = report.parent / "wrapper.html"
    wrapper.write_text(WRAPPER.format(page=report.as_uri(), width=width, action=action))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--window-size=1400,1700"]
    profile = f"--user-data-dir={report.parent / 'profile'}"
    command = [str(CHROMIUM), *flags, profile, "--virtual-time-budget=5000", "--dump-dom", wrapper.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True).stdout
    found = re.search(r"<body[^>]*>(\{.*\})</body>", dom, re.DOTALL)
    assert found, dom[-2000:]
    answer: dict[str, object] = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    return answer


EVERYTHING = """
  for (const box of page.querySelectorAll("[data-layer]")) if (!box.checked) box.click();
  const press = (key) => page.dispatchEvent(new KeyboardEvent("keydown", {key}));
  press("ArrowRight"); press("o"); press("+"); press("ArrowLeft"); press("o"); press("o"); press("-");
  const score = page.getElementById("score"); score.value = "0.5"; score.dispatchEvent(new Event("input"));
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_the_page_without_error(run_folder: Path, width: int) -> None:
    seen = look(build_report(run_folder), width, EVERYTHING)
    assert seen["error"] is None
    assert seen["ready"] == "2"
    assert seen["width"] <= width
    assert str(seen["tally"]).startswith("Of 2 objects: the ego alone finds 1; together 2.")
    assert str(seen["counter"]).startswith("1 of 2")
    assert str(seen["tip"]).startswith("Seen only together31 m away")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
@pytest.mark.parametrize("width", [1280, 390, 360])
def test_labels_do_not_collide_and_nothing_sticks_out(
    tmp_path: Path, results: Results, scenes: Scenes, write_run: Writer, width: int
) -> None:
    """The labels of a real run, and names as long as an evaluation's."""
    for row in results.rows:
        row.recall_by_hits = {"0": 0.1, "1-4": 0.2, "5-19": 0.5, "20-99": 0.7, "100+": 0.9}
        row.ap_by_distance = {"0-20 m": 0.9, "20-35 m": 0.8, "35-50 m": 0.7, "50+ m": 0.5}
    results.rows.append(Row("lidar64_pillars<-" + "+".join(["camera_efficientnet"] * 6), {"0.5": 0.5}))
    results.title, results.command = "t" * 300, "heatv2x eval data=" + "/folder" * 60
    seen = look(build_report(write_run(tmp_path, results, scenes)), width)
    assert seen["error"] is None and seen["width"] <= width
    assert seen["crowded"] == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_a_browser_draws_frames_with_nothing_in_them(
    tmp_path: Path, results: Results, scenes: Scenes, write_run: Writer
) -> None:
    scenes.scenes = [SceneView(NASTY, [AgentView(NASTY, NASTY, 0, 0, 0, is_ego=True)]), scenes.scenes[1]]
    seen = look(build_report(write_run(tmp_path, results, scenes)), 390, EVERYTHING)
    assert seen["error"] is None
    assert seen["ready"] == "2"
    assert seen["width"] <= 390
    assert seen["tally"] == "No ground truth in this frame."
