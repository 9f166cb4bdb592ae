"""How a study behaves with 10,000 trials in its storage: seconds to start, seconds for a suggestion, memory.

    python experiments/benchmarks/storage_scale.py

The trials are written in bulk (30 epochs each where not pruned, the searched parameters of `search_spaces/dcmh.yml`).
Then a fresh process starts as `cmh.tune` does: opens the storage, refills rungs and progress, asks for trials.
Expected: start below 20 s, suggestion below 0.5 s, memory below 2 GiB; on a busy machine look at the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

from cmh import config, methods
from cmh.study import space as spaces
from cmh.study.distributions import distribution
from cmh.study.session import Session
from cmh.study.storage import Store
from cmh.study.work import Budget, RunningTrial, Work
from cmh.views.progress import Progress

SPACE = spaces.load(spaces.find("dcmh"), method="dcmh")
COLUMNS = {
    "trials": "trial_id, number, study_id, state, datetime_start, datetime_complete",
    "trial_values": "trial_id, objective, value, value_type",
    "trial_params": "trial_id, param_name, param_value, distribution_json",
    "trial_user_attributes": "trial_id, key, value_json",
    "trial_intermediate_values": "trial_id, step, intermediate_value, intermediate_value_type",
}
BASE = config.defaults(methods.get("dcmh").Config)


def fill(path: Path, trials: int) -> None:
    """Made-up history, pruned as ASHA would; straight into the tables, since one by one would take an hour."""
    study = Store(f"sqlite:///{path}", "study", SPACE, BASE, 0).study
    study._storage.remove_session()
    draw, now = random.Random(0), "2026-01-01 00:00:00"  # noqa: S311 - no secret
    tables: dict[str, list[tuple[Any, ...]]] = {name: [] for name in COLUMNS}
    for number in range(trials):
        row, epochs = number + 1000, draw.choices([3, 9, 27, 30], [27, 9, 3, 1])[0]
        top = 0.2 + 0.5 * draw.random()
        result = {"seconds": 10.0} | ({"rung": epochs} if epochs < 30 else {})
        tables["trials"].append((row, number + 2, 1, "COMPLETE" if epochs == 30 else "PRUNED", now, now))
        tables["trial_values"].append((row, 0, top, "FINITE"))
        tables["trial_user_attributes"].append((row, "result", json.dumps(result)))
        for item in SPACE.ranges:
            if item.kind == "choice":
                value = float(draw.randrange(len(item.choices)))
            elif item.log:
                value = item.low * (item.high / item.low) ** draw.random()
            else:
                value = item.low + (item.high - item.low) * draw.random()
            text = optuna.distributions.distribution_to_json(distribution(item))
            tables["trial_params"].append((row, item.name, value, text))
        for epoch in range(1, epochs + 1):
            tables["trial_intermediate_values"].append((row, epoch, top * epoch / epochs, "FINITE"))
    with sqlite3.connect(path) as connection:
        for name, rows in tables.items():
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {name} ({COLUMNS[name]}) VALUES ({marks})", rows)  # noqa: S608


def measure(url: str, asks: int) -> None:
    """What the driver does at a start, and its first suggestions."""
    began, began_cpu = time.perf_counter(), time.process_time()
    store = Store(url, "study", SPACE, BASE, 0)
    view = Progress(store, 10**6, terminal=False)
    work = Work(store, 10**6, Path(), {"epochs": SPACE.epochs}, None, view)  # type: ignore[arg-type]
    session = Session(work, Budget())
    started, started_cpu = time.perf_counter() - began, time.process_time() - began_cpu
    seconds, cpu, ends = [], [], []
    for _ in range(asks):
        began, began_cpu = time.perf_counter(), time.process_time()
        trial = session.take()
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
        assert isinstance(trial, RunningTrial)
        began = time.perf_counter()
        session.reported(trial, {"epoch": 1, "val_map": 0.3, "val_map_best": 0.3, "epochs": 1})
        ends.append(time.perf_counter() - began)
    median = statistics.median
    print(f"start {started:.2f} s, of which CPU {started_cpu:.2f} s (storage, rungs, progress)")
    print(f"suggestion: median {median(seconds):.3f} s, of which CPU {median(cpu):.3f} s; most {max(seconds):.3f} s")
    print(f"report and end of a trial: median {median(ends):.3f} s, most {max(ends):.3f} s")
    print(f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most, of the driver")


def main() -> int:
    """Fill, then measure in a fresh process."""
    parser = argparse.ArgumentParser(description="Start, suggestion and memory with many trials in one storage.")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--asks", type=int, default=20)
    parser.add_argument("--url", help="a storage that was filled before")
    given = parser.parse_args()
    if given.url:
        measure(given.url, given.asks)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.db"
        fill(path, given.trials)
        command = [sys.executable, __file__, "--url", f"sqlite:///{path}", "--asks", str(given.asks)]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
