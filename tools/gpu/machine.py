"""The machine itself: what it reaches at most, the tests that only it can run, a world to train on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from xml.etree import ElementTree

import torch

from gpu.place import ROOT, Keep, Place, seconds_of
from heatv2x.core.config import build
from heatv2x.world.build import build_world
from heatv2x.world.config import WorldConfig


def ceilings(place: Place, keep: Keep) -> None:
    """What this machine multiplies and copies at most, on random data."""
    cuda = place.device.type == "cuda"
    keep("machine", {"device": torch.cuda.get_device_name() if cuda else "CPU", "torch": torch.__version__,
                     "python": sys.version.split()[0], "cores": os.cpu_count()})  # fmt: skip
    side = 8192 if cuda else 1024
    rates = {}
    for name, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)):
        if name == "tf32" and not cuda:
            continue
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = (torch.randn(side, side, device=place.device).to(dtype) for _ in range(2))
        rates[name] = 2 * side**3 / seconds_of(lambda a=a, b=b: a @ b, place) / 1e12
        torch.backends.cuda.matmul.allow_tf32 = before
    here = torch.randn(2**28 if cuda else 2**24, device=place.device)
    there = torch.empty_like(here)
    copy = 2 * here.nbytes / seconds_of(lambda: there.copy_(here), place) / 1e9
    keep("rates", {**{f"{k} TFLOP/s": v for k, v in rates.items()}, "copy GB/s": copy})
    if cuda:
        host = torch.empty(2**26).pin_memory()
        keep("host to device", {"GB/s": host.nbytes / seconds_of(lambda: here[: 2**26].copy_(host), place) / 1e9})
    (place.scratch / "ceilings.txt").write_text(f"{rates['bfloat16'] * 1e12} {copy * 1e9}")


def tests(place: Place, keep: Keep) -> None:
    """The tests that a machine without CUDA skips."""
    place.needs_cuda()
    report = place.scratch / "tests.xml"
    workers = ["-n", str(min(6, os.cpu_count() or 1))] if _has("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=20", *workers, f"--junitxml={report}"]
    ended = subprocess.run([*command, "tests/test_cuda.py"], cwd=ROOT, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    on_cuda = sum("cuda" in (case.get("name") or "") or "gpu" in (case.get("name") or "") for case in cases)
    keep("pytest", {"cases": len(cases), "on CUDA": on_cuda, "failed": len(bad), "skipped": skipped})
    for case in bad:
        keep(f"FAILED {case.get('name')}", {"message": _message(case)})
    if ended.returncode or not on_cuda:
        raise RuntimeError(f"pytest ended with status {ended.returncode}, {len(bad)} failed")


def _message(case: ElementTree.Element) -> str:
    found = case.find("failure") if case.find("failure") is not None else case.find("error")
    return ((found.get("message") or "") if found is not None else "")[:300].replace("\n", " ")


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def world(place: Place, keep: Keep) -> None:
    """A small synthetic world with every sensor."""
    start = time.perf_counter()
    size = (
        {"train": 6, "validate": 0, "test": 2, "azimuth_steps": 120, "render_resolution": (32, 24)}
        if place.quick
        else {"train": 96, "validate": 0, "test": 24, "azimuth_steps": 1040}
    )
    workers = 2 if place.quick else max(1, min(10, (os.cpu_count() or 2) - 4))
    build_world(build(WorldConfig, {"out": place.world, "seed": 3, "workers": workers, **size}), lambda *_: None)
    keep("world", {"seconds": time.perf_counter() - start, "frames": size["train"] + size["test"], "workers": workers})
