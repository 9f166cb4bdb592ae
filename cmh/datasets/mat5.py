"""What a MATLAB file of version 5 to 7.2 holds, by its own headers: also where SciPy gives up on the whole file.

SciPy's `whosmat` (1.17) raises TypeError as soon as one variable is an object of MATLAB's newer kind (`string`,
`table`, `categorical` …), whose header has a class name in place of dimensions. The format is that of MathWorks'
"MAT-File Format": elements of (type, size, data), a matrix an element of flags, dimensions, name and data.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
ORDERS = {b"IM": "<", b"MI": ">"}  # of bytes, as the header ends
COMPRESSED, MATRIX = 15, 14
LOGICAL, COMPLEX = 0x200, 0x800
DATA = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18)  # types of elements that hold numbers or letters
BLOCK = 2**20  # bytes that are unpacked at once
MOST_SIDES, DEEPEST = 32, 8  # dimensions of an array; cells in cells
HEAD = 4096  # bytes that hold the parts before the data: names have at most 63 letters


def variables(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape, class). Raises ValueError, OSError, struct.error or zlib.error for what is no such file."""
    return {name: about for name, about, _ in _listed(path) if name}  # without one: what objects keep for themselves


def check(path: Path, name: str) -> None:
    """That the elements of a variable are of types that may stand there and lie inside of it.

    SciPy (1.17) looks neither at the one nor the other, and a damaged file may end the process. Raises ValueError,
    OSError, struct.error or zlib.error for such.
    """
    with path.open("rb") as file:
        if file.read(HEADER)[126:] not in ORDERS:  # of version 4, which has no such elements
            return
        places = [place for found, _, place in _listed(path) if found == name]
        if not places:
            raise ValueError(f"its headers name no {name}")
        for order, start, size, packed in places:
            file.seek(start)
            stream = _Stream(file, size, packed)
            _check_matrix(stream, struct.unpack(f"{order}2I", stream.take(8))[1] if packed else size, order)


class _Stream:
    """The bytes of an element in their order, unpacked as they are asked for; `at` is how many were."""

    def __init__(self, file: BinaryIO, size: int, packed: bool) -> None:
        self._file, self._left, self.at = file, size, 0
        self._unpack = zlib.decompressobj() if packed else None

    def take(self, n: int) -> bytes:
        """The next n bytes. Raises ValueError where there are fewer."""
        found = self._read(n) if self._unpack is None else b""
        while self._unpack is not None and len(found) < n:
            packed = self._unpack.unconsumed_tail or self._read(BLOCK)
            found += (more := self._unpack.decompress(packed, n - len(found)))
            if not packed and not more:
                break
        if len(found) < n:
            raise ValueError("an element is longer than its variable")
        self.at += n
        return found

    def skip(self, n: int) -> None:
        """Go over n bytes."""
        while n > 0:
            n -= len(self.take(min(n, BLOCK)))

    def element(self, end: int, order: str) -> tuple[int, int]:
        """Type and length of the next element, which stands within its tag where the length is negative."""
        kind, length = struct.unpack(f"{order}2I", self.take(8))
        if kind >> 16:
            kind, length = kind & 0xFFFF, -(kind >> 16)
        if length < -4 or self.at + length > end:
            raise ValueError("an element is longer than its variable")
        return kind, length

    def rest(self, length: int, end: int) -> None:
        """Go over an element's data and what fills up its eight bytes; the last element may lack that."""
        self.skip(min(length + -length % 8, end - self.at) if length > 0 else 0)

    def _read(self, n: int) -> bytes:
        found = self._file.read(min(n, self._left))
        self._left -= len(found)
        return found


def _check_matrix(stream: _Stream, size: int, order: str, depth: int = 0) -> None:
    """One variable of `size` bytes, or a cell of one; objects and structures are gone over."""
    end = stream.at + size
    if not size:  # an empty cell
        return
    if stream.element(end, order)[1] != 8:
        raise ValueError("no flags where they should be")
    flags = struct.unpack(f"{order}2I", stream.take(8))[0]
    number = flags & 0xFF
    if number == 1 or 4 <= number <= len(CLASSES) - 1:
        n_sides = stream.element(end, order)[1] // 4
        if not 2 <= n_sides <= MOST_SIDES:
            raise ValueError(f"an array of {n_sides} dimensions")
        sides = struct.unpack(f"{order}{n_sides}i", stream.take(4 * n_sides))
        stream.skip(min(-4 * n_sides % 8, end - stream.at))
        stream.rest(stream.element(end, order)[1], end)  # the name
        n_data = math.prod(max(0, side) for side in sides) if number == 1 else 1 + 2 * (number == 5)
        for _ in range(n_data + bool(flags & COMPLEX)):
            kind, length = stream.element(end, order)
            if kind == MATRIX and number == 1 and depth < DEEPEST:
                _check_matrix(stream, length, order, depth + 1)
            elif kind not in DATA or number == 1:
                raise ValueError(f"an element of type {kind} where it cannot be")
            else:
                stream.rest(length, end)
    stream.skip(end - stream.at)


def _listed(path: Path) -> Iterator[tuple[str, tuple[tuple[int, ...], str], tuple[str, int, int, bool]]]:
    """Each variable: name, (shape, class), and where it lies: (byte order, start, size, packed)."""
    length = path.stat().st_size
    with path.open("rb") as file:
        order = ORDERS.get(file.read(HEADER)[126:])
        if order is None:
            raise ValueError("no header of version 5")
        while tag := file.read(8):
            kind, size = struct.unpack(f"{order}2I", tag)
            start = file.tell()
            if start + size > length:
                raise ValueError("the file is truncated")
            raw, packed = file.read(min(size, HEAD)), kind == COMPRESSED
            if packed:
                raw = zlib.decompressobj().decompress(raw, HEAD)
                kind, raw = struct.unpack(f"{order}I", raw[:4])[0], raw[8:]
            if kind != MATRIX:
                raise ValueError(f"an element of type {kind} where a variable should be")
            yield *_described(_parts(raw, order), order), (order, start, size, packed)
            file.seek(start + size)


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
