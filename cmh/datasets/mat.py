"""MATLAB files of every version, read without building anything but numbers and texts.

Up to 7.2 through SciPy, 7.3 (HDF5) through h5py. Objects, functions, structs and links to other files are refused;
that they stand beside what is asked for does no harm.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cmh.datasets import mat5, mat73
from cmh.datasets.mat73 import Transposed, clean, line
from cmh.errors import DatasetError

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csc_matrix

NUMBERS: tuple[str, ...] = ("double", "single", "logical", "sparse", "int8", "int16", "int32", "int64")
NUMBERS += tuple(f"u{kind}" for kind in NUMBERS[4:])
TEXTS = ("cell", "char")


def variables(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape as MATLAB shows it, class). Raises DatasetError for what is no MATLAB file."""
    if mat73.is_one(path):
        return mat73.variables(path)
    from scipy.io import whosmat

    try:
        return {name: (tuple(map(int, shape)), str(kind)) for name, shape, kind in whosmat(path)}
    except Exception as error:  # SciPy raises many kinds for files that are no MATLAB files
        with contextlib.suppress(ValueError, OSError, struct.error, zlib.error):
            return mat5.variables(path)
        raise DatasetError(
            f"{path}: cannot be read as a MATLAB file ({line(error)}); if it is damaged, copy or save it again"
        ) from error


def numbers(path: Path, name: str) -> NDArray[np.generic] | csc_matrix | csc_array | Transposed:
    """A numeric variable `(rows, …)`: an array, a SciPy sparse matrix, or `Transposed` for 7.3.

    Raises DatasetError for what is not there, holds no real numbers, or is damaged.
    """
    shape, _ = _checked(path, name, NUMBERS, "numbers")
    if mat73.is_one(path):
        return mat73.numbers(path, name, shape)
    value = _load(path, name)
    if getattr(value, "dtype", np.dtype(object)).kind not in "biuf":
        raise DatasetError(f"{path}: {name} holds {getattr(value, 'dtype', type(value))}, but must hold real numbers")
    return value


def texts(path: Path, name: str) -> list[tuple[str, ...]]:
    """A cell or char variable, a tuple of texts a row; an empty cell is an empty text, and a cell that holds a char
    matrix is as many texts as that has lines.

    Raises DatasetError for what is not there, holds something else, or is damaged.
    """
    shape, kind = _checked(path, name, TEXTS, "texts")
    if mat73.is_one(path):
        return mat73.texts(path, name, kind)
    value = np.asarray(_load(path, name))
    if value.dtype.kind == "U":  # a char matrix: one text a row, or several where it has three dimensions
        return [tuple(clean(str(text)) for text in row) for row in value.reshape(len(value), -1)]
    table = value.reshape(1, -1).T if 1 in shape else value
    rows = []
    for row in table:
        cells = [np.asarray(cell) for cell in np.ravel(row)]
        if any(cell.size and cell.dtype.kind != "U" for cell in cells):
            raise DatasetError(f"{path}: {name} holds cells that are no texts; save cellstr({name})")
        rows.append(tuple(clean(text) for cell in cells for text in (cell.ravel().tolist() or [""])))
    return rows


def _checked(path: Path, name: str, kinds: tuple[str, ...], what: str) -> tuple[tuple[int, ...], str]:
    found = variables(path)
    if name not in found:
        listed = ", ".join(f"{key} {'×'.join(map(str, shape))} {kind}" for key, (shape, kind) in sorted(found.items()))
        raise DatasetError(f"{path}: has no variable {name}; found {listed or 'none'}")
    shape, kind = found[name]
    if kind not in kinds:
        cure = "cmh builds no objects from files"
        if kind == "string" and kinds is TEXTS:
            cure = f"only MATLAB reads its strings: there, save {name} = cellstr({name})"
        raise DatasetError(f"{path}: {name} is of class {kind}, but must hold {what} ({', '.join(kinds)}); {cure}")
    return shape, kind


def _load(path: Path, name: str) -> NDArray[np.generic] | csc_matrix | csc_array:
    from scipy.io import loadmat

    try:
        mat5.check(path, name)
        value: NDArray[np.generic] | csc_matrix | csc_array = loadmat(path, variable_names=[name])[name]
        if not isinstance(value, np.ndarray):
            value.check_format(full_check=True)  # SciPy trusts the file, and writes anywhere where indices are damaged
        return value
    except Exception as error:  # SciPy raises many kinds for damaged files
        cure = "; if it is damaged, copy or save it again"
        if "reshape" in str(error):  # GNU Octave's sparse logical matrices, which Octave itself misreads
            cure = f"; if Octave wrote it, save double({name}) there"
        raise DatasetError(f"{path}: {name} cannot be read ({line(error)}){cure}") from error
