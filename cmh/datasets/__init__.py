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
from cmh.features import backbones, cache

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
    """Items of one role: `image` (n, d_image) and `text` (n, d_text) float32, `labels` (n, c) 0/1. Read only."""

    image: Floats
    text: Floats
    labels: NDArray[np.uint8]


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

    def search(self) -> SearchData:
        """Training and validation items."""
        image, text, labels = (_map(self.folder / "search" / f"{name}.npy") for name in ("image", "text", "labels"))
        n_train, n_database = self.sizes["train"], self.sizes["train"] + self.sizes["other"]
        about = (self.name, self.sha256, self.split_sha256, self.features, self.label_names)
        parts = (slice(n_train), slice(n_database, None), slice(n_database))
        return SearchData(*about, *(Arrays(image[rows], text[rows], labels[rows]) for rows in parts))

    def test(self) -> TestData:
        """Test queries and the whole database."""
        query, database = (
            Arrays(*(_map(self.folder / part / f"{name}.npy") for name in ("image", "text", "labels")))
            for part in ("test", "search")
        )
        return TestData(query, database)


def names() -> list[str]:
    """Built-in datasets."""
    return list(NAMES)


def load(name: str, *, features: str = "efficientnet-lite0", progress: bool = True) -> Dataset:
    """A dataset, prepared if it is not in the cache yet.

    Raises DatasetError when it is unknown, missing or broken.
    """
    backbones.check(features)
    source = read(name)
    sizes = {part: len(getattr(source.split, part)) for part in ("query", "validation", "train", "other")}
    split_sha256 = source.split.sha256()
    entry = f"{source.name}/{cache.key(source.sha256, split_sha256, features, backbones.VERSION)}"

    def arrays() -> cache.Arrays:
        split = source.split
        image = np.load(_image_features(source, features, progress) / "image.npy", mmap_mode="r")
        text = source.text()
        rows = {"search": np.concatenate([split.train, split.other, split.validation]), "test": split.query}
        whole: dict[str, Any] = {"image": image, "text": text, "labels": source.labels}
        return {f"{part}/{key}": array[rows[part]] for part in rows for key, array in whole.items()}

    folder = cache.entry(f"prepared/{entry}", arrays)
    return Dataset(source.name, source.sha256, split_sha256, features, source.label_names, sizes, folder)


def read(name: str) -> Source:
    """The reader's view of a dataset, before any feature is computed. Raises DatasetError."""
    if name not in NAMES:
        if Path(name).is_dir():
            raise DatasetError(f"{name} is a folder: datasets of your own (dataset.yml) are not supported yet")
        raise DatasetError(f"dataset {unknown(name, NAMES)}")
    source: Source = importlib.import_module(f"cmh.datasets.{name}").read()
    return source


def _image_features(source: Source, features: str, progress: bool) -> Path:
    def compute() -> cache.Arrays:
        from tqdm import tqdm

        total = len(source.labels)
        with tqdm(total=total, desc=f"{source.name}: {features}", unit="pic", disable=not progress, leave=False) as bar:
            image = backbones.extract(features, source.pictures(), bar.update)
        if len(image) != total or not np.isfinite(image).all():
            raise DatasetError(f"{source.name}: {len(image)} picture features for {total} items, or not all finite")
        return {"image": image}

    return cache.entry(f"features/{source.name}/{cache.key(source.sha256, features, backbones.VERSION)}", compute)


def _map(path: Path) -> Any:
    # Copy-on-write: nobody can change the file, and torch takes the array without a copy or a warning.
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: the cached array cannot be read ({error}); delete its folder") from error
