"""The files in which repositories of hashing on CLIP keep a dataset: `index.mat`, `caption.mat` or `.txt`, `label.mat`.

* `index`: a path for each item, as whoever wrote the file had them: in a char matrix padded with blanks.
* `caption`: a padded char matrix with a text an item (MITH); one of three dimensions with as many texts for each item
  (DCHMT's MIRFlickr); or a cell for each item that holds a char matrix, a text a line (DCHMT's and DSPH's COCO, whose
  photos have five captions or more). `caption.txt` has a line an item (their NUS-WIDE).
* `label` (MITH) or `category` (the others): items × labels, 0 and 1.

`cmh.datasets convert` makes a dataset of one's own of them, `--split dchmt | mith | dsph` reads those of a benchmark.
All that is wrong with the files is said at once, and nothing of them is kept in the cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cmh.config import shown
from cmh.datasets import arrays, mat
from cmh.datasets.facts import Facts
from cmh.datasets.mat73 import Transposed
from cmh.datasets.official import Parts
from cmh.datasets.problems import EXAMPLES
from cmh.errors import DatasetError
from cmh.features.text import tokens

VARIABLES = {"pictures": ("index",), "texts": ("caption", "captions"), "labels": ("label", "category")}
FILES = {"pictures": ("index.mat",), "texts": ("caption.mat", "caption.txt"), "labels": ("label.mat",)}
UNTAGGED = "123456"  # what DCHMT's and DSPH's NUS-WIDE has as the text of a photo without a tag

Read = TypeVar("Read")
Place = tuple[Path, str]  # a file, and a variable in it; "": a file of lines


@dataclasses.dataclass(frozen=True)
class Lists:
    """What the files hold, a row an item."""

    pictures: Sequence[str]  # paths of others
    texts: Sequence[Sequence[str]]  # without empty ones
    labels: NDArray[np.uint8]  # (n, c)


def there(folder: Path) -> bool:
    """Whether one of the files is."""
    return any((folder / name).is_file() for names in FILES.values() for name in names)


def missing(folder: Path) -> list[str]:
    """What is not there, a line a file."""
    return [
        f"{folder / names[0]}{''.join(f' or {name}' for name in names[1:])} (variable {' or '.join(VARIABLES[role])})"
        for role, names in FILES.items()
        if _file(folder, role) is None
    ]


def parts(folder: Path, root: Path, facts: Facts) -> Parts:
    """The benchmark that the files in `folder` hold; its photos lie under `root`, wherever the files say.

    Raises DatasetError that names everything that is wrong.
    """
    places: dict[str, Place] = {}
    problems: list[str] = []
    for role in FILES:
        path = _file(folder, role)
        assert path is not None  # `missing` has been asked
        try:
            places[role] = path, "" if path.suffix == ".txt" else _variable(path, VARIABLES[role])
        except DatasetError as error:
            problems += error.problems
    lists = None
    try:
        lists = read(places, facts.items, facts.labels)
    except DatasetError as error:
        problems += error.problems
    pictures: list[str] = []
    if lists is not None:
        if facts.tags_official is None and (empty := [row for row, some in enumerate(lists.texts) if not some]):
            problems.append(f"{_called(*places['texts'])}: {_rows(empty, 'without a caption')}")
        pictures = _photos(root, lists.pictures)
        if gone := [row for row, name in enumerate(pictures) if not name]:
            named = ", ".join(shown(lists.pictures[row]) for row in gone[:EXAMPLES])
            problems.append(
                f"{_called(*places['pictures'])}: {len(gone):,} of {len(pictures):,} photos are nowhere in {root}:"
                f" {named}{', …' * (len(gone) > EXAMPLES)}; they are looked for by their files' names"
            )
    if problems or lists is None:
        raise DatasetError(*problems, heading=f"{facts.title} in {folder} cannot be used")
    said = json.dumps(lists.texts)
    return Parts(
        n_all=len(pictures),
        pictures=pictures,
        labels=lists.labels,
        label_names=[f"label {number}" for number in range(1, facts.labels + 1)],
        n_tags=None,
        digest=hashlib.sha256((said + json.dumps(pictures)).encode()).hexdigest(),
        captions=lists.texts,
        words_of=tokens if facts.tags_official is None else str.split,
    )


def _file(folder: Path, role: str) -> Path | None:
    return next((folder / name for name in FILES[role] if (folder / name).is_file()), None)


def _variable(path: Path, known: Sequence[str]) -> str:
    found = mat.variables(path)
    if name := next((name for name in known if name in found), ""):
        return name
    raise DatasetError(f"{path}: has no variable {' or '.join(known)}; found {', '.join(sorted(found)) or 'none'}")


def _photos(root: Path, names: Sequence[str]) -> list[str]:
    """The path under `root` of each photo, found by the name of its file; empty where there is none."""
    files = [name.rpartition("/")[2] for name in names]
    wanted, places = set(files), dict[str, str]()
    for folder, folders, inside in os.walk(root, followlinks=True):
        folders.sort()
        for name in wanted.intersection(inside):
            places.setdefault(name, os.path.relpath(f"{folder}/{name}", root))
    return [places.get(name, "") for name in files]


def read(places: Mapping[str, Place], n_items: int | None = None, n_labels: int | None = None) -> Lists:
    """What the files hold. With `n_items` and `n_labels` that is what must be there.

    Raises DatasetError that names everything that is wrong.
    """
    problems: list[str] = []

    def tried(role: str, reads: Callable[[Path, str], Read]) -> Read | None:
        if role not in places:  # said already
            return None
        try:
            return reads(*places[role])
        except DatasetError as error:
            problems.extend(error.problems)
            return None

    pictures, texts, labels = tried("pictures", _paths), tried("texts", _texts), tried("labels", _labels)
    found = {"pictures": pictures, "texts": texts, "labels": labels}
    counts = {role: len(some) for role, some in found.items() if some is not None}
    wrong = {role: n for role, n in counts.items() if n != n_items} if n_items is not None else {}
    if wrong or len(set(counts.values())) > 1:
        listed = ", ".join(f"{_called(*places[role])} {n:,}" for role, n in counts.items())
        wanted = "" if n_items is None else f"; {n_items:,} are published"
        problems.append(f"the numbers of rows disagree: {listed}{wanted}")
    if labels is not None and n_labels is not None and labels.shape[1] != n_labels:
        problems.append(f"{_called(*places['labels'])}: has {labels.shape[1]:,} labels, but {n_labels:,} are published")
    if pictures is not None and (empty := [row for row, name in enumerate(pictures) if not name]):
        problems.append(f"{_called(*places['pictures'])}: {_rows(empty, 'without a path')}")
    if problems or pictures is None or texts is None or labels is None:
        raise DatasetError(*problems)
    return Lists(pictures, texts, labels)


def _rows(rows: Sequence[int], what: str) -> str:
    listed = ", ".join(map(str, rows[:EXAMPLES]))
    return f"{len(rows):,} items {what}: row{'s' * (len(rows) > 1)} {listed}{', …' * (len(rows) > EXAMPLES)}"


def _called(path: Path, variable: str) -> str:
    return f"{path.name}: {variable}" if variable else path.name


def _paths(path: Path, variable: str) -> list[str]:
    rows = mat.texts(path, variable)
    parts = (
        "/".join(part.strip("/") if number else part for number, part in enumerate(filter(None, row))) for row in rows
    )
    return [name.replace("\\", "/") for name in parts]


def _texts(path: Path, variable: str) -> list[list[str]]:
    if not variable:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            why = "is not UTF-8; save it as UTF-8" if isinstance(error, ValueError) else f"cannot be read ({error})"
            raise DatasetError(f"{path}: {why}") from error
        rows: Sequence[Sequence[str]] = [(line.strip(),) for line in (lines if lines[-1] else lines[:-1])]
    else:
        rows = mat.texts(path, variable)
    return [[text for text in row if text and text != UNTAGGED] for row in rows]


def _labels(path: Path, variable: str) -> NDArray[np.uint8]:
    value = mat.numbers(path, variable)
    if isinstance(value, Transposed):
        values = np.concatenate([np.zeros((0, *value.shape[1:])), *value.blocks(arrays.ROWS)])
    else:
        values = value if isinstance(value, np.ndarray) else value.toarray()
    if values.ndim != 2 or not ((values == 0) | (values == 1)).all():
        odd = np.unique(values[(values != 0) & (values != 1)])[:EXAMPLES]
        seen = f", holds {', '.join(shown(one) for one in odd.tolist())}" if len(odd) else ""
        shape = " × ".join(map(str, values.shape))
        raise DatasetError(f"{_called(path, variable)}: must be labels (items, labels) of 0 and 1; is {shape}{seen}")
    return values.astype(np.uint8)
