"""One pass over a dataset's pictures: through a frozen network to features, or decoded to pixels for training one.

Each picture is read once; an extraction that was killed goes on where it was.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cmh import bars, cache
from cmh.errors import DatasetError
from cmh.features import backbones

PROVENANCE = "provenance"  # the note of an entry that says with what its arrays were made
SAVED_EVERY = 1024  # pictures; what a killed extraction loses at most

Kind = TypeVar("Kind", bound=np.generic)


class Pictures(Protocol):
    """What is needed of a dataset; `cmh.datasets.source.Source` has it."""

    @property
    def name(self) -> str: ...  # of the dataset, for folders and progress bars
    @property
    def n_items(self) -> int: ...
    @property
    def picture_digest(self) -> str: ...  # of the pictures' bytes: the same pictures, the same features

    def pictures(self) -> Iterable[bytes]:
        """The encoded pictures in row order, one read a picture."""


def features(source: Pictures, name: str, weights: str, progress: bool) -> Path:
    """The cache entry with the features of all pictures in row order, `image.npy` `(n, d)`.

    Raises DatasetError for an unknown network, bad weights, damaged pictures, a wrong number of them, and features
    that are not finite.
    """
    called = backbones.check(name, weights)
    entry = f"features/{source.name}/{cache.key(source.picture_digest, called, backbones.VERSION)}"

    def compute() -> cache.Contents:
        shape = (source.n_items, backbones.about(name).dim)
        gathered = cache.Gathered(_begun(entry), {"image": (shape, np.float32)}, backbones.versions())

        def store(first: int, batch: NDArray[np.float32]) -> None:
            if not np.isfinite(batch).all():
                raise DatasetError(f"{source.name}: the features of picture {first + 1} and on are not finite")
            gathered.arrays["image"][first : first + len(batch)] = batch

        _gather(source, gathered, lambda some: backbones.extract(name, some, weights=weights), store, called, progress)
        # Only now: torchvision's weights may have been downloaded meanwhile.
        return {**gathered.finished(), PROVENANCE: cache.Note(backbones.provenance(name, weights))}

    path = cache.entry(entry, compute)
    shutil.rmtree(_begun(entry), ignore_errors=True)
    return path


def pixels(
    source: Pictures, name: str, rows: Mapping[str, NDArray[np.int64]], progress: bool, *, made_of: tuple[str, ...]
) -> Path:
    """The cache entry with the pictures as the network `name` wants them: for each part of `rows` a file
    `PART.npy` `(n, 3, side, side)` uint8 with these rows.

    `made_of`: digests of what decides the pictures and `rows`, for the entry's key.

    Raises DatasetError for damaged pictures and a wrong number of them.
    """
    about = backbones.about(name)
    prepared = about.side, about.shorter, int(about.bicubic), backbones.VERSION
    entry = f"pixels/{source.name}/{cache.key(*made_of, *prepared)}"
    part_of, row_of = np.zeros(source.n_items, np.int64), np.full(source.n_items, -1, np.int64)
    for number, index in enumerate(rows.values()):
        part_of[index], row_of[index] = number, np.arange(len(index))

    def compute() -> cache.Contents:
        decoder = {"pillow": backbones.versions()["pillow"]}
        shapes = {part: ((len(index), 3, about.side, about.side), np.uint8) for part, index in rows.items()}
        gathered = cache.Gathered(_begun(entry), shapes, decoder)
        targets = list(gathered.arrays.values())

        def store(first: int, batch: NDArray[np.uint8]) -> None:
            here = slice(first, first + len(batch))
            for part, row, picture in zip(part_of[here], row_of[here], batch, strict=True):
                if row >= 0:
                    targets[part][row] = picture.transpose(2, 0, 1)

        what = f"pixels, {about.side} × {about.side}"
        _gather(source, gathered, lambda some: backbones.decoded(some, about), store, what, progress)
        return {**gathered.finished(), PROVENANCE: cache.Note(decoder)}

    path = cache.entry(entry, compute)
    shutil.rmtree(_begun(entry), ignore_errors=True)
    return path


def provenance(folder: Path, pixel_folder: Path | None = None) -> dict[str, str]:
    """With what the features of an entry, and the pixels of another, were made: as noted then, whatever is there now.

    Entries of earlier versions have no note: then the answer says so.
    """
    made = cache.note(folder, PROVENANCE) or {"unknown": "features made before provenance was kept"}
    if pixel_folder is not None:
        decoder = cache.note(pixel_folder, PROVENANCE) or {"pillow": "unknown: decoded before provenance was kept"}
        made |= {f"pixels_{key}": value for key, value in decoder.items()}
    return made


def _begun(entry: str) -> Path:
    return cache.root() / f"{entry}.begun"


def _gather(
    source: Pictures,
    gathered: cache.Gathered,
    batches: Callable[[Iterable[bytes]], Iterator[NDArray[Kind]]],  # of what is stored for some pictures, in order
    store: Callable[[int, NDArray[Kind]], None],  # row of the first one, batch
    what: str,
    progress: bool,
) -> None:
    """Fill the arrays from where the last start came to. Batches are `(b, …)`."""
    n, row = source.n_items, gathered.done
    bar = bars.bar(n, f"{source.name}: {what}", "pic", initial=row, terminal=progress)
    try:
        for batch in batches(itertools.islice(source.pictures(), row, None)):
            if row + len(batch) > n:
                raise DatasetError(f"{source.name}: more than {n} pictures for {n} items")
            store(row, batch)
            row += len(batch)
            bar.update(len(batch))
            if row - gathered.done >= SAVED_EVERY:
                gathered.save(row)
    finally:
        bar.close()
        gathered.save(row)
    if row != n:
        raise DatasetError(f"{source.name}: {row} pictures for {n} items")
