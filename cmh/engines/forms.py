"""The forms in which engines take codes, by what stands beside exported codes about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh.encoded import Encoded

Packed = NDArray[np.uint8]
Flags = NDArray[np.bool_]  # (n, bits), true for +1
Answer = tuple[Sequence[Sequence[float]], Sequence[Sequence[int]]]  # distances and items of each query, nearest first

BYTES = "bytes: bit j of a code is the (j % 8)-th from below of byte j // 8, numpy.packbits(…, bitorder='little')"
TEXT = "text of 0 and 1: bit j of a code is character j"
SIGNS = "numbers +1 and -1: bit j of a code is column j"
FORMS: dict[str, Callable[[Flags], Any]] = {
    BYTES: lambda flags: np.packbits(flags, axis=1, bitorder="little"),
    TEXT: lambda flags: ["".join("01"[bit] for bit in row) for row in flags.tolist()],
    SIGNS: lambda flags: np.where(flags, 1, -1).astype(np.int8),
}


def flags(packed: Packed, bits: int) -> Flags:
    """Packed codes `(n, ceil(bits / 8))`, bit by bit."""
    return np.unpackbits(packed, axis=1, count=bits, bitorder="little").astype(bool)


def names(encoded: Encoded, name: str) -> list[str]:
    """What the items of a set are, as a database can keep it; empty texts where that is not known."""
    known = encoded.names.get(name, [""] * len(encoded.sets[name]))
    return [text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00") for text in known]
