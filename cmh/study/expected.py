"""How good the best of n trials is expected to be.

Dodge et al., "Show Your Work" (EMNLP 2019), ask what a smaller budget would have found. Their estimator draws n of the
N trials with replacement, which puts it too low at every n > 1 (Tang et al., "Showing Your Work Doesn't Always Work",
ACL 2020). Here the n are drawn without: of N values v(1) ≤ … ≤ v(N) the i-th is the best of n in C(i-1, n-1) of the
C(N, n) draws. The mean over all of them is an unbiased estimate for n independent trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def expected_best(values: Sequence[float], n: int) -> float:
    """The mean, over all ways to take `n` of the values, of the largest one taken.

    Raises ValueError where n is not in 1 … len(values), or a value is not finite.
    """
    if not 1 <= n <= len(values):
        raise ValueError(f"n is {n}, but must be from 1 to the {len(values)} values")
    if not all(map(math.isfinite, values)):
        raise ValueError("values must be finite; a trial without one counts as the lowest")
    draws = math.comb(len(values), n)  # whole numbers, as large as they get: their quotient is rounded once
    ranked = enumerate(sorted(values))
    return math.fsum(value * (math.comb(below, n - 1) / draws) for below, value in ranked if below >= n - 1)
