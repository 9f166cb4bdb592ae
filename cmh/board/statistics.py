"""What a board says about chance. A number may be off for two reasons: the test queries, and the seeds of training.

The average precision of row r, seed s and query group g (near-duplicate queries are one group) is thought of as

    x_rsg = mean_r + seed_rs + query_rg + both_rsg

`seed_rs` moves all queries of one run together, so no number of queries makes it smaller; `query_rg` moves all seeds
of a row together. An interval or a test that knows only one of the two finds differences between equal methods.

*Seeds.* What the run means of a row vary by, less what `both` alone would make them vary by. Three runs say little
about it, so the runs of all rows of a table are pooled, as in an analysis of variance; a row whose own runs scatter
more than that keeps its own variance. Rows with one run get the pooled one. Without two runs of any row nothing is
known of seeds, and there are neither intervals nor comparisons.

*Queries.* One random sign for each group, the same for all rows (the wild bootstrap: Liu, Annals of Statistics 16,
1988; by groups: Cameron, Gelbach and Miller, Review of Economics and Statistics 90, 2008).

A draw of both levels together is `signs · contributions of the groups + t · seed deviation`: three seeds cannot be
drawn again with replacement (that would give ten samples, of two thirds of the variance), so that level is drawn from a
t distribution. It has half the degrees of freedom of the pooled variance (of two rows, those of one; a row alone has
its own): with all of them, tables whose rows scatter differently show more than 5 % of errors.
`experiments/benchmarks/board_errors.py` measures how often tables of equal methods show a difference, and how often
intervals hold the truth.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cmh.seeding import derive

DRAWS = 999
LEVEL = 0.05  # of intervals, and of the comparisons of a table together

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds; one seed says nothing about spread."""

    mean: float
    std: float | None
    low: float | None
    high: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation (ddof 1) and 95 % t-interval of one number per seed. It knows nothing of the queries."""
    n = len(values)
    mean, std = spread(values)
    if std is None:
        return Estimate(mean, None, None, None)
    from scipy.special import stdtrit  # late: boards do without

    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * std / math.sqrt(n)
    return Estimate(mean, std, mean - half, mean + half)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (ddof 1) of one number per seed; none of one seed."""
    n = len(values)
    mean = math.fsum(values) / n
    return mean, None if n == 1 else math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))


@dataclasses.dataclass(frozen=True)
class Levels:
    """What one number of the rows of a table is made of; everything about queries is in shares of the mean."""

    means: Floats  # (rows,)
    contributions: Floats  # (rows, groups): of each group to a row's mean, which is their sum
    sizes: Floats  # (groups,): the share of the queries that are in it
    seed_variance: Floats  # (rows,): of a row's mean, from its seeds alone; NaN where no row has two
    freedom: float  # degrees of freedom with which it is drawn; 0 where no row has two seeds


def levels(runs: Sequence[Floats], groups: NDArray[np.integer]) -> Levels:
    """Take the AP of all runs apart: `runs` has one array `(seeds, queries)` a row, `groups` a number a query."""
    n_queries = groups.size
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    counts = np.array([len(row) for row in runs])
    stacked = np.concatenate(runs)[:, order]
    sums = np.add.reduceat(stacked, starts, axis=1) / n_queries  # (runs, groups)
    sizes = np.diff(np.r_[starts, n_queries]) / n_queries
    first = np.r_[0, np.cumsum(counts)[:-1]]  # run of each row
    of_rows = np.add.reduceat(sums, first, axis=0) / counts[:, None]
    means = of_rows.sum(axis=1)
    row = np.repeat(np.arange(len(runs)), counts)
    deviation = sums.sum(axis=1) - means[row]  # of a run from its row
    freedom = counts - 1
    total = int(freedom.sum())
    if not total:
        return Levels(means, of_rows, sizes, np.full(len(runs), np.nan), 0.0)
    between = np.add.reduceat(deviation**2, first)
    both = sums - of_rows[row] - deviation[:, None] * sizes
    small = starts.size / max(starts.size - 1, 1)
    within = np.add.reduceat((both**2).sum(axis=1), first) * small  # what `both` alone would give `between`
    pooled = max(float((between - within).sum()) / total, 0.0)
    own = (between - within) / np.maximum(freedom, 1)
    trusted = max(total / 2, 1.0) if len(runs) > 1 else float(total)  # a row alone does not scatter unlike others
    return Levels(means, of_rows, sizes, np.maximum(own, pooled) / counts, trusted)


def deviations(found: Levels, *, centred: bool) -> NDArray[np.float32]:
    """`(rows, DRAWS)` draws of how far the means may be off, both levels together.

    Centred, each row varies around its own mean. Otherwise only differences between rows have a meaning: they vary
    around zero, as those of equal rows would, which makes the test that of sign flips.
    """
    signs = _signs(found.sizes.size)
    if centred:
        n_groups = found.sizes.size
        parts = (found.contributions - found.means[:, None] * found.sizes) * math.sqrt(n_groups / max(n_groups - 1, 1))
    else:
        parts = found.contributions - found.contributions.mean(axis=0)
    drawn: NDArray[np.float32] = parts.astype(np.float32) @ signs
    drawn += np.sqrt(found.seed_variance).astype(np.float32)[:, None] * _t(found.means.size, found.freedom)
    return drawn


def intervals(found: Levels) -> Floats | None:
    """Half of the 95 % interval of each mean `(rows,)`; None where seeds or groups of queries are too few to say."""
    if not found.freedom or found.sizes.size < 2:
        return None
    drawn = np.abs(deviations(found, centred=True))
    place = math.ceil((1 - LEVEL) * (DRAWS + 1)) - 1
    return np.partition(drawn, place, axis=1)[:, place].astype(np.float64)


@functools.lru_cache(maxsize=8)
def _signs(n_groups: int) -> NDArray[np.float32]:
    """(groups, DRAWS) of -1 and 1: the same for all tables with as many groups."""
    random = np.random.default_rng(derive(0, "leaderboard", "signs"))
    return 2 * random.integers(0, 2, (n_groups, DRAWS), dtype=np.int8).astype(np.float32) - 1


@functools.lru_cache(maxsize=8)
def _t(n_rows: int, freedom: float) -> NDArray[np.float32]:
    """(rows, DRAWS) of a t distribution."""
    random = np.random.default_rng(derive(0, "leaderboard", "seeds"))
    scale = np.sqrt(freedom / random.chisquare(freedom, (n_rows, DRAWS)))
    return (random.standard_normal((n_rows, DRAWS)) * scale).astype(np.float32)
