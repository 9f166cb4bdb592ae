"""Metrics on the real labels of MIRFlickr-25K, with codes made from its real tags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from cmh import metrics
from cmh.metrics import _torch

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def flickr(test_data: Callable[[str], Path]) -> Case:
    """16-bit codes of 200 queries and 6000 items: a random projection of the tags, so thousands of items are tied."""
    labels = scipy.io.loadmat(test_data("mirflickr25k/mirflickr25k-lall.mat"))["LAll"]
    tags = scipy.io.loadmat(test_data("mirflickr25k/mirflickr25k-yall.mat"))["YAll"]
    assert labels.shape == (20015, 24)
    assert tags.shape == (20015, 1386)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(20015)[:6200]
    used = tags[chosen].astype(np.float32)
    values = (used - used.mean(axis=0)) @ rng.normal(size=(1386, 16)).astype(np.float32)
    codes = np.where(values >= 0, 1, -1)
    return codes[:200], codes[200:], labels[chosen[:200]], labels[chosen[200:]]


@pytest.mark.parametrize("k", [None, 50, 1000])
def test_expected_is_the_mean_over_random_database_orders(flickr: Case, k: int | None) -> None:
    rng = np.random.default_rng(1)
    values = []
    for _ in range(40):
        order = rng.permutation(len(flickr[1]))
        shuffled = (flickr[0], flickr[1][order], flickr[2], flickr[3][order])
        values.append(metrics.mean_average_precision(*shuffled, k=k, ties="index"))
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    expected = metrics.mean_average_precision(*flickr, k=k)
    assert error > 0  # ties there are
    assert abs(np.mean(values) - expected) < 4 * error
    worst = metrics.mean_average_precision(*flickr, k=k, ties="pessimistic")
    best = metrics.mean_average_precision(*flickr, k=k, ties="optimistic")
    assert worst < min(values) < max(values) < best


def test_index_order_is_that_of_a_stable_sort(flickr: Case) -> None:
    query, database, labels, items = flickr
    scores = []
    for code, label in zip(query, labels, strict=True):
        order = np.argsort((16 - database @ code) // 2, kind="stable")
        relevant = (items @ label.astype(int) > 0)[order]
        ranks = np.flatnonzero(relevant) + 1
        scores.append(np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0)
    np.testing.assert_allclose(metrics.average_precision(*flickr, ties="index"), scores, atol=1e-12)


def test_both_ways_to_count_agree(flickr: Case) -> None:
    for left, right in zip(metrics.histograms(*flickr), _torch.histograms(*flickr, device="cpu"), strict=True):
        np.testing.assert_array_equal(left, right)
