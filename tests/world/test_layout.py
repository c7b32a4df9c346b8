"""The tree on disk: names, keys, types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from heatv2x.world.build import WorldSummary
from tests.world.scene import frames

VEHICLE_KEYS = {"angle", "center", "extent", "location", "speed"}
AGENT_KEYS = {"lidar_pose", "true_ego_pos", "predicted_ego_pos", "ego_speed", "plan_trajectory", "vehicles"}


def test_splits_and_scenarios(world: Path) -> None:
    counts = {}
    for split in ("train", "validate", "test"):
        names = [path.name for path in (world / "OPV2V" / split).iterdir()]
        assert all(re.fullmatch(r"\d{4}(_\d\d){5}", name) for name in names)
        assert sorted(names) == sorted(path.name for path in (world / "OPV2V_Hetero" / split).iterdir())
        counts[split] = len(names)
    assert counts == {"train": 2, "validate": 1, "test": 1}
    assert sorted(path.name for path in world.iterdir()) == [
        "OPV2V", "OPV2V_Hetero", "manifest.json", "opv2v_4modality.json", "opv2v_4modality_in_order.json",
    ]  # fmt: skip


def test_every_agent_has_every_file(world: Path) -> None:
    for agents in frames(world):
        assert len({tuple(sorted(path.stem for path in a.folder.glob("*.yaml"))) for a in agents}) == 1
        for agent in agents:
            assert int(agent.folder.name) > 0 or agent.folder.name == "-1"
            assert re.fullmatch(r"\d{6}", agent.time)
            base = {path.name.removeprefix(agent.time) for path in agent.folder.glob(f"{agent.time}*")}
            cameras = {f"_camera{k}.png" for k in range(4)}
            assert base == {".yaml", ".pcd", "_hits.json", "_bev_visibility.png", *cameras}
            hetero = {path.name.removeprefix(agent.time) for path in agent.hetero.glob(f"{agent.time}*")}
            assert hetero == {"_16.pcd", "_32.pcd", *(f"_depth{k}.png" for k in range(4))}


def test_times_are_two_ticks_per_10_hz_frame(world: Path) -> None:
    folder = next((world / "OPV2V" / "test").glob("*/*/"))
    times = sorted(int(path.stem) for path in folder.glob("*.yaml"))
    assert np.diff(times).tolist() == [40]


def test_yaml_keys(world: Path) -> None:
    for agents in frames(world):
        for agent in agents:
            assert set(agent.data) == AGENT_KEYS | {f"camera{k}" for k in range(4)}
            for k in range(4):
                camera = agent.data[f"camera{k}"]
                assert set(camera) == {"cords", "extrinsic", "intrinsic"}
                assert np.shape(camera["extrinsic"]) == (4, 4)
                assert camera["intrinsic"][0][2] == 400 and camera["intrinsic"][1][2] == 300
            assert int(agent.folder.name) not in agent.data["vehicles"]
            for key, vehicle in agent.data["vehicles"].items():
                assert isinstance(key, int) and set(vehicle) == VEHICLE_KEYS
                assert np.isclose(vehicle["center"][2], vehicle["extent"][2], atol=0.01)


def test_images(world: Path) -> None:
    agent = frames(world)[0][0]
    for k in range(4):
        image = Image.open(agent.folder / f"{agent.time}_camera{k}.png")
        depth = Image.open(agent.hetero / f"{agent.time}_depth{k}.png")
        assert (image.mode, image.size, depth.mode, depth.size) == ("RGB", (800, 600), "L", (800, 600))
        assert np.asarray(image).std() > 10
    raster = Image.open(agent.folder / f"{agent.time}_bev_visibility.png")
    assert (raster.mode, raster.size) == ("L", (256, 256))


def test_clouds(world: Path) -> None:
    agent = frames(world)[0][0]
    header = (agent.folder / f"{agent.time}.pcd").read_bytes().split(b"DATA binary\n")[0].decode()
    assert "FIELDS x y z rgb\n" in header and "TYPE F F F U\n" in header
    sizes = [len(agent.points(suffix)) for suffix in ("", "_32", "_16")]
    assert sizes[0] > sizes[1] > sizes[2] > 500


def test_assignments(world: Path) -> None:
    shuffled = json.loads((world / "opv2v_4modality.json").read_text())
    in_order = json.loads((world / "opv2v_4modality_in_order.json").read_text())
    assert len(shuffled) == 4 and set(in_order) == {path.name for path in (world / "OPV2V" / "test").iterdir()}
    for scenario, agents in in_order.items():
        folders = {path.name for path in (world / "OPV2V" / "test" / scenario).iterdir() if path.is_dir()}
        assert set(agents) == folders
        cars = sorted(folder for folder in folders if folder != "-1")
        assert [agents[car] for car in cars] == [f"m{k + 1}" for k in range(len(cars))]
    for agents in shuffled.values():
        assert len(set(agents.values())) == len(agents)


def test_manifest_holds_no_path_and_no_time(world: Path, summary: WorldSummary) -> None:
    manifest = json.loads((world / "manifest.json").read_text())
    assert manifest["world_version"] == 1 and manifest["complete"]
    assert "out" not in manifest["settings"] and "workers" not in manifest["settings"]
    assert str(world) not in json.dumps(manifest)
    assert manifest["counts"]["train"]["frames"] == 3 == summary.splits["train"].frames


def test_protocol_is_yaml(world: Path) -> None:
    path = next((world / "OPV2V" / "train").glob("*/data_protocol.yaml"))
    assert yaml.safe_load(path.read_text())["world"]["simulator"] == "heatv2x.world"
