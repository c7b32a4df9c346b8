"""Several processes do the work of one: the same weights, caches and scores, and an end that is told once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, multiprocessing
from torch import distributed as torch_distributed

from heatv2x.core import distributed
from heatv2x.core.config import build as build_config
from heatv2x.core.config import parse_overrides
from heatv2x.core.plugins import PartConfig
from heatv2x.errors import ConfigError
from heatv2x.evaluation.evaluator import Evaluator
from heatv2x.evaluation.job import EvalConfig, run_eval
from heatv2x.evaluation.roster import Roster
from heatv2x.link.channel import ChannelConfig
from heatv2x.nn import losses
from heatv2x.nn.shared_norm import shared_norms
from heatv2x.training import jobs, loop
from heatv2x.training.backward import BackwardAlignment
from heatv2x.training.end_to_end import CollaborativeTraining
from heatv2x.training.loop import train
from heatv2x.training.scenes import SceneConfig
from heatv2x.training.stage import Stage
from tests.cli.test_cli import MODEL, QUICK
from tests.formats.opv2v_tree import write_tree
from tests.scene_factory import CAMERA, PILLARS, SmallScenes, joined, pool_of, same_state, small_model
from tests.training.stages import FAST, SCENES, STAGES, WINDOW, build_stage, cache_of

ROOT = Path(__file__).parents[2]
CONFIG = FAST.model_copy(update={"steps": 3, "checkpoint_every": 3, "measure_every": 1})
NAMES = (*STAGES, "backward", "mixed", "pyramid")
TOLERANCE = 1e-9  # of weights of order 0.1 to 1 after three steps of 5e-3
ROSTERS = {"noisy": Roster("lidar64", ("lidar16", "lidar64")), "alone": Roster("lidar64", "lidar16", drop=True)}
LINK = ChannelConfig(sigma_m=0.5, sigma_deg=1.0, loss=0.3, precise_share=0.5, seed=3)


def build(name: str) -> Stage:
    """A stage; "mixed" holds types that are rarely at both processes, "pyramid" all that is published."""
    if name == "backward":
        torch.manual_seed(0)
        model = joined(small_model(shake=0.05))
        return BackwardAlignment(model, "lidar16", pool_of(model, ["lidar16"]), SCENES, 3, WINDOW)
    if name not in ("mixed", "pyramid"):
        return build_stage(name)
    voxels = PartConfig(part="lidar_voxel", settings={"widths": (4, 8), "height_m": 0.5, "blocks": 1, "aligner": 1})
    if name == "mixed":
        model = small_model(shake=0.05, agents={"lidar64": PILLARS, "camera": CAMERA, "lidar32": voxels})
        types = dict.fromkeys(model.agents, 1.0)
        return CollaborativeTraining(model, pool_of(model, types), types, FEW, 2)
    pillars = PartConfig(part="lidar_pillar", settings={**PILLARS.settings, "empty_slots": True, "absolute_xy": True})
    settings = {"blocks": (1, 1, 1), "enlarged": 8}
    model = small_model(
        PartConfig(part="pyramid", settings=settings),
        shake=0.02,
        agents={"lidar64": pillars},
        head=PartConfig(part="anchor", settings={"hidden": 0, "positive_iou": 0.3, "negative_iou": 0.2}),
        neck="shrink",
    )
    return CollaborativeTraining(model, pool_of(model, ["lidar64"]), {"lidar64": 1.0}, SCENES, 3)


FEW = SceneConfig(senders=1, alone=0.5, min_hits=1)


def in_double(content: Any, device: torch.device) -> Any:
    """What `to_device` gives, in double precision."""
    if isinstance(content, Tensor):
        return content.double() if content.is_floating_point() else content
    if isinstance(content, dict):
        return {key: in_double(value, device) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(in_double(value, device) for value in content)
    if is_dataclass(content) and not isinstance(content, type):
        return replace(
            content, **{f.name: in_double(getattr(content, f.name), device) for f in fields(content) if f.init}
        )
    return content


def outcome(stage: Stage, folder: Path, name: str) -> dict[str, Any]:
    """What training in double precision leaves behind: rounding hides nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        patch.setattr(loop, "to_device", in_double)
        record = train(stage.double(), CONFIG, folder / f"{name}_{distributed.rank()}.safetensors")
    return {
        "state": {key: value.detach().clone() for key, value in stage.model.state_dict().items()},
        "curve": [{k: v for k, v in point.items() if k != "cpu_seconds"} for point in record.curve],
        "proof": record.frozen_proof,
        "processes": record.processes,
        "types": [type(module).__name__ for module in stage.model.modules()],
    }


def evaluations() -> dict[str, Any]:
    """Rows and digests of seven frames under a bad link, and of fewer frames than there are processes."""
    model = joined(small_model(), shake=0.1)
    found = {}
    for name, roster in ROSTERS.items():
        for limit in (7, 1):
            evaluation = Evaluator(SmallScenes(frames=8), LINK, limit=limit).evaluate(model, roster)
            row = {**evaluation.to_row(model.payload), "ap_by_scenario": evaluation.by_scenario}
            found[f"{name} {limit}"] = (json.dumps(row), evaluation.arrived, evaluation.found)
    return found


def everything(folder: Path) -> dict[str, Any]:
    """What one process finds, or each of several."""
    found: dict[str, Any] = {name: outcome(build(name), folder, name) for name in NAMES}
    cache = cache_of(joined(small_model(shake=0.05)), dataset=SmallScenes(frames=5))
    found["cache"] = dict(cache.features)
    found["evaluations"] = evaluations()
    return found


def one_process(rank: int, folder: str) -> None:
    """What torchrun would start."""
    torch.set_num_threads(1)
    torch_distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = everything(Path(folder))
    undisturbed = build_stage("base")
    train(undisturbed, FAST)
    found["undisturbed"] = undisturbed.model.state_dict()
    losses.all_reduce_detached = lambda value: value  # the mistake: each divides by its own objects
    found["own counts"] = outcome(build("base"), Path(folder), "own_counts")
    distributed.leave_processes()
    torch.save(found, f"{folder}/result_{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], Path]:
    """What one process finds, what each of two finds, and where the two wrote."""
    folder, alone = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    multiprocessing.spawn(one_process, (str(folder),), nprocs=2)
    first, second = (torch.load(folder / f"result_{rank}.pt", weights_only=True) for rank in range(2))
    return everything(alone), first, second, folder


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of two trained states."""
    return max(float((value - other["state"][name]).abs().max()) for name, value in one["state"].items())


@pytest.mark.slow
class TestEqualToOneProcess:
    @pytest.mark.parametrize("name", NAMES)
    def test_weights_statistics_and_losses(self, name: str, results: Any) -> None:
        alone, first, second, folder = (part[name] if isinstance(part, dict) else part for part in results)
        assert same_state(first["state"], second["state"]), "the processes have drifted apart"
        assert distance(alone, first) < TOLERANCE
        for one, two in zip(alone["curve"], first["curve"], strict=True):
            assert two == pytest.approx(one, rel=1e-9)
        assert first["curve"] == second["curve"] and first["proof"] == second["proof"] == alone["proof"]
        assert (alone["processes"], first["processes"]) == (1, 2)
        assert first["types"] == alone["types"], "shared normalisations stay behind"
        assert (folder / f"{name}_0.safetensors").exists() and not (folder / f"{name}_1.safetensors").exists()

    def test_dividing_by_own_counts_would_be_found_out(self, results: Any) -> None:
        alone, first, *_ = results
        assert distance(alone["base"], first["own counts"]) > 1e-3

    def test_a_cache_is_filled_in_shares_bit_for_bit(self, results: Any) -> None:
        alone, first, second, _ = (part["cache"] if isinstance(part, dict) else part for part in results)
        assert len(alone["lidar64"]) == 15
        for name, features in alone.items():
            for other in (first[name], second[name]):
                assert torch.equal(other.view(torch.int16), features.view(torch.int16)) and features.any()

    def test_evaluation_gives_the_same_rows_to_the_last_bit(self, results: Any) -> None:
        alone, first, second, _ = (part["evaluations"] if isinstance(part, dict) else part for part in results)
        assert first == second == alone
        assert len({found for _, _, found in alone.values()}) == 4
        assert json.loads(alone["noisy 7"][0])["ap_interval"]["0.3"][1] > 0


def digest(batch: Any) -> str:
    """Of what a batch shows, rounded: boxes, windows, types, links."""
    found = hashlib.sha256()
    for boxes in [*batch.boxes, *getattr(batch, "own_boxes", [])]:
        found.update(np.round(boxes.double().numpy() * 100).astype(np.int64).tobytes())
    links = getattr(batch, "links", None)
    for window in batch.windows if links is None else links.windows:
        found.update(repr([round(edge, 3) for edge in window.extent]).encode())
    if links is not None:
        found.update(repr((batch.types, links.ego.tolist(), links.senders.tolist())).encode())
        found.update(np.round(links.T_sender_ego.numpy() * 100).astype(np.int64).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("name", "draws"),
    [
        ("base", ["f27875db65e0ef4b", "d52e2b893eaf52d4"]),
        ("full", ["a37f02d9ce72d105", "8ed118ae6388fea6"]),
        ("local", ["aa75ed7fd07e56bb", "9987f26031ee0853"]),
        ("collaborative", ["a216e26bc9b370a5", "9893c5ababc57da5"]),
        ("backward", ["ded4bce4c70813c0", "2e3817bfa1c6e970"]),
    ],
)
def test_one_process_draws_what_it_always_drew(name: str, draws: list[str]) -> None:
    """Shipped packs and committed results were trained on the draws of (seed, step, 0)."""
    stage = build(name)
    assert [digest(stage.batch(np.random.default_rng([0, step, 0]))) for step in range(2)] == draws


class Elsewhere:
    """This process as one of several, without any other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, index: int, number: int) -> None:
        monkeypatch.setattr(distributed, "world_size", lambda: number)
        monkeypatch.setattr(distributed, "rank", lambda: index)


class TestShares:
    @pytest.mark.parametrize("number", [1, 2, 3, 5])
    def test_shares_are_all_there_is(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        things, parts = list(range(7)), []
        for index in range(number):
            Elsewhere(monkeypatch, index, number)
            parts.append(things[distributed.own_share(7)])
        assert [thing for part in parts for thing in part] == things
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

    @pytest.mark.parametrize("name", ["base", "full", "local", "collaborative", "backward"])
    def test_a_batch_is_drawn_once_and_shared(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        stage = build(name)
        whole = stage.batch(np.random.default_rng(5))
        shares: list[Tensor] = []
        for index in range(2):
            Elsewhere(monkeypatch, index, 2)
            shares += stage.batch(np.random.default_rng(5)).boxes
        assert len(shares) == len(whole.boxes)
        assert all(torch.equal(one, other) for one, other in zip(shares, whole.boxes, strict=True))

    def test_more_processes_than_scenes_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stage = build("base")
        Elsewhere(monkeypatch, 0, 3)
        with pytest.raises(ConfigError, match="batch_size=2 cannot be split among 3 processes"):
            stage.batch(np.random.default_rng(0))

    def test_one_process_keeps_its_normalisations(self) -> None:
        model = small_model()
        before = [type(module) for module in model.modules()]
        with shared_norms(model):
            assert [type(module) for module in model.modules()] == before
        value = torch.ones(2, requires_grad=True)
        assert (
            distributed.all_reduce_with_gradient(value) is value
            and distributed.all_reduce_detached(value) is value
            and distributed.all_reduce_count(3) == 3
        )


# --- as torchrun starts them ----------------------------------------------------------------------------------------

COMMANDS = """
import json, sys
from heatv2x.cli import console, main as cli
from heatv2x.core import distributed
console._OTHERS_ARE_TOLD_S = 0.0
for words in json.loads(sys.argv[1]):
    sys.argv = ["heatv2x", *words]
    try:
        cli.main()
    except SystemExit as end:
        print(f"code {end.code}", flush=True)
        print("next", file=sys.stderr, flush=True)
        distributed.leave_processes()
"""


def in_two(commands: list[list[str]], folder: Path) -> list[tuple[list[str], list[str]]]:
    """Run commands one after another in two processes that know of each other; what each wrote: output, errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "COLUMNS": "250"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", COMMANDS, json.dumps(commands)],
            cwd=ROOT,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [process.communicate(timeout=900) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(output.splitlines(), errors.split("next\n")) for output, errors in ended]


def without_out(path: Path) -> dict[str, Any]:
    """A file of results without the folder they lie in, and without what a report says beside them."""
    content: dict[str, Any] = json.loads(path.read_text())
    content["settings"].pop("out")
    about = {"title", "world", "machine", "code_version", "command", "date"}
    return {key: value for key, value in content.items() if key not in about}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents and two frames in every split."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "validate", "test"):
        write_tree(root, split)
    return root


@pytest.mark.slow
def test_every_verb_writes_once_and_speaks_once(tree: Path, tmp_path: Path) -> None:
    def adapt(verb: str, *more: str) -> list[str]:
        base, encoder = tmp_path / "base", tmp_path / "encoder"
        packs = f"agents=[{base}/lidar64.safetensors,{encoder}/lidar16.safetensors]"
        where = [f"data={tree}", f"base={base}/base.safetensors", packs, "newcomer=lidar16", f"out={tmp_path / verb}"]
        return ["adapt", verb, *where, "window.cells=16", *QUICK, *more]

    base = ["train", "base", f"data={tree}", f"out={tmp_path / 'base'}", *MODEL, *QUICK]
    encoder = ["train", "encoder", f"data={tree}", f"out={tmp_path / 'encoder'}", "name=lidar16"]
    packs = ",".join(f"{tmp_path / 'base'}/{name}.safetensors" for name in ("base", "lidar64"))
    evaluation = ["eval", f"data={tree}", f"packs=[{packs}]", "channel.sigma_m=0.3"]
    commands = [
        base,
        [*encoder, "agent.part=lidar_slices", *MODEL, *QUICK],
        adapt("local", "keep_cache=true"),
        adapt("collaborative", *(f"{name}={tmp_path}/local/{name}.safetensors" for name in ("cache", "adapter"))),
        adapt("backward"),
        adapt("full", "validate_frames=2", "validate_every=1"),
        [*evaluation, f"out={tmp_path / 'two'}"],
        [*base, "lr=1e-3"],
        ["demo"],
        ["train", "base", "colour=blue"],
    ]
    (said, errors), (echo, echoed) = in_two(commands, tmp_path)
    codes = [line for line in said if line.startswith("code")]
    assert codes == ["code 0"] * 7 + ["code 2"] * 3, errors
    assert echo == codes and not "".join(echoed[:7]), "the second process is not to be heard"
    for number, verb in enumerate(("base", "encoder", "local", "collaborative", "backward", "full")):
        assert errors[number].count("training: 2 of 2") == 1 and "arning" not in errors[number], errors[number]
        record = json.loads((tmp_path / verb / "record.json").read_text())
        assert (record["steps"], record["processes"]) == (2, 2)
        assert record["seconds"] + 0.01 > record["cpu_seconds"] > 0  # the former is rounded
        assert (tmp_path / verb / "log.txt").read_text().count("step 2: ") == 1
    assert [point["step"] for point in json.loads((tmp_path / "full/record.json").read_text())["curve"]] == [1, 1, 2, 2]
    for number, says in ((7, "made with other settings (lr)"), (8, "without torchrun"), (9, "colour")):
        told = errors[number] + echoed[number]
        assert told.count("error") == 1 and says in told
    alone = build_config(EvalConfig, parse_overrides([*evaluation[1:], f"out={tmp_path / 'one'}"]))
    run_eval(alone)
    assert without_out(tmp_path / "one" / "metrics.json") == without_out(tmp_path / "two" / "metrics.json")


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_is_told_once(tree: Path, tmp_path: Path) -> None:
    """The second frame of the split is the second process's."""
    data = tmp_path / "data"
    shutil.copytree(tree, data)
    for cloud in data.rglob("test/*/*/000070*.pcd"):
        cloud.write_bytes(b"not a cloud")
    words = [f"data={tree}", f"out={tmp_path / 'base'}", *MODEL, *QUICK]
    jobs.train_base(build_config(jobs.BaseConfig, parse_overrides(words)))
    packs = ",".join(f"{tmp_path / 'base'}/{name}.safetensors" for name in ("base", "lidar64"))
    command = ["eval", f"data={data}", f"packs=[{packs}]", f"out={tmp_path / 'eval'}"]
    (said, errors), (echo, echoed) = in_two([command], tmp_path)
    assert said[-1] == echo[-1] == "code 2"
    assert "error: " not in errors[0] and "error in" not in errors[0] and "Traceback" not in errors[0] + echoed[0]
    assert echoed[0].count("error in process 1:") == 1 and "000070" in echoed[0]
    assert not (tmp_path / "eval").exists()


KILLED = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from heatv2x.core import distributed
from heatv2x.training.loop import train
from tests.training.stages import FAST, build_stage
folder, killed_at = Path(sys.argv[1]), [int(step) for step in sys.argv[2].split(",")]
def progress(done, total, terms):
    with (folder / f"steps_{distributed.rank()}").open("a") as file:
        file.write(f"{done} ")
    mark = folder / f"killed_{done}"
    if done in killed_at and distributed.rank() == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
distributed.join_processes()
stage = build_stage("base")
train(stage, FAST, folder / "checkpoint.safetensors", progress=progress)
distributed.leave_processes()
"""


@pytest.mark.slow
def test_a_killed_process_costs_the_steps_since_the_last_checkpoint(results: Any, tmp_path: Path) -> None:
    """Checkpoints are made after steps 3 and 6: first the launcher ends, then it starts all anew by itself."""

    def torchrun(*options: str) -> tuple[bool, str]:
        script = tmp_path / "killed.py"
        script.write_text(KILLED)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        words = [*command, str(script), str(tmp_path), "4,5"]
        ended = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        return ended.returncode == 0, ended.stderr[-6000:]

    assert not torchrun()[0]
    assert (tmp_path / "steps_1").read_text() == "1 2 3 4 "
    finished, told = torchrun("--max-restarts=3")
    assert finished, told
    assert (tmp_path / "steps_1").read_text() == "1 2 3 4 4 5 4 5 6 "
    again = build_stage("base")
    train(again, FAST, tmp_path / "checkpoint.safetensors")
    assert same_state(again.model.state_dict(), results[1]["undisturbed"])
