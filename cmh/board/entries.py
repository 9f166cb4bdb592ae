"""Rows in the making: all runs of one configuration, made with the same code on the same kind of machine."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from cmh import records
from cmh.board import statistics
from cmh.board.find import Run
from cmh.errors import ContradictionError, RecordError
from cmh.identity import ROW
from cmh.records import PerQuery, Record

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
    def of(cls, group: list[Run], notes: list[str]) -> Entry | None:
        """The row of a group in order of age; none where the files beside its records contradict all of them."""
        by_seed: dict[int, list[Run]] = {}
        for run in reversed(group):  # the latest first
            by_seed.setdefault(run.record.identity.seed, []).append(run)
        latest = group[-1]
        name = _name(latest.record)
        runs, ap, groups = _per_query([by_seed[seed] for seed in sorted(by_seed)], name, notes)
        if not runs:
            return None
        i2t = [run.record.test["map_i2t"] for run in runs]
        t2i = [run.record.test["map_t2i"] for run in runs]
        mean = [(a + b) / 2 for a, b in zip(i2t, t2i, strict=True)]
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

    def order(self) -> tuple[float, str, str, str, int, str]:
        """Sorts the rows of a board: the best first, equal ones by name."""
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
    return repr((record.selection, record.label, record.prior, record.search.trials, made))


def _per_query(
    by_seed: list[list[Run]], name: str, notes: list[str]
) -> tuple[tuple[Run, ...], tuple[Floats, Floats] | None, NDArray[np.int64]]:
    """Of each seed the latest run that its per-query file does not contradict, the AP of all their queries, if it is
    whole, and the queries' groups.
    """
    kept, found, missing = list[Run](), list[PerQuery](), ""
    for runs in by_seed:
        contradiction = ""
        for run in runs:
            try:
                found.append(records.per_query(run.folder, run.record))
            except ContradictionError as error:  # nobody knows which of the two is the run's number
                contradiction = contradiction or f"{name}: seed {run.record.identity.seed} left out: {error}"
                continue
            except RecordError as error:
                missing = missing or str(error)
            kept.append(run)
            break
        else:
            notes.append(contradiction)
    if kept and not missing and any(not np.array_equal(one.groups, found[0].groups) for one in found):
        missing = "its per-query files differ in their queries"
    if missing:
        notes.append(f"{name}: not compared: {missing}")
    if missing or not kept:
        return tuple(kept), None, np.zeros(0, np.int64)
    return tuple(kept), (np.stack([one.i2t for one in found]), np.stack([one.t2i for one in found])), found[0].groups
