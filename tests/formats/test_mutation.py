"""Damaged files of every format: a normal read or one clear error (`python -m tests.formats mutate` runs thousands)."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from heatv2x.core.files import read_bytes
from heatv2x.errors import DataError
from heatv2x.formats.tagged_yaml import load_yaml
from tests.formats import mutate

FEW = 28
BY_NAME = {kind.name: kind for kind in mutate.FORMATS}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where foreign code would leave its trap


@pytest.mark.parametrize("name", BY_NAME)
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    endings = mutate.run_many(BY_NAME[name], range(FEW), tmp_path / name)
    assert not [ending for ending in endings if ending.is_defect]
    if not BY_NAME[name].never_fails:
        assert any(ending.what == "refused" for ending in endings)


@pytest.mark.parametrize("name", [kind.name for kind in mutate.FORMATS if not kind.never_fails])
def test_a_good_file_is_read(name: str, tmp_path: Path) -> None:
    kind = BY_NAME[name]
    kind.folder(tmp_path)
    path = tmp_path / kind.filename
    for original in kind.originals():
        path.write_bytes(original)
        kind.read(path)


def test_a_reader_with_a_defect_is_found(tmp_path: Path) -> None:
    def fragile(path: Path) -> object:
        return path.read_bytes().decode("ascii")

    kind = mutate.Format("fragile", "a.txt", lambda: (b"good",), fragile, lambda: (b"\xff",))
    number = len(mutate.DISGUISES)
    assert mutate.run_case(kind, number, tmp_path).what == "UnicodeDecodeError"
    assert mutate.run_case(kind, 0, tmp_path).what == "IsADirectoryError"


def test_a_hang_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_: Path) -> object:
        while True:
            pass

    monkeypatch.setattr(mutate, "SECONDS", 0.05)
    kind = mutate.Format("endless", "a.txt", lambda: (b"good",), endless, lambda: (b"",))
    assert mutate.run_case(kind, len(mutate.DISGUISES), tmp_path).what == "TimeoutError"


def test_a_reader_that_kills_the_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        returncode, stderr = -11, "segmentation fault"
        stdout = '["pcd/0", "refused", ""]\n'

    answers = iter([Done, type("Rest", (), {"returncode": 0, "stderr": "", "stdout": '["pcd/2", "read", ""]\n'})])
    monkeypatch.setattr(mutate.subprocess, "run", lambda *_, **__: next(answers))
    endings = mutate.run_in_process(BY_NAME["pcd"], range(3))
    assert [(ending.case, ending.is_defect) for ending in endings] == [
        ("pcd/0", False),
        ("pcd/1", True),
        ("pcd/2", False),
    ]


@given(st.binary(max_size=300))
@example(b"\xff\xfe\0a")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_yaml(content: bytes) -> None:
    try:
        assert isinstance(load_yaml(content, Path("x.yaml")), dict)
    except DataError as error:
        assert error.path == Path("x.yaml")


WORDS = st.text("abcdefg", max_size=5).map("key_{}".format)  # no words that YAML takes for truth values or numbers
PLAIN = st.recursive(
    st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False) | WORDS | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(WORDS, PLAIN, max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_data_survives_yaml(data: dict[str, object]) -> None:
    assert load_yaml(yaml.safe_dump(data).encode(), Path("x.yaml")) == data


@pytest.mark.parametrize("disguise", mutate.DISGUISES)
def test_what_is_no_file_is_refused_at_once(disguise: object, tmp_path: Path) -> None:
    assert callable(disguise)
    path = tmp_path / "000068.pcd"
    disguise(path)
    if disguise is mutate.DISGUISES[-1] and path.read_bytes():
        pytest.skip("root may read everything")
    with pytest.raises(DataError, match=r"000068\.pcd: (cannot be read|is missing|has 1,099,511,627,776 bytes)"):
        read_bytes(path, 1000)
