"""Words that give a label away: forms and compounds of its name, and words that in the training items stand for it.

Where labels were made from tags or folders, the texts hold what the labels were made from, and a method would read a
label off a text in place of learning what is in it.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cmh.features import text

MIN_ITEMS, PRECISION, LIFT, COVERAGE = 10, 0.9, 2.0, 0.1
SHORT = 3  # letters of a label's word that only its own singular and plural are forms of (map: maps, not maple)
REST = 3  # letters that must stand before a label's word at the end of a compound (appicon, not sparrow)
ENDINGS = ("ing", "ion", "er", "or", "y", "e")  # a label's word without one, if STEM letters stay, is its stem
STEM = 5


@dataclasses.dataclass(frozen=True)
class Telling:
    """A word, and the label that nearly all training items with it have."""

    word: str
    label: int  # column
    items: int  # training items that hold the word
    precision: float  # the part of them that has the label
    coverage: float  # the part of the label's training items that holds the word


def singular(word: str) -> str:
    """Without the ending of an English plural.

    >>> [singular(word) for word in ("signs", "berries", "boxes", "clothes", "glass", "bus", "maps")]
    ['sign', 'berry', 'box', 'clothe', 'glass', 'bus', 'map']
    """
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("xes", "ches", "shes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) and len(word) > SHORT else word


def stem(word: str) -> str:
    """What forms of a label's word begin with.

    >>> [stem(word) for word in ("buildings", "geography", "computer", "transport", "flower", "cities")]
    ['build', 'geograph', 'comput', 'transport', 'flower', 'city']
    """
    one = singular(word)
    return next((cut for end in ENDINGS if len(cut := one.removesuffix(end)) >= STEM and cut != one), one)


def by_stem(words: Iterable[str], labels: Iterable[str]) -> set[str]:
    """Those of `words` that hold a word of a label: its singular or plural; for words of more than three letters also
    what begins with its stem (derived words and compounds), and what ends in it after at least three letters.

    >>> sorted(by_stem(["maps", "maple", "transportation", "iconset", "appicon", "sparrow"], ["map", "icon", "arrow"]))
    ['appicon', 'iconset', 'maps']
    """
    parts = {part for label in labels for part in text.tokens(label)}
    ones = {singular(part) for part in parts}
    begins = tuple({stem(part) for part in parts if len(singular(part)) > SHORT})
    ends = tuple(one for one in ones if len(one) > SHORT)

    def holds(word: str) -> bool:
        one = singular(word)
        if word in parts or one in ones or (begins and word.startswith(begins)):
            return True
        return any(one.endswith(end) and len(one) >= len(end) + REST for end in ends)

    return {word for word in words if holds(word)}


def by_precision(
    documents: Sequence[Collection[str]],
    labels: NDArray[np.uint8],
    *,
    min_items: int = MIN_ITEMS,
    precision: float = PRECISION,
    lift: float = LIFT,
    coverage: float = COVERAGE,
) -> list[Telling]:
    """Words of the training `documents` (labels `(n, c)` 0/1) that stand for a label.

    A word is one if

    - at least `min_items` documents hold it, and at least the part `precision` of those has one label,
    - which is at least `lift` times the label's share of all documents (what nearly all have is given away by nothing),
    - and at least the part `coverage` of the label's documents holds it. That is what tells another name of the label,
      or of the collection or folder that the label was made from, from a word for one thing among others with the
      label (violin for music), which may be as precise.

    Those that give away most items come first.
    """
    found = collections.defaultdict(list)
    for row, document in enumerate(documents):
        for word in set(document):
            found[word].append(row)
    total = labels.sum(0, dtype=np.int64)
    telling = []
    for word, rows in found.items():
        if len(rows) < min_items:
            continue
        both = labels[rows].sum(0, dtype=np.int64)
        fits = (both >= precision * len(rows)) & (both * len(documents) >= lift * total * len(rows))
        fits &= (both >= coverage * total) & (both > 0)
        if fits.any():
            label = max(np.flatnonzero(fits).tolist(), key=lambda one: (both[one], -total[one]))
            part, covered = float(both[label]) / len(rows), float(both[label]) / float(total[label])
            telling.append(Telling(word, label, len(rows), part, covered))
    return sorted(telling, key=lambda one: (-one.items * one.precision, one.word))


def telling(
    documents: Sequence[Sequence[str]],
    label_names: Iterable[str],
    labels: NDArray[np.uint8],
    train: NDArray[np.int64],
) -> set[str]:
    """Words to leave out of `documents`: by stem, and by precision in the rows `train` `(n_train,)`, in either number.

    `labels` `(n, c)` are of all documents.
    """
    words = {word for document in documents for word in document}
    names = {singular(one.word) for one in by_precision([documents[row] for row in train], labels[train])}
    return by_stem(words, label_names) | {word for word in words if singular(word) in names}
