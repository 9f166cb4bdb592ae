"""Bag of words over a vocabulary that knows the training items only."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MIN_COUNT, MAX_SIZE = 2, 2000  # a word must be in two training items; the most frequent 2000 are kept

_LETTERS = re.compile(r"[^\W\d_]+")


def tokens(text: str) -> list[str]:
    """Lower-case words of at least two letters; digits and signs separate.

    >>> tokens("Map_symbol no. 3, Wàter-fall")
    ['map', 'symbol', 'no', 'wàter', 'fall']
    """
    return [word for word in _LETTERS.findall(text.lower()) if len(word) > 1]


def vocabulary(documents: Iterable[Sequence[str]]) -> list[str]:
    """Words of the training documents, the most frequent first; ties in alphabetical order."""
    counts = collections.Counter(word for document in documents for word in set(document))
    known = [(-count, word) for word, count in counts.items() if count >= MIN_COUNT]
    return [word for _, word in sorted(known)[:MAX_SIZE]]


def bag_of_words(documents: Sequence[Sequence[str]], words: Sequence[str]) -> NDArray[np.float32]:
    """`(n, len(words))`, 1 where the document has the word."""
    column = {word: number for number, word in enumerate(words)}
    matrix = np.zeros((len(documents), len(words)), np.float32)
    for row, document in enumerate(documents):
        matrix[row, [column[word] for word in document if word in column]] = 1
    return matrix
