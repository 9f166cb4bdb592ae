"""What a board says about chance: intervals over seeds, and a paired test over the test queries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh.seeding import derive

RESAMPLES = 9_999


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds; one seed says nothing about spread."""

    mean: float
    std: float | None
    low: float | None
    high: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation (ddof 1) and 95 % t-interval of one number per seed."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, None, None)
    from scipy import stats  # late: importing scipy.stats takes about a second

    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return Estimate(mean, std, mean - half, mean + half)


def sign_flip_p(difference: NDArray[np.float64]) -> float:
    """Two-sided p-value of a paired permutation test: under the null each query's difference may have either sign.

    The same differences always give the same value: the resamples are seeded.
    """
    from scipy import stats  # late, as above

    random = np.random.default_rng(derive(0, "leaderboard", "p_vs_best"))

    def flipped(*, size: tuple[int, ...]) -> NDArray[np.float64]:  # (resamples, queries)
        return np.where(random.integers(0, 2, size=size, dtype=np.bool_), difference, -difference)

    def mean(values: NDArray[np.float64], axis: int) -> Any:
        return values.mean(axis=axis)

    # permutation_test(permutation_type="samples") is the same test, but sorts 2 · queries · resamples numbers for
    # its signs, which takes seconds; here we draw the signs, and scipy does the rest.
    result = stats.monte_carlo_test(
        difference, flipped, mean, vectorized=True, n_resamples=RESAMPLES, batch=500, alternative="two-sided"
    )
    return float(result.pvalue)
