"""MAP as other code computes it, to be set beside numbers in old tables; none of these should choose a model.

Ties are broken by the order of the database, as a stable sort leaves it (NumPy's `kind="stable"`, MATLAB's `sort`).
Much of the code named here calls an unstable sort, whose order nobody can state; on a database in random order both are
near the expected value. Codes of 0, which most of that code lets through, are refused here as everywhere.

Arguments, relevance and errors are those of `ranking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cmh.metrics import _checks
from cmh.metrics.counted import Counts, Floats, mean, ratio
from cmh.metrics.ranking import packed_matrices

if TYPE_CHECKING:
    from cmh.metrics._checks import Matrix


def map_at_k_hits(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix, *, k: int
) -> float:
    """MAP@k with the number of relevant items within the first k as divisor; a query without any counts 0.

    So compute DJSRH, JDSH, DSAH, UCMFH, DeepHash-pytorch and the MAP@k of DCMH's MATLAB code. One hit at rank 1 scores
    1.0 and beats two at ranks 1 and 3: finding more can cost.
    """
    sums, hits, _, _ = _sums(
        query_codes, database_codes, query_labels, database_labels, k, _checks.integer_problems("k", k)
    )
    return mean(ratio(sums, hits))


def map_first_k_relevant(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix, *, k: int
) -> float:
    """The mean of precisions at the first min(k, R) relevant items, at whatever ranks these stand; 0 where R is 0.

    So compute the PyTorch port of DCMH by WendellGul and what descends from it: torchcmh, AGAH, DADH, MITH, and the
    "MAP@5000" of TwDH and DScPH. It is no cut at rank k: with k >= R it is MAP over the whole database.
    """
    _, _, sums, n_relevant = _sums(
        query_codes, database_codes, query_labels, database_labels, k, _checks.integer_problems("k", k)
    )
    return mean(ratio(sums, np.minimum(n_relevant, min(int(k), len(database_codes)))))


def map_at_k_all_relevant(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix, *, k: int
) -> float:
    """MAP@k with R, all relevant items of the database, as divisor; 0 where R is 0.

    So compute trec_eval (`map_cut`), ir-measures (`AP@k`), ranx (`map@k`) and pytorch-metric-learning with a number as
    k. With k < R no ranking reaches 1: at k = 50 and R = 5000 the best one scores .01.
    """
    sums, _, _, n_relevant = _sums(
        query_codes, database_codes, query_labels, database_labels, k, _checks.integer_problems("k", k)
    )
    return mean(ratio(sums, n_relevant))


def map_drop_empty(
    query_codes: Matrix,
    database_codes: Matrix,
    query_labels: Matrix,
    database_labels: Matrix,
    *,
    k: int | None = None,
) -> float:
    """`map_at_k_hits`, for k = None MAP over the whole database, but the mean is over queries with a hit only.

    So computes UCCH. With k it rewards a model for failing altogether on its hard queries. Raises MetricError where no
    query has a hit, as there is nothing to take a mean of.
    """
    sums, hits, _, _ = _sums(query_codes, database_codes, query_labels, database_labels, k, _checks.cut_problems(k))
    kept = hits > 0
    if not kept.any():
        where = "in the database" if k is None else f"within its first {k} items"
        problem = f"all {len(hits)} queries would be dropped: none has a relevant item {where}; check the labels"
        _checks.refuse([problem])
    return mean(sums[kept] / hits[kept])


def _sums(
    query_codes: Matrix,
    database_codes: Matrix,
    query_labels: Matrix,
    database_labels: Matrix,
    k: int | None,
    problems: list[str],
) -> tuple[Floats, Counts, Floats, Counts]:
    """`_kernel.index_sums` of checked matrices at one cut, four `(n_query,)` arrays."""
    matrices = (query_codes, database_codes, query_labels, database_labels)
    _checks.refuse([*_checks.ranking_problems(*matrices), *problems])
    from cmh.metrics import _kernel

    last = len(database_codes) if k is None else int(k)
    by_rank, hits, by_relevant, n_relevant = _kernel.index_sums(
        *packed_matrices(*matrices), query_codes.shape[1], [last]
    )
    return by_rank[:, 0], hits[:, 0], by_relevant[:, 0], n_relevant
