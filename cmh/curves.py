"""Precision-recall curves as the field draws them: by Hamming radius or by rank, empty results treated in several ways.

Within a small radius many queries find nothing at all, and then it decides the curve's left end whether these count as
precision 0 or are left out. By rank no query finds nothing, but some have no relevant item in the database.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cmh.metrics import counted
from cmh.metrics.counted import Counts, Floats
from cmh.metrics.ranked import Ranked

Points = tuple[Counts, Floats, Floats]


@dataclasses.dataclass(frozen=True)
class Curve:
    """Mean precision and mean recall at growing radii or ranks: three arrays of one length."""

    name: str
    used_by: str
    points: Callable[[Ranked], Points]


def area(curve: Curve, ranked: Ranked) -> float:
    """Below the curve between its first and its last point, by trapezia; what lies left of the first is not in it."""
    _, precision, recall = curve.points(ranked)
    return float(np.trapezoid(precision, recall))


def _by_radius(kept: Callable[[Counts, Counts], NDArray[np.bool_]]) -> Callable[[Ranked], Points]:
    """Means over the queries that `kept` chooses at each radius, by how many items and relevant items they find."""

    def points(ranked: Ranked) -> Points:
        everything, relevant = ranked.counts
        in_mean = kept(everything.cumsum(axis=1), relevant.cumsum(axis=1))
        return np.arange(everything.shape[1]), *counted.curve_by_radius(everything, relevant, in_mean)

    return points


def _pooled(ranked: Ranked) -> Points:
    everything, relevant = (counts.sum(axis=0).cumsum() for counts in ranked.counts)
    return np.arange(len(everything)), counted.ratio(relevant, everything), counted.ratio(relevant, relevant[-1])


def _by_rank(drop: bool) -> Callable[[Ranked], Points]:
    """At ranks 1, 2, 5, 10, … and the last one, ties as expected."""
    return lambda ranked: counted.curve_by_rank(*ranked.counts, drop=drop)


ZERO = Curve("by radius, who finds nothing counts 0", "cmh", _by_radius(lambda n, r: n >= 0))
DROPPED = Curve("by radius, who finds nothing dropped", "", _by_radius(lambda n, r: n > 0))
CURVES: tuple[Curve, ...] = (
    ZERO,
    DROPPED,
    Curve(
        "by radius, who has no hit dropped",
        "releases whose pr_curve has the mask P > 0",
        _by_radius(lambda n, r: r > 0),
    ),
    Curve("by radius, all queries pooled", "DCHMT's precision", _pooled),
    Curve("by rank, who has no relevant items counts 0", "", _by_rank(drop=False)),
    Curve("by rank, who has no relevant items dropped", "", _by_rank(drop=True)),
)
