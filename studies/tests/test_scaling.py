"""The scaling study: nobody meets another newcomer, nobody changes, and what is timed is what the model does."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from heatv2x.core.plugins import PartConfig
from heatv2x.errors import HeatError
from heatv2x.evaluation.roster import Roster
from heatv2x.model.assembly import adapter_pack, agent_pack, base_pack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig
from heatv2x.model.packs import write_pack
from heatv2x.structures import Pose
from studies import crowd, fleet, scaling
from studies.cells import identities_of
from studies.config import AdaptationConfig
from studies.fleet import FleetConfig, Mixed
from studies.scaling import ScalingConfig, cells_of, quick
from studies.scaling_page import page, panels, write_page
from studies.scaling_summary import further_agent, summarise
from tests.scene_factory import SmallScenes, joined, shaken, small_model

LIDAR32 = AdapterConfig(agent=PartConfig(part="lidar_slices", settings={"sensor": "lidar32", "slices": 4}))
MACHINE = {"date": "2026-11-25", "machine": {"device": "CPU", "cores": 2}, "code_version": "0.1.0"}


def nobody(what: str, done: int, total: int) -> None:
    """Progress nobody looks at."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ScalingConfig:
    """A study folder in which two newcomers have been trained, each without the other."""
    study = tmp_path_factory.mktemp("study")
    settings = {"types": ("lidar16", "lidar32"), "agents": (2, 6), "scenes": 2, "repeats": 1}
    config = ScalingConfig(study=study, out=study / "scaling", docs=study / "docs", **settings)
    place = fleet.place_of(config, 0)
    base = small_model()
    write_pack(base_pack(base, {}), place.pack("base", "base"))
    write_pack(agent_pack(base, "lidar64", {}), place.pack("base", "lidar64"))
    for name, adapters in (("lidar16", None), ("lidar32", LIDAR32)):
        model = joined(small_model(), name, *([adapters] if adapters else []), shake=0.1)
        shaken(model.agent(name), seed=3)
        write_pack(agent_pack(model, name, {}), place.encoder(name))
        write_pack(adapter_pack(model, name, {}), place.pack(f"{name}_collaborative", "adapter"))
    return config


@pytest.fixture(scope="module")
def contents(config: ScalingConfig) -> dict[str, dict[str, Any]]:
    """What the cells of a finished study hold; trainings are made up, the rest is measured on small scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "Opv2v", lambda *_: SmallScenes(frames=2, agents=3))
        patch.setattr(crowd, "Opv2v", lambda *_: SmallScenes(frames=2, agents=5))
        found: dict[str, dict[str, Any]] = {"seed0/base": {"rows": [], "stages": []}}
        for name in config.types:
            facts = {"trained_parameters": 1000, "seconds": 20.0, "adapter_pack_bytes": 148_000}
            facts |= {"encoder_parameters": 5000}
            found[f"seed0/{name}/joined"] = {"rows": [], "facts": facts}
            found[f"seed0/{name}/encoder"] = {"rows": [], "stages": [{"cpu_seconds": 240.0}]}
        for count in (1, 2, 3):
            found[f"seed0/after_{count}"] = fleet.evaluate(config, 0, count, nobody)
        found["seed0/crowd"] = crowd.measure_crowd(config, 0, nobody)
    return {name: {**MACHINE, "seed": 0, **content} for name, content in found.items()}


def summary_of(contents: dict[str, dict[str, Any]], config: ScalingConfig) -> dict[str, Any]:
    return summarise(contents, config, "heatv2x bench scaling")


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"types": ("lidar61",)}, "did you mean 'lidar16'"),
            ({"types": ("lidar16", "lidar16")}, "joins once"),
            ({"agents": (1, 2)}, "2 to 14"),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings: dict[str, Any], says: str) -> None:
        with pytest.raises(ValidationError, match=says):
            FleetConfig(**settings)

    def test_the_quick_study_touches_no_folder_of_the_whole_one(self) -> None:
        whole = ScalingConfig()
        small = quick(whole)
        folders = {whole.out, whole.study, whole.docs}
        assert not folders & {small.out, small.study, small.docs, small.networks_here.out}
        assert max(small.agents) == 10 and small.types == whole.types

    def test_six_types_have_a_recipe_and_words(self) -> None:
        types = ScalingConfig().deployed()
        assert len(types) == 6
        assert set(types) <= set(fleet.ABOUT)
        for name in types[1:]:
            assert fleet.recipe_of(name)["name"] == name


class TestGraph:
    def test_a_newcomer_needs_the_base_and_itself_only(self) -> None:
        cells = {cell.name: cell for cell in cells_of(ScalingConfig())}
        for name in ScalingConfig().types:
            assert cells[f"seed0/{name}/joined"].needs == ("seed0/base", f"seed0/{name}/encoder")
            assert cells[f"seed0/{name}/encoder"].needs == ()

    def test_a_longer_fleet_keeps_what_the_shorter_one_measured(self) -> None:
        two = identities_of(cells_of(ScalingConfig(types=("lidar16", "camera"))))
        three = identities_of(cells_of(ScalingConfig(types=("lidar16", "camera", "lidar32"))))
        other = identities_of(cells_of(ScalingConfig(types=("camera", "lidar16"))))
        kept = {name for name in two if two[name] == three.get(name)}
        assert set(two) - kept == {"seed0/crowd"}
        assert two["seed0/after_2"] != other["seed0/after_2"]

    def test_frames_and_steps_decide(self) -> None:
        one = identities_of(cells_of(ScalingConfig()))
        fewer = identities_of(cells_of(ScalingConfig(frames=3)))
        longer = identities_of(cells_of(ScalingConfig(networks=AdaptationConfig(local_steps=7))))
        assert one["seed0/camera/joined"] == fewer["seed0/camera/joined"] != longer["seed0/camera/joined"]
        assert one["seed0/after_1"] != fewer["seed0/after_1"]

    def test_a_crowd_is_timed_once_and_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runs: list[tuple[set[str], int]] = []
        monkeypatch.setattr(scaling, "build_world", lambda *_: None)
        monkeypatch.setattr(
            scaling,
            "run_cells",
            lambda cells, folder, processes, tell: runs.append(({c.name for c in cells}, processes)),
        )
        scaling.run_scaling(ScalingConfig(seeds=(0, 1)), nobody)
        (first, side_by_side), (everything, alone) = runs
        assert everything - first == {"seed0/crowd"}
        assert (side_by_side, alone) == (2, 1)


def test_every_type_is_heard_and_keeps_its_agent() -> None:
    types = tuple("abcdef")
    roster = Mixed("lidar64", types)
    heard: set[str] = set()
    for ids in ((1, 2, 3), (4, 8, 9), (-1, 5, 7), (1, 2, 5)):
        roles = roster.roles(ids, ids[0])
        assert roles == roster.roles(tuple(reversed(ids)), ids[0])
        assert roles.pop(ids[0]) == "lidar64"
        assert len(set(roles.values())) == len(roles)
        heard |= set(roles.values())
    assert heard == set(types)


class TestFleet:
    def test_deployed_types_do_not_notice_a_joining(self, contents: dict[str, dict[str, Any]]) -> None:
        rows = {row["name"]: row for count in (1, 2, 3) for row in contents[f"seed0/after_{count}"]["rows"]}
        for what in ("sender_lidar64", "alone_lidar64"):
            assert len({rows[f"after_{count}/{what}"]["found"] for count in (1, 2, 3)}) == 1
        for what in ("sender_lidar16", "ego_lidar16", "alone_lidar16"):
            before, after = rows[f"after_2/{what}"], rows[f"after_3/{what}"]
            assert (before["found"], before["arrived"], before["ap"]) == (after["found"], after["arrived"], after["ap"])

    def test_the_digests_tell_types_apart(self, contents: dict[str, dict[str, Any]]) -> None:
        rows = [row for row in contents["seed0/after_3"]["rows"] if row["what"].startswith("sender")]
        assert len({row["found"] for row in rows}) == len({row["arrived"] for row in rows}) == 3

    def test_the_plan_is_the_same_with_more_types(self) -> None:
        short, long = fleet.rosters(("lidar64", "lidar16")), fleet.rosters(("lidar64", "lidar16", "camera"))
        assert {name: long[name] for name in short if name != "mixed"} == {
            n: r for n, r in short.items() if n != "mixed"
        }
        assert long["sender_camera"][1] == Roster("lidar64", "camera")
        assert long["ego_camera"][1] == Roster("camera", "lidar64")


class TestCrowd:
    def test_a_crowd_costs_the_ego_more_and_a_sender_nothing(self, contents: dict[str, dict[str, Any]]) -> None:
        facts = contents["seed0/crowd"]["facts"]
        assert [sender["type"] for sender in facts["sender"]] == ["lidar64", "lidar16", "lidar32"]
        assert all(sender["message_bytes"] > 0 and sender["peak_tensor_bytes"] > 0 for sender in facts["sender"])
        for fusion in crowd.FUSIONS:
            for senders in crowd.SENDERS:
                lines = [e for e in facts["ego"] if (e["fusion"], e["senders"]) == (fusion, senders)]
                assert [line["agents"] for line in lines] == [1, 2, 6]
                held = [line["peak_tensor_bytes"] for line in lines]
                assert held == sorted(held) and len(set(held)) == 3
                assert lines[0]["ratio_to_alone"] == {"median": 1.0, "low": 1.0, "high": 1.0}
        assert facts["borrowed"] == 1  # five senders, four of them in the scene

    def test_borrowed_agents_keep_their_place_relative_to_the_ego(self) -> None:
        scenes = SmallScenes(frames=2, agents=3)
        first, second = (scenes.read(index, ["lidar64"]) for index in range(2))
        here, there = Pose.planar(50, -20, 1.0, 1.8), second.agents[0].pose
        moved = crowd.moved(second.agents[1], there, here)
        np.testing.assert_allclose(moved.pose.relative_to(here), second.agents[1].pose.relative_to(there), atol=1e-12)
        assert moved.lidars is second.agents[1].lidars
        assert first.agents[0].pose.planar_distance(here) > 20

    def test_too_few_agents_are_an_error(self) -> None:
        scenes = SmallScenes(frames=1, agents=3)
        model = small_model()
        with pytest.raises(HeatError, match="2 agents can be heard, agents= asks for 5"):
            crowd.gather({"hetero_graph": model}, [scenes.read(0, ["lidar64"])], 0, ["lidar64"], 5)

    def test_timing_something_else_than_detect_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, frame = small_model(), SmallScenes(frames=1).read(0, ["lidar64"])
        own = model.encode(frame.agents[0], "lidar64")
        assert set(crowd.ego_seconds(model, own, [])) == {"whole", *crowd.PARTS}
        detect = Collaboration.detect

        def shifted(self: Collaboration, *heard: Any) -> Any:
            found = detect(self, *heard)
            found.boxes[:, 0] += 1
            return found

        monkeypatch.setattr(Collaboration, "detect", shifted)
        with pytest.raises(HeatError, match="not what Collaboration"):
            crowd.ego_seconds(model, own, [])

    def test_one_more_agent_is_a_share_of_the_frame_alone(self) -> None:
        ego = [
            {"fusion": "maximum", "senders": "base type", "agents": n, "ratio_to_alone": {"median": 1 + 0.05 * (n - 1)}}
            for n in (1, 2, 5)
        ]
        assert further_agent(ego, "maximum", "base type") == pytest.approx(5.0)


class TestPage:
    def test_the_summary_is_json_and_adds_up(self, contents: dict[str, dict[str, Any]], config: ScalingConfig) -> None:
        summary = summary_of(contents, config)
        json.dumps(summary, allow_nan=False)
        assert [j["cumulative_parameters"] for j in summary["joinings"]] == [1000, 2000]
        assert [j["types"] for j in summary["joinings"]] == [2, 3]
        # two rows of the base twice, three of lidar16 once
        assert summary["unchanged"] == {"compared": 7, "different": [], "base_changed": []}
        assert summary["targets"][0]["met"] and summary["targets"][1]["met"]

    @pytest.mark.parametrize("key", ["found", "arrived", "ap"])
    def test_one_changed_byte_is_told(
        self, contents: dict[str, dict[str, Any]], config: ScalingConfig, key: str
    ) -> None:
        changed = copy.deepcopy(contents)
        row = next(row for row in changed["seed0/after_3"]["rows"] if row["what"] == "ego_lidar16")
        row[key] = {**row["ap"], "0.7": row["ap"]["0.7"] + 1e-12} if key == "ap" else "other"
        summary = summary_of(changed, config)
        assert summary["unchanged"]["different"] == ["seed0/after_3/ego_lidar16"]
        assert summary["targets"][0]["met"] is False
        assert "These changed: seed0/after_3/ego_lidar16" in page(summary)

    def test_seeds_must_agree_about_parameters(
        self, contents: dict[str, dict[str, Any]], config: ScalingConfig
    ) -> None:
        two = copy.deepcopy(contents)
        two |= {name.replace("seed0", "seed1"): {**copy.deepcopy(c), "seed": 1} for name, c in contents.items()}
        both = config.model_copy(update={"seeds": (0, 1)})
        assert summary_of(two, both)["joinings"][0]["seconds"]["spread"] == 0
        two["seed1/lidar32/joined"]["facts"]["trained_parameters"] = 1
        with pytest.raises(HeatError, match="lidar32"):
            summary_of(two, both)

    def test_page_figure_and_numbers_are_written(
        self, contents: dict[str, dict[str, Any]], config: ScalingConfig, tmp_path: Path
    ) -> None:
        summary = summary_of(contents, config)
        path = write_page(summary, tmp_path)
        text = path.read_text()
        assert json.loads((tmp_path / "scaling.json").read_text()) == json.loads(json.dumps(summary))
        assert (tmp_path / "images" / "scaling.png").stat().st_size > 10_000
        for fact in ("heatv2x bench scaling", "2026-11-25", "One seed", "same bytes as before", "1 further senders"):
            assert fact in text, fact
        for name in config.deployed():
            assert text.count(f"| `{name}` |") >= 2, name

    def test_every_type_is_drawn_from_its_joining_on(
        self, contents: dict[str, dict[str, Any]], config: ScalingConfig
    ) -> None:
        drawn = {panel.title: panel.lines for panel in panels(summary_of(contents, config))}
        heard = drawn["AP50, base hears this type"]
        assert {name: list(points) for name, points in heard.items()} == {
            "lidar64": [1, 2, 3],
            "lidar16": [2, 3],
            "lidar32": [3],
        }
        assert len(set(heard["lidar64"].values())) == 1
        assert len(drawn["CPU ms of an ego's frame"]) == 4


def test_the_crowded_world_is_full() -> None:
    world = crowd.world_of(ScalingConfig())
    assert world.min_agents == world.max_agents == crowd.CROWD
    assert set(world.sensors) >= {"lidar64", "lidar32", "lidar16", "camera"}
    assert world.frames_of("test") == ScalingConfig().scenes and world.frames_of("train") == 0
