"""The command line: answers at once, trains and evaluates on a tiny tree, and ends a user's mistake in one message."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from heatv2x import __version__
from heatv2x.cli import main as cli
from heatv2x.cli.verbs import VERBS
from heatv2x.core import plugins
from heatv2x.core.config import build, parse_overrides, read_recipe
from heatv2x.errors import ConfigError
from heatv2x.evaluation.job import EvalConfig
from heatv2x.evaluation.protocols import PROTOCOLS
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import read_pack, write_pack
from heatv2x.model.pretrained import pretrained
from heatv2x.training import jobs, recipes
from tests.formats.opv2v_tree import write_tree
from tests.formats.opv2v_writer import OPV2V, write_opv2v_h
from tests.scene_factory import same_state

ROOT = Path(__file__).parents[2]
MODEL = ["model.half_extent_m=25.6", "model.channels=16", "model.neck_channels=16", "model.head.settings.hidden=16"]
QUICK = ["steps=2", "batch_size=2", "scenes.min_hits=1", "precision=float32"]


WITHOUT_TORCH = """
import sys
sys.argv[0] = "heatv2x"
from heatv2x.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code
slow = {"torch", "matplotlib", "embreex", "numpy"} & set(sys.modules)
assert not slow, slow
"""


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the entry point in this process."""
    monkeypatch.setenv("COLUMNS", "250")

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["heatv2x", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[jobs.BaseConfig]:
    """The configs that `train base` is called with, which then stops."""
    configs: list[jobs.BaseConfig] = []

    def record(config: jobs.BaseConfig, report: object) -> None:
        configs.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "train_base", record)
    return configs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents and two frames in every split."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "validate", "test"):
        write_tree(root, split)
    return root


@pytest.fixture(scope="module")
def packs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, its encoder, and a newcomer's encoder, trained for two steps through the jobs of the command line."""
    folder = tmp_path_factory.mktemp("packs")
    base = [f"data={data}", f"out={folder / 'base'}", *MODEL, *QUICK]
    jobs.train_base(build(jobs.BaseConfig, parse_overrides(base)))
    encoder = [f"data={data}", f"out={folder / 'encoder'}", "name=lidar16", "agent.part=lidar_slices", *MODEL, *QUICK]
    jobs.train_encoder(build(jobs.EncoderConfig, parse_overrides(encoder)))
    return folder


def adaptation(data: Path, packs: Path, out: Path) -> list[str]:
    return [
        f"data={data}",
        f"base={packs / 'base' / 'base.safetensors'}",
        f"agents=[{packs / 'base' / 'lidar64.safetensors'},{packs / 'encoder' / 'lidar16.safetensors'}]",
        "newcomer=lidar16",
        f"out={out}",
        "window.cells=16",
        *QUICK,
    ]


class TestHelp:
    @pytest.mark.parametrize("words", [["--help"], ["train", "base", "--help"], ["--version"], ["pack", "--help"]])
    def test_answers_without_torch(self, words: list[str]) -> None:
        ended = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert "heatv2x" in ended.stdout

    def test_as_a_module_it_is_the_same(self) -> None:
        ended = subprocess.run(
            [sys.executable, "-m", "heatv2x", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout.strip()) == (0, f"heatv2x {__version__}")

    def test_version(self, run: Run) -> None:
        assert run("--version").out.strip() == f"heatv2x {__version__}"

    def test_every_verb_says_what_it_does(self, run: Run) -> None:
        text = run("--help").out
        for verb in ("demo", "doctor", "list", "eval", "report", "world", "train", "adapt", "pack"):
            assert verb in text
        for group, verbs in {"train": ["base", "encoder"], "adapt": ["local", "collaborative", "full"]}.items():
            shown = run(group, "--help").out
            assert all(verb in shown for verb in verbs)

    def test_list_names_every_part_in_120_columns(self, run: Run) -> None:
        ended = run("list")
        assert ended.code == 0
        for kind in plugins.CONTRACTS:
            assert kind in ended.out and all(name in ended.out for name in plugins.available(kind))
        assert "not stated" not in ended.out and "two per multiply-add" in ended.out
        assert max(map(len, ended.out.splitlines())) <= 120

    def test_list_of_recipes_protocols_and_packs(self, run: Run) -> None:
        listed = run("list", "recipes").out
        names = [path.stem for path in recipes.FOLDER.glob("*.yaml")]
        assert names and all(name in listed for name in names)
        rows = {line.split()[0]: line for line in listed.splitlines() if line.split() and line.split()[0] in names}
        assert "heatv2x train base" in rows["demo_base"] and "heatv2x eval" in rows["opv2v_h_in_order"]
        assert all("heatv2x " in row for row in rows.values()), "the verb is read from every head"
        protocols = run("list", "protocols").out
        assert all(name in protocols for name in PROTOCOLS)
        packs = run("list", "packs").out
        assert all(f"{name} " in packs for name in pretrained()) and "52,708" in packs
        assert all(word in run("list").out for word in ("recipes, protocols, packs",))

    def test_list_of_a_kind_shows_the_settings_of_its_parts(self, run: Run) -> None:
        ended = run("list", "fusion")
        assert ended.code == 0 and "lidar_pillar" not in ended.out
        assert "newcomer_rank" in ended.out and "rank of a newcomer's projection deltas" in ended.out


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["train", "base", "data=d", "stepz=3"], ["stepz", "did you mean 'steps'"]),
            (["train", "base", "data=d", "model.chanels=3"], ["model.chanels", "did you mean 'channels'"]),
            (["train", "base", "data=d", "steps=few"], ["steps", "'few'"]),
            (["train", "base", "data=d", "steps"], ["'steps' is not a setting: write key=value"]),
            (["train", "base"], ["'data' is required"]),
            (["train", "base", "data=d", "model.fusion.part=hetero_grap"], ["did you mean 'hetero_graph'"]),
            (["train", "encoder", "data=d", "name=x", "agent.part=lidar_slizes"], ["did you mean 'lidar_slices'"]),
            (["train", "base", "recipe=demo_bas", "data=d"], ["unknown recipe 'demo_bas'", "did you mean 'demo_base'"]),
            (["train", "base", "recipe=none.yaml", "data=d"], ["none.yaml", "cannot be read"]),
            (["train", "bass"], ["bass"]),
            (["trane"], ["trane"]),
            (["list", "fusions"], ["unknown kind 'fusions'; did you mean 'fusion'"]),
            (["list", "pack"], ["did you mean 'packs'"]),
            (
                ["settings", "trian", "base"],
                ["takes settings; did you mean 'train base'"],
            ),
            (["settings", "eval", "chanel"], ["'eval' has no setting 'chanel'; did you mean 'channel'"]),
            (
                ["train", "encoder", "data=d", "name=a/b", "agent.part=lidar_pillar"],
                ["name: 'a/b' is not a valid type name"],
            ),
            (["eval", "data=d", "packs=a,b"], ["'packs' must be a list of paths; got 'a,b'. Write packs=[a,b]"]),
            (["pack", "inspect", "shipped:bas"], ["did you mean 'shipped:base'"]),
            (["table"], ["Missing parameter: runs"]),
            (["train", "base", "--steps", "3"], ["--steps"]),
            (["report"], ["'run' is required; write run=..."]),
            (["pack", "inspect", "none.safetensors"], ["none.safetensors", "cannot be read"]),
        ],
    )
    def test_end_with_one_message(self, run: Run, words: list[str], says: list[str]) -> None:
        ended = run(*words)
        assert ended.code == 2 and ended.err.strip().startswith("error:"), ended.err
        assert not [text for text in says if text not in ended.err], ended.err

    def test_a_missing_data_folder(self, run: Run, tmp_path: Path) -> None:
        ended = run("train", "base", f"data={tmp_path / 'nowhere'}", f"out={tmp_path / 'run'}")
        assert ended.code == 2 and str(tmp_path / "nowhere") in ended.err
        assert not (tmp_path / "run").exists(), "nothing is left behind by a mistake"

    def test_square_brackets_in_a_message_are_no_markup(self, run: Run, tmp_path: Path) -> None:
        for name in ("[bold]x.safetensors", "[/x].safetensors"):
            ended = run("pack", "inspect", tmp_path / name)
            assert ended.code == 2 and f"{tmp_path}/{name}" in ended.err
        ended = run("train", "base", "data=d", "steps=[/a,/b]")
        assert ended.code == 2 and "got [/a, /b]" in ended.err

    def test_square_brackets_in_a_path_are_no_markup(self, run: Run, packs: Path, tmp_path: Path) -> None:
        path = tmp_path / "[red]" / "a.safetensors"
        path.parent.mkdir()
        path.write_bytes((packs / "base" / "lidar64.safetensors").read_bytes())
        assert f"ok  {path}" in run("pack", "verify", path).out

    def test_a_folder_that_cannot_be_written(self, run: Run, data: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        ended = run("train", "base", f"data={data}", f"out={tmp_path / 'file'}", *MODEL, *QUICK)
        assert ended.code == 2 and "file" in ended.err

    def test_an_interrupt_says_how_to_go_on(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(jobs, "train_base", interrupted)
        ended = run("train", "base", "data=d")
        assert ended.code == 130 and "run the same command again to continue" in ended.err

    def test_a_defect_of_ours_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("stage changed a frozen tensor")

        monkeypatch.setattr(jobs, "train_base", broken)
        monkeypatch.setattr(sys, "argv", ["heatv2x", "train", "base", "data=d"])
        with pytest.raises(RuntimeError):
            cli.main()


class TestPack:
    def test_inspect_prints_the_manifest(self, run: Run, packs: Path) -> None:
        path = packs / "encoder" / "lidar16.safetensors"
        ended = run("pack", "inspect", path)
        manifest = json.loads(ended.out)
        assert ended.code == 0 and manifest["kind"] == "agent" and manifest["agent_type"] == "lidar16"
        assert manifest["parameters"] == read_pack(path).parameters and manifest["bytes"] == path.stat().st_size
        assert manifest["config"]["part"] == "lidar_slices" and manifest["provenance"]["job"] == "encoder"

    def test_verify(self, run: Run, packs: Path, tmp_path: Path) -> None:
        paths = [packs / "base" / "base.safetensors", packs / "base" / "lidar64.safetensors"]
        ended = run("pack", "verify", *paths)
        assert ended.code == 0 and "they fit together" in ended.out and ended.out.count("ok") == 3
        alone = run("pack", "verify", paths[1])
        assert alone.code == 0 and "fit together" not in alone.out
        damaged = tmp_path / "damaged.safetensors"
        content = bytearray(paths[0].read_bytes())
        content[-5] ^= 1
        damaged.write_bytes(content)
        ended = run("pack", "verify", paths[1], damaged)
        assert ended.code == 2 and "damaged.safetensors" in ended.err and "get it again" in ended.err


class TestJobs:
    def test_a_base_is_trained(self, run: Run, data: Path, tmp_path: Path) -> None:
        words = ["train", "base", f"data={data}", f"out={tmp_path / 'run'}", *MODEL, *QUICK]
        ended = run(*words)
        assert ended.code == 0, ended.err
        assert "base: 2 steps" in ended.out and "base.safetensors" in ended.out and "training: 2 of 2" in ended.err
        folder = tmp_path / "run"
        assert {"base.safetensors", "lidar64.safetensors", "config.json", "record.json", "checkpoint.safetensors"} <= {
            path.name for path in folder.iterdir()
        }
        config = json.loads((folder / "config.json").read_text())
        assert config["model"]["channels"] == 16 and config["steps"] == 2 and config["lr"] == 2e-3
        record = json.loads((folder / "record.json").read_text())
        assert record["steps"] == 2 and record["trained_parameters"] > 10_000 and record["curve"][-1]["step"] == 2
        provenance = read_pack(folder / "base.safetensors").provenance
        assert provenance["job"] == "base" and len(provenance["data_fingerprint"]) == 64
        assert str(data) not in json.dumps(provenance) and str(tmp_path) not in json.dumps(provenance)
        before = read_pack(folder / "base.safetensors").tensors
        assert run(*words).code == 0
        assert same_state(read_pack(folder / "base.safetensors").tensors, before), "the same command continues"
        other = run(*words, "lr=1e-3")
        assert other.code == 2 and "lr" in other.err and "out=" in other.err

    @pytest.mark.parametrize("verb", ["base", "encoder", "local", "collaborative", "backward", "full"])
    def test_every_job_can_be_watched_and_keeps_the_best(
        self, verb: str, run: Run, data: Path, packs: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / verb
        words = ["adapt", verb, *adaptation(data, packs, folder)]
        if verb in ("base", "encoder"):
            words = ["train", verb, f"data={data}", f"out={folder}", *MODEL, *QUICK]
            words += ["name=lidar16", "agent.part=lidar_slices"] if verb == "encoder" else []
        ended = run(*words, "validate_frames=2", "validate_every=1", "keep=best")
        assert ended.code == 0 and "training: 2 of 2 · loss" in ended.err, ended.err
        record = json.loads((folder / "record.json").read_text())
        validated = {point["step"]: point["ap50"] for point in record["curve"] if "ap50" in point}
        assert set(validated) == {1, 2}
        best = 1 if validated[1] >= validated[2] else 2
        assert record["best"] == {"step": best, "ap50": validated[best]}
        assert (folder / "best.safetensors").exists() and len(list(folder.glob("events.out.tfevents.*"))) == 1

    def test_the_best_needs_validation(self, run: Run, data: Path, tmp_path: Path) -> None:
        ended = run("train", "base", f"data={data}", f"out={tmp_path / 'run'}", "keep=best", *MODEL, *QUICK)
        assert ended.code == 2 and "keep=best needs validation: set validate_frames=50" in ended.err

    def test_the_seed_decides(self, run: Run, data: Path, tmp_path: Path) -> None:
        tensors = []
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            run("train", "base", f"data={data}", f"out={tmp_path / name}", f"seed={seed}", *MODEL, *QUICK)
            tensors.append(read_pack(tmp_path / name / "base.safetensors").tensors)
        assert same_state(tensors[0], tensors[1]) and not same_state(tensors[0], tensors[2])

    def test_a_newcomer_joins_and_is_evaluated(self, run: Run, data: Path, packs: Path, tmp_path: Path) -> None:
        base = read_pack(packs / "base" / "base.safetensors")
        local = run("adapt", "local", *adaptation(data, packs, tmp_path / "local"))
        assert local.code == 0 and "frozen tensors unchanged" in local.out, local.err
        adapter = tmp_path / "local" / "adapter.safetensors"
        words = adaptation(data, packs, tmp_path / "collaborative")
        collaborative = run("adapt", "collaborative", *words, f"adapter={adapter}")
        assert collaborative.code == 0, collaborative.err
        final = tmp_path / "collaborative" / "adapter.safetensors"
        first, second = read_pack(adapter), read_pack(final)
        assert first.kind == second.kind == "adapter" and second.feature_space == base.feature_space
        assert set(first.tensors) == set(second.tensors) and not same_state(first.tensors, second.tensors)
        everything = [*sorted(packs.glob("*/*16.safetensors")), *sorted(packs.glob("base/[bl]*.safetensors")), final]
        assert "fit together" in run("pack", "verify", *everything).out
        ended = run(
            "eval",
            f"data={data}",
            f"packs=[{','.join(map(str, everything))}]",
            "senders=lidar16",
            f"out={tmp_path / 'eval'}",
            "channel.sigma_m=0.2",
        )
        assert ended.code == 0 and "AP50" in ended.out, ended.err
        row = json.loads((tmp_path / "eval" / "metrics.json").read_text())["rows"][0]
        assert row["message_bytes"] > 176 and row["n_frames"] == 2 and 0 <= row["ap"]["0.5"] <= 1

    def test_full_fine_tuning(self, run: Run, data: Path, packs: Path, tmp_path: Path) -> None:
        ended = run("adapt", "full", *adaptation(data, packs, tmp_path / "full"))
        assert ended.code == 0 and "full_finetune: 2 steps" in ended.out, ended.err
        tuned, base = (
            read_pack(p) for p in (tmp_path / "full" / "base.safetensors", packs / "base" / "base.safetensors")
        )
        assert tuned.feature_space != base.feature_space
        everything = [tmp_path / "full" / f"{name}.safetensors" for name in ("base", "lidar64", "lidar16", "adapter")]
        assert "fit together" in run("pack", "verify", *everything).out

    def test_backward_alignment_gives_another_encoder_for_the_same_base(
        self, run: Run, data: Path, packs: Path, tmp_path: Path
    ) -> None:
        ended = run("adapt", "backward", *adaptation(data, packs, tmp_path / "backward"))
        assert ended.code == 0 and "backward_alignment: 2 steps" in ended.out, ended.err
        parts = [packs / "base" / f"{name}.safetensors" for name in ("base", "lidar64")]
        assert "fit together" in run("pack", "verify", *parts, tmp_path / "backward" / "lidar16.safetensors").out

    def test_an_encoder_keeps_its_own_network(self, packs: Path) -> None:
        own = [packs / "encoder" / f"{name}.safetensors" for name in ("base", "lidar16")]
        assert Collaboration.from_packs(*own).exchange.name == "features"
        assert read_pack(own[0]).feature_space == read_pack(own[1]).feature_space != ""

    def test_a_newcomer_without_an_encoder(self, run: Run, data: Path, packs: Path, tmp_path: Path) -> None:
        words = adaptation(data, packs, tmp_path / "x")
        words[words.index("newcomer=lidar16")] = "newcomer=camera"
        ended = run("adapt", "local", *words)
        assert ended.code == 2 and "camera" in ended.err and "lidar16" in ended.err

    def test_a_forgotten_agent_pack_is_told(self, run: Run, data: Path, packs: Path, tmp_path: Path) -> None:
        base, newcomer = packs / "base" / "base.safetensors", packs / "encoder" / "lidar16.safetensors"
        ended = run("eval", f"data={data}/nowhere", f"packs=[{base}]", f"out={tmp_path / 'eval'}")
        assert ended.code == 2 and "'lidar64' has no encoder weights" in ended.err
        for verb, more in (("local", ()), ("local", ("teacher=companion",)), ("collaborative", ()), ("full", ())):
            words = adaptation(data, packs, tmp_path / "x")
            words[2] = f"agents=[{newcomer}]"
            ended = run("adapt", verb, *words, *more)
            assert ended.code == 2 and "'lidar64' has no encoder weights" in ended.err, (verb, ended.err)
        words = adaptation(data, packs, tmp_path / "alone")
        words[2] = f"agents=[{newcomer}]"
        assert run("adapt", "backward", *words).code == 0, "here nobody is asked but the newcomer"

    def test_two_packs_of_one_type_are_told(self, run: Run, data: Path, packs: Path, tmp_path: Path) -> None:
        twin = tmp_path / "twin.safetensors"
        twin.write_bytes((packs / "encoder" / "lidar16.safetensors").read_bytes())
        words = adaptation(data, packs, tmp_path / "x")
        words[2] = words[2].replace("]", f",{twin}]")
        ended = run("adapt", "local", *words)
        assert ended.code == 2 and str(twin) in ended.err and "encoder/lidar16.safetensors" in ended.err

    def test_an_adapter_of_another_newcomer(self, run: Run, data: Path, packs: Path, tmp_path: Path) -> None:
        assert run("adapt", "local", *adaptation(data, packs, tmp_path / "local")).code == 0
        pack = read_pack(tmp_path / "local" / "adapter.safetensors")
        pack.agent_type = "lidar32"
        other = write_pack(pack, tmp_path / "other.safetensors")
        ended = run("adapt", "collaborative", *adaptation(data, packs, tmp_path / "x"), f"adapter={other}")
        assert ended.code == 2 and "belongs to 'lidar32', but newcomer='lidar16'" in ended.err

    def test_results_of_another_run_are_not_overwritten(self, run: Run, data: Path, tmp_path: Path) -> None:
        words = ["train", "base", f"data={data}", f"out={tmp_path / 'run'}", *MODEL, *QUICK, "checkpoint_every=0"]
        assert run(*words).code == 0
        before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        other = run(*words, "seed=5")
        assert other.code == 2 and "(seed)" in other.err and "overwrite=true" in other.err
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
        assert run(*words, "seed=5", "overwrite=true").code == 0
        assert (tmp_path / "run" / "base.safetensors").read_bytes() != before["base.safetensors"]

    def test_an_unknown_type_is_told_before_the_data_are_read(self, run: Run, data: Path, packs: Path) -> None:
        path = packs / "base" / "base.safetensors"
        ended = run("eval", f"data={data}/nowhere", f"packs=[{path}]", "ego=lidar46")
        assert ended.code == 2 and "did you mean 'lidar64'" in ended.err


def test_table_of_two_runs(run: Run, data: Path, packs: Path, tmp_path: Path) -> None:
    files = [packs / "base" / f"{name}.safetensors" for name in ("base", "lidar64")]
    words = [f"data={data}", f"packs=[{files[0]},{files[1]}]"]
    for name, more in {"fused": [], "alone": ["drop=true"], "one": ["frames=1"]}.items():
        assert run("eval", *words, *more, f"out={tmp_path / name}").code == 0
    ended = run("table", tmp_path / "fused", tmp_path / "alone")
    assert ended.code == 0 and str(tmp_path / "fused") in ended.out and str(tmp_path / "alone") in ended.out
    ended = run("table", tmp_path / "fused", tmp_path / "one")
    assert ended.code == 1 and "differ in their frames (2 in" in ended.out


def test_a_fleet_with_an_unknown_type_is_refused(run: Run) -> None:
    ended = run("bench", "scaling", "types=[lidar61]")
    assert ended.code == 2 and "did you mean 'lidar16'" in ended.err
    assert "networks" in run("settings", "bench", "scaling").out


class TestRecipes:
    @pytest.mark.parametrize("path", sorted(recipes.FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
    def test_is_short_says_how_to_run_it_and_is_understood(self, path: Path) -> None:
        """The head names the command; every setting is known to the command's config."""
        text = path.read_text()
        head = [line for line in text.splitlines() if line.startswith("#")]
        assert any("heatv2x" in line for line in head) and len(text.splitlines()) < 60
        known = [jobs.BaseConfig, jobs.EncoderConfig, jobs.LocalConfig, jobs.CollaborativeConfig, jobs.FullConfig]
        known = [*known, EvalConfig]
        assert any(set(read_recipe(path)) <= set(config.model_fields) for config in known)

    def test_settings_on_the_command_line_win(self, run: Run, tmp_path: Path, seen: list[jobs.BaseConfig]) -> None:
        (tmp_path / "mine.yaml").write_text("steps: 7\nmodel: {channels: 24, backbone_blocks: 2}\n")
        run("train", "base", f"recipe={tmp_path / 'mine.yaml'}", "data=d", "model.channels=32")
        assert seen[0].steps == 7 and seen[0].model.channels == 32 and seen[0].model.backbone_blocks == 2

    def test_a_run_is_a_recipe(self, run: Run, packs: Path, tmp_path: Path, seen: list[jobs.BaseConfig]) -> None:
        for recipe in (packs / "base" / "config.json", packs / "base"):
            run("train", "base", f"recipe={recipe}", f"out={tmp_path}", "scenes.thin=0")
        assert seen[0] == seen[1], "the folder of a run will do"
        assert (seen[0].steps, seen[0].model.channels, seen[0].scenes.thin) == (2, 16, 0.0)
        assert seen[0].scenes.min_hits == 1 and seen[0].dataset == "opv2v" and seen[0].out == tmp_path

    def test_another_part_does_not_take_over_the_settings_of_a_recipes_part(
        self, run: Run, tmp_path: Path, seen: list[jobs.BaseConfig]
    ) -> None:
        (tmp_path / "mine.yaml").write_text("model: {fusion: {part: where2comm, settings: {share: 0.5}}}\n")
        for word in ("model.fusion.part=maximum", "model.fusion.part=where2comm"):
            run("train", "base", f"recipe={tmp_path / 'mine.yaml'}", "data=d", word)
        assert [config.model.fusion.settings for config in seen] == [{}, {"share": 0.5}]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (
                ["eval", "recipe=demo_base"],
                "is a recipe for 'train base' or 'train encoder', not for 'eval', which",
            ),
            (["train", "base", "recipe=opv2v_h_local"], "not for 'train base', which has no setting like, window"),
            (["data", "check", "d", "recipe=demo_base"], "not for 'data check', which has no setting batch_size, lr"),
        ],
    )
    def test_a_recipe_of_another_verb_is_one_sentence(self, run: Run, words: list[str], says: str) -> None:
        ended = run(*words)
        assert ended.code == 2 and says in ended.err and len(ended.err.strip().splitlines()) == 1, ended.err

    def test_a_complaint_says_whether_the_recipe_or_the_command_line_is_wrong(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("steps: few\nlr: 1\nmodel: {channels: 8}\n")
        ended = run("train", "base", f"recipe={tmp_path / 'mine.yaml'}", "data=d", "lr=much", "model.neck=x")
        lines = ended.err.strip().removeprefix("error: ").splitlines()
        assert [line.partition(":")[0] for line in lines] == ["mine.yaml", "command line", "command line"], lines

    def test_a_type_that_pushes_out_the_default_one_is_told(self, run: Run, caplog: pytest.LogCaptureFixture) -> None:
        run("train", "base", "data=nowhere", "model.agents.camera.part=camera_lss")
        assert "model.agents now holds only camera: naming one replaces the default, lidar64" in caplog.text
        assert "add model.agents.lidar64.part=lidar_pillar" in caplog.text
        caplog.clear()
        run("train", "base", "data=nowhere", "model.agents.lidar64.settings.sensor=lidar")
        run("train", "base", "data=nowhere", "recipe=opv2v_h")
        assert "now holds" not in caplog.text

    def test_a_recipe_with_an_unknown_key_is_named(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("stepz: 7\n")
        ended = run("train", "base", f"recipe={tmp_path / 'mine.yaml'}", "data=d")
        assert ended.code == 2 and "mine.yaml" in ended.err and "did you mean 'steps'" in ended.err


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    write_opv2v_h(root, OPV2V[:1], images=False)
    return root


def test_reading_from_the_disk_trains_the_same(data: Path, packs: Path, tmp_path: Path) -> None:
    words = [f"data={data}", f"out={tmp_path}", *MODEL, *QUICK, "hold_data=false"]
    jobs.train_base(build(jobs.BaseConfig, parse_overrides(words)))
    for name in ("base", "lidar64"):
        first, second = (read_pack(out / f"{name}.safetensors") for out in (tmp_path, packs / "base"))
        assert (
            same_state(first.tensors, second.tensors) and first.provenance["settings"] == second.provenance["settings"]
        )


class TestData:
    def test_check_says_what_is_there_and_ends_with_0(self, run: Run, small: Path, tmp_path: Path) -> None:
        ended = run("data", "check", small, f"json={tmp_path / 'check.json'}")
        assert ended.code == 0 and "OPV2V-H" in ended.out and "No faults found." in ended.out
        assert json.loads((tmp_path / "check.json").read_text())["ok"] is True

    def test_check_names_a_missing_file_and_ends_with_2(self, run: Run, small: Path, tmp_path: Path) -> None:
        root = Path(shutil.copytree(small, tmp_path / "small"))
        missing = sorted(root.rglob("*_32.pcd"))[0]
        missing.unlink()
        ended = run("data", "check", root)
        assert ended.code == 2 and str(missing) in ended.out and "complete OPV2V-H-LiDAR" in ended.out
        ended = run("data", "check", root, "--json")
        assert ended.code == 2 and json.loads(ended.out)["faults"][0]["path"] == str(missing)

    def test_check_of_no_dataset_is_one_message(self, run: Run, tmp_path: Path) -> None:
        ended = run("data", "check", tmp_path)
        assert ended.code == 2 and "is not in the layout of" in ended.err and "Traceback" not in ended.err

    def test_index_and_view(self, run: Run, small: Path, tmp_path: Path) -> None:
        assert "train" in run("data", "index", small).out
        ended = run("data", "view", small, 1, f"out={tmp_path / 'a.png'}")
        assert ended.code == 0 and "frame 1 of 3" in ended.out and (tmp_path / "a.png").exists()
        words = ["dataset.part=opv2v", "dataset.settings.max_agents=1", f"out={tmp_path / 'b.png'}"]
        assert run("data", "view", small, 1, *words).code == 0
        words = ["dataset.settings.max_agents=1", f"out={tmp_path / 'c.png'}"]
        assert run("data", "view", small, 1, *words).code == 0, "the part need not be named to be set"
        assert (tmp_path / "c.png").read_bytes() == (tmp_path / "b.png").read_bytes()
        ended = run("data", "check", small, "dataset.settings.max_agent=1")
        assert ended.code == 2 and "did you mean 'max_agents'" in ended.err
        ended = run("data", "view", small, 1, 2)
        assert ended.code == 2 and "give one frame" in ended.err

    def test_bench(self, run: Run, small: Path, tmp_path: Path) -> None:
        out = tmp_path / "speed.json"
        ended = run("bench", "data", f"data={small}", "frames=4", "epoch=20", "index_frames=20", f"out={out}")
        assert ended.code == 0 and "against naive" in ended.out and json.loads(out.read_text())["frames_per_s"]


def commands() -> dict[str, Callable[..., Any]]:
    """Every command by its name, with its function."""
    groups = [("", cli.app), *((f"{group.name} ", group.typer_instance) for group in cli.app.registered_groups)]
    return {
        f"{prefix}{each.name or each.callback.__name__}": each.callback
        for prefix, group in groups
        if group is not None
        for each in group.registered_commands
        if each.callback is not None
    }


def test_the_verbs_that_take_settings_are_those_that_say_which() -> None:
    taking = {name for name, call in commands().items() if "settings" in inspect.signature(call).parameters}
    assert taking - {"bench robustness"} == set(VERBS)


def test_without_a_checkout_the_studies_are_said_to_be_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    app = typer.Typer()
    cli.add_studies(app)
    with pytest.raises(ConfigError, match="clone the repository"):
        app(["bench", "speed", "--quick"], standalone_mode=False)


def test_every_help_line_is_a_whole_sentence() -> None:
    """typer shows the first sentence of a verb's docstring, and cuts it off where it is long."""
    first = [(function.__doc__ or "").partition("\n\n")[0].strip() for function in commands().values()]
    assert not [line for line in first if len(line) > 62 or not line.endswith(".")], first
