"""How long an exact search takes beside faiss' `IndexBinaryFlat`, in one run, and how much memory.

    pip install faiss-cpu
    python experiments/benchmarks/search_speed.py --threads 2 --out search_speed.json

Random codes, the 50 nearest; both ways run in turns on the same arrays and must give the same items in the same order.
Medians, least times and the ratio of both are printed; on a busy machine only the processor's time (of all threads, the
least) can be trusted. Memory is the peak of resident memory while cmh searches, above
codes and result, in a process of its own, divided by the number of codes. Takes some minutes on two cores, most of
them faiss'.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from pathlib import Path

import faiss
import numba
import numpy as np

from cmh import scan

K = 50


def drawn(n: int, bits: int, seed: int) -> np.ndarray:
    """Packed codes `(n, ceil(bits / 8))`."""
    codes = np.random.default_rng([n, bits, seed]).integers(256, size=(n, -(-bits // 8)), dtype=np.uint8)
    if bits % 8:
        codes[:, -1] &= 2 ** (bits % 8) - 1
    return codes


def peak() -> int:
    """Bytes of memory that were resident at the most since the last `restart`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def memory(n: int, bits: int, n_query: int, threads: int) -> float:
    """Bytes a code above codes and result while cmh searches."""
    numba.set_num_threads(threads)
    database, queries = drawn(n, bits, 0), drawn(n_query, bits, 1)
    scan.nearest(queries[:1], database[:100_000], bits, K)  # compiles, and starts the threads
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, at what is resident now
    before = peak()
    found = scan.nearest(queries, database, bits, K)
    return (peak() - before - sum(array.nbytes for array in found)) / n


def row(n: int, bits: int, n_query: int, threads: int, repeats: int) -> dict[str, float]:
    """Times of both ways, and memory of ours."""
    database, queries = drawn(n, bits, 0), drawn(n_query, bits, 1)
    index = faiss.IndexBinaryFlat(8 * database.shape[1])
    index.add(database)
    times: dict[str, list[tuple[float, float]]] = {"cmh": [], "faiss": []}
    for _ in range(repeats):
        before = (time.perf_counter(), time.process_time())
        ours = scan.nearest(queries, database, bits, K)
        middle = (time.perf_counter(), time.process_time())
        theirs = index.search(queries, K)
        after = (time.perf_counter(), time.process_time())
        times["cmh"].append((middle[0] - before[0], middle[1] - before[1]))
        times["faiss"].append((after[0] - middle[0], after[1] - middle[1]))
        if not all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            raise SystemExit(f"{n} × {bits} bits: cmh and faiss give other items")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        more = pool.apply(memory, (n, bits, n_query, threads))
    found: dict[str, float] = {"n": n, "bits": bits, "queries": n_query, "threads": threads, "bytes_a_code": more}
    for name, each in times.items():
        wall, busy = zip(*each, strict=True)
        found |= {f"{name}_median": statistics.median(wall), f"{name}_least": min(wall), f"{name}_cpu": min(busy)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--repeats", type=int, default=31, help="of one query; of 1,000 a tenth of it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON")
    given = parser.parse_args()
    numba.set_num_threads(given.threads)
    faiss.omp_set_num_threads(given.threads)
    scan.nearest(drawn(1, 64, 1), drawn(100_000, 64, 0), 64, K)  # compiles
    print("milliseconds: median (least, of the processor); their ratios")
    rows = []
    for bits in given.bits:
        for n_query, repeats in ((1, given.repeats), (1000, max(3, given.repeats // 10))):
            one = row(given.items, bits, n_query, given.threads, repeats)
            rows.append(one)
            shown = [
                f"{w} {1e3 * one[f'{w}_median']:.2f} ({1e3 * one[f'{w}_least']:.2f}, {1e3 * one[f'{w}_cpu']:.2f})"
                for w in ("cmh", "faiss")
            ]
            ratios = [one[f"cmh_{what}"] / one[f"faiss_{what}"] for what in ("median", "least", "cpu")]
            print(
                f"{given.items} × {bits} bits, {n_query} queries, {given.threads} threads: {', '.join(shown)};"
                f" {ratios[0]:.2f} ({ratios[1]:.2f}, {ratios[2]:.2f}); {one['bytes_a_code']:.2f} bytes a code",
                flush=True,
            )
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
