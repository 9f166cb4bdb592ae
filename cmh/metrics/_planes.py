"""Histograms of distances in planes: one bit, or one label, of all items, 64 of them a word.

To add an item to its bin costs more than to find its distance, so items are not looked at singly: a vector instruction
works on 512 of a plane. From the database's planes a query makes planes of distances (one holds the lowest binary digit
of all distances, one the next, …) by adding up as an adder in hardware does, and a plane of relevance, the OR of its
labels' planes. A bin is then the population count of an AND of planes. All of it are integers, in any order the same.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from cmh.metrics import _vectors
from cmh.metrics._vectors import (
    Vector,
    both,
    differ,
    either,
    load,
    ones_of_word,
    plus,
    repeat,
    store,
    total,
    union,
    without,
)

Words = NDArray[np.uint64]
Counts = NDArray[np.int64]

_STEP = _vectors.WORDS
_TILE = 64  # words of a plane that are worked on at once, 4096 items: the planes of 64 bits fill the nearest cache
_QUERIES = 8  # that meet a tile before the next one is read
# Rows of a query's scratch memory, each a tile of a plane: digits of the distances, the lowest first; what is relevant;
# a row of ones; then for each digit the two halves that it splits a mask into.
_DIGITS = 11
_RELEVANT = _DIGITS
_EVERY = _RELEVANT + 1
_HALVES = _EVERY + 1
MOST_BITS = 2**_DIGITS - 1  # longer codes are counted item by item
_ALL_ONES = np.uint64(2**64 - 1)


@njit(cache=True, nogil=True)
def columns(bits: int) -> int:
    """How many planes codes of so many bits take: `_add_up` reads eight at a time."""
    return (bits + 7) // 8 * 8


@njit(parallel=True, cache=True, nogil=True)
def of_words(words: Words, columns: int) -> Words:
    """The columns of items `(n, words)` as planes `(tiles · columns · tile,)`: tile by tile, in each column by column.

    What is not there, items or columns, is 0.
    """
    n = words.shape[0]
    tiles = (n + 64 * _TILE - 1) // (64 * _TILE)
    planes = np.zeros(tiles * columns * _TILE, np.uint64)
    for tile in prange(tiles):
        square = np.zeros(64, np.uint64)
        for word in range(_TILE):
            first = (tile * _TILE + word) * 64
            for column in range(0, columns, 64):
                for j in range(64):
                    square[j] = words[first + j, column // 64] if first + j < n else np.uint64(0)
                _transpose(square)
                for j in range(min(64, columns - column)):
                    planes[(tile * columns + column + j) * _TILE + word] = square[j]
    return planes


@njit(cache=True, nogil=True)
def _transpose(square: Words) -> None:
    """64 × 64 bits, in place: swap quarters, then quarters of quarters (Warren, Hacker's Delight, 7-3)."""
    width = 32
    mask = np.uint64(2**32 - 1)
    while width:
        shift = np.uint64(width)
        row = 0
        while row < 64:
            swap = ((square[row] >> shift) ^ square[row + width]) & mask
            square[row + width] ^= swap
            square[row] ^= swap << shift
            row = (row + width + 1) & ~width
        width >>= 1
        mask ^= mask << np.uint64(width)


@njit(parallel=True, cache=True, nogil=True)
def count(query: Words, planes: Words, labels: Words, label_planes: Words, n_database: int, bits: int) -> Counts:
    """All and relevant items at each distance, `(n_query, 2, bins)` with at least bits + 1 bins.

    Queries are words `(n_query, words)`, the database is in planes.
    """
    n_query = query.shape[0]
    n_columns = columns(bits)
    digits = 3
    while bits >> digits:
        digits += 1
    tiles = planes.size // (n_columns * _TILE)
    label_columns = labels.shape[1] * 64
    counts = np.zeros((n_query, 2, (bits // 8 + 1) * 8), np.int64)
    for block in prange((n_query + _QUERIES - 1) // _QUERIES):
        first = block * _QUERIES
        last = min(first + _QUERIES, n_query)
        scratch = np.zeros((_HALVES + 2 * _DIGITS) * _TILE, np.uint64)
        scratch[_EVERY * _TILE : _HALVES * _TILE] = _ALL_ONES
        pending = np.zeros((2 * _DIGITS, 3), np.int64)
        signs = np.zeros((_QUERIES, n_columns), np.uint64)
        for i in range(first, last):
            for j in range(bits):
                if query[i, j // 64] >> np.uint64(j % 64) & np.uint64(1):
                    signs[i - first, j] = _ALL_ONES
        for tile in range(tiles):
            for i in range(first, last):
                _add_up(planes, tile * n_columns * _TILE, signs[i - first], digits, scratch)
                _relevance(label_planes, tile * label_columns * _TILE, labels[i], scratch)
                _count_tile(scratch, digits, bits, pending, counts[i])
        padding = tiles * _TILE * 64 - n_database  # items of zeros, relevant to nothing
        for i in range(first, last):
            ones = np.int64(0)
            for word in range(query.shape[1]):
                ones += np.int64(ones_of_word(query[i, word]))
            _separate(counts[i])
            counts[i, 0, ones] -= padding
    return counts


@njit(cache=True, nogil=True, inline="always")
def _half(a: Vector, b: Vector) -> tuple[Vector, Vector]:
    """The sum of two digits and the carry."""
    return differ(a, b), both(a, b)


@njit(cache=True, nogil=True, inline="always")
def _full(a: Vector, b: Vector, c: Vector) -> tuple[Vector, Vector]:
    """The sum of three digits and the carry."""
    differs = differ(a, b)
    return differ(differs, c), either(both(differs, c), without(a, differs))


@njit(cache=True, nogil=True)
def _add_up(planes: Words, start: int, signs: Words, digits: int, scratch: Words) -> None:
    """The digits of a tile's distances from a query, into the first rows of `scratch`.

    `signs` `(columns,)` are the query's bits, each a word of equal bits. Eight planes are added at a time to the lowest
    three digits; their carry of eight ripples up.
    """
    for at in range(0, _TILE, _STEP):
        d0 = d1 = d2 = d3 = d4 = d5 = d6 = d7 = d8 = d9 = d10 = repeat(np.uint64(0))
        place = start + at
        for j in range(0, signs.size, 8):
            x0 = differ(load(planes, place), repeat(signs[j]))
            x1 = differ(load(planes, place + _TILE), repeat(signs[j + 1]))
            x2 = differ(load(planes, place + 2 * _TILE), repeat(signs[j + 2]))
            x3 = differ(load(planes, place + 3 * _TILE), repeat(signs[j + 3]))
            x4 = differ(load(planes, place + 4 * _TILE), repeat(signs[j + 4]))
            x5 = differ(load(planes, place + 5 * _TILE), repeat(signs[j + 5]))
            x6 = differ(load(planes, place + 6 * _TILE), repeat(signs[j + 6]))
            x7 = differ(load(planes, place + 7 * _TILE), repeat(signs[j + 7]))
            place += 8 * _TILE
            d0, twos0 = _full(d0, x0, x1)
            x2, twos1 = _full(x2, x3, x4)
            x5, twos2 = _full(x5, x6, x7)
            d0, twos3 = _full(d0, x2, x5)
            d1, fours0 = _full(d1, twos0, twos1)
            d1, fours1 = _full(d1, twos2, twos3)
            d2, carry = _full(d2, fours0, fours1)
            d3, carry = _half(d3, carry)
            if digits > 4:
                d4, carry = _half(d4, carry)
                d5, carry = _half(d5, carry)
                d6, carry = _half(d6, carry)
            if digits > 7:
                d7, carry = _half(d7, carry)
                d8, carry = _half(d8, carry)
                d9, carry = _half(d9, carry)
                d10 = differ(d10, carry)
        store(scratch, at, d0)
        store(scratch, at + _TILE, d1)
        store(scratch, at + 2 * _TILE, d2)
        store(scratch, at + 3 * _TILE, d3)
        if digits > 4:
            store(scratch, at + 4 * _TILE, d4)
            store(scratch, at + 5 * _TILE, d5)
            store(scratch, at + 6 * _TILE, d6)
        if digits > 7:
            store(scratch, at + 7 * _TILE, d7)
            store(scratch, at + 8 * _TILE, d8)
            store(scratch, at + 9 * _TILE, d9)
            store(scratch, at + 10 * _TILE, d10)


@njit(cache=True, nogil=True)
def _relevance(planes: Words, start: int, labels: Words, scratch: Words) -> None:
    """Which items of a tile share one of the query's labels `(words,)`, into its row of `scratch`."""
    row = _RELEVANT * _TILE
    scratch[row : row + _TILE] = np.uint64(0)
    for word in range(labels.size):
        left = labels[word]
        while left:
            label = word * 64 + np.int64(ones_of_word((left & (~left + np.uint64(1))) - np.uint64(1)))
            left &= left - np.uint64(1)
            for at in range(0, _TILE, _STEP):
                plane = load(planes, start + label * _TILE + at)
                store(scratch, row + at, either(load(scratch, row + at), plane))


@njit(cache=True, nogil=True)
def _count_tile(scratch: Words, digits: int, bits: int, pending: Counts, counts: Counts) -> None:
    """Add a tile to a query's `counts` `(2, bins)`, as `_count_eight` does.

    All items are split by the highest digit, both parts by the next, and so on; what is empty is left at once.
    `pending` is room for a stack of row, distance so far, digits left.
    """
    pending[0, 0], pending[0, 1], pending[0, 2] = _EVERY * _TILE, 0, digits
    top = 1
    while top:
        top -= 1
        mask, distance, left = pending[top, 0], pending[top, 1], pending[top, 2]
        if left == 3:
            _count_eight(scratch, mask, counts, distance)
            continue
        digit = left - 1
        low = (_HALVES + 2 * digit) * _TILE
        high = low + _TILE
        any_low = any_high = repeat(np.uint64(0))
        for at in range(0, _TILE, _STEP):
            items = load(scratch, mask + at)
            plane = load(scratch, digit * _TILE + at)
            here = without(items, plane)
            there = both(items, plane)
            store(scratch, low + at, here)
            store(scratch, high + at, there)
            any_low = either(any_low, here)
            any_high = either(any_high, there)
        if union(any_high):
            pending[top, 0], pending[top, 1], pending[top, 2] = high, distance + (1 << digit), digit
            top += 1
        if union(any_low):
            pending[top, 0], pending[top, 1], pending[top, 2] = low, distance, digit
            top += 1


@njit(cache=True, nogil=True)
def _count_eight(scratch: Words, mask: int, counts: Counts, distance: int) -> None:
    """Add the items of `mask` to the bins of `distance` and the seven next, those relevant in the second row of counts.

    Bin `distance + s` gets the items whose digits are 1 wherever those of s are: fewer ANDs than for the items at just
    that distance, which `_separate` finds in the end.
    """
    n0 = n1 = n2 = n3 = n4 = n5 = n6 = n7 = r0 = r1 = r2 = r3 = r4 = r5 = r6 = r7 = repeat(np.uint64(0))
    for at in range(0, _TILE, _STEP):
        items = load(scratch, mask + at)
        d0 = load(scratch, at)
        d1 = load(scratch, at + _TILE)
        d2 = load(scratch, at + 2 * _TILE)
        m0, m1, m2, m3, m4, m5, m6, m7 = _subsets(items, d0, d1, d2)
        n0, n1, n2, n3 = plus(n0, m0), plus(n1, m1), plus(n2, m2), plus(n3, m3)
        n4, n5, n6, n7 = plus(n4, m4), plus(n5, m5), plus(n6, m6), plus(n7, m7)
        relevant = both(items, load(scratch, _RELEVANT * _TILE + at))
        m0, m1, m2, m3, m4, m5, m6, m7 = _subsets(relevant, d0, d1, d2)
        r0, r1, r2, r3 = plus(r0, m0), plus(r1, m1), plus(r2, m2), plus(r3, m3)
        r4, r5, r6, r7 = plus(r4, m4), plus(r5, m5), plus(r6, m6), plus(r7, m7)
    for s, (n, r) in enumerate(((n0, r0), (n1, r1), (n2, r2), (n3, r3), (n4, r4), (n5, r5), (n6, r6), (n7, r7))):
        counts[0, distance + s] += total(n)
        counts[1, distance + s] += total(r)


@njit(cache=True, nogil=True, inline="always")
def _subsets(items: Vector, d0: Vector, d1: Vector, d2: Vector) -> tuple[Vector, ...]:
    """Population counts of the items with each set of the three digits."""
    x0, x1, x2 = both(items, d0), both(items, d1), both(items, d2)
    x01, x02, x12 = both(x0, d1), both(x0, d2), both(x1, d2)
    return (
        _vectors.ones(items),
        _vectors.ones(x0),
        _vectors.ones(x1),
        _vectors.ones(x01),
        _vectors.ones(x2),
        _vectors.ones(x02),
        _vectors.ones(x12),
        _vectors.ones(both(x01, d2)),
    )


@njit(cache=True, nogil=True)
def _separate(counts: Counts) -> None:
    """From items with at least a set of digits, as `_count_eight` leaves them, to items with just that; in place."""
    for digit in (1, 2, 4):
        for place in range(counts.shape[1]):
            if not place & digit:
                counts[0, place] -= counts[0, place + digit]
                counts[1, place] -= counts[1, place + digit]
