"""What a reader gives: the items of a dataset and their split, before any feature is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh.cache import RowArray
from cmh.datasets.split import Split


@dataclasses.dataclass(frozen=True)
class Source:
    """The items in row order. `picture(row)` reads an encoded picture.

    `text()` and `image()` give anything with `shape`, `dtype` and rows by `[index]`: an array, a memory map, or rows
    that become dense when they are asked for.
    """

    name: str
    sha256: str  # of everything that the arrays are computed from
    label_names: tuple[str, ...]
    split: Split
    labels: NDArray[np.uint8]  # (n, c)
    text: Callable[[], RowArray]  # (n, d_text), with `starts` a row a caption; may know the training rows' words only
    picture: Callable[[int], bytes]
    image: Callable[[], RowArray] | None = None  # (n, d_image): given features, in place of pictures
    features: str = ""  # what given features are called
    pictures_sha256: str = ""  # of the pictures alone, so that another text does not make their features anew
    files: Sequence[Path] = ()  # the pictures in row order, where they are files
    digests: Sequence[bytes] = ()  # SHA-256 of each picture, where it is known
    words: Callable[[], Sequence[Sequence[str]]] | None = None  # of each item, where texts are words
    captions: Callable[[], Sequence[str]] | None = None  # the text of each item as a person reads it, where it is known
    text_weights: str = ""  # kind clip: the file of weights, if it is not its own
    text_kind: str = ""  # what makes the vectors of texts, where that may need an extra (`cmh.features.extras`)
    taken: str = "all"  # which captions of an item: all as one text, the first, or drawn ones (`catalogue.CAPTIONS`)
    starts: NDArray[np.int64] | None = None  # (n + 1,) where they are drawn: whose rows of `text()` are whose
    groups: Sequence[str] = ()  # near-duplicates of each item, by name ("": none); empty where no item has a group
    skipped: tuple[str, ...] = ()  # one line for each thing that was left out
    n_skipped: int = 0  # items that were left out
    notes: tuple[str, ...] = ()  # what a user should know about this split or text
    inputs: Sequence[str] = ()  # every file it was read from, where these are known: the same files, the same source

    @property
    def n_items(self) -> int:
        """Items that are there: those left out do not count."""
        return len(self.labels)

    def pictures(self, rows: Iterable[int] | None = None) -> Iterator[bytes]:
        """The encoded pictures of all rows, or of some, each read when it is asked for."""
        return map(self.picture, range(self.n_items) if rows is None else rows)

    @property
    def picture_digest(self) -> str:
        """Of what features of the pictures are computed from."""
        return self.pictures_sha256 or self.sha256

    def query_groups(self) -> NDArray[np.int64]:
        """Group of each test query `(n_query,)`, numbered from 0 in order of appearance; its own where it has none."""
        numbers: dict[str | int, int] = {}
        keys = ((self.groups[row] if self.groups else "") or row for row in self.split.query.tolist())
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
