"""MAP as other code computes it, to be set beside numbers in old tables; none of these should choose a model.

Ties are broken by the order of the database, as a stable sort leaves it (NumPy's `kind="stable"`, MATLAB's `sort`).
Much of the code named here calls an unstable sort, whose order nobody can state; on a database in random order both are
near the expected value. Codes of 0, which most of that code lets through, are refused here as everywhere.

Arguments, relevance and errors are those of `ranking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cmh.metrics import _checks
from cmh.metrics.ranking import mean, packed_matrices

if TYPE_CHECKING:
    from cmh.metrics._checks import Matrix


def map_at_k_hits(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix, *, k: int
) -> float:
    """MAP@k with the number of relevant items within the first k as divisor; a query without any counts 0.

    So compute DJSRH, JDSH, DSAH, UCMFH, DeepHash-pytorch and the MAP@k of DCMH's MATLAB code. One hit at rank 1 scores
    1.0 and beats two at ranks 1 and 3: finding more can cost.
    """
    problems = _checks.integer_problems("k", k)
    sums, hits, _ = _sums(
        query_codes, database_codes, query_labels, database_labels, problems, last_rank=k, last_relevant=None
    )
    return mean(sums / np.maximum(hits, 1))


def map_first_k_relevant(
    query_codes: Matrix, database_codes: Matrix, query_labels: Matrix, database_labels: Matrix, *, k: int
) -> float:
    """The mean of precisions at the first min(k, R) relevant items, at whatever ranks these stand; 0 where R is 0.

    So compute the PyTorch port of DCMH by WendellGul and what descends from it: torchcmh, AGAH, DADH, MITH, and the
    "MAP@5000" of TwDH. It is no cut at rank k: with k >= R it is MAP over the whole database.
    """
    problems = _checks.integer_problems("k", k)
    sums, hits, _ = _sums(
        query_codes, database_codes, query_labels, database_labels, problems, last_rank=None, last_relevant=k
    )
    return mean(sums / np.maximum(hits, 1))


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
    problems = _checks.cut_problems(k)
    sums, hits, _ = _sums(
        query_codes, database_codes, query_labels, database_labels, problems, last_rank=k, last_relevant=None
    )
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
    problems: list[str],
    *,
    last_rank: int | None,
    last_relevant: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """`_kernel.index_sums` of checked matrices."""
    matrices = (query_codes, database_codes, query_labels, database_labels)
    _checks.refuse([*_checks.ranking_problems(*matrices), *problems])
    from cmh.metrics import _kernel

    n_database = len(database_codes)
    return _kernel.index_sums(
        *packed_matrices(*matrices),
        query_codes.shape[1],
        last_rank=n_database if last_rank is None else int(last_rank),
        last_relevant=n_database if last_relevant is None else int(last_relevant),
    )
