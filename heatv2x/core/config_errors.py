"""What is wrong with settings, in sentences: which key, what it must be, what was given, and how to write it.

pydantic finds the faults. Its own messages speak of Python's types and list every member of a union, so each sentence
here is made from the type that the config declares.
"""

from __future__ import annotations

import datetime
import enum
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from heatv2x.errors import nearest

Source = str | Callable[[Sequence[str]], str]
"""Where settings came from: the same for all, or by the steps of a key."""

_SHOWN = 120
_PLAIN = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), bool: ("true or false", "booleans")}
_NAMED = {str: ("text", "names"), Path: ("a path", "paths"), types.NoneType: ("null", "nulls")}


def complaints(
    config_class: type[pydantic.BaseModel], error: pydantic.ValidationError, given: Any, source: Source
) -> str:
    """One line for each setting that is wrong, in the order in which the config declares them.

    Args:
        config_class: what was to be built.
        error: what pydantic found.
        given: the settings.
        source: where they came from.
    """
    places: dict[tuple[str, ...], _Place] = {}
    unknown: dict[tuple[str, ...], _Place] = {}
    for detail in _chosen(config_class, error, given):
        place = _place(config_class, detail["loc"], given)
        if detail["type"] in ("extra_forbidden", "invalid_key"):
            unknown.setdefault(place.keys[:-1], place).strangers.append(place.keys[-1])
        else:
            places.setdefault(place.keys, place).details.append(detail)
    lines = [_unknown(place, source) for place in unknown.values()]
    lines += [line for place in places.values() for line in _wrong(place, source)]
    return "\n".join(lines)


@dataclass
class _Place:
    """One setting at fault.

    Attributes:
        keys: the steps of its key.
        annotation, metadata: what its config declares; of the config itself for a fault that lies in no single key.
        value: what was given.
        known: the keys beside it, if it is not known itself.
        through: how many steps of pydantic's location belong to it.
        details: what pydantic says of it.
        strangers: unknown keys beside it.
    """

    keys: tuple[str, ...]
    annotation: Any
    metadata: Sequence[Any]
    value: Any
    known: list[str]
    through: int
    details: list[Any] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


def _chosen(config_class: type[pydantic.BaseModel], error: pydantic.ValidationError, given: Any) -> list[Any]:
    """The faults; for settings that were given in parts only those of the parts, without "must be a name" on top."""
    details: list[Any] = error.errors(include_url=False)
    places = [_place(config_class, detail["loc"], given) for detail in details]
    deeper = {place.keys for place in places}
    return [
        detail
        for detail, place in zip(details, places, strict=True)
        if not (isinstance(place.value, Mapping) and any(_below(keys, place.keys) for keys in deeper))
        or detail["type"] in ("value_error", "assertion_error", "missing", "extra_forbidden")
    ]


def _below(keys: tuple[str, ...], above: tuple[str, ...]) -> bool:
    return len(keys) > len(above) and keys[: len(above)] == above


def _place(config_class: type[pydantic.BaseModel], location: Sequence[int | str], given: Any) -> _Place:
    """Follow pydantic's location from config to config, through optional ones, unions and mappings by name."""
    keys: tuple[str, ...] = ()
    found = _Place((), config_class, (), given, [], 0)
    annotation: Any = config_class
    value = given
    for number, step in enumerate(location, start=1):
        options = [option for option in members(annotation) if option is not types.NoneType]
        config = next((option for option in options if is_config(option)), None)
        only = options[0]
        if len(options) > 1:
            if config is None or not re.search(rf"\b{config.__name__}\b", str(step)):
                break  # a member of a union that was tried: the whole union is what was expected
            annotation, found.through = config, number
            continue
        metadata: Sequence[Any] = ()
        if config is not None:
            declared = _field(config, str(step))
            known = [] if declared else keys_of(config)
            annotation, metadata = (declared.annotation, declared.metadata) if declared else (None, ())
        elif typing.get_origin(only) in (dict, Mapping) and isinstance(step, str):
            known, annotation = [], typing.get_args(only)[1]
        else:
            break  # an item of a list: the list is what was expected
        keys = (*keys, str(step))
        value = value.get(step) if isinstance(value, Mapping) else None
        found = _Place(keys, annotation, metadata, value, known, number)
        if known:
            break
    return found


def _unknown(place: _Place, source: Source) -> str:
    """One line for all unknown keys of one place: the known ones are listed once."""
    above = ".".join(place.keys[:-1])
    where = f"{above}." if above else ""
    if len(place.strangers) == 1:
        name = place.strangers[0]
        return f"{_from(source, place.keys)}: unknown key '{where}{name}'; {nearest(name, place.known)}"
    hints = [f"'{where}{name}' ({nearest(name, place.known).partition('?')[0]}?)" for name in place.strangers]
    names = ", ".join(hints if place.known else [f"'{where}{name}'" for name in place.strangers])
    known = f". Known: {', '.join(sorted(place.known))}" if place.known else ""
    return f"{_from(source, place.keys)}: unknown keys {names}{known}"


def _wrong(place: _Place, source: Source) -> list[str]:
    where, key = _from(source, place.keys), ".".join(place.keys)
    told = [detail for detail in place.details if detail["type"] in ("value_error", "assertion_error")]
    if told:  # our own sentence
        texts = dict.fromkeys(str(detail.get("ctx", {}).get("error") or detail["msg"]) for detail in told)
        return [f"{where}: {key}: {text}" if key else f"{where}: {text}" for text in texts]
    if any(detail["type"] == "missing" and len(detail["loc"]) == place.through for detail in place.details):
        return [f"{where}: '{key}' is required; write {key}=..."]
    finite = any(detail["type"] == "finite_number" for detail in place.details)
    wanted = "a finite number" if finite else expected(place.annotation, place.metadata)
    hint = _way_out(key, place.annotation, place.value)
    name = f"'{key}'" if key else "the whole"
    return [f"{where}: {name} must be {wanted}; got {as_typed(place.value, quoted=True)}{hint}"]


def _from(source: Source, keys: Sequence[str]) -> str:
    return source if isinstance(source, str) else source(keys)


def _way_out(key: str, annotation: Any, value: Any) -> str:
    """How to write what was probably meant, where that is a matter of spelling."""
    options = [option for option in members(annotation) if option is not types.NoneType]
    lists = [option for option in options if typing.get_origin(option) in (tuple, list)]
    if lists and isinstance(value, str | int | float) and not isinstance(value, bool):
        return f". Write {key}=[{value}]"
    plain = isinstance(value, bool | int | float | datetime.date)
    if plain and any(option in (str, Path) for option in options):
        text = "..." if isinstance(value, bool) else str(value)
        return f". Quote it twice to have it read as text: {key}='\"{text}\"'"
    configs = [option for option in options if is_config(option)]
    if configs and not isinstance(value, Mapping):
        first = next(iter(keys_of(configs[0])), "KEY")
        return f". Set it in parts: {key}.{first}=..."
    return ""


# --- types in words -------------------------------------------------------------------------------------------------


def expected(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a setting of this type must be: "a whole number above 0", "one of auto, cpu, cuda", "a list of paths".

    Args:
        annotation: the declared type.
        metadata: limits that the field declares beside it; in a union they belong to the first member.
    """
    some = [(option, own) for option, own in _alternatives(annotation) if option is not types.NoneType]
    words: dict[str, None] = {}
    for number, (option, own) in enumerate(some):
        limits = _bounds([*own, *(metadata if number == 0 else ())])
        in_brackets = limits and typing.get_origin(option) in (tuple, list)
        words[_one(option) + (f" ({limits.strip()} of them)" if in_brackets else limits)] = None
    if types.NoneType in members(annotation):
        words["null"] = None
    return " or ".join(words)


def _one(option: Any) -> str:
    """One member of a union, in words."""
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if origin in (tuple, list):
        fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
        words = f"a list of {len(arguments) if fixed else ''} {_many(arguments[0]) if arguments else 'values'}"
    elif origin is typing.Literal:
        words = ("one of " if len(arguments) > 1 else "") + ", ".join(map(as_typed, arguments))
    elif isinstance(option, type) and issubclass(option, enum.Enum):
        words = f"one of {', '.join(str(member.value) for member in option)}"
    elif origin in (dict, Mapping) or option is dict:
        words = "settings by name"
    elif is_config(option):
        keys = keys_of(option)
        words = f"settings in parts ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
    else:
        words = (_PLAIN | _NAMED).get(option, (getattr(option, "__name__", str(option)), ""))[0]
    return " ".join(words.split())


def _many(annotation: Any) -> str:
    (option, limits), *others = _alternatives(annotation)
    if not others and option in _PLAIN | _NAMED:
        return (_PLAIN | _NAMED)[option][1] + _bounds(limits)
    if not others and typing.get_origin(option) in (tuple, list):
        return f"lists, each {_one(option)}"
    return f"values, each {expected(annotation)}"


def _bounds(metadata: Iterable[Any]) -> str:
    """ " above 0 and up to 1" of the limits that a field declares."""
    words = []
    for limit in _flat(metadata):
        for name, text in (
            ("gt", "above {}"),
            ("ge", "of at least {}"),
            ("lt", "below {}"),
            ("le", "of at most {}"),
            ("multiple_of", "divisible by {}"),
            ("min_length", "at least {}"),
            ("max_length", "at most {}"),
        ):
            if getattr(limit, name, None) is not None:
                words.append(text.format(as_typed(getattr(limit, name))))
    return f" {' and '.join(words)}" if words else ""


def _flat(metadata: Iterable[Any]) -> Iterable[Any]:
    for limit in metadata:
        if isinstance(limit, pydantic.fields.FieldInfo):
            yield from limit.metadata
        elif isinstance(limit, Iterable):  # limits that stand in one object
            yield from limit
        else:
            yield limit


def members(annotation: Any) -> list[Any]:
    """The members of a union (one for any other type), without the annotations around them."""
    return [option for option, _ in _alternatives(annotation)]


def _alternatives(annotation: Any, metadata: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """The members of a union (one for any other type), each with the limits it is annotated with."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *limits = typing.get_args(annotation)
        return _alternatives(inner, (*metadata, *limits))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [found for each in typing.get_args(annotation) for found in _alternatives(each, metadata)]
    return [(annotation, metadata)]


def is_config(option: Any) -> bool:
    """Whether a type is a config, whose settings are given in parts."""
    return isinstance(option, type) and issubclass(option, pydantic.BaseModel)


def _field(config_class: type[pydantic.BaseModel], key: str) -> pydantic.fields.FieldInfo | None:
    return next((about for name, about in config_class.model_fields.items() if (about.alias or name) == key), None)


def chosen(config_class: type[pydantic.BaseModel], key: Any, value: Any) -> Any:
    """The choice of a key that is spelt like a value which YAML takes for a boolean or a number; else the value."""
    declared = _field(config_class, str(key))
    if declared is None:
        return value
    literals = [each for each in members(declared.annotation) if typing.get_origin(each) is typing.Literal]
    choices = [choice for each in literals for choice in typing.get_args(each)]
    return as_typed(value) if value not in choices and as_typed(value) in choices else value


def keys_of(config_class: type[pydantic.BaseModel]) -> list[str]:
    """The keys that a config knows, as a user writes them."""
    return [about.alias or name for name, about in config_class.model_fields.items()]


def as_typed(value: Any, quoted: bool = False) -> str:
    """A value as one would type it behind `key=`: null, true, [a, b], {k: v}; texts in quotes if they stand alone."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, pydantic.BaseModel):
        return as_typed(value.model_dump(mode="json", by_alias=True))
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {as_typed(each)}" for key, each in value.items()) + "}"
    elif isinstance(value, list | tuple | set | frozenset):
        text = "[" + ", ".join(as_typed(each) for each in value) + "]"
    else:
        text = f"'{value}'" if quoted and isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN or not quoted else f"{text[:_SHOWN]}..."
