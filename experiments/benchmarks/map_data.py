"""Arrays of the real sets' sizes for `map_speed.py`, and MAP of them in a process of its own, for its memory."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from cmh import metrics


@dataclasses.dataclass(frozen=True)
class Size:
    """Queries, database items, label columns, and labels that an item has on average."""

    name: str
    queries: int
    items: int
    labels: int
    density: float


SIZES = (
    Size("mirflickr25k", 2000, 18_015, 24, 3.7),
    Size("nuswide-tc21", 2100, 193_734, 21, 2.4),
    Size("coco", 5000, 117_218, 80, 2.9),
)

Sides = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def draw_labels(size: Size, seed: int = 0) -> np.ndarray:
    """0/1 `(queries + items, labels)`: a label's share falls with its rank, as in the real sets; no row is empty."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(2, size.labels + 2)
    share = np.minimum(share * size.density / share.sum(), 0.9)
    n = size.queries + size.items
    labels = np.empty((n, size.labels), np.uint8)
    for first in range(0, n, 10_000):
        rows = labels[first : first + 10_000]
        rows[:] = rng.random(rows.shape) < share
        empty = np.flatnonzero(~rows.any(axis=1))
        rows[empty, rng.integers(0, size.labels, len(empty))] = 1
    return labels


def draw(size: Size, bits: int, seed: int = 0, labels: np.ndarray | None = None) -> Sides:
    """Codes and labels of queries and database; codes are float32, as networks give them."""
    labels = draw_labels(size, seed) if labels is None else labels
    rng = np.random.default_rng([seed, bits])
    projection = rng.normal(size=(size.labels, bits)).astype(np.float32)
    codes = np.empty((len(labels), bits), np.float32)
    for first in range(0, len(labels), 10_000):
        part = labels[first : first + 10_000].astype(np.float32)
        values = part @ projection + 2 * rng.standard_normal((len(part), bits), np.float32)
        codes[first : first + 10_000] = np.where(values >= 0, 1, -1)
    n = size.queries
    return codes[:n], codes[n:], labels[:n], labels[n:]


def measure_alone(size: Size, bits: int, threads: int, repeats: int) -> dict[str, float]:
    """Median seconds of MAP from ±1 arrays, and the peak of resident memory above the inputs, in a fresh process."""
    request = json.dumps([dataclasses.asdict(size), bits, threads, repeats])
    command = [sys.executable, str(Path(__file__)), request]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def alone(size: Size, bits: int, threads: int, repeats: int) -> dict[str, float]:
    """What `measure_alone` asks of its process."""
    metrics.set_threads(threads)
    sides = draw(size, bits)
    metrics.mean_average_precision(*(side[:8] for side in sides))  # compiles
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, at what is resident now
    before = _peak()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        metrics.mean_average_precision(*sides)
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times), "megabytes": (_peak() - before) / 1e6}


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    fields, *rest = json.loads(sys.argv[1])
    print(json.dumps(alone(Size(**fields), *rest)))
