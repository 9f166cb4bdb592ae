"""A dataset in figures: what is in it, whether its split can work, what looks odd, and a sheet of its pictures."""

from __future__ import annotations

import collections
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh import files
from cmh.datasets.catalogue import CAPTIONS
from cmh.datasets.facts import FACTS
from cmh.datasets.source import Source
from cmh.errors import DatasetError
from cmh.features import extras, labelwords
from cmh.features.pictures import rgb
from cmh.seeding import derive

ROWS = 1024  # text vectors looked at at once
PAIRS = 2**24  # of queries and database items compared at once
LISTED = 10  # warnings of one kind
WORST = 5  # label-derived words shown
TOLD = 0.05  # of the training items may hold one before we warn
FAVOURED = 0.7  # warn when queries' groups are smaller than this part of the training items'
COLUMNS, LINES, SIDE, CAPTION = 8, 6, 128, 28  # of a contact sheet, in pictures and pixels


def report(source: Source) -> list[str]:
    """Lines for people: counts, labels, texts, relevance rate, warnings."""
    parts = counts, _notes, _labels, _sides, _texts, _telling, _relevance, _twins
    return [line for part in parts for line in part(source)]


def counts(source: Source) -> Iterator[str]:
    """Items, labels, split, and what was left out."""
    split = source.split
    yield (
        f"items {len(source.labels):,}, labels {len(source.label_names)} ({source.labels.sum(1).mean():.2f} an item)"
        + (f"; {source.n_skipped:,} bad items left out" if source.n_skipped else "")
    )
    yield (
        f"query {len(split.query):,}, validation {len(split.validation):,}, train {len(split.train):,},"
        f" further database items {len(split.other):,}"
    )
    yield f"split {split.sha256()[:12]}, dataset {source.sha256[:12]}"


def _notes(source: Source) -> Iterator[str]:
    for note in source.notes:
        yield f"note: {note}"


def _labels(source: Source) -> Iterator[str]:
    number = source.labels.sum(0, dtype=np.int64)
    order = np.argsort(-number, kind="stable")
    shown = [f"{source.label_names[column]} {number[column]:,}" for column in order]
    most, least = ", ".join(shown[:8]), ", ".join(shown[-4:]) if len(shown) > 8 else ""
    yield f"labels: {most}{' … ' + least if least else ''}"
    lonely = [source.label_names[column] for column in np.flatnonzero(~source.labels[source.split.train].any(0))]
    if lonely:
        yield f"warning: {len(lonely)} labels have no training item: {', '.join(lonely[:LISTED])}"


def _texts(source: Source) -> Iterator[str]:
    if source.words is None:
        matrix = source.text()
        yield f"text: given, {matrix.shape[1]:,} columns"
        return
    if source.starts is not None:
        each = np.diff(source.starts)
        yield f"captions: {each.sum():,}, {each.mean():.1f} an item ({each.min()} to {each.max()}); {CAPTIONS['draw']}"
    documents = source.words()
    lengths = np.array([len(document) for document in documents])
    train = collections.Counter(word for row in source.split.train for word in set(documents[row]))
    yield (
        f"text: {lengths.mean():.1f} words an item ({lengths.min()} to {lengths.max()}), {len(train):,} different words"
        f" in the training items; the most frequent: {', '.join(word for word, _ in train.most_common(8))}"
    )
    if extras.missing(source.text_kind):
        yield f"text vectors: not made, as kind {source.text_kind} needs an extra that is not installed"
        return
    matrix = source.text()
    empty = sum(int((~matrix[rows].any(1)).sum()) for rows in _blocks(matrix.shape[0]))
    what = "items" if source.starts is None else "captions"
    yield f"text vectors: {matrix.shape[1]:,} columns, {empty:,} {what} with none of them"
    if empty:
        yield f"warning: {empty:,} {what} have an empty text vector: no word of theirs is in the vocabulary"


def _sides(source: Source) -> Iterator[str]:
    """Whether queries are like what is trained on: group sizes and label shares."""
    parts = dict(zip(("query", "validation", "train"), source.split.parts(), strict=False))
    known: NDArray[np.bool_] = np.asarray(source.labels.any(1))  # of the others nobody knows what they show
    share = source.labels[known].mean(0, dtype=np.float64)
    labelled = {name: rows[known[rows]] for name, rows in parts.items() if known[rows].any()}
    far = {name: source.labels[rows].mean(0, dtype=np.float64) - share for name, rows in labelled.items()}
    name, column = max(((name, int(abs(d).argmax())) for name, d in far.items()), key=lambda at: abs(far[at[0]][at[1]]))
    yield (
        f"label shares: largest difference between a side and all items {abs(far[name][column]):.1%}"
        f" ({source.label_names[column]}: {share[column]:.1%} of all items, {share[column] + far[name][column]:.1%} of"
        f" {name})"
    )
    if not source.groups:
        return
    sizes = collections.Counter(source.groups)
    size = np.array([sizes[group] if group else 1 for group in source.groups])
    mean = {name: float(size[rows].mean()) for name, rows in parts.items() if len(rows)}
    yield (
        f"items in the group of an item, mean: {', '.join(f'{name} {value:.1f}' for name, value in mean.items())}"
        f" ({len(sizes):,} groups, the largest of {size.max():,})"
    )
    if {"query", "train"} <= mean.keys() and mean["query"] < FAVOURED * mean["train"]:
        yield (
            "warning: queries favour small groups, so they are unlike what is trained on; a split drawn with"
            " stratify: true deals group sizes out evenly"
        )


def _telling(source: Source) -> Iterator[str]:
    """Words that give a label away, counted in the training items alone."""
    documents = _training_words(source)
    if documents is None:
        yield "words that give labels away: not counted, as the text is numbers other than 0 and 1"
        return
    labels, n = source.labels[source.split.train], len(documents)
    named: set[str] = set()
    if source.words is not None:
        named = labelwords.by_stem({word for document in documents for word in document}, source.label_names)
    forms = labelwords.by_precision(
        [named.intersection(document) for document in documents], labels, min_items=1, precision=0, lift=0, coverage=0
    )
    rest = [[word for word in document if word not in named] for document in documents]
    precise = labelwords.by_precision(rest, labels, coverage=0)
    standing = [one for one in precise if one.coverage >= labelwords.COVERAGE]
    rule = f"on {labelwords.MIN_ITEMS} training items or more, {labelwords.PRECISION:.0%} of them with one label"
    for what, found in (
        ("that hold a label's name", forms),
        (f"that stand for a label ({rule}, and on {labelwords.COVERAGE:.0%} of all with that label)", standing),
        (f"as precise, but on fewer with that label ({rule})", [one for one in precise if one not in standing]),
    ):
        worst = [f"{one.word} ({source.label_names[one.label]} {one.precision:.2f} of {one.items:,})" for one in found]
        part = _holding(documents, found) / max(1, n)
        yield f"words {what}: {len(found):,}, in {part:.1%} of the training texts" + (
            f"; the worst: {', '.join(worst[:WORST])}" if worst else ""
        )
    told = _holding(documents, [*forms, *standing]) / max(1, n)
    if told > TOLD:
        cure = "remove what labels were made from"
        if source.words is not None and source.name not in FACTS:
            cure = f"set text: {{label_words: {'telling' if standing else 'drop'}}}"
        yield (
            f"warning: {told:.0%} of the training texts hold a word that gives a label away; if labels were made from"
            f" the texts, {cure}"
        )


def _holding(documents: list[list[str]], found: list[labelwords.Telling]) -> int:
    """How many documents hold one of the words, in either number."""
    words = {labelwords.singular(one.word) for one in found}
    return sum(any(labelwords.singular(word) in words for word in document) for document in documents)


def _training_words(source: Source) -> list[list[str]] | None:
    """Words of each training item; of a given 0/1 matrix the columns; None where the text is other numbers."""
    train = source.split.train
    if source.words is not None:
        every = source.words()
        return [list(every[row]) for row in train]
    matrix, documents = source.text(), []
    for rows in _blocks(len(train)):
        block = np.asarray(matrix[train[rows]])
        if not np.isin(block, (0, 1)).all():
            return None
        documents += [[f"column {column + 1}" for column in np.flatnonzero(row)] for row in block]
    return documents


def _blocks(n: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    for start in range(0, n, ROWS):
        yield np.arange(start, min(start + ROWS, n))


def _relevance(source: Source) -> Iterator[str]:
    split = source.split
    database = np.concatenate([split.train, split.other])
    database = database[source.labels[database].any(1)]  # the others are left out of evaluation
    for name, queries, answers in (
        ("test", split.query, np.concatenate([database, split.validation])),
        ("validation", split.validation, database),
    ):
        other = source.labels[answers].astype(np.float32).T
        shared, alone = 0, 0
        some = max(1, PAIRS // max(1, len(answers)))
        for start in range(0, len(queries), some):
            related = np.count_nonzero(source.labels[queries[start : start + some]].astype(np.float32) @ other, axis=1)
            shared += int(related.sum())
            alone += int((related == 0).sum())
        rate = shared / max(1, len(queries) * len(answers))
        yield f"relevance rate, {name}: {rate:.1%} of query and database pairs share a label"
        if len(queries) and shared == len(queries) * len(answers):
            yield f"warning: every database item is relevant to every {name} query: the MAP of any codes is 1"
        if alone:
            yield f"warning: {alone:,} {name} queries share no label with any database item: their AP is 0"


def _twins(source: Source) -> Iterator[str]:
    """Pictures with the same bytes: on two sides they are asked for and answered with."""
    if not source.digests:
        return
    split = source.split
    sides = np.empty(len(source.digests), dtype="U10")
    for side, rows in zip(("query", "validation", "database", "database"), split.parts(), strict=True):
        sides[rows] = side
    first: dict[bytes, list[int]] = {}
    for row, digest in enumerate(source.digests):
        first.setdefault(digest, []).append(row)
    groups = [rows for rows in first.values() if len(rows) > 1]
    torn = [rows for rows in groups if len({str(sides[row]) for row in rows}) > 1]
    total = sum(map(len, groups))
    yield f"pictures with the same bytes: {total:,} in {len(groups):,} sets, {len(torn):,} across splits"
    for same in torn[:LISTED]:
        names = ", ".join(f"{_picture(source, row)} ({sides[row]})" for row in same[:4])
        yield f"warning: the same picture on two sides of the split: {names}"
    if len(torn) > LISTED:
        yield f"… and {len(torn) - LISTED:,} more; give such items the same group"


def _picture(source: Source, row: int) -> str:
    return source.files[row].name if source.files else f"item {row}"


def contact_sheet(source: Source, path: Path) -> None:
    """A PNG of up to 48 pictures, drawn at random (always the same ones), with their labels.

    Raises DatasetError where there are no pictures, or the file cannot be written.
    """
    from PIL import Image, ImageDraw

    n = len(source.labels)
    chosen = np.sort(np.random.default_rng(derive(0, "contact sheet")).permutation(n)[: COLUMNS * LINES])
    lines = -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + 8) + 8, lines * (SIDE + CAPTION) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (row, raw) in enumerate(zip(chosen.tolist(), source.pictures(chosen.tolist()), strict=True)):
        picture = rgb(raw)
        picture.thumbnail((SIDE, SIDE))
        left, top = 8 + place % COLUMNS * (SIDE + 8), 8 + place // COLUMNS * (SIDE + CAPTION)
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        names = ", ".join(source.label_names[column] for column in np.flatnonzero(source.labels[row]))
        draw.text((left, top + SIDE + 2), names.encode("latin-1", "replace").decode("latin-1")[:22], "black")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    try:
        files.write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written ({error.strerror})") from error
