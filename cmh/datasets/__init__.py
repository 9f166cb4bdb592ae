"""Datasets: items with a picture, a text and labels, split once; arrays that a trial maps into memory."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh.config import unknown
from cmh.datasets.split import Split
from cmh.errors import DatasetError
from cmh.features import backbones, cache, extraction

NAMES = ("clipart", "mirflickr25k")

Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Source:
    """What a reader gives. `pictures()` yields the encoded pictures in row order, one read a picture."""

    name: str
    sha256: str  # of everything that the arrays are computed from
    label_names: tuple[str, ...]
    split: Split
    labels: NDArray[np.uint8]  # (n, c)
    text: Callable[[], Floats]  # (n, d_text); its vocabulary may know the training rows only
    pictures: Callable[[], Iterable[bytes]]


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Items of one role, read only.

    `image` (n, d_image) and `text` (n, d_text) floats, `labels` (n, c) 0/1, and where they were asked for `pixels`
    (n, 3, side, side) uint8.
    """

    image: Floats
    text: Floats
    labels: NDArray[np.uint8]
    pixels: NDArray[np.uint8] | None = None

    def rows(self, some: slice) -> Arrays:
        """A part of the items, without a copy."""
        pixels = None if self.pixels is None else self.pixels[some]
        return Arrays(self.image[some], self.text[some], self.labels[some], pixels)


@dataclasses.dataclass(frozen=True)
class SearchData:
    """What a trial is given. The test queries are in another file: nothing here leads to them."""

    name: str
    sha256: str
    split_sha256: str
    features: str
    label_names: tuple[str, ...]
    train: Arrays
    validation_query: Arrays
    validation_database: Arrays  # every item that is neither query nor validation


@dataclasses.dataclass(frozen=True)
class TestData:
    """The test queries, and the database: every item that is not a query. Asking for it opens the test split."""

    query: Arrays
    database: Arrays


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset whose arrays lie in the cache."""

    name: str
    sha256: str
    split_sha256: str
    features: str
    label_names: tuple[str, ...]
    sizes: dict[str, int]  # query, validation, train, other
    folder: Path
    pixel_folder: Path | None = None

    def search(self) -> SearchData:
        """Training and validation items."""
        arrays = self._arrays("search")
        n_train, n_database = self.sizes["train"], self.sizes["train"] + self.sizes["other"]
        about = (self.name, self.sha256, self.split_sha256, self.features, self.label_names)
        parts = (slice(n_train), slice(n_database, None), slice(n_database))
        return SearchData(*about, *(arrays.rows(part) for part in parts))

    def test(self) -> TestData:
        """Test queries and the whole database."""
        return TestData(self._arrays("test"), self._arrays("search"))

    def _arrays(self, part: str) -> Arrays:
        image, text, labels = (_map(self.folder / part / f"{name}.npy") for name in ("image", "text", "labels"))
        return Arrays(
            image, text, labels, None if self.pixel_folder is None else _map(self.pixel_folder / f"{part}.npy")
        )


def names() -> list[str]:
    """Built-in datasets."""
    return list(NAMES)


def load(
    name: str,
    *,
    features: str = "efficientnet-lite0",
    weights: str = "",
    pixels: bool = False,
    progress: bool = True,
) -> Dataset:
    """A dataset, prepared if it is not in the cache yet; `weights` is a file for the network, where it needs one.

    With `pixels` the pictures are there too, decoded once, as the network wants them: for training it along.

    Raises DatasetError when it is unknown, missing or broken.
    """
    called = backbones.check(features, weights)
    source = read(name)
    sizes = {part: len(getattr(source.split, part)) for part in ("query", "validation", "train", "other")}
    split_sha256 = source.split.sha256()
    entry = f"{source.name}/{cache.key(source.sha256, split_sha256, called, backbones.VERSION)}"

    rows = {
        "search": np.concatenate([source.split.train, source.split.other, source.split.validation]),
        "test": source.split.query,
    }

    def arrays() -> cache.Arrays:
        image = np.load(extraction.features(source, features, weights, progress) / "image.npy", mmap_mode="r")
        whole: dict[str, Any] = {"image": image, "text": source.text(), "labels": source.labels}
        return {f"{part}/{key}": cache.Rows(array, rows[part]) for part in rows for key, array in whole.items()}

    folder = cache.entry(f"prepared/{entry}", arrays)
    pixel_folder = extraction.pixels(source, features, rows, progress) if pixels else None
    about = (source.name, source.sha256, split_sha256, f"{called}, fine-tuned" if pixels else called)
    return Dataset(*about, source.label_names, sizes, folder, pixel_folder)


def read(name: str) -> Source:
    """The reader's view of a dataset, before any feature is computed. Raises DatasetError."""
    if name not in NAMES:
        if Path(name).is_dir():
            raise DatasetError(f"{name} is a folder: datasets of your own (dataset.yml) are not supported yet")
        raise DatasetError(f"dataset {unknown(name, NAMES)}")
    source: Source = importlib.import_module(f"cmh.datasets.{name}").read()
    return source


def _map(path: Path) -> Any:
    # Copy-on-write: nobody can change the file, and torch takes the array without a copy or a warning.
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: the cached array cannot be read ({error}); delete its folder") from error
