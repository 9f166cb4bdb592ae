"""Texts in the cache: bags of words, of which nearly all numbers are 0, as sparse matrices; other texts dense."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cmh import cache
from cmh.cache import Contents, RowArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FEW = 1 / 20  # share of numbers that are not 0, up to which a product with the sparse matrix is the faster one
PARTS = ("data", "indices", "indptr", "shape")


def contents(
    texts: RowArray, rows: Mapping[str, NDArray[np.int64]], called: str = "text", few: float = FEW
) -> Contents:
    """The rows of each part, `(n, d)`, for the cache; whether they are few words is decided for all parts alike.

    `few`: the share of numbers that are not 0 up to which they are sparse.
    """
    found: dict[str, csr_array] = {}
    for part, index in rows.items():
        matrix = _few(texts, index, few)
        if matrix is None:
            return {f"{name}/{called}": cache.Rows(texts, index) for name, index in rows.items()}
        found[part] = matrix
    return {
        f"{part}/{called}/{name}": np.asarray(getattr(matrix, name)) for part, matrix in found.items() for name in PARTS
    }


def read(folder: Path, called: str = "text") -> csr_array | None:
    """The sparse texts `(n, d)` of a part's folder; None where they are dense. Raises OSError or ValueError."""
    if not (folder / called).is_dir():
        return None
    from scipy.sparse import csr_array

    data, indices, indptr, shape = (np.load(folder / called / f"{name}.npy", allow_pickle=False) for name in PARTS)
    return csr_array((data, indices, indptr), shape=tuple(shape.tolist()), copy=False)


def _few(texts: RowArray, index: NDArray[np.int64], few: float) -> csr_array | None:
    from scipy.sparse import csr_array, vstack

    if len(texts.shape) > 2:  # a text's tokens
        return None
    # SciPy knows no float16; what it holds is exact in float32.
    blocks, n_words, n_rows = [csr_array((0, texts.shape[1]), dtype=np.float32)], 0, 0
    for start in range(0, len(index), cache.ROWS_AT_ONCE):
        block = csr_array(np.asarray(texts[index[start : start + cache.ROWS_AT_ONCE]], np.float32))
        blocks.append(block)
        n_words, n_rows = n_words + block.nnz, n_rows + block.shape[0]
        if n_words > few * n_rows * texts.shape[1]:
            return None
    return csr_array(vstack(blocks, format="csr"))
