"""Items with several captions each, of which one is drawn in each epoch: their rows in the cache and out of it.

The text of such an item, where only one vector an item can be had (what a method keeps of all training items, audits),
is the mean of its captions' vectors. Where a net encodes texts to be ranked, it is given all captions, and the mean of
its outputs counts (`training.evaluation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cmh.cache import Contents, RowArray
from cmh.datasets import sparse

NAME = "captions"  # of the arrays in an entry


def starts(captions: Sequence[Sequence[object]]) -> NDArray[np.int64]:
    """Where each item's captions begin in a list of all, `(n + 1,)`."""
    return np.concatenate([[0], np.cumsum([len(some) for some in captions])]).astype(np.int64)


def rows_of(starts: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of the captions of some items, in these items' order."""
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(starts[one], starts[one + 1]) for one in items.tolist())])


def contents(texts: RowArray, starts: NDArray[np.int64], rows: Mapping[str, NDArray[np.int64]]) -> Contents:
    """The captions of each part's items for the cache, and the means of their vectors as the items' texts.

    `texts` `(m, d)` has a row a caption, `starts` `(n + 1,)` says whose it is. Both are sparse, or none is.
    """
    found = dict(sparse.contents(texts, {part: rows_of(starts, items) for part, items in rows.items()}, NAME))
    few = 1.0 if any(name.endswith(f"/{NAME}/{sparse.PARTS[0]}") for name in found) else 0.0
    found |= sparse.contents(_Means(texts, starts), rows, few=few)
    for part, items in rows.items():
        found[f"{part}/{NAME}-starts"] = np.concatenate([[0], np.cumsum(np.diff(starts)[items])]).astype(np.int64)
    return found


class _Means:
    """The mean of each item's rows, made when it is asked for."""

    def __init__(self, texts: RowArray, starts: NDArray[np.int64]) -> None:
        self._texts, self._starts = texts, starts
        self.shape, self.dtype = (len(starts) - 1, *texts.shape[1:]), np.dtype(np.float32)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.generic]:
        items = np.arange(len(self._starts) - 1)[index]
        lengths = np.diff(self._starts)[items]
        rows = np.asarray(self._texts[rows_of(self._starts, items)], np.float32)
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        means: NDArray[np.float32] = np.add.reduceat(rows, first, axis=0)
        means /= lengths.astype(np.float32).reshape(-1, *[1] * (rows.ndim - 1))
        return means
