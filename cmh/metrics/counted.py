"""Metrics from two histograms a query: the items at each Hamming distance, and the relevant ones among them.

Unchecked: `ranking` checks its callers' matrices, `ranked` their words. Shapes: histograms are `(n_query, bits + 1)`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def mean(values: Floats) -> float:
    """The mean of `(n,)` values, correctly rounded, so that their order does not matter."""
    return math.fsum(values) / len(values)


def average_precision(all_counts: Counts, relevant_counts: Counts, k: int | None, ties: str) -> Floats:
    """Of each query, `(n_query,)`, under a rule for ties other than `index`.

    Closed forms; all arrays are `(n_query, bits + 1)`, one column a tie class.

    Write N and P for the items and the relevant items nearer than a class, n and r for those in it, and H(m) for
    1 + 1/2 + … + 1/m. The j-th item of the class stands at rank N + j, and the precision there, if it is relevant, is
    (P + 1 + relevant items before it in the class) / (N + j).

    Expected: the item is relevant with probability r / n, and then (j - 1) b of those before it are,
    b = (r - 1) / (n - 1). As P + 1 + (j - 1) b = b (N + j) + P + 1 - b (N + 1), the class adds

        r / n · [b m + (P + 1 - b (N + 1)) (H(N + m) - H(N))],

    where its first m items count: all n without k, and min(n, k - N) in the class that straddles k.

    Best and worst order: the relevant items stand together, in front or at the end of the class. With S items before
    the first, the j-th of them has precision (P + j) / (S + j) = 1 + (P - S) / (S + j), and the class adds
    m + (P - S) (H(S + m) - H(S)), where m of them stand at ranks up to k.
    """
    last = _last(all_counts, k)
    before = _before(all_counts)
    relevant_before = _before(relevant_counts)
    n_relevant = relevant_counts.sum(axis=1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, all_counts.sum(axis=1).max() + 1))])
    if ties == "expected":
        counted = np.clip(last - before, 0, all_counts)
        slope = ratio(relevant_counts - 1, all_counts - 1)
        steps = harmonic[before + counted] - harmonic[before]
        inside = slope * counted + (relevant_before + 1 - slope * (before + 1)) * steps
        sums = ratio(relevant_counts, all_counts) * inside
    else:
        start = before if ties == "optimistic" else before + all_counts - relevant_counts
        counted = np.clip(last - start, 0, relevant_counts)
        sums = counted + (relevant_before - start) * (harmonic[start + counted] - harmonic[start])
    return ratio(sums.sum(axis=1), np.minimum(last, n_relevant))


def found_at(all_counts: Counts, relevant_counts: Counts, k: int) -> Floats:
    """How many relevant items stand among the first k, `(n_query,)`: the mean over all orders of tied items."""
    counted = np.clip(_last(all_counts, k) - _before(all_counts), 0, all_counts)
    found: Floats = (ratio(relevant_counts, all_counts) * counted).sum(axis=1)
    return found


def ndcg(all_counts: Counts, relevant_counts: Counts, k: int | None) -> Floats:
    """Of each query, `(n_query,)`; the mean over all orders of tied items."""
    last = _last(all_counts, k)
    before = _before(all_counts)
    counted = np.clip(last - before, 0, all_counts)
    total = np.concatenate([[0.0], np.cumsum(1 / np.log2(2 + np.arange(all_counts.sum(axis=1).max())))])
    # An item of a tie class is equally likely at each of its ranks, so all get the mean discount of these.
    gain = (ratio(relevant_counts, all_counts) * (total[before + counted] - total[before])).sum(axis=1)
    return ratio(gain, total[np.minimum(last, relevant_counts.sum(axis=1))])


def within(all_counts: Counts, relevant_counts: Counts) -> tuple[Floats, Floats]:
    """Precision and recall of each query within each radius, `(n_query, bits + 1)`."""
    found = relevant_counts.cumsum(axis=1)
    return ratio(found, all_counts.cumsum(axis=1)), ratio(found, found[:, -1:])


def curve_by_radius(all_counts: Counts, relevant_counts: Counts, kept: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean precision and recall within each radius `(bits + 1,)`, of the queries that are `kept` `(n_query, bits + 1)`
    there; 0 where none is.
    """
    precision, recall = (
        ratio((values * kept).sum(axis=0), kept.sum(axis=0)) for values in within(all_counts, relevant_counts)
    )
    return precision, recall


def curve_by_rank(all_counts: Counts, relevant_counts: Counts, *, drop: bool) -> tuple[Counts, Floats, Floats]:
    """Ranks 1, 2, 5, 10, … and the last one, with mean precision and recall there, three arrays of one length; the mean
    over all orders of tied items, and with `drop` over the queries that have a relevant item only.
    """
    n, total = int(all_counts[0].sum()), relevant_counts.sum(axis=1)
    steps = [m * 10**power for power in range(len(str(n))) for m in (1, 2, 5)]
    ranks = np.array([*(rank for rank in steps if rank < n), n])
    kept = total > 0 if drop else np.ones(len(total), bool)
    found = np.array([found_at(all_counts, relevant_counts, int(k)) for k in ranks])  # (ranks, n_query)
    precision, recall = (
        ratio(values[:, kept].sum(axis=1), kept.sum()) for values in (found / ranks[:, None], ratio(found, total))
    )
    return ranks, precision, recall


def _last(all_counts: Counts, k: int | None) -> int:
    """The last rank that counts; never beyond the database, so that sums over ranks stay short."""
    longest = int(all_counts.sum(axis=1).max())
    return longest if k is None else min(int(k), longest)


def _before(counts: Counts) -> Counts:
    """How many items are nearer than each distance, `(n_query, bits + 1)`."""
    before: Counts = counts.cumsum(axis=1) - counts
    return before


def ratio(top: Counts | Floats, bottom: Counts | Floats) -> Floats:
    """top / bottom, and 0 where bottom is 0 or less; of any shapes that go together, in the larger one."""
    top, bottom = np.broadcast_arrays(top, bottom)
    ratio = np.zeros(top.shape)
    np.divide(top, bottom, out=ratio, where=bottom > 0)
    return ratio
