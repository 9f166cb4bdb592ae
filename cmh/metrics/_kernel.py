"""The inner loops of ranking, compiled: XOR and population count of 64-bit words, counted into bits + 1 bins a query.

Sorting is not needed: there are only bits + 1 distances, so a query's ranking is known from two histograms. Relevance
is computed from label words pair by pair; nothing of size queries × database is ever held. Queries run in parallel on
as many threads as `numba.set_num_threads` says, each query on one thread, so no number depends on that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

# Numba's fallback threading layer (neither OpenMP nor TBB found) aborts the process when two threads enter it at once.
_ONE_AT_A_TIME = threading.Lock()


def _ones_of(typing_context: object, word: object) -> tuple[Any, Callable[..., Any]]:  # llvmlite has no types
    """The number of 1 bits in a word, by the processor's own instruction."""

    def generate(context: object, builder: Any, signature: object, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


# Called from compiled code, with the word alone; numba's own type hints describe only the function above.
_ones: Any = intrinsic(_ones_of)


def histograms(
    query_words: Words, database_words: Words, query_label_words: Words, database_label_words: Words, bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All items and relevant items at each Hamming distance: two `(n_query, bits + 1)` arrays.

    Words are as `pack_codes` and `pack_labels` give them, `(n, words)`; unchecked: a bit set beyond `bits` would be
    counted outside the histogram.
    """
    with _ONE_AT_A_TIME:
        if query_words.shape[1] == 1 and query_label_words.shape[1] == 1:
            pairs = _count_single(
                np.ascontiguousarray(query_words[:, 0]),
                np.ascontiguousarray(database_words[:, 0]),
                np.ascontiguousarray(query_label_words[:, 0]),
                np.ascontiguousarray(database_label_words[:, 0]),
                bits,
            )
        else:
            pairs = _count(
                np.ascontiguousarray(query_words),
                np.ascontiguousarray(database_words),
                np.ascontiguousarray(query_label_words),
                np.ascontiguousarray(database_label_words),
                bits,
            )
    # Bin 2 d holds the irrelevant items at distance d, bin 2 d + 1 the relevant ones.
    relevant = np.ascontiguousarray(pairs[:, 1::2])
    return pairs[:, 0::2] + relevant, relevant


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
    with _ONE_AT_A_TIME:
        by_rank, hits, by_relevant, relevant = _index_sums(
            np.ascontiguousarray(query_words),
            np.ascontiguousarray(database_words),
            np.ascontiguousarray(query_label_words),
            np.ascontiguousarray(database_label_words),
            bits,
            np.array([min(cut, len(database_words)) for cut in cuts], np.int64),
        )
    return by_rank.cumsum(axis=1), hits.cumsum(axis=1), by_relevant.cumsum(axis=1), relevant


@njit(parallel=True, cache=True, nogil=True)
def _count_single(query: Words, database: Words, query_labels: Words, database_labels: Words, bits: int) -> Counts:
    """Items in each bin `(n_query, 2 (bits + 1))`, all words `(n,)`."""
    bins = 2 * (bits + 1)
    counts = np.zeros((query.size, bins), np.int64)
    for i in prange(query.size):
        local = np.zeros(bins, np.int32)  # stays in the nearest cache, and no other thread writes beside it
        code = query[i]
        labels = query_labels[i]
        for j in range(database.size):
            shared = np.uint64((labels & database_labels[j]) != np.uint64(0))
            # No branch: what is relevant is as good as random here. Unsigned, so no test for a negative index either.
            local[(_ones(code ^ database[j]) << np.uint64(1)) | shared] += 1
        counts[i] = local
    return counts


@njit(cache=True, nogil=True)
def _bin(code: Words, item: Words, labels: Words, item_labels: Words) -> np.uint64:
    """The bin of one item, all words `(words,)`."""
    distance = np.uint64(0)
    for word in range(code.size):
        distance += _ones(code[word] ^ item[word])
    shared = np.uint64(0)
    for word in range(labels.size):
        shared |= labels[word] & item_labels[word]
    return (distance << np.uint64(1)) | np.uint64(shared != np.uint64(0))


@njit(parallel=True, cache=True, nogil=True)
def _count(query: Words, database: Words, query_labels: Words, database_labels: Words, bits: int) -> Counts:
    """`_count_single` of words `(n, words)`."""
    bins = 2 * (bits + 1)
    counts = np.zeros((query.shape[0], bins), np.int64)
    for i in prange(query.shape[0]):
        local = np.zeros(bins, np.int32)
        for j in range(database.shape[0]):
            local[_bin(query[i], database[j], query_labels[i], database_labels[j])] += 1
        counts[i] = local
    return counts


@njit(parallel=True, cache=True, nogil=True)
def _index_sums(
    query: Words, database: Words, query_labels: Words, database_labels: Words, bits: int, cuts: Counts
) -> tuple[NDArray[np.float64], Counts, NDArray[np.float64], Counts]:
    """What `index_sums` adds up: the sums between one of the `cuts` `(n_cuts,)` and the next."""
    n_query = query.shape[0]
    n_database = database.shape[0]
    # What lies between one cut and the next; the caller adds up.
    by_rank = np.zeros((n_query, cuts.size), np.float64)
    hits = np.zeros((n_query, cuts.size), np.int64)
    by_relevant = np.zeros((n_query, cuts.size), np.float64)
    found = np.zeros(n_query, np.int64)
    for i in prange(n_query):
        where = np.empty(n_database, np.uint32)
        counts = np.zeros(2 * (bits + 1), np.int64)
        if query.shape[1] == 1 and query_labels.shape[1] == 1:
            code = query[i, 0]
            labels = query_labels[i, 0]
            for j in range(n_database):
                shared = np.uint64((labels & database_labels[j, 0]) != np.uint64(0))
                where[j] = (_ones(code ^ database[j, 0]) << np.uint64(1)) | shared
        else:
            for j in range(n_database):
                where[j] = _bin(query[i], database[j], query_labels[i], database_labels[j])
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
