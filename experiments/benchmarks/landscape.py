"""What training gives at any point of a search space, from a table of stored curves: nothing is trained.

A point's curve is the whole stored curve of a donor: a stored point drawn with a probability that falls with its
distance in the space, exp(-½ Σ (Δ/width)²), Δ in shares of each range (of its logarithm where it is one), 1 between two
choices and where only one of both points has the hyperparameter. The widths, one a hyperparameter, are those whose
weighted means predict each stored curve best from all the others (least squares over all epochs). So a curve is real,
with its own shape and noise; the mean over donors is kernel regression; what the distance does not explain is noise,
drawn once for each point and repetition; nothing is better than the best that is stored.

(The nearest stored point alone would be cruder: in six or more dimensions it lies far away, and what a sampler proposes
would hardly matter. A mean of neighbours would be too smooth: it has neither the best curves nor the noise.)

Limits: within a width the space is flat but for noise, so that nobody is rewarded for finer steps than the table
resolves; and where few points are stored, noise is larger than that of a training run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from curve_tables import Row
from numpy.typing import NDArray
from scipy.optimize import minimize

from cmh.config import Value
from cmh.seeding import derive
from cmh.study.space import Range

NARROWEST, WIDEST = 0.03, 10.0  # at the widest a hyperparameter makes no difference
Floats = NDArray[np.float64]


def place(item: Range, values: Mapping[str, Value]) -> float:
    """Where a value lies in its range, 0 to 1; of a choice its number; NaN where the hyperparameter does not exist."""
    if item.name not in values:
        return np.nan
    if item.kind == "choice":
        return item.choices.index(values[item.name])
    return item.share(values[item.name])


def gaps(item: Range, ours: Floats, theirs: Floats) -> Floats:
    """Squared distances `(n, m)` in one hyperparameter."""
    difference = ours[:, None] - theirs[None]
    apart = np.abs(difference) > 0 if item.kind == "choice" else difference
    one_has_it = np.isnan(ours)[:, None] != np.isnan(theirs)[None]
    return np.where(np.isnan(difference), one_has_it, np.square(apart, dtype=np.float64))


class Landscape:
    """The curves of the rows of a table that lie in the space, all of one length."""

    def __init__(self, ranges: Sequence[Range], rows: Sequence[Row]) -> None:
        self.ranges, self.rows = ranges, rows
        self._places = [np.array([place(item, row.values) for row in rows]) for item in ranges]
        length, lowest = max(len(row.curve) for row in rows), min(min(row.curve, default=1.0) for row in rows)
        # A run that failed is as good as its last epoch.
        filled = [row.curve + (row.curve[-1:] or [lowest]) * (length - len(row.curve)) for row in rows]
        self._curves = np.array(filled)
        self._gaps = np.stack([gaps(item, places, places) for item, places in zip(ranges, self._places, strict=True)])
        start = np.full(len(ranges), np.log(0.5))
        bounds = [(np.log(NARROWEST), np.log(WIDEST))] * len(ranges)
        self.widths: Floats = np.exp(minimize(self.error, start, bounds=bounds, method="L-BFGS-B").x)

    def error(self, log_widths: Floats) -> float:
        """Mean squared error of each stored curve as the others predict it."""
        heights = -0.5 * np.tensordot(np.exp(-2 * log_widths), self._gaps, 1)
        np.fill_diagonal(heights, -np.inf)
        return float(np.square(shares(heights) @ self._curves - self._curves).mean())

    @property
    def explained(self) -> float:
        """Share of the curves' variance that the others predict."""
        return 1 - self.error(np.log(self.widths)) / float(self._curves.var(axis=0).mean())

    def chances(self, values: Mapping[str, Value]) -> Floats:
        """Of each row to be the donor of a point's curve."""
        heights = np.zeros(len(self.rows))
        for item, places, width in zip(self.ranges, self._places, self.widths, strict=True):
            heights -= 0.5 * gaps(item, np.array([place(item, values)]), places)[0] / width**2
        return shares(heights[None])[0]

    def row(self, values: Mapping[str, Value], repetition: int) -> Row:
        """What training gives at a point; the same each time, but another in another repetition."""
        active = {item.name: values[item.name] for item in self.ranges if item.active(values)}
        draw = np.random.default_rng(derive(repetition, "donor", json.dumps(active, sort_keys=True)))
        return self.rows[draw.choice(len(self.rows), p=self.chances(active))]


def shares(heights: Floats) -> Floats:
    """exp(heights) `(n, m)`, each row divided by its sum."""
    found = np.exp(heights - heights.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)
