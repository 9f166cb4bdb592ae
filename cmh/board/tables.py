"""One table of a board: runs of one number of bits become ranked rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh.board import comparison, current, entries, statistics
from cmh.board.entries import Entry
from cmh.board.find import Run
from cmh.identity import ROW
from cmh.records import AUDITS

_LISTED = 4  # ranks in a note
Reported = Mapping[tuple[str, str, int], tuple[float | None, float | None, str]]

# Named values of a Row: their types are checked where the Row is made.
_Columns = dict[str, Any]


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
    map_i2t_std: float | None  # over seeds; the interval is over seeds and queries
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
    p_vs_best: float | None  # adjusted for all pairs of the table; none for the best row itself
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
    label: str  # what was changed of the study or file it comes from
    rank_low: int | None  # the ranks that it may have: 1 + rows that are better …
    rank_high: int | None  # … to all rows but those that are worse
    letters: str  # rows of a table that share one cannot be told apart
    passes: float  # over the training items, by the search
    search_device_seconds: float
    training_device_seconds: float  # of all seeds
    split_opened: int  # how often this split had been opened by all studies and runs
    leak: str  # what the audits found; empty where nothing was
    dead: str
    aged: str  # `code`, `data`: no longer those that made the runs
    queries_to_next: int | str | None  # test queries that would tell it from the next row
    prior: str  # what the search was given beside the paper's point; empty: nothing


def table(
    runs: list[Run], reported: Reported, aged: current.Aged, notes: list[str]
) -> tuple[list[Row], list[tuple[Run, ...]], NDArray[np.int64] | None]:
    """The rows, best first, the runs of each, and the groups of the test queries on which they were compared (none: not
    at all).

    `runs` must stand in order of age.
    """
    made = (Entry.of(group, notes) for group in current.by(runs, entries.key))
    rows = sorted((entry for entry in made if entry is not None), key=Entry.order)
    ranks = [1] * len(rows)
    for place in range(1, len(rows)):
        ranks[place] = ranks[place - 1] if rows[place].score == rows[place - 1].score else place + 1
    _say_what_differs(rows, ranks, notes)
    compared = _comparable(rows, notes)
    chance = _chance(rows, compared, notes)
    finished = [
        _row(entry, rank, columns, _still(entry, rank, aged, notes), reported)
        for entry, rank, columns in zip(rows, ranks, chance, strict=True)
    ]
    return finished, [entry.runs for entry in rows], rows[compared[0]].groups if compared else None


def _say_what_differs(rows: list[Entry], ranks: list[int], notes: list[str]) -> None:
    """Rows of one configuration that stay apart since something else that may change numbers differs."""
    alike: dict[str, list[int]] = {}
    for place, entry in enumerate(rows):
        record = entry.latest.record
        what = repr((_configuration(entry), record.selection, record.label, record.search.trials))
        alike.setdefault(what, []).append(place)
    for first, *others in alike.values():
        for other in others:
            differences = rows[first].latest.record.identity.differences(rows[other].latest.record.identity, *ROW)
            notes.append(
                f"{rows[first].name}: rows {ranks[first]} and {ranks[other]} stay apart: {'; '.join(differences)}"
                f" (there: row {ranks[first]}, here: row {ranks[other]})"
            )
    _say_who_shares_a_name(rows, ranks, notes)


def _say_who_shares_a_name(rows: list[Entry], ranks: list[int], notes: list[str]) -> None:
    """Rows that read the same, but were trained with other hyperparameters or settings: two searches, or one change of
    two winners.
    """
    called: dict[str, list[int]] = {}
    for place, entry in enumerate(rows):
        called.setdefault(entry.name, []).append(place)
    for first, *others in called.values():
        different = [at for at in others if _configuration(rows[at]) != _configuration(rows[first])]
        if different:
            other = rows[different[0]].latest
            found = rows[first].latest.record.identity.differences(other.record.identity, *ROW)
            places = ", ".join(str(ranks[at]) for at in (first, *different)[:_LISTED])
            notes.append(
                f"{rows[first].name}: {1 + len(different)} rows have this name (rank {places}), but were not trained"
                f" alike: {'; '.join(found)} (there: {rows[first].latest.folder}, here: {other.folder})"
            )


def _configuration(entry: Entry) -> str:
    return current.configuration(entry.latest)


def _comparable(rows: list[Entry], notes: list[str]) -> list[int]:
    """The places of the rows that have the AP of the same queries as the best of them."""
    places = [place for place, entry in enumerate(rows) if entry.ap is not None]
    same = [place for place in places if np.array_equal(rows[place].groups, rows[places[0]].groups)]
    for place in places:
        if place not in same:
            notes.append(f"{rows[place].name}: not compared: its test queries are not those of {rows[places[0]].name}")
    return same


def _chance(rows: list[Entry], places: list[int], notes: list[str]) -> list[_Columns]:
    """For each row the columns that say what chance may have done."""
    columns: list[_Columns] = [
        {name: value for key, (mean, std) in entry.spreads.items() for name, value in _columns(key, mean, std).items()}
        | {"p_vs_best": None, "rank_low": None, "rank_high": None, "letters": "", "queries_to_next": None}
        for entry in rows
    ]
    if not places:
        return columns
    ap = [rows[place].ap for place in places]
    i2t, t2i = ([pair[direction] for pair in ap if pair is not None] for direction in (0, 1))
    groups = rows[places[0]].groups
    of = {
        "map_i2t": statistics.levels(i2t, groups),
        "map_t2i": statistics.levels(t2i, groups),
        "map_mean": statistics.levels([(a + b) / 2 for a, b in zip(i2t, t2i, strict=True)], groups),
    }
    for key, found in of.items():
        halves = statistics.intervals(found)
        for place, half in zip(places, halves if halves is not None else [], strict=halves is not None):
            mean = rows[place].spreads[key][0]
            columns[place] |= {f"{key}_ci95_low": mean - half, f"{key}_ci95_high": mean + half}
    where = _where(rows)
    if not of["map_mean"].freedom:
        notes.append(
            f"{where}: no row has two seeds, so that nothing is known of what a seed changes: no intervals and no"
            " comparisons; `python -m cmh.reproduce FOLDER --seeds 3` runs more"
        )
        return columns
    compared = comparison.compare(of["map_mean"], groups.size)
    if compared is None:
        return columns
    needed = [comparison.NEVER if queries is None else queries for queries in compared.queries]
    for place, p, queries in zip(places, compared.against_best(), [*needed, None], strict=True):
        columns[place] |= {"p_vs_best": p, "queries_to_next": queries}
    if not compared.complete:
        notes.append(
            f"{where}: {len(places)} rows are more than {comparison.ALL_PAIRS}: only neighbours and the best with each"
            " are compared; no letters, no rank intervals"
        )
        return columns
    different = compared.different()
    letters = comparison.letters(different)
    for place, (low, high), shared in zip(
        places, comparison.rank_intervals(different, len(rows)), letters, strict=True
    ):
        columns[place] |= {"rank_low": low, "rank_high": high, "letters": shared}
    return columns


def _where(rows: list[Entry]) -> str:
    made = rows[0].latest.record.identity
    return f"{made.dataset}, {made.features}, {made.bits} bits"


def _columns(name: str, mean: float, std: float | None) -> _Columns:
    return {name: mean, f"{name}_std": std, f"{name}_ci95_low": None, f"{name}_ci95_high": None}


def _still(entry: Entry, rank: int, aged: current.Aged, notes: list[str]) -> str:
    """What is no longer as it was when the row was made."""
    old = aged(entry.latest)
    if old:
        what, cure = " and its ".join(old), current.again(entry.latest)
        notes.append(f"{entry.name}: row {rank} has aged: its {what} changed since; {cure}")
    return " ".join(old)


def _row(entry: Entry, rank: int, chance: _Columns, aged: str, reported: Reported) -> Row:
    latest, made = entry.latest.record, entry.latest.record.identity
    seeds = [run.record for run in entry.runs]
    i2t, t2i, source = reported.get((made.method, made.dataset, made.bits)) or (None, None, None)
    leak, dead = ("; ".join(dict.fromkeys(line for one in seeds for line in one.audits[name])) for name in AUDITS)
    return Row(
        dataset=made.dataset,
        features=made.features,
        protocol=latest.protocol,
        bits=made.bits,
        rank=rank,
        method=made.method,
        selection=latest.selection,
        n_seeds=len(seeds),
        trials=latest.search.trials,
        epochs=made.epochs,
        seconds=float(max(one.search.seconds for one in seeds) + sum(one.training.seconds for one in seeds)),
        reported_i2t=i2t,
        reported_t2i=t2i,
        reported_source=source,
        test_opened=entry.test_opened,
        tie_rule=latest.tie_rule,
        split=made.split_sha256[:12],
        commit=latest.commit[:12],
        date=latest.date,
        label=latest.label,
        passes=float(max(one.search.passes for one in seeds)),
        search_device_seconds=float(max(one.search.device_seconds for one in seeds)),
        training_device_seconds=float(sum(one.training.device_seconds for one in seeds)),
        split_opened=entry.split_opened,
        leak=leak,
        dead=dead,
        aged=aged,
        prior=latest.prior,
        **chance,
    )
