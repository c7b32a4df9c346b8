"""The speed benchmark: what is timed is what the model does, ratios and verdicts follow from it. No time is tested."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rich.console import Console

from heatv2x.core.plugins import PartConfig
from heatv2x.errors import HeatError
from heatv2x.link.message import pack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import ModelConfig
from studies import frame_speed, matching_speed, reference_speed, speed, step_speed, sweeps
from studies.cells import Cell, identities_of
from studies.frame_speed import OF_AN_AGENT, OF_THE_EGO, Ears, Repeats, Variant
from studies.speed import SpeedConfig, cells_of, quick, variants_of
from studies.speed_models import MIXED, MODELS, SpeedModel, published, seeded
from studies.speed_page import page, panels, write_page
from studies.speed_summary import middle, seconds_of, summarise
from studies.speed_targets import fastest_build, further_percent, targets
from studies.tables import print_frames, print_targets
from tests.scene_factory import CAMERA, PILLARS, model_config

ONCE = Repeats(1, 1, 0.0)


def nobody(what: str, done: int, total: int) -> None:
    """Progress nobody looks at."""


def small_published() -> ModelConfig:
    """The published network with fewer blocks on a small grid."""
    fusion = PartConfig(part="pyramid", settings={"blocks": [1, 1, 1], "enlarged": 16})
    small = {"half_extent_m": 12.8, "neck_channels": 16, "fusion": fusion}
    return published("lidar64_pillars").model_copy(update=small)


SMALL = {
    "published": SpeedModel("small pyramid", small_published, reference=True, same_grid=True),
    "heatv2x": SpeedModel("small graph", model_config, same_grid=True),
    "demo": SpeedModel("smaller graph", model_config),
    MIXED: SpeedModel("two types", lambda: model_config(agents={"lidar64": PILLARS, "camera": CAMERA})),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SpeedConfig:
    folder = tmp_path_factory.mktemp("speed")
    small = {"agents": (1, 2, 3), "least": 1, "most": 2, "seconds": 0.0, "frames": 3, "boxes": 8, "loop_frames": 2}
    return SpeedConfig(out=folder, docs=folder / "docs", objects=6, compiled=("heatv2x",), **small)


def here(cells: list[Cell], folder: Path, processes: int, tell: Any) -> dict[str, Any]:
    """Instead of a process for each measurement."""
    return {
        cell.name: {**json.loads(json.dumps(cell.work(*cell.arguments, tell))), "date": "2026-11-26", "cpu_seconds": 1}
        for cell in cells
    }


@pytest.fixture(scope="module")
def contents(config: SpeedConfig) -> dict[str, Any]:
    """Every measurement of small networks."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for name, model in SMALL.items():
            patch.setitem(MODELS, name, model)
        patch.setattr(frame_speed, "_SIDE", 32)
        patch.setattr(torch.nn.Module, "compile", lambda _: None)  # half a minute of work for torch
        patch.setattr(speed, "compiler", lambda: "/usr/bin/g++")
        patch.setattr(speed, "run_cells", here)
        patch.setattr(speed, "machine", lambda: {"bfloat16": True})
        found = speed.run_speed(config, nobody)
    torch.set_num_threads(threads)
    return found


@pytest.fixture
def summary(contents: dict[str, Any], config: SpeedConfig, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, model in SMALL.items():
        monkeypatch.setitem(MODELS, name, model)
    monkeypatch.setattr("studies.speed.machine", lambda: {"bfloat16": True})
    for module in ("speed", "speed_summary"):
        monkeypatch.setattr(f"studies.{module}.compiler", lambda: "/usr/bin/g++")
    return summarise(copy.deepcopy(contents), config, "heatv2x bench speed", is_quick=False)


# --- what is timed ----------------------------------------------------------------------------------------------------


class TestSweeps:
    def test_they_are_as_dense_as_those_of_the_reference(self) -> None:
        for frame in sweeps.agent_frames(10, seed=0):
            points = frame.lidars["lidar64"].points
            assert points.dtype == np.float32 and np.isfinite(points).all()
            assert 55_000 < len(points) < 65_000
            assert 8_000 < sweeps.pillars(points) < 10_200

    def test_an_agent_is_the_same_in_every_company(self) -> None:
        few, many = sweeps.agent_frames(2, seed=3), sweeps.agent_frames(4, seed=3)
        for one, other in zip(few, many[:2], strict=True):
            assert np.array_equal(one.pose.matrix, other.pose.matrix)
            assert np.array_equal(one.lidars["lidar64"].points, other.lidars["lidar64"].points)
        assert not np.array_equal(few[0].lidars["lidar64"].points[:100], few[1].lidars["lidar64"].points[:100])


class TestFrames:
    def ears(self, model: Collaboration, agents: int = 3) -> Ears:
        frames = sweeps.agent_frames(agents, seed=0)
        messages = [frame_speed.sense(model, frame, "lidar64")[0] for frame in frames]
        return Ears(messages[0], [pack(message) for message in messages[1:]])

    def test_every_stage_has_its_time(self) -> None:
        model = seeded(model_config())
        with torch.no_grad():
            _, sensed = frame_speed.sense(model, sweeps.agent_frames(1, 0)[0], "lidar64")
            _, heard = frame_speed.listen(model, self.ears(model), objects=5)
        assert {*sensed.seconds} == {*OF_AN_AGENT, "wall"} and {*heard.seconds} == {*OF_THE_EGO, "wall"}

    @pytest.mark.parametrize("part", ["encode", "detect"])
    def test_timing_something_else_than_the_model_does_fails(self, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
        model, frame = seeded(model_config()), sweeps.agent_frames(1, 0)[0]
        with torch.no_grad():
            ears = self.ears(model)
            frame_speed.check(model, frame, ears)
            real = getattr(Collaboration, part)

            def shifted(self: Collaboration, *arguments: Any) -> Any:
                found = real(self, *arguments)
                (found.boxes if part == "detect" else found.feature).__iadd__(1)
                return found

            monkeypatch.setattr(Collaboration, part, shifted)
            with pytest.raises(HeatError, match=f"not what Collaboration.{part}"):
                frame_speed.check(model, frame, ears)

    def test_agents_of_several_types_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frame_speed, "_SIDE", 8)
        spoken: list[str] = []
        sense = frame_speed.sense
        monkeypatch.setattr(frame_speed, "sense", lambda *a, **k: spoken.append(a[2]) or sense(*a, **k))
        config = model_config(agents={"lidar64": PILLARS, "camera": CAMERA})
        frame_speed.measure_frame(config, Variant(MIXED, "optimised"), (3,), ONCE, 3, 0, nobody)
        assert spoken[-3:] == ["lidar64", "camera", "lidar64"]

    @pytest.mark.parametrize("config", [model_config(), small_published()])
    def test_heads_find_as_many_objects_as_they_are_made_to(self, config: ModelConfig) -> None:
        model = seeded(config)
        name = next(iter(config.agents))
        with torch.no_grad():
            own, _ = frame_speed.sense(model, sweeps.agent_frames(1, 0)[0], name)
            found, _ = frame_speed.listen(model, Ears(own, []), objects=3)
            plain = model.head(model.neck(model.fusion.alone(own.feature[None], [name])))  # type: ignore[index]
        crafted = frame_speed.with_objects(plain, 3)
        key = "score" if "score" in plain else "heatmap"
        assert int((crafted[key] > 0).sum()) == 3 * 9
        assert len(found) >= 1

    def test_drawn_weights_are_the_same_each_time_and_leave_no_map_empty(self) -> None:
        first, second = seeded(small_published()), seeded(small_published())
        state = second.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
        with torch.no_grad():
            message, _ = frame_speed.sense(first, sweeps.agent_frames(1, 0)[0], "lidar64_pillars")
        assert message.feature is not None and (message.feature != 0).float().mean() > 0.2

    def test_a_peak_is_taken_in_the_precision_it_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frame_speed, "_SIDE", 8)
        seen: list[tuple[torch.dtype, bool]] = []
        product = torch.mm
        monkeypatch.setattr(
            torch, "mm", lambda a, b: seen.append((a.dtype, torch.is_autocast_enabled("cpu"))) or product(a, b)
        )
        with torch.autocast("cpu", torch.bfloat16):
            frame_speed.peak_gflops(times=1)
        assert seen == [(torch.float32, False), (torch.bfloat16, False)]

    def test_a_round_more_only_while_there_is_time(self) -> None:
        def rounds(repeats: Repeats) -> int:
            variant = Variant("demo")
            return len(frame_speed.measure_frame(model_config(), variant, (1,), repeats, 3, 0, nobody)["rounds"])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frame_speed, "_SIDE", 8)
            assert (rounds(Repeats(2, 4, 0.0)), rounds(Repeats(1, 3, 1e9))) == (2, 3)

    def test_what_does_not_compile_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from torch._dynamo.exc import TorchDynamoException

        def fails(*_: Any) -> None:
            raise TorchDynamoException("no header\nand more")

        monkeypatch.setattr(frame_speed, "measure_frame", fails)
        found = frame_speed.measure_compiled_frame(
            model_config(), Variant("demo", "compiled"), (1,), ONCE, 3, 0, nobody
        )
        assert found == {"failed": "no header"}


class TestStep:
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_a_step_changes_the_network(self, monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
        monkeypatch.setattr(frame_speed, "_SIDE", 8)
        steps: list[int] = []
        step = torch.optim.AdamW.step
        monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: steps.append(1) or step(self))
        found = step_speed.measure_step(small_published(), Variant("published", "plain", precision), 2, ONCE, 0, nobody)
        assert len(steps) == 2 and len(found["rounds"]) == 1  # the first one is not counted
        assert set(found["rounds"][0]["seconds"]) == {"forward", "backward", "optimiser", "wall"}


class TestMatching:
    def test_loops_count_as_we_do(self) -> None:
        found = matching_speed.measure_matching(4, 12, 3, 0, nobody)
        assert set(found["loops"]) == set(matching_speed.LOOPS) and found["frames"] == 4

    @pytest.mark.parametrize("how", matching_speed.LOOPS)
    def test_every_loop_gives_the_same(self, how: str) -> None:
        frame = matching_speed.detections(0, 20, 0)
        told = matching_speed.loop(*frame, (0.3, 0.7), how)
        counts = {threshold: int(correct.sum()) for threshold, correct in told.items()}
        usual = matching_speed.loop(*frame, (0.3, 0.7), "unions")
        assert all(np.array_equal(told[threshold], usual[threshold]) for threshold in usual)
        assert 10 < counts[0.3] < 20 and counts[0.7] < counts[0.3]

    def test_loops_that_count_otherwise_are_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(matching_speed, "average_precision", lambda *_: 0.5)
        with pytest.raises(HeatError, match="do not compare"):
            matching_speed.measure_matching(2, 8, 2, 0, nobody)

    def test_without_shapely_the_loops_are_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(matching_speed.importlib.util, "find_spec", lambda _: None)
        assert matching_speed.measure_matching(2, 8, 2, 0, nobody)["loops"] is None


# --- the plan ---------------------------------------------------------------------------------------------------------


class TestPlan:
    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"models": ("publisht",)}, "did you mean 'published'"),
            ({"agents": (2, 1)}, "go up from 1"),
            ({"threads": (0,)}, "at least 1"),
            ({"least": 3, "most": 2}, "below least"),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings: dict[str, Any], says: str) -> None:
        with pytest.raises(ValidationError, match=says):
            SpeedConfig(**settings)

    def test_a_quick_run_leaves_the_results_alone(self) -> None:
        whole = SpeedConfig()
        small = quick(whole)
        assert not {whole.out, whole.docs, whole.cells} & {small.out, small.docs, small.cells}
        assert small.models == whole.models and sum(c.seconds for c in cells_of(small)) < 300

    def test_every_way_to_run_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(speed, "machine", lambda: {"bfloat16": True})
        variants = list(variants_of(SpeedConfig()))
        one = {(v.model, v.build, v.precision) for v in variants if v.threads == 1}
        assert len(one) == 3 * 2 * 2
        several = [v for v in variants if v.threads == 2]
        assert {(v.model, v.build, v.precision) for v in several} == {
            ("published", "optimised", "bfloat16"),
            ("heatv2x", "optimised", "bfloat16"),
        }
        monkeypatch.setattr(speed, "machine", lambda: {"bfloat16": False})
        assert {v.precision for v in variants_of(SpeedConfig())} == {"float32"}

    def test_without_a_compiler_nothing_is_compiled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compiled = "frames/heatv2x/compiled/float32/1"
        monkeypatch.setattr(speed, "compiler", lambda: "/usr/bin/g++")
        assert compiled in [cell.name for cell in cells_of(SpeedConfig())]
        monkeypatch.setattr(speed, "compiler", lambda: None)
        assert compiled not in [cell.name for cell in cells_of(SpeedConfig())]

    def test_other_code_is_measured_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = identities_of(list(cells_of(SpeedConfig())))
        assert before == identities_of(list(cells_of(SpeedConfig())))
        monkeypatch.setattr(speed, "code_digest", lambda: "other")
        after = identities_of(list(cells_of(SpeedConfig())))
        assert all(before[name] != after[name] for name in before)

    def test_each_measurement_has_a_process_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[int, int]] = []
        monkeypatch.setattr(
            speed, "run_cells", lambda cells, folder, processes, tell: calls.append((len(cells), processes)) or {}
        )
        told: list[int] = []
        config = SpeedConfig()
        speed.run_speed(config, lambda what, done, total: told.append(done) if what == "whole benchmark" else None)
        assert calls == [(1, 1)] * len(list(cells_of(config)))
        assert told == sorted(told)

    def test_finished_measurements_are_forgotten(self, tmp_path: Path) -> None:
        config = SpeedConfig(out=tmp_path)
        (config.cells / "frames").mkdir(parents=True)
        speed.forget(config)
        speed.forget(config)
        assert tmp_path.exists() and not config.cells.exists()

    def test_the_four_types_are_a_network(self) -> None:
        assert sorted(MODELS[MIXED].config().agents) == [
            "camera_efficientnet",
            "camera_resnet",
            "lidar32_voxels",
            "lidar64_pillars",
        ]


# --- numbers ----------------------------------------------------------------------------------------------------------


def one_round(peak: float = 100.0, scale: float = 1.0) -> dict[str, Any]:
    """Every stage of an agent takes 1 s, every one of the ego's 2 s, and 1 s more per message."""
    agent = dict.fromkeys((*OF_AN_AGENT, "wall"), scale)
    ego = {str(n): dict.fromkeys((*OF_THE_EGO, "wall"), scale * (1.0 + n)) for n in (1, 2, 5)}
    return {"peak_gflops": {"float32": peak, "bfloat16": 4 * peak}, "agents": [agent] * 5, "ego": ego}


def content_of(*rounds: dict[str, Any]) -> dict[str, Any]:
    counts = ("1", "2", "5")
    ego = dict.fromkeys(OF_THE_EGO, 10**9)
    return {
        "rounds": list(rounds),
        "peak_bytes": dict.fromkeys(counts, 10**9),
        "flops": {**dict.fromkeys(counts, ego), "agent": dict.fromkeys(OF_AN_AGENT, 10**9)},
    }


class TestNumbers:
    def test_middle_and_quartiles(self) -> None:
        assert middle([3.0, 1.0, 2.0, 5.0, 4.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
        assert middle([0.00012345678], 1000) == dict.fromkeys(("median", "low", "high"), 0.1235)

    def test_a_frame_is_the_sum_of_its_stages(self) -> None:
        seconds = seconds_of(one_round(), 5)
        assert seconds["all encode"] == seconds["all backbone"] == 5
        assert seconds["forward"] == 10 + 3 * 6  # the encoders of all five, and fuse, neck, head of the ego
        assert seconds["frame"] == 3 + 5 * 6  # one agent's own sensing, and the ego's stages

    def row(self, *rounds: dict[str, Any], precision: Any = "float32", agents: str = "1") -> dict[str, Any]:
        from studies.speed_summary import _frame

        content = content_of(*rounds)
        return _frame(Variant("published", "plain", precision), content, agents, content["flops"])

    def test_a_faster_machine_gains_nothing(self) -> None:
        slow, fast = self.row(one_round()), self.row(one_round(peak=200.0, scale=0.5))
        for key in ("forward_matmul_gflop", "frame_matmul_gflop", "of_peak", "times_reference", "to_alone"):
            assert slow[key] == fast[key], key
        assert slow["cpu_ms"]["frame"]["median"] == 2 * fast["cpu_ms"]["frame"]["median"]

    def test_ratios_take_the_rate_of_the_precision(self) -> None:
        forward, there = 8.0, reference_speed.PEAK_GFLOPS
        row = self.row(one_round())
        assert row["times_reference"]["same_precision"] == pytest.approx(5.6 * there["float32"] / (forward * 100), 1e-3)
        row = self.row(one_round(), precision="bfloat16")
        assert row["times_reference"] == pytest.approx(
            {
                "same_precision": 5.6 * there["bfloat16"] / (forward * 400),
                "float32": 5.6 * there["float32"] / (forward * 100),
            },
            rel=1e-3,
        )
        # five stages of 10^9 operations each in eight seconds
        assert row["of_peak"]["forward"] == pytest.approx(5 / forward / 400, rel=1e-3)

    def test_normalised_numbers_are_medians_of_rounds_not_ratios_of_medians(self) -> None:
        calm, busy = one_round(), one_round(peak=50.0, scale=2.0)
        assert self.row(calm, busy, busy)["forward_matmul_gflop"] == self.row(calm)["forward_matmul_gflop"]

    def test_no_ratio_where_the_reference_was_not_measured(self) -> None:
        row = self.row(one_round(), agents="2")
        assert "times_reference" in row
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference_speed, "FORWARD_S", {1: 5.6})
            assert "times_reference" not in self.row(one_round(), agents="2")

    def test_one_more_agent_is_a_share_of_the_frame_alone(self) -> None:
        rows = [self.row(one_round(), agents=count) for count in ("1", "2", "5")]
        assert further_percent(rows) == pytest.approx(100 * (33 / 13 - 1) / 4, rel=1e-3)
        assert further_percent(rows[:1]) is None and further_percent([]) is None

    def test_the_references_stages_are_its_forward_pass(self) -> None:
        forward = ("encode", "backbone", "fuse", "neck", "head")
        for agents, seconds in reference_speed.FORWARD_S.items():
            parts = sum(reference_speed.STAGES_S[stage][agents] for stage in forward)
            assert parts == pytest.approx(seconds, rel=0.08)


class TestTargets:
    def verdicts(self, summary: dict[str, Any]) -> dict[str, bool | None]:
        return {line["what"]: line["met"] for line in targets(summary)}

    def test_every_target_has_its_line(self, summary: dict[str, Any]) -> None:
        lines = targets(summary)
        assert len(lines) == 3 + 1 + 3 + 3 + 1 + 4
        assert [line["what"] for line in lines if line["met"] is None] == [
            "HeatV2X: AP at the demo grid against the pyramid's"
        ]

    @pytest.mark.parametrize(("value", "met"), [(8.0, True), (7.9, False)])
    def test_the_slowest_frame_decides(self, summary: dict[str, Any], value: float, met: bool) -> None:
        rows = fastest_build(summary, "heatv2x", "bfloat16")
        for row in rows:
            row["times_reference"] = {"same_precision": 20.0, "float32": 20.0}  # type: ignore[index]
        rows[-1]["times_reference"]["same_precision"] = value
        assert self.verdicts(summary)["small graph, against the reference, bfloat16"] is met

    @pytest.mark.parametrize(("share", "met"), [(0.02, True), (0.0201, False)])
    def test_decoding(self, summary: dict[str, Any], share: float, met: bool) -> None:
        for row in summary["frames"]:
            row["decode_share"] = share
        assert self.verdicts(summary)["small graph: decoding and suppression, of the ego's frame"] is met

    @pytest.mark.parametrize(("ratio", "met"), [(1.2, True), (1.21, False)])
    def test_a_further_agent(self, summary: dict[str, Any], ratio: float, met: bool) -> None:
        for row in fastest_build(summary, "heatv2x", "bfloat16"):
            row["to_alone"]["median"] = 1.0 if row["agents"] == 1 else ratio
        assert self.verdicts(summary)["small graph: one more collaborator, of the ego's own frame alone"] is met

    @pytest.mark.parametrize(("ratio", "met"), [(50.0, True), (49.0, False), (None, None)])
    def test_loops(self, summary: dict[str, Any], ratio: float | None, met: bool | None) -> None:
        times = ratio and {"unions": ratio, "areas": 30.0, "once": 10.0}
        summary["average_precision"]["times_loops"] = times
        line = next(line for line in targets(summary) if "polygon loops" in line["what"])
        assert line["met"] is met
        assert ("30 ×" in line["measured"]) if times else ("shapely is not installed" in line["measured"])

    def test_memory_is_compared_frame_by_frame(self, summary: dict[str, Any]) -> None:
        what = "small pyramid: most memory of the process"
        for row in summary["frames"]:
            row["peak_bytes"] = 1.1e9
        assert self.verdicts(summary)[what]
        wanted = {"model": "published", "build": "optimised", "agents": 3, "threads": 1}
        next(r for r in summary["frames"] if all(r[k] == v for k, v in wanted.items()))["peak_bytes"] = 2e9
        assert self.verdicts(summary)[what] is False

    def test_without_bfloat16_its_target_is_not_measured(self, summary: dict[str, Any]) -> None:
        summary["precisions"] = ["float32"]
        line = targets(summary)[0]
        assert line["met"] is None and "no bfloat16" in line["measured"]


class TestPage:
    def test_page_figure_and_numbers_are_written(self, summary: dict[str, Any], tmp_path: Path) -> None:
        path = write_page(summary, tmp_path)
        assert json.loads((tmp_path / "speed.json").read_text()) == summary
        assert (tmp_path / "images" / "speed.png").stat().st_size > 10_000
        text = path.read_text()
        for fact in ("`heatv2x bench speed`", "2026-11-26", "HEAL (snapshot 96812ed5)", "GFLOP per CPU second", "8.6"):
            assert fact in text, fact
        for heading in ("### `published`", "### `heatv2x`", "### `demo`", "## A sender's frame", "## Two threads",
                        "## The four published types together"):  # fmt: skip
            assert heading in text, heading
        assert "quick run" not in text and "None" not in text and "nan" not in text

    def test_the_json_has_every_number(self, summary: dict[str, Any], config: SpeedConfig) -> None:
        left_out = {"threads": 2, "build": "compiled", "model": MIXED}
        rows = [row for row in summary["frames"] if all(row[key] != value for key, value in left_out.items())]
        assert len(rows) == 3 * 2 * 2 * len(config.agents)
        for row in rows:
            assert {*row["cpu_ms"]} >= {*OF_AN_AGENT[:3], *OF_THE_EGO, "forward", "frame"}
            assert row["peak_bytes"] > 0 and row["gflop"]["forward"] > 0 and 0 < row["decode_share"] < 1
            assert ("times_reference" in row) == (row["model"] != "demo")
        wanted = {"model": "published", "build": "optimised", "precision": "float32"}
        held = [row["peak_bytes"] for row in rows if all(row[key] == value for key, value in wanted.items())]
        assert held == sorted(held)
        assert {(step["model"], step["precision"]) for step in summary["steps"]} == {
            (model, precision) for model in config.steps for precision in ("float32", "bfloat16")
        }
        assert summary["reference"]["forward_s"]["5"] == 20.0

    def test_compiled_networks_have_their_rows(self, summary: dict[str, Any]) -> None:
        compiled = page(summary).partition("## torch.compile")[2].partition("\n## ")[0]
        assert compiled.count("| `heatv2x` |") == 2 and "–" not in compiled
        failed = page({**summary, "compile_failed": {"heatv2x, compiled, float32, 1 thread": "no header"}})
        assert "did not compile: no header" in failed

    def test_a_quick_page_says_so(self, summary: dict[str, Any]) -> None:
        assert "it is no result" in page({**summary, "quick": True})

    def test_what_was_not_measured_is_said(self, summary: dict[str, Any]) -> None:
        left_out = {**summary, "compiler": None, "steps": []}
        left_out["average_precision"] = {**summary["average_precision"], "loops_cpu_s": None, "times_loops": None}
        text = page(left_out)
        assert "no C++ compiler" in text and "shapely is not installed" in text and text.count("Not measured.") == 1

    def test_the_reference_is_drawn_beside_ours(self, summary: dict[str, Any]) -> None:
        whole, own = panels(summary)
        assert whole.lines["reference"][1] == pytest.approx(5.6 * 90 / 1000)
        assert {"published, bf16", "heatv2x, float32"} <= set(whole.lines)
        assert set(own.lines) == set(whole.lines) - {"reference"}
        assert own.lines["heatv2x, bf16"][1] == 1.0

    def test_the_terminal_shows_frames_and_targets(self, summary: dict[str, Any]) -> None:
        out = Console(record=True, width=160, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
        print_frames(summary, out)
        print_targets(summary["targets"], out)
        text = " ".join(out.export_text().split())
        assert "published plain float32 1" in text and "not part of this benchmark" in text


def test_the_command_writes_and_then_forgets(
    contents: dict[str, Any], config: SpeedConfig, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from studies import verbs

    monkeypatch.setattr(speed, "run_speed", lambda *_: contents)
    config.cells.mkdir(parents=True, exist_ok=True)
    small = [f"{key}={json.dumps(value)}" for key, value in config.model_dump(mode="json").items()]
    monkeypatch.setattr(verbs, "out", SimpleNamespace(print=lambda *_, **__: None, width=100))
    verbs.speed_study(small)
    assert (config.docs / "speed.md").exists() and not config.cells.exists()
