"""A synthetic dataset of feature arrays, by default of NUS-WIDE's size, written in blocks of rows.

    python tests/make_synthetic.py FOLDER [--items 195834] [--image 4096] [--tags 1000] [--labels 21] [--kind npz|npy]

Labels are drawn with falling frequency; image features and tags depend on them, so that there is something to learn.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROWS = 2048
KINDS = {"image": np.float16, "text": np.uint8, "labels": np.uint8}


def blocks(n: int, sizes: dict[str, int], seed: int) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Rows of all arrays, ROWS at a time."""
    rng = np.random.default_rng(seed)
    n_labels = sizes["labels"]
    means = rng.standard_normal((n_labels, sizes["image"]), np.float32)
    words = rng.random((n_labels, sizes["text"]), np.float32) ** 8 * 0.2  # most words say little about a label
    share = 0.4 / np.arange(1, n_labels + 1) ** 0.7
    for start in range(0, n, ROWS):
        rows = min(ROWS, n - start)
        labels = (rng.random((rows, n_labels)) < share).astype(np.uint8)
        empty = np.flatnonzero(~labels.any(1))
        labels[empty, rng.integers(0, n_labels, len(empty))] = 1
        image = labels.astype(np.float32) @ means + rng.standard_normal((rows, sizes["image"]), np.float32) * 3
        text = rng.random((rows, sizes["text"]), np.float32) < labels.astype(np.float32) @ words + 0.002
        yield {"image": image.astype(np.float16), "text": text.astype(np.uint8), "labels": labels}


def write(folder: Path, n: int, sizes: dict[str, int], *, kind: str = "npz", seed: int = 0) -> None:
    """`folder/dataset.yml` and the arrays; memory does not grow with `n`."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in KINDS}
        for name, kind in KINDS.items():
            about = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (n, sizes[name])}
            np.lib.format.write_array_header_1_0(files[name], about)
        for block in blocks(n, sizes, seed):
            for name, rows in block.items():
                files[name].write(rows.tobytes())
    features = "{image: image.npy, text: text.npy, labels: labels.npy}"
    if kind == "npz":
        features = "features.npz"
        with zipfile.ZipFile(folder / features, "w", zipfile.ZIP_STORED) as archive:
            for name in KINDS:
                archive.write(folder / f"{name}.npy", f"{name}.npy")
                (folder / f"{name}.npy").unlink()
    query, validation, train = (max(1, round(n * share)) for share in (2100 / 195834, 2000 / 195834, 10500 / 195834))
    split = f"{{query: {query}, validation: {validation}, train: {train}}}"
    (folder / "dataset.yml").write_text(f"name: synthetic\nfeatures: {features}\nsplit: {split}\n")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Write a synthetic dataset of feature arrays.")
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER")
    for name, default in (("items", 195834), ("image", 4096), ("tags", 1000), ("labels", 21), ("seed", 0)):
        add(f"--{name}", type=int, default=default, metavar="N", help="default: %(default)s")
    add(
        "--kind",
        choices=("npz", "npy"),
        default="npz",
        help="one file or three (default: %(default)s)",
    )
    given = parser.parse_args(argv)
    sizes = {"image": given.image, "text": given.tags, "labels": given.labels}
    write(given.folder, given.items, sizes, kind=given.kind, seed=given.seed)
    sys.stdout.write(f"{given.folder / 'dataset.yml'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
