"""MATLAB files of version 7.3, which are HDF5: columns first, sparse matrices as groups, texts behind references.

Links to other files, external data, structs and objects are named, never followed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cmh.errors import DatasetError

if TYPE_CHECKING:
    import h5py
    from scipy.sparse import csc_array

SPARSE = ("jc", "ir", "data")  # starts of columns; rows and values, which are not there where nothing is stored


class Transposed:
    """A variable of a 7.3 file, which holds it column by column: rows are read when they are asked for.

    `marked`: the file says that MATLAB's layout is meant, as MATLAB's own files do.
    """

    def __init__(
        self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], marked: bool
    ) -> None:
        self._path, self._name, self.shape, self.dtype, self.marked = path, name, shape, dtype, marked

    def blocks(self, rows: int) -> Iterator[NDArray[np.generic]]:
        """All rows in their order, `(at most rows, …)` at a time. Raises DatasetError for a damaged file."""
        with opened(self._path) as file:
            for start in range(0, self.shape[0], rows):
                yield np.asarray(file[self._name][..., start : start + rows].T)


def is_one(path: Path) -> bool:
    """Whether a file is HDF5. Raises DatasetError where it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(520)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    return head[512:520] == b"\x89HDF\r\n\x1a\n" or head[:8] == b"\x89HDF\r\n\x1a\n"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, while the block runs. Raises DatasetError for what h5py cannot read, in the block, too."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except DatasetError:
        raise
    except Exception as error:  # h5py raises many kinds for damaged files
        raise DatasetError(
            f"{path}: cannot be read as a MATLAB 7.3 file ({line(error)}); if it is damaged, copy or save it again"
        ) from error


def variables(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape as MATLAB shows it, class)."""
    with opened(path) as file:
        return {name: _described(file, name) for name in file if not name.startswith("#")}


def numbers(path: Path, name: str, shape: tuple[int, ...]) -> NDArray[np.generic] | csc_array | Transposed:
    """A numeric variable of this shape; one that is not sparse and not empty stays on disk.

    Raises DatasetError for what holds no real numbers or is damaged.
    """
    import h5py

    with opened(path) as file:
        value = file[name]
        stored = value.get("data") if isinstance(value, h5py.Group) else value
        if stored is not None and stored.dtype.kind not in "biuf":
            raise DatasetError(f"{path}: {name} holds {stored.dtype}, but must hold real numbers")
        if isinstance(value, h5py.Group):
            return _sparse(value, shape)
        if _is_empty(value):
            return np.zeros(shape)
        return Transposed(path, name, shape, np.dtype(value.dtype), "MATLAB_class" in value.attrs)


def texts(path: Path, name: str, kind: str) -> list[tuple[str, ...]]:
    """A char or cell variable, a tuple of texts a row; a cell that holds a char matrix is as many texts as that has
    lines. Raises DatasetError where cells hold something else."""
    import h5py

    wrong = DatasetError(f"{path}: {name} holds cells that are no texts; save cellstr({name})")

    def lines(codes: h5py.Dataset) -> list[str]:
        if not isinstance(codes, h5py.Dataset) or _is_empty(codes):
            if isinstance(codes, h5py.Group):
                raise wrong
            return [""]
        values = np.asarray(codes)
        if values.dtype.kind != "u":
            raise wrong
        return [clean("".join(map(chr, row))) for row in values.T.tolist()] if values.ndim > 1 else [""]

    with opened(path) as file:
        value = file[name]
        if _is_empty(value):
            return []
        if kind == "char":
            letters = np.atleast_2d(np.asarray(value).T)  # (rows, …, letters)
            several = letters.reshape(len(letters), -1, letters.shape[-1]).tolist()
            return [tuple(clean("".join(map(chr, row))) for row in rows) for rows in several]
        if h5py.check_ref_dtype(value.dtype) is not h5py.Reference:
            raise wrong
        table = np.asarray(value).T  # (rows, columns) of references
        table = table.reshape(-1, 1) if 1 in table.shape else table
        return [tuple(text for reference in row for text in lines(file[reference])) for row in table]


def clean(text: str) -> str:
    """A text of a char matrix without what pads it: blanks in MATLAB and SciPy, NULs in hdf5storage."""
    return text.rstrip("\0").strip()


def line(error: Exception) -> str:
    """Kind and first line of an error of a library."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _is_empty(value: h5py.Dataset) -> bool:
    """Whether MATLAB stored the dimensions of an empty array in place of its data."""
    return bool(value.attrs.get("MATLAB_empty", 0))


def _described(file: h5py.File, name: str) -> tuple[tuple[int, ...], str]:
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return (), "link to elsewhere"
    value = file[name]
    kind = value.attrs.get("MATLAB_class", b"")
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else str(kind)
    if "MATLAB_sparse" in value.attrs and isinstance(value, h5py.Group):
        parts = [value.get(part) for part in SPARSE if part in value]
        inside = all(isinstance(value.get(part, getlink=True), h5py.HardLink) for part in SPARSE if part in value)
        if inside and "jc" in value and all(isinstance(part, h5py.Dataset) and not _elsewhere(part) for part in parts):
            return (int(value.attrs["MATLAB_sparse"]), value["jc"].size - 1), "sparse"
    if not isinstance(value, h5py.Dataset):
        return (), f"{kind or 'group'} in a group"
    if _elsewhere(value):
        return tuple(value.shape[::-1]), "data in another file"
    shape = tuple(map(int, value[()].ravel() if _is_empty(value) else value.shape[::-1]))
    if value.dtype.kind == "O":
        kind = "cell" if kind in ("", "cell") else kind
    return shape, kind or {"f": "double", "b": "logical"}.get(value.dtype.kind, str(value.dtype))


def _elsewhere(value: h5py.Dataset) -> bool:
    return bool(value.external or value.is_virtual)


def _sparse(group: h5py.Group, shape: tuple[int, ...]) -> csc_array:
    """A sparse matrix `(rows, columns)`; SciPy refuses indices that do not fit."""
    from scipy.sparse import csc_array

    starts = np.asarray(group["jc"]).ravel().astype(np.int64)
    rows = np.asarray(group["ir"]).ravel().astype(np.int64) if "ir" in group else np.zeros(0, np.int64)
    data = np.asarray(group["data"]).ravel() if "data" in group else np.zeros(0)
    matrix = csc_array((data, rows, starts), shape=(shape[0], shape[1]))
    matrix.check_format(full_check=True)
    return matrix
