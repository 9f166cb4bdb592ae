"""How a text becomes a vector, as a value that is kept beside what was trained on such vectors: so that a text that
comes later becomes one the same way, without the dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cmh import files
from cmh.errors import DatasetError
from cmh.features import labelwords, text

if TYPE_CHECKING:
    from cmh.cache import RowArray

BAGS = ("words", "tags")
EMBEDDINGS = ("sentences", "clip", "clip-tokens")
NOTE = "text"  # of a dataset's cache entry: its `TextRule`
TOKENS = "tokens"  # for a text tower that was trained along
KINDS = (*BAGS, *EMBEDDINGS, TOKENS, "matrix")


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a rule makes of a text: the words it uses, and each other word with why it does not."""

    used: list[str]
    left_out: dict[str, str]

    def __str__(self) -> str:
        whys: dict[str, list[str]] = {}
        for word, why in self.left_out.items():
            whys.setdefault(why, []).append(word)
        lines = [f"{', '.join(some)} ({why})" for why, some in whys.items()]
        if not self.used:
            return "; ".join(lines) or "no word"
        return "; ".join([f"used: {', '.join(self.used)}", *(f"not used: {line}" for line in lines)])


@dataclasses.dataclass(frozen=True)
class TextRule:
    """How texts become vectors.

    `words` are words of a text (`cmh.features.text.tokens`), `tags` what white space separates; `sentences` and `clip`
    are embeddings of the whole text, `tokens` are for a text tower that was trained along; of a `matrix` (vectors that
    were given) nothing can be said.
    """

    kind: str = "matrix"
    words: list[str] = dataclasses.field(default_factory=list)  # the vocabulary, a column each
    weight: str = "binary"  # what a cell holds: binary, count, tfidf
    idf: list[float] = dataclasses.field(default_factory=list)  # tfidf: a factor for each word, float32
    stop_words: list[str] = dataclasses.field(default_factory=list)
    label_words: str = "keep"  # keep, drop, telling; as `text:` of a dataset.yml has it
    labels: list[str] = dataclasses.field(default_factory=list)  # drop, telling: forms of these names are left out
    telling: list[str] = dataclasses.field(default_factory=list)  # telling: words that stand for a label
    weights: str = ""  # clip: file of its weights; empty: its own
    weights_sha256: str = ""

    def read(self, one: str) -> Reading:
        """Which words of a text are used, and why the others are not. (Embeddings use all.)"""
        found = one.lower().split() if self.kind == "tags" else text.tokens(one)
        if self.kind not in BAGS:
            return Reading(found, {})
        known = set(self.words)
        used = [word for word in found if word in known]
        return Reading(used, {word: self._why_not(word) for word in found if word not in known})

    def _why_not(self, word: str) -> str:
        if word in self.stop_words:
            return "a stop word"
        if self.label_words != "keep" and labelwords.by_stem([word], self.labels):
            return "names a label: such words were left out of training"
        if labelwords.singular(word) in {labelwords.singular(one) for one in self.telling}:
            return "stands for a label: such words were left out of training"
        return "not in the vocabulary"

    def network(self) -> text.Network:
        """The network of embeddings. Raises DatasetError where an extra is not installed, or weights are not there or
        not those of then."""
        if self.weights and not Path(self.weights).is_file():
            raise DatasetError(
                f"weights {self.weights} of the texts' network ({self.kind}): no such file; the model was trained on"
                " its vectors, and can encode no text without it"
            )
        if self.weights and files.sha256(Path(self.weights)) != self.weights_sha256:
            raise DatasetError(f"weights {self.weights}: are not those that the texts were embedded with")
        return text.ready(self.kind, self.weights)

    def vectors(self, texts: Sequence[str], network: text.Network | None = None) -> RowArray:
        """Vectors of texts `(n, d)`; that of a text without a word that is used is 0. `network` is what `network` gave.

        Raises DatasetError where vectors were given, and what `network` raises.
        """
        if self.kind in BAGS:
            idf = np.array(self.idf, np.float32) if self.weight == "tfidf" else None
            return text.sparse_bag([self.read(one).used for one in texts], self.words, self.weight, idf=idf)
        if self.kind in EMBEDDINGS:
            return text.embeddings(texts, "texts", network=network or self.network())
        raise DatasetError("the texts of this dataset were given as vectors: no rule makes one of a new text")


class Worded:
    """Vectors of texts `(n, d)` with the `rule` that made them."""

    def __init__(self, rows: RowArray, rule: TextRule) -> None:
        self._rows, self.rule = rows, rule
        self.shape, self.dtype = rows.shape, rows.dtype

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.generic]:
        return self._rows[index]


def bag(
    documents: Sequence[Sequence[str]],
    words: list[str],
    *,
    kind: str = "words",
    weight: str = "binary",
    train: NDArray[np.int64] | None = None,
    stop_words: Sequence[str] = (),
    label_words: str = "keep",
    labels: Sequence[str] = (),
    telling: Sequence[str] = (),
) -> Worded:
    """Bags of the `words` of documents `(n, len(words))`, with their rule. `documents` are without the words that are
    left out; of `train` rows tf-idf counts the documents."""
    rows = text.sparse_bag(documents, words, weight, train)
    rule = TextRule(
        kind=kind,
        words=words,
        weight=weight,
        idf=[] if rows.idf is None else rows.idf.tolist(),
        stop_words=sorted(stop_words),
        label_words=label_words,
        labels=[] if label_words == "keep" else list(labels),
        telling=sorted(telling),
    )
    return Worded(rows, rule)


def rule_of(rows: RowArray, kind: str = "", weights: str = "") -> TextRule:
    """The rule of vectors: their own, that of embeddings by `kind`, or that they were given."""
    found = getattr(rows, "rule", None)
    if isinstance(found, TextRule):
        return found
    if kind not in EMBEDDINGS:
        return TextRule()
    return TextRule(kind=kind, weights=weights, weights_sha256=files.sha256(Path(weights)) if weights else "")
