"""Packs: what one party hands to another arrives bit for bit, fits, or is refused in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError, HeatError, PackError
from heatv2x.evaluation.evaluator import require_types
from heatv2x.evaluation.roster import Roster
from heatv2x.fusion.hetero_graph import HeteroGraph
from heatv2x.model.assembly import adapter_pack, add_agent, agent_pack, assemble, base_pack
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig
from heatv2x.model.deploy import optimised
from heatv2x.model.packs import FORMAT, Pack, read_pack, tensors_digest, write_pack
from heatv2x.model.variants import exchanging, reaching
from heatv2x.structures import Boxes3D, Frame
from tests.scene_factory import CAMERA, NEWCOMER, SmallScenes, joined, same_state, shaken, small_model

PROVENANCE = {"job": "test", "cpu_seconds": 1.5}


@pytest.fixture(scope="module")
def model() -> Collaboration:
    """A base with one newcomer that has learned something."""
    model = joined(small_model(), shake=0.1)
    shaken(model.agent("lidar16"), 0.1)
    return model


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SmallScenes().read(0, ["lidar64", "lidar16"])


def write_all(model: Collaboration, folder: Path) -> dict[str, Path]:
    packs = {"base": base_pack(model, PROVENANCE), "lidar64": agent_pack(model, "lidar64", PROVENANCE)}
    for name in model.joined:
        packs[name] = agent_pack(model, name, PROVENANCE)
        packs[f"{name}_adapter"] = adapter_pack(model, name, PROVENANCE)
    return {name: write_pack(pack, folder / f"{name}.safetensors") for name, pack in packs.items()}


@pytest.fixture
def paths(model: Collaboration, tmp_path: Path) -> dict[str, Path]:
    return write_all(model, tmp_path)


def detections(model: Collaboration, frame: Frame, ego: str = "lidar64", sender: str = "lidar16") -> Boxes3D:
    messages = [model.encode(agent, sender) for agent in frame.agents[1:]]
    return model.detect(model.encode(frame.agents[0], ego), messages)


def same_boxes(one: Boxes3D, other: Boxes3D) -> bool:
    return np.array_equal(one.boxes, other.boxes) and np.array_equal(np.array(one.scores), np.array(other.scores))


def rewritten(path: Path, **changes: Any) -> Path:
    """The pack with other manifest entries; `tensors` replaces its tensors. The tensors' hash is put right."""
    with safetensors.safe_open(path, "pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    tensors = changes.pop("tensors", tensors)
    pack = Pack(
        **{key: manifest[key] for key in ("kind", "agent_type", "feature_space", "config", "provenance")} | changes,
        tensors=tensors,
    )
    return write_pack(pack, path)


class TestRoundTrip:
    def test_the_model_comes_back_bit_for_bit(self, model: Collaboration, paths: dict[str, Path], frame: Frame) -> None:
        back = Collaboration.from_packs(*reversed(paths.values()))
        assert same_state(back.state_dict(), model.state_dict()) and not back.training
        assert back.feature_space == model.feature_space
        assert set(back.joined) == set(model.joined) == {"lidar16"}
        assert len(detections(model, frame)) > 0
        for ego, sender in (("lidar64", "lidar16"), ("lidar16", "lidar64"), ("lidar64", "lidar64")):
            assert same_boxes(detections(back, frame, ego, sender), detections(model, frame, ego, sender))

    def test_everything_in_the_manifest_comes_back(self, model: Collaboration, paths: dict[str, Path]) -> None:
        pack = read_pack(paths["lidar16_adapter"], "adapter")
        assert (pack.kind, pack.agent_type, pack.provenance) == ("adapter", "lidar16", PROVENANCE)
        assert pack.feature_space == model.feature_space.hex() and pack.path == paths["lidar16_adapter"]
        assert pack.parameters == sum(value.numel() for value in pack.tensors.values())
        assert pack.manifest()["format"] == FORMAT

    def test_settings_are_written_out_so_that_defaults_may_change(self, paths: dict[str, Path]) -> None:
        adapter, base = read_pack(paths["lidar16_adapter"]).config, read_pack(paths["base"]).config
        assert adapter["after"] == {"part": "hetero_aware", "settings": {"kernel": 1}}
        assert adapter["received"] == {"part": "multi_cognitive", "settings": {"rank": 16}}
        assert base["fusion"]["settings"]["newcomer_rank"] == 4 and base["head"]["settings"]["hidden"] == 16
        assert base["agents"]["lidar64"] == read_pack(paths["lidar64"]).config
        assert read_pack(paths["lidar16"]).config["settings"]["slices"] == 4

    def test_packed_again_it_is_the_same_bytes(self, paths: dict[str, Path], tmp_path: Path) -> None:
        again = write_all(Collaboration.from_packs(*paths.values()), tmp_path / "again")
        assert all(again[name].read_bytes() == path.read_bytes() for name, path in paths.items())

    def test_the_same_pack_is_the_same_bytes(self, model: Collaboration, tmp_path: Path) -> None:
        one, other = (write_pack(base_pack(model, PROVENANCE), tmp_path / name) for name in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()

    def test_a_newcomer_hands_over_no_network(self, model: Collaboration, paths: dict[str, Path]) -> None:
        names = set(read_pack(paths["lidar16_adapter"]).tensors)
        assert {name.split(".")[0] for name in names} == {"sender", "receiver"}
        assert not any("trunk" in name for name in names)

    def test_the_base_pack_does_not_know_newcomers(self, model: Collaboration, paths: dict[str, Path]) -> None:
        before = base_pack(small_model(), PROVENANCE)
        after = read_pack(paths["base"])
        assert same_state(before.tensors, after.tensors) and before.feature_space == after.feature_space
        assert not any("lidar16" in name for name in after.tensors)

    def test_two_newcomers(self, frame: Frame, tmp_path: Path) -> None:
        both = joined(joined(small_model(), shake=0.1), "camera", AdapterConfig(agent=CAMERA), shake=0.2)
        paths = write_all(both, tmp_path)
        back = Collaboration.from_packs(*paths.values())
        assert same_state(back.state_dict(), both.state_dict()) and back.known_types() == [
            "camera",
            "lidar16",
            "lidar64",
        ]

    def test_without_adapters_on_some_sides(self, tmp_path: Path) -> None:
        for name in ("before", "after", "received"):
            config = AdapterConfig(agent=CAMERA, **{name: None})
            lean = joined(small_model(), "camera", config, shake=0.1)
            back = Collaboration.from_packs(*write_all(lean, tmp_path / name).values())
            assert same_state(back.state_dict(), lean.state_dict())

    @pytest.mark.parametrize("side", ["before", "after", "received"])
    def test_adapters_of_other_sorts(self, side: str, tmp_path: Path) -> None:
        """What a pack says of its parts holds as it stands, whatever the defaults are by now."""
        for number, part in enumerate(("hetero_aware", "multi_cognitive")):
            config = AdapterConfig(agent=CAMERA, **{side: PartConfig(part=part)})
            odd = joined(small_model(), "camera", config, shake=0.1)
            back = Collaboration.from_packs(*write_all(odd, tmp_path / str(number)).values())
            assert same_state(back.state_dict(), odd.state_dict())


class TestSides:
    def test_the_receiver_side_is_enough_to_listen(
        self, model: Collaboration, paths: dict[str, Path], frame: Frame
    ) -> None:
        ego = Collaboration.from_packs(paths["base"], paths["lidar64"], paths["lidar16_adapter"], sides=["receiver"])
        messages = [model.encode(agent, "lidar16") for agent in frame.agents[1:]]
        heard = ego.detect(ego.encode(frame.agents[0], "lidar64"), messages)
        assert same_boxes(heard, detections(model, frame))
        assert not same_state(ego.senders["lidar16"].state_dict(), model.senders["lidar16"].state_dict())

    def test_the_sender_side_is_enough_to_speak(
        self, model: Collaboration, paths: dict[str, Path], frame: Frame
    ) -> None:
        sender = Collaboration.from_packs(paths["base"], paths["lidar16"], paths["lidar16_adapter"], sides=["sender"])
        said, wanted = (each.encode(frame.agents[1], "lidar16") for each in (sender, model))
        assert said.feature is not None and wanted.feature is not None and torch.equal(said.feature, wanted.feature)
        typed = sender.fusion.typed_module("lidar16")
        assert typed is not None
        assert not same_state(typed.state_dict(), model.fusion.typed_module("lidar16").state_dict())  # type: ignore[union-attr]

    def test_an_unknown_side_is_refused(self, paths: dict[str, Path]) -> None:
        with pytest.raises(HeatError):
            Collaboration.from_packs(paths["base"], paths["lidar16_adapter"], sides=["reciever"])


class TestMissing:
    """A type whose weights were never loaded is never asked."""

    def test_an_encoder(self, model: Collaboration, paths: dict[str, Path], frame: Frame) -> None:
        some = {name: path for name, path in paths.items() if name != "lidar64"}
        lacking = Collaboration.from_packs(*some.values())
        for variant in (lacking, exchanging(lacking, "boxes"), reaching(lacking, 25.6, 12.8), optimised(lacking)):
            with pytest.raises(
                PackError, match=r"'lidar64' has no encoder weights.*\n.*add the agent pack of 'lidar64'"
            ):
                variant.encode(frame.agents[0], "lidar64")
            assert variant.encode(frame.agents[0], "lidar16").agent_type == "lidar16"
        with pytest.raises(PackError, match="lidar64"):
            lacking.detect(replace(frame.agents[0], lidars={"lidar64": frame.agents[0].lidars["lidar64"]}))
        heard = [model.encode(agent, "lidar64") for agent in frame.agents[1:]]
        ego = lacking.encode(frame.agents[0], "lidar16")
        assert same_boxes(lacking.detect(ego, heard), model.detect(ego, heard)), "it can be listened to"
        add_agent(lacking, read_pack(paths["lidar64"]))
        assert same_boxes(detections(lacking, frame), detections(model, frame))

    def test_an_encoder_of_a_newcomer(self, paths: dict[str, Path], frame: Frame) -> None:
        model = Collaboration.from_packs(paths["base"], paths["lidar64"], paths["lidar16_adapter"])
        with pytest.raises(PackError, match="'lidar16' has no encoder weights"):
            model.encode(frame.agents[0], "lidar16")
        model = Collaboration.from_packs(paths["base"], paths["lidar64"])
        model.join("lidar16", NEWCOMER)
        with pytest.raises(PackError, match="'lidar16' has no encoder weights"):
            model.encode(frame.agents[0], "lidar16")
        model.has_trained(["agents.lidar16.trunk.0.weight"])
        assert model.encode(frame.agents[0], "lidar16").feature is not None

    def test_points_need_no_encoder_but_the_egos(self, paths: dict[str, Path], frame: Frame) -> None:
        early = exchanging(Collaboration.from_packs(paths["base"]), "points")
        sent = early.encode(frame.agents[1], "lidar64")
        assert sent.points is not None
        with pytest.raises(PackError, match="'lidar64' has no encoder weights"):
            early.detect(early.encode(frame.agents[0], "lidar64"), [sent])

    def test_a_side_of_an_adapter(self, model: Collaboration, paths: dict[str, Path], frame: Frame) -> None:
        packs = [paths[name] for name in ("base", "lidar64", "lidar16", "lidar16_adapter")]
        listens, speaks = (Collaboration.from_packs(*packs, sides=[side]) for side in ("receiver", "sender"))
        with pytest.raises(PackError, match="without the sender side"):
            listens.encode(frame.agents[0], "lidar16")
        ego, heard = speaks.encode(frame.agents[0], "lidar64"), speaks.encode(frame.agents[1], "lidar16")
        with pytest.raises(PackError, match="without the receiver side"):
            speaks.detect(ego, [heard])
        assert same_boxes(listens.detect(ego, [heard]), model.detect(ego, [heard]))

    def test_a_model_built_to_be_trained_lacks_nothing(self, frame: Frame) -> None:
        assert joined(small_model()).encode(frame.agents[0], "lidar16").feature is not None

    def test_all_that_are_missing_are_named(self, paths: dict[str, Path]) -> None:
        model = Collaboration.from_packs(paths["base"], paths["lidar16_adapter"])
        with pytest.raises(PackError) as caught:
            require_types(model, Roster("lidar64", "lidar16"))
        assert "'lidar64' has no" in str(caught.value) and "'lidar16' has no" in str(caught.value)

    def test_an_adapter_pack_is_missed_aloud(self, paths: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
        Collaboration.from_packs(paths["base"], paths["lidar64"], paths["lidar16"])
        assert "'lidar16' joins without an adapter pack" in caplog.text


class TestTwins:
    @pytest.mark.parametrize("name", ["lidar64", "lidar16", "lidar16_adapter", "base"])
    def test_two_of_a_kind_and_type_are_refused(self, name: str, paths: dict[str, Path], tmp_path: Path) -> None:
        twin = tmp_path / "twin.safetensors"
        twin.write_bytes(paths[name].read_bytes())
        with pytest.raises(PackError) as caught:
            Collaboration.from_packs(*paths.values(), twin)
        assert str(twin) in str(caught.value) and str(paths[name]) in str(caught.value)
        packs = [read_pack(path) for path in (*paths.values(), twin) if read_pack(path).kind != "base"]
        agents, adapters = ([pack for pack in packs if pack.kind == kind] for kind in ("agent", "adapter"))
        if name != "base":
            with pytest.raises(PackError, match=r"two .* packs for agent type"):
                assemble(Collaboration, read_pack(paths["base"]), agents, adapters)


class TestOrder:
    def chain(self, folder: Path) -> tuple[Collaboration, dict[str, Path]]:
        """A newcomer that starts from a newcomer that starts from a newcomer."""
        model = joined(small_model(), "zebra", shake=0.1)
        model = joined(model, "middle", NEWCOMER.model_copy(update={"like": "zebra"}), shake=0.2)
        model = joined(model, "ant", NEWCOMER.model_copy(update={"like": "middle"}), shake=0.3)
        return model, write_all(model, folder)

    def test_any_order_will_do(self, tmp_path: Path, frame: Frame) -> None:
        model, paths = self.chain(tmp_path)
        wanted = detections(model, frame, "middle", "ant")
        for order in (list(paths.values()), list(reversed(paths.values())), sorted(paths.values())):
            back = Collaboration.from_packs(*order)
            assert same_state(back.state_dict(), model.state_dict())
            assert same_boxes(detections(back, frame, "middle", "ant"), wanted)

    def test_a_circle_is_refused(self, tmp_path: Path) -> None:
        _, paths = self.chain(tmp_path)
        path = paths["zebra_adapter"]
        rewritten(path, config={**read_pack(path).config, "like": "ant"})
        with pytest.raises(PackError, match="in a circle") as caught:
            Collaboration.from_packs(*paths.values())
        assert all(str(paths[f"{name}_adapter"]) in str(caught.value) for name in ("zebra", "middle", "ant"))

    def test_a_type_that_nobody_brings(self, tmp_path: Path) -> None:
        _, paths = self.chain(tmp_path)
        some = [path for name, path in paths.items() if not name.startswith("middle")]
        with pytest.raises(
            PackError, match=r"'ant' starts from type 'middle'.*\n.*add the packs of 'middle'"
        ) as caught:
            Collaboration.from_packs(*some)
        assert str(paths["ant_adapter"]) in str(caught.value)

    def test_an_encoder_that_has_nobody_to_start_from(self, paths: dict[str, Path], tmp_path: Path) -> None:
        base = small_model(agents={"bus": CAMERA})
        packs = [base_pack(base, PROVENANCE), agent_pack(base, "bus", PROVENANCE)]
        files = [write_pack(pack, tmp_path / f"own_{number}.safetensors") for number, pack in enumerate(packs)]
        with pytest.raises(PackError, match="'lidar16' is not a type of this base and has no adapter pack here"):
            Collaboration.from_packs(*files, paths["lidar16"])


class TestFit:
    def test_an_adapter_for_another_base_is_refused(self, paths: dict[str, Path], tmp_path: Path) -> None:
        other = write_pack(base_pack(small_model(seed=5), PROVENANCE), tmp_path / "other.safetensors")
        ids = [read_pack(path).feature_space for path in (paths["base"], other)]
        with pytest.raises(PackError, match="Way out") as caught:
            Collaboration.from_packs(other, paths["lidar16_adapter"])
        assert all(text in str(caught.value) for text in (*ids, str(paths["lidar16_adapter"]), "lidar16"))

    def test_a_base_type_encoder_of_another_base_is_refused(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """It has the right shapes and would silently see nonsense."""
        other = write_pack(base_pack(small_model(seed=5), PROVENANCE), tmp_path / "other.safetensors")
        with pytest.raises(PackError, match="base"):
            Collaboration.from_packs(other, paths["lidar64"])

    def test_an_encoder_of_another_base_may_join_as_a_newcomer(self, paths: dict[str, Path], tmp_path: Path) -> None:
        other = small_model(seed=5, agents={"bus": CAMERA, "lidar64": small_model().config.agents["lidar64"]})
        foreign = write_pack(agent_pack(other, "bus", PROVENANCE), tmp_path / "bus.safetensors")
        model = Collaboration.from_packs(paths["base"], foreign)
        assert same_state(model.agent("bus").state_dict(), other.agent("bus").state_dict())

    def test_exactly_one_base(self, paths: dict[str, Path]) -> None:
        for some in ([], [paths["lidar64"]], [paths["base"], paths["base"]]):
            with pytest.raises(PackError, match="exactly one base"):
                Collaboration.from_packs(*some)

    def test_a_manifest_that_lies_about_the_feature_space(self, paths: dict[str, Path]) -> None:
        path = rewritten(paths["base"], feature_space="00" * 16)
        with pytest.raises(PackError, match="feature space"):
            Collaboration.from_packs(path)

    def test_wrong_tensors_are_listed(self, paths: dict[str, Path]) -> None:
        tensors = dict(read_pack(paths["lidar16"]).tensors)
        names = sorted(tensors)
        tensors[names[0]] = torch.zeros(3, 3)
        tensors["brand.new"] = tensors.pop(names[1])
        with pytest.raises(PackError) as caught:
            Collaboration.from_packs(
                *(paths[key] for key in ("base", "lidar64")), rewritten(paths["lidar16"], tensors=tensors)
            )
        text = str(caught.value)
        assert f"missing {names[1]}" in text and "unknown brand.new" in text and f"{names[0]} is (3, 3), needed" in text
        assert "lidar16.safetensors" in text

    def test_many_wrong_tensors_are_counted(self, paths: dict[str, Path]) -> None:
        path = rewritten(paths["lidar16"], tensors={"x": torch.zeros(1)})
        with pytest.raises(PackError, match=r"and \d+ more"):
            Collaboration.from_packs(paths["base"], path)

    def test_a_failed_load_changes_nothing(self, paths: dict[str, Path]) -> None:
        model = Collaboration.from_packs(paths["base"], paths["lidar64"])
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(PackError):
            add_agent(model, read_pack(rewritten(paths["lidar64"], tensors={"x": torch.zeros(1)})))
        assert same_state(model.state_dict(), before)

    def test_an_adapter_of_a_type_that_is_deployed(self, model: Collaboration, paths: dict[str, Path]) -> None:
        with pytest.raises(HeatError, match="lidar64"):
            Collaboration.from_packs(paths["base"], rewritten(paths["lidar16_adapter"], agent_type="lidar64"))

    def test_settings_nobody_knows(self, paths: dict[str, Path]) -> None:
        config = {**read_pack(paths["base"]).config, "chanels": 3}
        with pytest.raises(ConfigError, match=r"base\.safetensors.*did you mean 'channels'"):
            Collaboration.from_packs(rewritten(paths["base"], config=config))

    def test_a_kind_where_another_is_needed(self, paths: dict[str, Path]) -> None:
        with pytest.raises(PackError, match=r"agent pack.*base pack"):
            read_pack(paths["lidar64"], "base")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small pack."""
    model = joined(small_model("maximum"))
    folder = tmp_path_factory.mktemp("damage")
    return write_pack(adapter_pack(model, "lidar16", PROVENANCE), folder / "x.safetensors").read_bytes()


class TestDamage:
    def test_every_flipped_byte_is_noticed(self, pack: bytes, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        header = 8 + int.from_bytes(pack[:8], "little")
        places = [*rng.integers(0, header, 150).tolist(), *rng.integers(header, len(pack), 40).tolist(), len(pack) - 1]
        path, unnoticed = tmp_path / "x.safetensors", []
        for place in places:
            damaged = bytearray(pack)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            try:
                read_pack(path)
            except PackError as error:
                assert "x.safetensors" in str(error)
            else:
                unnoticed.append((place, bytes(pack[max(0, place - 20) : place + 20])))
        assert not unnoticed, f"{len(unnoticed)} of {len(places)}: {unnoticed[:3]}"

    def test_every_flipped_byte_of_a_tensor_is_noticed(self, pack: bytes, tmp_path: Path) -> None:
        header = 8 + int.from_bytes(pack[:8], "little")
        path = tmp_path / "x.safetensors"
        for place in np.random.default_rng(1).integers(header, len(pack), 60).tolist():
            damaged = bytearray(pack)
            damaged[place] ^= 4
            path.write_bytes(damaged)
            with pytest.raises(PackError, match=r"x\.safetensors"):
                read_pack(path)

    def test_a_truncated_file(self, pack: bytes, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        for length in (0, 1, 8, 100, len(pack) // 2, len(pack) - 1):
            path.write_bytes(pack[:length])
            with pytest.raises(PackError, match=r"x\.safetensors.*get it again"):
                read_pack(path)

    def test_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        for content in (b"PK\x03\x04 a zip", b"\x80\x04pickle", b"{}", bytes(1000)):
            path.write_bytes(content)
            with pytest.raises(PackError, match="is not a pack"):
                read_pack(path)

    def test_safetensors_of_somebody_else(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        for metadata in (None, {"manifest": "{}"}, {"manifest": "[]"}, {"manifest": "no json"}, {"other": "x"}):
            safetensors.torch.save_file({"weight": torch.zeros(2)}, path, metadata)
            with pytest.raises(PackError, match="is not a pack"):
                read_pack(path)

    def test_no_file_and_a_folder(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.safetensors", tmp_path):
            with pytest.raises(PackError, match="cannot be read"):
                read_pack(path)

    def test_a_newer_format(self, pack: bytes, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(pack.replace(f'\\"format\\": {FORMAT}'.encode(), b'\\"format\\": 9'))
        with pytest.raises(PackError, match=f"pack format 9, but this version reads {FORMAT}"):
            read_pack(path)

    def test_tensors_of_a_type_that_numpy_lacks(self, tmp_path: Path) -> None:
        """Nobody writes them, but whoever does must hear it as a pack error."""
        manifest = {
            "format": FORMAT,
            "kind": "agent",
            "agent_type": "x",
            "feature_space": "",
            "config": {},
            "provenance": {},
        }
        path = tmp_path / "x.safetensors"
        tensors = {"weight": torch.zeros(2, dtype=torch.bfloat16)}
        safetensors.torch.save_file(tensors, path, {"manifest": json.dumps({**manifest, "sha256": "00"})})
        with pytest.raises(PackError):
            read_pack(path)


def test_the_digest_knows_names_shapes_types_and_values() -> None:
    weight = torch.arange(6.0)
    digests = [
        tensors_digest({"a": weight}),
        tensors_digest({"b": weight}),
        tensors_digest({"a": weight.view(2, 3)}),
        tensors_digest({"a": weight.double()}),
        tensors_digest({"a": weight + 1e-6}),
        tensors_digest({"a": weight, "b": torch.zeros(0)}),
    ]
    assert len(set(digests)) == len(digests)
    assert tensors_digest({"b": weight, "a": weight}) == tensors_digest({"a": weight.clone(), "b": weight})


def test_the_feature_space_names_the_base() -> None:
    model = small_model()
    space = model.feature_space
    assert len(space) == 16 and small_model().feature_space == space and small_model(seed=1).feature_space != space
    assert small_model(half_extent_m=25.6).feature_space != space and small_model(cell_m=3.2).feature_space != space
    shaken(model.agent("lidar64"))
    joined(model)
    assert model.feature_space == space, "neither encoders nor newcomers belong to it"
    for name, value in small_model().base_state().items():
        other = small_model()
        dict(other.base_state())[name].add_(1)
        assert other.feature_space != space, f"{name} {tuple(value.shape)} does not count"


def test_a_fusion_without_parameters_packs_too(tmp_path: Path, frame: Frame) -> None:
    for fusion in ("maximum", "none"):
        model = joined(small_model(fusion), shake=0.1)
        assert not isinstance(model.fusion, HeteroGraph)
        back = assemble(
            Collaboration,
            base_pack(model, {}),
            [agent_pack(model, "lidar64", {}), agent_pack(model, "lidar16", {})],
            [adapter_pack(model, "lidar16", {})],
        )
        assert same_state(back.state_dict(), model.state_dict())
