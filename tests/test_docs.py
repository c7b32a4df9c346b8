"""The pages do what they say: commands are complete, their settings exist, worked pages run from top to bottom."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import heatv2x.agents
from heatv2x.cli import listing
from heatv2x.cli import main as cli
from heatv2x.cli.catalogue import about_part, catalogue
from heatv2x.cli.verbs import VERBS
from heatv2x.core import plugins
from heatv2x.core.config import parse_overrides
from heatv2x.core.config_reference import settings_of
from tests.test_readme import PAGES, ROOT, SHELL, Block, blocks, commands

OF_AN_INSTALLATION = ("package_page.md",)  # its reader has the commands on the path
TOOLS = ("heatv2x", "torchrun", "python", "python3", "pip", "pytest", "rerun")


def of_page(name: str, language: tuple[str, ...]) -> list[Block]:
    page = ROOT / "docs" / name
    return [block for block in blocks(page.read_text(), page.name) if block.language in language]


def flat(settings: dict[str, object], above: str = "") -> list[str]:
    """The keys of nested settings, joined by dots."""
    found = []
    for key, value in settings.items():
        inside = isinstance(value, dict) and value
        found += flat(value, f"{above}{key}.") if inside else [f"{above}{key}"]  # type: ignore[arg-type]
    return found


def known_key(key: str, verb: str) -> bool:
    """Whether a verb has a setting; NAME and KEY of the reference stand for any word."""
    keys = [re.escape(row[0]) for row in settings_of(VERBS[verb].config_class)]
    patterns = [re.sub(r"NAME|KEY", lambda _: r"[\w.]+", key) for key in keys]
    patterns += [rf"{by_name}\.\w+(\.\w+)?" for by_name in ("plays", "names", "settings") if by_name in keys]
    return key == "recipe" or any(re.fullmatch(pattern, key) for pattern in patterns)


def test_no_command_needs_an_activated_environment() -> None:
    bare = []
    for page in PAGES:
        if page.name in OF_AN_INSTALLATION:
            continue
        text = page.read_text()
        for block in blocks(text, page.name):
            if block.language in SHELL:
                bare += [
                    f"{block}: {c}"
                    for c in commands(block)
                    if c.split()[0].rpartition("/")[2] in TOOLS and "/" not in c.split()[0]
                ]
        typed = re.findall(r"`(?:[A-Z_]+=\S+ )*((?:python3? -m|torchrun|pip install|pytest) [^`]*)`", text)
        bare += [f"{page.name}: {command}" for command in typed if "benchmarks" not in str(page)]
    assert not bare, bare


def every_command() -> list[tuple[str, str]]:
    """Calls of the command line tool in the pages' code blocks, with the block they stand in."""
    found = []
    for page in PAGES:
        for block in blocks(page.read_text(), page.name):
            if block.language in SHELL:
                calls = [
                    re.sub(r"^.*?\bheatv2x ", "", c) for c in commands(block) if re.search(r"(^|/|-m )heatv2x ", c)
                ]
                found += [(str(block), call) for call in calls]
    return found


def test_every_setting_of_every_command_exists() -> None:
    unknown, looked_at = [], 0
    for where, call in every_command():
        words = [word for word in call.split() if not word.startswith(("$", "-"))]
        plain = [word for word in words if "=" not in word]
        verb = next((" ".join(plain[:n]) for n in (2, 1) if " ".join(plain[:n]) in VERBS), None)
        settings = [word for word in words if re.match(r"[a-z_][\w.]*=", word)]
        if verb is None:
            assert not settings, f"{where}: {call}"
            continue
        typed = parse_overrides(re.sub(r"=.*", "=1", word) for word in settings)
        looked_at += len(settings)
        unknown += [f"{where}: {verb} {key}" for key in flat(typed) if not known_key(key, verb)]
    assert not unknown and looked_at > 100, (unknown, looked_at)


Run = Callable[[str], str]


@pytest.fixture
def run_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the commands of a block in an empty folder, as a shell expands them; gives what they print.

    Calls of the command line tool run in this process, which saves starting Python for each.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "tests").symlink_to(ROOT / "tests")

    def run(script: str) -> str:
        tools = "".join(
            f'{name}() {{ printf "{name}\\t"; printf "%s\\t" "$@"; echo; }}\n' for name in ("heatv2x", "python")
        )
        expanded = ["bash", "-euo", "pipefail", "-c", tools + script.replace(".venv/bin/", "")]
        lines = subprocess.run(expanded, capture_output=True, text=True, check=True).stdout.splitlines()
        for line in lines:
            tool, *words = line.rstrip("\t").split("\t")
            if tool == "python":
                environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
                ran = subprocess.run(
                    [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
                )
                print(ran.stdout)
                assert ran.returncode == 0, f"{line}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
                continue
            monkeypatch.setattr(sys, "argv", ["heatv2x", *words])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code, f"{line}\n{capsys.readouterr().err[-3000:]}"
        return capsys.readouterr().out

    return run


def rows(run_folder: Path) -> list[dict[str, float]]:
    """AP by threshold of the rows of an evaluation."""
    return [row["ap"] for row in json.loads((run_folder / "metrics.json").read_text())["rows"]]


def test_own_recordings_from_record_to_ap(run_block: Run, tmp_path: Path) -> None:
    (script,) = of_page("own_recordings.md", ("python",))
    (tmp_path / "record.py").write_text(script.text)
    run_block(".venv/bin/python record.py")
    said = [run_block(block.text) for block in of_page("own_recordings.md", SHELL)]
    assert "No faults found." in said[0] and (tmp_path / "frame.png").stat().st_size > 10_000
    shipped, own, alone = (rows(tmp_path / "runs" / "mine" / name) for name in ("shipped", "eval", "alone"))
    assert shipped[0]["0.3"] > 0.4 and own[0]["0.3"] > 0.4, "the page says 60 and 68"
    assert alone[0]["0.3"] < own[0]["0.3"] - 0.1, "messages tell of cars out of reach"
    assert all(f"runs/mine/{name}" in said[-1] for name in ("shipped", "eval", "alone"))


def test_a_method_of_ones_own_is_compared(run_block: Run, tmp_path: Path) -> None:
    (part,) = of_page("compare.md", ("python",))
    (tmp_path / "my_fusions.py").write_text(part.text)
    contract, *rest = of_page("compare.md", SHELL)
    assert " passed" in run_block(f"{contract.text.strip()} -p no:cacheprovider")
    script = "\n".join(block.text for block in rest)
    small = script.replace("steps=20", "steps=2 model.half_extent_m=25.6").replace(
        "train=8 validate=2 test=4", "train=2 validate=1 test=1"
    )
    assert small.count("steps=2 ") == 1 and "train=2" in small
    said = run_block(small)
    for name in ("maximum", "hetero_graph", "mean", "alone"):
        assert rows(tmp_path / "runs" / "compare" / "eval" / name) and f"runs/compare/eval/{name}" in said
    config = json.loads((tmp_path / "runs" / "compare" / "mean" / "config.json").read_text())
    assert config["model"]["fusion"]["part"] == "my_fusions:Mean"


def example_agent() -> str:
    (block,) = of_page("add_an_agent.md", ("python",))
    return block.text


def test_the_example_agent_keeps_its_contract(run_block: Run, tmp_path: Path) -> None:
    """Every test of it, as the page says for an agent of one's own."""
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").write_text("")
    (tmp_path / "mypackage" / "mymodule.py").write_text(example_agent())
    command = next(
        c
        for block in of_page("add_an_agent.md", SHELL)
        for c in commands(block)
        if "--part mypackage.mymodule:Occupied" in c
    )
    said = run_block(f"{command} -p no:cacheprovider")
    assert " passed" in said and "failed" not in said and "skipped" not in said


@pytest.fixture
def among_the_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a file into heatv2x/agents, as the page says, without writing there."""
    monkeypatch.setattr(heatv2x.agents, "__path__", [*heatv2x.agents.__path__, str(tmp_path)])

    def put(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"heatv2x.agents.{name}", raising=False)

    return put


def test_the_example_agent_is_listed(among_the_agents: Callable[[str, str], None]) -> None:
    among_the_agents("occupied", example_agent())
    entry = next(entry for entry in catalogue("agents") if entry.name == "occupied")
    assert entry.about == "Occupancy agent: which cells of the shared grid hold a point above the road."
    assert (entry.source, entry.parameters) == ("an example", 48 * 9 + 48) and entry.flops


DOCSTRINGS = re.compile(r'""".*?"""', re.DOTALL)
UNFINISHED: dict[str, tuple[Callable[[str], str], str]] = {
    "no docstring of the file": (lambda text: DOCSTRINGS.sub("", text, count=1), "One LiDAR; a convolution"),
    "an empty one": (lambda text: DOCSTRINGS.sub('"""   """', text, count=1), "One LiDAR; a convolution"),
    "no docstring at all": (lambda text: DOCSTRINGS.sub("pass", text), "no description"),
    "no source": (lambda text: text.replace('source = "an example"', "pass"), "Occupancy agent"),
    "another shape": (lambda text: text.replace("Conv2d(1,", "Conv2d(7,"), "cannot be counted: RuntimeError"),
    "a setting without a default": (lambda text: text.replace('str = "lidar32"', "str"), "cannot be counted: "),
    "an import of nothing": (lambda text: f"import trch\n{text}", "cannot be used: ModuleNotFoundError"),
    "two classes": (lambda text: f"{text}\nclass Second(Occupied):\n    pass\n", "must define exactly one Agent"),
    "a slip": (lambda text: f"{text}\n)", "cannot be used: SyntaxError"),
}


@pytest.mark.parametrize("what", UNFINISHED)
def test_a_file_that_is_not_finished_does_not_stop_the_list(
    what: str, among_the_agents: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, says = UNFINISHED[what]
    among_the_agents("occupied", change(example_agent()))
    monkeypatch.setattr(plugins, "available", lambda kind: ["lidar_slices", "occupied"])
    other, own = catalogue("agents")
    assert says in own.about, own.about
    assert other.name == "lidar_slices" and other.parameters
    listing.print_settings_of_parts("agents", Console(quiet=True))


@pytest.mark.parametrize("kind", plugins.CONTRACTS)
def test_no_kind_of_part_needs_a_docstring(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part = plugins.find(kind, plugins.available(kind)[0])
    monkeypatch.setattr(sys.modules[part.__module__], "__doc__", None)
    monkeypatch.setattr(part, "__doc__", None)
    assert about_part(part).startswith("no description")


def test_the_line_that_the_python_page_expects(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    (block,) = of_page("api.md", ("python",))
    ran = subprocess.run([sys.executable, "-c", block.text], cwd=tmp_path, capture_output=True, text=True, check=True)
    line = re.compile(r"^(\d+) objects alone, (\d+) together, ([\d,]+) bytes received$", re.MULTILINE)
    said, expected = line.search(ran.stdout), line.search(text)
    assert said and expected, ran.stdout
    (alone, together, size), wanted = ([int(n.replace(",", "")) for n in found.groups()] for found in (said, expected))
    assert abs(alone - wanted[0]) <= 3 and abs(together - wanted[1]) <= 3 and together > alone
    assert size == pytest.approx(wanted[2], rel=0.05)


def test_the_page_of_the_package_index_needs_no_other_file() -> None:
    text = (ROOT / "docs" / "package_page.md").read_text()
    assert not re.findall(r"\]\((?!https?://)[^)]*\)", text) and "src=" not in text
    assert 'file = "docs/package_page.md"' in (ROOT / "pyproject.toml").read_text()
