"""Engines whose files are arrays: NumPy, MATLAB, faiss, usearch. A set of codes is a file, or a variable of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh.encoded import Encoded
from cmh.engines.forms import FORMS, SIGNS, Answer, Packed, flags
from cmh.errors import ExportError

MATLAB = {  # torchcmh's names; items of one's own are asked for and searched
    **{"images": ("q_img", "r_img"), "texts": ("q_txt", "r_txt")},
    **{"query_image": ("q_img",), "query_text": ("q_txt",)},
    **{"database_image": ("r_img",), "database_text": ("r_txt",)},
}
MATLAB_BYTES = 2**31  # that no variable of a file of version 5 reaches


def write_npy(folder: Path, encoded: Encoded) -> None:
    """`SET.npy`: the bytes as they are."""
    for name, packed in encoded.sets.items():
        np.save(folder / f"{name}.npy", packed)


def ask_npy(folder: Path, name: str, queries: Packed, bits: int, k: int) -> Answer:
    """By NumPy's own population count."""
    packed = np.load(folder / f"{name}.npy", mmap_mode="r")
    return _sorted([np.bitwise_count(packed ^ query).sum(axis=1, dtype=np.int64) for query in queries], k)


def _sorted(distances: list[NDArray[np.int64]], k: int) -> Answer:
    """The first k items by distances `(n,)` from each query."""
    order = [apart.argsort(kind="stable")[:k] for apart in distances]
    return [apart[first].tolist() for apart, first in zip(distances, order, strict=True)], [o.tolist() for o in order]


def write_mat(folder: Path, encoded: Encoded) -> None:
    """`codes.mat`, ±1. Raises ExportError where a set is too large for such a file."""
    from scipy.io import savemat

    large = [name for name, packed in encoded.sets.items() if len(packed) * encoded.bits >= MATLAB_BYTES]
    if large:
        rule = f"at {encoded.bits} bytes an item {MATLAB_BYTES} bytes or more, which a .mat file cannot hold"
        raise ExportError(f"{', '.join(large)}: {rule}; export npy, or fewer items")
    signs = {name: FORMS[SIGNS](flags(packed, encoded.bits)) for name, packed in encoded.sets.items()}
    variables = {variable: signs[name] for name in signs for variable in MATLAB[name]}
    savemat(folder / "codes.mat", variables, do_compression=True)


def ask_mat(folder: Path, name: str, queries: NDArray[np.int8], bits: int, k: int) -> Answer:
    """By counting unequal signs."""
    from scipy.io import loadmat

    variable = MATLAB[name][-1]
    signs = loadmat(folder / "codes.mat", variable_names=[variable])[variable]
    return _sorted([(signs != query).sum(axis=1) for query in queries], k)


def write_faiss(folder: Path, encoded: Encoded) -> None:
    """`SET.faiss`, an IndexBinaryFlat."""
    import faiss

    for name, packed in encoded.sets.items():
        index = faiss.IndexBinaryFlat(8 * packed.shape[1])
        index.add(packed)
        (folder / f"{name}.faiss").write_bytes(faiss.serialize_index_binary(index).tobytes())


def ask_faiss(folder: Path, name: str, queries: Packed, bits: int, k: int) -> Answer:
    """The index read again."""
    import faiss

    distances, items = faiss.read_index_binary(str(folder / f"{name}.faiss")).search(queries, k)
    return distances.tolist(), items.tolist()


def write_usearch(folder: Path, encoded: Encoded) -> None:
    """`SET.bbin`, a matrix: an Index would be a graph."""
    from usearch.io import save_matrix

    for name, packed in encoded.sets.items():
        save_matrix(packed, str(folder / f"{name}.bbin"))


def ask_usearch(folder: Path, name: str, queries: Packed, bits: int, k: int) -> Answer:
    """Its exact search over the matrix."""
    from usearch.index import search
    from usearch.io import load_matrix

    packed = load_matrix(str(folder / f"{name}.bbin"))
    assert packed is not None  # as of a file that is not there
    found = search(packed, queries, k, "hamming", exact=True, dtype="b1")
    return found.distances.tolist(), found.keys.tolist()
