"""A file of pictures and texts as codes, to be searched or handed over to a search engine.

An uncompressed `.npz`, as `numpy.savez` writes it, with the arrays

images `(n, ceil(bits / 8))`, texts `(m, ceil(bits / 8))`: uint8, as `cmh.codes.pack` packs ±1; either may have no rows.
bits: integer. image_paths `(n,)`, text_lines `(m,)`: what each code is of. encoder: the hash of what encoded them.

Files of `cmh.codes`, with queries and database, can be read as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import codes, npz, scan
from cmh.errors import RecordError

NAMES = {"images": "image_paths", "texts": "text_lines"}


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Sets of packed codes `(n, ceil(bits / 8))` by name, none of them empty; what the items of a set are, where that
    is known; the hash of the encoder, or nothing.
    """

    bits: int
    sets: Mapping[str, NDArray[np.uint8]]
    names: Mapping[str, Sequence[str]]
    encoder: str

    def sha256(self, name: str) -> str:
        """The hash of a set's bytes, row by row."""
        return hashlib.sha256(self.sets[name].tobytes()).hexdigest()


def read(path: Path) -> Encoded:
    """A file of codes; no array may take more than the file holds, and nothing is unpickled.

    Raises RecordError that names the file and lists everything that is wrong with it.
    """
    heading = f"{path} is no file of codes"
    try:
        arrays = npz.plain(path)
    except ValueError as error:
        raise RecordError(f"cannot be read as numpy.savez writes it: {error}", heading=heading) from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from error
    if set(codes.CODES) <= set(arrays):
        return _of_run(path)
    if missing := [name for name in (*NAMES, *NAMES.values(), "bits", "encoder") if name not in arrays]:
        present = ", ".join(sorted(arrays)) or "nothing"
        raise RecordError(f"without {', '.join(missing)}; it holds {present}", heading=heading)
    bits: Any
    bits, encoder = (arrays[name].item() if arrays[name].size == 1 else None for name in ("bits", "encoder"))
    problems = scan.bits_problems(bits)
    if not isinstance(encoder, str):
        problems.append(f"encoder is {arrays['encoder']!r:.80}, but must be a text, the hash of what encoded the items")
    for name, called in NAMES.items():
        problems += scan.packed_problems(name, arrays[name], bits)
        if arrays[called].dtype.kind != "U" or arrays[called].shape != arrays[name].shape[:1]:
            kind = f"{arrays[called].dtype} {arrays[called].shape}"
            problems.append(f"{called} are {kind}, but must be texts, as many as {name}: {arrays[name].shape[:1]}")
    if not problems and not any(arrays[name].size for name in NAMES):
        problems.append("images and texts are both empty: nothing to search; were pictures and texts encoded?")
    if problems:
        raise RecordError(*problems, heading=heading)
    kept = [name for name in NAMES if len(arrays[name])]
    sets = {name: np.ascontiguousarray(arrays[name], np.uint8) for name in kept}
    return Encoded(bits, sets, {name: arrays[NAMES[name]].tolist() for name in kept}, str(encoder))


def _of_run(path: Path) -> Encoded:
    """Queries and database of a confirmed run, or of any file of `cmh.codes`; of several epochs the chosen or last."""
    found = codes.read(path)
    one = found.after(found.chosen_epoch or found.epochs) if found.epochs else found
    if problems := scan.bits_problems(one.bits):
        raise RecordError(*problems, heading=f"{path} cannot be searched")
    return Encoded(one.bits, {name: np.ascontiguousarray(getattr(one, name)) for name in codes.CODES}, {}, "")
