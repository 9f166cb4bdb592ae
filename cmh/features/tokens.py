"""Texts as the tokens that CLIP's text tower reads, for training it along; and its vectors of them before that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cmh import bars
from cmh.errors import DatasetError
from cmh.features import backbones
from cmh.features.wording import rule_of

if TYPE_CHECKING:
    from cmh.cache import RowArray

VERSION = 1  # of everything that turns a text into tokens; part of the cache key
PLACES = 77  # that CLIP has for the tokens of a text
SHORTEST = 3  # a start, one token, an end
AT_ONCE = 64  # texts that go through the tower
LOOKED_AT = 4096  # rows
SHOWN = 2  # rows in a message


class Texts(Protocol):
    """What is needed of a dataset; `cmh.datasets.source.Source` has it."""

    @property
    def name(self) -> str: ...
    @property
    def n_items(self) -> int: ...
    @property
    def text_kind(self) -> str: ...  # "matrix": vectors were given
    @property
    def text(self) -> Callable[[], RowArray]: ...  # vectors (n, d)
    @property
    def words(self) -> Callable[[], Sequence[Sequence[str]]] | None: ...
    @property
    def captions(self) -> Callable[[], Sequence[str]] | None: ...


def of(source: Texts, context_length: int) -> NDArray[np.int32]:
    """The tokens of all items `(n, context_length)`.

    A text is what a person reads; but where words that give labels away are left out of the vectors, it is the words
    that are left. Vectors that were given and are CLIP's tokens are taken as such. Raises DatasetError where there are
    no texts, and where given tokens are not CLIP's.
    """
    if source.text_kind == "matrix" or (source.words is None and source.captions is None):
        rows = source.text()
        if _may_be_tokens(rows):
            return fitted(_checked(rows, source.name), context_length)
        said = source.captions() if source.captions is not None else [""] * source.n_items
        if empty := [place for place, one in enumerate(said) if not one.strip()]:
            raise DatasetError(_no_texts(source.name, rows, empty, source.n_items))
    elif source.words is not None and (source.captions is None or rule_of(source.text()).label_words != "keep"):
        said = [" ".join(words) for words in source.words()]
    else:
        assert source.captions is not None
        said = source.captions()
    from cmh.nets import clip

    found: NDArray[np.int32] = clip.tokens(said, context_length).numpy()
    return found


def fitted(tokens: NDArray[np.int32], context_length: int) -> NDArray[np.int32]:
    """Tokens `(n, m)` as `(n, context_length)`: zeros behind what is shorter; what is longer is cut before its end."""
    from cmh.nets.clip import END

    found = np.zeros((len(tokens), context_length), np.int32)
    width = min(tokens.shape[1], context_length)
    found[:, :width] = tokens[:, :width]
    found[~(found == END).any(1), -1] = END
    return found


def vectors(tokens: NDArray[np.int32], network: str, weights: str, called: str, progress: bool) -> NDArray[np.float32]:
    """What the text tower of a network makes of tokens `(n, m)` as it comes: `(n, d)`, or of a network of tokens
    `(n, m, d)`, in half precision. Raises DatasetError."""
    import torch

    from cmh.nets.transfer import to_device

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tower = backbones.build_text(network, weights, tokens.shape[1]).to(device)
    about, width = backbones.about(network), tokens.shape[1]
    shape = (len(tokens), width, about.dim) if about.tokens else (len(tokens), about.dim)
    found: NDArray[np.float32] = np.zeros(shape, about.dtype)
    with bars.bar(len(tokens), f"{called}: texts", "text", terminal=progress) as bar, torch.inference_mode():
        for start in range(0, len(tokens), AT_ONCE):
            some = torch.from_numpy(tokens[start : start + AT_ONCE])
            found[start : start + len(some)] = tower(to_device(some, device)).float().cpu().numpy()
            bar.update(len(some))
    return found


def _may_be_tokens(rows: RowArray) -> bool:
    """Whether given vectors are whole numbers from 0 on, not all of them small, as tokens of any tokenizer are."""
    if len(rows.shape) != 2 or not rows.shape[0] or rows.shape[1] < SHORTEST:
        return False
    first = np.asarray(rows[:SHOWN], np.float64)
    return bool((first == np.floor(first)).all() and first.min() >= 0 and first.max() > 1)


def _checked(rows: RowArray, name: str) -> NDArray[np.int32]:
    """Given tokens `(n, m)`, with zeros behind each end. Raises DatasetError that names what is not CLIP's."""
    from cmh.nets.clip import END, START

    n, width = rows.shape
    if width > PLACES:
        raise DatasetError(f"{name}: has {width} tokens a text, but CLIP's text tower has {PLACES} places")
    found = np.zeros((n, width), np.int32)
    bad: dict[str, list[int]] = {}
    for begin in range(0, n, LOOKED_AT):
        some = np.asarray(rows[begin : begin + LOOKED_AT], np.float64)
        ends = some == END
        behind = np.cumsum(ends, 1) - ends > 0  # places that come after an end
        kinds = {
            "hold what is no whole number": (some != np.floor(some)).any(1),
            f"hold numbers that are not 0 to {END}": ((some < 0) | (some > END)).any(1),
            f"do not begin with {START}": some[:, 0] != START,
            f"have no {END} at the end": ~ends.any(1),
            f"go on behind {END}": (behind & (some != 0) & ~ends).any(1),
        }
        for kind, rule in kinds.items():
            bad.setdefault(kind, []).extend((begin + np.flatnonzero(rule)).tolist())
        found[begin : begin + len(some)] = np.where(behind, 0, some.clip(0, END))
    problems = [f"{_rows(places, n)} {kind}" for kind, places in bad.items() if places]
    if problems:
        begins = ", ".join(f"{value:g}" for value in np.asarray(rows[0:1], np.float64)[0, :3])
        raise DatasetError(
            *problems,
            f"row 1 begins with {begins}; make tokens with open_clip's tokenizer, or give the texts",
            heading=f"{name}: its tokens are not those of CLIP's tokenizer",
        )
    return found


def _rows(places: Sequence[int], n: int) -> str:
    shown = ", ".join(str(place + 1) for place in places[:SHOWN])
    return f"{len(places):,} of {n:,} rows ({shown}{', …' * (len(places) > SHOWN)})"


def _no_texts(name: str, rows: RowArray, empty: Sequence[int], n: int) -> str:
    return (
        f"{name}: CLIP's text tower reads texts, but {_rows(empty, n)} have none, only vectors of {rows.shape[1]}"
        " numbers; give texts or CLIP's tokens, or train the image tower alone: --set context_length=0"
    )
