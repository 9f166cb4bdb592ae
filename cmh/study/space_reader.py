"""Reading a search space file: its document becomes a checked `Space`, or a list of everything that is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from cmh import config as configs
from cmh.config import Param, Value, shown
from cmh.errors import ConfigError
from cmh.interfaces import Config
from cmh.study.ranges import Asha, Range, Space, outside

SAMPLERS = ("priorband", "tpe", "random", "gp", "cmaes", "grid", "qmc")
KEYS = ("method", "params", "start_from", "search", "schedule", "objective", "trials", "finalists")
VALIDATION = ("validate_every", "validation_database")  # settings of all trials


def read(
    document: object,
    config: type[Config],
    *,
    method: str,
    fixed: Mapping[str, Value],
    epochs: int | None = None,
    heading: str = "",
) -> Space:
    """The checked search space of `document`; `config` is the method's, and `fixed` values are taken out of the search.

    `epochs` are those of a full trial, in place of the document's own: where they leave no room for its rungs, there
    are none. Raises ConfigError with `heading` that lists every problem at once.
    """
    reader = _Reader(document, config, fixed)
    space = reader.space(method, epochs)
    if space is None:
        raise ConfigError(*reader.problems, heading=heading)
    return space


class _Reader:
    """Goes through the document once and collects problems instead of stopping at the first."""

    def __init__(self, document: object, config: type[Config], fixed: Mapping[str, Value]) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        if not isinstance(document, dict):
            self.problems.append(f"the file holds {shown(document)}, but must be a mapping with {', '.join(KEYS)}")
        self.document: Mapping[object, object] = document if isinstance(document, dict) else {}
        self.fixed, self.config = fixed, config
        self.table = configs.params(config)

    def space(self, method: str, epochs: int | None) -> Space | None:
        """The space; None where there are problems."""
        if self.problems:  # it is no mapping at all
            return None
        known = (*KEYS, *VALIDATION)
        self.problems += [configs.unknown(key, known) for key in self.document if key not in known]
        if self.document.get("method", method) != method:
            self.problems.append(f"method is {shown(self.document['method'])}, but --method asks for {method!r}")
        if self.document.get("objective", "val_map") != "val_map":
            objective = shown(self.document["objective"])
            self.problems.append(f"objective is {objective}, but must be 'val_map' (the protocol)")
        ranges = self._ranges()
        asha, own_epochs = self._schedule()
        if asha is not None and asha.first_rung >= (epochs or own_epochs):
            if epochs is None:
                self.problems.append(
                    f"schedule.asha.first_rung is {asha.first_rung}, but must be < the {own_epochs} epochs of a trial;"
                    " lower it or give trials more --epochs"
                )
            else:
                self.notes.append(
                    f"--epochs {epochs}: the first rung would be at epoch {asha.first_rung}, so there is none,"
                    " and every trial runs to its end"
                )
            asha = None
        epochs = epochs or own_epochs
        trials = self._whole("trials", self.document.get("trials", 24), 1)
        every = self._whole("validate_every", self.document.get("validate_every", 1), 1)
        database = self._whole("validation_database", self.document.get("validation_database", 0), 0)
        sampler = self._sampler()
        if sampler == "grid":
            self.problems += [
                f"search.sampler is 'grid', but params.{item.name} is a float range, which has no grid; list a choice"
                for item in ranges
                if item.kind == "float"
            ]
        starts = self._starts(ranges, sampler)
        finalists = self._whole("finalists", self.document.get("finalists", 0), 0)
        rest = (sampler, asha, epochs, trials, every, database, finalists, tuple(self.notes))
        return None if self.problems else Space(method, ranges, starts, *rest)

    def _ranges(self) -> tuple[Range, ...]:
        params = self.document.get("params")
        if not isinstance(params, dict) or not params:
            self.problems.append(f"params is {shown(params)}, but must map at least one hyperparameter to its range")
            return ()
        ranges = []
        for name, spec in params.items():
            if name not in self.table:
                self.problems.append(f"params: {configs.unknown(name, self.table)}")
            elif name not in self.fixed:
                try:
                    ranges.append(self._range(self.table[name], spec))
                except ValueError as error:
                    self.problems.append(f"params.{name}: {error}")
        return self._ordered(ranges)

    def _range(self, param: Param, spec: object) -> Range:
        kinds = ("float", "int", "choice")
        if not isinstance(spec, dict) or sum(kind in spec for kind in kinds) != 1:
            raise ValueError(f"is {shown(spec)}, but must be {{float: [low, high]}}, {{int: …}} or {{choice: [a, b]}}")
        if extra := [key for key in spec if key not in (*kinds, "log", "when")]:
            raise ValueError(configs.unknown(extra[0], (*kinds, "log", "when")))
        kind = next(kind for kind in kinds if kind in spec)
        when, log, ends = self._when(spec.get("when", {})), spec.get("log", False), spec[kind]
        if not isinstance(log, bool):
            raise ValueError(f"log is {shown(log)}, but must be true or false")
        if not isinstance(ends, list):
            raise ValueError(f"{kind} is {shown(ends)}, but must be a list")
        if kind == "choice":
            values = tuple(param.check(value) for value in ends)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"choice is {shown(ends)}, but must list at least one value, each once")
            if log:
                raise ValueError("log is true, but a choice has no scale")
            return Range(param.name, kind, choices=values, when=when)
        if param.kind.__name__ != kind:
            raise ValueError(f"is searched as {kind}, but {param.name} is {param.rule()}")
        if len(ends) != 2:
            raise ValueError(f"{kind} is {shown(ends)}, but must be [low, high]")
        low, high = (float(param.check(end)) for end in ends)
        if not low < high:
            raise ValueError(f"{kind} is [{low:g}, {high:g}], but low must be < high; for one value use --set")
        if log and low <= 0:
            raise ValueError(f"log is true, but low is {low:g}; a log scale needs low > 0")
        return Range(param.name, kind, low, high, log, when=when)

    def _when(self, spec: object) -> tuple[tuple[str, Value], ...]:
        if not isinstance(spec, dict):
            raise ValueError(f"when is {shown(spec)}, but must map a parameter to the value under which this exists")
        conditions = []
        for key, value in spec.items():
            if key not in self.table:
                raise ValueError(f"when: {configs.unknown(key, self.table)}")
            conditions.append((key, self.table[key].check(value)))
        return tuple(conditions)

    def _ordered(self, ranges: list[Range]) -> tuple[Range, ...]:
        """Conditions before what hangs on them; a condition on itself or in a circle is a problem."""
        done: list[Range] = []
        left = list(ranges)
        while left:
            names = {item.name for item in left}
            ready = [item for item in left if not names & {key for key, _ in item.when}]
            if not ready:
                self.problems.append(f"params: the conditions of {', '.join(sorted(names))} go in a circle")
                return tuple(ranges)
            done += ready
            left = [item for item in left if item not in ready]
        return tuple(done)

    def _schedule(self) -> tuple[Asha | None, int]:
        spec = self.document.get("schedule", {"asha": {}})
        if spec == "none" or spec is None:
            return None, 30
        if not isinstance(spec, dict) or len(spec) != 1 or not set(spec) <= {"asha", "none"}:
            self.problems.append(
                f"schedule is {shown(spec)}, but must be {{asha: {{first_rung, reduction, epochs, strict}}}} or none"
            )
            return None, 30
        kind, values = next(iter(spec.items()))
        values = {} if values is None else values
        known = ("first_rung", "reduction", "epochs", "strict") if kind == "asha" else ("epochs",)
        if not isinstance(values, dict):
            self.problems.append(f"schedule.{kind} is {shown(values)}, but must be a mapping with {', '.join(known)}")
            return None, 30
        self.problems += [f"schedule.{kind}: {configs.unknown(key, known)}" for key in values if key not in known]
        epochs = self._whole(f"schedule.{kind}.epochs", values.get("epochs", 30), 1)
        if kind == "none":
            return None, epochs
        first = self._whole("schedule.asha.first_rung", values.get("first_rung", 3), 1)
        strict = values.get("strict", False)
        if not isinstance(strict, bool):
            self.problems.append(f"schedule.asha.strict is {shown(strict)}, but must be true or false")
        return Asha(first, self._whole("schedule.asha.reduction", values.get("reduction", 3), 2), strict), epochs

    def _sampler(self) -> str:
        search = self.document.get("search", {"sampler": "tpe"})
        if not isinstance(search, dict) or set(search) != {"sampler"} or search["sampler"] not in SAMPLERS:
            self.problems.append(f"search is {shown(search)}, but must be {{sampler: {' | '.join(SAMPLERS)}}}")
            return "tpe"
        return str(search["sampler"])

    def _starts(self, ranges: Iterable[Range], sampler: str) -> tuple[tuple[str, tuple[tuple[str, Value], ...]], ...]:
        spec = self.document.get("start_from", ["paper"])
        if not isinstance(spec, list):
            self.problems.append(f"start_from is {shown(spec)}, but must be a list of paper, default or mappings")
            return ()
        starts = []
        for number, entry in enumerate(spec, start=1):
            named = {"paper": configs.paper(self.config), "default": configs.defaults(self.config)}
            if isinstance(entry, dict):
                name = f"point {number}"
                try:
                    point = dataclasses.asdict(configs.build(self.config, entry))
                except ConfigError as error:
                    self.problems += [f"start_from, {name}: {problem}" for problem in error.problems]
                    continue
            elif isinstance(entry, str) and entry in named:
                name, point = entry, named[entry]
            else:
                self.problems.append(f"start_from: {shown(entry)} must be paper, default or a mapping of values")
                continue
            point = {**point, **self.fixed}
            beyond = outside(ranges, point)
            # A paper's learning rates may be those of another optimizer than the one that is searched.
            free = name == "paper" and sampler != "grid"
            kept = [item for item in beyond if free and item.reachable(point[item.name])]
            self.problems += [
                f"start_from: {item.name} = {point[item.name]!r} of {name} lies outside {item.text()};"
                f" widen the range or take {name} out of start_from"
                for item in beyond
                if item not in kept
            ]
            if kept:
                values = ", ".join(f"{item.name} {point[item.name]:.3g}" for item in kept)
                self.notes.append(
                    f"the paper's {values}: outside of what is searched, so no sampler learns from that trial"
                )
            starts.append((name, tuple(point.items())))
        return tuple(starts)

    def _whole(self, name: str, value: object, low: int) -> int:
        try:
            number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not number.is_integer() or number < low:
            self.problems.append(f"{name} is {shown(value)}, but must be an integer >= {low}")
            return low
        return int(number)
