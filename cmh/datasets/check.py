"""A dataset in figures: what is in it, whether its split can work, what looks odd, and a sheet of its pictures."""

from __future__ import annotations

import collections
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cmh import files
from cmh.datasets import Source
from cmh.errors import DatasetError
from cmh.features import text
from cmh.features.pictures import rgb
from cmh.seeding import derive

ROWS = 1024  # text vectors looked at at once
PAIRS = 2**24  # of queries and database items compared at once
LISTED = 10  # warnings of one kind
COLUMNS, LINES, SIDE, CAPTION = 8, 6, 128, 28  # of a contact sheet, in pictures and pixels


def report(source: Source) -> list[str]:
    """Lines for people: counts, labels, texts, relevance rate, warnings."""
    return [*counts(source), *_labels(source), *_texts(source), *_relevance(source), *_twins(source)]


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
    documents = source.words()
    lengths = np.array([len(document) for document in documents])
    train = collections.Counter(word for row in source.split.train for word in set(documents[row]))
    yield (
        f"text: {lengths.mean():.1f} words an item ({lengths.min()} to {lengths.max()}), {len(train):,} different words"
        f" in the training items; the most frequent: {', '.join(word for word, _ in train.most_common(8))}"
    )
    matrix = source.text()
    empty = sum(int((~matrix[rows].any(1)).sum()) for rows in _blocks(len(documents)))
    yield f"text vectors: {matrix.shape[1]:,} columns, {empty:,} items with none of them"
    if empty:
        yield f"warning: {empty:,} items have an empty text vector: no word of theirs is in the vocabulary"
    own = [set(text.label_words([name])) for name in source.label_names]
    telling = sum(
        any(own[column].intersection(document) for column in np.flatnonzero(source.labels[row]))
        for row, document in enumerate(documents)
    )
    if telling > len(documents) / 10:
        yield (
            f"warning: {telling / len(documents):.0%} of the texts hold a word of their own labels; if labels were made"
            " from the texts, set text: {label_words: drop}"
        )


def _blocks(n: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    for start in range(0, n, ROWS):
        yield np.arange(start, min(start + ROWS, n))


def _relevance(source: Source) -> Iterator[str]:
    split = source.split
    database = np.concatenate([split.train, split.other])
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
    for place, (row, raw) in enumerate(_chosen_pictures(source, chosen)):
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


def _chosen_pictures(source: Source, chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[tuple[int, bytes]]:
    if source.files:
        for row in chosen.tolist():
            yield row, source.files[row].read_bytes()
        return
    wanted = set(chosen.tolist())
    for row, raw in enumerate(itertools.islice(source.pictures(), int(chosen.max(initial=-1)) + 1)):
        if row in wanted:
            yield row, raw
