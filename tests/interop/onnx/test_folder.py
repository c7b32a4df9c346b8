"""Exported files compute what the model computes, alone and as a whole; the manifest says what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heatv2x.core.config import build
from heatv2x.core.files import read_json, write_json
from heatv2x.errors import ConfigError, DataError, PackError
from heatv2x.interop.onnx import folder
from heatv2x.interop.onnx.collaboration import OnnxCollaboration
from heatv2x.interop.onnx.compiled import require_compiler
from heatv2x.interop.onnx.ego import HeadStage, Warp, fusion_of
from heatv2x.interop.onnx.folder import ExportConfig, export_onnx, read_manifest
from heatv2x.interop.onnx.graph_file import Written, check, difference, open_session, require_packages, run, write_stage
from heatv2x.interop.onnx.senders import Sender
from heatv2x.interop.onnx.stage import ExportError, ExportStage
from heatv2x.link.message import pack, unpack
from heatv2x.model.assembly import adapter_pack, agent_pack, base_pack
from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig
from heatv2x.model.packs import write_pack
from heatv2x.model.reader import ReaderConfig
from heatv2x.model.variants import reading, without_reader
from heatv2x.structures import Boxes3D
from tests.scene_factory import CAMERA, SmallScenes, joined, small_model

SENSORS = ("lidar64", "lidar16", "camera")
NUMBERS = (1, 2, 3, 5)


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


@pytest.fixture(scope="module")
def model() -> Collaboration:
    """A base and two newcomers that have learned something, one of them with a Multi-Cognitive Adapter."""
    return joined(joined(small_model(), shake=0.1), "camera", AdapterConfig(agent=CAMERA, received=None), shake=0.1)


@pytest.fixture(scope="module")
def packs(model: Collaboration, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The model as packs."""
    place = tmp_path_factory.mktemp("packs")
    made = [base_pack(model, {}), *(agent_pack(model, name, {}) for name in model.agents)]
    made += [adapter_pack(model, name, {}) for name in model.joined]
    return [write_pack(one, place / f"{number}.safetensors") for number, one in enumerate(made)]


@pytest.fixture(scope="module")
def exported(packs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it as ONNX files."""
    out = tmp_path_factory.mktemp("onnx") / "files"
    export_onnx(ExportConfig(packs=tuple(packs), out=out, agents=NUMBERS, repeats=1), silent)
    return out


def close_boxes(one: Boxes3D, other: Boxes3D) -> None:
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(np.array(one.scores), np.array(other.scores), atol=1e-4)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


# --- a whole frame --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("types", [("lidar64", "lidar16", "camera"), ("camera", "lidar64", "lidar64"), ("lidar16",)])
def test_a_frame_gives_the_same_boxes_without_torchs_networks(
    model: Collaboration, exported: Path, types: tuple[str, ...]
) -> None:
    onnx = OnnxCollaboration(exported)
    assert all(parameter.is_meta for parameter in onnx._shapes.parameters()), "no weights in torch"
    frame = SmallScenes(agents=len(types), seed=3).read(0, SENSORS)
    found = []
    for who in (model, onnx):
        own, *others = [who.encode(agent, name) for agent, name in zip(frame.agents, types, strict=True)]
        received = [unpack(pack(message), who.feature_space) for message in others]
        found.append(who.detect(own, received))
    close_boxes(*found)


def test_what_builds_on_detection_works_too(model: Collaboration, exported: Path) -> None:
    frame = SmallScenes(agents=2).read(1, SENSORS)
    found = []
    for who in (model, OnnxCollaboration(exported)):
        own, other = [who.encode(agent, "lidar64") for agent in frame.agents]
        found.append(who.detect(own, [who.with_boxes(other)], share_boxes=True))
    close_boxes(*found)


def test_a_base_with_a_reader_is_exported_without_it_and_understands_codes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = reading(small_model(), ReaderConfig(hidden=8), CodebookConfig(stages=2, entries=16), 2000)
    assert model.codebook is not None
    model.codebook.fit(torch.randn(200, 16, generator=torch.Generator().manual_seed(0)).relu(), 0)
    packs = [base_pack(model, {}), agent_pack(model, "lidar64", {})]
    paths = tuple(write_pack(one, tmp_path / f"{one.kind}.safetensors") for one in packs)
    out = tmp_path / "onnx"
    export_onnx(ExportConfig(packs=paths, out=out, agents=(1,), repeats=1), silent)
    assert "reads no boxes behind features" in caplog.text
    onnx, plain = OnnxCollaboration(out), without_reader(model)
    ego, other = SmallScenes(agents=2).read(0, SENSORS).agents
    message = unpack(pack(model.encode(other, "lidar64")), onnx.feature_space)
    assert message.codes is not None and message.size_bytes <= 2000
    close_boxes(
        onnx.detect(onnx.encode(ego, "lidar64"), [message], guard=False),
        plain.detect(plain.encode(ego, "lidar64"), [message], guard=False),
    )
    said = onnx.encode(other, "lidar64")
    assert said.codec == "int8" and said.boxes is None and len(plain.detect(plain.encode(ego, "lidar64"), [said])) > 0
    (out / "codebook.safetensors").write_bytes(b"something else")
    with pytest.raises(DataError, match="is not the file that the manifest describes"):
        OnnxCollaboration(out)


def test_a_type_without_its_encoder_can_be_listened_to(model: Collaboration, exported: Path, tmp_path: Path) -> None:
    manifest = read_manifest(exported)
    stages = [stage for stage in manifest["stages"] if stage["name"] != "sender_camera"]
    for stage in stages:
        (tmp_path / stage["file"]).write_bytes((exported / stage["file"]).read_bytes())
    write_json(tmp_path / "manifest.json", {**manifest, "stages": stages})
    onnx = OnnxCollaboration(tmp_path)
    ego, other = SmallScenes(agents=2).read(0, SENSORS).agents
    message = model.encode(other, "camera")
    close_boxes(
        onnx.detect(onnx.encode(ego, "lidar64"), [message]), model.detect(model.encode(ego, "lidar64"), [message])
    )
    with pytest.raises(PackError, match="can only be listened to"):
        onnx.encode(other, "camera")


# --- one file -------------------------------------------------------------------------------------------------------


def test_a_sweep_without_points_is_an_empty_map(model: Collaboration, exported: Path) -> None:
    stage = Sender(model, "lidar64")
    empty = torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    (found,) = run(open_session(exported / "sender_lidar64.onnx"), empty)
    with torch.no_grad():
        (expected,) = stage(*empty)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_file_that_computes_something_else_is_noticed(exported: Path) -> None:
    other = Written(HeadStage(small_model(seed=1)), exported / "head.onnx")
    with pytest.raises(ExportError, match=r"head: for 1 egos onnxruntime differs from torch by .*tolerance=0.0001"):
        check(other, [1], 1e-4)


def test_a_fusion_that_looks_at_features_alone(tmp_path: Path) -> None:
    written = write_stage(fusion_of(small_model("maximum")), tmp_path / "fusion.onnx")
    check(written, NUMBERS, 1e-4)
    assert [port.name for port in open_session(written.path).get_inputs()] == ["ego", "features", "visible"]


@pytest.mark.parametrize(
    ("fusion", "reason"),
    [
        ("pyramid", "senders' frames"),
        ("where2comm", "which cells they send"),
    ],
)
def test_fusions_that_cannot_be_exported_are_named(fusion: str, reason: str) -> None:
    with pytest.raises(ExportError, match=f"fusion '{fusion}' cannot be exported.*{reason}"):
        fusion_of(small_model(fusion))


@pytest.mark.parametrize(("fusion", "what"), [("late", "boxes"), ("early", "points")])
def test_only_features_are_exchanged_by_an_export(fusion: str, what: str) -> None:
    with pytest.raises(ExportError, match=f"its agents exchange {what}, not features"):
        fusion_of(small_model(fusion))


@pytest.mark.parametrize("fusion", ["hm_vit", "v2x_vit"])
def test_fusions_that_look_at_types_are_named(fusion: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"fusion '{fusion}' cannot be exported.*poses or types"):
        write_stage(fusion_of(small_model(fusion)), tmp_path / "fusion.onnx")
    assert not list(tmp_path.iterdir())


def test_differences_are_shares_of_the_largest_value() -> None:
    assert difference("x", torch.tensor([0.5, 100.0]), torch.tensor([0.0, 100.0])) == pytest.approx(0.005)
    assert difference("x", torch.tensor([0.5]), torch.tensor([0.25])) == 0.25
    assert difference("x", torch.tensor([float("nan")]), torch.tensor([0.0])) != 0.0
    assert difference("x", torch.tensor([True]), torch.tensor([False])) == float("inf")
    assert difference("x", torch.zeros(0), torch.zeros(0)) == 0
    with pytest.raises(ExportError, match=r"'x': onnxruntime gives \(2,\) torch.float32, torch \(1,\)"):
        difference("x", torch.zeros(2), torch.zeros(1))


# --- the folder -----------------------------------------------------------------------------------------------------


def test_the_manifest_describes_every_file(model: Collaboration, exported: Path) -> None:
    manifest = read_manifest(exported)
    assert manifest["feature_space"] == model.feature_space.hex()
    assert manifest["types"] == {"lidar64": 0, "lidar16": 1, "camera": 2}
    names = [stage["name"] for stage in manifest["stages"]]
    assert names == [*(f"sender_{name}" for name in model.agents), "warp", "received_lidar16", "fusion", "head"]
    assert {path.name for path in exported.iterdir()} == {f"{name}.onnx" for name in names} | {"manifest.json"}
    for stage in manifest["stages"]:
        content = (exported / stage["file"]).read_bytes()
        assert stage["sha256"] == hashlib.sha256(content).hexdigest() and stage["bytes"] == len(content)
        assert set(stage["difference"]) == {str(number) for number in NUMBERS}
        assert max(stage["difference"].values()) <= manifest["tolerance"]
        assert stage["opset"] >= 18 and all(times["onnxruntime"] > 0 for times in stage["cpu_seconds"].values())
        session = open_session(content)
        for described, there in ((stage["inputs"], session.get_inputs()), (stage["outputs"], session.get_outputs())):
            assert [(port["name"], f"tensor({port['type']})", port["axes"]) for port in described] == [
                (port.name, port.type, port.shape) for port in there
            ]


def test_a_damaged_file_is_refused(exported: Path, tmp_path: Path) -> None:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "head.onnx").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"head.onnx: is not the file that the manifest describes"):
        OnnxCollaboration(tmp_path)


def test_a_wrong_file_leaves_the_earlier_export_as_it_was(
    packs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_warp(model: Collaboration, agent_types: Any) -> list[ExportStage]:
        return [Warp(model)]

    def wrong(*_: object) -> None:
        raise ExportError("warp: differs")

    out = tmp_path / "out"
    config = ExportConfig(packs=tuple(packs), out=out, agents=(1,), repeats=1)
    monkeypatch.setattr(folder, "stages_of", only_warp)
    export_onnx(config, silent)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(folder, "check", wrong)
    with pytest.raises(ExportError, match="differs"):
        export_onnx(config, silent)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_earlier_export_makes_room(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"kind": folder.KIND, "format": 1, "stages": [{"file": "sender_old.onnx"}]})
    for name in ("sender_old.onnx", "notes.txt"):
        (tmp_path / name).touch()
    folder._place([], tmp_path, {"kind": folder.KIND, "format": 1, "stages": []})
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "notes.txt"}
    assert read_json(tmp_path / "manifest.json")["stages"] == []


def test_a_folder_of_something_else_is_left_alone(packs: list[Path], tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"kind": "a world"})
    with pytest.raises(DataError, match="choose another folder"):
        export_onnx(ExportConfig(packs=tuple(packs), out=tmp_path), silent)
    assert read_json(tmp_path / "manifest.json") == {"kind": "a world"}


def test_a_base_alone_has_no_sender(packs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(PackError, match="no agent packs"):
        export_onnx(ExportConfig(packs=(packs[0],), out=tmp_path / "out"), silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{}, {"run": "runs/demo", "packs": ["base.safetensors"]}])
def test_one_source_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="either run=FOLDER or packs="):
        build(ExportConfig, {**settings, "out": "x"})


# --- what may be missing --------------------------------------------------------------------------------------------


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"needs onnx, onnxscript, onnxruntime.*\n.*pip install 'heatv2x\[export\]'"):
        require_packages()


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ExportError, match="C\\+\\+ compiler, but there is no no-such-compiler here"):
        require_compiler()
