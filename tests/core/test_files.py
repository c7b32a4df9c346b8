"""Files are written as a whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from heatv2x.core import files
from heatv2x.core.files import atomic_path, read_bytes, read_json, write_bytes, write_json, write_text
from heatv2x.errors import DataError, PackError
from heatv2x.formats.arrays import read_npy
from heatv2x.formats.image import read_rgb
from heatv2x.formats.opv2v_yaml import read_agent_yaml
from heatv2x.formats.pcd import read_pcd
from heatv2x.interop.heal.checkpoint import read_weights
from heatv2x.model.packs import Pack, read_pack, write_pack
from heatv2x.training.checkpoint import save_checkpoint


@contextmanager
def full_disk(limit: int = 4096) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: the system's own error, not a pretended one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "record.json"
    path.write_text("old")
    return path


def only(path: Path) -> bool:
    """Nothing else lies in the file's folder."""
    return [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_new_content_replaces_the_old(old: Path) -> None:
    write_text(old, "new ü")
    assert old.read_text(encoding="utf-8") == "new ü" and only(old)
    write_bytes(old, b"\x00\x01")
    assert old.read_bytes() == b"\x00\x01" and only(old)
    assert stat.S_IMODE(old.stat().st_mode) == 0o644


def test_folders_are_made(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b" / "c.json", {"x": [1, 2.5, None]})
    assert read_json(tmp_path / "a" / "b" / "c.json") == {"x": [1, 2.5, None]}


def test_the_temporary_file_lies_beside_it_and_keeps_the_suffix(old: Path) -> None:
    with atomic_path(old) as temporary:
        assert temporary.parent == old.parent and temporary.suffix == ".json" and temporary != old
        temporary.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), MemoryError()])
def test_an_error_inside_leaves_the_old_file_and_nothing_else(old: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), atomic_path(old) as temporary:
        temporary.write_text("half of")
        raise error
    assert old.read_text() == "old" and only(old)


def test_a_full_disk_is_a_data_error(old: Path) -> None:
    with full_disk(), pytest.raises(DataError, match="cannot be written") as caught:
        write_bytes(old, bytes(100_000))
    assert str(old) in str(caught.value) and "Way out" in str(caught.value)
    assert old.read_text() == "old" and only(old)


def test_no_space_when_renaming(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", no_space)
    with pytest.raises(DataError, match="No space left"):
        write_text(old, "new")
    assert old.read_text() == "old" and only(old)


def test_a_full_disk_while_a_pack_is_written(tmp_path: Path) -> None:
    pack = Pack("agent", "lidar16", "", {}, {"weight": torch.zeros(100_000)})
    with full_disk(), pytest.raises(DataError, match=r"agent\.safetensors: cannot be written"):
        write_pack(pack, tmp_path / "agent.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    model = torch.nn.Linear(200, 200)
    optimizer = torch.optim.AdamW(model.parameters())
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model, optimizer, {"step": 1})
    before = path.read_bytes()
    with full_disk(), pytest.raises(DataError, match="cannot be written"):
        save_checkpoint(path, model, optimizer, {"step": 2})
    assert path.read_bytes() == before and only(path)


def test_a_folder_that_is_a_file(old: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_text(old / "below.json", "x")


def test_numbers_that_json_does_not_know_are_refused(old: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(old, {"x": float("nan")})
    assert old.read_text() == "old" and only(old)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2", b"\xff\xfe{}", b"{'a': 1}"])
def test_broken_json_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json: is (not valid JSON|empty, not JSON)"):
        read_json(path)


def test_missing_json_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path)


def test_json_is_readable_and_ends_with_a_line(old: Path) -> None:
    write_json(old, {"b": 1, "a": [1]})
    assert old.read_text() == '{\n  "b": 1,\n  "a": [\n    1\n  ]\n}\n'
    assert json.loads(old.read_text()) == {"a": [1], "b": 1}


STAND_INS = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:725358ac\nsize 206144\n",
    "git-annex pointer": b"/annex/objects/SHA256E-s206144--725358ac.pcd\n",
    "web page": b"\n<!DOCTYPE html><html><body>Please sign in</body></html>",
}


@pytest.mark.parametrize("what", STAND_INS)
def test_what_stands_for_a_file_is_called_by_its_name(tmp_path: Path, what: str) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "a.bin": lambda path: read_bytes(path, 10**6),
        "a.json": read_json,
        "a.yaml": read_agent_yaml,
        "a.png": read_rgb,
        "a.pcd": read_pcd,
        "a.npy": read_npy,
        "a.safetensors": read_pack,
        "b.safetensors": read_weights,
        "a.pth": read_weights,
    }
    for name, read in readers.items():
        path = tmp_path / name
        path.write_bytes(STAND_INS[what])
        with pytest.raises(DataError, match=f"is a {what}, not the file itself") as caught:
            read(path)
        assert caught.value.way_out
    path.unlink()
    with pytest.raises(PackError, match="cannot be read"):
        read_weights(path)
