"""Retrieval sheets: test queries with their nearest items, from the codes that a confirmation stored.

Pictures and words of the queries are looked up only where the study has opened the test split itself (its
`openings.jsonl` says so): nothing is shown here that its confirmation has not met.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh import config as configs
from cmh import datasets, ledger, protocols
from cmh.codes import Codes
from cmh.datasets.source import Source
from cmh.errors import DatasetError, RecordError
from cmh.features.pictures import rgb
from cmh.records import Record
from cmh.study.folder import read_study

QUERIES, FAILURES, NEAREST = 12, 6, 10  # of each direction, and items of each query
SIDE, WORDS = 72, 14  # of a thumbnail in pixels, of a text
MANY = 50_000  # items of a dataset without files beyond which no pictures are read: they come one after the other


@dataclasses.dataclass(frozen=True)
class Item:
    """A picture or a text with its labels."""

    text: str
    labels: str
    picture: str = ""  # a data: address; empty where texts are shown, or there are no pictures
    note: str = ""  # distance, or AP of a query
    relevant: bool = False


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Queries of one direction, each with its nearest items."""

    title: str
    pairs: Sequence[tuple[Item, Sequence[Item]]]


class Look:
    """How items of a dataset look: rows of `source` by their place among queries and database of the stored codes."""

    def __init__(self, source: Source, codes: Codes) -> None:
        split = source.split
        database = np.concatenate([split.train, split.other, split.validation])
        self.rows = {"query": split.query, "database": database[source.labels[database].any(axis=1)]}
        self.source = source
        for side, rows in self.rows.items():
            labels: NDArray[np.uint8] = getattr(codes, f"{side}_labels")
            if not np.array_equal(source.labels[rows], labels):
                raise DatasetError(f"{source.name}: its items are no longer those of the stored codes")
        self.words = source.words() if source.words is not None else None
        self.pictures: dict[int, str] = {}

    def load(self, rows: set[int]) -> None:
        """Make thumbnails of these rows of the dataset. Raises DatasetError where a picture cannot be read."""
        source = self.source
        if source.image is not None or (not source.files and source.n_items > MANY):
            return
        if source.files:
            raw = ((row, source.files[row].read_bytes()) for row in sorted(rows))
        else:
            last = max(rows, default=-1)
            raw = ((row, one) for row, one in enumerate(itertools.islice(source.pictures(), last + 1)) if row in rows)
        try:
            self.pictures |= {row: _thumbnail(encoded) for row, encoded in raw}
        except OSError as error:
            what = f"{error.filename or source.name}: a picture cannot be read ({error.strerror})"
            raise DatasetError(what) from error

    def item(self, side: str, place: int, *, picture: bool, note: str, relevant: bool = False) -> Item:
        """A query or an item of the database as a picture or as a text."""
        row = int(self.rows[side][place])
        names = ", ".join(self.source.label_names[column] for column in np.flatnonzero(self.source.labels[row]))
        words = self.words[row] if self.words is not None else []
        text = " ".join(words[:WORDS]) + (" …" if len(words) > WORDS else "")
        return Item("" if picture else text, names, self.pictures.get(row, "") if picture else "", note, relevant)


def look(place: Path, record: Record, codes: Codes) -> Look:
    """The dataset behind stored codes, as it is here.

    Raises DatasetError where it is not here, or another; RecordError where the study did not open its test split.
    """
    run = record.identity
    if not ledger.openings(place / ledger.OWN, (run.dataset, run.split_sha256)):
        raise RecordError(f"{place / ledger.OWN}: names no opening of this test split by the study")
    best = configs.load_yaml(place / "best.yml") if (place / "best.yml").is_file() else {}
    best = best if isinstance(best, dict) else {}
    name = read_study(place).dataset or run.dataset
    source = datasets.read(
        name,
        skip_bad=bool(best.get("skip_bad")),
        order=str(best.get("split", "torchcmh")),
        captions=str(best.get("captions", datasets.GIVEN)),
    )
    if (source.sha256, source.split.sha256()) != (run.dataset_sha256, run.split_sha256):
        raise DatasetError(f"{name}: is no longer the dataset, or the split, that the study was tested on")
    return Look(source, codes)


def sheets(found: Look, codes: Codes, sides: Sequence[protocols.Direction]) -> list[Sheet]:
    """A dozen queries spread evenly over the test split, and the worst failures: of each of the `sides`, image → text,
    then text → image.

    Raises DatasetError where a picture cannot be read.
    """
    plans = [plan for way, side in enumerate(sides) for plan in _plans(codes, side, way)]
    pictured = set[int]()
    for _, way, places, nearest, _ in plans:
        side, shown = ("query", places) if way == 0 else ("database", nearest)
        pictured |= set(found.rows[side][np.ravel(shown)].tolist())
    found.load(pictured)
    return [
        Sheet(
            title,
            [
                (
                    found.item("query", place, picture=way == 0, note=f"AP {ap[place]:.3f}"),
                    _answers(found, codes, way, place, row),
                )
                for place, row in zip(places.tolist(), nearest.tolist(), strict=True)
            ],
        )
        for title, way, places, nearest, ap in plans
    ]


Plan = tuple[str, int, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _plans(codes: Codes, side: protocols.Direction, way: int) -> list[Plan]:
    """Title, direction, places of queries, places of their nearest items `(n, NEAREST)`, and AP of all queries."""
    ap, n_query = side.ranked.average_precision(), len(codes.query_labels)
    spread = np.unique(np.linspace(0, n_query - 1, min(QUERIES, n_query)).round().astype(np.int64))
    groups = codes.query_groups if codes.query_groups is not None else np.arange(n_query)
    worst, seen = list[int](), set[int]()
    for place in np.argsort(ap, kind="stable").tolist():
        if side.ranked.n_relevant[place] and int(groups[place]) not in seen and len(worst) < FAILURES:
            worst.append(place)
            seen.add(int(groups[place]))  # one of a series: near-duplicates fail alike
    name = ("image → text", "text → image")[way]
    return [
        (f"{name}, {title}", way, places, np.array([_nearest(codes, way, place) for place in places.tolist()]), ap)
        for title, places in (("queries spread over the test split", spread), ("the worst failures", np.array(worst)))
        if len(places)
    ]


def _distances(codes: Codes, way: int, query: int) -> NDArray[np.int64]:
    """Of all items of the database `(n_database,)` from one query."""
    one, many = ((codes.query_image, codes.database_text), (codes.query_text, codes.database_image))[way]
    distances: NDArray[np.int64] = np.bitwise_count(one[query] ^ many).sum(axis=1, dtype=np.int64)
    return distances


def _nearest(codes: Codes, way: int, query: int) -> NDArray[np.int64]:
    """Places of the nearest items, ties in the order of the database."""
    return np.argsort(_distances(codes, way, query), kind="stable")[:NEAREST]


def _answers(found: Look, codes: Codes, way: int, query: int, places: Sequence[int]) -> list[Item]:
    distances = _distances(codes, way, query)
    relevant = (codes.query_labels[query] & codes.database_labels[places]).any(axis=1)
    return [
        found.item("database", place, picture=way == 1, note=f"distance {distances[place]}", relevant=bool(hit))
        for place, hit in zip(places, relevant, strict=True)
    ]


def _thumbnail(encoded: bytes) -> str:
    """A picture as a small one in a `data:` address."""
    picture = rgb(encoded)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
