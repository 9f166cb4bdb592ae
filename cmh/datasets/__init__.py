"""Datasets: items with a picture, a text and labels, split once; arrays that a trial maps into memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import files, ledger
from cmh.config import unknown
from cmh.datasets.facts import FACTS
from cmh.datasets.split import Split
from cmh.errors import DatasetError
from cmh.features import backbones, cache, extraction

NAMES = ("clipart", *FACTS)
ORDERS = ("torchcmh", "file")
DEFAULT_FEATURES = "efficientnet-lite0"
ARRAYS_VERSION = 2  # of which arrays an entry holds

Floats = NDArray[np.float32]
_LAST: dict[
    tuple[object, ...], tuple[Source, object]
] = {}  # the dataset that this process read last: a worker trains many trials on one

_LOCKS: list[bool] = []  # one for each `locked` block that runs


@dataclasses.dataclass(frozen=True)
class Source:
    """What a reader gives. `pictures()` yields the encoded pictures in row order, one read a picture.

    `text()` and `image()` give anything with `shape`, `dtype` and rows by `[index]`: an array, a memory map, or rows
    that become dense when they are asked for.
    """

    name: str
    sha256: str  # of everything that the arrays are computed from
    label_names: tuple[str, ...]
    split: Split
    labels: NDArray[np.uint8]  # (n, c)
    text: Callable[[], Any]  # (n, d_text); its vocabulary may know the training rows only
    pictures: Callable[[], Iterable[bytes]]
    image: Callable[[], Any] | None = None  # (n, d_image): given features, in place of pictures
    features: str = ""  # what given features are called
    pictures_sha256: str = ""  # of the pictures alone, so that another text does not make their features anew
    files: Sequence[Path] = ()  # the pictures in row order, where they are files
    digests: Sequence[bytes] = ()  # SHA-256 of each picture, where it is known
    words: Callable[[], Sequence[Sequence[str]]] | None = None  # of each item, where texts are words
    groups: Sequence[str] = ()  # near-duplicates of each item, by name ("": none); empty where no item has a group
    skipped: tuple[str, ...] = ()  # one line for each thing that was left out
    n_skipped: int = 0  # items that were left out
    notes: tuple[str, ...] = ()  # what a reader should know about this split or text
    inputs: Sequence[str] = ()  # every file it was read from, where these are known: the same files, the same source


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Items of one role, read only.

    `image` (n, d_image), `text` (n, d_text), `labels` (n, c) 0/1, and where they were asked for `pixels`
    (n, 3, side, side) uint8. Features are float32, or float16 where they were given so: take rows and convert those.
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
    arrays_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class TestData:
    """The test queries, and the database: every item that is not a query. Asking for it opens the test split.

    `groups` `(n_query,)`: queries that are near-duplicates of each other share a number.
    """

    query: Arrays
    database: Arrays
    groups: NDArray[np.int64]


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
    arrays_sha256: str = ""  # of all its arrays, those of the test queries too; see `cache.arrays_sha256`
    provenance: dict[str, str] = dataclasses.field(default_factory=dict)  # of its features and pixels, when made

    def search(self) -> SearchData:
        """Training and validation items."""
        arrays = self._arrays("search")
        n_train, n_database = self.sizes["train"], self.sizes["train"] + self.sizes["other"]
        about = (self.name, self.sha256, self.split_sha256, self.features, self.label_names)
        parts = (slice(n_train), slice(n_database, None), slice(n_database))
        train, query, database = (arrays.rows(part) for part in parts)
        return SearchData(*about, train, query, database, self.arrays_sha256)

    def test(self) -> TestData:
        """Test queries and the whole database. Each call is an opening of the test split, and noted in its ledger.

        Raises DatasetError while the test split is `locked`, LedgerError where the opening cannot be noted.
        """
        self._check_open()
        ledger.open_test(self.name, self.split_sha256, "dataset.test()")
        return self.noted_test()

    def part(self, name: str) -> Any:
        """`search` or `test`, for those who have noted the opening themselves: confirmations, of what they show."""
        return self.search() if name == "search" else self.noted_test()

    def noted_test(self) -> TestData:
        """The same as `test`, for those who have noted the opening themselves: confirmations, of what they show."""
        self._check_open()
        return TestData(self._arrays("test"), self._arrays("search"), _map(self.folder / "test" / "group.npy"))

    def _check_open(self) -> None:
        if _LOCKS:
            raise DatasetError(f"{self.name}: the test split is locked while a method is searched or trained")

    def _arrays(self, part: str) -> Arrays:
        image, text, labels = (_map(self.folder / part / f"{name}.npy") for name in ("image", "text", "labels"))
        return Arrays(
            image, text, labels, None if self.pixel_folder is None else _map(self.pixel_folder / f"{part}.npy")
        )


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """While the block runs, no dataset of this process gives its test queries: methods have no business there."""
    _LOCKS.append(True)
    try:
        yield
    finally:
        _LOCKS.pop()


def names() -> list[str]:
    """Built-in datasets."""
    return list(NAMES)


def load(
    name: str,
    *,
    features: str = DEFAULT_FEATURES,
    weights: str = "",
    pixels: bool = False,
    progress: bool = True,
    skip_bad: bool = False,
    order: str = "torchcmh",
) -> Dataset:
    """A dataset, prepared if it is not in the cache yet.

    Parameters
    ----------
    name: a built-in dataset, or the path of a folder with `dataset.yml`.
    features, weights: the image network, and a file of weights where it needs one.
    pixels: the pictures are there too, decoded once, as the network wants them: for training it along.
    skip_bad: go on without bad items; `skipped.json` beside the arrays says which.
    order: split of a benchmark: torchcmh's seed, or the order of its files as in the DCMH release.

    Raises DatasetError when it is unknown, missing or broken.
    """
    called = backbones.check(features, weights)
    source = read(name, skip_bad=skip_bad, order=order, progress=progress)
    if source.image is not None:
        if features != DEFAULT_FEATURES or weights:
            raise DatasetError(f"features {called}: {source.name} brings its own image features; leave --features out")
        called = source.features
    sizes = {part: len(getattr(source.split, part)) for part in ("query", "validation", "train", "other")}
    split_sha256 = source.split.sha256()
    entry = f"{source.name}/{cache.key(source.sha256, split_sha256, called, backbones.VERSION, ARRAYS_VERSION)}"

    given = {"given": source.sha256}
    rows = {
        "search": np.concatenate([source.split.train, source.split.other, source.split.validation]),
        "test": source.split.query,
    }

    def arrays() -> cache.Arrays:
        if source.image is not None:
            image, made = source.image(), given
        else:
            extracted = extraction.features(source, features, weights, progress)
            image, made = np.load(extracted / "image.npy", mmap_mode="r"), extraction.provenance(extracted)
        whole: dict[str, Any] = {"image": image, "text": source.text(), "labels": source.labels}
        parts = {f"{part}/{key}": cache.Rows(array, rows[part]) for part in rows for key, array in whole.items()}
        return {**parts, "test/group": group_numbers(source), extraction.PROVENANCE: cache.Note(made)}

    folder = cache.entry(f"prepared/{entry}", arrays)
    _note_skipped(source, folder)
    pixel_folder = extraction.pixels(source, features, rows, progress) if pixels else None
    about = (source.name, source.sha256, split_sha256, f"{called}, fine-tuned" if pixels else called)
    made = given if source.image is not None else extraction.provenance(folder, pixel_folder)
    arrays_sha256 = cache.arrays_sha256(folder, *([] if pixel_folder is None else [pixel_folder]))
    return Dataset(*about, source.label_names, sizes, folder, pixel_folder, arrays_sha256, made)


def read(name: str, *, skip_bad: bool = False, order: str = "torchcmh", progress: bool = False) -> Source:
    """The reader's view of a dataset, before any feature is computed.

    Every picture is looked at once, and again only after it has changed. Raises DatasetError that names everything
    that is wrong.
    """
    from cmh.datasets import benchmarks, clipart, own, scan

    if order not in ORDERS:
        raise DatasetError(f"split {unknown(order, ORDERS)}")
    if name not in FACTS and order != "torchcmh":
        raise DatasetError(f"split {order} is one of the benchmarks' ({', '.join(FACTS)}); {name} has its own")
    if name == "clipart":
        return clipart.read()
    if name not in FACTS and not is_folder(name):
        raise DatasetError(f"dataset {unknown(name, NAMES)}, or a folder with dataset.yml")
    path = benchmarks.folder(FACTS[name]) if name in FACTS else Path(name)
    request = (str(path.resolve()), str(cache.root()), skip_bad, order)
    known = _LAST.get(request)
    if known is not None and scan.marks(known[0].inputs) == known[1]:
        return known[0]
    if name in FACTS:
        try:
            source = benchmarks.read(FACTS[name], path, order=order, skip_bad=skip_bad, progress=progress)
        except OSError as error:
            raise DatasetError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error
    else:
        source = own.read(path, skip_bad=skip_bad, progress=progress)
    _LAST.clear()
    if source.inputs:
        _LAST[request] = source, scan.marks(source.inputs)
    return source


def group_numbers(source: Source) -> NDArray[np.int64]:
    """Group of each test query `(n_query,)` as a number from 0 in order of appearance; its own where it has none."""
    numbers: dict[object, int] = {}
    keys = ((source.groups[row] if source.groups else "") or row for row in source.split.query.tolist())
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def is_folder(name: str) -> bool:
    """Whether a dataset is named by the path of its folder."""
    return name not in NAMES and (Path(name).is_dir() or "/" in name)


def _note_skipped(source: Source, folder: Path) -> None:
    """Which items were left out, beside the arrays that lack them; said once."""
    path = folder / "skipped.json"
    if not source.skipped or path.exists():
        return
    note = {"items": source.n_skipped, "of": source.n_skipped + len(source.labels), "problems": source.skipped}
    files.write_atomic(path, json.dumps(note, indent=1, ensure_ascii=False))
    sys.stderr.write(f"{source.name}: {source.n_skipped:,} of {note['of']:,} items left out (--skip-bad); see {path}\n")


def _map(path: Path) -> Any:
    # Copy-on-write: nobody can change the file, and torch takes the array without a copy or a warning.
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: the cached array cannot be read ({error}); delete its folder") from error
