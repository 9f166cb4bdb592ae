"""The codes nearest to a query, exactly, without a sort of the database.

Few items of a database are among the k nearest, so the scan asks of 64 items at once whether any is nearer than the
k-th of those held so far. Where one is, it is held; when there is no more room, a histogram of the distances held says
which k stay. Items come in database order and later ones must be strictly nearer, so ties fall by that order.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from cmh.metrics import _vectors
from cmh.metrics._kernel import ONE_AT_A_TIME
from cmh.metrics._vectors import differ, either, load, ones_of_word, plus, repeat, union, word_at

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Keys = NDArray[np.int64]  # of an item: distance · 2^48 + place in the database
Found = tuple[NDArray[np.int32], NDArray[np.int64]]

_STEP = _vectors.WORDS
_GROUP = 8 * _STEP  # items that are asked about at once
_TILE = 2048  # items whose words meet all queries of a block before the next are read: of 64 bits, half a core's cache
_QUERIES = 16  # of a block
_SO_FEW = 3  # queries of a block for which it does not pay to put the words of items that have several by themselves
_SPARE = 64  # items held beyond 2 k before they are thinned out
_PART = 2**14  # items that are worth a thread of their own
_PLACE = np.int64(2**48 - 1)


def nearest(query: Words, database: Bytes, bits: int, k: int) -> Found:
    """Distances and places `(n_query, k)` of the k nearest by (distance, place), 1 <= k <= n; unchecked.

    Queries are words `(n_query, ceil(bits / 64))`, the database packed bytes `(n, ceil(bits / 8))`, in C order, with
    nothing set beyond `bits`. Beside the result and 32 KiB a thread it takes less than 8 bytes an item.
    """
    n, width = database.shape
    flat = database.reshape(-1)
    words = flat.view(np.uint64) if width == 8 else np.empty(0, np.uint64)  # read where they are, one an item
    if not words.flags.aligned:  # of a memory map, say
        words = np.empty(0, np.uint64)
    for array in (flat, words):  # both views; so that numba compiles once for arrays that may be written and others
        array.flags.writeable = False
    with ONE_AT_A_TIME:
        threads = get_num_threads()
        room = min(n, 2 * k + _SPARE)
        block = min(_QUERIES, 6 * n // (8 * room * threads))
        if block == 0:
            return _nearest_of_many(query, flat, n, width, bits, k)
        parts = 1
        if len(query) < 2 * threads * block:  # too few for a fair share each: threads take parts of the database
            parts = max(1, min(threads, n // max(k, _PART), 2 * n // (12 * k * len(query))))
        distances, places = _nearest_of_few(query, flat, words, n, width, bits, k, parts, block, room)
    if parts == 1:
        return distances[:, 0], places[:, 0]
    distances, places = distances.reshape(len(query), -1), places.reshape(len(query), -1)
    first = distances.argsort(axis=1, kind="stable")[:, :k]  # parts stand in database order
    return np.take_along_axis(distances, first, 1), np.take_along_axis(places, first, 1)


@njit(parallel=True, cache=True, nogil=True)
def _nearest_of_few(
    query: Words, flat: Bytes, words: Words, n: int, width: int, bits: int, k: int, parts: int, block: int, room: int
) -> Found:
    """The k nearest in each of the parts of the database, `(n_query, parts, k)`; `room` items are held for a query."""
    n_query, n_words = query.shape
    distances = np.empty((n_query, parts, k), np.int32)
    places = np.empty((n_query, parts, k), np.int64)
    for work in prange((n_query + block - 1) // block * parts):
        part = work % parts
        first = work // parts * block
        last = min(first + block, n_query)
        stop = (part + 1) * n // parts
        scratch = np.zeros(n_words * _TILE, np.uint64)
        held = np.empty((block, room), np.int64)
        n_held = np.zeros(block, np.int64)
        limits = np.full(block, bits + 1, np.int64)
        counts = np.empty(bits + 1, np.int64)
        for start in range(part * n // parts, stop, _TILE):
            size = min(_TILE, stop - start)
            if width > 8 and last - first <= _SO_FEW:
                for i in range(last - first):
                    _meet_rows(query[first + i], flat, start, size, width, k, held[i], n_held, limits, i, counts)
                continue
            direct = words.size > 0 and size == _TILE
            if not direct:
                _fill(scratch, flat, start, size, width)
            tile, at = (words, start) if direct else (scratch, 0)
            for i in range(first, last):
                _meet(query[i], tile, at, start, size, k, held[i - first], n_held, limits, i - first, counts)
        for i in range(first, last):
            _thin(held[i - first], n_held, limits, i - first, k, counts)
            _order(held[i - first, :k], counts, distances[i, part], places[i, part])
    return distances, places


@njit(cache=True, nogil=True)
def _fill(scratch: Words, flat: Bytes, start: int, size: int, width: int) -> None:
    """Words `(n_words, _TILE)` of the items from `start` on, into `scratch`."""
    for word in range((width + 7) // 8):
        n_bytes = min(8, width - 8 * word)
        rest = np.uint64(64 - 8 * n_bytes)  # bits of the next item
        first = start * width + 8 * word
        readable = max(0, min(size, (flat.size - 8 - first) // width + 1))  # items with eight bytes from there on
        for j in range(readable):
            scratch[word * _TILE + j] = word_at(flat, first + j * width) << rest >> rest
        for j in range(readable, size):
            value = np.uint64(0)
            for byte in range(n_bytes):
                value |= np.uint64(flat[first + j * width + byte]) << np.uint64(8 * byte)
            scratch[word * _TILE + j] = value


@njit(cache=True, nogil=True)
def _meet(
    code: Words,
    tile: Words,
    at: int,
    start: int,
    size: int,
    k: int,
    held: Keys,
    n_held: Keys,
    limits: Keys,
    i: int,
    counts: Keys,
) -> None:
    """Hold the items of a tile, whose words stand in `tile` from `at` on, that are nearer than the limit of query i.

    `held` `(room,)` are its keys, as many as `n_held[i]` says.
    """
    for group in range(at, at + size, _GROUP):
        negative = repeat(np.uint64(-limits[i]))  # below 0, and so with the highest bit, where an item is nearer
        nearer = repeat(np.uint64(0))
        for place in range(group, group + _GROUP, _STEP):
            distance = negative
            for word in range(code.size):
                unequal = differ(load(tile, place + word * _TILE), repeat(code[word]))
                distance = plus(distance, _vectors.ones(unequal))
            nearer = either(nearer, distance)
        if not union(nearer) >> np.uint64(63):
            continue
        for place in range(group, min(group + _GROUP, at + size)):
            apart = np.int64(0)
            for word in range(code.size):
                apart += np.int64(ones_of_word(tile[place + word * _TILE] ^ code[word]))
            if apart < limits[i]:
                _hold(apart, start + place - at, k, held, n_held, limits, i, counts)


@njit(cache=True, nogil=True)
def _meet_rows(
    code: Words,
    flat: Bytes,
    start: int,
    size: int,
    width: int,
    k: int,
    held: Keys,
    n_held: Keys,
    limits: Keys,
    i: int,
    counts: Keys,
) -> None:
    """The same of items of more than eight bytes where they stand, `size` of them from `start` on.

    Loops that LLVM makes no vectors of, as it would gather their words one by one.
    """
    last, behind = code[code.size - 1], width - 8
    shared = np.uint64(8 * (8 * code.size - width))  # bits of the word before, among an item's last eight bytes
    if code.size == 2:
        first = code[0]
        for place in range(start, start + size):
            at = place * width
            apart = np.int64(ones_of_word(word_at(flat, at) ^ first))
            apart += np.int64(ones_of_word((word_at(flat, at + behind) >> shared) ^ last))
            if apart < limits[i]:
                _hold(apart, place, k, held, n_held, limits, i, counts)
        return
    for place in range(start, start + size):
        at = place * width
        apart = np.int64(ones_of_word((word_at(flat, at + behind) >> shared) ^ last))
        for word in range(code.size - 1):
            apart += np.int64(ones_of_word(word_at(flat, at + 8 * word) ^ code[word]))
        if apart < limits[i]:
            _hold(apart, place, k, held, n_held, limits, i, counts)


@njit(cache=True, nogil=True)
def _hold(apart: np.int64, place: int, k: int, held: Keys, n_held: Keys, limits: Keys, i: int, counts: Keys) -> None:
    """Hold an item for query i, which is nearer than its limit was; where there is no room, it is thinned out first."""
    if n_held[i] == held.size:
        _thin(held, n_held, limits, i, k, counts)
        if apart >= limits[i]:
            return
    held[n_held[i]] = (apart << 48) + place
    n_held[i] += 1


@njit(cache=True, nogil=True)
def _thin(held: Keys, n_held: Keys, limits: Keys, i: int, k: int, counts: Keys) -> None:
    """Leave the k nearest of the items held for query i, in database order; the farthest of them is its new limit.

    `counts` `(bits + 1,)` are made those of all that were held.
    """
    counts[:] = 0
    for j in range(n_held[i]):
        counts[held[j] >> 48] += 1
    if n_held[i] < k:
        return
    limit, left = _radius(counts, k)
    kept = 0
    for j in range(n_held[i]):
        distance = held[j] >> 48
        if distance < limit or (distance == limit and left > 0):
            left -= distance == limit
            held[kept] = held[j]
            kept += 1
    n_held[i] = kept
    limits[i] = limit


@njit(cache=True, nogil=True)
def _radius(counts: Keys, k: int) -> tuple[int, int]:
    """The distance of the k-th nearest of at least k items, and how many at that distance are among the k."""
    distance, left = 0, k
    while counts[distance] < left:
        left -= counts[distance]
        distance += 1
    return distance, left


@njit(cache=True, nogil=True)
def _order(held: Keys, counts: Keys, distances: NDArray[np.int32], places: Keys) -> None:
    """Items `(k,)` that stand in database order, by distance: into `distances` and `places` `(k,)`.

    `counts` of all items, or of these, become where each distance ends.
    """
    _to_starts(counts)
    for key in held:
        distance = key >> 48
        distances[counts[distance]] = distance
        places[counts[distance]] = key & _PLACE
        counts[distance] += 1


@njit(cache=True, nogil=True)
def _to_starts(counts: Keys) -> None:
    """From how many items stand at each distance to where its first one stands; in place."""
    rank = 0
    for distance in range(counts.size):
        rank, counts[distance] = rank + counts[distance], rank


@njit(parallel=True, cache=True, nogil=True)
def _nearest_of_many(query: Words, flat: Bytes, n: int, width: int, bits: int, k: int) -> Found:
    """The same where k is a large share of the items: they are counted, then each is put where it stands, with nothing
    held between. `(n_query, k)`.
    """
    n_query, n_words = query.shape
    distances = np.empty((n_query, k), np.int32)
    places = np.empty((n_query, k), np.int64)
    for i in prange(n_query):
        scratch = np.zeros(n_words * _TILE, np.uint64)
        counts = np.zeros(bits + 1, np.int64)
        limit, left = bits, 0
        for turn in range(2):
            for start in range(0, n, _TILE):
                size = min(_TILE, n - start)
                _fill(scratch, flat, start, size, width)
                for j in range(size):
                    apart = np.int64(0)
                    for word in range(n_words):
                        apart += np.int64(ones_of_word(scratch[word * _TILE + j] ^ query[i, word]))
                    if turn == 0:
                        counts[apart] += 1
                    elif apart < limit or (apart == limit and left > 0):
                        left -= apart == limit
                        distances[i, counts[apart]] = apart
                        places[i, counts[apart]] = start + j
                        counts[apart] += 1
            if turn == 0:
                limit, left = _radius(counts, k)
                _to_starts(counts)
    return distances, places
