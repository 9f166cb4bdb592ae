"""A file of codes: what is needed to compute any retrieval metric again, without the model and without the data.

An uncompressed `.npz` with the arrays

query_image, query_text `(n_query, …)`, database_image, database_text `(n_database, …)`: codes, either ±1 of any number
    type, `(n, bits)`, or packed as `numpy.packbits(codes > 0, axis=1, bitorder="little")`, uint8 `(n, ceil(bits / 8))`,
    beside an integer `bits`. All four may have a leading axis of epochs.
query_labels `(n_query, c)`, database_labels `(n_database, c)`: 0 or 1, one column a label.
query_groups `(n_query,)`, optional: queries that are near-duplicates of each other share an integer.
chosen_epoch, optional, only with an axis of epochs: the one that validation chose, 1-based.

Other arrays are left alone. cmh itself writes packed codes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import files
from cmh.errors import RecordError
from cmh.metrics import _checks

CODES = ("query_image", "query_text", "database_image", "database_text")
LABELS = ("query_labels", "database_labels")
_CURE_SIGN = "apply sign with sign(0) = +1, as numpy.where(outputs >= 0, 1, -1)"


@dataclasses.dataclass(frozen=True)
class Codes:
    """Codes of one model, or of one model after each epoch, under the names and rules of the file.

    Given as ±1 (of any number type) or packed beside `bits`, the four are packed afterwards, labels uint8, `bits` an
    integer: the types below are what holds then. Raises RecordError that lists every broken rule.
    """

    query_image: NDArray[np.uint8]
    query_text: NDArray[np.uint8]
    database_image: NDArray[np.uint8]
    database_text: NDArray[np.uint8]
    query_labels: NDArray[np.uint8]
    database_labels: NDArray[np.uint8]
    query_groups: NDArray[np.integer] | None = None
    chosen_epoch: int | None = None
    bits: int = 0  # of packed codes; 0: given as ±1

    def __post_init__(self) -> None:
        for name, value in _checked(dict(vars(self))).items():
            object.__setattr__(self, name, value)  # the dataclass is frozen for everybody else

    @property
    def epochs(self) -> int:
        """Length of the axis of epochs; 0 where there is none."""
        return len(self.query_image) if self.query_image.ndim == 3 else 0

    def after(self, epoch: int) -> Codes:
        """The codes after one epoch, 1-based, without the axis."""
        one = {name: getattr(self, name)[epoch - 1] for name in CODES}
        return dataclasses.replace(self, **one, chosen_epoch=None)


def pack(signs: NDArray[np.number]) -> NDArray[np.uint8]:
    """±1 codes `(…, n, bits)` as bytes `(…, n, ceil(bits / 8))`: bit j of an item is the (j % 8)-th from below of byte
    j // 8. Unchecked: what is not above 0 counts as -1.
    """
    return np.packbits(signs > 0, axis=-1, bitorder="little")


def write(path: Path, codes: Codes) -> None:
    """Write the file, whole or not at all. Raises OSError where it cannot be written."""
    arrays = {name: value for name, value in vars(codes).items() if value is not None}
    with files.new_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read(path: Path) -> Codes:
    """A file of codes.

    Raises RecordError that names the file and lists everything that is wrong with it.
    """
    arrays = _arrays(path)
    heading = f"{path} is no file of codes"
    if missing := [name for name in (*CODES, *LABELS) if name not in arrays]:
        present = ", ".join(sorted(arrays)) or "nothing"
        raise RecordError(f"without {', '.join(missing)}; it holds {present}", heading=heading)
    known = {field.name for field in dataclasses.fields(Codes)}
    try:
        return Codes(**{name: array for name, array in arrays.items() if name in known})
    except RecordError as error:
        raise RecordError(*error.problems, heading=heading) from None


def _arrays(path: Path) -> dict[str, Any]:  # whether they are what the fields of `Codes` want, that checks
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise RecordError(f"{path}: holds a single array, but a file of codes is an .npz; use numpy.savez")
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise RecordError(f"{path}: there is no such file") from None
    except RecordError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecordError(f"{path}: cannot be read ({reason})") from error
    except Exception as error:  # foreign bytes fail in zipfile, zlib or numpy, each with errors of its own
        cure = "truncated, or with arrays of Python objects?"
        raise RecordError(f"{path}: cannot be read as .npz ({error}); {cure}") from error


def _checked(values: dict[str, object]) -> dict[str, object]:
    """What a `Codes` holds, from what it was given."""
    given, epoch = _whole(values["bits"]), _whole(values["chosen_epoch"])
    problems = [] if given == 0 and isinstance(given, int) else _checks.integer_problems("bits", given)
    bits = 0 if problems or not isinstance(given, (int, np.integer)) else int(given)
    arrays: dict[str, NDArray[np.number]] = {}
    widths: dict[str, int] = {}
    for name in CODES:
        codes = values[name]
        found = _code_problems(name, codes, bits)
        problems += found
        if not found and isinstance(codes, np.ndarray):
            packed = _is_packed(codes, bits)
            widths[name] = bits if packed else codes.shape[-1]
            arrays[name] = codes if packed else pack(codes)
    for name in LABELS:
        found = _checks.label_problems(name, values[name])
        problems += found
        if not found:
            arrays[name] = _checks.to_numpy(values[name]).astype(np.uint8, copy=False)
    if not problems and len(set(widths.values())) > 1:
        each = ", ".join(f"{name} {width}" for name, width in widths.items())
        problems.append(f"codes differ in bits: {each}; were they made by models of one code length?")
    if not problems:
        shape = arrays["query_image"].shape
        problems = _shape_problems(arrays)
        problems += _group_problems(values["query_groups"], shape) + _epoch_problems(epoch, shape)
    if problems:
        raise RecordError(*problems)
    return {**values, **arrays, "chosen_epoch": epoch, "bits": widths["query_image"]}


def _whole(value: object) -> object:
    """An integer that a file holds as an array; anything else as it is."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iu":
        return int(value.item())
    return value


def _is_packed(codes: NDArray[np.number], bits: int) -> bool:
    """Whether `(…, n, width)` is what `pack` makes of codes of that many bits."""
    return bits > 0 and codes.dtype == np.uint8 and codes.shape[-1] == -(-bits // 8)


def _code_problems(name: str, codes: object, bits: int) -> list[str]:
    """What is wrong with one of the four arrays."""
    if not isinstance(codes, np.ndarray) or codes.dtype.kind not in "iuf":
        kind = f"type {codes.dtype}" if isinstance(codes, np.ndarray) else f"type {type(codes).__name__}"
        cure = "of 0/1 b write numpy.where(b > 0, 1, -1)"
        return [f"{name} has {kind}, but codes are ±1, or packed uint8 beside `bits`; {cure}"]
    if codes.ndim not in (2, 3) or 0 in codes.shape:
        shape = "(n, bits), or (epochs, n, bits)"
        return [f"{name} has shape {codes.shape}, but must be {shape}, with nothing empty"]
    if _is_packed(codes, bits):
        beyond = bits % 8 and (codes[..., -1] >> (bits % 8)).any()
        cure = 'were they packed with bitorder="little"?'
        return [f"{name} have bits set beyond bit {bits}; {cure}"] if beyond else []
    wrong = (codes != 1) & (codes != -1)
    if wrong.any():
        return [f"{name} {_cure(codes, wrong, bits)}"]
    if bits and codes.shape[-1] != bits:
        return [f"{name} have {codes.shape[-1]} columns, but `bits` is {bits}"]
    return []


def _cure(codes: NDArray[np.number], wrong: NDArray[np.bool_], bits: int) -> str:
    """What codes `(…, n, bits)` that are not ±1 where `wrong` says so may have been meant as."""
    if np.isnan(codes).any():
        return f"hold nan {_place(np.isnan(codes))}, which has no sign; has the training diverged?"
    if np.isin(codes, (0, 1)).all():
        return "hold 0 and 1 only: 0/1 codes: write numpy.where(b > 0, 1, -1), or pack them and add `bits`"
    if codes.dtype == np.uint8 and bits:
        width = -(-bits // 8)
        return f"have {codes.shape[-1]} bytes an item, but {bits} bits are {width}; is `bits` of another model?"
    if codes.dtype == np.uint8:
        return "are uint8 without `bits`: if they are packed, add the integer `bits` to the file"
    return f"hold {codes[wrong][0].item()!r} {_place(wrong)}, but must hold +1 and -1 only; {_CURE_SIGN}"


def _place(bad: NDArray[np.bool_]) -> str:
    """The first true cell of `(n, bits)` or `(epochs, n, bits)`, in words."""
    *epoch, row, column = np.argwhere(bad)[0]
    return f"({f'epoch {epoch[0] + 1}, ' if epoch else ''}row {row}, column {column})"


def _shape_problems(arrays: dict[str, NDArray[np.number]]) -> list[str]:
    """What does not go together; the shapes are those of the file."""
    problems = []
    shapes = {name: array.shape for name, array in arrays.items()}
    for name, other, axis, what, cure in (
        *((name, "query_image", 0, "epochs", "all four need the same axis of epochs") for name in CODES[1:]),
        ("query_text", "query_image", -2, "items", "both must hold the same items in the same order"),
        ("database_text", "database_image", -2, "items", "both must hold the same items in the same order"),
        ("query_labels", "query_image", -2, "items", "both must hold the same items in the same order"),
        ("database_labels", "database_image", -2, "items", "both must hold the same items in the same order"),
        ("query_labels", "database_labels", -1, "labels", "both must use the same label columns"),
    ):
        ours, theirs = shapes[name], shapes[other]
        pair = (len(ours) > 2 and ours[0], len(theirs) > 2 and theirs[0]) if axis == 0 else (ours[axis], theirs[axis])
        if pair[0] != pair[1]:
            problems.append(f"{name} has {int(pair[0])} {what}, but {other} {int(pair[1])}; {cure}")
    return problems


def _group_problems(groups: object, shape: tuple[int, ...]) -> list[str]:
    """`shape`: of the queries' codes."""
    if groups is None:
        return []
    fine = isinstance(groups, np.ndarray) and groups.dtype.kind in "iu" and groups.shape == (shape[-2],)
    return [] if fine else [f"query_groups must be integers of shape ({shape[-2]},), one for each query"]


def _epoch_problems(epoch: object, shape: tuple[int, ...]) -> list[str]:
    epochs = shape[0] if len(shape) == 3 else 0
    if epoch is None or (isinstance(epoch, int) and 1 <= epoch <= epochs):
        return []
    axis = f"the file holds {epochs}" if epochs else "the file has no axis of epochs"
    return [f"chosen_epoch is {epoch!r}, but must be one epoch, counted from 1; {axis}"]
