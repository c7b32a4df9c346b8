"""Settings: read from `key=value`, checked, and refused with the nearest known name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heatv2x.core.config import Config, build, merge, nearest, parse_overrides, read_recipe
from heatv2x.errors import ConfigError, DataError, HeatError
from heatv2x.training.jobs import BaseConfig, EncoderConfig, LocalConfig


class Inner(Config):
    channels: int = 8
    kernel: int = 3


class Settings(Config):
    steps: int = pydantic.Field(10, gt=0)
    lr: float = 1e-3
    name: str = "base"
    sizes: tuple[int, ...] = ()
    inner: Inner = Inner()
    maybe: Inner | None = None
    either: str | Inner = "named"
    by_name: dict[str, Inner] = pydantic.Field(default_factory=dict)
    out: Path = Path("runs")


def built(*words: str) -> Settings:
    return build(Settings, parse_overrides(words))


class TestOverrides:
    @pytest.mark.parametrize(
        ("words", "wanted"),
        [
            (["steps=4"], {"steps": 4}),
            (["lr=1e-3"], {"lr": 1e-3}),
            (["lr=.5"], {"lr": 0.5}),
            (["lr=2"], {"lr": 2.0}),
            (["name=lidar16"], {"name": "lidar16"}),
            (["name=a=b"], {"name": "a=b"}),
            (["name=''"], {"name": ""}),
            (["sizes=[1, 2,3]"], {"sizes": (1, 2, 3)}),
            (["inner.kernel=5"], {"inner": Inner(kernel=5)}),
            (["inner.kernel=5", "inner.channels=2"], {"inner": Inner(kernel=5, channels=2)}),
            (["inner={kernel: 5}"], {"inner": Inner(kernel=5)}),
            (["maybe.kernel=7"], {"maybe": Inner(kernel=7)}),
            (["maybe=null"], {"maybe": None}),
            (["maybe="], {"maybe": None}),
            (["by_name.lidar64.kernel=1"], {"by_name": {"lidar64": Inner(kernel=1)}}),
            (["out=some/where/2024-01"], {"out": Path("some/where/2024-01")}),
        ],
    )
    def test_values(self, words: list[str], wanted: dict[str, Any]) -> None:
        config = built(*words)
        assert {key: getattr(config, key) for key in wanted} == wanted

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["steps"], "'steps' is not a setting: write key=value"),
            (["=4"], "write key=value"),
            (["--steps=4"], "unknown key '--steps'"),
            (["steps=4", "steps=5"], "'steps' is set twice"),
            (["inner.kernel=4", "inner.kernel=5"], "'inner.kernel' is set twice"),
            (["inner=4", "inner.kernel=5"], "inside 'inner', which already has a plain value"),
            (["inner.kernel=5", "inner=4"], "set twice"),
            (["sizes=[1, 2"], "the value of 'sizes' cannot be read"),
            (["name=!!python/object:os.system x"], "the value of 'name' cannot be read"),
            (["out=2024-99-99"], "'out'"),
            (["name=!unknown x"], "'name'"),
        ],
    )
    def test_mistakes(self, words: list[str], says: str) -> None:
        with pytest.raises(ConfigError) as caught:
            built(*words)
        assert says in str(caught.value)

    @settings(max_examples=100, deadline=None)
    @given(words=st.lists(st.one_of(st.text(max_size=12), st.from_regex(r"[a-c](\.[a-c])?=.{0,10}", fullmatch=True))))
    def test_nothing_but_a_heat_error_comes_out(self, words: list[str]) -> None:
        with contextlib.suppress(HeatError):
            build(Settings, parse_overrides(words))


class TestBuild:
    @pytest.mark.parametrize(
        ("words", "hints"),
        [
            (["stepz=4"], ["'stepz'", "did you mean 'steps'?", "lr", "command line"]),
            (["inner.chanels=4"], ["'inner.chanels'", "did you mean 'channels'?"]),
            (["maybe.kernal=4"], ["'maybe.kernal'", "did you mean 'kernel'?"]),
            (["by_name.lidar64.kernal=4"], ["'by_name.lidar64.kernal'", "did you mean 'kernel'?"]),
            (["steps=many"], ["steps", "'many'"]),
            (["steps=0"], ["'steps' must be a whole number above 0; got 0"]),
            (["inner=4"], ["inner", "got 4"]),
        ],
    )
    def test_complaints_name_key_place_and_way_out(self, words: list[str], hints: list[str]) -> None:
        with pytest.raises(ConfigError) as caught:
            built(*words)
        assert not [hint for hint in hints if hint not in str(caught.value)], str(caught.value)

    def test_all_complaints_at_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            built("stepz=4", "inner.kernel=x", "lr=y")
        assert len(str(caught.value).splitlines()) == 3

    def test_a_required_setting_is_asked_for(self) -> None:
        with pytest.raises(ConfigError, match=r"'data' is required; write data=\.\.\."):
            build(BaseConfig, {})

    def test_real_configs_help_inside_optional_parts(self) -> None:
        given_settings = parse_overrides(["data=d", "base=b", "agents=[a]", "newcomer=n", "before.prt=hetero_aware"])
        with pytest.raises(ConfigError, match="did you mean 'part'"):
            build(LocalConfig, given_settings)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["either.chanels=4"], "command line: unknown key 'either.chanels'; did you mean 'channels'?"),
            (["either.channels=many"], "command line: 'either.channels' must be a whole number; got 'many'"),
            (["Steps=4"], "command line: unknown key 'Steps'"),
        ],
    )
    def test_a_setting_in_parts_or_as_a_name_is_explained_in_parts(self, words: list[str], says: str) -> None:
        with pytest.raises(ConfigError) as caught:
            built(*words)
        assert str(caught.value).startswith(says) and "\n" not in str(caught.value)

    def test_what_a_nested_default_says_stays_unless_it_is_named(self) -> None:
        words = ["data=d", "base=b", "agents=[a]", "newcomer=n", "after.part=hetero_aware", "scenes.thin=0"]
        config = build(LocalConfig, parse_overrides(words))
        assert config.after is not None and config.after.settings == {"kernel": 1}
        assert config.before == LocalConfig.model_fields["before"].default and config.scenes.thin == 0
        encoder = build(EncoderConfig, parse_overrides(["data=d", "name=n", "agent.part=a", "scenes.thin=0"]))
        assert (encoder.scenes.senders, encoder.scenes.alone, encoder.scenes.thin) == (0, 1.0, 0.0)

    def test_another_part_does_not_inherit_settings(self) -> None:
        words = ["data=d", "base=b", "agents=[a]", "newcomer=n", "after.part=multi_cognitive", "before=null"]
        config = build(LocalConfig, parse_overrides(words))
        assert config.after is not None and config.after.settings == {} and config.before is None

    def test_configs_are_frozen(self) -> None:
        with pytest.raises(pydantic.ValidationError):
            built().steps = 5  # type: ignore[misc]


def test_nearest_names_one_and_all() -> None:
    assert nearest("lidar46", ["lidar64", "camera"]) == "did you mean 'lidar64'? Known: camera, lidar64"
    assert nearest("x", []) == "there are none to choose from"


def test_merge_goes_key_by_key() -> None:
    below = {"a": {"x": 1, "y": 2}, "b": 1, "c": {"x": 1}}
    assert merge(below, {"a": {"y": 3}, "c": 5, "d": {"z": 1}}) == {
        "a": {"x": 1, "y": 3},
        "b": 1,
        "c": 5,
        "d": {"z": 1},
    }
    assert below == {"a": {"x": 1, "y": 2}, "b": 1, "c": {"x": 1}}


class TestRecipe:
    def test_is_a_mapping(self, tmp_path: Path) -> None:
        path = tmp_path / "r.yaml"
        path.write_text("# a recipe\nsteps: 4\ninner: {kernel: 5}\n")
        assert build(Settings, read_recipe(path), "r.yaml") == built("steps=4", "inner.kernel=5")

    @pytest.mark.parametrize(
        "content", ["- 1\n- 2", "", "steps: [1", "a: !!python/object/apply:os.getcwd []", "just text"]
    )
    def test_is_nothing_else(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "r.yaml"
        path.write_text(content)
        with pytest.raises(DataError, match=r"r\.yaml"):
            read_recipe(path)

    def test_may_be_missing_or_not_text(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="cannot be read"):
            read_recipe(tmp_path / "none.yaml")
        with pytest.raises(DataError, match="cannot be read"):
            read_recipe(tmp_path)
        (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match=r"r\.yaml"):
            read_recipe(tmp_path / "r.yaml")
