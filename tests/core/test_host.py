"""Importing changes nothing in the host's process; the command line and `optimised` keep freed memory."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from heatv2x.core import host

NEEDS_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has another allocator")

PAGES_TOUCHED = """
import ctypes, resource, numpy
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: one fault is one page, whatever the machine's settings
def work():
    for _ in range(50):
        maps = [numpy.ones(400_000, numpy.float32) for _ in range(4)]
{start}
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
FETCHED_EACH_TIME = 10_000  # 50 x 4 maps of 390 pages, less what glibc keeps by itself

STATE = """
import json, os, pkgutil, sys, threading, warnings, logging, signal, locale, random, multiprocessing, resource
import numpy, torch
# libraries that settings could be changed of, or that draw random numbers when imported (rich): theirs, not ours
import matplotlib, PIL.Image, PIL.ImageFile, rich.console, rich.table, rich.logging, rich.progress, typer

def state():
    return {
        "environment": dict(os.environ),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()],
        "dtype": [str(torch.get_default_dtype()), str(torch.get_default_device())],
        "grad": [torch.is_grad_enabled(), torch.is_anomaly_enabled(), torch.is_inference_mode_enabled()],
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.get_deterministic_debug_mode()],
        "precision": [
            torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        ],
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled],
        "mkldnn": [torch.backends.mkldnn.enabled],
        "attention": [torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()],
        "cuda": torch.cuda.is_initialized(),
        "random": [torch.get_rng_state().sum().item(), hash(random.getstate()), int(numpy.random.get_state()[1].sum())],
        "numpy": [str(numpy.geterr()), str(numpy.get_printoptions())],
        "warnings": len([each for each in warnings.filters if "heatv2x" in str(each)]),
        "logging": [logging.getLogger().level, len(logging.getLogger().handlers), logging.getLogger("heatv2x").level],
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "hooks": [str(sys.excepthook), str(sys.unraisablehook), str(threading.excepthook)],
        "locale": locale.setlocale(locale.LC_ALL),
        "path": [*sys.path, os.getcwd(), os.umask(0o022)],
        "start": multiprocessing.get_start_method(allow_none=True),
        "limits": [resource.getrlimit(x) for x in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_STACK)],
        "recursion": sys.getrecursionlimit(),
        "pictures": [PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES],
        "matplotlib": dict(matplotlib.rcParams.items()),
    }

before = json.dumps(state(), default=str)
import heatv2x
imported = []
for module in pkgutil.walk_packages(heatv2x.__path__, "heatv2x."):
    if not module.name.endswith("__main__"):
        try:
            __import__(module.name)
        except ModuleNotFoundError as error:
            assert not error.name.startswith("heatv2x"), error  # an extra that is not installed
            continue
        imported.append(module.name)
after = json.dumps(state(), default=str)
print(json.dumps({"before": json.loads(before), "after": json.loads(after), "imported": imported}))
"""


def python(code: str, **environment: str) -> str:
    """What a new process prints, without the settings of this one."""
    ours = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", host.SWITCH)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**ours, **environment}, capture_output=True, text=True, check=True).stdout


def pages(start: str, **environment: str) -> int:
    """Pages that maps of a later frame touch for the first time."""
    return int(python(PAGES_TOUCHED.format(start=start), **environment))


class TestImport:
    def test_of_every_module_changes_nothing(self) -> None:
        found = json.loads(python(STATE))
        assert {"heatv2x.cli.main", "heatv2x.model.deploy", "heatv2x.cli.demo", "heatv2x.model.collaboration"} <= set(
            found["imported"]
        )
        assert found["before"] == found["after"]

    @NEEDS_GLIBC
    def test_leaves_the_allocator_alone(self) -> None:
        assert pages("import heatv2x, heatv2x.cli.main, heatv2x.model.deploy") > FETCHED_EACH_TIME

    def test_is_quick(self) -> None:
        """Nothing that takes time is imported by the package itself."""
        heavy = "{'torch', 'numpy', 'pydantic', 'yaml', 'rich', 'typer', 'matplotlib', 'PIL', 'heatv2x.cli.main'}"
        assert python(f"import sys, heatv2x; print({heavy} & set(sys.modules))") == "set()\n"


COMMAND = (
    "import os, sys, heatv2x.cli.main as c\nsys.argv = ['heatv2x', '--help']\ntry: c.main()\nexcept SystemExit: pass\n"
)
STARTS = {
    "asked": "from heatv2x.core.host import keep_freed_memory as f; f()",
    "optimised": "import tests.scene_factory as s, heatv2x.model.deploy as d; d.optimised(s.small_model('maximum'))",
    "command": COMMAND,
}


@NEEDS_GLIBC
@pytest.mark.parametrize("start", STARTS)
def test_maps_of_the_next_frame_touch_no_fresh_pages(start: str) -> None:
    assert int(python(PAGES_TOUCHED.format(start=STARTS[start])).splitlines()[-1]) < 200


@NEEDS_GLIBC
def test_it_can_be_switched_off() -> None:
    assert pages("import heatv2x.core.host as m; m.set_up_process()", **{host.SWITCH: "0"}) > FETCHED_EACH_TIME


def test_the_command_line_lets_idle_threads_sleep_unless_told_otherwise() -> None:
    code = COMMAND + "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert python(code).splitlines()[-1] == "PASSIVE False"
    assert python(code, OMP_WAIT_POLICY="ACTIVE").splitlines()[-1] == "ACTIVE False"


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(host.SWITCH, raising=False)
    monkeypatch.setattr(host.ctypes, "CDLL", lambda _: object())
    assert host.keep_freed_memory() is False
