"""Every method's default point on datasets of different kinds and sizes of features, against a shallow control.

    python experiments/benchmarks/scales.py clipart FOLDER... [--methods dcmh …] [--scales standard none unit]

FOLDER: a dataset (`dataset.yml`). The clip art comes with copies: colour histograms of its pictures in place of image
features, all features × 0.01 and × 100, image features shifted by five of their deviations. 32 bits, validation MAP of
the best epoch, mean, lowest and highest of the seeds, beside ridge (CCA-ITQ for unsupervised methods) and chance.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cmh import datasets, methods, training
from cmh.interfaces import Arrays, SearchData

COLUMNS = ("method", "dataset", "scale", "val_map", "lowest", "highest", "control", "chance")


def changed(
    data: SearchData, name: str, image: Callable[[Arrays], object], text: Callable[[Arrays], object]
) -> SearchData:
    """The data under another name, with other features of each role."""

    def one(arrays: Arrays) -> Arrays:
        return dataclasses.replace(arrays, image=np.asarray(image(arrays), np.float32), text=text(arrays))  # type: ignore[arg-type]

    roles = {role: one(getattr(data, role)) for role in ("train", "validation_query", "validation_database")}
    return dataclasses.replace(data, name=name, arrays_sha256=name, **roles)


def histograms(arrays: Arrays) -> np.ndarray:
    """4 × 4 × 4 colours of each picture `(n, 64)`, their shares."""
    assert arrays.pixels is not None
    bins = (arrays.pixels // 64).astype(np.int64)
    colours = (bins[:, 0] * 16 + bins[:, 1] * 4 + bins[:, 2]).reshape(len(bins), -1)
    return np.stack([np.bincount(row, minlength=64) / len(row) for row in colours])


def variants(of: str) -> Iterator[SearchData]:
    """The dataset, and of the clip art its copies."""
    data = datasets.load(of, skip_bad=True).search()
    yield data
    if of != "clipart":
        return
    pixels = datasets.load(of, features="conv4", pixels=True).search()
    deviation = np.asarray(data.train.image, np.float64).std()
    yield dataclasses.replace(changed(pixels, "clipart-colours", histograms, lambda one: one.text), features="colours")
    for factor in (0.01, 100.0):
        yield changed(
            data,
            f"clipart×{factor:g}",
            lambda one, factor=factor: one.image * factor,
            lambda one, factor=factor: (one.text * factor).astype(np.float32),
        )
    yield changed(data, "clipart+5", lambda one: one.image + 5 * deviation, lambda one: one.text)


def best(method: str, data: SearchData, scale: str, epochs: int, seeds: int) -> list[float]:
    """Validation MAP of each seed's best epoch."""
    module, found = methods.get(method), []
    for seed in range(1, seeds + 1):
        values = {"bits": 32, "epochs": epochs, "seed": seed, "threads": 1, "scale": scale}
        found.append(training.fit(module, *training.parse(module, values), data).best.val_map)
        if module.KIND == "shallow" and method != "random":
            break
    return found


def main() -> int:
    """Write a row as soon as it is known, and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--methods", nargs="+", default=[name for name in methods.names() if name != "random"])
    parser.add_argument("--scales", nargs="+", default=["standard"])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=Path("scales.csv"))
    given = parser.parse_args()
    with given.csv.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for of in given.datasets:
            for data in variants(of):
                chance = training.chance(data)
                controls = {
                    kind: statistics.mean(best(control, data, "standard", 1, 1))
                    for kind, control in (("unsupervised", "cca_itq"), ("supervised", "ridge"), ("shallow", "ridge"))
                }
                for method in given.methods:
                    for scale in given.scales:
                        found = best(method, data, scale, given.epochs, given.seeds)
                        row = (
                            statistics.mean(found),
                            min(found),
                            max(found),
                            controls[methods.get(method).KIND],
                            chance,
                        )
                        table.writerow((method, data.name, scale, *(f"{value:.4f}" for value in row)))
                        file.flush()
                        print(f"{method:8} {data.name:18} {scale:8}" + "".join(f" {value:.4f}" for value in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
