"""What the readers of the benchmarks' official distributions have in common."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh.cache import RowArray
from cmh.features.text import tokens


@dataclasses.dataclass(frozen=True)
class Parts:
    """A distribution as it was read; `pictures` are paths inside the folder."""

    n_all: int  # before items without labels or text were left out
    pictures: Sequence[str]
    labels: NDArray[np.uint8]  # (n, c)
    label_names: Sequence[str]
    n_tags: int | None  # None: depends on the split
    digest: str  # of what texts are made from
    text: Callable[[], RowArray] | None = None  # (n, d_text); None: bags of the captions' words
    words: Callable[[], Sequence[Sequence[str]]] | None = None  # None: those of the captions, if there are any
    captions: Sequence[Sequence[str]] | None = None  # of each item, as people read them; None: not known
    words_of: Callable[[str], list[str]] = tokens  # a caption
    notes: tuple[str, ...] = ()


def first(root: Path, *names: str) -> Path | None:
    """The first of these paths in the folder that exists."""
    return next((root / name for name in names if (root / name).exists()), None)


def numbered(path: Path, pattern: str) -> dict[int, str]:
    """Number → file name of the files in a folder that look like `pattern` (one group: the number), by number."""
    found = ((re.fullmatch(pattern, file.name), file.name) for file in path.iterdir())
    return dict(sorted((int(match[1]), name) for match, name in found if match))
