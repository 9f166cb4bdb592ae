"""JSON values as frozen dataclasses: every field of its type, none missing, none unknown."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Mapping

Built = typing.TypeVar("Built")
_LARGEST = sys.float_info.max


def build(cls: type[Built], values: Mapping[str, object], lowest: Mapping[str, float], inside: str = "") -> Built:
    """A dataclass of JSON values; `lowest` has the smallest legal number of a field, by its name.

    Raises ValueError with the first rule that is broken.
    """
    rules = _rules(cls)  # type: ignore[arg-type]  # mypy takes a class variable for unhashable
    if rules.keys() != values.keys():
        if missing := sorted(rules.keys() - values.keys()):
            raise ValueError(f"{inside}without {', '.join(missing)}")
        extra = sorted(values.keys() - rules.keys())
        raise ValueError(f"{inside}unknown {', '.join(map(reprlib.repr, extra))}")
    built: dict[str, object] = {}
    for name, (kind, fits) in rules.items():
        value = values[name]
        if fits is None:
            if not isinstance(value, dict):
                raise ValueError(f"{inside}{name} is {reprlib.repr(value)}, but must be a mapping")
            built[name] = build(kind, value, lowest, f"{name} ")
            continue
        if not fits(value):
            raise ValueError(f"{inside}{name} is {reprlib.repr(value)}, but must be {_words(kind)}")
        least = lowest.get(name)
        if least is not None and isinstance(value, (int, float)) and value < least:
            raise ValueError(f"{inside}{name} is {value!r}, but must be >= {least}")
        built[name] = value
    return cls(**built)


@functools.cache
def _rules(cls: type) -> dict[str, tuple[type, Callable[[object], bool] | None]]:
    """Field → its kind, and what values of JSON fit; nothing where the field is a dataclass itself."""
    kinds = typing.get_type_hints(cls)
    return {name: (kind, None if dataclasses.is_dataclass(kind) else _fitting(kind)) for name, kind in kinds.items()}


def _fitting(kind: object) -> Callable[[object], bool]:
    """The test whether a value that JSON gave is of a kind."""
    if typing.get_origin(kind) is list:
        item = _fitting(typing.get_args(kind)[0])
        return lambda value: isinstance(value, list) and all(map(item, value))
    if typing.get_origin(kind) is dict:
        inner = _fitting(typing.get_args(kind)[1])
        return lambda value: isinstance(value, dict) and all(map(inner, value.values()))
    if kind is float:
        # the bound also keeps out whole numbers that are too large for a float, and infinity (1e999)
        return lambda value: isinstance(value, (float, int)) and type(value) is not bool and abs(value) <= _LARGEST
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    number = _fitting(float) if float in kinds else lambda value: False
    exact = tuple(one for one in kinds if one is not float)
    return lambda value: type(value) in exact or number(value)


def _words(kind: object) -> str:
    names = {int: "an integer", float: "a finite number", str: "a text"}
    inner = typing.get_args(kind)[1:]
    what = "numbers" if float in inner else "lists of texts" if list[str] in inner else "plain values"
    return names[kind] if isinstance(kind, type) and kind in names else f"a mapping of {what}"
