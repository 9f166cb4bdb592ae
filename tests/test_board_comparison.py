"""Which rows of a board differ: against a slow second implementation, exact cases and simulated equal methods."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from cmh.board import comparison, statistics
from cmh.board.statistics import DRAWS, Levels
from tests.test_board_statistics import Floats, best_first, simulated

# --- all pairs


def slow_p(found: Levels) -> dict[tuple[int, int], float]:
    """Step-down maxT by explicit loops over draws and pairs, from the most doubtful pair up."""
    n = found.means.size
    pairs = list(itertools.combinations(range(n), 2))
    drawn = statistics.deviations(found, centred=False).astype(np.float64)
    error = {
        (a, b): math.sqrt(
            found.seed_variance[a]
            + found.seed_variance[b]
            + sum((x - y) ** 2 for x, y in zip(found.contributions[a], found.contributions[b], strict=True))
        )
        for a, b in pairs
    }
    observed = {(a, b): abs(found.means[a] - found.means[b]) / error[a, b] for a, b in pairs}
    order = sorted(pairs, key=lambda pair: -observed[pair])
    p: dict[tuple[int, int], float] = {}
    above = 0.0
    for place, pair in enumerate(order):
        count = 0
        for draw in range(DRAWS):
            largest = max(abs(drawn[a, draw] - drawn[b, draw]) / error[a, b] for a, b in order[place:])
            count += largest >= observed[pair] * (1 - 1e-5)
        above = max(above, (1 + count) / (1 + DRAWS))
        p[pair] = above
    return p


@pytest.mark.parametrize("better", [0.0, 0.06])
def test_p_values_are_those_of_loops(better: float) -> None:
    rows, groups = simulated(np.random.default_rng(2), (3, 2, 3, 1), better=better)
    found = statistics.levels(best_first(rows), groups)
    compared = comparison.compare(found, groups.size)
    assert compared is not None
    slow = slow_p(found)
    fast = dict(zip(zip(compared.first.tolist(), compared.second.tolist(), strict=True), compared.p, strict=True))
    assert fast.keys() == slow.keys()
    assert all(fast[pair] == pytest.approx(slow[pair], abs=1.1 / DRAWS) for pair in slow)
    assert compared.against_best() == [None, *(fast[0, row] for row in (1, 2, 3))]
    assert (compared.different() == compared.different().T).all()


def test_two_rows_without_seed_effects_are_an_exact_sign_flip_test() -> None:
    # each run is the same, so that only the signs of 5 groups are drawn: all alike in 2 of 2⁵ draws
    random = np.random.default_rng(0)
    base = random.uniform(0.2, 0.4, 10)
    groups = np.repeat(np.arange(5), 2)
    better = base + np.repeat([0.1, 0.2, 0.05, 0.15, 0.3], 2)
    rows = [np.tile(better, (2, 1)), np.tile(base, (2, 1))]
    compared = comparison.compare(statistics.levels(rows, groups), 10)
    assert compared is not None
    assert compared.p[0] == pytest.approx(2 / 2**5, abs=0.02)
    single = stats.permutation_test((better - base,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert single.pvalue == pytest.approx(2 / 2**10)  # what queries that count one by one would claim


def test_without_two_seeds_or_two_rows_nothing_is_compared() -> None:
    rows, groups = simulated(np.random.default_rng(0), (1, 1))
    assert comparison.compare(statistics.levels(rows, groups), groups.size) is None
    rows, groups = simulated(np.random.default_rng(0), (3,))
    assert comparison.compare(statistics.levels(rows, groups), groups.size) is None


def test_copies_of_one_run_do_not_differ() -> None:
    run = np.random.default_rng(0).uniform(0, 1, (2, 30))
    run[1] = run[0]
    compared = comparison.compare(statistics.levels([run, run, run], np.arange(30)), 30)
    assert compared is not None
    assert (compared.p == 1).all()
    assert compared.queries == [None, None]


def test_equal_methods_are_told_apart_in_few_tables_and_a_clear_one_is_found() -> None:
    """The short twin of experiments/benchmarks/board_errors.py."""
    random = np.random.default_rng(0)
    claims, found = 0, 0
    for _ in range(60):
        rows, groups = simulated(random, (3,) * 8)
        compared = comparison.compare(statistics.levels(best_first(rows), groups), groups.size)
        assert compared is not None
        claims += bool(compared.different().any())
        rows, groups = simulated(random, (3,) * 8, better=0.15)
        compared = comparison.compare(statistics.levels(best_first(rows), groups), groups.size)
        assert compared is not None
        found += bool(compared.different()[0, 1:].all())
    assert claims <= 7  # of 60 at 5 %: more than 7 once in 100
    assert found >= 55


def test_the_number_of_queries_is_what_separates_two_rows_four_times_in_five() -> None:
    """The formula, against repeated tables of as many queries as it asks for."""
    random = np.random.default_rng(3)

    def table(n: int) -> tuple[list[Floats], NDArray[np.int64]]:
        base = random.normal(0.5, 0.2, n)
        rows = [base + shift + random.normal(0, 0.1, n) for shift in (0.05, 0.0)]
        return [np.stack([row, row, row, row, row]) for row in rows], np.arange(n)

    rows, groups = table(20_000)
    compared = comparison.compare(statistics.levels(rows, groups), 20_000)
    assert compared is not None
    (needed,) = compared.queries
    assert needed is not None
    assert 50 < needed < 90  # (1.96 + 0.84)² · 2 · 0.1² / 0.05² = 63
    hits = 0
    for _ in range(200):
        rows, groups = table(needed)
        found = comparison.compare(statistics.levels(rows, groups), needed)
        assert found is not None
        hits += found.p[0] <= 0.05 and rows[0].mean() > rows[1].mean()
    assert 0.7 < hits / 200 < 0.9


def test_where_seeds_are_too_uncertain_no_number_of_queries_is_enough() -> None:
    rows, groups = simulated(np.random.default_rng(0), (3, 3), seed=0.3, better=0.01)
    compared = comparison.compare(statistics.levels(best_first(rows), groups), groups.size)
    assert compared is not None
    assert compared.queries == [None]


def test_large_tables_compare_neighbours_and_the_best_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "ALL_PAIRS", 4)
    rows, groups = simulated(np.random.default_rng(0), (2,) * 6, better=0.5)
    found = statistics.levels(best_first(rows), groups)
    compared = comparison.compare(found, groups.size)
    assert compared is not None
    assert not compared.complete
    pairs = set(zip(compared.first.tolist(), compared.second.tolist(), strict=True))
    assert pairs == {(0, row) for row in range(1, 6)} | {(row, row + 1) for row in range(1, 5)}
    assert len(compared.first) == 9  # none twice
    assert len(compared.queries) == 5
    best = compared.against_best()
    assert best[0] is None
    assert all(p is not None and p <= 0.05 for p in best[1:])


# --- ranks and letters


@st.composite
def relations(draw: st.DrawFn) -> NDArray[np.bool_]:
    n = draw(st.integers(1, 7))
    pairs = draw(st.lists(st.booleans(), min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2))
    different = np.zeros((n, n), dtype=np.bool_)
    different[np.triu_indices(n, 1)] = pairs
    return different | different.T


@given(relations())
def test_rows_share_a_letter_exactly_where_they_do_not_differ(different: NDArray[np.bool_]) -> None:
    letters = comparison.letters(different)
    for a, b in itertools.combinations(range(len(different)), 2):
        assert bool(set(letters[a]) & set(letters[b])) == (not different[a, b])
    assert all(letters)
    assert letters[0][0] == "a"
    members = {name: {row for row, text in enumerate(letters) if name in text} for name in "".join(letters)}
    assert not any(members[a] < members[b] or (a != b and members[a] == members[b]) for a in members for b in members)


@given(relations())
def test_rank_intervals_count_the_better_and_the_worse(different: NDArray[np.bool_]) -> None:
    n = len(different)
    for row, (low, high) in enumerate(comparison.rank_intervals(different, n + 2)):
        assert low == 1 + sum(bool(different[row, other]) for other in range(row))
        assert high == n + 2 - sum(bool(different[row, other]) for other in range(row + 1, n))
        assert 1 <= low <= row + 1 <= high


def test_letters_by_hand() -> None:
    # the first differs from the third and fourth, the second from the fourth
    different = np.zeros((4, 4), dtype=np.bool_)
    for a, b in ((0, 2), (0, 3), (1, 3)):
        different[a, b] = different[b, a] = True
    assert comparison.letters(different) == ["a", "ab", "bc", "c"]
    assert comparison.rank_intervals(different, 4) == [(1, 2), (1, 3), (2, 4), (3, 4)]


def test_more_than_26_letters_have_numbers() -> None:
    letters = comparison.letters(~np.eye(28, dtype=np.bool_))
    assert letters[:2] + letters[25:] == ["a", "b", "z", "a1", "b1"]
