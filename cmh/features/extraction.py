"""One pass over a dataset's pictures: through a frozen network to features, or decoded to pixels for training one.

Each picture is read once; an extraction that was killed goes on where it was.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cmh.errors import DatasetError
from cmh.features import backbones, cache

if TYPE_CHECKING:
    from cmh.datasets import Source

PROVENANCE = "provenance"  # the note of an entry that says with what its arrays were made
SAVED_EVERY = 1024  # pictures; what a killed extraction loses at most


def features(source: Source, name: str, weights: str, progress: bool) -> Path:
    """The cache entry with the features of all pictures in row order, `image.npy` (n, d)."""
    called = backbones.check(name, weights)
    content = source.pictures_sha256 or source.sha256
    entry = f"features/{source.name}/{cache.key(content, called, backbones.VERSION)}"
    n = len(source.labels)

    def compute() -> cache.Arrays:
        gathered = cache.Gathered(
            _begun(entry), {"image": ((n, backbones.REGISTRY[name].dim), np.float32)}, backbones.versions()
        )

        def store(first: int, batch: NDArray[Any]) -> None:
            if not np.isfinite(batch).all():
                raise DatasetError(f"{source.name}: the features of picture {first + 1} and on are not finite")
            gathered.arrays["image"][first : first + len(batch)] = batch

        _gather(source, gathered, lambda some: backbones.extract(name, some, weights=weights), store, called, progress)
        # Only now: torchvision's weights may have been downloaded meanwhile.
        return {**gathered.finished(), PROVENANCE: cache.Note(backbones.provenance(name, weights))}

    path = cache.entry(entry, compute)
    shutil.rmtree(_begun(entry), ignore_errors=True)
    return path


def pixels(source: Source, name: str, rows: Mapping[str, NDArray[np.int64]], progress: bool) -> Path:
    """The cache entry with the pictures as the network `name` wants them: for each part of `rows` a file
    `PART.npy` (n, 3, side, side) uint8 with these rows."""
    about = backbones.REGISTRY[name]
    split = source.split.sha256()
    prepared = about.side, about.shorter, int(about.bicubic), backbones.VERSION
    entry = f"pixels/{source.name}/{cache.key(source.sha256, split, *prepared)}"
    n = len(source.labels)
    part_of, row_of = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    for number, index in enumerate(rows.values()):
        part_of[index], row_of[index] = number, np.arange(len(index))

    def compute() -> cache.Arrays:
        decoder = {"pillow": backbones.versions()["pillow"]}
        shapes = {part: ((len(index), 3, about.side, about.side), np.uint8) for part, index in rows.items()}
        gathered = cache.Gathered(_begun(entry), shapes, decoder)
        targets = list(gathered.arrays.values())

        def store(first: int, batch: NDArray[Any]) -> None:
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
    source: Source,
    gathered: cache.Gathered,
    batches: Any,  # pictures → batches of what is stored for them, in order
    store: Any,  # (row of the first one, batch)
    what: str,
    progress: bool,
) -> None:
    from tqdm import tqdm

    n, row = len(source.labels), gathered.done
    bar = tqdm(total=n, initial=row, desc=f"{source.name}: {what}", unit="pic", disable=not progress, leave=False)
    left: Iterable[bytes] = itertools.islice(source.pictures(), row, None)
    results: Iterator[NDArray[Any]] = batches(left)
    try:
        for batch in results:
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
