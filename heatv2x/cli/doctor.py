"""What this machine has, what it lacks, and how to fix that: one finding per question, for the command line to print.

Anything here may be missing or broken: imports happen inside the questions, and what could crash gets its own process.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "info", "warn", "fail"]

GIB = 2**30
LEAST_PYTHON = (3, 11)
LEAST_MEMORY_GIB = 4.0
LEAST_DISK_GIB = 5.0  # the environment takes about 1 GiB, a default world and its runs some more
PROBE_SECONDS = 180
NEW_VENV = "rm -r .venv && make venv"

OPTIONAL = (  # module, package, extra, what for
    ("rerun", "rerun-sdk", "view", "the 3D viewer"),
    ("onnx", "onnx", "export", "exporting a network to ONNX"),
    ("onnxruntime", "onnxruntime", "export", "running an exported network"),
    ("spconv", "spconv", "cuda", "sparse convolution on an NVIDIA GPU"),
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

RAY_CAST = """
import numpy
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
scene = EmbreeScene()
wall = numpy.array([[[-1.0, -9.0, -9.0], [-1.0, 9.0, -9.0], [-1.0, 0.0, 9.0]]], numpy.float32)
mesh = TriangleMesh(scene, wall)
origin, ahead = numpy.array([[-5.0, 0.2, 0.1]], numpy.float32), numpy.array([[1.0, 0.0, 0.0]], numpy.float32)
distance = scene.run(origin, ahead, query="DISTANCE")
assert abs(distance[0] - 4.0) < 1e-3, f"the ray travelled {distance}"
"""


@dataclass(frozen=True)
class Finding:
    """The answer to one question about this machine.

    Attributes:
        name: what was examined.
        state: "ok"; "info" for what is optional and missing; "warn" for what costs speed or a feature; "fail" for
            what must be fixed first.
        detail: what was found, one sentence.
        fix: what to do about it; empty if there is nothing to do.
    """

    name: str
    state: State
    detail: str
    fix: str = ""


def examine(folder: str | Path = ".") -> list[Finding]:
    """Examine this machine; nothing is printed or changed.

    Args:
        folder: the working folder, whose disk is looked at.
    """
    torch = _import("torch")
    return [
        examine_python(sys.version_info[:3]),
        *examine_dependencies(),
        examine_torch(torch),
        examine_device(torch),
        examine_threads(torch),
        examine_cores(_cores()),
        examine_wait_policy(os.environ.get("OMP_WAIT_POLICY")),
        examine_memory(_memory_gib()),
        examine_bf16(torch),
        examine_disk(Path(folder)),
        examine_torchvision(torch),
        examine_ray_casting(),
        *(examine_optional(*extra) for extra in OPTIONAL),
        examine_browser(),
    ]


def examine_python(version: tuple[int, ...]) -> Finding:
    """Whether this Python is new enough."""
    text = ".".join(str(part) for part in version)
    if version[:2] >= LEAST_PYTHON:
        return Finding("Python", "ok", f"{text} ({platform.machine()}, {platform.system()})")
    return Finding(
        "Python", "fail", f"{text} is too old, 3.11 is needed", "install Python 3.11, then make PYTHON=python3.11 venv"
    )


def examine_dependencies() -> Iterator[Finding]:
    """Whether each core dependency is installed and new enough."""
    try:
        requirements = importlib.metadata.requires("heatv2x") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("heatv2x", "warn", "imported from a folder, not installed", "make venv")
        return
    for requirement in requirements:
        if "extra ==" not in requirement:
            yield examine_dependency(requirement)


def examine_dependency(requirement: str) -> Finding:
    """Whether "name>=version" is installed."""
    name, _, least = requirement.partition(">=")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "fail", f"not installed, {requirement} is needed", f"pip install '{requirement}'")
    if _numbers(version) < _numbers(least):
        return Finding(name, "fail", f"{version} is too old, {requirement} is needed", f"pip install '{requirement}'")
    return Finding(name, "ok", version)


def examine_torch(torch: Any) -> Finding:
    """Whether torch imports."""
    if isinstance(torch, Exception):
        return Finding("torch import", "fail", f"torch does not import: {torch}", NEW_VENV)
    build = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
    return Finding("torch import", "ok", f"torch {torch.__version__}, {build}")


def examine_device(torch: Any) -> Finding:
    """Where networks will run."""
    if isinstance(torch, Exception):
        return Finding("device", "fail", "unknown without torch", NEW_VENV)
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        return Finding("device", "ok", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    if torch.version.cuda:
        return Finding(
            "device", "warn", "torch is a CUDA build, but no GPU can be used", "check the driver with nvidia-smi"
        )
    if shutil.which("nvidia-smi"):
        fix = NEW_VENV.replace("make", "HEATV2X_ALLOW_CUDA=1 make")
        return Finding("device", "warn", "CPU, although this machine seems to have an NVIDIA GPU", fix)
    return Finding("device", "ok", "CPU")


def examine_threads(torch: Any) -> Finding:
    """Whether torch's threads fit the cores this process may use."""
    if isinstance(torch, Exception):
        return Finding("threads", "fail", "unknown without torch", NEW_VENV)
    threads, cores = torch.get_num_threads(), _cores()
    if threads > cores:
        return Finding(
            "threads", "warn", f"torch uses {threads} threads on {cores} cores", f"export OMP_NUM_THREADS={cores}"
        )
    return Finding("threads", "ok", f"torch uses {threads} of {cores} cores")


def examine_cores(cores: int) -> Finding:
    """How many cores this process may use."""
    if cores < 2:
        return Finding("cores", "warn", "one core: work that would run in two processes takes longer here")
    return Finding("cores", "ok", f"{cores}")


def examine_wait_policy(policy: str | None) -> Finding:
    """Whether idle OpenMP threads sleep; spinning ones made a training step three times slower on busy cores."""
    if (policy or "").upper() == "PASSIVE":
        return Finding("OMP_WAIT_POLICY", "ok", "PASSIVE")
    detail = f"{policy or 'not set'}: idle threads spin, which slows training on busy cores"
    return Finding("OMP_WAIT_POLICY", "warn", detail, "export OMP_WAIT_POLICY=PASSIVE")


def examine_memory(gib: float | None) -> Finding:
    """Whether there is enough memory."""
    if gib is None:
        return Finding("memory", "info", "unknown on this system")
    if gib < LEAST_MEMORY_GIB:
        detail = f"{gib:.1f} GiB, {LEAST_MEMORY_GIB:.0f} are recommended"
        return Finding("memory", "warn", detail, "use fewer processes and smaller batches")
    return Finding("memory", "ok", f"{gib:.1f} GiB")


def examine_bf16(torch: Any) -> Finding:
    """Whether bfloat16 arithmetic is fast here."""
    if not isinstance(torch, Exception) and torch.cuda.is_available():
        supported, where = bool(torch.cuda.is_bf16_supported()), "GPU"
    else:
        flags = _cpu_flags()
        if flags is None:
            return Finding("bf16", "info", "unknown on this system")
        supported, where = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}), "processor"
    if supported:
        return Finding("bf16", "ok", f"the {where} computes bfloat16 natively")
    return Finding("bf16", "info", f"the {where} has no bfloat16 instructions; float32 is as fast")


def examine_disk(folder: Path) -> Finding:
    """Whether there is room for worlds and runs in the working folder."""
    try:
        free = shutil.disk_usage(folder).free / GIB
    except OSError as error:
        return Finding(
            "disk", "fail", f"{folder} cannot be accessed: {error.strerror}", "choose another working folder"
        )
    if not os.access(folder, os.W_OK):
        return Finding("disk", "fail", f"{folder} cannot be written", "choose another working folder")
    if free < LEAST_DISK_GIB:
        detail = f"{free:.1f} GiB free in the working folder, {LEAST_DISK_GIB:.0f} are recommended"
        return Finding(
            "disk", "warn" if free >= 1 else "fail", detail, "free some space or choose another working folder"
        )
    return Finding("disk", "ok", f"{free:.0f} GiB free in the working folder")


def examine_torchvision(torch: Any) -> Finding:
    """Whether a torchvision that does not match this torch breaks packages that need one."""
    if importlib.util.find_spec("torchvision") is None or isinstance(torch, Exception):
        return Finding("torchvision", "ok", "not installed, not needed")
    trouble = probe("import torchvision")
    if trouble:
        return Finding(
            "torchvision",
            "fail",
            f"cannot be imported together with this torch: {trouble}",
            "pip uninstall torchvision",
        )
    return Finding("torchvision", "ok", "can be imported together with this torch")


def examine_ray_casting() -> Finding:
    """Whether embreex can cast a ray; the sensors of the synthetic world need it."""
    trouble = probe(RAY_CAST)
    if trouble:
        return Finding(
            "ray casting", "fail", f"embreex cannot cast a ray: {trouble}", "pip install --force-reinstall embreex"
        )
    return Finding("ray casting", "ok", "embreex casts rays")


def examine_optional(module: str, package: str, extra: str, purpose: str) -> Finding:
    """Whether an optional package is installed."""
    if importlib.util.find_spec(module) is not None:
        try:
            return Finding(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            return Finding(package, "ok", "installed")
    fix = f"pip install {_source_of(package, extra)}"
    return Finding(package, "info", f"not installed, needed for {purpose}", fix)


def examine_browser() -> Finding:
    """Whether the report's pages can be tested in a browser."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found:
        return Finding("browser", "ok", found)
    return Finding("browser", "info", "no Chromium: the report is not tested in a browser", "apt-get install chromium")


def probe(code: str) -> str:
    """Run Python code in a separate process; the last line of its error message, empty if it succeeded."""
    command = [sys.executable, "-c", code]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_SECONDS} s"
    if result.returncode == 0:
        return ""
    if result.returncode < 0:
        return f"the process was killed by signal {-result.returncode}"
    return (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken torch raises anything; the finding shows it
        return error


def _source_of(package: str, extra: str) -> str:
    """The extra, if this version of heatv2x offers it; otherwise the package itself."""
    try:
        offered = importlib.metadata.metadata("heatv2x").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        offered = []
    return f"'heatv2x[{extra}]'" if extra in offered else package


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float | None:
    """Memory of the machine, or of the container if that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return min(total, int(limit)) / GIB if limit.isdigit() else total / GIB


def _cpu_flags() -> set[str] | None:
    """The processor's instruction sets, as Linux names them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(line.group(1).split()) if line else None
