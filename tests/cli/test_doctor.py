"""The doctor finds what is wrong, survives what is broken, and always says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heatv2x.cli import doctor
from heatv2x.cli.doctor import Finding


def fake_torch(cuda_build: str | None, gpu: bool, threads: int = 1) -> Any:
    """As much of torch as the doctor looks at."""
    properties = SimpleNamespace(total_memory=8 * doctor.GIB)
    cuda = SimpleNamespace(
        is_available=lambda: gpu,
        get_device_properties=lambda _: properties,
        get_device_name=lambda _: "Some GPU",
        is_bf16_supported=lambda: True,
    )
    version = SimpleNamespace(cuda=cuda_build)
    return SimpleNamespace(__version__="2.13.0", version=version, cuda=cuda, get_num_threads=lambda: threads)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    """What the doctor finds on the machine that runs the tests."""
    return {finding.name: finding for finding in doctor.examine(tmp_path_factory.mktemp("working"))}


def test_this_machine_can_run_heatv2x(findings: dict[str, Finding]) -> None:
    failed = [finding for finding in findings.values() if finding.state == "fail"]
    assert not failed
    for name in ("Python", "torch import", "numpy", "embreex", "ray casting", "device", "OMP_WAIT_POLICY"):
        assert findings[name].state in ("ok", "warn")


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    doctor.examine(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_what_is_wrong_comes_with_a_fix() -> None:
    broken = ImportError("no torch here")
    for finding in (
        doctor.examine_python((3, 10, 4)),
        doctor.examine_torch(broken),
        doctor.examine_device(broken),
        doctor.examine_threads(broken),
        doctor.examine_dependency("surely-not-a-package>=1.0"),
        doctor.examine_dependency("numpy>=99.0"),
        doctor.examine_disk(Path("/surely/not/a/folder")),
    ):
        assert finding.state == "fail"
        assert finding.fix
    assert "no torch here" in doctor.examine_torch(broken).detail


@pytest.mark.parametrize(
    ("cuda_build", "gpu", "state", "words"),
    [
        ("13.0", True, "ok", "Some GPU, 8 GiB"),
        ("13.0", False, "warn", "no GPU can be used"),
        (None, False, "ok", "CPU"),
    ],
)
def test_device(monkeypatch: pytest.MonkeyPatch, cuda_build: str | None, gpu: bool, state: str, words: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    finding = doctor.examine_device(fake_torch(cuda_build, gpu))
    assert finding.state == state
    assert words in finding.detail


def test_a_gpu_that_is_not_used_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = doctor.examine_device(fake_torch(None, gpu=False))
    assert finding.state == "warn"
    assert "HEATV2X_ALLOW_CUDA=1" in finding.fix


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_cores", lambda: 2)
    assert doctor.examine_threads(fake_torch(None, gpu=False, threads=8)).state == "warn"
    assert doctor.examine_threads(fake_torch(None, gpu=False, threads=2)).state == "ok"


@pytest.mark.parametrize(
    ("policy", "state"), [("PASSIVE", "ok"), ("passive", "ok"), ("ACTIVE", "warn"), (None, "warn")]
)
def test_wait_policy(policy: str | None, state: str) -> None:
    assert doctor.examine_wait_policy(policy).state == state


@pytest.mark.parametrize(("gib", "state"), [(16.0, "ok"), (1.5, "warn"), (None, "info")])
def test_memory(gib: float | None, state: str) -> None:
    assert doctor.examine_memory(gib).state == state


@pytest.mark.parametrize(("free_gib", "state"), [(50, "ok"), (3, "warn"), (0.2, "fail")])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_gib: float, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_gib * doctor.GIB))
    assert doctor.examine_disk(tmp_path).state == state


@pytest.mark.parametrize(("flags", "state"), [({"avx512_bf16"}, "ok"), ({"sse2"}, "info"), (None, "info")])
def test_bf16(monkeypatch: pytest.MonkeyPatch, flags: set[str] | None, state: str) -> None:
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: flags)
    assert doctor.examine_bf16(fake_torch(None, gpu=False)).state == state


def test_a_torchvision_that_does_not_fit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "probe", lambda code: "RuntimeError: operator torchvision::nms does not exist")
    finding = doctor.examine_torchvision(fake_torch(None, gpu=False))
    assert finding.state == "fail"
    assert "nms" in finding.detail and "uninstall" in finding.fix


def test_an_optional_package_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    for extra in doctor.OPTIONAL:
        finding = doctor.examine_optional(*extra)
        assert finding.state == "info"
        assert finding.fix.startswith("pip install ")
    assert doctor.examine_optional("x", "x-package", "test", "tests").fix == "pip install 'heatv2x[test]'"
    assert doctor.examine_optional("x", "x-package", "no such extra", "nothing").fix == "pip install x-package"


def test_probe_reports_the_end_of_a_process() -> None:
    assert doctor.probe("pass") == ""
    assert doctor.probe("raise ValueError('it broke')") == "ValueError: it broke"
    assert "signal 6" in doctor.probe("import os; os.abort()")


def test_ray_casting_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RAY_CAST", "import surely_not_a_module")
    finding = doctor.examine_ray_casting()
    assert finding.state == "fail"
    assert "surely_not_a_module" in finding.detail
