"""The YAML reader: the same data as PyYAML for plain files, and no way to blow up or to run anything."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from heatv2x.errors import DataError
from heatv2x.formats import tagged_yaml
from heatv2x.formats.tagged_yaml import load_yaml
from tests.formats.opv2v_tree import agent_yaml

SOURCE = Path("train/000068.yaml")


def test_a_frame_reads_as_with_pyyaml() -> None:
    content = yaml.safe_dump(agent_yaml(641)).encode()
    assert load_yaml(content, SOURCE) == yaml.safe_load(content)


def test_block_flow_quotes_exponents_null_and_anchors() -> None:
    content = b"a: &p [1, -2.5, 1e-3, 1.0e+20]\nb: *p\nc: {d: ~, 'e': \"1\", f: null}\n-7:\n- x\n- {}\n"
    assert load_yaml(content, SOURCE) == {
        "a": [1, -2.5, 0.001, 1e20],
        "b": [1, -2.5, 0.001, 1e20],
        "c": {"d": None, "e": "1", "f": None},
        -7: ["x", {}],
    }


def test_the_tuple_tag_of_real_files_becomes_a_list() -> None:
    content = b"vehicles:\n  7:\n    observations: !!python/tuple\n    - 1\n    - !!python/tuple [2, 3]\n"
    assert load_yaml(content, SOURCE) == {"vehicles": {7: {"observations": [1, [2, 3]]}}}


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch RAN']",
        "!!python/object/new:pathlib.Path [RAN]",
        "!!python/name:os.system",
        "!!python/tuple 3",
        "!!python/tuple {a: 1}",
        "!!binary aGk=",
        "!mine 3",
        "!!float '1'",
    ],
)
def test_any_other_tag_is_refused_by_key_and_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"000068\.yaml, key 'a\.b': line 3 carries the tag '") as caught:
        load_yaml(f"x: 1\na:\n  b: {text}\n".encode(), SOURCE)
    assert caught.value.key == "a.b" and not (tmp_path / "RAN").exists()


BAD = {
    "recursive alias": (b"a: &a [1, *a]", "a.1", "refers to itself or to nothing"),
    "unknown alias": (b"a: *nothing", "a", "refers to itself or to nothing"),
    "deep lists": (b"a: " + b"[" * 100_000, None, "nested more than|maximum nesting depth"),
    "deep mappings": (b"? " * 100_000, None, "nested more than|not valid YAML|itself a list"),
    "deep blocks": (b"- " * 50_000 + b"1", None, "nested more than"),
    "key twice": (b"a: 1\nb: {c: 1, c: 2}", "b.c", "appears twice"),
    "id twice": (b"a:\n  7: 1\n  7: 2\n", "a.7", "appears twice"),
    "list as key": (b"? [1, 2]\n: 3", None, "itself a list"),
    "syntax": (b"a: [1, 2\nb: 3", "a.2", "not valid YAML"),
    "tab": (b"a:\n\t- 1\n", "a", "not valid YAML"),
    "binary": (bytes(range(256)), None, "not valid YAML"),
    "zeros": (b"\0" * 100, None, "not valid YAML"),
    "empty": (b"", None, "is empty"),
    "a list": (b"- 1\n- 2\n", None, "is not a mapping of keys"),
    "two documents": (b"a: 1\n---\nb: 2\n", None, "is not a mapping of keys"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error(case: str) -> None:
    content, key, problem = BAD[case]
    with pytest.raises(DataError, match=problem) as caught:
        load_yaml(content, SOURCE)
    assert caught.value.path == SOURCE
    assert key is None or caught.value.key == key


def test_an_alias_bomb_is_counted_not_written_out() -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(DataError, match="once its aliases are written out") as caught:
        load_yaml("\n".join(["a0: &a0 [1, 1, 1]", *levels]).encode(), SOURCE)
    assert caught.value.key == "a6.4"


def test_a_huge_file_is_refused_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tagged_yaml, "MAX_BYTES", 10_000_000)
    with pytest.raises(DataError, match="larger than 10 MB"):
        load_yaml(b"#" * 10_000_001, SOURCE)


@pytest.mark.parametrize("parser", ["CSafeLoader", "SafeLoader"])
def test_random_damage_never_raises_anything_else(parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tagged_yaml, "_PARSER", getattr(yaml, parser))
    original, rng = yaml.safe_dump(agent_yaml(641)).encode()[:1500], np.random.default_rng(0)
    for _ in range(60 if parser == "CSafeLoader" else 10):
        damaged = bytearray(original)
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(DataError):
            load_yaml(bytes(damaged), SOURCE)
