"""How the field scores codes: each protocol is one entry of a table, computed from the same rankings.

Who computes what was read from the releases' code. Two things cannot be seen in ±1 codes: outputs of exactly 0, which
most PyTorch releases leave as codes with half distances, and the order in which an unstable sort leaves ties; the
latter is near the mean over all orders where the database is in random order.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cmh import curves
from cmh.codes import Codes
from cmh.curves import Curve
from cmh.metrics import _few, counted, pack_labels
from cmh.metrics.ranked import Ranked

CUTS = (50, 100, 500, 1000, 5000)
_SHOWN = (50, 5000)  # cuts that releases print; the others are in the CSV file alone
_TOP = 5  # DGCPN
_BATCH = 128  # UCMFH


class Direction:
    """Queries of one modality against the database of the other."""

    def __init__(self, query: NDArray[np.uint8], database: NDArray[np.uint8], codes: Codes) -> None:
        words = (_words(query), _words(database), pack_labels(codes.query_labels), pack_labels(codes.database_labels))
        self._words, self._bits = words, codes.bits
        self.ranked = Ranked(*words, codes.bits, cuts=(_TOP, *CUTS))
        if _few.worth_it(self.ranked.n_query, self.ranked.n_database):
            self.ranked.counts = _few.histograms(*words, codes.bits)

    @functools.cached_property
    def full_batches(self) -> Ranked | None:
        """What loaders with `drop_last` and batches of 128 leave; None where they leave nothing."""
        n_query, n_database = (len(side) // _BATCH * _BATCH for side in self._words[:2])
        if not n_query or not n_database:
            return None
        query, database, query_labels, database_labels = self._words
        kept = (query[:n_query], database[:n_database], query_labels[:n_query], database_labels[:n_database])
        return Ranked(*kept, self._bits, cuts=(50,))


Compute = Callable[[Direction, int | None], float | None]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to score a direction; None where it has nothing to compute from."""

    group: str
    name: str
    used_by: str
    compute: Compute  # of a direction and `k`
    k: int | None = None  # a cut, or a radius
    shown: bool = True  # in the terminal; all are in the CSV file
    printed: bool = False  # a release of cross-modal hashing prints it as its MAP


def directions(codes: Codes) -> tuple[Direction, Direction]:
    """Image to text and text to image, of codes without epochs."""
    return (
        Direction(codes.query_image, codes.database_text, codes),
        Direction(codes.query_text, codes.database_image, codes),
    )


def _words(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Bytes `(n, ceil(bits / 8))` as the words of `pack_codes`."""
    n, width = packed.shape
    padded = np.zeros((n, -(-width // 8) * 8), np.uint8)
    padded[:, :width] = packed
    return padded.view(np.uint64)


# Mean average precision: what is divided by what, and over which queries the mean is.


def _ties(ties: str) -> Compute:
    return lambda side, k: counted.mean(side.ranked.average_precision(k, ties))


def _by_hits(side: Direction, k: int | None) -> float:
    return counted.mean(counted.ratio(*side.ranked.first_items(k)))


def _first_relevant(side: Direction, k: int | None) -> float:
    return counted.mean(counted.ratio(*side.ranked.first_relevant(k)))


def _by_all_relevant(side: Direction, k: int | None) -> float:
    return counted.mean(counted.ratio(side.ranked.first_items(k)[0], side.ranked.n_relevant))


def _drop_empty(side: Direction, k: int | None) -> float | None:
    sums, hits = side.ranked.first_items(k)
    kept = hits > 0
    return counted.mean(sums[kept] / hits[kept]) if kept.any() else None


def _not_a_number(side: Direction, k: int | None) -> float:
    return math.nan if (side.ranked.n_relevant == 0).any() else _first_relevant(side, k)


def _full_batches(side: Direction, k: int | None) -> float | None:
    ranked = side.full_batches
    return None if ranked is None else counted.mean(counted.ratio(*ranked.first_items(k)))


def _precision(side: Direction, k: int | None) -> float:
    assert k is not None
    return counted.mean(counted.found_at(*side.ranked.counts, k) / k)


def _ndcg(side: Direction, k: int | None) -> float:
    return counted.mean(counted.ndcg(*side.ranked.counts, k))


def _within(curve: Curve, which: int) -> Compute:
    """One point of a curve by radius: its precision (1) or recall (2)."""
    return lambda side, radius: float(curve.points(side.ranked)[which][: (radius or 0) + 1][-1])


def _area(curve: Curve) -> Compute:
    return lambda side, k: curves.area(curve, side.ranked)


_DIVISORS: tuple[tuple[str, str, Compute, tuple[int, ...]], ...] = (
    ("by min(k, R)", "cmh with k", _ties("expected"), ()),
    ("by hits", "DJSRH, JDSH, DSAH: @50; DeepHash-pytorch", _by_hits, (50,)),
    ("over the first k relevant", "TwDH, DScPH: @5000; torchcmh, AGAH, DADH, MITH", _first_relevant, (5000,)),
    ("by hits, who has none dropped", "UCCH, given a k", _drop_empty, ()),
    ("by R", "trec_eval, ranx, ir-measures", _by_all_relevant, ()),
)

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol("whole database", "MAP@all, ties: mean over all orders", "cmh", _ties("expected"), printed=True),
    Protocol(
        "whole database",
        "MAP@all, ties: database order",
        "DCMH in MATLAB; others sort unstably",
        _ties("index"),
        printed=True,
    ),
    Protocol("whole database", "MAP@all, ties: best order", "nobody: a bound", _ties("optimistic")),
    Protocol("whole database", "MAP@all, ties: worst order", "nobody: a bound", _ties("pessimistic")),
    Protocol("whole database", "MAP@all, who has no relevant items dropped", "UCCH", _drop_empty, printed=True),
    Protocol("whole database", "MAP@all, who has no relevant items: NaN", "DCHMT", _not_a_number),
    *(
        Protocol("cut at k", f"MAP@{k} {name}", used_by, compute, k, k in _SHOWN, k in printed)
        for k in CUTS
        for name, used_by, compute, printed in _DIVISORS
    ),
    Protocol(
        "cut at k",
        f"MAP@50 by hits, last items beyond {_BATCH}s left out",
        "UCMFH: drop_last on queries and database",
        _full_batches,
        50,
        printed=True,
    ),
    Protocol("cut at k", f"MAP@{_TOP} by hits", "DGCPN, printed as @50", _by_hits, _TOP, printed=True),
    *(Protocol("precision and gain", f"P@{k}", "", _precision, k) for k in (1, 10, 50, 100, 500, 1000)),
    *(Protocol("precision and gain", f"NDCG@{k or 'all'}", "", _ndcg, k) for k in (10, 100, 1000, None)),
    *(
        Protocol("within a Hamming radius", f"{name} within {radius}, {how}", "", _within(curve, which), radius)
        for name, which, how, curve in (
            ("precision", 1, "finding nothing counts 0", curves.ZERO),
            ("precision", 1, "finding nothing dropped", curves.DROPPED),
            ("recall", 2, "finding nothing counts 0", curves.ZERO),
        )
        for radius in range(4)
    ),
    *(Protocol("precision-recall curves", f"area, {c.name}", c.used_by, _area(c)) for c in curves.CURVES),
)
