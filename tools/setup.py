"""Make `.venv` ready to run, test and lint HeatV2X: `make venv` calls this with any Python from 3.11.

Only the standard library is used. The steps are: a virtual environment with pip, a torch that needs no CUDA, then this
package with its test and development tools. What is already there is left alone.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (older Pythons read this)
    sys.exit(
        "setup: HeatV2X needs Python 3.11 or newer, this is Python %d.%d (%s).\n"  # noqa: UP031
        "  Way out: make PYTHON=python3.11 (Debian: apt-get install python3 python3-venv)"
        % (*sys.version_info[:2], sys.executable)
    )

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "ready"  # the Makefile compares its date with pyproject.toml's
TORCH = "2.13.0"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
ALLOW_CUDA = "HEATV2X_ALLOW_CUDA"

NO_PIP = """setup: this Python has neither ensurepip nor pip, so no virtual environment can be filled.
  Way out: apt-get install python3-venv   (or python3-pip; either is enough), then call make again."""

NO_VENV = """setup: this Python cannot make a virtual environment:
{reason}
  Way out: apt-get install python3-venv, then call make again."""

FAILED = """setup: {what} could not be installed:
{reason}
  Way out: {way_out}, then call make again."""

NO_CPU_TORCH = f"""setup: no CPU build of torch {TORCH} can be had here, so none was installed.
  {CPU_WHEELS} offers none or is out of reach, and {{reason}}
  Way out, one of:
    {ALLOW_CUDA}=1 make venv     takes the build with CUDA (several GB): right for a machine with an NVIDIA GPU
    PIP_FIND_LINKS=FOLDER make venv    takes a torch-{TORCH}+cpu wheel that you fetched into that folder"""


def say(message: str) -> None:
    """One line of progress."""
    print(f"setup: {message}", flush=True)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints; the caller looks at the return code."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd=ROOT)


def pip(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the virtual environment's pip."""
    return run(PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", *words)


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The last lines of what a failed command said, indented."""
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return "\n".join(f"    {line}" for line in lines[-6:])


def wanted() -> str:
    """What a finished environment was made from; a change of any of it means work to do."""
    sources = (ROOT / "pyproject.toml", Path(__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources) + str(ROOT).encode()).hexdigest()


def make_venv() -> None:
    """A virtual environment in `.venv` that has pip; one that works is kept."""
    works = "import pip, sys; sys.exit(sys.version_info < (3, 11))"
    if PYTHON.exists() and run(PYTHON, "-c", works).returncode == 0:
        return
    say(
        f"making .venv with Python {sys.version.split()[0]}"
        + (" in place of one that does not work" if VENV.exists() else "")
    )
    if importlib.util.find_spec("ensurepip") and run(sys.executable, "-m", "venv", "--clear", VENV).returncode == 0:
        return
    bare = run(sys.executable, "-m", "venv", "--clear", "--without-pip", VENV)
    if bare.returncode:
        sys.exit(NO_VENV.format(reason=complaint(bare)))
    if importlib.util.find_spec("pip") is None:
        sys.exit(NO_PIP)
    filled = run(sys.executable, "-m", "pip", "--python", PYTHON, "install", "--quiet", "pip")
    if filled.returncode:
        sys.exit(FAILED.format(what="pip", reason=complaint(filled), way_out="apt-get install python3-venv"))


def installed_torch() -> str | None:
    """The version of torch in the virtual environment."""
    result = run(PYTHON, "-c", "import importlib.metadata as m; print(m.version('torch'))")
    return result.stdout.strip() if result.returncode == 0 else None


def satisfies(version: str) -> bool:
    """Whether a torch version is what pyproject.toml asks for."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    least = next(word.removeprefix("torch>=") for word in dependencies if word.startswith("torch>="))
    return numbers(version) >= numbers(least)


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" gives (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def install_torch() -> None:
    """Put torch in, without gigabytes of CUDA unless they are asked for."""
    version = installed_torch()
    if version and satisfies(version):
        return
    if os.environ.get(ALLOW_CUDA) == "1":
        say(f"installing torch {TORCH} with whatever it brings ({ALLOW_CUDA}=1)")
        must(pip("install", "--quiet", f"torch=={TORCH}"), "torch")
        return
    say(f"installing torch {TORCH}, CPU build (about 200 MB)")
    # "+cpu" can only be a CPU build, whichever index or folder it comes from. The index may be out of reach.
    source = ("--retries", "0", "--timeout", "10", "--extra-index-url", CPU_WHEELS)
    if pip("install", "--quiet", *source, f"torch=={TORCH}+cpu").returncode == 0:
        return
    say("no wheel marked as a CPU build; asking what the configured package index would install")
    reason = why_not_plain_torch()
    if reason:
        sys.exit(NO_CPU_TORCH.format(reason=reason))
    must(pip("install", "--quiet", f"torch=={TORCH}"), "torch")


def why_not_plain_torch() -> str | None:
    """Why the configured index's torch is not taken: it would bring CUDA, or there is none. None: it may be taken."""
    plan = pip("install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", f"torch=={TORCH}")
    if plan.returncode:
        return f"the configured package index offers no torch either:\n{complaint(plan)}"
    names = [item["metadata"]["name"] for item in json.loads(plan.stdout)["install"]]
    cuda = [name for name in names if name.startswith(("nvidia-", "cuda-"))]
    return f"the configured package index's torch would bring {len(cuda)} CUDA packages (gigabytes)." if cuda else None


def install_package() -> None:
    """Put HeatV2X itself in, editable, with its tools and the ONNX exporter; the torch that is there stays."""
    say("installing HeatV2X with its test, development and export tools (about a minute when nothing is cached)")
    keep = VENV / "keep.txt"
    keep.write_text(f"torch=={installed_torch()}\n")
    must(pip("install", "--quiet", "--editable", f"{ROOT}[test,dev,export]", "--constraint", str(keep)), "HeatV2X")


def must(result: subprocess.CompletedProcess[str], what: str) -> None:
    """Stop with pip's own words if it failed."""
    if result.returncode:
        sys.exit(FAILED.format(what=what, reason=complaint(result), way_out="see that the package index answers"))


def main() -> None:
    """Do what is missing, and leave a stamp so that the next call has nothing to do."""
    key = wanted()
    if STAMP.exists() and STAMP.read_text() == key:
        STAMP.touch()
        return
    started = time.monotonic()
    make_venv()
    pip(
        "install", "--quiet", "--upgrade", "pip"
    )  # a newer pip reads metadata without fetching wheels; an old one works too
    install_torch()
    install_package()
    STAMP.write_text(key)
    say(f"ready after {time.monotonic() - started:.0f} s: .venv, torch {installed_torch()}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; call make again to go on")
