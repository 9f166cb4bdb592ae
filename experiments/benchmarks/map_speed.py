"""How long MAP takes: a sort in a loop over queries, matrix products with bincount, and `cmh.metrics`, in one run.

    python experiments/benchmarks/map_speed.py --labels mirflickr25k-lall.mat --threads 2

Labels are the real ones of MIRFlickr-25K as the DCMH release packs them (variable `LAll`, 20,015 × 24). Codes are the
signs of a seeded random projection of the labels with noise, so that distances and relevance are related as in a
trained model. Expected: cmh is at least 40 times as fast as the loop. Takes about a minute on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import scipy.io
import torch

from cmh import metrics
from cmh.metrics import _kernel, _torch


def main() -> int:
    """Print the table; exit status 2 where the labels cannot be read."""
    parser = argparse.ArgumentParser(description="Time MAP, computed in four ways, on real labels.")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="a .mat file with the variable LAll")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="for torch and numba (default: 2)")
    parser.add_argument("--repeats", type=int, default=7, help="runs, of which the median counts (default: 7)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not given.labels.is_file():
        print(f"{given.labels} does not exist; give --labels the LAll file of MIRFlickr-25K", file=sys.stderr)
        return 2
    content = scipy.io.loadmat(given.labels)
    if "LAll" not in content:
        print(f"{given.labels} holds no variable LAll; give --labels the LAll file of MIRFlickr-25K", file=sys.stderr)
        return 2
    torch.set_num_threads(given.threads)
    numba.set_num_threads(given.threads)

    rng = np.random.default_rng(given.seed)
    labels = content["LAll"][rng.permutation(len(content["LAll"]))].astype(np.uint8)
    values = labels @ rng.normal(size=(labels.shape[1], given.bits)) + 2 * rng.normal(size=(len(labels), given.bits))
    codes = np.where(values >= 0, 1, -1).astype(np.float32)
    sides = (codes[: given.queries], codes[given.queries :], labels[: given.queries], labels[given.queries :])
    tensors = tuple(torch.from_numpy(side) for side in sides)
    packed = (
        metrics.pack_codes(sides[0]),
        metrics.pack_codes(sides[1]),
        metrics.pack_labels(sides[2]),
        metrics.pack_labels(sides[3]),
    )

    def products() -> float:
        counts = _torch.histograms(*tensors, device="cpu")
        return float(metrics.average_precision_from_histograms(*counts).mean())

    def kernel() -> float:
        _kernel.histograms(*packed, given.bits)
        return float("nan")

    ways: dict[str, Callable[[], float]] = {
        "torch.sort in a loop over queries": lambda: sort_loop(*tensors),
        "torch products and bincount": products,
        "metrics.mean_average_precision": lambda: metrics.mean_average_precision(*sides),
        "the same on packed words": lambda: float(metrics.average_precision_packed(*packed, given.bits).mean()),
        "histograms of packed words alone": kernel,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {name: run() for name, run in ways.items()}  # also compiles
    for _ in range(given.repeats):  # in turns, so that a busy moment of the machine meets all of them
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)

    n_database = len(sides[1])
    print(f"{given.queries} queries × {n_database} items × {given.bits} bits × {labels.shape[1]} labels,")
    share = relevant_share(*packed[2:])
    print(f"{given.threads} threads, median of {given.repeats} runs, {share:.0%} of the pairs relevant\n")
    print(f"{'':36}{'ms':>9}{'min':>9}{'times faster':>14}{'MAP':>10}")
    slowest = statistics.median(seconds["torch.sort in a loop over queries"])
    for name, times in seconds.items():
        median = statistics.median(times)
        value = "" if np.isnan(results[name]) else f"{results[name]:.5f}"
        print(f"{name:36}{median * 1e3:9.1f}{min(times) * 1e3:9.1f}{slowest / median:14.1f}{value:>10}")
    return 0


def sort_loop(
    query_codes: torch.Tensor, database_codes: torch.Tensor, query_labels: torch.Tensor, database_labels: torch.Tensor
) -> float:
    """MAP the usual way: for each query all distances, a sort, and precision at each relevant item."""
    bits = query_codes.shape[1]
    database_float = database_labels.float()
    total = 0.0
    for code, labels in zip(query_codes, query_labels.float(), strict=True):
        relevant = (labels @ database_float.T > 0).float()
        distances = 0.5 * (bits - code @ database_codes.T)
        order = torch.sort(distances).indices
        ranks = torch.nonzero(relevant[order]).squeeze(1).float() + 1
        if len(ranks):
            total += float((torch.arange(1, len(ranks) + 1) / ranks).mean())
    return total / len(query_codes)


def relevant_share(query_words: np.ndarray, database_words: np.ndarray) -> float:
    """The share of pairs that have a label in common, from the first 200 queries."""
    return float(((query_words[:200] & database_words.T) != 0).mean())


if __name__ == "__main__":
    sys.exit(main())
