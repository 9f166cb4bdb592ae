"""Rows in the making: all runs of one configuration, made with the same code on the same kind of machine."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import records
from cmh.board import statistics
from cmh.board.find import Run
from cmh.errors import RecordError
from cmh.identity import ROW
from cmh.records import Record

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row in the making."""

    runs: tuple[Run, ...]  # the latest of each seed
    latest: Run
    test_opened: int
    split_opened: int
    spreads: dict[str, tuple[float, float | None]]  # column → mean and standard deviation over seeds
    ap: tuple[Floats, Floats] | None  # (seeds, queries) of each direction
    groups: NDArray[np.int64]  # (queries,)
    name: str

    @classmethod
    def of(cls, group: list[Run], notes: list[str]) -> Entry:
        by_seed = {run.record.identity.seed: run for run in group}  # sorted by age: the latest stays
        runs = tuple(by_seed[seed] for seed in sorted(by_seed))
        i2t = [run.record.test["map_i2t"] for run in runs]
        t2i = [run.record.test["map_t2i"] for run in runs]
        mean = [(a + b) / 2 for a, b in zip(i2t, t2i, strict=True)]
        latest = group[-1]
        name = _name(latest.record)
        ap, groups = _per_query(runs, name, notes)
        return cls(
            runs,
            latest,
            max(run.record.test_opened for run in group),
            max(run.record.split_opened for run in group),
            {name: statistics.spread(of) for name, of in (("map_i2t", i2t), ("map_t2i", t2i), ("map_mean", mean))},
            ap,
            groups,
            name,
        )

    @property
    def score(self) -> float:
        """What ranks: as many digits as the CSV shows, so that equal numbers have equal ranks."""
        return round(self.spreads["map_mean"][0], 6)

    def order(self) -> tuple[Any, ...]:
        record, made = self.latest.record, self.latest.record.identity
        return -self.score, made.method, record.selection, record.label, record.search.trials, key(self.latest)


def _name(record: Record) -> str:
    label = f"{record.label}, " * bool(record.label)
    return f"{record.identity.method} ({label}{record.selection}, {record.identity.bits} bits)"


def key(run: Run) -> str:
    """Runs of one row agree in everything that decides a number but the seed, and come from equally long searches."""
    record = run.record
    made = [
        sorted(value.items()) if isinstance(value, dict) else value
        for name, value in vars(record.identity).items()
        if name not in ROW
    ]
    return repr((record.selection, record.label, record.search.trials, made))


def _per_query(
    runs: tuple[Run, ...], name: str, notes: list[str]
) -> tuple[tuple[Floats, Floats] | None, NDArray[np.int64]]:
    """The AP of all seeds' queries, if it is whole, and the queries' groups."""
    nothing = None, np.zeros(0, np.int64)
    try:
        found = [records.per_query(run.folder, run.record) for run in runs]
    except RecordError as error:
        notes.append(f"{name}: not compared: {error}")
        return nothing
    groups = found[0].groups
    if any(not np.array_equal(one.groups, groups) for one in found):
        notes.append(f"{name}: not compared: its per-query files differ in their queries")
        return nothing
    return (np.stack([one.i2t for one in found]), np.stack([one.t2i for one in found])), groups
