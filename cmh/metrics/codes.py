"""Codes and labels as 64-bit words, and how well a set of codes uses its bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cmh.metrics import _checks

if TYPE_CHECKING:
    from cmh.metrics._checks import Matrix


def pack_codes(codes: Matrix) -> NDArray[np.uint64]:
    """Words `(n, ceil(bits / 64))` of codes `(n, bits)`: bit j of an item is 1 where its value is >= 0.

    Any real numbers will do, so that a network's outputs can be packed as they are: sign(0) = +1. Bit j stands in word
    j // 64, as the (j % 64)-th from its lowest: a code + - - - - - - - is the word 1, and its first byte on a
    little-endian machine what `numpy.packbits(code > 0, bitorder="little")` gives. (Without `bitorder` packbits makes
    128 of it, and so do faiss' users, pgvector and DuckDB; sqlite-vec's own quantiser puts the first bit lowest.) The
    bits that fill up the last word are 0, so XOR and a population count give the Hamming distance.

    Raises MetricError on NaN, on 0/1 codes, whose bits would all be 1, and on what is not a 2-D array of numbers.
    """
    _checks.refuse(_checks.number_problems("codes", codes))
    return words(_checks.to_numpy(codes) >= 0)


def pack_labels(labels: Matrix) -> NDArray[np.uint64]:
    """Words `(n, ceil(c / 64))` of 0/1 labels `(n, c)`: two items share a label where the AND of their words is not 0.

    Raises MetricError on other values, and on what is not a 2-D array of numbers.
    """
    _checks.refuse(_checks.label_problems("labels", labels))
    return words(_checks.to_numpy(labels) != 0)


def words(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Words `(n, ceil(columns / 64))` of truth values `(n, columns)`, unchecked."""
    n, columns = flags.shape
    packed = np.zeros((n, -(-columns // 64) * 8), dtype=np.uint8)
    packed[:, : -(-columns // 8)] = np.packbits(flags, axis=1, bitorder="little")
    return packed.view(np.uint64)


def unique_share(codes: Matrix) -> float:
    """Different codes per item: 1 where no two of the `(n, bits)` codes are equal, 1 / n where all are.

    Raises MetricError on codes other than ±1.
    """
    _checks.refuse(_checks.code_problems("codes", codes))
    packed = words(_checks.to_numpy(codes) > 0)
    # Sorting single words is many times faster than sorting rows.
    different = np.unique(packed[:, 0]) if packed.shape[1] == 1 else np.unique(packed, axis=0)
    return len(different) / len(packed)


def bit_balance(codes: Matrix) -> float:
    """How evenly the bits split the items, a mean over bits: 1 if each is +1 for half of them, 0 if all are constant.

    One bit of the `(n, bits)` codes counts 1 - |mean of its values|. Raises MetricError on codes other than ±1.
    """
    _checks.refuse(_checks.code_problems("codes", codes))
    positive = (_checks.to_numpy(codes) > 0).mean(axis=0)  # (bits,)
    return float(np.mean(1 - np.abs(2 * positive - 1)))
