"""What a search space is made of: ranges of hyperparameters, a schedule that prunes, points to start from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from cmh.config import Value


@dataclasses.dataclass(frozen=True)
class Range:
    """Where one hyperparameter is searched; `when` names the choices under which it exists."""

    name: str
    kind: str  # float | int | choice
    low: float = 0
    high: float = 0
    log: bool = False
    choices: tuple[Value, ...] = ()
    when: tuple[tuple[str, Value], ...] = ()

    def active(self, values: Mapping[str, Value]) -> bool:
        """Whether the parameter exists beside these values of the others."""
        return all(values.get(key) == wanted for key, wanted in self.when)

    def holds(self, value: Value) -> bool:
        """Whether a value lies inside."""
        if self.kind == "choice":
            return value in self.choices
        return not isinstance(value, (str, bool)) and self.low <= value <= self.high

    def reachable(self, value: Value) -> bool:
        """Whether the range could be made so wide that it holds a value."""
        return self.kind != "choice" and not isinstance(value, (str, bool)) and (value > 0 or not self.log)

    def reaching(self, value: Value) -> Range:
        """The range, so wide that it holds a value, if it is `reachable`."""
        if isinstance(value, str) or not self.reachable(value):
            return self
        return dataclasses.replace(self, low=min(self.low, value), high=max(self.high, value))

    def share(self, value: Value) -> float:
        """Where a value lies between the ends of a range of numbers, 0 to 1, on its scale."""
        scale = math.log if self.log else float
        return (scale(float(value)) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def at(self, share: float) -> Value:
        """The value at such a place."""
        scale = math.log if self.log else float
        value = scale(self.low) + share * (scale(self.high) - scale(self.low))
        value = min(self.high, max(self.low, math.exp(value) if self.log else value))
        return round(value) if self.kind == "int" else value

    def text(self) -> str:
        """As a person would write it."""
        if self.kind == "choice":
            return "{" + ", ".join(map(str, self.choices)) + "}"
        return f"[{self.low:g}, {self.high:g}]" + (" log" if self.log else "")


def outside(ranges: Iterable[Range], point: Mapping[str, Value]) -> list[Range]:
    """The ranges that a point (all hyperparameters) has a value outside of."""
    return [item for item in ranges if item.active(point) and not item.holds(point[item.name])]


@dataclasses.dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving: of the trials at a rung, the best 1/reduction go on.

    A trial is compared with those that came to the rung before it. By Ray's rule it must reach their quantile: the
    first at a rung goes on whatever it is worth, and the next ones easily. By the strict rule, the paper's (Li et al.,
    "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020), it must be one of the best floor(n/reduction)
    of the n trials at the rung, itself included: the first reduction - 1 stop there. (The paper may take a stopped
    trial up again when the rung has grown; here it stays pruned.)
    """

    first_rung: int
    reduction: int
    strict: bool = False

    def rungs(self, epochs: int) -> list[int]:
        """Epochs at which trials are compared."""
        rungs, rung = [], self.first_rung
        while rung < epochs:
            rungs.append(rung)
            rung *= self.reduction
        return rungs


def best_at(rung: int, curve: Mapping[int, float]) -> float | None:
    """The best validation MAP of a curve up to a rung, or the first validated epoch after it; None below it."""
    at = min((epoch for epoch in curve if epoch >= rung), default=None)
    return None if at is None else max(value for epoch, value in curve.items() if epoch <= at)


@dataclasses.dataclass(frozen=True)
class Space:
    """A checked search space file."""

    method: str
    ranges: tuple[Range, ...]
    start_from: tuple[tuple[str, tuple[tuple[str, Value], ...]], ...]  # (name, full config) of the first trials
    sampler: str
    asha: Asha | None
    epochs: int
    trials: int
    validate_every: int = 1
    validation_database: int = 0
    finalists: int = 0  # how many of the best trials get further seeds before the winner is named
    notes: tuple[str, ...] = ()  # what a user should know of it
    runs: tuple[tuple[str, tuple[tuple[str, Value], ...]], ...] = ()  # of start points: (name, run settings)

    def starts(self) -> list[tuple[str, dict[str, Value]]]:
        """The known-good points, in the order in which they are tried."""
        return [(name, dict(values)) for name, values in self.start_from]

    def starts_from(self, name: str) -> bool:
        """Whether a point is among its start points."""
        return any(name == other for other, _ in self.start_from)

    @property
    def prior(self) -> str:
        """What beside the paper's point its first trials were taken from, for the board; empty: nothing, it searches
        from scratch."""
        kinds = {"default": "defaults", "from": "from", "warm": "warm start", "point": "points"}
        found = (kinds.get(name.split()[0], "") for name, _ in self.start_from)
        return ", ".join(dict.fromkeys(kind for kind in found if kind))

    def with_default(self, point: Mapping[str, Value]) -> Space:
        """The same with the library's default as a start point, after the paper's.

        Raises ValueError where the point lies outside of a range.
        """
        if beyond := outside(self.ranges, point):
            item = beyond[0]
            raise ValueError(f"{item.name} = {point[item.name]!r} of the default lies outside {item.text()}")
        after = sum(name == "paper" for name, _ in self.start_from)
        starts = [*self.start_from[:after], ("default", tuple(point.items())), *self.start_from[after:]]
        return dataclasses.replace(self, start_from=tuple(starts))

    def run_of(self, origin: str) -> dict[str, Value]:
        """Run settings in which a trial differs from the others of its study."""
        return dict(dict(self.runs).get(origin, ()))
