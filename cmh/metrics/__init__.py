"""Codes, Hamming ranking and its metrics: `mean_average_precision` and what stands beside it in the tables.

    from cmh import metrics
    metrics.mean_average_precision(image_codes, text_codes, image_labels, text_labels)

`ranking` states what the arguments mean, `legacy` holds the definitions that other code uses.
"""

from __future__ import annotations

from cmh.metrics.codes import bit_balance, pack_codes, pack_labels, unique_share
from cmh.metrics.legacy import map_at_k_all_relevant, map_at_k_hits, map_drop_empty, map_first_k_relevant
from cmh.metrics.ranking import (
    average_precision,
    average_precision_from_histograms,
    average_precision_packed,
    histograms,
    mean_average_precision,
    ndcg,
    precision_at,
    precision_recall_by_rank,
    precision_recall_curve,
    precision_recall_within,
)


def set_threads(n: int) -> None:
    """Threads of the compiled ranking kernel in this process; more than the machine has are not used."""
    import numba

    most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]  # numba fills its config at run time
    numba.set_num_threads(max(1, min(n, most)))


__all__ = [
    "average_precision",
    "average_precision_from_histograms",
    "average_precision_packed",
    "bit_balance",
    "histograms",
    "map_at_k_all_relevant",
    "map_at_k_hits",
    "map_drop_empty",
    "map_first_k_relevant",
    "mean_average_precision",
    "ndcg",
    "pack_codes",
    "pack_labels",
    "precision_at",
    "precision_recall_by_rank",
    "precision_recall_curve",
    "precision_recall_within",
    "set_threads",
    "unique_share",
]
