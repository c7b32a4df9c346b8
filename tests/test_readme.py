"""What README and docs tell a reader to type exists, and their Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("bash", "sh", "shell", "console")
ENVIRONMENT = re.compile(r"^(?:[A-Z][A-Z0-9_]*=\S*\s+)+")
CALL_CLI = "import sys; from heatv2x.cli.main import main; sys.exit(main())"


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(text: str, page: str) -> list[Block]:
    """The fenced blocks of a Markdown text."""
    found = []
    fence = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
    for match in fence.finditer(text):
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, match.group(1), match.group(2)))
    return found


def commands(block: Block) -> list[str]:
    """The command lines of a shell block, without prompts, comments and settings of the environment."""
    joined = block.text.replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ").partition(" #")[0].strip() for line in joined.splitlines()]
    return [ENVIRONMENT.sub("", line) for line in lines if line and not line.startswith("#")]


def make_targets(makefile: str) -> set[str]:
    """The targets a Makefile defines."""
    return set(re.findall(r"^([A-Za-z][\w-]*):(?!=)", makefile, re.MULTILINE))


def unknown_targets(command: str, makefile: str) -> list[str]:
    """Words after `make` that are neither a target nor a setting."""
    words = [word for word in command.split()[1:] if "=" not in word and not word.startswith("-")]
    return [word for word in words if word not in make_targets(makefile)]


def verbs(command: str) -> list[str]:
    """The leading plain words of a call of the command line tool: "data check DATA split=test" is data, check."""
    words: list[str] = []
    for word in command.split()[1:]:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", word):
            break
        words.append(word)
    return words


def pages(language: tuple[str, ...]) -> list[Block]:
    """The blocks of all pages in one of the languages."""
    every = [block for page in PAGES if page.exists() for block in blocks(page.read_text(), page.name)]
    return [block for block in every if block.language in language]


def typed(start: str) -> list[str]:
    """All commands of the pages that start with a word, once each."""
    return sorted({command for block in pages(SHELL) for command in commands(block) if command.split()[0] == start})


@pytest.mark.parametrize("command", typed("make"))
def test_make_targets_exist(command: str) -> None:
    assert not unknown_targets(command, (ROOT / "Makefile").read_text())


@pytest.mark.parametrize("command", sorted({*typed(".venv/bin/heatv2x"), *typed("heatv2x")}))
def test_verbs_exist(command: str) -> None:
    call = [sys.executable, "-c", CALL_CLI, *verbs(command), "--help"]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("block", pages(("python",)), ids=str)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", block.text], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1800
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)[^)]*\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_the_readme_has_the_two_commands() -> None:
    assert {"make demo", "make test"} <= {command for block in pages(SHELL) for command in commands(block)}


def test_an_unknown_target_is_found() -> None:
    makefile = ".PHONY: demo\nJOBS ?= 2\nX := 1\ndemo: .venv/ready\n\t@run\n"
    assert unknown_targets("make demo ARGS=--quick", makefile) == []
    assert unknown_targets("make demoo", makefile) == ["demoo"]


def test_commands_are_read_from_a_page() -> None:
    lines = "# first\n$ HEATV2X_ALLOW_CUDA=1 make venv  # once\n.venv/bin/heatv2x data check \\\n  DATA split=test\n"
    page = f"text\n```bash\n{lines}```\n"
    (block,) = blocks(page, "page.md")
    first, second = commands(block)
    assert (str(block), first) == ("page.md:2", "make venv")
    assert verbs(second) == ["data", "check"]
