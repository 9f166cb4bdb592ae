"""Sensitivity curves: one hyperparameter at several values with several seeds each, all others as they are."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from cmh import config
from cmh.config import Param, Value
from cmh.errors import ConfigError
from cmh.study import points
from cmh.study.ablation import Whole, only_method
from cmh.study.request import Asked, Request

SCALES = ("log", "linear")
DECADES = 100  # a range that is so many times its low end is said to want a log scale


@dataclasses.dataclass(frozen=True)
class Curve:
    """The values that a hyperparameter takes, in order, and how they are spaced."""

    key: str
    values: tuple[Value, ...]
    log: bool


def curves(asked: Asked, texts: Sequence[str]) -> tuple[list[Curve], dict[str, Value]]:
    """The curves that are asked for as KEY=LOW:HIGH:N, KEY=LOW:HIGH:N:log|linear or KEY=VALUE,VALUE…, and what the
    other hyperparameters have: the winner's of `asked.base` or the library's, under --set.

    Raises ConfigError that lists everything that is wrong with any of them.
    """
    module = only_method(asked, "--sweep")
    whole, problems, found = Whole(asked, module), list[str](), list[Curve]()
    for text in texts:
        key, equals, spec = (part.strip() for part in text.partition("="))
        about = f"--sweep {text}"
        if not equals or not spec:
            problems.append(f"{about}: must be KEY=LOW:HIGH:N or KEY=VALUE,VALUE…")
        elif key not in whole.table:
            problems.append(f"{about}: {config.unknown(key, whole.table)}")
        elif any(key == one.key for one in found):
            problems.append(f"{about}: {key} stands twice; a curve has all its values in one text")
        else:
            wrong = _fixed(key, whole)
            values, log = _values(whole, whole.table[key], spec, wrong)
            problems += [f"{about}: {problem}" for problem in wrong]
            found.append(Curve(key, tuple(values), log))
    if problems:
        raise ConfigError(*problems)
    return found, dict(whole.values)


def studies(request: Request, wanted: Sequence[Curve], values: dict[str, Value], *, test: bool) -> Request:
    """A study for each curve and each study of a request, in whose place they are. `test`: weights are kept for it."""
    found = [
        points.study(
            study,
            study.folder.with_name(f"{study.folder.name}-sweep-{curve.key}"),
            values,
            [{curve.key: value} for value in curve.values],
            request.seeds,
            weights=test,
        )
        for study in request.studies
        for curve in wanted
    ]
    return dataclasses.replace(request, studies=tuple(found), seeds=request.seeds if test else ())


def _fixed(key: str, whole: Whole) -> list[str]:
    """Why nothing depends on a hyperparameter, in words."""
    if key in whole.set:
        return [f"{key} is fixed by --set; leave it out there"]
    ranges = {item.name: item for item in whole.space.ranges} if whole.space is not None else {}
    if key in ranges and not ranges[key].active(whole.values):
        needed = " and ".join(f"{name} = {value}" for name, value in ranges[key].when)
        cure = " ".join(f"{name}={value}" for name, value in ranges[key].when)
        return [f"{key} has an effect only where {needed}; add --set {cure}"]
    return []


def _values(whole: Whole, param: Param, spec: str, problems: list[str]) -> tuple[list[Value], bool]:
    """The values of a curve, and whether its axis is logarithmic; what is wrong is added to `problems`."""
    if ":" not in spec:
        return _listed(whole, param, spec.split(","), problems)
    parts = spec.split(":")
    if param.kind not in (int, float):
        problems.append(f"{param.name} is {param.rule()}, which has no LOW:HIGH; list its values: {param.name}=A,B")
        return [], False
    if len(parts) not in (3, 4) or (len(parts) == 4 and parts[3] not in SCALES):
        problems.append(f"{spec} must be LOW:HIGH:N, or LOW:HIGH:N:log or LOW:HIGH:N:linear")
        return [], False
    ends = [_checked(param, text, problems) for text in parts[:2]]
    n = int(parts[2]) if re.fullmatch(r"\d{1,6}", parts[2]) else 0
    if n < 2:
        problems.append(f"N is {parts[2]!r}, but must be an integer >= 2")
    low, high = (math.nan if end is None else float(end) for end in ends)
    if low >= high:
        problems.append(f"LOW is {low:g} and HIGH {high:g}, but LOW must be < HIGH")
    log = _is_log(whole, param, parts[3:], problems)
    if log and low <= 0:
        linear = ":".join([*parts[:3], "linear"])
        problems.append(f"LOW is {low:g}, but a log scale needs LOW > 0; {linear} has equal steps")
    if problems or None in ends:
        return [], log
    spaced = np.geomspace(low, high, n) if log else np.linspace(low, high, n)
    spaced[0], spaced[-1] = low, high  # to the last digit
    if param.kind is float:
        return [float(f"{value:.6g}") for value in spaced], log
    whole_ones = list(dict.fromkeys(round(value) for value in spaced.tolist()))
    if len(whole_ones) < n:
        problems.append(f"N is {n}, but so spaced there are only {len(whole_ones)} integers from {low:g} to {high:g}")
    return list(whole_ones), log


def _listed(whole: Whole, param: Param, texts: Sequence[str], problems: list[str]) -> tuple[list[Value], bool]:
    values = [_checked(param, text.strip(), problems) for text in texts]
    known = [value for value in values if value is not None]
    if len(set(known)) < len(known) or len(texts) < 2:
        problems.append(f"{','.join(texts)} must list two values or more, each once")
    if param.kind not in (int, float):
        return known, False
    known.sort()
    ranged = [item.log for item in whole.space.ranges if item.name == param.name] if whole.space is not None else []
    wide = len(known) > 1 and float(known[-1]) >= DECADES * float(known[0]) > 0
    return known, (any(ranged) or wide) and float(known[0]) > 0 if known else False


def _checked(param: Param, text: str, problems: list[str]) -> Value | None:
    try:
        return param.check({"true": True, "false": False}.get(text.lower(), text) if param.kind is bool else text)
    except ValueError as error:
        problems.append(str(error))
        return None


def _is_log(whole: Whole, param: Param, said: Sequence[str], problems: list[str]) -> bool:
    """How LOW:HIGH:N is spaced: as it is said, else as the space's range is."""
    if said:
        return said[0] == "log"
    ranges = {item.name: item for item in whole.space.ranges} if whole.space is not None else {}
    if param.name in ranges:
        return ranges[param.name].log
    if whole.space is not None and param.name not in whole.set:  # else that is the problem
        problems.append(
            f"the space does not search {param.name}, which it leaves at {whole.values[param.name]}, so it says no"
            " scale; say one (LOW:HIGH:N:log or :linear) or list values"
        )
    return False
