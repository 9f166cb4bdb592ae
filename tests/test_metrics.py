"""Metrics against enumeration of all tie orders, a slow second implementation, laws, and bad input."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh import metrics
from cmh.errors import CmhError, MetricError
from cmh.metrics import _checks, _few, _kernel, _torch

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
TIES = ("expected", "optimistic", "pessimistic", "index")


def make_case(
    seed: int, *, n_query: int = 5, n_database: int = 40, bits: int = 8, labels: int = 6, density: float = 0.2
) -> Case:
    rng = np.random.default_rng(seed)
    return (
        rng.choice([-1, 1], (n_query, bits)),
        rng.choice([-1, 1], (n_database, bits)),
        (rng.random((n_query, labels)) < density).astype(int),
        (rng.random((n_database, labels)) < density).astype(int),
    )


# The second implementation: one ranking at a time, in plain Python.


def distances_and_relevance(case: Case) -> Iterator[tuple[list[int], list[bool]]]:
    for code, labels in zip(case[0].tolist(), case[2].tolist(), strict=True):
        distances = [sum(a != b for a, b in zip(code, item, strict=True)) for item in case[1].tolist()]
        relevant = [any(a and b for a, b in zip(labels, item, strict=True)) for item in case[3].tolist()]
        yield distances, relevant


def rankings(distances: list[int], relevant: list[bool]) -> Iterator[list[bool]]:
    """The relevance at ranks 1, 2, … in every order of tied items."""
    classes = [[r for d, r in zip(distances, relevant, strict=True) if d == at] for at in sorted(set(distances))]
    for orders in itertools.product(*(itertools.permutations(members) for members in classes)):
        yield [r for order in orders for r in order]


def stable_ranking(distances: list[int], relevant: list[bool]) -> list[bool]:
    return [relevant[i] for i in sorted(range(len(distances)), key=lambda i: distances[i])]


def precisions(ranking: list[bool]) -> list[tuple[int, float]]:
    """The rank of each relevant item, and the precision there."""
    ranks = [rank for rank, r in enumerate(ranking, start=1) if r]
    return [(rank, hit / rank) for hit, rank in enumerate(ranks, start=1)]


def slow_ap(ranking: list[bool], k: int | None) -> float:
    if not any(ranking):
        return 0.0
    k = len(ranking) if k is None else k
    return sum(p for rank, p in precisions(ranking) if rank <= k) / min(k, sum(ranking))


def slow_ndcg(ranking: list[bool], k: int | None) -> float:
    if not any(ranking):
        return 0.0
    k = len(ranking) if k is None else k
    discount = [1 / math.log2(1 + rank) for rank in range(1, len(ranking) + 1)]
    gain = sum(d for d, r in zip(discount[:k], ranking[:k], strict=True) if r)
    return gain / sum(discount[: min(k, sum(ranking))])


# Every order of tied items.


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [None, 1, 2, 3, 4, 6, 50])
def test_closed_forms_are_those_of_all_tie_orders(seed: int, k: int | None) -> None:
    # 7 items at 4 distances at most: up to 7! = 5040 orders.
    case = make_case(seed, n_query=3, n_database=7, bits=3, labels=3, density=0.4)
    scores = [[slow_ap(r, k) for r in rankings(*pair)] for pair in distances_and_relevance(case)]
    np.testing.assert_allclose(metrics.average_precision(*case, k=k), [np.mean(s) for s in scores], atol=1e-12)
    best = metrics.average_precision(*case, k=k, ties="optimistic")
    np.testing.assert_allclose(best, [max(s) for s in scores], atol=1e-12)
    worst = metrics.average_precision(*case, k=k, ties="pessimistic")
    np.testing.assert_allclose(worst, [min(s) for s in scores], atol=1e-12)
    index = [slow_ap(stable_ranking(*pair), k) for pair in distances_and_relevance(case)]
    np.testing.assert_allclose(metrics.average_precision(*case, k=k, ties="index"), index, atol=1e-12)

    gains = [np.mean([slow_ndcg(r, k) for r in rankings(*pair)]) for pair in distances_and_relevance(case)]
    assert metrics.ndcg(*case, k=k) == pytest.approx(np.mean(gains), abs=1e-12)
    if k is not None:
        hits = [np.mean([sum(r[:k]) / k for r in rankings(*pair)]) for pair in distances_and_relevance(case)]
        assert metrics.precision_at(*case, k) == pytest.approx(np.mean(hits), abs=1e-12)


def one_query(distances: list[int], relevant: list[int]) -> Case:
    """One query of 8 bits, and a database at given distances."""
    query = np.ones((1, 8), dtype=int)
    database = np.array([[-1] * d + [1] * (8 - d) for d in distances])
    return query, database, np.array([[1]]), np.array(relevant)[:, None]


def test_values_worked_out_by_hand() -> None:
    all_tied = one_query([4, 4, 4], [0, 1, 0])  # 1 relevant of 3, at each rank with 1/3
    assert metrics.mean_average_precision(*all_tied) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert metrics.mean_average_precision(*all_tied, k=2) == pytest.approx((1 + 1 / 2) / 3)
    assert metrics.mean_average_precision(*all_tied, ties="optimistic") == 1.0
    assert metrics.mean_average_precision(*all_tied, ties="pessimistic") == pytest.approx(1 / 3)
    assert metrics.mean_average_precision(*all_tied, ties="index") == 0.5
    assert metrics.precision_at(*all_tied, 2) == pytest.approx(1 / 3)
    assert metrics.precision_at(*all_tied, 6) == pytest.approx(1 / 6)

    # A relevant item, then 2 of 4 tied: per rank j 1/2 · (1 + 1 + (j - 1)/3) / (1 + j), over R = 3.
    mixed = one_query([1, 5, 5, 5, 5], [1, 0, 1, 1, 0])
    tied = sum(0.5 * (2 + (j - 1) / 3) / (1 + j) for j in range(1, 5))
    assert metrics.mean_average_precision(*mixed) == pytest.approx((1 + tied) / 3)
    assert metrics.precision_recall_within(*mixed, 0) == (0.0, 0.0)
    assert metrics.precision_recall_within(*mixed, 2) == (1.0, pytest.approx(1 / 3))
    assert metrics.precision_recall_within(*mixed, 5) == (pytest.approx(3 / 5), 1.0)
    assert metrics.precision_recall_within(*mixed, 99) == (pytest.approx(3 / 5), 1.0)
    # Discounts 1, then the mean of those at ranks 2 to 5 for two items.
    d = [1 / math.log2(1 + rank) for rank in range(1, 6)]
    assert metrics.ndcg(*mixed) == pytest.approx((d[0] + 2 * sum(d[1:]) / 4) / sum(d[:3]))


def test_a_query_without_relevant_items_counts_zero() -> None:
    query, database, _, items = one_query([0, 1], [1, 1])
    two = (np.repeat(query, 2, axis=0), database, np.array([[1], [0]]), items)
    for ties in TIES:
        assert metrics.average_precision(*two, ties=ties).tolist() == [1.0, 0.0]
    assert metrics.ndcg(*two) == 0.5
    assert metrics.precision_at(*two, 1) == 0.5
    assert metrics.precision_recall_within(*two, 8) == (0.5, 0.5)


# Definitions that other code uses.


def test_legacy_definitions_worked_out_by_hand() -> None:
    query, database, labels, items = one_query([0, 1, 2, 3], [1, 0, 1, 1])
    assert metrics.map_at_k_hits(query, database, labels, items, k=2) == 1.0  # one hit, at rank 1
    assert metrics.map_at_k_hits(query, database, labels, items, k=3) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.map_first_k_relevant(query, database, labels, items, k=2) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.map_first_k_relevant(query, database, labels, items, k=99) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.map_at_k_all_relevant(query, database, labels, items, k=2) == pytest.approx(1 / 3)
    assert metrics.map_at_k_all_relevant(query, database, labels, items, k=4) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.mean_average_precision(query, database, labels, items, k=2) == 0.5
    two = (np.repeat(query, 2, axis=0), database, np.array([[1], [0]]), items)
    assert metrics.map_drop_empty(*two) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.map_drop_empty(*two, k=2) == 1.0
    assert metrics.map_at_k_hits(*two, k=2) == 0.5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 5, 17, 40, 100])
def test_legacy_definitions_agree_with_the_slow_ones(seed: int, k: int) -> None:
    case = make_case(seed, bits=4)
    found = [precisions(stable_ranking(*pair)) for pair in distances_and_relevance(case)]
    within = [[p for rank, p in query if rank <= k] for query in found]
    first = [[p for _, p in query[:k]] for query in found]
    mean = [np.mean(p) if p else 0.0 for p in within]
    assert metrics.map_at_k_hits(*case, k=k) == pytest.approx(np.mean(mean))
    assert metrics.map_first_k_relevant(*case, k=k) == pytest.approx(np.mean([np.mean(p) if p else 0.0 for p in first]))
    everything = [sum(p) / max(len(query), 1) for p, query in zip(within, found, strict=True)]
    assert metrics.map_at_k_all_relevant(*case, k=k) == pytest.approx(np.mean(everything))
    if any(within):
        kept = np.mean([np.mean(p) for p in within if p])
        assert metrics.map_drop_empty(*case, k=k) == pytest.approx(kept)


def test_nothing_left_to_average_is_an_error() -> None:
    case = one_query([0, 1], [0, 0])
    with pytest.raises(MetricError, match="all 1 queries would be dropped: none has a relevant item in the database"):
        metrics.map_drop_empty(*case)
    with pytest.raises(MetricError, match="within its first 1 items"):
        metrics.map_drop_empty(*one_query([0, 1], [0, 1]), k=1)


# Laws.

cases = st.builds(
    make_case,
    st.integers(0, 2**32 - 1),
    n_query=st.integers(1, 4),
    n_database=st.integers(1, 60),
    bits=st.sampled_from([1, 4, 7, 64, 65, 130]),
    labels=st.sampled_from([1, 5, 64, 70]),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
cuts = st.none() | st.integers(1, 80)


@settings(deadline=None, max_examples=50)
@given(case=cases, k=cuts)
def test_all_rules_lie_between_the_worst_and_the_best_order(case: Case, k: int | None) -> None:
    expected, best, worst, index = (metrics.average_precision(*case, k=k, ties=ties) for ties in TIES)
    slack = 1e-12
    assert (worst >= 0).all()
    assert (best <= 1 + slack).all()
    for value in (expected, index):
        assert (worst <= value + slack).all()
        assert (value <= best + slack).all()


@settings(deadline=None, max_examples=50)
@given(case=cases, k=cuts, seed=st.integers(0, 1000))
def test_the_order_of_the_database_does_not_matter(case: Case, k: int | None, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(case[1]))
    shuffled = (case[0], case[1][order], case[2], case[3][order])
    for ties in ("expected", "optimistic", "pessimistic"):
        assert metrics.mean_average_precision(*shuffled, k=k, ties=ties) == metrics.mean_average_precision(
            *case, k=k, ties=ties
        )
    assert metrics.ndcg(*shuffled, k=k) == metrics.ndcg(*case, k=k)


@settings(deadline=None, max_examples=40)
@given(case=cases, k=cuts, seed=st.integers(0, 1000))
def test_the_order_of_the_queries_does_not_matter(case: Case, k: int | None, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(case[0]))
    shuffled = (case[0][order], case[1], case[2][order], case[3])
    assert metrics.mean_average_precision(*shuffled, k=k) == metrics.mean_average_precision(*case, k=k)


@settings(deadline=None, max_examples=60)
@given(case=cases, k=cuts)
def test_index_order_agrees_with_the_slow_ranking(case: Case, k: int | None) -> None:
    slow = [slow_ap(stable_ranking(*pair), k) for pair in distances_and_relevance(case)]
    np.testing.assert_allclose(metrics.average_precision(*case, k=k, ties="index"), slow, atol=1e-12)


@pytest.mark.parametrize("k", [None, 1, 7, 1000])
def test_a_perfect_ranking_scores_exactly_one(k: int | None) -> None:
    labels = np.eye(4, dtype=int)[np.arange(80) % 4]
    codes = np.where(labels.repeat(16, axis=1) > 0, 1, -1)
    for ties in TIES:
        assert metrics.mean_average_precision(codes[:8], codes, labels[:8], labels, k=k, ties=ties) == 1.0
    assert metrics.ndcg(codes[:8], codes, labels[:8], labels, k=k) == pytest.approx(1.0)


def test_the_curve_is_the_radii_one_by_one() -> None:
    case = make_case(3, bits=9)
    precision, recall = metrics.precision_recall_curve(*case)
    assert precision.shape == recall.shape == (10,)
    for radius in range(10):
        assert (precision[radius], recall[radius]) == pytest.approx(metrics.precision_recall_within(*case, radius))
    assert (np.diff(recall) >= 0).all()


@pytest.mark.parametrize("empty", ["zero", "drop"])
def test_curves_with_both_treatments_of_empty_results(empty: Any) -> None:
    case = make_case(3, n_query=9, bits=30, density=0.05)
    pairs = list(distances_and_relevance(case))
    precision, recall = metrics.precision_recall_curve(*case, empty=empty)
    assert min(min(d) for d, _ in pairs) > 0  # nobody finds anything within 0
    assert any(not any(r) for _, r in pairs)
    for radius in range(31):
        found = [[r for d, r in zip(*pair, strict=True) if d <= radius] for pair in pairs]
        ours = [(sum(f) / max(len(f), 1), sum(f) / max(sum(r), 1)) for f, (_, r) in zip(found, pairs, strict=True)]
        kept = [one for one, f in zip(ours, found, strict=True) if f or empty == "zero"] or [(0.0, 0.0)]
        np.testing.assert_allclose((precision[radius], recall[radius]), np.mean(kept, axis=0), atol=1e-12)
    ranks, precision, recall = metrics.precision_recall_by_rank(*case, empty=empty)
    assert ranks.tolist() == [1, 2, 5, 10, 20, 40]
    has = np.array([any(r) for _, r in pairs])
    share = 1.0 if empty == "zero" else has.mean()
    for rank, at in zip(ranks.tolist(), precision.tolist(), strict=True):
        assert at == pytest.approx(metrics.precision_at(*case, rank) / share)
    assert recall[-1] == pytest.approx(has.mean() / share)
    assert (np.diff(recall) >= 0).all()


def test_unknown_treatments_are_refused() -> None:
    for curve in (metrics.precision_recall_curve, metrics.precision_recall_by_rank):
        with pytest.raises(MetricError, match="empty is 'skip', but must be one of zero, drop"):
            curve(*GOOD, empty="skip")


# Histograms: widths, threads, devices.


def slow_histograms(case: Case) -> tuple[np.ndarray, np.ndarray]:
    bits = case[0].shape[1]
    pairs = list(distances_and_relevance(case))
    everything = [np.bincount(d, minlength=bits + 1) for d, _ in pairs]
    relevant = [np.bincount(np.array(d)[np.array(r)], minlength=bits + 1) for d, r in pairs]
    return np.array(everything), np.array(relevant)


@pytest.mark.parametrize("bits", [*range(1, 201, 13), 2047, 2048])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4097, 80), (9, 4096, 24), (17, 8255, 200)])
def test_the_kernel_counts_what_plain_arrays_count(bits: int, shape: tuple[int, int, int]) -> None:
    n_query, n_database, labels = shape
    rng = np.random.default_rng(bits * 7 + labels)
    # Codes near a few centres, and some items equal: distances of all sizes, and bins with nothing in them.
    centres = rng.choice([-1, 1], (3, bits))
    codes = centres[rng.integers(0, 3, n_query + n_database)]
    codes = np.where(rng.random(codes.shape) < rng.choice([0, 0.05, 0.5], (len(codes), 1)), -codes, codes)
    owned = (rng.random((len(codes), labels)) < min(0.5, 2 / labels)) & (rng.random((len(codes), 1)) < 0.9)  # some none
    case = (codes[:n_query], codes[n_query:], owned[:n_query].astype(int), owned[n_query:].astype(int))
    distances = (bits - case[0].astype(float) @ case[1].T).astype(int) // 2
    relevant = case[2] @ case[3].T > 0
    everything, hits = metrics.histograms(*case)
    for i in range(n_query):
        np.testing.assert_array_equal(everything[i], np.bincount(distances[i], minlength=bits + 1))
        np.testing.assert_array_equal(hits[i], np.bincount(distances[i][relevant[i]], minlength=bits + 1))
    order = np.argsort(distances, axis=1, kind="stable")
    sorted_hits = np.take_along_axis(relevant, order, axis=1)
    precision = sorted_hits.cumsum(axis=1) / np.arange(1, n_database + 1)
    expected = (precision * sorted_hits).sum(axis=1) / np.maximum(relevant.sum(axis=1), 1)
    np.testing.assert_allclose(metrics.average_precision(*case, ties="index"), expected, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 7, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("labels", [1, 24, 64, 65, 130])
def test_kernel_and_matrix_products_count_the_same(bits: int, labels: int) -> None:
    case = make_case(bits * 1000 + labels, n_query=4, n_database=31, bits=bits, labels=labels, density=2 / (labels + 1))
    everything, relevant = slow_histograms(case)
    tensors = [torch.from_numpy(side) for side in case]
    for counts in (
        metrics.histograms(*case),
        metrics.histograms(*tensors),
        *(_torch.histograms(*sides, device="cpu", half=half) for sides in (case, tensors) for half in (False, True)),
        _torch.histograms(*case, device="cpu", pairs=4),  # an item a chunk
        _torch.histograms(*tensors, device="cpu", pairs=4 * 10, half=True),  # the last chunk is not full
        _few.histograms(*map(metrics.pack_codes, case[:2]), *map(metrics.pack_labels, case[2:]), bits),
    ):
        np.testing.assert_array_equal(counts[0], everything)
        np.testing.assert_array_equal(counts[1], relevant)
        assert counts[0].dtype == counts[1].dtype == np.int64


@pytest.mark.parametrize("half", [False, True])
def test_matrix_products_stay_exact_under_autocast(half: bool) -> None:
    case = make_case(0, n_query=3, n_database=50, bits=1000)
    tensors = [torch.from_numpy(side).float() for side in case]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        counts = _torch.histograms(*tensors, device="cpu", half=half)
    np.testing.assert_array_equal(counts[0], slow_histograms(case)[0])


@pytest.mark.parametrize("bits", [1022, 1023, 1024, 2500])
def test_half_precision_is_used_only_where_it_is_exact(bits: int) -> None:
    """At both ends: all bits differ, all are equal, all but one."""
    query = np.ones((1, bits), np.int8)
    database = np.concatenate([query, -query, query, -query])
    database[2:, 0] *= -1
    labels = np.ones((4, 3000), np.uint8)  # so many labels in common that their number itself is not exact
    labels[1::2] = 0
    case = (query, database, labels[:1], labels)
    for left, right in zip(_torch.histograms(*case, device="cpu", half=True), slow_histograms(case), strict=True):
        np.testing.assert_array_equal(left, right)


def test_many_queries_are_counted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torch, "_QUERIES", 4)
    case = make_case(3, n_query=9, n_database=21)
    for pairs in (1, 8, 10_000):
        np.testing.assert_array_equal(_torch.histograms(*case, device="cpu", pairs=pairs), slow_histograms(case))


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_counting_needs_no_deterministic_algorithms_and_leaves_them_as_they_are(
    mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, scatter = [], torch.Tensor.scatter_add_

    def spy(*arguments: Any) -> torch.Tensor:
        seen.append(torch.get_deterministic_debug_mode())
        return scatter(*arguments)

    monkeypatch.setattr(torch.Tensor, "scatter_add_", spy)
    before = torch.get_deterministic_debug_mode()
    try:
        torch.set_deterministic_debug_mode(mode)
        _torch.histograms(*make_case(1), device="cpu")
        assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(before)
    assert set(seen) == {0}


@pytest.mark.cuda
def test_counting_on_a_gpu_waits_for_it_only_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.from_numpy(side).cuda() for side in make_case(1, n_query=30, n_database=4000)]
    _torch.histograms(*tensors, device="cuda")  # the libraries' own start waits, too
    waits: list[str] = []

    def to_cpu(tensor: torch.Tensor) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("default")
        waits.append("cpu")
        return tensor.to("cpu")

    monkeypatch.setattr(torch.Tensor, "cpu", to_cpu)
    try:
        torch.cuda.set_sync_debug_mode("error")
        _torch.histograms(*tensors, device="cuda", pairs=30 * 100)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 2


@pytest.mark.cuda
@pytest.mark.parametrize("bits", [16, 64, 200])
def test_codes_on_a_gpu_give_the_numbers_of_the_cpu(bits: int) -> None:
    case = make_case(bits, n_query=70, n_database=3000, bits=bits, labels=30)
    tensors = [torch.from_numpy(side).cuda() for side in case]
    mixed = [tensors[0], case[1], case[2], tensors[3].cpu()]
    for sides in (tensors, mixed):
        for left, right in zip(metrics.histograms(*sides), metrics.histograms(*case), strict=True):
            np.testing.assert_array_equal(left, right)
        for ties in TIES:
            assert metrics.mean_average_precision(*sides, k=50, ties=ties) == metrics.mean_average_precision(
                *case, k=50, ties=ties
            )
    with pytest.raises(MetricError, match="query_codes hold 0"):
        metrics.histograms(tensors[0] * 0, *tensors[1:])


def test_tensors_off_the_cpu_go_to_the_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(5)
    tensors = [torch.from_numpy(side) for side in case]
    assert not _checks.on_accelerator(tensors[0])
    assert _checks.on_accelerator(torch.empty(1, device="meta"))
    monkeypatch.setattr(_checks, "on_accelerator", _checks.is_tensor)
    monkeypatch.setattr(_kernel, "histograms", None)  # calling it would fail
    expected = slow_histograms(case)
    for sides in (tensors, [*case[:1], *tensors[1:]]):
        np.testing.assert_array_equal(metrics.histograms(*sides), expected)


@pytest.mark.parametrize("bits", [64, 65])
def test_the_number_of_threads_changes_nothing(bits: int) -> None:
    case = make_case(bits, n_query=9, n_database=300, bits=bits)
    before = numba.get_num_threads()
    try:
        results = []
        for threads in {1, min(2, numba.config.NUMBA_NUM_THREADS), numba.config.NUMBA_NUM_THREADS}:
            numba.set_num_threads(threads)
            results.append([metrics.average_precision(*case, ties=ties).tolist() for ties in TIES])
    finally:
        numba.set_num_threads(before)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int64])
def test_every_number_type_will_do(dtype: torch.dtype) -> None:
    case = make_case(8)
    tensors = [torch.from_numpy(side).to(dtype).requires_grad_(dtype.is_floating_point) for side in case]
    for ties in TIES:
        assert metrics.mean_average_precision(*tensors, ties=ties) == metrics.mean_average_precision(*case, ties=ties)
    boolean = [*case[:2], case[2].astype(bool), case[3].astype(bool)]
    assert metrics.mean_average_precision(*boolean) == metrics.mean_average_precision(*case)
    strided = [np.asfortranarray(side) for side in case]
    assert metrics.mean_average_precision(*strided) == metrics.mean_average_precision(*case)


# Packed input.


@pytest.mark.parametrize("bits", [8, 64, 70])
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("k", [None, 9])
def test_packed_and_counted_input_give_the_same(bits: int, ties: Any, k: int | None) -> None:
    case = make_case(bits, bits=bits)
    expected = metrics.average_precision(*case, k=k, ties=ties)
    packed = (*map(metrics.pack_codes, case[:2]), *map(metrics.pack_labels, case[2:]))
    np.testing.assert_array_equal(metrics.average_precision_packed(*packed, bits, k=k, ties=ties), expected)
    if ties != "index":
        counts = metrics.histograms(*case)
        np.testing.assert_array_equal(metrics.average_precision_from_histograms(*counts, k=k, ties=ties), expected)


@pytest.mark.parametrize("columns", [1, 7, 8, 63, 64, 65, 128, 200])
def test_packing_puts_each_bit_in_its_place(columns: int) -> None:
    flags = np.random.default_rng(columns).random((5, columns)) < 0.5
    codes = metrics.pack_codes(np.where(flags, 1.0, -1.0))
    assert codes.dtype == np.uint64
    assert codes.shape == (5, -(-columns // 64))
    np.testing.assert_array_equal(codes, metrics.pack_labels(flags.astype(int)))
    for row, words in zip(flags.tolist(), codes.tolist(), strict=True):
        number = sum(word << (64 * i) for i, word in enumerate(words))
        assert number == sum(1 << j for j, bit in enumerate(row) if bit)


def test_zero_one_codes_are_not_packed_as_signs() -> None:
    zero_one = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    for codes in (zero_one, zero_one.astype(bool), zero_one.astype(np.float32), torch.from_numpy(zero_one)):
        with pytest.raises(MetricError, match=r"codes hold 0 and 1 only.*numpy.where\(codes > 0, 1, -1\)"):
            metrics.pack_codes(codes)
    assert metrics.pack_codes(np.where(zero_one > 0, 1, -1)).tolist() == [[0b110], [0b001]]
    assert metrics.pack_codes(np.zeros((2, 3))).tolist() == [[0b111]] * 2  # outputs of a net that has collapsed
    assert metrics.pack_codes(np.ones((2, 3))).tolist() == [[0b111]] * 2


def test_the_first_bit_stands_lowest() -> None:
    code = np.array([[1, -1, -1, -1, -1, -1, -1, -1]])
    assert metrics.pack_codes(code).tolist() == [[1]]
    assert np.packbits(code > 0, axis=1, bitorder="little").tolist() == [[1]]
    assert np.packbits(code > 0, axis=1).tolist() == [[128]]


def test_zero_has_a_positive_sign() -> None:
    assert metrics.pack_codes(np.array([[0.0, -0.0, -1e-30, 3.0]])).tolist() == [[0b1011]]
    assert metrics.pack_codes(torch.tensor([[0.0, -2.0]])).tolist() == [[0b01]]


@pytest.mark.parametrize("bits", [2, 66])
def test_unique_share_and_balance(bits: int) -> None:
    codes = np.ones((4, bits), dtype=int)
    assert metrics.unique_share(codes) == 0.25
    assert metrics.bit_balance(codes) == 0.0
    codes[:2] = -1
    assert metrics.unique_share(codes) == 0.5
    assert metrics.bit_balance(torch.from_numpy(codes)) == 1.0
    codes[0, -1] = 1  # this bit is now -1 for a quarter of the items, and counts 1/2
    assert metrics.unique_share(codes) == 0.75
    assert metrics.bit_balance(codes) == pytest.approx(1 - 0.5 / bits)


# Bad input.

GOOD = make_case(1)


def replaced(place: int, value: Any) -> list[Any]:
    return [value if i == place else side for i, side in enumerate(GOOD)]


def with_value(matrix: np.ndarray, value: float) -> np.ndarray:
    changed = matrix.astype(float)
    changed[2, 3] = value
    return changed


BAD = [
    (replaced(0, with_value(GOOD[0], 0)), r"query_codes hold 0.0 \(row 2, column 3\).*apply sign with sign\(0\) = \+1"),
    (replaced(1, (GOOD[1] + 1) // 2), r"database_codes hold 0 and 1 only, .*numpy.where\(codes > 0, 1, -1\)"),
    (replaced(0, torch.from_numpy(GOOD[0] > 0)), "query_codes hold 0 and 1 only, but must hold"),
    (replaced(1, with_value(GOOD[1], 0.5)), r"database_codes hold 0.5 .*\+1 and -1 only"),
    (replaced(0, with_value(GOOD[0], math.nan)), "query_codes hold nan .*diverged"),
    (replaced(0, torch.from_numpy(with_value(GOOD[0], math.nan)).bfloat16()), "query_codes hold nan .*diverged"),
    (replaced(2, with_value(GOOD[2], 2)), "query_labels hold 2.0 .*0 and 1 only"),
    (replaced(3, with_value(GOOD[3], math.nan)), "database_labels hold nan .*0 and 1 only"),
    (replaced(0, GOOD[0].tolist()), "query_codes is a list, but must be a NumPy array or a torch tensor"),
    (replaced(0, GOOD[0].astype(str)), "query_codes has type <U.*real numbers"),
    (replaced(0, torch.from_numpy(GOOD[0]).to(torch.complex64)), "query_codes has type torch.complex64"),
    (replaced(2, np.ones(5)), "query_labels has 1 dimensions, but must have 2"),
    (replaced(0, np.ones((0, 8))), "query_codes has no rows"),
    (replaced(1, np.ones((0, 8))), "database_codes has no rows"),
    (replaced(0, np.ones((5, 0))), "query_codes has no columns"),
    (replaced(0, np.ones((5, 9))), "query_codes have 9 bits, but database_codes 8"),
    (replaced(0, np.ones((4, 8))), "query_codes have 4 rows, but query_labels 5"),
    (replaced(1, np.ones((39, 8))), "database_codes have 39 rows, but database_labels 40"),
    (replaced(2, np.ones((5, 7))), "query_labels have 7 labels, but database_labels 6"),
]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "average_precision": metrics.average_precision,
    "histograms": metrics.histograms,
    "map_at_k_all_relevant": lambda *sides: metrics.map_at_k_all_relevant(*sides, k=3),
    "map_at_k_hits": lambda *sides: metrics.map_at_k_hits(*sides, k=3),
    "map_drop_empty": metrics.map_drop_empty,
    "map_first_k_relevant": lambda *sides: metrics.map_first_k_relevant(*sides, k=3),
    "mean_average_precision": metrics.mean_average_precision,
    "ndcg": metrics.ndcg,
    "precision_at": lambda *sides: metrics.precision_at(*sides, 3),
    "precision_recall_by_rank": metrics.precision_recall_by_rank,
    "precision_recall_curve": metrics.precision_recall_curve,
    "precision_recall_within": lambda *sides: metrics.precision_recall_within(*sides, 2),
}
OTHER = {
    "average_precision_from_histograms",
    "average_precision_packed",
    "bit_balance",
    "pack_codes",
    "pack_labels",
    "unique_share",
}


def test_every_public_function_is_tested_with_bad_input() -> None:
    # set_threads takes a count and no data
    assert set(metrics.__all__) - {"set_threads"} == FUNCTIONS.keys() | OTHER


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_matrices_are_refused(name: str) -> None:
    FUNCTIONS[name](*GOOD)
    for sides, message in BAD:
        with pytest.raises(MetricError, match=message):
            FUNCTIONS[name](*sides)


def test_all_problems_come_in_one_error() -> None:
    sides = [with_value(GOOD[0], 0), np.ones((40, 9)), GOOD[2][:4], with_value(GOOD[3], 7)]
    with pytest.raises(CmhError) as caught:
        metrics.average_precision(*sides, k=0, ties="best")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 6
    for part in ("hold 0.0", "9", "hold 7.0", "5 rows, but query_labels 4", "k is 0", "ties is 'best'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("k", [0, -1, True, 2.0, "3", math.nan])
def test_a_cut_is_a_positive_integer(k: Any) -> None:
    counts = metrics.histograms(*GOOD)
    packed = (*map(metrics.pack_codes, GOOD[:2]), *map(metrics.pack_labels, GOOD[2:]))
    for call in (
        lambda: metrics.mean_average_precision(*GOOD, k=k),
        lambda: metrics.average_precision_from_histograms(*counts, k=k),
        lambda: metrics.average_precision_packed(*packed, 8, k=k),
        lambda: metrics.ndcg(*GOOD, k=k),
        lambda: metrics.precision_at(*GOOD, k),
        lambda: metrics.map_at_k_all_relevant(*GOOD, k=k),
        lambda: metrics.map_at_k_hits(*GOOD, k=k),
        lambda: metrics.map_first_k_relevant(*GOOD, k=k),
        lambda: metrics.map_drop_empty(*GOOD, k=k),
    ):
        with pytest.raises(MetricError, match=r"k is .*, but must be an integer >= 1"):
            call()


def test_integers_of_numpy_and_huge_ones_are_cuts() -> None:
    assert metrics.mean_average_precision(*GOOD, k=np.int64(5)) == metrics.mean_average_precision(*GOOD, k=5)
    for ties in TIES:
        whole = metrics.mean_average_precision(*GOOD, ties=ties)
        assert metrics.mean_average_precision(*GOOD, k=10**30, ties=ties) == whole
    assert metrics.map_first_k_relevant(*GOOD, k=10**30) == metrics.mean_average_precision(*GOOD, ties="index")


@pytest.mark.parametrize("radius", [-1, 1.5, False, None])
def test_a_radius_is_a_natural_number(radius: Any) -> None:
    with pytest.raises(MetricError, match=r"radius is .*, but must be an integer >= 0"):
        metrics.precision_recall_within(*GOOD, radius)


@pytest.mark.parametrize("ties", ["best", None, ["expected"]])
def test_unknown_ties_are_refused(ties: Any) -> None:
    with pytest.raises(MetricError, match=r"ties is .*, but must be one of expected, optimistic, pessimistic, index"):
        metrics.average_precision(*GOOD, ties=ties)


def test_bad_histograms_are_refused() -> None:
    everything, relevant = metrics.histograms(*GOOD)
    refused = metrics.average_precision_from_histograms
    with pytest.raises(MetricError, match=r"must be one of expected, optimistic, pessimistic$"):
        refused(everything, relevant, ties="index")
    with pytest.raises(MetricError, match="all_counts must be a 2-D array of integers"):
        refused(everything / 1.0, relevant)  # type: ignore[arg-type]
    with pytest.raises(MetricError, match=r"all_counts is \(5, 9\), but relevant_counts \(4, 9\)"):
        refused(everything, relevant[:4])
    with pytest.raises(MetricError, match="were the two exchanged"):
        refused(relevant, everything)


def test_bad_words_are_refused() -> None:
    packed = [*map(metrics.pack_codes, GOOD[:2]), *map(metrics.pack_labels, GOOD[2:])]

    def problems(place: int, value: Any, bits: Any = 8) -> str:
        words: list[Any] = [value if i == place else side for i, side in enumerate(packed)]
        with pytest.raises(MetricError) as caught:
            metrics.average_precision_packed(*words, bits)
        return str(caught.value)

    wide = np.zeros((40, 2), dtype=np.uint64)
    assert "query_words must be a 2-D uint64 array" in problems(0, GOOD[0])
    assert "as pack_labels gives" in problems(3, packed[3][:0])
    assert "bits is 0, but must be an integer >= 1" in problems(0, packed[0], bits=0)
    assert "database_words have 2 words, but codes of 8 bits have 1" in problems(1, wide)
    assert "query_words have 1 words, but codes of 65 bits have 2" in problems(0, packed[0], bits=65)
    assert "query_words have bits set beyond bit 8" in problems(0, packed[0] | np.uint64(256))
    assert "query_label_words have 1 words, but database_label_words 2" in problems(3, wide)
    assert "query_words have 4 rows, but query_label_words 5" in problems(0, packed[0][:4])
    assert "database_words have 39 rows, but database_label_words 40" in problems(1, packed[1][:39])


@pytest.mark.parametrize("function", [metrics.pack_codes, metrics.unique_share, metrics.bit_balance])
def test_bad_codes_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(MetricError, match=r"codes hold nan .*diverged"):
        function(np.array([[1.0, math.nan]]))
    with pytest.raises(MetricError, match="codes has 1 dimensions"):
        function(np.ones(4))
    with pytest.raises(MetricError, match=r"codes has no rows[\s\S]*codes has no columns"):
        function(np.ones((0, 0)))


def test_bad_labels_are_refused() -> None:
    with pytest.raises(MetricError, match=r"labels hold -1 .*0 and 1 only"):
        metrics.pack_labels(np.array([[1, -1]]))
    for function in (metrics.unique_share, metrics.bit_balance):
        with pytest.raises(MetricError, match="codes hold 0 "):
            function(np.array([[1, 0]]))


def test_importing_the_metrics_loads_neither_torch_nor_the_compiler() -> None:
    program = "import sys, cmh.metrics; print({'torch', 'numba', 'ray', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
