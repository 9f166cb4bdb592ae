"""MATLAB files of every version, read without building anything but numbers and texts.

Up to 7.2 through SciPy, 7.3 (HDF5) through h5py. Objects, functions, structs and links to other files are refused.
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
    from scipy.sparse import csc_array, csc_matrix

NUMBERS: tuple[str, ...] = ("double", "single", "logical", "sparse", "int8", "int16", "int32", "int64")
NUMBERS += tuple(f"u{kind}" for kind in NUMBERS[4:])
TEXTS = ("cell", "char")


class Transposed:
    """A variable of a 7.3 file, which holds it column by column: rows are read when they are asked for."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._path, self._name, self.shape, self.dtype = path, name, shape, dtype

    def blocks(self, rows: int) -> Iterator[NDArray[np.generic]]:
        """All rows in their order, `(at most rows, …)` at a time. Raises DatasetError for a damaged file."""
        with _hdf5(self._path) as file:
            for start in range(0, self.shape[0], rows):
                yield np.asarray(file[self._name][..., start : start + rows].T)


def variables(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape as MATLAB shows it, class). Raises DatasetError for what is no MATLAB file."""
    if _is_hdf5(path):
        with _hdf5(path) as file:
            return {name: _described(file, name) for name in file if not name.startswith("#")}
    from scipy.io import whosmat

    try:
        return {name: (tuple(map(int, shape)), str(kind)) for name, shape, kind in whosmat(path)}
    except Exception as error:  # SciPy raises many kinds for files that are no MATLAB files
        raise DatasetError(f"{path}: cannot be read as a MATLAB file ({_line(error)})") from error


def numbers(path: Path, name: str) -> NDArray[np.generic] | csc_matrix | csc_array | Transposed:
    """A numeric variable `(rows, …)`: an array, a SciPy sparse matrix, or `Transposed` for 7.3.

    Raises DatasetError for what is not there, holds no real numbers, or is damaged.
    """
    shape, _ = _checked(path, name, NUMBERS, "numbers")
    if _is_hdf5(path):
        with _hdf5(path) as file:
            dtype = np.dtype(file[name].dtype)
        if dtype.kind not in "biuf":
            raise DatasetError(f"{path}: {name} holds {dtype}, but must hold real numbers")
        return Transposed(path, name, shape, dtype)
    value = _load(path, name)
    if getattr(value, "dtype", np.dtype(object)).kind not in "biuf":
        raise DatasetError(f"{path}: {name} holds {getattr(value, 'dtype', type(value))}, but must hold real numbers")
    return value


def texts(path: Path, name: str) -> list[tuple[str, ...]]:
    """A cell or char variable, a tuple of texts a row.

    Raises DatasetError for what is not there, holds something else, or is damaged.
    """
    shape, kind = _checked(path, name, TEXTS, "texts")
    if _is_hdf5(path):
        return _texts_of_hdf5(path, name, kind)
    value = np.asarray(_load(path, name))
    if value.dtype.kind == "U":  # a char matrix: one text a row
        return [(str(text).strip(),) for text in value.ravel()]
    table = value.reshape(1, -1).T if 1 in shape else value
    rows = []
    for row in table:
        cells = [np.asarray(cell) for cell in np.ravel(row)]
        if any(cell.dtype.kind != "U" or cell.size > 1 for cell in cells):
            raise DatasetError(f"{path}: {name} holds cells that are no texts")
        rows.append(tuple("".join(cell.ravel().tolist()).strip() for cell in cells))
    return rows


def _checked(path: Path, name: str, kinds: tuple[str, ...], what: str) -> tuple[tuple[int, ...], str]:
    found = variables(path)
    if name not in found:
        listed = ", ".join(f"{key} {'×'.join(map(str, shape))} {kind}" for key, (shape, kind) in sorted(found.items()))
        raise DatasetError(f"{path}: has no variable {name}; found {listed or 'none'}")
    shape, kind = found[name]
    if kind not in kinds:
        raise DatasetError(
            f"{path}: {name} is of class {kind}, but must hold {what} ({', '.join(kinds)}); cmh builds no objects"
            " from files"
        )
    return shape, kind


def _load(path: Path, name: str) -> NDArray[np.generic] | csc_matrix | csc_array:
    from scipy.io import loadmat

    try:
        value: NDArray[np.generic] | csc_matrix | csc_array = loadmat(path, variable_names=[name])[name]
        return value
    except Exception as error:  # SciPy raises many kinds for damaged files
        raise DatasetError(f"{path}: {name} cannot be read ({_line(error)})") from error


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(520)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    return head[512:520] == b"\x89HDF\r\n\x1a\n" or head[:8] == b"\x89HDF\r\n\x1a\n"


@contextlib.contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except DatasetError:
        raise
    except Exception as error:  # h5py raises many kinds for damaged files
        raise DatasetError(f"{path}: cannot be read as a MATLAB 7.3 file ({_line(error)})") from error


def _described(file: h5py.File, name: str) -> tuple[tuple[int, ...], str]:
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return (), "link to elsewhere"
    value = file[name]
    kind = value.attrs.get("MATLAB_class", b"")
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else str(kind)
    if "MATLAB_sparse" in value.attrs or not isinstance(value, h5py.Dataset):
        return (), f"{kind or 'group'} in a group"
    if value.external or value.is_virtual:
        return tuple(value.shape[::-1]), "data in another file"
    if value.dtype.kind == "O":
        kind = "cell" if kind in ("", "cell") else kind
    return tuple(map(int, value.shape[::-1])), kind or {"f": "double", "b": "logical"}.get(
        value.dtype.kind, str(value.dtype)
    )


def _texts_of_hdf5(path: Path, name: str, kind: str) -> list[tuple[str, ...]]:
    import h5py

    def text(codes: h5py.Dataset) -> str:
        values = np.asarray(codes)
        if values.dtype.kind != "u":
            raise DatasetError(f"{path}: {name} holds cells that are no texts")
        return "".join(map(chr, values.T.ravel().tolist())).strip() if values.ndim > 1 else ""

    with _hdf5(path) as file:
        value = file[name]
        if kind == "char":
            return [("".join(map(chr, row)).strip(),) for row in np.asarray(value).T.tolist()]
        if h5py.check_ref_dtype(value.dtype) is not h5py.Reference:
            raise DatasetError(f"{path}: {name} holds cells that are no texts")
        table = np.asarray(value).T  # (rows, columns) of references
        table = table.reshape(-1, 1) if 1 in table.shape else table
        return [tuple(text(file[reference][()]) for reference in row) for row in table]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
