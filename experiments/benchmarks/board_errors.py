"""How often a board claims what is not so: simulated tables of equal methods, and of one that is better.

    python experiments/benchmarks/board_errors.py            all settings, 400 boards each (100 for power)
    python experiments/benchmarks/board_errors.py --boards 100 --only 17

A run's AP of a query = base of its group + effect of (method, group) + effect of (run, group) + noise, + an effect of
the run that moves all its queries together (the seed). Records and per-query files go through `rows.boards`. A claim is
a pair of rows without a common letter. Columns: boards with any claim among equal methods (expected: at most 5 %); the
same by the rule of cmh 0.1's first boards (any unadjusted sign-flip p against the best row <= .05); the share of the
pairs with the better method that are found; how often a row's interval holds the true mean (expected: 95 %).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import records
from cmh.board import rows
from cmh.board.find import Run
from cmh.identity import Identity
from cmh.records import Cost, Record

TRUE = 0.5  # mean of all equal methods


@dataclasses.dataclass(frozen=True)
class Setting:
    """A world from which tables are drawn."""

    name: str
    seeds: Sequence[int] = (3,) * 17  # of each row
    better: float = 0.0  # the first method's advantage
    seed: float | Sequence[float] = 0.01  # standard deviations: of a run's mean
    method_group: float = 0.1
    run_group: float = 0.05
    query: float = 0.1  # of one query and method
    noise: float = 0.05  # of one query and run
    queries: int = 500
    group: float = 3.0  # mean size of a group of near-duplicates
    tails: bool = False  # seeds from a t distribution of 3 degrees of freedom


CALM: dict[str, Any] = {"method_group": 0.03, "run_group": 0.03, "query": 0.05}
SETTINGS = (
    Setting("17 methods, 3 seeds"),
    Setting("17 methods, 5 seeds", (5,) * 17),
    Setting("every query its own group", group=1.0),
    Setting("large groups, strongly alike", group=10.0, method_group=0.15),
    Setting("one method, 17 times", method_group=0.0, query=0.0),
    Setting("seeds change nothing", seed=0.0),
    Setting("seeds change most", seed=0.02, **CALM),
    Setting("heavy-tailed seeds", tails=True, **CALM),
    Setting("half with sd .003, half .02", seed=(0.003,) * 8 + (0.02,) * 9, **CALM),
    Setting("sd .005 to .021, evenly", seed=tuple(0.005 + 0.001 * row for row in range(17)), **CALM),
    Setting("one row with 3 times the sd", seed=(0.015, *(0.005,) * 16), **CALM),
    Setting("one row with 6 times the sd", seed=(0.03, *(0.005,) * 16), **CALM),
    Setting("the same, 5 seeds", (5,) * 17, seed=(0.03, *(0.005,) * 16), **CALM),
    Setting("one seed in half the rows", (1, 3) * 8 + (3,)),
    Setting("2 methods", (3, 3), **CALM),
    Setting("2 methods, one 6 times the sd", (3, 3), seed=(0.03, 0.005), **CALM),
    Setting("5 methods", (3,) * 5, **CALM),
    *(Setting(f"better by {better}", better=better) for better in (0.02, 0.03, 0.05)),
    *(Setting(f"better by {better}, 5 seeds", (5,) * 17, better=better) for better in (0.02, 0.03, 0.05)),
    *(Setting(f"better by {better}, calm queries", better=better, **CALM) for better in (0.02, 0.03, 0.05)),
)


def draw(setting: Setting, random: np.random.Generator) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
    """One table: AP `(seeds, 2, queries)` of each row, and the queries' groups."""
    sizes: list[int] = []
    while sum(sizes) < setting.queries:
        sizes.append(1 + int(random.poisson(setting.group - 1)))
    groups = np.repeat(np.arange(len(sizes)), sizes)[: setting.queries]
    n_groups = int(groups[-1]) + 1
    base = TRUE + 0.25 * random.standard_normal(n_groups)
    deviations = np.broadcast_to(setting.seed, len(setting.seeds))
    table = []
    for row, n in enumerate(setting.seeds):
        of_seed = random.standard_t(3, n) / 3**0.5 if setting.tails else random.standard_normal(n)
        mean = setting.better * (row == 0) + base + setting.method_group * random.standard_normal(n_groups)
        of_runs = mean + setting.run_group * random.standard_normal((n, n_groups)) + deviations[row] * of_seed[:, None]
        of_queries = of_runs[:, groups] + setting.query * random.standard_normal(setting.queries)
        both = setting.noise * random.standard_normal((n, 2, setting.queries))
        table.append(of_queries[:, None] + both)
    return table, groups


def record(row: int, seed: int, ap: NDArray[np.float64]) -> Record:
    """The record of a run whose queries have this AP `(2, queries)`."""
    i2t, t2i = (float(one.mean()) for one in ap)
    made = Identity(
        **{"method": f"m{row}", "code": "c" * 16, "dataset": "simulated", "dataset_sha256": "d" * 64},
        **{"split_sha256": "5" * 64, "arrays_sha256": "a" * 64, "features": "simulated", "bits": 32, "epochs": 30},
        **{"seed": seed, "config": {"lr": 0.1}, "settings": {}, "threads": 1, "device": "cpu", "torch": "2"},
    )
    scores = {"map": (i2t + t2i) / 2, "map_i2t": i2t, "map_t2i": t2i}
    return Record(
        **{"schema": records.SCHEMA, "study": "simulated", "identity": made, "protocol": records.PROTOCOL},
        **{"selection": "fixed", "label": "", "search": Cost(), "training": Cost(1, 30, 30.0, 1.0, 1.0)},
        **{"chosen_epoch": 1, "validation": scores, "test": scores, "tie_rule": "expected", "test_opened": 1},
        **{"split_opened": 1, "audits": {"leak": [], "dead": []}, "versions": {}, "provenance": {}, "commit": ""},
        **{"host": "", "date": "2025-01-01T00:00:00+00:00", "per_query": f"{row}-{seed}.npz", "codes": ""},
    )


def board(folder: Path, table: list[NDArray[np.float64]], groups: NDArray[np.int64]) -> rows.Board:
    """The board of a table, from records and files."""
    runs = []
    for row, several in enumerate(table):
        for seed, ap in enumerate(several):
            one = record(row, seed, ap)
            np.savez(folder / one.per_query, i2t=ap[0], t2i=ap[1], groups=groups)
            runs.append(Run(folder, one))
    (found,), notes = rows.boards(runs, {})
    assert not notes, notes
    return found


def old_rule(table: list[NDArray[np.float64]], random: np.random.Generator) -> bool:
    """Whether any row differs from the best by a sign-flip test over single queries, on its own."""
    means = np.stack([several.mean(axis=(0, 1)) for several in table])
    best = means[means.mean(axis=1).argmax()]
    flips = random.integers(0, 2, (999, best.size)) * 2.0 - 1
    extreme = np.abs(flips @ (best - means).T) >= np.abs((best - means).sum(axis=1)) - 1e-12
    return bool((((1 + extreme.sum(axis=0)) / 1000) <= 0.05).any())


def measure(setting: Setting, boards: int) -> str:
    """One line of the table."""
    random = np.random.default_rng(1)
    claims, old, found, held = [], [], [], []
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        for _ in range(boards):
            table, groups = draw(setting, random)
            made = board(Path(name), table, groups)
            letters = {row.method: set(row.letters) for row in made.rows}
            pairs = [not letters[a] & letters[b] for a in letters for b in letters if a < b]
            claims.append(any(pairs))
            old.append(old_rule(table, random))
            found += [not letters["m0"] & letters[other] for other in letters if other != "m0"]
            for row in made.rows:
                assert row.map_mean_ci95_low is not None
                assert row.map_mean_ci95_high is not None
                true = TRUE + setting.better * (row.method == "m0")
                held.append(row.map_mean_ci95_low <= true <= row.map_mean_ci95_high)
    errors = "" if setting.better else f"{np.mean(claims):.1%}"
    before = "" if setting.better else f"{np.mean(old):.1%}"
    power = f"{np.mean(found):.1%}" if setting.better else ""
    seconds = time.perf_counter() - begin
    return f"{setting.name:32} {errors:>8} {before:>8} {power:>8} {np.mean(held):>9.1%} {seconds:6.0f} s"


def main() -> int:
    """Measure all settings, or those whose name holds a text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=400)
    parser.add_argument("--only", default="", metavar="TEXT")
    arguments = parser.parse_args()
    sys.stdout.write(f"{'setting':32} {'claims':>8} {'old rule':>8} {'power':>8} {'coverage':>9}\n")
    for setting in SETTINGS:
        if arguments.only in setting.name:
            # a board of equal methods is one event, one with a better method has a pair for each of the others
            sys.stdout.write(measure(setting, arguments.boards // (4 if setting.better else 1)) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
