"""Arrays that a user brings (`.npy`, `.npz`, `.mat`), opened so that rows are read from disk when they are asked for.

`.npy` files and uncompressed `.npz` members are memory-mapped where they lie. Compressed members and 7.3 files can
only be read from front to back: they are unpacked once, in blocks of rows, into the cache. Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import mmap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypedDict

import numpy as np
from numpy.typing import NDArray

from cmh import cache
from cmh.cache import RowArray
from cmh.datasets import mat, mat73, scan
from cmh.errors import DatasetError
from cmh.features.text import Sparse

ROWS = 4096  # looked at in one go
EXACT = 2048  # whole numbers up to this are the same in float16


@dataclasses.dataclass(frozen=True)
class Given:
    """One array: `rows[index]` reads those rows; `where` names it in messages."""

    where: str
    path: Path
    rows: RowArray
    columns_first: bool = False  # read as MATLAB lays it out, though its file does not say that it is so

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return tuple(self.rows.shape)

    def blocks(self) -> Iterator[NDArray[np.generic]]:
        """All rows in their order, ROWS at a time: `(at most ROWS, …)` each."""
        for start in range(0, self.shape[0], ROWS):
            yield np.asarray(self.rows[start : start + ROWS])
            _release(self.rows)

    def whole(self) -> NDArray[np.generic]:
        """All rows `(n, …)` in memory: for labels, not for features."""
        return np.asarray(self.rows[:])


class Chosen:
    """Rows `kept` `(n_kept,)` of an array `(n, …)` in another number type, as the cache gathers them."""

    def __init__(self, rows: RowArray, kept: NDArray[np.int64], dtype: np.dtype[np.generic]) -> None:
        self._rows, self._kept, self.dtype = rows, kept, dtype
        self.shape: tuple[int, ...] = (len(kept), *rows.shape[1:])
        self.rule = getattr(rows, "rule", None)  # of texts: `cmh.features.wording` has it

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.generic]:
        chosen = np.asarray(self._rows[self._kept[index]]).astype(self.dtype)
        _release(self._rows)
        return chosen


class _Remembered(TypedDict):
    bad: list[int]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Inspected:
    """What one pass over a feature array says."""

    not_finite: list[int]  # rows
    dtype: str  # that keeps the values: float16 or float32


def names(path: Path) -> list[str]:
    """Arrays in a `.npz` or `.mat` file. Raises DatasetError."""
    if path.suffix.lower() == ".mat":
        return list(mat.variables(path))
    with _zip(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def numbers(path: Path, name: str = "") -> Given:
    """A numeric array; `name` is the member of a `.npz` or the variable of a `.mat` file. Raises DatasetError."""
    where = f"{path.name}: {name}" if name else path.name
    if path.suffix.lower() == ".mat":
        value = mat.numbers(path, name)
        if isinstance(value, mat73.Transposed):
            blocks = value.blocks
            array = unpacked(path, name, value.shape, value.dtype, lambda: blocks(cache.ROWS_AT_ONCE))
            return Given(where, path, array, not value.marked)
        return Given(where, path, value if isinstance(value, np.ndarray) else Sparse(value.tocsr()))
    array = _numpy(path, name, where)
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{where} holds {array.dtype}, but must hold real numbers")
    return Given(where, path, array)


def holds_texts(path: Path, name: str = "") -> bool:
    """Whether an array holds texts. Raises DatasetError where it cannot be read."""
    if path.suffix.lower() == ".mat":
        return mat.variables(path).get(name, ((), ""))[1] in mat.TEXTS
    return _numpy(path, name, f"{path.name}: {name}" if name else path.name).dtype.kind in "US"


def texts(path: Path, name: str = "") -> list[str]:
    """A column of texts (or whole numbers), such as split or group. Raises DatasetError."""
    where = f"{path.name}: {name}" if name else path.name
    if path.suffix.lower() == ".mat":
        if mat.variables(path).get(name, ((), ""))[1] in mat.NUMBERS:
            return [str(value) for value in numbers(path, name).whole().ravel().tolist()]
        return ["".join(row) for row in mat.texts(path, name)]
    array = _numpy(path, name, where)
    if array.dtype.kind not in "US" + "biu":
        raise DatasetError(f"{where} holds {array.dtype}, but must hold texts or whole numbers")
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(np.asarray(array), "utf-8")
        except UnicodeDecodeError as error:
            raise DatasetError(f"{where} holds bytes that are not UTF-8") from error
    return [str(value).strip() for value in np.ravel(array).tolist()]


def inspect(given: Given) -> Inspected:
    """Rows `(n, d)` with NaN or infinite values, and the number type to store; one pass, remembered."""

    def compute() -> _Remembered:
        bad: list[int] = []
        exact, start = given.rows.dtype == np.float16, 0
        whole = given.rows.dtype.kind in "biu"
        largest = 0.0
        for block in given.blocks():
            with np.errstate(over="ignore"):
                values = block.astype(np.float16 if block.dtype == np.float16 else np.float32, copy=False)
            fine = np.isfinite(values).all(tuple(range(1, values.ndim)))
            bad += (start + np.flatnonzero(~fine)).tolist()
            if whole:
                largest = max(largest, float(np.abs(values).max(initial=0)))
            start += len(block)
        return {"bad": bad, "dtype": "float16" if exact or (whole and largest <= EXACT) else "float32"}

    found = scan.remembered(given.path, f"look {given.where}", compute)
    return Inspected(found["bad"], found["dtype"])


def with_some(rows: RowArray, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the rows `kept` `(n_kept,)` of an array `(n, d)` that are not all 0."""
    blocks = (kept[start : start + ROWS] for start in range(0, len(kept), ROWS))
    return np.concatenate([kept[:0], *(some[np.asarray(rows[some]).any(1)] for some in blocks)])


def _release(rows: RowArray) -> None:
    """Let go of the pages of a memory map that have been read: they would count as this process's memory."""
    mapped = getattr(rows, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _numpy(path: Path, name: str, where: str) -> NDArray[np.generic]:
    """An array `(n, …)` of a `.npy` file or `.npz` member: mapped where its bytes lie, else unpacked into the cache."""
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            shape, order, dtype = _header(file, where)
            return _mapped(path, where, file.tell(), shape, order, dtype, path.stat().st_size - file.tell())
    with _zip(path) as archive:
        found = [member.removesuffix(".npy") for member in archive.namelist()]
        if name not in found:
            raise DatasetError(f"{path.name}: has no array {name}; found {', '.join(found) or 'none'}")
        info = archive.getinfo(f"{name}.npy")
        if info.flag_bits & 1:
            raise DatasetError(f"{where}: is encrypted")
        try:
            with archive.open(info) as member:
                shape, order, dtype = _header(member, where)
                start = member.tell()
        except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
            raise DatasetError(f"{where}: cannot be read ({error}); if it is damaged, copy or save it again") from error
    if info.compress_type == zipfile.ZIP_STORED:
        return _mapped(path, where, _offset(path, info) + start, shape, order, dtype, info.file_size - start)
    if order or len(shape) != 2:  # columns first, or small: no rows to stream
        return _inflated(path, name, where)
    return unpacked(path, name, shape, dtype, lambda: _member_blocks(path, name, where))


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, order, dtype = npy.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, order, dtype = npy.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version} of the format")
    except Exception as error:  # the header is a Python literal: anything may stand there
        raise DatasetError(
            f"{where}: is no NumPy array ({type(error).__name__}: {error}); if it is damaged, copy or save it again"
        ) from error
    if dtype.hasobject:
        raise DatasetError(
            f"{where}: holds pickled Python objects, which cmh never loads (they can run any code); save it as a"
            " plain array of numbers or texts"
        )
    if dtype.kind not in "biufUS" or any(type(side) is not int or side < 0 for side in shape) or not shape:
        raise DatasetError(f"{where}: is {shape} of {dtype}, but must be an array of numbers or texts with rows")
    return shape, order, dtype


def _mapped(
    path: Path, where: str, offset: int, shape: tuple[int, ...], order: bool, dtype: np.dtype[np.generic], room: int
) -> NDArray[np.generic]:
    """The array of this shape whose bytes begin at `offset`, of which `room` are there."""
    needed = dtype.itemsize
    for side in shape:
        needed *= side
    if needed > room:
        raise DatasetError(f"{where}: is truncated: {needed:,} bytes announced, {room:,} there; copy or save it again")
    if not needed:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if order else "C")


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where an uncompressed member's bytes begin (the zip format's local header: 30 bytes, name, extra field)."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(30)
    return info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DatasetError(
            f"{path.name}: cannot be read as a .npz file ({error}); if it is damaged, copy or save it again"
        ) from error


def _member_blocks(path: Path, name: str, where: str) -> Iterator[NDArray[np.generic]]:
    """Rows `(at most cache.ROWS_AT_ONCE, d)` of a compressed member, front to back."""
    with _zip(path) as archive, archive.open(f"{name}.npy") as member:
        shape, _, dtype = _header(member, where)
        width, many = dtype.itemsize * shape[1], cache.ROWS_AT_ONCE
        for start in range(0, shape[0], many):
            rows = min(many, shape[0] - start)
            raw = member.read(rows * width)
            if len(raw) != rows * width:
                raise DatasetError(f"{where}: is truncated at row {start:,}")
            yield np.frombuffer(raw, dtype).reshape(rows, shape[1])


def _inflated(path: Path, name: str, where: str) -> NDArray[np.generic]:
    """A compressed member whole in memory, in its own shape."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            whole: NDArray[np.generic] = arrays[name]
            return whole
    except Exception as error:  # zlib, zipfile and NumPy raise many kinds for damaged bytes
        raise DatasetError(
            f"{where}: cannot be read ({type(error).__name__}: {error}); if it is damaged, copy or save it again"
        ) from error


def unpacked(
    path: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    blocks: Callable[[], Iterator[NDArray[np.generic]]],
) -> NDArray[np.generic]:
    """The array `(n, d)` as a plain file in the cache, written once from `blocks()` of its rows.

    Raises DatasetError where the blocks cannot be read.
    """

    def readable() -> Iterator[NDArray[np.generic]]:
        try:
            yield from blocks()
        except DatasetError:
            raise
        except Exception as error:  # zlib, zipfile and h5py raise many kinds for damaged bytes
            raise DatasetError(f"{path.name}: {name}: is damaged ({type(error).__name__}: {error})") from error

    def compute() -> cache.Contents:
        return {"array": cache.Blocks(shape, dtype, readable())}

    folder = cache.entry(f"given/{cache.key(scan.sha256(path), name)}", compute)
    mapped: NDArray[np.generic] = np.load(folder / "array.npy", mmap_mode="r", allow_pickle=False)
    return mapped
