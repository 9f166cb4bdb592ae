"""Who wins where the best trials of a search are trained again with further seeds: successive halving over seeds.

The `finalists` best trials get a further seed on validation; the better half of these is brought to two, their better
half to four, until one is left. A round compares trials by the mean of all their seeds, the search's own included:
all have equally many, so that luck at selection is outvoted. A mean that is to be shown leaves the search's seed out,
as that one was the best of many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from statistics import mean

from cmh.study.trial_row import TrialRow

FIRST_SEED = 1001  # above the study's; the confirmation's begin at 1 and stay fresh


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far the rounds have come: the winner as it stands after the last whole one, and the (trial, seed) runs that
    the next one lacks; none: the winner is final."""

    winner: TrialRow | None
    missing: tuple[tuple[int, int], ...] = ()


def rounds(finalists: int) -> Iterator[tuple[int, int]]:
    """Of each round: how many trials are in it, and how many further seeds each of them has at its end."""
    left, seeds = finalists, 1
    while left > 1:
        yield left, seeds
        left, seeds = (left + 1) // 2, 2 * seeds


def runs(finalists: int) -> int:
    """How many trainings the rounds make in all."""
    total, had = 0, 0
    for left, seeds in rounds(finalists):
        total, had = total + left * (seeds - had), seeds
    return total


def best(rows: Iterable[TrialRow], most: int) -> list[TrialRow]:
    """The completed trials with the highest validation MAP, of equal ones the first; each configuration once."""
    found: dict[int, TrialRow] = {}  # by the trial that was trained
    for row in sorted(rows, key=lambda row: (-(row.val_map_best or 0.0), row.number)):
        if row.completed:
            found.setdefault(row.number if row.copied_from is None else row.copied_from, row)
    return list(found.values())[:most]


def standing(
    rows: Iterable[TrialRow], finalists: int, values: Mapping[tuple[int, int], float | None], seed: int
) -> Standing:
    """Who wins by what is known; `values` has the validation MAP of (trial, seed) runs, None of one that failed.

    `seed` is the study's. A trial that fails with a further seed stands behind all that did not.
    """
    left = best(rows, max(finalists, 1))
    if not left:
        return Standing(None)
    for _, seeds in rounds(len(left)):
        wanted = range(seed + FIRST_SEED, seed + FIRST_SEED + seeds)
        if missing := [(row.number, one) for row in left for one in wanted if (row.number, one) not in values]:
            return Standing(left[0], tuple(missing))
        means = {row.number: _mean([row.val_map_best, *(values[row.number, one] for one in wanted)]) for row in left}
        left = sorted(left, key=lambda row: (-means[row.number], row.number))[: (len(left) + 1) // 2]
    return Standing(left[0])


def _mean(values: Iterable[float | None]) -> float:
    return mean(float("-inf") if value is None else value for value in values)
