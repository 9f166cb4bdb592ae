"""Exact search in packed codes."""

from __future__ import annotations

import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmh import scan
from cmh.errors import MetricError
from cmh.metrics import _nearest

Packed = NDArray[np.uint8]


def packed(seed: int, n: int, bits: int, kinds: int = 0) -> Packed:
    """Codes `(n, ceil(bits / 8))`, of so many different ones where `kinds` is not 0."""
    rng = np.random.default_rng([seed, n, bits, kinds])
    ones = rng.random((kinds or n, bits)) < 0.4
    return np.packbits(ones[rng.integers(kinds, size=n)] if kinds else ones, axis=1, bitorder="little")


def slowly(queries: Packed, database: Packed, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    apart = np.bitwise_count(queries[:, None] ^ database[None]).sum(axis=2, dtype=np.int64)
    order = np.argsort(apart, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(apart, order, 1), order


def check(queries: Packed, database: Packed, bits: int, k: int) -> None:
    distances, places = scan.nearest(queries, database, bits, k)
    assert (distances.dtype, places.dtype) == (np.int32, np.int64)
    wanted = slowly(queries, database, k)
    np.testing.assert_array_equal(distances, wanted[0])
    np.testing.assert_array_equal(places, wanted[1])


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 99),
    bits=st.one_of(st.integers(1, 200), st.integers(1, scan.MOST_BITS)),
    n=st.one_of(st.integers(0, 300), st.integers(0, 5000)),
    n_query=st.integers(0, 5),
    k=st.one_of(st.integers(1, 70), st.integers(1, 10_000)),
    kinds=st.sampled_from([0, 0, 1, 2, 40]),
)
def test_as_a_stable_sort_of_all_distances(seed: int, bits: int, n: int, n_query: int, k: int, kinds: int) -> None:
    """With duplicates, one bit, ragged bytes, k beyond the database, an empty one."""
    n = min(n, 1_000_000 // bits)
    check(packed(seed + 1, n_query, bits), packed(seed, n, bits, kinds), bits, k)


@pytest.mark.parametrize("bits", [1, 64, 100, 128, 200])
@pytest.mark.parametrize("n_query", [1, 36])
def test_large_databases_in_parts_and_blocks(bits: int, n_query: int) -> None:
    """On one and two threads, queries enough for blocks and too few; what comes last may be the nearest."""
    database, queries = packed(0, 33_000, bits, 300), packed(1, n_query, bits)
    database[-100:] = queries[0]
    before = numba.get_num_threads()
    try:
        for threads in sorted({1, min(2, before)}):
            numba.set_num_threads(threads)
            for k in (1, 9, 700):
                check(queries, database, bits, k)
    finally:
        numba.set_num_threads(before)


def test_items_that_come_ever_nearer() -> None:
    """Each is held for a while: the worst order for the scan."""
    ones = np.tril(np.ones((64, 64), bool))[::-1].repeat(500, axis=0)
    check(np.zeros((1, 8), np.uint8), np.packbits(ones, axis=1, bitorder="little"), 64, 50)


@pytest.mark.parametrize("change", [lambda d: d[::2], np.asfortranarray, lambda d: d[1:].copy()[:, ::-1]])
def test_arrays_of_any_layout(change: object) -> None:
    assert callable(change)
    check(packed(1, 3, 128), change(packed(0, 5000, 128)), 128, 10)


def test_unaligned_codes_that_cannot_be_written() -> None:
    """As a memory map of a part of a file may have them; nothing is compiled for them alone."""
    check(packed(1, 3, 64), packed(0, 5000, 64), 64, 10)
    kinds = len(_nearest._nearest_of_few.signatures)
    raw = np.frombuffer(b"x" + packed(0, 5000, 64).tobytes(), np.uint8)
    check(packed(1, 3, 64), raw[1:].reshape(-1, 8), 64, 10)
    assert len(_nearest._nearest_of_few.signatures) == kinds


@pytest.mark.parametrize("bits", [1, 12, 64, 100])
@pytest.mark.parametrize(("n_query", "k"), [(1, 50), (40, 50), (1, 40_000), (1, 8000), (1, 200_000)])
def test_memory_beside_codes_and_result(bits: int, n_query: int, k: int) -> None:
    """At most 8 bytes an item, as far as NumPy allocates it: numba's arrays are bounded by `block` and `parts`."""
    database, queries = packed(0, 200_000, bits), packed(1, n_query, bits)
    scan.nearest(queries, database, bits, k)
    tracemalloc.start()
    found = scan.nearest(queries, database, bits, k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 8 * len(database) + sum(array.nbytes for array in found)


@pytest.mark.parametrize(
    ("queries", "database", "bits", "k", "words"),
    [
        (packed(0, 2, 8), packed(0, 2, 8), 0, 0, ["bits is 0", "k is 0"]),
        (packed(0, 2, 8), packed(0, 2, 8), 4097, 1, ["bits is 4097, but must be at most 4096"]),
        (packed(0, 2, 8), packed(0, 2, 8), True, 1.0, ["bits is True", "k is 1.0"]),
        (packed(0, 2, 16), packed(0, 2, 8), 12, 1, ["database have 1 bytes an item, but 12 bits are 2"]),
        (np.array([[255]], np.uint8), packed(0, 2, 7), 7, 1, ["queries have bits set beyond bit 7", "little"]),
        (packed(0, 2, 8).astype(np.int8), [[1]], 8, 1, ["queries are int8 (2, 1)", "database are list"]),
        (packed(0, 2, 8)[0], packed(0, 2, 8), 8, 1, ["queries are uint8 (1,)", "cmh.codes.pack"]),
    ],
)
def test_bad_arguments_are_named_all_at_once(
    queries: object, database: object, bits: int, k: int, words: list[str]
) -> None:
    with pytest.raises(MetricError) as caught:
        scan.nearest(queries, database, bits, k)  # type: ignore[arg-type]
    assert [word for word in words if word not in str(caught.value)] == []
