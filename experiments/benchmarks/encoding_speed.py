"""A loaded model that encodes the clip art's pictures, against a bare loop: decode, prepare, network.

    python experiments/benchmarks/encoding_speed.py studies/dcmh-clipart-32 [--pictures 3586] [--threads 1]

Both take the same encoded pictures in batches of one size with as many threads. They run in turn in one process, a
chunk of pictures each, so that whatever else runs on the machine meets both; pictures a second, by the clock and
by the processor's time, and the ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

import cmh
from cmh import datasets
from cmh.features import backbones

CHUNK = 256  # as many as `cmh.encode` gives a model at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="what cmh.load takes, on frozen features of the clip art")
    parser.add_argument("--pictures", type=int, default=3586)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    encoder = cmh.load(arguments.target, device="cpu")
    name = encoder.description.network
    raws = list(datasets.read("clipart").pictures())[: arguments.pictures]
    network = backbones.ready(name, encoder.description.weights)
    about = backbones.about(name)

    def bare(some: list[bytes]) -> None:
        with torch.inference_mode():
            for pixels in backbones.decoded(some, about):
                batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
                network(batch.contiguous(memory_format=torch.channels_last)).numpy()

    ways: dict[str, Callable[[list[bytes]], object]] = {"bare": bare, "encode": encoder.encode_images}
    for work in ways.values():
        work(raws[:32])
    wall, busy = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    for number, start in enumerate(range(0, len(raws), CHUNK)):
        some = raws[start : start + CHUNK]
        for way in sorted(ways, reverse=bool(number % 2)):
            clock, processor = time.perf_counter(), time.process_time()
            ways[way](some)
            wall[way] += time.perf_counter() - clock
            busy[way] += time.process_time() - processor
    for way in ways:
        print(
            f"{way:<8} {len(raws) / wall[way]:8.1f} pictures/s, {len(raws) / busy[way]:8.1f} a second of the processor"
        )
    ratios = wall["bare"] / wall["encode"], busy["bare"] / busy["encode"]
    print(f"ratio    {ratios[0]:8.3f}, {ratios[1]:8.3f}  ({arguments.threads} threads, {name})")


if __name__ == "__main__":
    main()
