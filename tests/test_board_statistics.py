"""What a board says about chance's rows: against loops, SciPy and simulated tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from cmh.board import statistics

Floats = NDArray[np.float64]


def simulated(
    random: np.random.Generator, seeds: tuple[int, ...], *, seed: float = 0.01, better: float = 0.0, n: int = 120
) -> tuple[list[Floats], NDArray[np.int64]]:
    """AP `(seeds, queries)` of methods of which only the first may be better, and groups of about 3 queries."""
    groups = np.sort(random.integers(0, n // 3, n))
    base = random.normal(0.5, 0.2, n)[groups]
    rows = []
    for row, several in enumerate(seeds):
        mean = base + better * (row == 0) + random.normal(0, 0.05, n)[groups]
        runs = random.normal(0, seed, (several, 1)) + random.normal(0, 0.03, (several, n))[:, groups]
        rows.append(mean + runs + random.normal(0, 0.05, (several, n)))
    return rows, groups


def best_first(rows: list[Floats]) -> list[Floats]:
    return sorted(rows, key=lambda row: -float(row.mean()))


# --- one row


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_intervals_over_seeds_are_those_of_scipy(values: list[float]) -> None:
    found = statistics.estimate(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    if found.std is not None and found.std > 1e-9:
        low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        assert [found.low, found.high] == pytest.approx([low, high])


def test_an_interval_by_hand() -> None:
    # t(0.975, 2) = 4.302653; sd of 1, 2, 3 is 1
    found = statistics.estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.std) == (2, 1)
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-6)


def test_one_seed_has_no_interval() -> None:
    assert statistics.estimate([0.5]) == statistics.Estimate(0.5, None, None, None)


def slow_levels(rows: list[Floats], groups: NDArray[np.int64]) -> tuple[list[float], list[list[float]], list[float]]:
    """Means, contributions and seed variances by loops over rows, seeds, groups and queries."""
    names = sorted(set(groups.tolist()))
    n_queries, means, contributions, parts = len(groups), [], [], []
    for runs in rows:
        sums = [[sum(ap for ap, g in zip(run, groups, strict=True) if g == name) for name in names] for run in runs]
        sizes = [sum(g == name for g in groups) for name in names]
        run_means = [sum(one) / n_queries for one in sums]
        mean = sum(run_means) / len(runs)
        of_row = [sum(one[k] for one in sums) / len(runs) for k in range(len(names))]
        between = sum((value - mean) ** 2 for value in run_means)
        within = 0.0
        for one, run_mean in zip(sums, run_means, strict=True):
            for k, size in enumerate(sizes):
                within += ((one[k] - of_row[k] - (run_mean - mean) * size) / n_queries) ** 2
        means.append(mean)
        contributions.append([value / n_queries for value in of_row])
        parts.append((between - within * len(names) / (len(names) - 1), len(runs) - 1))
    pooled = max(sum(part for part, _ in parts) / sum(freedom for _, freedom in parts), 0)
    variances = [
        max(part / freedom if freedom else 0, pooled) / (freedom + 1) for part, freedom in parts
    ]  # of the mean of freedom + 1 seeds
    return means, contributions, variances


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_the_levels_are_those_of_loops(seed: int, seeds: list[int]) -> None:
    seeds[0] = max(seeds[0], 2)
    rows, groups = simulated(np.random.default_rng(seed), tuple(seeds), n=24)
    found = statistics.levels(rows, groups)
    means, contributions, variances = slow_levels(rows, groups)
    assert found.means == pytest.approx(means)
    assert found.contributions == pytest.approx(np.array(contributions))
    assert found.seed_variance == pytest.approx(variances, abs=1e-12)
    assert found.freedom == max(sum(n - 1 for n in seeds) / (2 if len(seeds) > 1 else 1), 1)
    assert found.sizes.sum() == pytest.approx(1)


def test_the_order_of_queries_and_the_names_of_groups_change_nothing() -> None:
    rows, groups = simulated(np.random.default_rng(0), (3, 3))
    order = np.random.default_rng(1).permutation(groups.size)
    one, two = statistics.levels(rows, groups), statistics.levels([row[:, order] for row in rows], groups[order] + 7)
    assert one.contributions == pytest.approx(two.contributions)
    assert one.seed_variance == pytest.approx(two.seed_variance)


def test_a_row_whose_seeds_scatter_keeps_its_own_variance_and_others_the_pooled_one() -> None:
    quiet, wild = np.full((3, 40), 0.5), np.full((3, 40), 0.4) + np.array([[-0.3], [0.0], [0.3]])
    found = statistics.levels([quiet, wild, quiet[:1]], np.arange(40))
    assert found.seed_variance == pytest.approx([0.09 / 2 / 3, 0.09 / 3, 0.09 / 2])


def test_the_seed_variance_leaves_out_what_single_queries_make_run_means_vary_by() -> None:
    random = np.random.default_rng(0)
    noise = [random.normal(0.5, 0.3, (3, 50)) for _ in range(400)]
    runs = [row + random.normal(0, 0.02, (3, 1)) for row in noise]
    # 0.3² / 50 is the variance of a run's mean from its queries
    assert statistics.levels(noise, np.arange(50)).seed_variance.min() < 0.2 * 0.3**2 / 50 / 3
    parts = [statistics.levels([row], np.arange(50)).seed_variance[0] * 3 for row in runs]
    assert np.median(parts) < 0.02**2 < np.mean(parts) < 3 * 0.02**2  # cut at 0, so above on the mean


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random, held = np.random.default_rng(0), []
    for _ in range(300):
        found = statistics.levels(*simulated(random, (3, 3)))
        halves = statistics.intervals(found)
        assert halves is not None
        held += (np.abs(found.means - 0.5) <= halves).tolist()
    assert 0.92 < np.mean(held) < 0.99


def test_intervals_of_many_seeds_and_no_seed_effect_are_those_of_the_queries() -> None:
    random = np.random.default_rng(0)
    base = random.normal(0.5, 0.2, 400)
    found = statistics.levels([np.tile(base, (5, 1)) for _ in range(2)], np.arange(400))
    halves = statistics.intervals(found)
    assert halves == pytest.approx(1.96 * base.std(ddof=1) / 20, rel=0.1)


@pytest.mark.parametrize(("seeds", "groups"), [((1, 1), np.arange(9)), ((3, 3), np.zeros(9, np.int64))])
def test_too_few_seeds_or_groups_have_no_interval(seeds: tuple[int, ...], groups: NDArray[np.int64]) -> None:
    random = np.random.default_rng(0)
    found = statistics.levels([random.uniform(0, 1, (n, 9)) for n in seeds], groups)
    assert statistics.intervals(found) is None
