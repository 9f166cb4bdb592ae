"""An own dataset of items: pictures in files, texts as words, tags or a given matrix, labels by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh.cache import RowArray
from cmh.config import shown
from cmh.datasets import arrays, drawn, scan
from cmh.datasets.own import captions, item_list, labels
from cmh.datasets.own.item_list import Item
from cmh.datasets.own.rows import VERSION, Good, Rows, good
from cmh.datasets.own.settings import FILE, FOLLOW, Settings
from cmh.datasets.problems import Problems
from cmh.datasets.source import Source
from cmh.errors import DatasetError
from cmh.features import labelwords, text, wording


def source(folder: Path, wanted: Settings, file: Path, problems: Problems, *, progress: bool = False) -> Source | None:
    """The dataset whose items stand in `file`, without its bad items; None where there is nothing to go on with.

    Raises OSError where a file cannot be read.
    """
    listed = item_list.read(file, problems, wanted.form)
    if not listed:
        return None
    found, absorbed = captions.together(listed, problems, join=wanted.text.kind != "matrix")
    found = captions.taken(found, absorbed, wanted.text.captions, problems)
    root = wanted.images or folder
    seen = _pictures(root, found, absorbed, wanted, problems, progress)
    given = wanted.text.kind == "matrix"
    matrix = _text_matrix(folder, wanted, len(found), problems) if given else None
    left = good(_rows(found, absorbed, wanted, problems), wanted.draw, problems)
    if left is None or (given and matrix is None):
        return None
    chosen = [found[row] for row in left.kept]
    starts = drawn.starts([item.text for item in chosen]) if wanted.text.captions == "draw" else None
    pictures_sha256 = scan.digest(seen[row] for row in left.kept)
    paths = tuple(root / item.image for item in chosen)

    def words() -> tuple[list[list[str]], set[str]]:
        return _without_label_words(documents(chosen, wanted.stop_words), wanted.text.label_words, left)

    def vectors() -> RowArray:
        if matrix is not None:
            return arrays.Chosen(matrix.rows, left.kept, np.dtype(arrays.inspect(matrix).dtype))
        return _vectors(chosen, wanted, words, left, starts, progress)

    inside = [FILE, *filter(None, [wanted.text.file])]
    return Source(
        name=wanted.name,
        sha256=_digest(folder, wanted, chosen, left.label_names, pictures_sha256),
        label_names=tuple(left.label_names),
        split=left.split,
        labels=left.labels,
        text=vectors,
        picture=lambda row: paths[row].read_bytes(),
        files=paths,
        pictures_sha256=pictures_sha256,
        digests=tuple(seen[row].digest for row in left.kept),
        words=None if matrix is not None else lambda: words()[0],
        captions=lambda: [". ".join(item.text or item.tags) for item in chosen],
        text_weights=wanted.text.weights,
        text_kind=wanted.text.kind,
        taken=wanted.text.captions,
        starts=starts,
        groups=left.groups,
        skipped=tuple(problem.text for problem in problems.found),
        n_skipped=len(found) - len(absorbed) - len(left.kept),
        notes=tuple(problems.notes),
        inputs=(str(file), *(f"{folder}/{name}" for name in inside), *(f"{root}/{item.image}" for item in found)),
    )


def documents(chosen: Sequence[Item], without: Collection[str] = ()) -> list[list[str]]:
    """The words of each item, but for some."""
    return [
        [word for part in (*item.text, *item.tags) for word in text.tokens(part) if word not in without]
        for item in chosen
    ]


def _pictures(
    root: Path, found: Sequence[Item], absorbed: Collection[int], wanted: Settings, problems: Problems, progress: bool
) -> list[scan.Seen]:
    """What there is to be known of each item's picture; what is wrong with it is said."""
    if not root.is_dir():  # said already
        return [scan.Seen(b"", "")] * len(found)
    names = ["\0" if row in absorbed or not item.image else item.image for row, item in enumerate(found)]
    seen = scan.pictures(root, names, called=wanted.name, progress=progress, links=wanted.links)
    for row, (item, name, one) in enumerate(zip(found, names, seen, strict=True)):
        if one.problem and name != "\0":
            away = scan.LEAVES in one.problem
            line = f"{item.where}: image {shown(item.image)}: {one.problem}{_cure(root, one.problem)}"
            problems.item(row, "picture", line, optional=not away)
    return seen


def _cure(root: Path, fault: str) -> str:
    """What may help where pictures are not found in the folder `root`."""
    images = f"images: FOLDER in {FILE} says where the pictures lie"
    if scan.LEAVES in fault:
        return f"; {images}, or {FOLLOW}"
    if "does not exist" in fault or "inside the folder" in fault or "'..'" in fault:
        return f"; pictures are looked for in {root}, and {images}"
    return ""


def _rows(found: Sequence[Item], absorbed: Collection[int], wanted: Settings, problems: Problems) -> Rows:
    """The items' labels as columns of 0 and 1."""
    matrix, label_names = labels.of_items(found, wanted.labels, problems)
    names, groups, sides = zip(*((item.where, item.group, item.split) for item in found), strict=True)
    return Rows(names, matrix, label_names, groups, sides, absorbed)


def _digest(
    folder: Path, wanted: Settings, chosen: Sequence[Item], label_names: list[str], pictures_sha256: str
) -> str:
    """Of everything that the arrays are computed from."""
    options = wanted.text
    about = {
        "version": VERSION,
        "labels": label_names,
        "text": [
            {key: value for key, value in dataclasses.asdict(options).items() if (key, value) != ("captions", "all")},
            sorted(wanted.stop_words),
        ],  # as it was hashed before there was a choice of captions
        "matrix": scan.sha256(folder / options.file) if options.kind == "matrix" else "",
        "weights": scan.sha256(Path(options.weights)) if options.weights else "",
        **({"embedded": text.EMBEDDED} if options.kind in wording.EMBEDDINGS else {}),
    }
    digest = hashlib.sha256(json.dumps(about).encode())
    for item in chosen:
        digest.update(json.dumps([item.text, item.tags, item.labels]).encode())
    digest.update(pictures_sha256.encode())
    return digest.hexdigest()


def _without_label_words(some: list[list[str]], how: str, left: Good) -> tuple[list[list[str]], set[str]]:
    """Documents without the words that give labels away, as `text: label_words` asks for; and these words."""
    if how == "keep":
        return some, set()
    if how == "drop":
        dropped = labelwords.by_stem({word for document in some for word in document}, left.label_names)
    else:
        train = left.split.train
        labelled = train[left.labels[train].any(1)]  # of the others it is not known what they show
        dropped = labelwords.telling(some, left.label_names, left.labels, labelled)
    return [[word for word in document if word not in dropped] for document in some], dropped


def _vectors(
    chosen: Sequence[Item],
    wanted: Settings,
    words: Callable[[], tuple[list[list[str]], set[str]]],
    left: Good,
    starts: NDArray[np.int64] | None,
    progress: bool,
) -> RowArray:
    """Vectors of the texts `(n, d_text)`, as the `text:` part of dataset.yml asks for; with `starts` of each caption.

    The vocabulary is that of the items in any case, so that `draw` knows the words that `all` knows.
    """
    options, texts = wanted.text, chosen if starts is None else captions.each(chosen)
    if options.kind in wording.EMBEDDINGS:
        whole = [". ".join((*item.text, *item.tags)) for item in texts]
        return text.embeddings(whole, wanted.name, progress, kind=options.kind, weights=options.weights)
    some, dropped = words()
    known = text.vocabulary((some[row] for row in left.split.train), min_count=options.min_count, size=options.size)
    if not known:
        raise DatasetError(
            f"{wanted.name}: the vocabulary is empty: no word is in {options.min_count} training items;"
            f" in {FILE}, lower text: min_count, or look at stop_words and label_words"
        )
    train = left.split.train
    if starts is not None:
        some = [[word for word in one if word not in dropped] for one in documents(texts, wanted.stop_words)]
        train = drawn.rows_of(starts, train)
    return wording.bag(
        some,
        known,
        weight=options.weight,
        train=train,
        stop_words=sorted(wanted.stop_words),
        label_words=options.label_words,
        labels=left.label_names,
        telling=sorted(dropped - labelwords.by_stem(dropped, left.label_names)),
    )


def _text_matrix(folder: Path, wanted: Settings, n: int, problems: Problems) -> arrays.Given | None:
    """A given tag matrix, a row an item."""
    path = folder / wanted.text.file
    if not path.is_file():
        return None  # said already
    try:
        given = arrays.numbers(path, "" if path.suffix.lower() == ".npy" else "text")
        if len(given.shape) != 2 or given.shape[0] != n or not given.shape[1]:
            raise DatasetError(f"{given.where} is {given.shape}, but must be ({n}, d): a row for each item")
        if bad := arrays.inspect(given).not_finite:
            raise DatasetError(f"{given.where}: {len(bad):,} rows are not finite, the first is row {bad[0]}")
    except DatasetError as error:
        problems.add("text", error.problems[0])
        return None
    return given
