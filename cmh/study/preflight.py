"""Before a search starts: searched hyperparameters that have no effect."""

from __future__ import annotations

from collections.abc import Mapping

from cmh import audits, methods, training
from cmh.config import Value
from cmh.interfaces import SearchData
from cmh.study.request import StudyRequest
from cmh.study.space import Range, Space
from cmh.training import Run


def warnings(study: StudyRequest) -> list[str]:
    """A line for each hyperparameter that is searched in vain, as it changes nothing."""
    run, _ = training.parse(methods.get(study.space.method), {**study.base, **study.run})
    return [f"warning: {line}" for line in idle(study.space, run, study.dataset.search(), study.base)]


def idle(space: Space, run: Run, data: SearchData, fixed: Mapping[str, Value] | None = None) -> list[str]:
    """One line for each hyperparameter of the space with the same codes at both ends of its range.

    All others have their `fixed` value, else the default. Where the range has conditions, they are set. Raises
    ConfigError where a fixed value breaks its rule.
    """
    module = methods.get(space.method)
    _, config = training.parse(module, dict(fixed or {}))
    conditions = {item.name: item.when for item in space.ranges}
    given = {name: _given(name, conditions) for name in conditions}
    ends = {item.name: ends for item in space.ranges if (ends := _ends(item)) is not None}
    return audits.idle_hyperparameters(module, run, config, data, ends, given=given)


def _ends(item: Range) -> tuple[Value, Value] | None:
    """Two values of a range; None where it has one."""
    if item.kind == "choice":
        return (item.choices[0], item.choices[-1]) if len(item.choices) > 1 else None
    return (int(item.low), int(item.high)) if item.kind == "int" else (item.low, item.high)


def _given(name: str, conditions: Mapping[str, tuple[tuple[str, Value], ...]]) -> dict[str, Value]:
    """The conditions of a hyperparameter, and theirs."""
    found: dict[str, Value] = {}
    for key, value in conditions.get(name, ()):
        found |= {**_given(key, conditions), key: value}
    return found
