"""Retrieval quality of ±1 codes ranked by Hamming distance.

An item is relevant to a query if they share a label. Short codes leave thousands of items at one distance, and a
ranking must put these in some order; by default a metric here is the mean over all orders of tied items, in closed
form, so the number depends neither on the order of the database nor on a sorting routine (McSherry and Najork,
"Computing information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008; He et al.,
"Hashing as tie-aware learning to rank", CVPR 2018). All that is needed are two histograms a query: the items at each
distance, and the relevant ones among them.

Arguments that all functions share:

query_codes `(n_query, bits)`, database_codes `(n_database, bits)`: +1 or -1; NumPy arrays or torch tensors. Tensors
    that lie on a GPU are counted there, the rest by a compiled kernel on the CPU. Both give the same integers.
query_labels `(n_query, c)`, database_labels `(n_database, c)`: 0 or 1.
k: only the first k ranks count; None is the whole database. It may exceed the database.
ties: `expected`, the mean over all orders of tied items; `optimistic` and `pessimistic`, the best and the worst order;
    `index`, the order of the database, as a stable sort leaves it.

A query that has no relevant item in the database counts 0 in every mean. Everything wrong with a call is raised as one
MetricError.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cmh.metrics import _checks
from cmh.metrics.codes import words

if TYPE_CHECKING:
    from cmh.metrics._checks import Matrix

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Ties = Literal["expected", "optimistic", "pessimistic", "index"]


def mean_average_precision(
    query_codes: Matrix,
    database_codes: Matrix,
    query_labels: Matrix,
    database_labels: Matrix,
    *,
    k: int | None = None,
    ties: Ties = "expected",
) -> float:
    """MAP, or MAP@k: the mean of `average_precision` over queries, the same to the last digit in any order of them."""
    return mean(average_precision(query_codes, database_codes, query_labels, database_labels, k=k, ties=ties))


def average_precision(
    query_codes: Matrix,
    database_codes: Matrix,
    query_labels: Matrix,
    database_labels: Matrix,
    *,
    k: int | None = None,
    ties: Ties = "expected",
) -> Floats:
    """Average precision of each query, `(n_query,)`: the sum of precisions at relevant items within the first k ranks,
    divided by min(k, R), where R items of the database are relevant. `legacy` has the other divisors in use.
    """
    _checks.refuse(
        [
            *_checks.ranking_problems(query_codes, database_codes, query_labels, database_labels),
            *_checks.cut_problems(k),
            *_checks.ties_problems(ties),
        ]
    )
    if ties == "index":
        packed = packed_matrices(query_codes, database_codes, query_labels, database_labels)
        return _index_average_precision(*packed, query_codes.shape[1], k)
    counts = _count(query_codes, database_codes, query_labels, database_labels)
    return _average_precision(*counts, k, ties)


def average_precision_packed(
    query_words: NDArray[np.uint64],
    database_words: NDArray[np.uint64],
    query_label_words: NDArray[np.uint64],
    database_label_words: NDArray[np.uint64],
    bits: int,
    *,
    k: int | None = None,
    ties: Ties = "expected",
) -> Floats:
    """`average_precision` of codes and labels that `pack_codes` and `pack_labels` have packed.

    For loops that rank with the same labels again and again.
    """
    packed = (query_words, database_words, query_label_words, database_label_words)
    _checks.refuse([*_checks.word_problems(*packed, bits), *_checks.cut_problems(k), *_checks.ties_problems(ties)])
    if ties == "index":
        return _index_average_precision(*packed, int(bits), k)
    from cmh.metrics import _kernel

    return _average_precision(*_kernel.histograms(*packed, int(bits)), k, ties)


def average_precision_from_histograms(
    all_counts: Counts, relevant_counts: Counts, *, k: int | None = None, ties: Ties = "expected"
) -> Floats:
    """`average_precision` from what `histograms` gives; `index` is not possible, as the order is no longer known."""
    known = tuple(name for name in _checks.TIES if name != "index")
    _checks.refuse(
        [
            *_checks.histogram_problems(all_counts, relevant_counts),
            *_checks.cut_problems(k),
            *_checks.ties_problems(ties, known),
        ]
    )
    return _average_precision(all_counts.astype(np.int64), relevant_counts.astype(np.int64), k, ties)


def histograms(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix
) -> tuple[Counts, Counts]:
    """All items, and the relevant ones, at each Hamming distance from a query: two `(n_query, bits + 1)` arrays."""
    _checks.refuse(_checks.ranking_problems(query_codes, database_codes, query_labels, database_labels))
    return _count(query_codes, database_codes, query_labels, database_labels)


def precision_at(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix, k: int
) -> float:
    """The share of relevant items among the first k, mean over queries and over all orders of tied items.

    The divisor is k also where the database is smaller than that.
    """
    _checks.refuse(
        [
            *_checks.ranking_problems(query_codes, database_codes, query_labels, database_labels),
            *_checks.integer_problems("k", k),
        ]
    )
    all_counts, relevant_counts = _count(query_codes, database_codes, query_labels, database_labels)
    before = _before(all_counts)
    counted = np.clip(_last(all_counts, k) - before, 0, all_counts)
    return mean((_ratio(relevant_counts, all_counts) * counted).sum(axis=1) / k)


def precision_recall_within(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix, radius: int
) -> tuple[float, float]:
    """Precision and recall of what lies within a Hamming radius, each a mean over queries; no ties arise.

    A query that finds nothing within the radius has precision 0, one without relevant items has recall 0.
    """
    _checks.refuse(
        [
            *_checks.ranking_problems(query_codes, database_codes, query_labels, database_labels),
            *_checks.integer_problems("radius", radius, low=0),
        ]
    )
    counts = _count(query_codes, database_codes, query_labels, database_labels)
    precision, recall = _within(*counts)
    at = min(int(radius), query_codes.shape[1])
    return mean(precision[:, at]), mean(recall[:, at])


def precision_recall_curve(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix
) -> tuple[Floats, Floats]:
    """`precision_recall_within` for each radius from 0 to bits: two arrays `(bits + 1,)`."""
    precision, recall = _within(*histograms(query_codes, database_codes, query_labels, database_labels))
    return precision.mean(axis=0), recall.mean(axis=0)


def ndcg(
    query_codes: Matrix,
    database_codes: Matrix,
    query_labels: Matrix,
    database_labels: Matrix,
    *,
    k: int | None = None,
) -> float:
    """Normalised discounted cumulative gain with gain 1 for a relevant item, 0 else, and discount 1 / log2(1 + rank).

    Mean over queries and over all orders of tied items. The ideal ranking has its min(k, R) relevant items in front.
    """
    _checks.refuse(
        [
            *_checks.ranking_problems(query_codes, database_codes, query_labels, database_labels),
            *_checks.cut_problems(k),
        ]
    )
    all_counts, relevant_counts = _count(query_codes, database_codes, query_labels, database_labels)
    last = _last(all_counts, k)
    before = _before(all_counts)
    counted = np.clip(last - before, 0, all_counts)
    total = np.concatenate([[0.0], np.cumsum(1 / np.log2(2 + np.arange(all_counts.sum(axis=1).max())))])
    # An item of a tie class is equally likely at each of its ranks, so all get the mean discount of these.
    gain = (_ratio(relevant_counts, all_counts) * (total[before + counted] - total[before])).sum(axis=1)
    return mean(_ratio(gain, total[np.minimum(last, relevant_counts.sum(axis=1))]))


def mean(values: Floats) -> float:
    """The mean, correctly rounded, so that the order of the values does not matter."""
    return math.fsum(values) / len(values)


def packed_matrices(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Words of codes and labels that have been checked."""
    return (
        words(_checks.to_numpy(query_codes) > 0),
        words(_checks.to_numpy(database_codes) > 0),
        words(_checks.to_numpy(query_labels) > 0),
        words(_checks.to_numpy(database_labels) > 0),
    )


def _count(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix
) -> tuple[Counts, Counts]:
    matrices = (query_codes, database_codes, query_labels, database_labels)
    devices = [matrix.device for matrix in matrices[:2] if _checks.on_accelerator(matrix)]
    if devices:
        from cmh.metrics import _torch

        return _torch.histograms(*matrices, device=devices[0])
    # Late, so that a command which computes no metric does not load the compiler.
    from cmh.metrics import _kernel

    return _kernel.histograms(*packed_matrices(*matrices), query_codes.shape[1])


def _average_precision(all_counts: Counts, relevant_counts: Counts, k: int | None, ties: str) -> Floats:
    """Closed forms; all arrays are `(n_query, bits + 1)`, one column a tie class.

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
        slope = _ratio(relevant_counts - 1, all_counts - 1)
        steps = harmonic[before + counted] - harmonic[before]
        inside = slope * counted + (relevant_before + 1 - slope * (before + 1)) * steps
        sums = _ratio(relevant_counts, all_counts) * inside
    else:
        start = before if ties == "optimistic" else before + all_counts - relevant_counts
        counted = np.clip(last - start, 0, relevant_counts)
        sums = counted + (relevant_before - start) * (harmonic[start + counted] - harmonic[start])
    return _ratio(sums.sum(axis=1), np.minimum(last, n_relevant))


def _index_average_precision(
    query_words: NDArray[np.uint64],
    database_words: NDArray[np.uint64],
    query_label_words: NDArray[np.uint64],
    database_label_words: NDArray[np.uint64],
    bits: int,
    k: int | None,
) -> Floats:
    from cmh.metrics import _kernel

    n_database = len(database_words)
    last = n_database if k is None else min(int(k), n_database)
    sums, _, n_relevant = _kernel.index_sums(
        query_words,
        database_words,
        query_label_words,
        database_label_words,
        bits,
        last_rank=last,
        last_relevant=n_database,
    )
    return _ratio(sums, np.minimum(last, n_relevant))


def _within(all_counts: Counts, relevant_counts: Counts) -> tuple[Floats, Floats]:
    """Precision and recall of each query within each radius, `(n_query, bits + 1)`."""
    found = relevant_counts.cumsum(axis=1)
    return _ratio(found, all_counts.cumsum(axis=1)), _ratio(found, found[:, -1:])


def _last(all_counts: Counts, k: int | None) -> int:
    """The last rank that counts; never beyond the database, so that sums over ranks stay short."""
    longest = int(all_counts.sum(axis=1).max())
    return longest if k is None else min(int(k), longest)


def _before(counts: Counts) -> Counts:
    """How many items are nearer than each distance."""
    before: Counts = counts.cumsum(axis=1) - counts
    return before


def _ratio(top: NDArray[Any], bottom: NDArray[Any]) -> Floats:
    """top / bottom, and 0 where bottom is 0 or less."""
    top, bottom = np.broadcast_arrays(top, bottom)
    ratio = np.zeros(top.shape)
    np.divide(top, bottom, out=ratio, where=bottom > 0)
    return ratio
