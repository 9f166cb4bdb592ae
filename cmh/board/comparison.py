"""Which rows of a table differ: all pairs tested together, and what follows for their ranks.

The statistic of a pair is its difference over its standard error, `seed variance of both rows + Σ (difference of the
groups' contributions)²`. The p-values are adjusted for the number of pairs by the step-down maximum of Westfall and
Young (Resampling-based multiple testing, 1993, algorithm 2.8): each pair is compared with the largest statistic among
all pairs that are not clearer than it, over the same draws (`statistics.deviations`).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from cmh.board.statistics import DRAWS, LEVEL, Floats, Levels, deviations

ALL_PAIRS = 100  # rows; of more only the best with each, and neighbours, are compared
_POWER = 0.8416212335729143  # of the normal distribution: 80 % are below
NEVER = "more seeds"  # in place of a number of queries: the seeds alone are too uncertain
_CHUNK = 1 << 22  # numbers at once
_ROUNDING = 1e-5  # of single precision: a draw that is the observed one again must count


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The compared pairs (first, second) of a table's rows, which stand in order of their means, best first."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    p: Floats  # adjusted for all compared pairs
    queries: list[int | None]  # between each row and the next: how many test queries would tell them apart
    complete: bool  # all pairs were compared

    def different(self) -> NDArray[np.bool_]:
        """(rows, rows): True where two rows differ."""
        n = len(self.queries) + 1
        found = np.zeros((n, n), dtype=np.bool_)
        found[self.first, self.second] = self.p <= LEVEL
        return found | found.T

    def against_best(self) -> list[float | None]:
        """The p-value of each row against the first."""
        best = {int(row): float(p) for a, row, p in zip(self.first, self.second, self.p, strict=True) if a == 0}
        return [best.get(row) for row in range(len(self.queries) + 1)]


def compare(found: Levels, n_queries: int) -> Comparison | None:
    """Compare the rows with each other; None where nothing is known of seeds, or there is one row.

    The rows must stand in order of their means, best first.
    """
    n = found.means.size
    if not found.freedom or n < 2:
        return None
    first, second = _pairs(n)
    difference = found.means[first] - found.means[second]
    from_seeds = found.seed_variance[first] + found.seed_variance[second]
    from_queries = _distances(found.contributions, first, second)
    error = np.sqrt(from_seeds + from_queries)
    error[error == 0] = 1.0  # two copies of one run: the difference is 0, too
    observed = np.abs(difference) / error
    p, critical = _step_down(observed, deviations(found, centred=False), first, second, error)
    neighbours = np.flatnonzero(second == first + 1)
    neighbours = neighbours[np.argsort(first[neighbours])]
    queries = [
        _needed(difference[at], from_seeds[at], from_queries[at], critical, n_queries) for at in neighbours.tolist()
    ]
    return Comparison(first, second, p, queries, n <= ALL_PAIRS)


def _pairs(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    if n <= ALL_PAIRS:
        first, second = np.triu_indices(n, 1)
        return first, second
    with_best, neighbours = np.arange(1, n), np.arange(1, n - 1)
    return np.r_[0 * with_best, neighbours], np.r_[with_best, neighbours + 1]


def _distances(rows: Floats, first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
    """Σ (row of first - row of second)² for each pair."""
    step = max(_CHUNK // rows.shape[1], 1)
    parts = [((rows[first[at : at + step]] - rows[second[at : at + step]]) ** 2).sum(axis=1)
             for at in range(0, first.size, step)]  # fmt: skip
    return np.concatenate(parts)


def _step_down(
    observed: Floats, drawn: NDArray[np.float32], first: NDArray[np.intp], second: NDArray[np.intp], error: Floats
) -> tuple[Floats, float]:
    """The adjusted p-values, and what the largest statistic of equal rows exceeds in 5 % of the draws."""
    order = np.argsort(observed, kind="stable")
    reached = (observed[order] * (1 - _ROUNDING)).astype(np.float32)[:, None]
    scale = (1 / error[order]).astype(np.float32)[:, None]
    exceed = np.zeros(observed.size)
    largest = []
    step = max(_CHUNK // observed.size, 1)
    for at in range(0, DRAWS, step):
        some = drawn[:, at : at + step]
        statistic = some[first[order]]
        statistic -= some[second[order]]
        np.abs(statistic, out=statistic)
        statistic *= scale
        np.maximum.accumulate(statistic, axis=0, out=statistic)
        exceed += np.count_nonzero(statistic >= reached, axis=1)
        largest.append(statistic[-1])
    p = np.empty(observed.size)
    p[order] = np.maximum.accumulate(((1 + exceed) / (1 + DRAWS))[::-1])[::-1]  # a clearer pair has no larger p
    place = math.ceil((1 - LEVEL) * (DRAWS + 1)) - 1
    return p, float(np.sort(np.concatenate(largest))[place])


def _needed(difference: float, from_seeds: float, from_queries: float, critical: float, n_queries: int) -> int | None:
    """How many queries find the difference in 80 of 100 tests, if it is what was observed; None if no number does.

    The part of the variance that comes from queries falls with their number, that of the seeds does not. A difference
    of d is found where d / standard error is the critical value and the normal distribution's 80 % beyond it.
    """
    allowed = (difference / (critical + _POWER)) ** 2 - from_seeds
    if allowed <= 0:
        return None
    return max(math.ceil(n_queries * from_queries / allowed), 1)


def rank_intervals(different: NDArray[np.bool_], n_rows: int) -> list[tuple[int, int]]:
    """The first and the last rank that each compared row may have in a table of `n_rows`.

    It stands below the rows that are better and above the worse. The compared rows stand in order of their means; rows
    that were not compared may stand anywhere.
    """
    better, worse = np.tril(different).sum(axis=1), np.triu(different).sum(axis=1)
    return [(1 + int(above), n_rows - int(below)) for above, below in zip(better, worse, strict=True)]


def letters(different: NDArray[np.bool_]) -> list[str]:
    """Letters such that two rows share one exactly where they do not differ; the first row has an a.

    Insert and absorb (Piepho, Journal of Computational and Graphical Statistics 13, 2004): start with one letter for
    all rows; each pair that differs splits the letters that hold both; a letter whose rows another holds goes.
    """
    n = len(different)
    columns = [(1 << n) - 1]  # sets of rows as bits
    for a in range(n):
        for b in range(a + 1, n):
            if not different[a, b]:
                continue
            pair = 1 << a | 1 << b
            split = [column & ~(1 << row) for column in columns if column & pair == pair for row in (a, b)]
            kept = [column for column in columns if column & pair != pair]
            for column in sorted(split, key=int.bit_count, reverse=True):
                if not any(column & other == column for other in kept):
                    kept.append(column)
            columns = kept
    # by the best row that has it, the longest reach first
    columns.sort(key=lambda column: [not column >> row & 1 for row in range(n)])
    names = [_letter(number) for number in range(len(columns))]
    return ["".join(name for name, column in zip(names, columns, strict=True) if column >> row & 1) for row in range(n)]


def _letter(number: int) -> str:
    """a … z, then a1 … z1 and so on."""
    turn, place = divmod(number, 26)
    return chr(ord("a") + place) + (str(turn) if turn else "")
