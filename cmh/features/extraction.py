"""One pass over a dataset's pictures: through a frozen network to features, or decoded to pixels for training one.

Each picture is read once; an extraction that was killed goes on where it was.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    @property
    def digests(self) -> Sequence[bytes]: ...  # SHA-256 of each picture, 32 bytes; empty where they are not known

    def pictures(self, rows: Iterable[int], /) -> Iterable[bytes]:
        """The encoded pictures of some rows, one read a picture."""


def features(source: Pictures, name: str, weights: str, progress: bool) -> Path:
    """The cache entry with the features of all pictures in row order: `image.npy` `(n, d)`, and `digests.npy` `(n, 32)`
    where the pictures' digests are known.

    The same pictures in the same order are the same entry, of whatever dataset. Rows of pictures that another entry of
    the network has are copied from it.

    Raises DatasetError for an unknown network, bad weights, damaged pictures, and features that are not finite.
    """
    called = backbones.check(name, weights)
    family = f"features/{called}-{backbones.VERSION}"
    entry = f"{family}/{cache.key(source.picture_digest)}"

    def compute() -> cache.Contents:
        network = backbones.about(name)
        shapes = {"image": ((source.n_items, *network.shape), network.dtype)}
        gathered = cache.Gathered(_begun(entry), shapes, backbones.versions())
        image = gathered.arrays["image"]
        rows = _copy_known(cache.root() / family, source.digests, image, lambda: backbones.provenance(name, weights))
        # Without digests (the clip art) nothing is shared, and the last batch is computed as it always was: filled up,
        # the last digit of two of its pictures' features would be another, and all earlier numbers with it.
        extract = functools.partial(backbones.extract, name, weights=weights, filled=bool(source.digests))

        def store(some: NDArray[np.int64], batch: NDArray[np.float32]) -> None:
            if not np.isfinite(batch).all():
                raise DatasetError(f"{source.name}: the features of picture {some[0] + 1} and on are not finite")
            image[some] = batch

        _gather(source, rows, gathered, extract, store, called, progress)
        digests = np.frombuffer(b"".join(source.digests), np.uint8).reshape(-1, 32)
        # Only now: torchvision's weights may have been downloaded meanwhile.
        made = cache.Note(backbones.provenance(name, weights))
        return {**gathered.finished(), PROVENANCE: made, **({"digests": digests} if len(digests) else {})}

    path = cache.entry(entry, compute)
    shutil.rmtree(_begun(entry), ignore_errors=True)
    return path


def pixels(
    source: Pictures, name: str, rows: Mapping[str, NDArray[np.int64]], progress: bool, *, made_of: tuple[str, ...]
) -> Path:
    """The cache entry with the pictures as the network `name` wants them: for each part of `rows` a file
    `PART.npy` `(n, 3, side, side)` uint8 with these rows.

    `made_of`: digests of what decides the pictures and `rows`, for the entry's key.

    Raises DatasetError for damaged pictures.
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

        def store(some: NDArray[np.int64], batch: NDArray[np.uint8]) -> None:
            for part, row, picture in zip(part_of[some], row_of[some], batch, strict=True):
                targets[part][row] = picture.transpose(2, 0, 1)

        what, wanted = f"pixels, {about.side} × {about.side}", np.flatnonzero(row_of >= 0)
        _gather(source, wanted, gathered, lambda some: backbones.decoded(some, about), store, what, progress)
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


def _copy_known(
    family: Path, digests: Sequence[bytes], image: NDArray[np.float32], made: Callable[[], dict[str, str]]
) -> NDArray[np.int64]:
    """Fill the rows of `image` `(n, d)` whose pictures have features in an entry of `family`; the rows that are left.

    Rows of entries that were made with other versions are not mixed in: an entry has one provenance.
    """
    rows = np.arange(len(image))
    for path in sorted(family.glob("[!.]*/digests.npy")) if digests else ():
        try:
            there = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            continue  # removed meanwhile, or damaged
        places = {digest.tobytes(): place for place, digest in enumerate(there)}
        known = np.array([row for row in rows.tolist() if digests[row] in places], np.int64)
        if not len(known) or cache.damage(path.parent) or cache.note(path.parent, PROVENANCE) != made():
            continue
        source = np.array([places[digests[row]] for row in known.tolist()])
        features = np.load(path.with_name("image.npy"), mmap_mode="r", allow_pickle=False)
        for start in range(0, len(known), cache.ROWS_AT_ONCE):
            some = slice(start, start + cache.ROWS_AT_ONCE)
            image[known[some]] = features[source[some]]
        rows = np.setdiff1d(rows, known)
    return rows


def _gather(
    source: Pictures,
    rows: NDArray[np.int64],  # what is to be filled, ascending
    gathered: cache.Gathered,
    batches: Callable[[Iterable[bytes]], Iterator[NDArray[Kind]]],  # of what is stored for some pictures, in order
    store: Callable[[NDArray[np.int64], NDArray[Kind]], None],  # rows, batch
    what: str,
    progress: bool,
) -> None:
    """Fill the arrays from where the last start came to. Batches are `(b, …)`."""
    n, left = source.n_items, rows[rows >= gathered.done]
    done, position = gathered.done, 0
    bar = bars.bar(n, f"{source.name}: {what}", "pic", initial=n - len(left), terminal=progress)
    try:
        for batch in batches(_unchanged(source, left)):
            some = left[position : position + len(batch)]
            store(some, batch)
            position, done = position + len(batch), int(some[-1]) + 1
            bar.update(len(batch))
            if done - gathered.done >= SAVED_EVERY:
                gathered.save(done)
    finally:
        bar.close()
        gathered.save(done)
    assert position == len(left)


def _unchanged(source: Pictures, rows: NDArray[np.int64]) -> Iterator[bytes]:
    """The pictures of `rows`. Raises DatasetError where one is not what was hashed: it would spoil other datasets."""
    for row, raw in zip(rows.tolist(), source.pictures(rows.tolist()), strict=True):
        if source.digests and hashlib.sha256(raw).digest() != source.digests[row]:
            raise DatasetError(f"{source.name}: picture {row + 1} has changed since the dataset was read; start again")
        yield raw
