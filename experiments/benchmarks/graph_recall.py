"""How many of the nearest codes a graph index (HNSW) finds, beside an exact scan.

    pip install faiss-cpu usearch
    python experiments/benchmarks/graph_recall.py CODES.npz [CODES.npz …]

CODES.npz: the codes that a confirmed run on the clip art keeps, or what `cmh.encode` writes. Both modalities are asked
for the other. Recall@k: the share of the k answers that are as near as the k-th nearest, so that any order of ties is
right. `itself`: each item of the database is asked for, and an equal code is the right answer. Indexes have the
defaults of their libraries (faiss: 32 links, 40 candidates when built, 16 when asked; usearch: 16, 128, 64), or are
`wide`: 64 links, 512 candidates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import usearch.index

from cmh import encoded, scan

Search = Callable[[np.ndarray, int], np.ndarray]


def faiss_graph(packed: np.ndarray, bits: int, wide: bool) -> Search:
    index = faiss.IndexBinaryHNSW(8 * packed.shape[1], 64 if wide else 32)
    if wide:
        index.hnsw.efConstruction = index.hnsw.efSearch = 512
    index.add(packed)
    return lambda queries, k: index.search(queries, k)[1]


def usearch_graph(packed: np.ndarray, bits: int, wide: bool) -> Search:
    more = {"connectivity": 64, "expansion_add": 512, "expansion_search": 512} if wide else {}
    index = usearch.index.Index(ndim=bits, metric="hamming", dtype="b1", **more)
    index.add(np.arange(len(packed)), packed)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        found = index.search(queries, k)
        items = np.full((len(queries), k), -1, np.int64)
        for row, count in enumerate(np.atleast_1d(found.counts)):
            items[row, :count] = found.keys[row, :count]
        return items

    return search


def recall(search: Search, queries: np.ndarray, packed: np.ndarray, bits: int, k: int) -> float:
    """Share of answers that are as near as the k-th nearest; what is not answered (-1) is none."""
    farthest = scan.nearest(queries, packed, bits, k)[0][:, -1:]
    items = search(queries, k)
    apart = np.bitwise_count(packed[np.maximum(items, 0)] ^ queries[:, None]).sum(axis=2, dtype=np.int64)
    return float(((apart <= farthest) & (items >= 0)).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codes", type=Path, nargs="+", metavar="CODES.npz")
    faiss.omp_set_num_threads(1)  # graphs are built in one order, the same each time
    for path in parser.parse_args().codes:
        found = encoded.read(path)
        for queries, database in (
            ("texts", "images"),
            ("images", "texts"),
            ("query_text", "database_image"),
            ("query_image", "database_text"),
        ):
            if not {queries, database} <= set(found.sets):
                continue
            packed, asked = found.sets[database], found.sets[queries]
            counts = np.unique(packed, axis=0, return_counts=True)[1]
            print(
                f"\n{path.name}: {len(asked)} {queries} → {len(packed)} {database}, {found.bits} bits,"
                f" {len(counts)} different, the commonest {counts.max()} times"
            )
            for name, build in (("faiss", faiss_graph), ("usearch", usearch_graph)):
                for wide in (False, True):
                    search = build(packed, found.bits, wide)
                    shown = [f"recall@{k} {recall(search, asked, packed, found.bits, k):.3f}" for k in (1, 10, 50)]
                    shown.append(f"itself {recall(search, packed, packed, found.bits, 1):.3f}")
                    print(f"  {name}{' wide' if wide else ''}: {', '.join(shown)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
