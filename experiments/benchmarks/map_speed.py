"""How long MAP takes, beside torchcmh's loop, faiss and the bare kernel, in one run; and how it grows.

    python experiments/benchmarks/map_speed.py --torchcmh CHECKOUT --threads 1 2 --out map_speed.json
    python experiments/benchmarks/map_speed.py --growth --out map_growth.json     # and map_growth.svg

Labels are drawn at the sizes and densities of MIRFlickr-25K, NUS-WIDE (21 concepts) and MS COCO, or read from the DCMH
release's file of MIRFlickr (`--labels FILE`, variable LAll). Codes are the signs of a seeded random projection of the
labels with noise, so that distances and relevance are related as in a trained model. All ways run in turns on the same
arrays, and medians count.

packed, arrays   `cmh.metrics`: MAP from words, and from ±1 arrays, which are checked and packed first
bare             XOR and population count of the same words, added up: no labels, no histograms, vectorised
torchcmh         `calc_map_k` of a checkout (`--torchcmh DIR`), on some queries, times are scaled to all
faiss            `IndexBinaryFlat` returning all items ranked, the faster of its two ways to select, on some queries;
                 without labels and MAP. Left out where faiss cannot be imported (`pip install faiss-cpu`)
memory           the peak above the inputs of `arrays`, in a process of its own

Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.io
import torch

from cmh import metrics
from cmh.metrics import _kernel
from cmh.metrics._vectors import ones_of_word

sys.path.insert(0, str(Path(__file__).parent))  # the files beside this one, also where another imports it
from map_data import SIZES, Sides, Size, draw, measure_alone
from plot import Panel, save

BITS = (16, 32, 64, 128)
SOME = 20  # queries that the slow ways rank
LOOP = Path("torchcmh", "utils", "calc_utils.py")  # in torchcmh's checkout


@numba.njit(parallel=True)
def bare(query: np.ndarray, database: np.ndarray) -> np.ndarray:
    """The sum of Hamming distances of each query, words `(words, n)`."""
    sums = np.zeros(query.shape[1], np.int64)
    for i in numba.prange(query.shape[1]):
        total = np.int64(0)
        for word in range(query.shape[0]):
            code = query[word, i]
            for j in range(database.shape[1]):
                total += np.int64(ones_of_word(code ^ database[word, j]))
        sums[i] = total
    return sums


def rows(
    threads: int,
    torchcmh: Path | None,
    repeats: int,
    *,
    sizes: Iterable[Size] = SIZES,
    bits: Iterable[int] = BITS,
    labels: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """A row of the table for each size and code length: seconds by way, ratios, memory, MAPs.

    `seconds["torchcmh"]` and `seconds["faiss"]` are scaled from some queries; a way that is not there is left out.
    Raises FileNotFoundError where `torchcmh` is no checkout of it.
    """
    loop = torchcmh_loop(torchcmh) if torchcmh else None
    return [
        row(size, length, threads, loop, repeats, draw(size, length, labels=labels))
        for size in sizes
        for length in bits
    ]


def row(
    size: Size, bits: int, threads: int, loop: Callable[..., Any] | None, repeats: int, sides: Sides
) -> dict[str, Any]:
    """One row of `rows`."""
    torch.set_num_threads(threads)
    metrics.set_threads(threads)
    packed = (*map(metrics.pack_codes, sides[:2]), *map(metrics.pack_labels, sides[2:]))
    columns = [np.ascontiguousarray(words.T) for words in packed[:2]]
    some = (sides[0][:SOME], sides[1], sides[2][:SOME], sides[3])
    ways: dict[str, Callable[[], Any]] = {
        "packed": lambda: metrics.average_precision_packed(*packed, bits).mean(),
        "arrays": lambda: metrics.mean_average_precision(*sides),
        "histograms": lambda: _kernel.histograms(*packed, bits),
        "bare": lambda: bare(*columns),
    }
    scaled = size.queries / len(some[0])
    factor = {"torchcmh": scaled, "faiss heap": scaled, "faiss counting": scaled}
    if loop:
        tensors = [torch.from_numpy(side).float() for side in some]
        ways["torchcmh"] = lambda: loop(*tensors)
    ways |= faiss_ways(packed, bits, threads)
    results = {name: run() for name, run in ways.items()}  # also compiles
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):  # in turns, so that a busy moment of the machine meets all of them
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * factor.get(name, 1))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    if "faiss heap" in seconds:
        seconds["faiss"] = min(seconds["faiss heap"], seconds["faiss counting"])
    ratios = {
        f"{slow} / {ours}": seconds[slow] / seconds[ours]
        for slow in ("torchcmh", "faiss")
        if slow in seconds
        for ours in ("packed", "arrays")
    }
    ratios |= {f"{ours} / bare": seconds[ours] / seconds["bare"] for ours in ("histograms", "packed", "arrays")}
    maps = {"all queries": float(results["packed"]), "some": metrics.mean_average_precision(*some)}
    if loop:
        maps["some, torchcmh"] = float(results["torchcmh"])
    alone = measure_alone(size, bits, threads, 1)
    return {
        **dataclasses.asdict(size),
        "bits": bits,
        "threads": threads,
        "repeats": repeats,
        "some": len(some[0]),
        "seconds": seconds,
        "spread": {name: [min(values), max(values)] for name, values in times.items()},
        "ratios": ratios,
        "megabytes": alone["megabytes"],
        "map": maps,
    }


def torchcmh_loop(checkout: Path) -> Callable[..., Any]:
    """`calc_map_k` of torchcmh; the file alone is loaded, as the package imports much more."""
    path = checkout / LOOP
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give --torchcmh the folder of a checkout of torchcmh")
    spec = importlib.util.spec_from_file_location("torchcmh_calc_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loop: Callable[..., Any] = module.calc_map_k
    return loop


def faiss_ways(packed: tuple[np.ndarray, ...], bits: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Full rankings of some queries; nothing where faiss is absent or the codes are no whole bytes, which it wants."""
    if importlib.util.find_spec("faiss") is None or bits % 8:
        return {}
    import faiss

    faiss.omp_set_num_threads(threads)
    query, database = (np.ascontiguousarray(words.view(np.uint8)[:, : bits // 8]) for words in packed[:2])
    ways = {}
    for name, heap in (("faiss heap", True), ("faiss counting", False)):
        index = faiss.IndexBinaryFlat(bits)
        index.use_heap = heap
        index.add(database)
        ways[name] = lambda index=index: index.search(query[:SOME], len(database))
    return ways


def growth(
    threads: int, repeats: int, scale: float = 1.0, most: int | None = None
) -> dict[str, list[dict[str, float]]]:
    """Seconds and megabytes against items, bits and labels, one changed at a time."""
    base = Size("growth", max(8, int(500 * scale)), max(100, int(100_000 * scale)), 24, 3.0)
    items = [max(100, int(n * scale)) for n in (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)]
    points: dict[str, list[tuple[int, Size, int]]] = {
        "items": [(n, dataclasses.replace(base, items=n), 64) for n in items],
        "bits": [(bits, base, bits) for bits in (8, 16, 32, 64, 128, 256, 512, 1024)],
        "labels": [(n, dataclasses.replace(base, labels=n), 64) for n in (8, 16, 32, 64, 128, 256, 512, 1024)],
    }
    return {
        axis: [{axis: value, **measure_alone(size, bits, threads, repeats)} for value, size, bits in listed[:most]]
        for axis, listed in points.items()
    }


def plot(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """The growth as SVG: seconds above, memory below 0.1 MB is drawn as 0.1."""
    panels = []
    for axis, points in found.items():
        for what, unit in (("seconds", "s"), ("megabytes", "MB above the inputs")):
            line = [(point[axis], max(point[what], 0.1 if what == "megabytes" else 1e-6)) for point in points]
            panels.append(Panel(f"MAP: {what} against {axis}", axis, unit, {"cmh": line}))
    save(panels, path)


def table(found: list[dict[str, Any]]) -> str:
    """The rows for people."""
    head = f"{'':14}{'bits':>5}{'threads':>8}{'packed':>10}{'arrays':>10}{'bare':>10}{'packed/bare':>12}"
    lines = [f"{head}{'torchcmh':>12}{'times':>7}{'faiss':>10}{'times':>7}{'memory':>9}{'MAP':>8}"]
    for one in found:
        seconds, ratios = one["seconds"], one["ratios"]
        cells = [f"{one['name']:14}{one['bits']:5}{one['threads']:8}"]
        cells += [f"{seconds[way] * 1e3:7.1f} ms" for way in ("packed", "arrays", "bare")]
        cells.append(f"{ratios['packed / bare']:12.2f}")
        for slow, width in (("torchcmh", 10), ("faiss", 8)):
            there = slow in seconds
            faster = f"{seconds[slow]:{width}.2f} s{ratios[f'{slow} / arrays']:7.0f}" if there else "-"
            cells.append(f"{faster:>{width + 9}}")
        cells.append(f"{one['megabytes']:6.0f} MB{one['map']['all queries']:8.4f}")
        lines.append("".join(cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table and write it down; exit status 2 where a file is not what it should be."""
    parser = argparse.ArgumentParser(description="Time MAP beside other ways to compute it, or its growth.")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="a table each (default: 1 2)")
    parser.add_argument("--bits", type=int, nargs="+", default=list(BITS), help="(default: 16 32 64 128)")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the median counts (default: 5)")
    parser.add_argument("--torchcmh", type=Path, metavar="DIR", help="a checkout of torchcmh")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="a .mat file with the variable LAll")
    parser.add_argument("--scale", type=float, default=1.0, help="share of queries and items (default: 1)")
    parser.add_argument("--growth", action="store_true", help="time and memory against items, bits and labels")
    parser.add_argument("--most", type=int, metavar="N", help="points of --growth for each axis, the smallest first")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON; the plot of --growth goes beside it as .svg")
    given = parser.parse_args(arguments)
    found: Any
    if given.growth:
        found = growth(given.threads[-1], given.repeats, given.scale, given.most)
        print(json.dumps(found, indent=1))
    else:
        if importlib.util.find_spec("faiss") is None:
            print("faiss is not installed: its column is left out (pip install faiss-cpu)", file=sys.stderr)
        try:
            found = _tables(given)
        except (FileNotFoundError, KeyError) as error:
            print(error.args[0], file=sys.stderr)
            return 2
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
        if given.growth:
            plot(found, given.out.with_suffix(".svg"))
    return 0


def _tables(given: argparse.Namespace) -> list[dict[str, Any]]:
    labels = _read_labels(given.labels) if given.labels else None
    if labels is None:
        shrunk = {"queries": given.scale, "items": given.scale}
        sizes = [
            dataclasses.replace(size, **{name: max(SOME, int(getattr(size, name) * by)) for name, by in shrunk.items()})
            for size in SIZES
        ]
    else:
        n = min(2000, len(labels) // 2)
        sizes = [Size(given.labels.stem[:13], n, len(labels) - n, labels.shape[1], float(labels.sum(1).mean()))]
    found = []
    for threads in given.threads:
        made = rows(threads, given.torchcmh, given.repeats, sizes=sizes, bits=given.bits, labels=labels)
        print(table(made), flush=True)
        found += made
    print(f"\nmedians of {given.repeats} runs in turns; torchcmh and faiss ranked {SOME} queries, scaled to all")
    return found


def _read_labels(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give --labels the LAll file of MIRFlickr-25K")
    content = scipy.io.loadmat(path)
    if "LAll" not in content:
        raise KeyError(f"{path} holds no variable LAll; give --labels the LAll file of MIRFlickr-25K")
    labels: np.ndarray = content["LAll"].astype(np.uint8)
    return labels[np.random.default_rng(0).permutation(len(labels))]


if __name__ == "__main__":
    sys.exit(main())
