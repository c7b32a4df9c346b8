"""The tree's own rules: imports follow the arrow, nothing unsafe is called, no file is named after nothing."""

from __future__ import annotations

import ast
import functools
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "heatv2x"

# From the ground up; a part may import its own layer and those before it. Cycles between parts are caught separately.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("", "errors", "structures"),
    ("core",),
    ("geometry",),
    ("formats",),
    ("nn",),
    ("agents", "adapters", "fusion"),
    ("link",),
    ("model",),
    ("data",),
    ("world",),
    ("evaluation",),
    ("training",),
    ("interop",),
    ("cli", "__main__"),
)
# Earlier layers that these parts must not know all the same: networks and messages know no dataset, data no model.
FORBIDDEN = {
    **dict.fromkeys(("nn", "agents", "adapters", "fusion", "link", "model"), ("formats",)),
    **dict.fromkeys(("data", "world"), ("nn", "agents", "adapters", "fusion", "link", "model")),
}
WITHOUT_TORCH = ("errors", "structures", "formats", "world")

UNSAFE_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_NAMES = {"eval", "exec"}
UNSAFE_CALLS = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "torch.load", "os.system"}
# Checkpoints of others come as torch files; this one module may read them, weights alone. It catches pickle's error.
READS_WEIGHTS = "heatv2x.interop.heal.checkpoint"
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "misc", "common", "manager", "managers"}


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """heatv2x/fusion/none.py is heatv2x.fusion.none; an __init__ is its folder."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool, anywhere: bool = True) -> set[str]:
    """Full names that a module imports; with `anywhere=False` only what happens when it is imported itself."""
    found: set[str] = set()
    for node in ast.walk(tree) if anywhere else executed_at_import(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".") if is_package else module.split(".")[:-1]
            base = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.add(source)
            found.update(f"{source}.{alias.name}" for alias in node.names)
    return found


def executed_at_import(tree: ast.AST) -> list[ast.AST]:
    """The nodes outside functions and outside `if TYPE_CHECKING:`."""
    nodes: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        nodes += [node, *executed_at_import(node)]
    return nodes


def part(module: str) -> str:
    """heatv2x.fusion.none belongs to the part "fusion"; the package itself is ""."""
    return module.split(".")[1] if "." in module else ""


def layer(name: str) -> int:
    """The place of a part in LAYERS."""
    for place, names in enumerate(LAYERS):
        if name in names:
            return place
    raise AssertionError(f"heatv2x/{name} is in no layer: give it its line in LAYERS of tests/test_structure.py")


def arrow_violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Imports of one module that run against the arrow."""
    here = part(module)
    found = []
    for name in sorted(imports(ast.parse(source), module, is_package)):
        if name.split(".")[0] != "heatv2x" or name == "heatv2x":
            continue
        there = part(name)
        if (
            not any(there in names for names in LAYERS)
            and not (PACKAGE / there).exists()
            and not (PACKAGE / f"{there}.py").exists()
        ):
            continue  # a name inside heatv2x/__init__.py, as in "from heatv2x import __version__"
        if layer(there) > layer(here) or there in FORBIDDEN.get(here, ()):
            found.append(f"{module} imports {name}")
    return found


def unsafe(source: str, module: str = "") -> list[str]:
    """Calls and imports that could run foreign code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            weights_alone = any(w.arg == "weights_only" and ast.unparse(w.value) == "True" for w in node.keywords)
            if called == "torch.load" and module == READS_WEIGHTS and weights_alone:
                continue
            if called in UNSAFE_NAMES | UNSAFE_CALLS:
                found.append(f"line {node.lineno}: {called}(")
            found += [
                f"line {node.lineno}: allow_pickle"
                for word in node.keywords
                if word.arg == "allow_pickle" and ast.unparse(word.value) != "False"
            ]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if module == READS_WEIGHTS and ast.unparse(node) == "from pickle import UnpicklingError":
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno}: import {name}" for name in names if name.split(".")[0] in UNSAFE_IMPORTS]
            if isinstance(node, ast.ImportFrom):
                hidden = {f"{node.module}.{alias.name}" for alias in node.names} & UNSAFE_CALLS
                found += [f"line {node.lineno}: import of {name}" for name in sorted(hidden)]
    return found


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of a directed graph, as the path that closes it; empty if there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            cycle = walk(following, [*path, node])
            if cycle:
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := walk(node, []))), [])


@functools.cache
def sources() -> dict[str, Path]:
    """Every module of the package, by full name."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def import_graph() -> dict[str, set[str]]:
    """What importing a module imports: modules with their parent packages, and the roots of foreign ones."""
    graph: dict[str, set[str]] = {}
    for module, path in sources().items():
        reached: set[str] = set()
        for name in imports(ast.parse(path.read_text()), module, path.name == "__init__.py", anywhere=False):
            words = name.split(".")
            if words[0] == "heatv2x":
                reached |= {
                    prefix for length in range(1, len(words) + 1) if (prefix := ".".join(words[:length])) in sources()
                }
            else:
                reached.add(words[0])
        graph[module] = reached - {module}
    return graph


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Everything that importing `start` imports."""
    seen, waiting = {start}, [start]
    while waiting:
        for name in graph.get(waiting.pop(), set()) - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def test_imports_follow_the_arrow() -> None:
    found = [
        violation
        for module, path in sources().items()
        for violation in arrow_violations(path.read_text(), module, path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_parts_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, path in sources().items():
        # Not inside functions: Collaboration.from_packs calls the assembly that builds it.
        names = imports(ast.parse(path.read_text()), module, path.name == "__init__.py", anywhere=False)
        others = {part(name) for name in names if name.startswith("heatv2x.")} - {part(module), ""}
        graph.setdefault(part(module), set()).update(others)
    assert not (cycle := find_cycle(graph)), " -> ".join(cycle)


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_needs_no_torch(name: str) -> None:
    graph = import_graph()
    guilty = [module for module in sources() if part(module) == name and "torch" in reachable(graph, module)]
    assert not guilty, f"importing these imports torch: {guilty}"


def test_nothing_runs_foreign_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}, {finding}"
        for module, path in sources().items()
        for finding in unsafe(path.read_text(), module)
    ]
    assert not found, "\n".join(found)


def test_files_are_named_by_nouns_of_the_field() -> None:
    found = [str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if is_empty_name(path.stem)]
    assert not found, found


def is_empty_name(stem: str) -> bool:
    """utils, image_utils, helpers, ..."""
    return stem in EMPTY_NAMES or stem.rpartition("_")[2] in EMPTY_NAMES


def test_no_file_names_the_machine_it_was_written_on() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    home = "/".join(["", "work", ""]).encode()
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    found = [str(path.relative_to(ROOT)) for path in files if path.is_file() and home in path.read_bytes()]
    assert not found, found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("heatv2x.nn.pillars", "from heatv2x.data.datasets.base import Dataset"),
        ("heatv2x.nn.pillars", "from heatv2x import data"),
        ("heatv2x.fusion.maximum", "import heatv2x.training.loop"),
        ("heatv2x.link.message", "def late():\n    from heatv2x.world import town"),
        ("heatv2x.agents.lidar_pillar", "from ..evaluation import report"),
        ("heatv2x.data.datasets.opv2v", "from heatv2x.model.collaboration import Collaboration"),
        ("heatv2x.errors", "from .formats import carla"),
    ],
)
def test_an_import_against_the_arrow_is_found(module: str, source: str) -> None:
    assert arrow_violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("heatv2x.nn.pillars", "import torch\nfrom heatv2x.geometry.grid import BevGrid\nfrom . import residual"),
        ("heatv2x.cli.main", "from heatv2x import __version__\nfrom heatv2x.evaluation.report import build"),
        ("heatv2x.training.loop", "from heatv2x.data.datasets.base import Dataset"),
    ],
)
def test_an_import_along_the_arrow_is_accepted(module: str, source: str) -> None:
    assert not arrow_violations(source, module)


def test_a_part_without_a_layer_is_refused() -> None:
    with pytest.raises(AssertionError, match="LAYERS"):
        layer("brand_new")


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec('x = 1')",
        "import pickle",
        "from pickle import loads",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "from torch import load",
        "import torch\ntorch.load('x.pth', weights_only=True)",
        "import numpy as np\nnp.load('x.npz', allow_pickle=True)",
    ],
)
def test_unsafe_code_is_found(source: str) -> None:
    assert unsafe(source)


@pytest.mark.parametrize(
    "source", ["torch.load(p)", "torch.load(p, weights_only=False)", "from pickle import loads", "import pickle"]
)
def test_the_one_reader_of_weights_reads_weights_alone(source: str) -> None:
    assert unsafe(source, READS_WEIGHTS)
    assert not unsafe("import torch\ntorch.load(p, weights_only=True)", READS_WEIGHTS)


def test_safe_code_is_accepted() -> None:
    assert not unsafe(
        "import json, numpy as np\nmodel.eval()\nnp.load('x.npz', allow_pickle=False)\nyaml.safe_load(text)"
    )


def test_a_circle_is_found() -> None:
    assert find_cycle({"model": {"losses"}, "losses": {"metrics"}, "metrics": {"model"}})
    assert not find_cycle({"model": {"losses", "grid"}, "losses": {"grid"}, "grid": set()})


def test_imports_inside_functions_do_not_count_as_import_time() -> None:
    source = "import typing\nif typing.TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\nimport numpy"
    assert imports(ast.parse(source), "heatv2x.core.files", False, anywhere=False) == {"typing", "numpy"}


def test_empty_names_are_found() -> None:
    assert is_empty_name("utils") and is_empty_name("box_helpers")
    assert not is_empty_name("commonroad") and not is_empty_name("communication")
