"""Small `.npz` files, quickly: a board reads thousands, and NumPy takes half a millisecond for each.

Files as `numpy.savez` writes them are read here, member after member, and checked by their sums. Any other (compressed,
packed by another program, damaged) is left to NumPy.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# of a member of a zip file: signature, version, flags, how it is packed, time and date, sum, sizes packed and whole,
# lengths of the name and of what follows it
_MEMBER = struct.Struct("<4x2xHH4xI4xIHH")


def read(path: Path) -> Mapping[str, NDArray[np.generic]]:
    """The arrays of a file by name, each in its own shape. Nothing is unpickled.

    Raises what NumPy raises where they cannot be read.
    """
    try:
        if arrays := _plain(path.read_bytes()):
            return arrays
    except (ValueError, struct.error, SyntaxError):  # whatever it is, NumPy has the words for it
        pass
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def plain(path: Path) -> Mapping[str, NDArray[np.generic]]:
    """The arrays of a file as `numpy.savez` writes it, and of no other: nothing is allocated but what the file holds,
    whatever sizes its headers name.

    Raises ValueError for any other file, and OSError where it cannot be read.
    """
    return of_bytes(path.read_bytes())


def of_bytes(data: bytes) -> Mapping[str, NDArray[np.generic]]:
    """The same of the bytes of such a file. Raises ValueError for any other."""
    try:
        arrays = _plain(data)
    except Exception as error:  # foreign bytes fail in struct, zlib, tokenize or numpy, each with errors of its own
        raise ValueError(str(error)) from error
    if arrays is None:
        raise ValueError("truncated, compressed, with arrays of Python objects, or of another program")
    return arrays


def _plain(data: bytes) -> Mapping[str, NDArray[np.generic]] | None:
    """The arrays of a file that holds them as they are; None where anything is otherwise."""
    at, arrays = 0, dict[str, NDArray[np.generic]]()
    while data[at : at + 4] == b"PK\3\4":  # a member; the list of them that follows the last repeats what is known
        flags, packed, crc, size, name_size, extra_size = _MEMBER.unpack_from(data, at)
        name_end = at + _MEMBER.size + name_size
        if size == 0xFFFFFFFF and data[name_end : name_end + 4] == b"\1\0\x10\0":  # a size in 64 bits
            (size,) = struct.unpack_from("<Q", data, name_end + 4)
        start = name_end + extra_size
        content = memoryview(data)[start : start + size]
        if flags & 0x9 or packed or zlib.crc32(content) != crc or bytes(content[:8]) != b"\x93NUMPY\1\0":
            return None
        begin = 10 + int.from_bytes(content[8:10], "little")
        shape, in_columns, dtype = _header(bytes(content[8:begin]))
        if dtype.hasobject or in_columns:
            return None
        name = data[at + _MEMBER.size : name_end].decode().removesuffix(".npy")
        arrays[name] = np.frombuffer(content[begin:], dtype).reshape(shape)
        at = start + size
    return arrays if data[at : at + 4] == b"PK\1\2" else None


@functools.lru_cache(maxsize=64)
def _header(text: bytes) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, order and kind of an array, from the length and header of its file."""
    return np.lib.format.read_array_header_1_0(io.BytesIO(text))
