"""Who plays what: assignment files with HEAL's semantics, the ego's rule, in-order evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heatv2x.data.assignment import Assignment
from heatv2x.errors import ConfigError, DataError
from heatv2x.evaluation.roster import AssignedRoster, Roster
from tests.formats.opv2v_writer import OPV2V, write_assignments

AGENTS = {"s1": [102, 111, 120, 13, -1], "s2": [1996, 2005]}
PLAYS = {"m1": "lidar64", "m2": "camera", "m3": "lidar32", "m4": "camera336"}


def test_a_plain_roster() -> None:
    roster = Roster("a", ("b", "c"))
    assert roster.types == ("a", "b", "c") and roster.ego_of("s", (7, 3, 9)) == 7
    assert roster.roles((7, 3, 9), 7) == {7: "a", 3: "b", 9: "c"}


def test_in_order_takes_the_types_in_turn_and_roadside_units_last() -> None:
    assert Assignment.in_order(AGENTS).types == {
        "s1": {102: "m1", 111: "m2", 120: "m3", 13: "m4", -1: "m1"},
        "s2": {1996: "m1", 2005: "m2"},
    }


def test_shuffled_is_one_permutation_per_scenario_of_a_fixed_seed(tmp_path: Path) -> None:
    """The same draws as the files that the test tree holds, which are written with formulas of their own."""
    agents = {s.name: [int(a) for a in sorted(map(str, s.agents))] for s in OPV2V}
    assigned = Assignment.shuffled(agents)
    for scenario in agents:
        kinds = list(assigned.types[scenario].values())
        assert len(set(kinds)) == min(len(kinds), 4)

    write_assignments(tmp_path, OPV2V)
    written = Assignment.read(tmp_path / "opv2v_4modality.json")
    assert written.types == assigned.types


def test_how_many_take_part_and_who_only_labels() -> None:
    assigned = Assignment.in_order(AGENTS)
    ids = AGENTS["s1"]
    everyone = AssignedRoster(assigned, PLAYS, ("lidar64",))
    assert everyone.ego_of("s1", ids) == 102 and everyone.types == ("lidar64", "camera", "lidar32", "camera336")
    assert list(everyone.roles(ids, 102, "s1").values()) == ["lidar64", "camera", "lidar32", "camera336", "lidar64"]
    for count in (1, 2, 3, 4):
        roles = AssignedRoster(assigned, PLAYS, ("lidar64",), count).roles(ids, 102, "s1")
        assert list(roles) == ids[:count]
    lidars = AssignedRoster(assigned, {"m1": "lidar64", "m3": "lidar32"}, ("lidar64",))
    assert lidars.roles(ids, 102, "s1") == {102: "lidar64", 120: "lidar32", -1: "lidar64"}
    alike = AssignedRoster(assigned, dict.fromkeys(PLAYS, "lidar64"), ("lidar64",))
    assert set(alike.roles(ids, 102, "s1").values()) == {"lidar64"}


def test_the_ego_is_the_first_vehicle_of_a_wanted_type() -> None:
    assigned = Assignment.in_order(AGENTS)
    cameras = AssignedRoster(assigned, PLAYS, ("camera", "camera336"))
    assert cameras.ego_of("s1", AGENTS["s1"]) == 111 and cameras.ego_of("s2", AGENTS["s2"]) == 2005
    assert list(AssignedRoster(assigned, PLAYS, ("camera",), 2).roles(AGENTS["s1"], 111, "s1")) == [111, 102]
    assert AssignedRoster(assigned, PLAYS).ego_of("s1", AGENTS["s1"]) == 102
    roadside = Assignment({"s1": {-1: "m1", 5: "m2"}})
    with pytest.raises(ConfigError, match="scenario s1 has no vehicle of type lidar64"):
        AssignedRoster(roadside, PLAYS, ("lidar64",)).ego_of("s1", [5, -1])


def test_types_stay_when_others_come_and_go() -> None:
    """Whoever is in a frame: types are those of the scenario, and another agent of its type stands in for the ego."""
    everyone = (7, 3, 9, 11, -1)
    mixed = Roster("a", ("b", "a"))
    whole = mixed.cast("s", everyone, everyone)
    assert whole is not None and whole.ego == 7 and whole.roles == {7: "a", 3: "a", 9: "b", 11: "a", -1: "b"}
    fewer = mixed.cast("s", everyone, (7, 9, 11))
    assert fewer is not None and fewer.ego == 7 and fewer.roles == {7: "a", 9: "b", 11: "a"}
    headless = mixed.cast("s", everyone, (9, 11, -1))
    assert headless is not None and headless.ego == 11 and headless.roles == {9: "b", 11: "a", -1: "b"}
    assert mixed.cast("s", everyone, (9, -1)) is None
    assigned = AssignedRoster(Assignment.in_order(AGENTS), PLAYS, ("lidar64",))
    ids = AGENTS["s1"]
    assert assigned.cast("s1", ids, ids[1:]) is None, "the other one of the type is a roadside unit"


def test_names_that_the_file_lacks_are_told() -> None:
    assigned = Assignment({"s1": {1: "m1", 2: "m3"}}, Path("types.json"))
    assigned.knows(["m1", "m3"])
    with pytest.raises(ConfigError, match=r"plays= names m2, M1, but types\.json assigns only m1, m3\.\n.*plays\.m1="):
        assigned.knows(["m2", "m3", "M1"])


def test_mistakes() -> None:
    assigned = Assignment.in_order(AGENTS)
    with pytest.raises(ConfigError, match="ego='radar' is not among the types in plays="):
        AssignedRoster(assigned, PLAYS, ("radar",))
    with pytest.raises(ConfigError, match="senders is empty"):
        Roster("lidar64", ())
    with pytest.raises(ConfigError, match="plays= is empty"):
        AssignedRoster(assigned, {})
    with pytest.raises(DataError, match="assigns no type to agent 9 of scenario s1"):
        assigned.of("s1", 9)


def test_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"s1": {"641": "m1", "-1": "m3"}}))
    assert Assignment.read(tmp_path / "a.json").of("s1", -1) == "m3"
