"""The table that closes a study: the winner beside chance, the controls and the known-good points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from cmh import files, ledger, methods, records
from cmh.board.statistics import intervals, levels
from cmh.records import Record
from cmh.study import aside, weights

if TYPE_CHECKING:
    from cmh.study.outcome import Outcome, Scores

# Origin of a trial, and its name in the table.
KNOWN_GOOD = {"paper": "paper setting", "default": "library default", "from": "winner of --from"}
DEFAULTS_SET_ON = "clipart"  # whose validation split the library's defaults were set by hand on


def table(outcome: Outcome) -> str:
    """The outcome of a study as text.

    Raises RecordError where the AP of the queries cannot be read, LedgerError where a ledger cannot be.
    """
    study, where = outcome.study, files.short(outcome.study.folder)
    lines = [
        "",
        f"{study.space.method} on {study.dataset.name}, {study.bits} bits, {study.space.epochs} epochs;"
        " tie-expected MAP over the whole database",
        f"{'':<24}{'validation':^24}{'test':^32}".rstrip(),
        f"{'':<24}{'i→t':>8}{'t→i':>8}{'mean':>8}{'i→t':>8}{'t→i':>8}{'mean':>8}".rstrip(),
    ]
    for name, scores in _validation(outcome):
        lines.append(f"{name:<24}" + "".join(f"{'-' if value is None else f'{value:.4f}':>8}" for value in scores))
    if outcome.records:
        numbers, about = _test(outcome)
        lines[-1] += numbers
        lines.append(about)
    lines += [*_optimism(outcome), *about_default(study.dataset.name, study.space.method, study.prior)]
    lines += [
        "",
        f"every trial           {where}/trials.csv",
        f"the winner's weights  {_weights(outcome)}",
        f"reproduce the winner  python -m cmh.reproduce {files.quoted(study.folder)}",
        *([f"search with it        python -m cmh.search {files.quoted(study.folder)} TEXT"] if outcome.records else []),
        f"see the board         python -m cmh.leaderboard {files.quoted(study.folder.parent)}",
        "",
    ]
    return "\n".join(lines)


def _weights(outcome: Outcome) -> str:
    """Where they lie: those that were tested, else those of its trial."""
    from cmh.training import checkpoint  # late: the report of a study needs no torch

    study, number = outcome.study.folder, outcome.best.number
    if outcome.records:
        seeds = ", ".join(str(record.identity.seed) for record in outcome.records)
        return f"{files.short(study / 'confirm')}/{number}-SEED/{checkpoint.NAME} (seeds {seeds})"
    return files.short(weights.place(study, outcome.best) / checkpoint.NAME)


def _validation(outcome: Outcome) -> Iterator[tuple[str, Scores]]:
    """Names and validation MAPs, the winner's last."""
    yield from outcome.controls.items()
    by_origin = {row.origin: row for row in outcome.rows}
    control = outcome.asides.get(aside.CONTROL)
    for origin, name in KNOWN_GOOD.items():
        if origin == aside.CONTROL and control is not None:
            yield name + " (failed)" * bool(control.error), (control.val_map_i2t, control.val_map_t2i, control.val_map)
        elif origin in by_origin:
            row = by_origin[origin]
            note = "" if row.state == "complete" else f" ({row.state})"
            yield name + note, (row.val_map_i2t, row.val_map_t2i, row.val_map_best)
    best = outcome.best
    yield f"tuned (trial {best.number})", (best.val_map_i2t, best.val_map_t2i, best.val_map_best)


def about_default(dataset: str, method: str, prior: str) -> list[str]:
    """What one should know of the library's default beside a search: what it was set on, and whether it began there."""
    lines = []
    if method in methods.names():
        here = ", of this or an earlier version: no fresh value here" if dataset == DEFAULTS_SET_ON else ""
        lines.append(f"library default: set by hand on the validation split of {DEFAULTS_SET_ON}{here}")
    if "defaults" in prior:
        lines.append("the search started from it (a prior): tuned is not the search's merit alone")
    return lines


def _optimism(outcome: Outcome) -> list[str]:
    """The winner's value where it was selected, and what fresh seeds have on the same queries."""
    best = outcome.best
    if best.val_map_best is None:
        return []
    further = [one for one in outcome.asides.values() if one.trial == best.number and one.val_map is not None]
    parts = [f"{best.val_map_best:.4f} where it was selected"]
    if further:
        named = mean(one.val_map for one in further if one.val_map is not None)
        parts.append(f"{named:.4f} with {_seeds(len(further), 'further')}, which named it")
    if outcome.records:
        fresh = mean(record.validation["map"] for record in outcome.records)
        seeds = _seeds(len(outcome.records), "fresh")
        parts.append(f"{fresh:.4f} with {seeds} (optimism {best.val_map_best - fresh:+.4f})")
    return [f"validation of trial {best.number}: {', '.join(parts)}"] if len(parts) > 1 else []


def _seeds(count: int, kind: str) -> str:
    return f"{count} {kind} seed{'s' * (count > 1)}"


def _test(outcome: Outcome) -> tuple[str, str]:
    """The winner's test MAPs, which follow in its line, and the line below that says what they are."""
    found, study = outcome.records, outcome.study
    numbers = "".join(f"{mean(record.test[key] for record in found):>8.4f}" for key in ("map_i2t", "map_t2i", "map"))
    half = half_interval(study.folder, list(found))
    split = study.dataset.name, study.dataset.split_sha256
    opened, by_all = (  # also after these records were made
        len(ledger.openings(file, split)) for file in (study.folder / ledger.OWN, ledger.path(*split))
    )
    about = (
        f"test: mean of {len(found)} seed{'s' * (len(found) > 1)}"
        f"{'' if half is None else ' (± half of the 95 % interval over seeds and queries)'}; test split"
        f" opened {opened}× by this study, {by_all}× by all"
    )
    return numbers + ("" if half is None else f" ± {half:.4f}"), about


def half_interval(folder: Path, found: list[Record]) -> float | None:
    """Half of the 95 % interval of the records' mean test MAP, from these seeds alone (a board pools what seeds change
    over its rows); None for one seed."""
    queries = [records.per_query(folder, record) for record in found]
    half = intervals(levels([np.stack([(ap.i2t + ap.t2i) / 2 for ap in queries])], queries[0].groups))
    return None if half is None else float(half[0])
