"""Retrieval quality of ±1 codes ranked by Hamming distance.

An item is relevant to a query if they share a label. Short codes leave thousands of items at one distance, and a
ranking must put these in some order; by default a metric here is the mean over all orders of tied items, in closed
form, so the number depends neither on the order of the database nor on a sorting routine (McSherry and Najork,
"Computing information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008; He et al.,
"Hashing as tie-aware learning to rank", CVPR 2018). All that is needed are two histograms a query: the items at each
distance, and the relevant ones among them.

Arguments that all functions share:

query_codes `(n_query, bits)`, database_codes `(n_database, bits)`: +1 or -1; NumPy arrays or torch tensors. Tensors
    that lie on a GPU are counted there, the rest by a compiled kernel on the CPU. Both give the same integers. Codes of
    0 and 1 are refused: `numpy.where(codes > 0, 1, -1)` makes ±1 of them.
query_labels `(n_query, c)`, database_labels `(n_database, c)`: 0 or 1.
k: only the first k ranks count; None is the whole database. It may exceed the database.
ties: `expected`, the mean over all orders of tied items; `optimistic` and `pessimistic`, the best and the worst order;
    `index`, the order of the database, as a stable sort leaves it.

A query that has no relevant item in the database counts 0 in every mean. Everything wrong with a call is raised as one
MetricError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cmh.metrics import _checks, counted
from cmh.metrics.codes import words
from cmh.metrics.counted import Counts, Floats

if TYPE_CHECKING:
    from cmh.metrics._checks import Matrix

Ties = Literal["expected", "optimistic", "pessimistic", "index"]
Empty = Literal["zero", "drop"]


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
    return counted.mean(average_precision(query_codes, database_codes, query_labels, database_labels, k=k, ties=ties))


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
    divided by min(k, R), where R items of the database are relevant. `legacy` has other divisors in use: R itself, the
    hits within the first k, and the first k relevant items in the place of the first k items (docs/metrics.md).
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
    return counted.average_precision(*counts, k, ties)


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
    """`average_precision` of codes and labels that `pack_codes` and `pack_labels` have packed, `(n, words)` each.

    For loops that rank with the same labels again and again.
    """
    packed = (query_words, database_words, query_label_words, database_label_words)
    _checks.refuse([*_checks.word_problems(*packed, bits), *_checks.cut_problems(k), *_checks.ties_problems(ties)])
    if ties == "index":
        return _index_average_precision(*packed, int(bits), k)
    from cmh.metrics import _kernel

    return counted.average_precision(*_kernel.histograms(*packed, int(bits)), k, ties)


def average_precision_from_histograms(
    all_counts: Counts, relevant_counts: Counts, *, k: int | None = None, ties: Ties = "expected"
) -> Floats:
    """`average_precision` from the two arrays `(n_query, bits + 1)` that `histograms` gives.

    `index` is not possible, as the order is no longer known.
    """
    known = tuple(name for name in _checks.TIES if name != "index")
    _checks.refuse(
        [
            *_checks.histogram_problems(all_counts, relevant_counts),
            *_checks.cut_problems(k),
            *_checks.ties_problems(ties, known),
        ]
    )
    return counted.average_precision(all_counts.astype(np.int64), relevant_counts.astype(np.int64), k, ties)


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
    counts = _count(query_codes, database_codes, query_labels, database_labels)
    return counted.mean(counted.found_at(*counts, k) / k)


def precision_recall_within(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix, radius: int
) -> tuple[float, float]:
    """Precision and recall of what lies within a Hamming radius, each a mean over queries; no ties arise.

    The radius is inclusive: 2 takes in distances 0, 1 and 2. faiss' `range_search`, Qdrant's `score_threshold` and the
    upper end of LanceDB's `distance_range` leave the boundary out and want radius + 1 or + 0.5 for the same items;
    scikit-learn's ball tree, which has distances as shares of bits, wants (radius + 0.5) / bits, as it loses items at
    just radius / bits (docs/metrics.md).

    A query that finds nothing within the radius has precision 0, one without relevant items has recall 0.
    """
    _checks.refuse(
        [
            *_checks.ranking_problems(query_codes, database_codes, query_labels, database_labels),
            *_checks.integer_problems("radius", radius, low=0),
        ]
    )
    counts = _count(query_codes, database_codes, query_labels, database_labels)
    precision, recall = counted.within(*counts)
    at = min(int(radius), query_codes.shape[1])
    return counted.mean(precision[:, at]), counted.mean(recall[:, at])


def precision_recall_curve(
    query_codes: Matrix,
    database_codes: Matrix,
    query_labels: Matrix,
    database_labels: Matrix,
    *,
    empty: Empty = "zero",
) -> tuple[Floats, Floats]:
    """`precision_recall_within` for each radius from 0 to bits: two arrays `(bits + 1,)`.

    A query that finds nothing within a radius counts 0 there, or with `empty="drop"` is left out of both means there
    (where all are, the point is 0). At small radii the two are far apart.
    """
    sides = (query_codes, database_codes, query_labels, database_labels)
    _checks.refuse([*_checks.ranking_problems(*sides), *_checks.empty_problems(empty)])
    counts = _count(*sides)
    found = counts[0].cumsum(axis=1)
    return counted.curve_by_radius(*counts, found > 0 if empty == "drop" else found >= 0)


def precision_recall_by_rank(
    query_codes: Matrix,
    database_codes: Matrix,
    query_labels: Matrix,
    database_labels: Matrix,
    *,
    empty: Empty = "zero",
) -> tuple[Counts, Floats, Floats]:
    """Ranks 1, 2, 5, 10, … and the last one, with mean precision and recall of the items up to there: three arrays of
    one length, means over all orders of tied items.

    A query without a relevant item in the database counts 0, or with `empty="drop"` is left out.
    """
    sides = (query_codes, database_codes, query_labels, database_labels)
    _checks.refuse([*_checks.ranking_problems(*sides), *_checks.empty_problems(empty)])
    return counted.curve_by_rank(*_count(*sides), drop=empty == "drop")


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
    counts = _count(query_codes, database_codes, query_labels, database_labels)
    return counted.mean(counted.ndcg(*counts, k))


def packed_matrices(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Words `(n, words)` of codes and labels that have been checked."""
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


def _index_average_precision(
    query_words: NDArray[np.uint64],
    database_words: NDArray[np.uint64],
    query_label_words: NDArray[np.uint64],
    database_label_words: NDArray[np.uint64],
    bits: int,
    k: int | None,
) -> Floats:
    from cmh.metrics import _kernel

    last = len(database_words) if k is None else min(int(k), len(database_words))
    packed = (query_words, database_words, query_label_words, database_label_words)
    sums, _, _, n_relevant = _kernel.index_sums(*packed, bits, [last])
    return counted.ratio(sums[:, 0], np.minimum(last, n_relevant))
