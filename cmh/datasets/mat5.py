"""What a MATLAB file of version 5 to 7.2 holds, by its own headers: also where SciPy gives up on the whole file.

SciPy's `whosmat` (1.17) raises TypeError as soon as one variable is an object of MATLAB's newer kind (`string`,
`table`, `categorical` …), whose header has a class name in place of dimensions. The format is that of MathWorks'
"MAT-File Format": elements of (type, size, data), a matrix an element of flags, dimensions, name and data.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

CLASSES: tuple[str, ...] = (
    "cell",
    "struct",
    "object",
    "char",
    "sparse",
    "double",
    "single",
    "int8",
    "uint8",
    "int16",
    "uint16",
)
CLASSES += ("int32", "uint32", "int64", "uint64", "function")
OPAQUE = 17  # the number of a class that stands by name
HEADER = 128
COMPRESSED, MATRIX = 15, 14
LOGICAL = 0x200
HEAD = 4096  # bytes that hold the parts before the data: names have at most 63 letters


def variables(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape, class). Raises ValueError, OSError, struct.error or zlib.error for what is no such file."""
    found, length = {}, path.stat().st_size
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(HEADER)[126:])
        if order is None:
            raise ValueError("no header of version 5")
        while tag := file.read(8):
            kind, size = struct.unpack(f"{order}2I", tag)
            end = file.tell() + size
            if end > length:
                raise ValueError("the file is truncated")
            raw = file.read(min(size, HEAD))
            if kind == COMPRESSED:
                raw = zlib.decompressobj().decompress(raw, HEAD)
                kind, raw = struct.unpack(f"{order}I", raw[:4])[0], raw[8:]
            if kind != MATRIX:
                raise ValueError(f"an element of type {kind} where a variable should be")
            name, about = _described(_parts(raw, order), order)
            if name:  # without one: what objects keep for themselves
                found[name] = about
            file.seek(end)
    return found


def _parts(raw: bytes, order: str) -> Iterator[bytes]:
    """The data of one element after another."""
    at = 0
    while True:
        kind, size = struct.unpack_from(f"{order}2I", raw, at)
        if kind >> 16:  # up to four bytes of data share the tag's eight
            yield raw[at + 4 : at + 4 + (kind >> 16)]
            at += 8
        else:
            yield raw[at + 8 : at + 8 + size]
            at += 8 + (size + 7) // 8 * 8


def _described(parts: Iterator[bytes], order: str) -> tuple[str, tuple[tuple[int, ...], str]]:
    """(name, (shape, class))."""
    flags = struct.unpack_from(f"{order}I", next(parts))[0]
    number = flags & 0xFF
    if number == OPAQUE:
        name, _, called = (next(parts).decode("latin-1") for _ in range(3))
        return name, ((), called)
    sides = next(parts)
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    kind = CLASSES[number - 1] if 0 < number <= len(CLASSES) else "unknown"
    shape = shape[:-1] if kind == "char" else shape  # texts, as SciPy counts
    return next(parts).decode("latin-1"), (shape, "logical" if flags & LOGICAL else kind)
