"""What the metrics accept, in one place. Each check gives the broken rules as lines, so that a call can name them all.

Nothing here imports torch: who passes a tensor has imported it, so it is looked up in `sys.modules`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import NDArray

from cmh.errors import MetricError

if TYPE_CHECKING:
    import torch

    Matrix = NDArray[np.generic] | torch.Tensor

Words = NDArray[np.uint64]
_CURE_ZERO_ONE = "turn 0/1 codes into ±1 by numpy.where(codes > 0, 1, -1)"
TIES = ("expected", "optimistic", "pessimistic", "index")


def refuse(problems: Iterable[str]) -> None:
    """Do nothing without problems. Raises one MetricError with all of them otherwise."""
    found = list(problems)
    if found:
        raise MetricError(*found)


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Whether `value` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_matrix(value: object) -> TypeGuard[Matrix]:
    """Whether `value` is a NumPy array or a torch tensor, of whatever shape."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def on_accelerator(value: object) -> TypeGuard[torch.Tensor]:
    """Whether `value` is a torch tensor that does not lie in main memory."""
    return is_tensor(value) and value.device.type != "cpu"


def to_numpy(matrix: object) -> NDArray[np.number]:
    """A matrix `(n, columns)` of real numbers as a NumPy array; a tensor in main memory is not copied."""
    if not is_tensor(matrix):
        return np.asarray(matrix)
    tensor = matrix.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such type
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


def matrix_problems(name: str, matrix: object) -> list[str]:
    """A matrix is a NumPy array or torch tensor of real numbers, 2-D, with rows and columns."""
    if isinstance(matrix, np.ndarray):
        real = matrix.dtype.kind in "biuf"
    elif is_tensor(matrix):
        real = not matrix.dtype.is_complex
    else:
        return [f"{name} is a {type(matrix).__name__}, but must be a NumPy array or a torch tensor; try numpy.asarray"]
    if not real:
        return [f"{name} has type {matrix.dtype}, but must hold real numbers"]
    if matrix.ndim != 2:
        return [f"{name} has {matrix.ndim} dimensions, but must have 2, an item a row; reshape it"]
    rows, columns = matrix.shape
    problems = []
    if rows == 0:
        problems.append(f"{name} has no rows, but must hold at least one item; is the split empty?")
    if columns == 0:
        problems.append(f"{name} has no columns, but must have at least one")
    return problems


def number_problems(name: str, codes: object) -> list[str]:
    """Codes before their sign is taken: a matrix without NaN, and not of 0/1 codes, whose signs are all alike."""
    problems = matrix_problems(name, codes)
    if not problems and is_matrix(codes):
        if _holds_nan(codes):
            problems.append(_nan(name, to_numpy(codes)))
        elif _zero_one(codes[:1]) and _zero_one(codes) and bool((codes == 1).any()) and bool((codes == 0).any()):
            problems.append(f"{name} hold 0 and 1 only, so that no sign tells them apart; {_CURE_ZERO_ONE}")
    return problems


def code_problems(name: str, codes: object) -> list[str]:
    """Codes are +1 or -1, nothing else: 0 would give half distances, and its sign is the caller's to state."""
    problems = matrix_problems(name, codes)
    if problems or not is_matrix(codes) or bool(((codes == 1) | (codes == -1)).all()):
        return problems
    array = to_numpy(codes)
    if (array != array).any():
        return [_nan(name, array)]
    if _zero_one(array):
        return [f"{name} hold 0 and 1 only, but must hold +1 and -1; {_CURE_ZERO_ONE}"]
    bad = _first(array, np.abs(array) != 1)
    return [f"{name} hold {bad}, but must hold +1 and -1 only; apply sign with sign(0) = +1"]


def label_problems(name: str, labels: object) -> list[str]:
    """Labels are 0 or 1, one column a label."""
    problems = matrix_problems(name, labels)
    if problems or not is_matrix(labels) or bool(((labels == 0) | (labels == 1)).all()):
        return problems
    array = to_numpy(labels)
    bad = _first(array, (array != 0) & (array != 1))
    return [f"{name} hold {bad}, but must hold 0 and 1 only; turn class numbers into one column a label"]


def ranking_problems(
    query_codes: object, database_codes: object, query_labels: object, database_labels: object
) -> list[str]:
    """All that is wrong with the four matrices of a retrieval."""
    sides = {
        "query_codes": code_problems("query_codes", query_codes),
        "database_codes": code_problems("database_codes", database_codes),
        "query_labels": label_problems("query_labels", query_labels),
        "database_labels": label_problems("database_labels", database_labels),
    }
    problems = [problem for found in sides.values() for problem in found]
    shapes = {
        name: tuple(matrix.shape)
        for name, matrix in zip(sides, (query_codes, database_codes, query_labels, database_labels), strict=True)
        if is_matrix(matrix) and len(matrix.shape) == 2
    }
    for first, second, axis, what, cure in (
        ("query_codes", "database_codes", 1, "bits", "were they made by models of one code length?"),
        ("query_labels", "database_labels", 1, "labels", "both must use the same label columns"),
        ("query_codes", "query_labels", 0, "rows", "both must hold the same items in the same order"),
        ("database_codes", "database_labels", 0, "rows", "both must hold the same items in the same order"),
    ):
        if first in shapes and second in shapes and shapes[first][axis] != shapes[second][axis]:
            counts = f"{shapes[first][axis]} {what}, but {second} {shapes[second][axis]}"
            problems.append(f"{first} have {counts}; {cure}")
    return problems


def word_problems(
    query_words: Words, database_words: Words, query_label_words: Words, database_label_words: Words, bits: int
) -> list[str]:
    """All that is wrong with packed codes and labels, `(n, words)` each.

    A wrong one would make the kernel count outside its histogram.
    """
    words = {
        "query_words": query_words,
        "database_words": database_words,
        "query_label_words": query_label_words,
        "database_label_words": database_label_words,
    }
    problems = integer_problems("bits", bits)
    for name, array in words.items():
        if not isinstance(array, np.ndarray) or array.dtype != np.uint64 or array.ndim != 2 or 0 in array.shape:
            maker = "pack_labels" if "label" in name else "pack_codes"
            problems.append(f"{name} must be a 2-D uint64 array with at least one row and one word, as {maker} gives")
    if problems:
        return problems
    width = -(-bits // 64)
    for name in ("query_words", "database_words"):
        if words[name].shape[1] != width:
            problems.append(f"{name} have {words[name].shape[1]} words, but codes of {bits} bits have {width}")
        elif bits % 64 and (words[name][:, -1] >> np.uint64(bits % 64)).any():
            problems.append(f"{name} have bits set beyond bit {bits}; were they packed from longer codes?")
    if query_label_words.shape[1] != database_label_words.shape[1]:
        counts = f"{query_label_words.shape[1]} words, but database_label_words {database_label_words.shape[1]}"
        problems.append(f"query_label_words have {counts}; both must use the same label columns")
    for name, labels in (("query_words", "query_label_words"), ("database_words", "database_label_words")):
        if len(words[name]) != len(words[labels]):
            counts = f"{len(words[name])} rows, but {labels} {len(words[labels])}"
            problems.append(f"{name} have {counts}; both must hold the same items in the same order")
    return problems


def histogram_problems(all_counts: NDArray[np.integer], relevant_counts: NDArray[np.integer]) -> list[str]:
    """All that is wrong with a pair of histograms, `(n_query, bits + 1)` each."""
    problems = []
    for name, counts in (("all_counts", all_counts), ("relevant_counts", relevant_counts)):
        if not isinstance(counts, np.ndarray) or counts.dtype.kind not in "iu" or counts.ndim != 2 or 0 in counts.shape:
            problems.append(f"{name} must be a 2-D array of integers, (n_query, bits + 1), as histograms gives")
    if problems:
        return problems
    if all_counts.shape != relevant_counts.shape:
        shapes = f"{all_counts.shape}, but relevant_counts {relevant_counts.shape}"
        return [f"all_counts is {shapes}; both must come from one call"]
    if (relevant_counts < 0).any() or (relevant_counts > all_counts).any():
        problems.append("relevant_counts must lie between 0 and all_counts; were the two exchanged?")
    return problems


def integer_problems(name: str, value: object, *, low: int = 1) -> list[str]:
    """An integer (no bool, no float) of at least `low`."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= low:
        return []
    return [f"{name} is {value!r}, but must be an integer >= {low}"]


def cut_problems(k: object) -> list[str]:
    """`k` is None, which is the whole database, or a positive integer."""
    return [] if k is None else [f"{line}, or None for the whole database" for line in integer_problems("k", k)]


def ties_problems(ties: object, known: tuple[str, ...] = TIES) -> list[str]:
    """The rule for tied items is one of the known ones."""
    if ties in known:
        return []
    return [f"ties is {ties!r}, but must be one of {', '.join(known)}"]


def _zero_one(matrix: Matrix) -> bool:
    return bool(((matrix == 0) | (matrix == 1)).all())


def empty_problems(empty: object) -> list[str]:
    """What a mean makes of queries that have nothing to divide by is one of two rules."""
    return [] if empty in ("zero", "drop") else [f"empty is {empty!r}, but must be one of zero, drop"]


def _holds_nan(matrix: Matrix) -> bool:
    if is_tensor(matrix):
        return bool((matrix != matrix).any())  # only NaN differs from itself
    return bool(np.isnan(to_numpy(matrix)).any())


def _nan(name: str, array: NDArray[np.number]) -> str:
    """Where the first NaN of `(n, columns)` stands."""
    place = _first(array, np.isnan(array))
    return f"{name} hold {place}, which has no sign and no distance; has the training diverged?"


def _first(array: NDArray[np.number], bad: NDArray[np.bool_]) -> str:
    """The first cell of `(n, columns)` that is `bad`, with its place."""
    row, column = np.argwhere(bad)[0]
    return f"{array[row, column].item()!r} (row {row}, column {column})"
