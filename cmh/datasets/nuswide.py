"""NUS-WIDE as its site distributes it: tags, ground truth, list of pictures, photos.

`Groundtruth/AllLabels/Labels_CONCEPT.txt` (0 or 1 a line), `NUS_WID_Tags/AllTags1k.txt` (1,000 columns of 0 and 1; or
`AllTags81.txt`), `ImageList/Imagelist.txt` (`actor\\0001_2124494179.jpg`), photos under `images/` or `Flickr/`. The
most frequent concepts are taken, and the photos that have one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh import cache
from cmh.datasets import arrays, scan
from cmh.datasets.facts import Facts
from cmh.datasets.official import Parts, first
from cmh.errors import DatasetError

LABELS = ("Groundtruth/AllLabels", "AllLabels")
TAGS = tuple(f"{folder}{name}" for name in ("AllTags1k.txt", "AllTags81.txt") for folder in ("NUS_WID_Tags/", ""))
LIST = ("ImageList/Imagelist.txt", "Imagelist.txt")
PHOTOS = ("images", "Flickr")
PIECE = 2**24  # bytes of a text matrix at once


def missing(root: Path, facts: Facts) -> list[str]:
    """What is not there of this distribution."""
    wanted = (
        (LABELS, "/ (Labels_animal.txt …, 0 or 1 a line)"),
        (TAGS, f" ({facts.n_official:,} lines of {facts.tags:,} columns)"),
        (LIST, " (a picture a line)"),
        (PHOTOS, "/ (the photos, in the folders that Imagelist.txt names, or all in one)"),
    )
    return [f"{root / names[0]}{what}" for names, what in wanted if first(root, *names) is None]


def read(root: Path, facts: Facts) -> Parts:
    """Photos, tags and labels. Raises DatasetError."""
    label_folder, tag_file, list_file, photo_folder = (first(root, *names) for names in (LABELS, TAGS, LIST, PHOTOS))
    assert label_folder is not None
    assert tag_file is not None
    assert list_file is not None
    assert photo_folder is not None
    lines = list_file.read_text("latin-1").splitlines()
    names = [line.strip().replace("\\", "/") for line in lines if line.strip()]
    problems: list[str] = []
    columns: dict[str, NDArray[np.uint8]] = {}
    for file in sorted(label_folder.glob("Labels_*.txt")):
        try:
            column = _digits(file.read_bytes(), file)
            if len(column) != len(names):
                raise DatasetError(f"{file}: has {len(column):,} lines for {len(names):,} pictures in {list_file.name}")
            columns[file.stem.removeprefix("Labels_")] = column
        except DatasetError as error:
            problems += error.problems
    if len(columns) < facts.labels:
        problems.append(
            f"{label_folder}: holds {len(columns)} usable files Labels_*.txt, but {facts.labels} are needed"
        )
    if problems:
        raise DatasetError(*problems, heading=f"{facts.title} in {root} cannot be used")
    frequent = sorted(columns, key=lambda name: (-int(columns[name].sum()), name))[: facts.labels]
    concepts = sorted(frequent)
    labels = np.stack([columns[name] for name in concepts], 1)
    kept = np.flatnonzero(labels.any(1))
    with tag_file.open("rb") as handle:
        width = len(handle.readline().split())
    tags = arrays.unpacked(
        tag_file, "text", (len(names), width), np.dtype(np.uint8), lambda: _rows(tag_file, len(names), width)
    )
    if facts.tagged:
        kept = arrays.with_some(tags, kept)
    inside = str(photo_folder.relative_to(root))
    flat = not any((photo_folder / name).exists() for name in names[:100])
    narrow = width != facts.tags and tag_file.name == "AllTags81.txt"
    return Parts(
        n_all=len(names),
        pictures=[f"{inside}/{Path(names[row]).name if flat else names[row]}" for row in kept],
        labels=labels[kept],
        label_names=concepts,
        n_tags=None if narrow else width,
        text=lambda: arrays.Chosen(tags, kept, np.dtype(np.float16)),
        digest=scan.sha256(tag_file),
        notes=(f"texts are the {width} tags of AllTags81.txt, not the published {facts.tags:,}",) if narrow else (),
    )


def _digits(raw: bytes, file: Path) -> NDArray[np.uint8]:
    """The 0s and 1s `(n,)` of a text that holds nothing else beside space."""
    codes = np.frombuffer(raw, np.uint8)
    digit = (codes == ord("0")) | (codes == ord("1"))
    if not (digit | (codes <= ord(" "))).all():
        raise DatasetError(f"{file}: holds something else than 0 and 1")
    values: NDArray[np.uint8] = codes[digit] - np.uint8(ord("0"))
    return values


def _rows(file: Path, n: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """The rows of a text matrix `(n, width)`, in blocks of at most `cache.ROWS_AT_ONCE`."""
    left, done = np.zeros(0, np.uint8), 0
    with file.open("rb") as handle:
        while done < n:
            rows = min(cache.ROWS_AT_ONCE, n - done)
            pieces = [left]
            have = len(left)
            while have < rows * width and (raw := handle.read(PIECE)):
                pieces.append(_digits(raw, file))
                have += len(pieces[-1])
            left = np.concatenate(pieces)
            if len(left) < rows * width:
                raise DatasetError(f"{file}: ends after {done + len(left) // max(width, 1):,} of {n:,} rows")
            yield left[: rows * width].reshape(rows, width)
            left, done = left[rows * width :], done + rows
        if len(left) or _digits(handle.read(PIECE), file).size:
            raise DatasetError(f"{file}: has more than {n:,} rows")
