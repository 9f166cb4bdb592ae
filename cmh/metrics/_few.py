"""Few pairs of a query and an item, counted with NumPy in less time than the compiler of `_kernel` takes to load."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

FEW_PAIRS = 5_000_000


def worth_it(n_query: int, n_database: int) -> bool:
    """Whether counting so is quicker: the pairs are few, and nothing in this process has loaded the compiler yet."""
    return n_query * n_database <= FEW_PAIRS and "numba" not in sys.modules


def histograms(
    query_words: Words, database_words: Words, query_label_words: Words, database_label_words: Words, bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same as `_kernel.histograms`, a query at a time."""
    found = np.zeros((2, len(query_words), bits + 1), np.int64)
    for i, (code, labels) in enumerate(zip(query_words, query_label_words, strict=True)):
        distances = np.bitwise_count(code ^ database_words).sum(axis=1, dtype=np.intp)
        relevant = (labels & database_label_words).any(axis=1)
        found[0, i] = np.bincount(distances, minlength=bits + 1)
        found[1, i] = np.bincount(distances[relevant], minlength=bits + 1)
    return found[0], found[1]
