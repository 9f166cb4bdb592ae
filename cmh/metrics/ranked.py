"""One ranking read by many metrics: what all of them need is counted once.

The public functions of `ranking` and `legacy` count for each call anew, which is right for one number and slow for a
table of fifty.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cmh.metrics import _checks, counted
from cmh.metrics.counted import Counts, Floats

Words = NDArray[np.uint64]


class Ranked:
    """Queries against a database, as `pack_codes` and `pack_labels` give them; all four `(n, words)`.

    Parameters
    ----------
    cuts: the ranks k at which metrics with ties in database order can be read; the whole database always can.

    Raises MetricError that lists all that is wrong with the words.
    """

    def __init__(
        self,
        query_words: Words,
        database_words: Words,
        query_label_words: Words,
        database_label_words: Words,
        bits: int,
        *,
        cuts: Iterable[int] = (),
    ) -> None:
        words = (query_words, database_words, query_label_words, database_label_words)
        _checks.refuse(_checks.word_problems(*words, bits))
        self._words = words
        self._bits = bits
        self.n_query, self.n_database = len(query_words), len(database_words)
        self._cuts = sorted({min(k, self.n_database) for k in cuts} | {self.n_database})

    @functools.cached_property
    def counts(self) -> tuple[Counts, Counts]:
        """All items and relevant items at each distance, two `(n_query, bits + 1)` arrays."""
        from cmh.metrics import _kernel  # late: `--help` does not load the compiler

        return _kernel.histograms(*self._words, self._bits)

    @functools.cached_property
    def n_relevant(self) -> Counts:
        """R of each query, `(n_query,)`."""
        relevant: Counts = self.counts[1].sum(axis=1)
        return relevant

    @functools.cached_property
    def _sums(self) -> tuple[Floats, Counts, Floats]:
        """The first three of `_kernel.index_sums`, `(n_query, cuts)` each."""
        from cmh.metrics import _kernel

        return _kernel.index_sums(*self._words, self._bits, self._cuts)[:3]

    def first_items(self, k: int | None = None) -> tuple[Floats, Counts]:
        """Ties in database order: the sum of precisions at relevant items among the first k items (None: all), and how
        many these are; `(n_query,)` each.
        """
        at = self._at(k)
        return self._sums[0][:, at], self._sums[1][:, at]

    def first_relevant(self, k: int | None = None) -> tuple[Floats, Counts]:
        """Ties in database order: the sum of precisions at the first k relevant items wherever they stand, and how many
        these are; `(n_query,)` each.
        """
        at = self._at(k)
        return self._sums[2][:, at], np.minimum(self.n_relevant, self._cuts[at])

    def average_precision(self, k: int | None = None, ties: str = "expected") -> Floats:
        """As `ranking.average_precision`, `(n_query,)`."""
        if ties != "index":
            return counted.average_precision(*self.counts, k, ties)
        at = self._at(k)
        return counted.ratio(self._sums[0][:, at], np.minimum(self._cuts[at], self.n_relevant))

    def _at(self, k: int | None) -> int:
        return self._cuts.index(self.n_database if k is None else min(k, self.n_database))
