"""Feature extraction against a bare loop of the same network on arrays that are ready: what decoding costs.

    python experiments/benchmarks/extraction_speed.py [--features efficientnet-lite0] [--pictures 640] [--rounds 3]

Both run in turn in one process on the clip art; pictures a second, best of the rounds, and their ratio.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import numpy as np
import torch

from cmh import datasets
from cmh.features import backbones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", default="efficientnet-lite0", choices=backbones.names())
    parser.add_argument("--weights", default="")
    parser.add_argument("--pictures", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    source = datasets.read("clipart")
    raws = list(itertools.islice(itertools.cycle(source.pictures()), arguments.pictures))
    about = backbones.REGISTRY[arguments.features]
    ready = [
        torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float()
        for batch in backbones.decoded(raws, about)
    ]
    network = backbones.build(arguments.features, arguments.weights).to(memory_format=torch.channels_last)

    def bare() -> None:
        with torch.inference_mode():
            for batch in ready:
                network(batch)

    def extract() -> None:
        for _ in backbones.extract(arguments.features, raws, weights=arguments.weights):
            pass

    def seconds(work: Callable[[], None]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    bare()
    best = {"bare": float("inf"), "extract": float("inf")}
    for _ in range(arguments.rounds):
        for name, work in (("bare", bare), ("extract", extract)):
            best[name] = min(best[name], seconds(work))
    for name, took in best.items():
        print(f"{name:<8} {arguments.pictures / took:8.1f} pictures/s")
    print(f"ratio    {best['bare'] / best['extract']:8.3f}  ({torch.get_num_threads()} threads, {arguments.features})")


if __name__ == "__main__":
    main()
