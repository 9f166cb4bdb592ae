"""Records in, rows out: which runs belong together, which count, and how they rank."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import records
from cmh.board import statistics
from cmh.errors import CmhError, RecordError
from cmh.records import Record

Reported = Mapping[tuple[str, str, int], tuple[float | None, float | None, str]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a leaderboard: one configuration, all its seeds. The fields are the CSV columns, in their order."""

    dataset: str
    features: str
    protocol: str
    bits: int
    rank: int
    method: str
    selection: str
    n_seeds: int
    map_i2t: float
    map_i2t_std: float | None
    map_i2t_ci95_low: float | None
    map_i2t_ci95_high: float | None
    map_t2i: float
    map_t2i_std: float | None
    map_t2i_ci95_low: float | None
    map_t2i_ci95_high: float | None
    map_mean: float
    map_mean_std: float | None
    map_mean_ci95_low: float | None
    map_mean_ci95_high: float | None
    p_vs_best: float | None  # none for the best row itself, and where the per-query files are not whole
    trials: int
    epochs: int
    seconds: float  # the search and the training of all seeds
    reported_i2t: float | None  # in a paper, with the paper's protocol: never ranked
    reported_t2i: float | None
    reported_source: str | None
    test_opened: int
    tie_rule: str
    split: str
    commit: str
    date: str


@dataclasses.dataclass(frozen=True)
class Board:
    """The rows that may be compared: same data, split, features, protocol and tie rule; by bits, then rank."""

    dataset: str
    dataset_sha256: str
    split_sha256: str
    features: str
    protocol: str
    tie_rule: str
    n_queries: int | None  # none where no per-query file can be read
    n_runs: int
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """A record and the folder that it was read from."""

    folder: Path
    record: Record


def find(roots: Iterable[Path]) -> list[Run]:
    """The records of all studies and runs below `roots`; a folder that two roots share is read once.

    Symbolic links below a root and hidden folders (half-written ones) are not entered. Raises RecordError that
    lists every root that is no folder and every line that cannot be read.
    """
    problems: list[str] = []
    folders: dict[Path, Path] = {}  # resolved → as the user named it
    for root in roots:
        try:
            mode = root.stat().st_mode
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            cause = "does not exist" if missing else f"cannot be read ({getattr(error, 'strerror', None) or error})"
            problems.append(f"{root}: {cause}")
            continue
        if not stat.S_ISDIR(mode):
            problems.append(f"{root}: is a file; name the folder that holds it")
            continue

        def unreadable(error: OSError) -> None:
            problems.append(f"{error.filename}: cannot be read ({error.strerror})")

        for place, inner, names in os.walk(root, onerror=unreadable):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            folder = Path(place)
            if "records.jsonl" in names and not (folder / "records.jsonl").is_symlink():
                folders.setdefault(folder.resolve(), folder)
    runs = []
    for folder in sorted(folders.values()):
        try:
            runs += [Run(folder, record) for record in records.read(folder)]
        except RecordError as error:
            problems += error.problems
    if problems:
        raise RecordError(*problems, heading="the records cannot be read")
    return runs


def only(runs: Sequence[Run], dataset: str) -> list[Run]:
    """The runs on one dataset; CmhError that lists the datasets where there are none."""
    known = sorted({run.record.dataset for run in runs})
    if dataset not in known:
        raise CmhError(f"no records of dataset {dataset!r}; there are records of: {', '.join(known)}")
    return [run for run in runs if run.record.dataset == dataset]


def boards(runs: Sequence[Run], reported: Reported) -> tuple[list[Board], list[str]]:
    """The boards, and a line for each thing that was left out or could not be computed.

    The result does not depend on the order of `runs`.
    """
    notes: list[str] = []
    current = _without_earlier_winners(sorted(runs, key=_age), notes)
    return [_board(members, reported, notes) for members in _grouped(current, _board_key)], notes


def _age(run: Run) -> tuple[Any, ...]:
    """Sorts by date; the rest only settles equal dates without looking at the order of files."""
    return records.moment(run.record), json.dumps(dataclasses.asdict(run.record), sort_keys=True), run.folder


def _board_key(run: Run) -> tuple[str, ...]:
    # The tie rule and the data belong to it: what differs in them must not share a column either.
    record = run.record
    return (
        record.dataset,
        record.features,
        record.protocol,
        record.split_sha256,
        record.tie_rule,
        record.dataset_sha256,
    )


def _config_key(run: Run) -> tuple[Any, ...]:
    return tuple(sorted(run.record.config.items()))


def _row_key(run: Run) -> tuple[Any, ...]:
    record = run.record
    return record.bits, record.method, record.selection, record.search_trials, record.epochs, _config_key(run)


def _study_key(run: Run) -> tuple[Any, ...]:
    # With the folder: two searches that happen to have one name are two results, and neither hides the other.
    record = run.record
    return (
        _board_key(run),
        run.folder.resolve(),
        record.study,
        record.method,
        record.bits,
        record.search_trials,
        record.epochs,
    )


def _grouped(runs: Iterable[Run], key: Callable[[Run], tuple[Any, ...]]) -> list[list[Run]]:
    """The groups by key, the members in the given order."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return [groups[name] for name in sorted(groups, key=repr)]  # repr: configs mix types that do not compare


def _without_earlier_winners(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """A study that went on after its test may have a new winner: only the latest one speaks for the search."""
    kept = [run for run in runs if run.record.selection != "validation"]
    searched = [run for run in runs if run.record.selection == "validation"]
    for study in _grouped(searched, _study_key):
        latest = [run for run in study if _config_key(run) == _config_key(study[-1])]
        kept += latest
        if left := len(study) - len(latest):
            notes.append(f"{study[-1].folder}: {left} test run{'s' * (left > 1)} of an earlier winner left out")
    return sorted(kept, key=_age)


def _board(runs: list[Run], reported: Reported, notes: list[str]) -> Board:
    rows: list[Row] = []
    n_queries = None
    by_bits = sorted(runs, key=lambda run: run.record.bits)
    for _, section in itertools.groupby(by_bits, key=lambda run: run.record.bits):
        entries = sorted((_Entry.of(group, notes) for group in _grouped(section, _row_key)), key=_Entry.order)
        n_queries = n_queries or next((entry.ap.size for entry in entries if entry.ap is not None), None)
        rank = 1
        for place, entry in enumerate(entries, start=1):
            if entry.score != entries[place - 2].score:
                rank = place
            rows.append(_row(entry, rank, _p(entry, entries[0], notes), reported))
    first = runs[0].record
    return Board(
        first.dataset,
        first.dataset_sha256,
        first.split_sha256,
        first.features,
        first.protocol,
        first.tie_rule,
        n_queries,
        len(runs),
        tuple(rows),
    )


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A row in the making."""

    latest: Record
    seeds: tuple[Record, ...]  # the latest record of each seed
    i2t: statistics.Estimate
    t2i: statistics.Estimate
    mean: statistics.Estimate
    ap: NDArray[np.float64] | None  # (queries,) mean over seeds and directions
    name: str
    test_opened: int

    @classmethod
    def of(cls, group: list[Run], notes: list[str]) -> _Entry:
        by_seed = {run.record.seed: run for run in group}  # sorted by age: the latest stays
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        seeds = tuple(run.record for run in runs)
        i2t = [record.test["map_i2t"] for record in seeds]
        t2i = [record.test["map_t2i"] for record in seeds]
        latest = group[-1].record
        name = f"{latest.method} ({latest.selection}, {latest.bits} bits)"
        return cls(
            latest,
            seeds,
            statistics.estimate(i2t),
            statistics.estimate(t2i),
            statistics.estimate([(a + b) / 2 for a, b in zip(i2t, t2i, strict=True)]),
            _mean_ap(runs, name, notes),
            name,
            max(run.record.test_opened for run in group),
        )

    @property
    def score(self) -> float:
        """What ranks: as many digits as the CSV shows, so that equal numbers have equal ranks."""
        return round(self.mean.mean, 6)

    def order(self) -> tuple[Any, ...]:
        config = json.dumps(self.latest.config, sort_keys=True)
        latest = self.latest
        return -self.score, latest.method, latest.selection, latest.search_trials, latest.epochs, config


def _mean_ap(runs: Sequence[Run], name: str, notes: list[str]) -> NDArray[np.float64] | None:
    try:
        pairs = [records.per_query(run.folder, run.record) for run in runs]
    except RecordError as error:
        notes.append(f"{name}: no p-value: {error}")
        return None
    if len({i2t.size for i2t, _ in pairs}) > 1:
        notes.append(f"{name}: no p-value: its per-query files differ in the number of queries")
        return None
    return np.asarray(np.mean([(i2t + t2i) / 2 for i2t, t2i in pairs], axis=0))


def _p(entry: _Entry, best: _Entry, notes: list[str]) -> float | None:
    if entry is best or entry.ap is None or best.ap is None:
        return None
    if entry.ap.size != best.ap.size:
        notes.append(f"{entry.name}: no p-value: {entry.ap.size} queries, but the best row has {best.ap.size}")
        return None
    return statistics.sign_flip_p(best.ap - entry.ap)


def _row(entry: _Entry, rank: int, p: float | None, reported: Reported) -> Row:
    latest, seeds = entry.latest, entry.seeds
    i2t, t2i, source = reported.get((latest.method, latest.dataset, latest.bits)) or (None, None, None)
    return Row(
        dataset=latest.dataset,
        features=latest.features,
        protocol=latest.protocol,
        bits=latest.bits,
        rank=rank,
        method=latest.method,
        selection=latest.selection,
        n_seeds=len(seeds),
        **_columns("map_i2t", entry.i2t),
        **_columns("map_t2i", entry.t2i),
        **_columns("map_mean", entry.mean),
        p_vs_best=p,
        trials=latest.search_trials,
        epochs=latest.epochs,
        seconds=float(
            max(record.search_seconds for record in seeds) + sum(record.training_seconds for record in seeds)
        ),
        reported_i2t=i2t,
        reported_t2i=t2i,
        reported_source=source,
        test_opened=entry.test_opened,
        tie_rule=latest.tie_rule,
        split=latest.split_sha256[:12],
        commit=latest.commit[:12],
        date=latest.date,
    )


def _columns(name: str, value: statistics.Estimate) -> dict[str, Any]:
    return {name: value.mean, f"{name}_std": value.std, f"{name}_ci95_low": value.low, f"{name}_ci95_high": value.high}
