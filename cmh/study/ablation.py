"""Ablations: a method without one of its components, with a search of its own of the same budget as the whole has.

A component is a hyperparameter with a value at which it does nothing: 0 (a weight, a rate, a number of units), false,
or the choice `none` or `off`. What has no such value is set to the paper's, where that is another than the library's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cmh import config, methods
from cmh.config import Param, Value
from cmh.errors import ConfigError, collected
from cmh.interfaces import MethodModule
from cmh.study import space as spaces
from cmh.study import target as targets
from cmh.study.request import Asked
from cmh.study.space import Space

OFF = ("none", "off")  # choices at which a component does nothing
PAPER = "paper"  # in place of a value: the published one


def variants(asked: Asked, texts: Sequence[str]) -> list[Asked]:
    """The request of the whole method, then one for each text: KEY, KEY=VALUE or KEY=paper, several joined by commas.

    Raises ConfigError that lists every text that names no component, or one that is off already.
    """
    module = only_method(asked, "--ablate")
    problems: list[str] = []
    whole = Whole(asked, module)
    found: dict[tuple[str, ...], None] = {}
    for text in texts:
        pairs = [pair for part in text.split(",") if (pair := _pair(part, whole, problems))]
        if len({pair.partition("=")[0] for pair in pairs}) < len(pairs):
            problems.append(f"--ablate {text}: names one component twice")
        found[tuple(pairs)] = None
    if problems:
        raise ConfigError(*problems)
    return [asked, *(dataclasses.replace(asked, without=pairs) for pairs in found)]


def only_method(asked: Asked, option: str) -> MethodModule:
    """The method that is asked for. Raises ConfigError where there are several: each has components of its own."""
    names = methods.searched(asked.methods)
    if len(names) != 1:
        raise ConfigError(f"{option} is for one --method, as each has parts of its own; here are {len(names)}")
    return methods.get(names[0])


class Whole:
    """The method as it is asked for: what is fixed, what is searched, and the value of everything that is not.

    What is wrong with the request itself is left to `request.check`: then less is known.
    """

    def __init__(self, asked: Asked, module: MethodModule) -> None:
        self.table = config.params(module.Config)
        self.set = config.from_pairs(asked.settings, [])
        files = collected(lambda: spaces.of_methods([module], asked.spaces), []) or {}
        name = methods.short(module)
        self.space: Space | None = None
        if name in files:
            self.space = collected(lambda: spaces.load(files[name], method=name), [])
        base = asked.base
        winner = {} if base is None else collected(lambda: targets.winner(base, name), []) or {}
        self.values: Mapping[str, Value] = {**config.defaults(module.Config), **winner, **self.checked(self.set)}

    def checked(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Those of the values that are legal ones of the method's hyperparameters."""
        found = {}
        for key in self.table.keys() & values.keys():
            try:
                found[key] = self.table[key].check(values[key])
            except ValueError:
                continue
        return found

    def searches(self, key: str) -> bool:
        """Whether the space searches a hyperparameter that --set does not fix."""
        return self.space is not None and key not in self.set and any(key == item.name for item in self.space.ranges)


def off(param: Param) -> Value | None:
    """The value at which a component does nothing, else the paper's; None where nothing says one."""
    if param.kind is bool:
        return False
    if param.kind is str:
        named = [choice for choice in OFF if choice in (param.choices or ())]
        return named[0] if named else _papers(param)
    try:
        return param.check(0)
    except ValueError:
        return _papers(param)


def _papers(param: Param) -> Value | None:
    return param.paper if param.paper != param.default else None


def text_of(value: Value) -> str:
    """A value as `--set` takes it, the same one again."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if value == 0 else str(value)


def _pair(text: str, whole: Whole, problems: list[str]) -> str:
    """KEY=VALUE of one component; empty where something is wrong with it, which is a problem then."""
    key, equals, given = (part.strip() for part in text.partition("="))
    about = f"--ablate {text.strip()}"
    if key not in whole.table:
        problems.append(f"{about}: no component of the method: {config.unknown(key, whole.table)}")
        return ""
    param, value = whole.table[key], None
    if key in whole.set:
        problems.append(f"{about}: --set fixes {key} for the whole method, too; leave one of the two out")
    elif equals:
        try:
            value = param.paper if given == PAPER else param.check({"true": True, "false": False}.get(given, given))
        except ValueError as error:
            problems.append(f"{about}: {error}")
    else:
        value = off(param)
        if value is None:
            problems.append(f"{about}: {param.rule()} has no value that is off; say one: --ablate {key}=VALUE")
    if value is None:
        return ""
    if value == whole.values[key] and not whole.searches(key):
        problems.append(f"{about}: changes nothing, as the whole method has {key} = {text_of(value)}, too")
    return f"{key}={text_of(value)}"
