"""The figures of docs/metrics.md: what other libraries compute, as small formulas, beside ours."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from cmh import metrics
from tests.test_metrics import Case, one_query

TEXT = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()


def average_precision(ranking: list[int], *, divisor: int | None = None, k: int | None = None) -> float:
    """The sum of precisions at the relevant ranks up to k, by the divisor or all that is relevant."""
    ranks = [rank for rank, relevant in enumerate(ranking, start=1) if relevant]
    found = [hits / rank for hits, rank in enumerate(ranks, start=1) if k is None or rank <= k]
    return sum(found) / (divisor or len(ranks))


def tied(relevant: list[int]) -> Case:
    return one_query([4] * len(relevant), relevant)


def ranked(ranks: tuple[int, ...], n: int) -> tuple[Case, list[int]]:
    """Items at n different distances, those at the given ranks relevant; and the ranking."""
    relevant = [int(rank in ranks) for rank in range(1, n + 1)]
    database = np.array([[-1] * d + [1] * (n - d) for d in range(n)])
    return (np.ones((1, n)), database, np.array([[1]]), np.array(relevant)[:, None]), relevant


@pytest.mark.parametrize("relevant", [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]])
def test_ties(relevant: list[int]) -> None:
    ours = metrics.mean_average_precision(*tied(relevant))
    orders = [average_precision(list(order)) for order in permutations(relevant)]
    assert ours == pytest.approx(np.mean(orders))
    assert f"`[0, 1, 0, 1]`: {ours:.4f} each".replace("0.", ".") in TEXT
    topk = average_precision([relevant[place] for place in (2, 3, 0, 1)])  # torch's order of four ties on a CPU
    assert f"`{relevant}` {topk:.4g}".replace(" 0.", " .").replace("` 1", "` 1.0") in TEXT
    end_of_group = sum(relevant) / len(relevant)  # one threshold, at which recall goes from 0 to 1
    assert end_of_group == 0.5
    assert metrics.mean_average_precision(*tied(relevant), ties="index") == average_precision(relevant)


def test_ndcg_with_ties() -> None:
    discounts = [1 / math.log2(1 + rank) for rank in range(1, 5)]
    gain = 2 * np.mean(discounts) / sum(discounts[:2])
    assert metrics.ndcg(*tied([0, 0, 1, 1])) == pytest.approx(gain)


def test_the_divisor_at_a_cut() -> None:
    case, ranking = ranked((1, 2, 6, 10), 20)
    theirs = average_precision(ranking, k=2)
    assert theirs == metrics.map_at_k_all_relevant(*case, k=2) == 0.5
    for ours in (metrics.mean_average_precision, metrics.map_at_k_hits, metrics.map_first_k_relevant):
        assert ours(*case, k=2) == 1.0
    case, ranking = ranked(tuple(range(1, 11)), 12)
    assert average_precision(ranking, k=2) == metrics.map_at_k_all_relevant(*case, k=2) == pytest.approx(0.2)


def test_document_names_as_ties() -> None:
    names = sorted((f"d{number}" for number in range(1, 13)), reverse=True)
    assert " ".join(names) == "d9 d8 d7 d6 d5 d4 d3 d2 d12 d11 d10 d1"
    assert 1 / (names.index("d1") + 1) == 1 / 12
    assert 1 / (sorted(names).index("d1") + 1) == 1.0


def test_empty_queries() -> None:
    query, database, _, items = one_query([0, 1], [1, 1])
    two = (np.repeat(query, 2, axis=0), database, np.array([[1], [0]]), items)
    assert metrics.map_drop_empty(*two) == 1.0
    assert metrics.mean_average_precision(*two) == 0.5


@pytest.mark.parametrize("bits", [12, 24, 48, 64, 100])
def test_the_radius(bits: int) -> None:
    """Half a bit more takes in the boundary and nothing else, in floats too; so does one more where it is strict."""
    distances = np.arange(bits + 1)
    database = np.array([[-1] * d + [1] * (bits - d) for d in distances])
    case = (np.ones((1, bits)), database, np.array([[1]]), np.ones((bits + 1, 1)))
    for radius in range(bits):
        ours = metrics.precision_recall_within(*case, radius)[1] * (bits + 1)
        assert round(ours) == (distances < radius + 1).sum() == (distances / bits <= (radius + 0.5) / bits).sum()
