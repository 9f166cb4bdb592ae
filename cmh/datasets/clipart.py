"""The built-in dataset: 3,586 public-domain clip arts with titles, tags and 32 labels (see data/clipart64.md).

Text: title and tags without label words (labels were made from tags). Split by file stem, because pictures of one
series share it: 500 queries, 400 validation queries, the rest to train on.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh.datasets import Source
from cmh.datasets.split import by_groups
from cmh.errors import DatasetError
from cmh.features import text

ARCHIVE = Path(__file__).parent / "data" / "clipart64.zip"
N_QUERY, N_VALIDATION = 500, 400
VERSION = 2  # of how texts are made


def read() -> Source:
    """Items, labels and split; pictures and texts when they are asked for."""
    try:
        raw = ARCHIVE.read_bytes()
        archive = zipfile.ZipFile(io.BytesIO(raw))
        items = [json.loads(line) for line in archive.read("items.jsonl").splitlines()]
        label_names = archive.read("labels.txt").decode().split()
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DatasetError(f"{ARCHIVE}: the built-in dataset is damaged ({error}); install cmh again") from error
    split = by_groups([stem(item["source"]) for item in items], N_QUERY, N_VALIDATION)
    labels = np.zeros((len(items), len(label_names)), np.uint8)
    for row, item in enumerate(items):
        labels[row, [label_names.index(label) for label in item["labels"]]] = 1
    dropped = label_words(label_names)

    def bag() -> NDArray[np.float32]:
        documents = [words(item["title"], item["tags"], dropped) for item in items]
        return text.bag_of_words(documents, text.vocabulary([documents[row] for row in split.train]))

    def pictures() -> Iterator[bytes]:
        for item in items:
            yield archive.read(f"images/{item['image']}")

    sha256 = hashlib.sha256(raw + bytes([VERSION])).hexdigest()
    return Source("clipart", sha256, tuple(label_names), split, labels, bag, pictures)


def stem(source: str) -> str:
    """What pictures of one series share: the path up to its first number.

    >>> stem("animals/dog_03_jane")
    'animals/dog'
    """
    return re.sub(r"[_\-]?\d+.*$", "", source)


def label_words(labels: list[str]) -> set[str]:
    """Label words, their parts, both numbers of each, and `mapsym`, which is map_symbol in other letters."""
    parts = {part for label in labels for part in text.tokens(label)}
    return {"mapsym"} | parts | {f"{part}s" for part in parts} | {part.removesuffix("s") for part in parts}


def words(title: str, tags: list[str], dropped: set[str]) -> list[str]:
    """The text of an item."""
    return [word for part in (title, *tags) for word in text.tokens(part) if word not in dropped]
