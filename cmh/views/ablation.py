"""The table of an ablation: the whole method, then each component taken out, and what that costs."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from cmh import files, records
from cmh.board.statistics import DRAWS, LEVEL, deviations, levels, spread
from cmh.study.outcome import Outcome

NAME = "ablation.csv"  # in the folder of the whole method's study
COLUMNS = (
    *("method", "dataset", "bits", "without", "study", "trials", "selected_val_map", "n_seeds"),
    *("val_map", "val_map_std", "val_map_difference", "val_map_difference_ci95"),
    *("test_map", "test_map_difference", "test_map_difference_ci95"),
)


@dataclasses.dataclass(frozen=True)
class Difference:
    """From the whole method, and half of its 95 % interval; None where there are too few seeds."""

    value: float
    half: float | None

    def text(self) -> str:
        """As the table shows it."""
        return f"{self.value:+.4f}" + ("" if self.half is None else f" ± {self.half:.4f}")


@dataclasses.dataclass(frozen=True)
class Row:
    """A study of an ablation: the winner that its search has selected, with fresh seeds."""

    outcome: Outcome
    validation: Sequence[float]  # MAP of each seed
    test: Any = None  # AP (seeds, queries), where the test split was opened
    groups: Any = None  # of its queries


def rows(searched: Sequence[Outcome], seeds: Mapping[str, Outcome]) -> list[Row]:
    """The studies of one ablation; `seeds` has the fresh seeds on validation, by the study's folder, of those that were
    not tested. Raises RecordError where the AP of the queries cannot be read."""
    found = []
    for outcome in searched:
        if outcome.records:
            ap = [records.per_query(outcome.study.folder, record) for record in outcome.records]
            both = np.stack([(one.i2t + one.t2i) / 2 for one in ap])
            found.append(Row(outcome, [record.validation["map"] for record in outcome.records], both, ap[0].groups))
            continue
        again = seeds.get(str(outcome.study.folder))
        trained = [row for row in again.rows if row.completed] if again is not None else []
        found.append(Row(outcome, [row.val_map_best or 0.0 for row in trained]))
    return found


def on_validation(whole: Sequence[float], without: Sequence[float]) -> Difference | None:
    """Of the means over seeds, with Welch's interval: it knows of seeds alone. None where one has no run."""
    if not whole or not without:
        return None
    value = mean(without) - mean(whole)
    if min(len(whole), len(without)) < 2:
        return Difference(value, None)
    if len(set(whole)) == len(set(without)) == 1:  # a closed form: seeds change nothing
        return Difference(value, 0.0)
    from scipy.stats import ttest_ind

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nearly equal runs
        interval = ttest_ind(without, whole, equal_var=False).confidence_interval(1 - LEVEL)
    half = float(interval.high - interval.low) / 2
    return Difference(value, half if math.isfinite(half) else None)


def on_test(whole: Row, without: Row) -> Difference | None:
    """Of the mean test MAPs, with an interval over seeds and groups of queries, as boards have it."""
    if whole.test is None or without.test is None:
        return None
    found = levels([without.test, whole.test], without.groups)
    value = float(found.means[0] - found.means[1])
    if not found.freedom or found.sizes.size < 2:
        return Difference(value, None)
    drawn = deviations(found, centred=True)
    place = math.ceil((1 - LEVEL) * (DRAWS + 1)) - 1
    return Difference(value, float(np.partition(np.abs(drawn[0] - drawn[1]), place)[place]))


def table(found: Sequence[Row]) -> str:
    """The ablation as text: the whole method first."""
    whole = found[0]
    study, tested = whole.outcome.study, any(row.test is not None for row in found)
    names = [row.outcome.study.label.replace("=", " = ") or "whole method" for row in found]
    width = max(map(len, names)) + 2
    head = f"{'':<{width}}{'selected':>9}  {'fresh seeds':<19}{'difference':<20}"
    lines = [
        "",
        f"{study.space.method} on {study.dataset.name}, {study.bits} bits, without its components; validation MAP, each"
        f" searched with {study.limit} trials of {study.space.epochs} epochs",
        (head + ("  test     difference" if tested else "")).rstrip(),
    ]
    for name, row in zip(names, found, strict=True):
        line = f"{name:<{width}}{row.outcome.best.val_map_best or 0.0:>9.4f}  {_spread(row.validation):<19}"
        ours, tests = _differences(whole, row)
        line += f"{'' if ours is None else ours.text():<20}"
        if row.test is not None:
            line += f"{float(np.mean(row.test)):>8.4f}   {'' if tests is None else tests.text()}"
        lines.append(line.rstrip())
    about = "fresh seeds: mean ± standard deviation; difference: with half of its 95 % interval, over seeds"
    lines.append(f"{about}{', on test over seeds and queries' if tested else '; the test split stayed closed'}")
    return "\n".join([*lines, "", f"these numbers  {files.short(study.folder / NAME)}", ""])


def _differences(whole: Row, row: Row) -> tuple[Difference | None, Difference | None]:
    """On validation and on test; none of the whole from itself."""
    return (None, None) if row is whole else (on_validation(whole.validation, row.validation), on_test(whole, row))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle, std = spread(values)
    return f"{middle:.4f}" + ("" if std is None else f" ± {std:.4f}")


def write(found: Sequence[Row]) -> None:
    """The ablation as CSV in the folder of the whole method's study."""
    whole, buffer = found[0], io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in found:
        study = row.outcome.study
        middle, std = spread(row.validation) if row.validation else (None, None)
        ours, tested = _differences(whole, row)
        values = [study.space.method, study.dataset.name, study.bits, study.label, study.folder.name, study.limit]
        values += [row.outcome.best.val_map_best, len(row.validation), middle, std]
        values += [None, None] if ours is None else [ours.value, ours.half]
        values += [None if row.test is None else float(np.mean(row.test))]
        values += [None, None] if tested is None else [tested.value, tested.half]
        writer.writerow(["" if value is None else value for value in values])
    files.write_atomic(whole.outcome.study.folder / NAME, buffer.getvalue())
