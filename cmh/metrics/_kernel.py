"""A query's ranking by Hamming distance: how many items stand at each distance, and where each item stands.

There are only bits + 1 distances, so two histograms say all that a metric needs and nothing is sorted; nothing of size
queries × database is ever held. Queries run in parallel on as many threads as `numba.set_num_threads` says, each on
one, so no number depends on that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from cmh.metrics import _planes
from cmh.metrics._vectors import ones_of_word

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

# Numba's fallback threading layer (neither OpenMP nor TBB found) aborts the process when two threads enter it at once.
ONE_AT_A_TIME = threading.Lock()


def histograms(
    query_words: Words, database_words: Words, query_label_words: Words, database_label_words: Words, bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All items and relevant items at each Hamming distance: two `(n_query, bits + 1)` arrays.

    Words are as `pack_codes` and `pack_labels` give them, `(n, words)`; unchecked: a bit set beyond `bits` would be
    counted outside the histogram.
    """
    query, labels = np.ascontiguousarray(query_words), np.ascontiguousarray(query_label_words)
    with ONE_AT_A_TIME:
        if bits > _planes.MOST_BITS:
            database, database_labels = (np.ascontiguousarray(w.T) for w in (database_words, database_label_words))
            counts = _count_singly(query, database, labels, database_labels, bits)
        else:
            planes = _planes.of_words(database_words, _planes.columns(bits))
            label_planes = _planes.of_words(database_label_words, 64 * labels.shape[1])
            counts = _planes.count(query, planes, labels, label_planes, len(database_words), bits)
    return np.ascontiguousarray(counts[:, 0, : bits + 1]), np.ascontiguousarray(counts[:, 1, : bits + 1])


def index_sums(
    query_words: Words,
    database_words: Words,
    query_label_words: Words,
    database_label_words: Words,
    bits: int,
    cuts: Sequence[int],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """With ties in database order, for each query and each of the ascending `cuts` k: the sum of precisions at the
    relevant items among the first k items, how many these are, and the sum of precisions at the first k relevant items,
    wherever these stand; three `(n_query, len(cuts))` arrays. The fourth, `(n_query,)`: all relevant items.
    """
    with ONE_AT_A_TIME:
        by_rank, hits, by_relevant, relevant = _index_sums(
            np.ascontiguousarray(query_words),
            np.ascontiguousarray(database_words.T),
            np.ascontiguousarray(query_label_words),
            np.ascontiguousarray(database_label_words.T),
            bits,
            np.array([min(cut, len(database_words)) for cut in cuts], np.int64),
        )
    return by_rank.cumsum(axis=1), hits.cumsum(axis=1), by_relevant.cumsum(axis=1), relevant


@njit(cache=True, nogil=True)
def _place(code: Words, database: Words, labels: Words, database_labels: Words, where: NDArray[np.uint32]) -> None:
    """Twice the distance of each item, plus one if it is relevant, into `where` `(n,)`.

    The query's words are `(words,)`, the database's `(words, n)`: a loop over items has steps of one word.
    """
    where[:] = 0
    for word in range(labels.size):
        for j in range(where.size):
            where[j] |= np.uint32((labels[word] & database_labels[word, j]) != np.uint64(0))
    for word in range(code.size):
        for j in range(where.size):
            where[j] += np.uint32(ones_of_word(code[word] ^ database[word, j]) << np.uint64(1))


@njit(parallel=True, cache=True, nogil=True)
def _count_singly(query: Words, database: Words, labels: Words, database_labels: Words, bits: int) -> Counts:
    """Items in each bin `(n_query, 2, bits + 1)`, one by one; the database's words are `(words, n)`."""
    counts = np.zeros((query.shape[0], 2, bits + 1), np.int64)
    for i in prange(query.shape[0]):
        where = np.empty(database.shape[1], np.uint32)
        _place(query[i], database, labels[i], database_labels, where)
        for j in range(where.size):
            counts[i, 0, where[j] >> np.uint32(1)] += 1
            counts[i, 1, where[j] >> np.uint32(1)] += where[j] & np.uint32(1)
    return counts


@njit(parallel=True, cache=True, nogil=True)
def _index_sums(
    query: Words, database: Words, query_labels: Words, database_labels: Words, bits: int, cuts: Counts
) -> tuple[NDArray[np.float64], Counts, NDArray[np.float64], Counts]:
    """What `index_sums` adds up: the sums between one of the `cuts` `(n_cuts,)` and the next. Words as in `_place`."""
    n_query = query.shape[0]
    n_database = database.shape[1]
    # What lies between one cut and the next; the caller adds up.
    by_rank = np.zeros((n_query, cuts.size), np.float64)
    hits = np.zeros((n_query, cuts.size), np.int64)
    by_relevant = np.zeros((n_query, cuts.size), np.float64)
    found = np.zeros(n_query, np.int64)
    for i in prange(n_query):
        where = np.empty(n_database, np.uint32)
        counts = np.zeros(2 * (bits + 1), np.int64)
        _place(query[i], database, query_labels[i], database_labels, where)
        for j in range(n_database):
            counts[where[j]] += 1
        # A counting sort without the sort: where each distance starts, among all items and among relevant ones.
        next_rank = np.zeros(bits + 1, np.int64)
        next_relevant = np.zeros(bits + 1, np.int64)
        rank = 0
        relevant = 0
        for distance in range(bits + 1):
            next_rank[distance] = rank
            next_relevant[distance] = relevant
            rank += counts[2 * distance] + counts[2 * distance + 1]
            relevant += counts[2 * distance + 1]
        found[i] = relevant
        for j in range(n_database):
            distance = where[j] >> np.uint32(1)
            next_rank[distance] += 1
            if where[j] & np.uint32(1):
                next_relevant[distance] += 1
                precision = next_relevant[distance] / next_rank[distance]
                # From the last cut down: most items lie beyond all but that one.
                at = cuts.size
                while at > 0 and next_rank[distance] <= cuts[at - 1]:
                    at -= 1
                if at < cuts.size:
                    by_rank[i, at] += precision
                    hits[i, at] += 1
                at = cuts.size
                while at > 0 and next_relevant[distance] <= cuts[at - 1]:
                    at -= 1
                if at < cuts.size:
                    by_relevant[i, at] += precision
    return by_rank, hits, by_relevant, found
