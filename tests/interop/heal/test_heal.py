"""HEAL checkpoints: strict, weights alone, and an imported model says what the reference says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from heatv2x.errors import ConfigError, PackError
from heatv2x.formats.carla import from_carla
from heatv2x.interop.heal.checkpoint import HealImport, convert, import_heal, read_weights
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.links import links_of
from heatv2x.structures import AgentFrame, PointCloud, Pose
from tests.golden_weights import GOLDEN, reference_weights
from tests.scene_factory import same_state

FLIP = np.float32([1, -1, 1, 1])
SMALL = HealImport(half_extent_m=25.6, half_extent_y_m=25.6, codec="raw")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """One LiDAR agent and the shared parts."""
    return reference_weights("m_e2e_m1_state_dict_shapes.json")


@pytest.fixture(scope="module")
def four(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """All four types; encoders of cameras have 8 depth bins and 16 channels, as in the reference vectors."""
    everything = dict(weights)
    for number, file in (("m2", "o_camera_encoder_m2"), ("m3", "n_second_encoder"), ("m4", "o_camera_encoder_m4")):
        prefix = f"encoder_{number}."
        encoder = reference_weights(f"{file}_state_dict_shapes.json", prefix)
        everything |= {prefix + name: value for name, value in encoder.items()}
        for name, value in weights.items():
            if name.startswith("backbone_m1."):
                everything[name.replace("_m1", f"_{number}")] = value
        wide = 128 if number == "m3" else 16
        first = f"backbone_{number}.resnet.layer0.0."
        everything |= {
            f"{first}conv1.weight": torch.randn(64, wide, 3, 3),
            f"{first}downsample.0.weight": torch.randn(64, wide, 1, 1),
        }
        for block in range(3):
            everything |= aligner_block(f"aligner_{number}.channel_align.model.{block}.")
    return everything


def only(four: dict[str, Tensor], *numbers: str) -> dict[str, Tensor]:
    """The shared parts and some of the agents."""
    others = {"m1", "m2", "m3", "m4"} - set(numbers)
    return {name: value for name, value in four.items() if not any(f"_{number}." in name for number in others)}


def aligner_block(prefix: str) -> dict[str, Tensor]:
    shapes = {
        "gamma": (64,), "dwconv.weight": (64, 1, 7, 7), "dwconv.bias": (64,), "norm.weight": (64,), "norm.bias": (64,),
        "pwconv1.weight": (256, 64), "pwconv1.bias": (256,), "pwconv2.weight": (64, 256), "pwconv2.bias": (64,),
    }  # fmt: skip
    return {prefix + name: torch.randn(shape) for name, shape in shapes.items()}


def saved(state: Mapping[str, object], path: Path) -> Path:
    torch.save(dict(state), path)
    return path


@pytest.fixture(scope="module")
def model(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Collaboration:
    folder = tmp_path_factory.mktemp("heal")
    imported = import_heal(saved(weights, folder / "net.pth"), SMALL.model_copy(update={"out": folder / "packs"}))
    assert [path.name for path in imported.files] == ["base.safetensors", "lidar64_pillars.safetensors"]
    assert imported.types == {"lidar64_pillars": "m1"} and not imported.notes
    model = Collaboration.from_packs(*imported.files)
    assert same_state(model.state_dict(), imported.model.state_dict())
    return model


class TestEndToEnd:
    """Raw points of two agents to dense predictions, through packs, our axes and our messages."""

    def test_the_reference_says_the_same(self, model: Collaboration) -> None:
        with np.load(GOLDEN / "m_e2e_m1.npz") as file:
            vectors = dict(file)
        frames = [
            AgentFrame(
                number,
                "000000",
                Pose(from_carla(vectors["poses"][number].tolist())),
                {"lidar64": PointCloud(vectors[f"points{number}"] * FLIP)},
            )
            for number in range(2)
        ]
        ego, other = (model.encode(frame) for frame in frames)
        assert ego.feature is not None and other.feature is not None
        features = torch.stack([ego.feature, other.feature])
        links = links_of(ego, [other], model.grid)
        np.testing.assert_allclose(links.T_sender_ego[0, 0], vectors["pairwise"][0, 0, 1], atol=1e-9)
        with torch.no_grad():
            maps = model.collaborate(features, ["lidar64_pillars"] * 2, links)
            foreground = model.fusion.occupancies(features)
        for ours, theirs in (("score", "cls"), ("box", "reg"), ("direction", "dir")):
            wanted = torch.from_numpy(vectors[f"{theirs}_preds"])
            torch.testing.assert_close(maps[ours], wanted, rtol=1e-4, atol=1e-4)
        for level, logits in enumerate(foreground):
            torch.testing.assert_close(logits, torch.from_numpy(vectors[f"occ{level}"]), rtol=1e-4, atol=1e-4)
        found = model.detect(ego, [other])
        inside = model.head.decode(maps, model.grid)[0].boxes.numpy() * np.float32([1, -1, 1, 1, 1, 1, -1])
        assert len(found) > 0
        np.testing.assert_allclose(found.boxes, inside, atol=1e-3)


class TestTypes:
    def test_types_are_recognised_by_what_they_are_made_of(self, four: dict[str, Tensor]) -> None:
        imported = convert(four, HealImport())
        assert imported.types == {
            "lidar64_pillars": "m1",
            "camera_efficientnet": "m2",
            "lidar32_voxels": "m3",
            "camera_resnet": "m4",
        }
        settings = {name: part.settings for name, part in imported.model.config.agents.items()}
        assert settings["camera_resnet"]["depth_bins"] == 8 and settings["camera_efficientnet"]["classifier"]
        assert imported.model.config.fusion.settings["crop"]["camera_resnet"] == (2.0, 2.0)

    def test_all_of_them_travel_in_packs(self, four: dict[str, Tensor], tmp_path: Path) -> None:
        imported = import_heal(saved(only(four, "m1", "m3", "m4"), tmp_path / "net.pth"))
        assert {path.stem for path in imported.files} == {"base", *imported.types}
        back = Collaboration.from_packs(*imported.files)
        assert same_state(back.state_dict(), imported.model.state_dict())
        assert set(back.config.fusion.settings["crop"]) == {"camera_resnet"}

    def test_in_another_numbering_they_are_still_what_they_are(self, weights: dict[str, Tensor]) -> None:
        stamp = {name.replace("_m1", "_m4"): value for name, value in weights.items()}
        assert convert(stamp, HealImport()).types == {"lidar64_pillars": "m4"}

    def test_names_and_settings_may_be_given(self, weights: dict[str, Tensor]) -> None:
        config = HealImport(names={"m1": "bus"}, settings={"m1": {"sensor": "lidar32"}})
        model = convert(weights, config).model
        assert list(model.agents) == ["bus"] and model.agent("bus").sensors == ("lidar32",)

    @pytest.mark.parametrize("config", [HealImport(names={"m7": "bus"}), HealImport(settings={"m7": {}})])
    def test_names_of_agents_that_are_not_there(self, weights: dict[str, Tensor], config: HealImport) -> None:
        with pytest.raises(ConfigError, match=r"m7.*m1"):
            convert(weights, config)

    def test_two_of_a_kind_need_names(self, weights: dict[str, Tensor]) -> None:
        both = {**weights, **{n.replace("_m1", "_m4"): v for n, v in weights.items() if "_m1" in n}}
        with pytest.raises(ConfigError, match=r"names\.m4"):
            convert(both, HealImport())
        assert set(convert(both, HealImport(names={"m4": "second"})).types) == {"lidar64_pillars", "second"}


class TestSparseLayouts:
    FIRST = "encoder_m3.spconv_block.conv_input.0.weight"

    def loaded(self, four: dict[str, Tensor], **changes: Tensor) -> tuple[Tensor, list[str]]:
        imported = convert({**only(four, "m3"), **changes}, HealImport())
        return imported.model.state_dict()["agents.lidar32_voxels.sparse.stages.0.0.convolution.weight"], imported.notes

    def test_both_layouts_of_spconv(self, four: dict[str, Tensor]) -> None:
        new, notes = self.loaded(four)
        assert torch.equal(new, four[self.FIRST]) and not notes
        old = {n: v.permute(1, 2, 3, 4, 0) for n, v in four.items() if "spconv_block" in n and v.ndim == 5}
        assert torch.equal(self.loaded(four, **old)[0], new)

    def test_the_defect_of_64_channels_is_named_and_the_weights_that_were_used_are_kept(
        self, four: dict[str, Tensor]
    ) -> None:
        """spconv 1.x viewed the memory as taps of 4 input channels and used the first 27 of them."""
        defect = torch.randn(3, 3, 3, 64, 16)
        kept, notes = self.loaded(four, **{self.FIRST: defect})
        assert kept.shape == (16, 3, 3, 3, 4)
        assert torch.equal(kept.permute(1, 2, 3, 4, 0).flatten(), defect.flatten()[: 27 * 4 * 16])
        assert len(notes) == 1 and "64 input channels" in notes[0] and "25,920" in notes[0] and "m3" in notes[0]
        converted = defect.permute(4, 0, 1, 2, 3).contiguous()
        assert torch.equal(self.loaded(four, **{self.FIRST: converted})[0], kept)


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"cls_head.bias": None}, ["cls_head.bias", "missing", "head.score.bias"]),
            ({"fusion_net.extra": torch.zeros(2)}, ["fusion_net.extra", "not known here"]),
            ({"reg_head.bias": torch.zeros(7)}, ["reg_head.bias", "(7,)", "(14,)", "another shape"]),
            ({"backbone_m1.resnet.layer0.1.odd": torch.zeros(3)}, ["layer0.1.odd", "not known here"]),
            ({"pyramid_backbone.resnet.layer0.0.downsample.1.bias": torch.zeros(3)}, ["left over"]),
        ],
    )
    def test_differences_come_as_a_table(
        self, weights: dict[str, Tensor], change: dict[str, Tensor | None], words: list[str]
    ) -> None:
        changed = {n: v for n, v in {**weights, **change}.items() if v is not None}
        with pytest.raises(PackError, match="1 tensors do not fit") as caught:
            convert(changed, HealImport(), "net.pth")
        lines = str(caught.value).splitlines()
        assert len(lines) == 3 and "in the checkpoint" in lines[1]
        for word in [w for w in words if w != "cls_head.bias"] if change.get("cls_head.bias", 0) is None else words:
            assert word in lines[2], lines[2]

    def test_a_long_table_says_how_much_more(self, weights: dict[str, Tensor]) -> None:
        few = {name: value for name, value in weights.items() if ".bn" not in name}
        with pytest.raises(PackError, match=r"and \d+ more"):
            convert(few, HealImport())

    def test_other_models(self, weights: dict[str, Tensor]) -> None:
        with pytest.raises(PackError, match=r"encoder_m.*pyramid models"):
            convert({"conv.weight": torch.zeros(1)}, HealImport())
        others = {name: value for name, value in weights.items() if not name.startswith("pyramid_backbone")}
        with pytest.raises(PackError, match="another fusion"):
            convert(others, HealImport())
        with pytest.raises(PackError, match=r"late-fusion model, with heads for each type \(cls_head_m1\.bias\)"):
            convert({**others, "cls_head_m1.bias": torch.zeros(2)}, HealImport())
        unknown = {**weights, "encoder_m9.transformer.weight": torch.zeros(1)}
        with pytest.raises(PackError, match="m9"):
            convert(unknown, HealImport())

    def test_what_could_run_is_not_opened(self, tmp_path: Path) -> None:
        trace = tmp_path / "it ran"

        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.system, (f"touch '{trace}'",)

        for number, new_format in enumerate((True, False)):
            path = tmp_path / f"evil{number}.pth"
            torch.save({"cls_head.bias": Evil()}, path, _use_new_zipfile_serialization=new_format)
            with pytest.raises(PackError, match=r"more than weights \(\w+\.system\)") as refused:
                read_weights(path)
            assert "\x1b" not in str(refused.value) and "Weights only load failed" not in str(refused.value)
        assert not trace.exists()
        torch.load(path, weights_only=False)  # the trap is real
        assert trace.exists()

    @pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.zeros(1)], {"state_dict": {"a": "text"}}])
    def test_what_is_no_weights(self, content: object, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(PackError):
            read_weights(tmp_path / "odd.pth")

    @pytest.mark.parametrize(
        "name", ["cut.pth", "cut.safetensors", "text.pth", "empty.pth", "not_there.pth", "folder.pth"]
    )
    def test_damaged_files(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        if name.startswith("cut"):
            whole = tmp_path / "whole"
            state = {"a": torch.arange(1000.0)}
            torch.save(state, whole) if name.endswith("pth") else safetensors.torch.save_file(state, whole)
            path.write_bytes(whole.read_bytes()[:900])
        elif name.startswith("folder"):
            path.mkdir()
        elif name != "not_there.pth":
            path.write_text("no weights" if name.startswith("text") else "")
        with pytest.raises(PackError, match=name.partition(".")[0]):
            read_weights(path)


def test_the_two_lines_that_a_refusal_gives_save_weights_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "it's a model.pth"
    network = torch.nn.Linear(3, 2)
    torch.save(network, path)
    with pytest.raises(PackError, match=r"torch\.nn\.modules\.linear\.Linear") as refused:
        read_weights(path)
    lines = "\n".join(line.strip() for line in str(refused.value).splitlines()[2:])
    subprocess.run([sys.executable, "-c", f"import torch\n{lines}"], check=True)
    assert same_state(read_weights(tmp_path / "it's a model_weights.pth"), network.state_dict())


def test_safetensors_and_wrapped_states_are_read(tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(4.0)}
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    for content in (state, {"state_dict": state}, {f"module.{name}": value for name, value in state.items()}):
        assert same_state(read_weights(saved(content, tmp_path / "net.pth")), state)
    assert same_state(read_weights(tmp_path / "net.safetensors"), state)
