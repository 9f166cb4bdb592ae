"""Exact search in packed codes: every item is looked at, ties stand in database order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cmh.metrics import _checks

MOST_BITS = 4096


def nearest(
    queries: NDArray[np.uint8], database: NDArray[np.uint8], bits: int, k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The k nearest items of each query by Hamming distance, those at one distance in database order.

    Parameters
    ----------
    queries, database: `(n_query, ceil(bits / 8))` and `(n, ceil(bits / 8))` uint8, as `cmh.codes.pack` makes them: bit
    j is the (j % 8)-th from below of byte j // 8, and the bits that fill up the last byte are 0.
    bits: 1 to 4,096. k: at least 1; beyond the database all of it is given.

    Returns distances, int32, and places in the database, int64, both `(n_query, min(k, n))`. Works on as many threads
    as `numba.set_num_threads` says, with less than 8 bytes an item beside codes and result.

    Raises MetricError that lists everything that is wrong with the arguments.
    """
    problems = [*bits_problems(bits), *_checks.integer_problems("k", k)]
    for name, codes in (("queries", queries), ("database", database)):
        problems += packed_problems(name, codes, bits)
    _checks.refuse(problems)
    k = min(int(k), len(database))
    if k == 0 or len(queries) == 0:
        return np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    from cmh.metrics import _nearest  # late: numba takes a while to import

    words = np.zeros((len(queries), -(-bits // 64) * 8), np.uint8)
    words[:, : queries.shape[1]] = queries
    return _nearest.nearest(words.view(np.uint64), np.ascontiguousarray(database), int(bits), k)


def packed_problems(name: str, codes: object, bits: int) -> list[str]:
    """What is wrong with packed codes `(n, ceil(bits / 8))`; empty ones are fine."""
    if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8 or codes.ndim != 2:
        kind = f"{codes.dtype} {codes.shape}" if isinstance(codes, np.ndarray) else type(codes).__name__
        return [f"{name} are {kind}, but must be uint8 (n, bytes): pack ±1 codes with cmh.codes.pack"]
    if bits_problems(bits):
        return []
    width = -(-bits // 8)
    if codes.shape[1] != width:
        return [f"{name} have {codes.shape[1]} bytes an item, but {bits} bits are {width}; are they of one model?"]
    if bits % 8 and (codes[:, -1] >> (bits % 8)).any():
        return [f'{name} have bits set beyond bit {bits}; were they packed with bitorder="little"?']
    return []


def bits_problems(bits: object) -> list[str]:
    """A code length: 1 to 4,096."""
    if problems := _checks.integer_problems("bits", bits):
        return problems
    assert isinstance(bits, (int, np.integer))
    return [f"bits is {bits}, but must be at most {MOST_BITS}"] if bits > MOST_BITS else []
