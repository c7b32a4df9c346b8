"""Wrong values of every kind of setting end in a plain sentence that names the key and says what to write."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest

from heatv2x.cli.verbs import VERBS
from heatv2x.core.config import Config, build, parse_overrides
from heatv2x.core.config_errors import as_typed, expected
from heatv2x.core.config_reference import settings_of
from heatv2x.errors import ConfigError, HeatError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(Config):
    channels: int = pydantic.Field(8, gt=0)
    sizes: tuple[int, ...] = ()

    @pydantic.model_validator(mode="after")
    def _even(self) -> Inner:
        if self.channels % 2:
            raise ValueError(f"channels={self.channels} is odd")
        return self


class Everything(Config):
    whole: int = pydantic.Field(1, ge=0, le=9)
    number: float = 1.0
    flag: bool = True
    text: str = "a"
    path: Path = Path("a")
    choice: Literal["true", "hidden", "2"] = "true"
    colour: Colour = Colour.RED
    pair: tuple[float, float] = (1.0, 2.0)
    names: tuple[str, ...] = ()
    counts: tuple[pydantic.PositiveInt, ...] = pydantic.Field((1,), min_length=1)
    spots: list[tuple[float, float]] = pydantic.Field(default_factory=list)
    maybe: Annotated[float, pydantic.Field(gt=0)] | None = None
    one_or_more: float | tuple[float, ...] = ()
    inner: Inner = Inner()
    either: str | Inner | None = None
    by_name: dict[str, Inner] = pydantic.Field(default_factory=lambda: {"lidar64": Inner()})


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("whole=few", "'whole' must be a whole number of at least 0 and of at most 9; got 'few'"),
        ("whole=1.5", "'whole' must be a whole number of at least 0 and of at most 9; got 1.5"),
        ("whole=12", "'whole' must be a whole number of at least 0 and of at most 9; got 12"),
        ("number=", "'number' must be a number; got null"),
        ("number=.inf", "'number' must be a finite number; got inf"),
        ("number=.nan", "'number' must be a finite number; got nan"),
        ("flag=perhaps", "'flag' must be true or false; got 'perhaps'"),
        ("text=5", "'text' must be text; got 5. Quote it twice to have it read as text: text='\"5\"'"),
        ("path=2026-01-01", "'path' must be a path; got 2026-01-01. Quote it twice"),
        ("path=[a]", "'path' must be a path; got [a]"),
        ("choice=maybe", "'choice' must be one of true, hidden, 2; got 'maybe'"),
        ("colour=green", "'colour' must be one of red, blue; got 'green'"),
        ("pair=[1]", "'pair' must be a list of 2 numbers; got [1]"),
        ("pair=[1,2,3]", "'pair' must be a list of 2 numbers; got [1, 2, 3]"),
        ("names=a,b", "'names' must be a list of names; got 'a,b'. Write names=[a,b]"),
        ("names=a", "'names' must be a list of names; got 'a'. Write names=[a]"),
        ("counts=3", "'counts' must be a list of whole numbers above 0 (at least 1 of them); got 3. Write counts=[3]"),
        ("counts=[]", "'counts' must be a list of whole numbers above 0 (at least 1 of them); got []"),
        ("counts=[1,0]", "'counts' must be a list of whole numbers above 0 (at least 1 of them); got [1, 0]"),
        ("spots=[[1]]", "'spots' must be a list of lists, each a list of 2 numbers; got [[1]]"),
        ("maybe=-1", "'maybe' must be a number above 0 or null; got -1"),
        ("one_or_more=[0.1,x]", "'one_or_more' must be a number or a list of numbers; got [0.1, x]"),
        ("inner=4", "'inner' must be settings in parts (channels, sizes); got 4. Set it in parts: inner.channels=..."),
        ("inner.channels=3", "inner: channels=3 is odd"),
        ("inner.sizes=1,2", "'inner.sizes' must be a list of whole numbers; got '1,2'. Write inner.sizes=[1,2]"),
        ("inner={1: 2}", "unknown key 'inner.1'"),
        ("either=[4]", "'either' must be text or settings in parts (channels, sizes) or null; got [4]"),
        ("either.channels=0", "'either.channels' must be a whole number above 0; got 0"),
        ("by_name=4", "'by_name' must be settings by name; got 4"),
        ("by_name.camera=4", "'by_name.camera' must be settings in parts (channels, sizes); got 4"),
        ("by_name.camera.chanels=4", "unknown key 'by_name.camera.chanels'; did you mean 'channels'?"),
    ],
)
def test_a_wrong_value_says_what_it_must_be(word: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Everything, parse_overrides([word]))
    assert str(caught.value).startswith(f"command line: {says}"), caught.value
    assert "\n" not in str(caught.value), "one fault, one line"


def test_a_choice_that_yaml_takes_for_something_else_is_still_a_choice() -> None:
    assert build(Everything, parse_overrides(["choice=true"])).choice == "true"
    assert build(Everything, parse_overrides(["choice=2"])).choice == "2"


def test_unknown_keys_list_the_known_ones_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build(Everything, parse_overrides(["wole=1", "inner.chanels=2", "nmber=3", "flag=4"]))
    second, first, third = str(caught.value).splitlines()
    assert "'nmber' (did you mean 'number'?)" in first and "'wole' (did you mean 'whole'?)" in first
    assert str(caught.value).count("Known:") == 2 and "inner.chanels" in second and "'flag' must be" in third


def test_every_line_says_where_its_setting_came_from() -> None:
    with pytest.raises(ConfigError) as caught:
        build(
            Everything,
            {"whole": "x", "flag": "perhaps"},
            lambda key: "recipe.yaml" if key == ("flag",) else "command line",
        )
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["command line", "recipe.yaml"]


def test_a_list_that_the_shell_cut() -> None:
    with pytest.raises(ConfigError, match=r"without spaces, packs=\[a,b\]"):
        parse_overrides(["packs=[a,", "b]"])


def test_words_for_types_and_values() -> None:
    assert expected(int | None) == "a whole number or null" and expected(tuple[Path, ...]) == "a list of paths"
    assert as_typed({"a": (True, None, 1.5)}) == "{a: [true, null, 1.5]}"


def wrong_values() -> list[str]:
    return ["x", "-1", "1.5", "true", "null", "[1,x]", "[[1]]", "{a: 1}", "2026-01-01", ".nan", "[]", "''", "1e400"]


def every_key() -> Iterator[tuple[str, str]]:
    for verb in VERBS:
        for key, _, _ in settings_of(VERBS[verb].config_class):
            yield verb, key.replace("NAME", "lidar64").replace("KEY", "sensor")


def test_no_setting_of_any_verb_answers_in_pydantics_words() -> None:
    spoken: dict[str, str] = {}
    for verb, key in every_key():
        config: Any = VERBS[verb].config_class
        for value in wrong_values():
            try:
                build(config, parse_overrides([f"{key}={value}"]))
            except HeatError as error:
                spoken[f"{verb} {key}={value}"] = str(error)
    foreign = ("Input should", "validation error", "pydantic", "type=", "Value error", "valid tuple", "NoneType")
    assert len(spoken) > 1000
    assert not {where: text for where, text in spoken.items() if any(word in text for word in foreign)}
