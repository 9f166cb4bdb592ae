"""Labels of a dataset of one's own as columns of 0 and 1, however they were written: names, class numbers, matrices."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cmh.config import shown, unknown
from cmh.datasets.arrays import Given
from cmh.datasets.own.item_list import Item
from cmh.datasets.own.settings import FILE
from cmh.datasets.problems import Problems

MOST_CLASSES = 10_000  # of class numbers: more are taken for the numbers of items
SIGNS = (",", "|", ";", "/", "\t", " ")  # between which people write several labels

Labels = NDArray[np.uint8]  # (n, c), 0 and 1


def of_items(found: Sequence[Item], names: list[str] | None, problems: Problems) -> tuple[Labels, list[str]]:
    """Labels of items and the names of their columns; a label that is not among `names` is a problem."""
    said = {label for item in found for label in item.labels}
    called = {label: label for label in said}  # as written → name
    if said and all(label.isascii() and label.isdigit() for label in said):
        numbers = sorted(map(int, said))
        first = _first_number(numbers, names) if names and not said.intersection(names) else None
        if names and first is not None:
            called = {label: names[int(label) - first] for label in said}
        if first is not None or not names:
            problems.note(_class_numbers(len(said), numbers, names, first))
    _point_at_joined(said, problems)
    columns = names or sorted(said)
    column = {label: number for number, label in enumerate(columns)}
    labels = np.zeros((len(found), len(columns)), np.uint8)
    for row, item in enumerate(found):
        for label in item.labels:
            if called[label] in column:
                labels[row, column[called[label]]] = 1
            else:
                problems.item(row, "label", f"{item.where}: label {unknown(label, columns)}")
    return labels, columns


def of_names(said: Sequence[str], where: str, names: list[str] | None, problems: Problems) -> tuple[Labels, list[str]]:
    """Labels of rows that have one name each, or none (""), and the names of their columns."""
    items = [Item(f"{where}: row {row}", "", labels=(label,) if label else ()) for row, label in enumerate(said)]
    return of_items(items, names, problems)


def of_array(given: Given, n: int, names: list[str] | None, problems: Problems) -> tuple[Labels, list[str]] | None:
    """Labels `(n, c)` of a given array: columns of 0 and 1, or class numbers `(n,)`, `(n, 1)` or `(1, n)`.

    None, with the reason among the problems, where they are neither.
    """
    raw = given.whole()
    different: list[float] = np.unique(raw).tolist()
    numbers = raw.ndim == 1 or (raw.shape in ((n, 1), (1, n)) and different not in ([0], [1]))
    signed = -1 in different and set(different) <= {-1, 0, 1}
    if signed or (not numbers and len(different) == 2 and different[0] == 0 and different[1] != 1):
        values = " and ".join(f"{value:g}" for value in different)
        problems.add(
            "features", f"{given.where} holds {values}: write (labels > 0), 1 where an item has the label, else 0"
        )
        return None
    if numbers:
        return _from_numbers(raw.ravel(), given.where, names, problems)
    labels = (raw != 0).astype(np.uint8)
    odd = (raw != 0) & (raw != 1)
    for row in np.flatnonzero(odd.any(1)).tolist():
        value = raw[row][odd[row]][0].item()
        problems.item(row, "label", f"{given.where}: row {row} holds {value:g}, but must hold 0 and 1 alone")
    columns = names or [f"label {number}" for number in range(1, labels.shape[1] + 1)]
    if len(columns) != labels.shape[1]:
        problems.add(
            "features", f"{FILE}: labels has {len(columns)} names for {labels.shape[1]} columns of labels; name each"
        )
        return None
    return labels, columns


def _from_numbers(
    raw: NDArray[np.generic], where: str, names: list[str] | None, problems: Problems
) -> tuple[Labels, list[str]] | None:
    """One column a class of the class numbers `(n,)`."""
    values = raw.astype(np.float64)
    wrong = [shown(value) for value in np.unique(values[~((values >= 0) & (values % 1 == 0))]).tolist()]
    if wrong:
        some = ", ".join(wrong[:3])
        problems.add("features", f"{where} is taken for class numbers, but holds {some}; must be 0, 1, 2, …")
        return None
    numbers, column = np.unique(values.astype(np.int64), return_inverse=True)
    if len(numbers) > MOST_CLASSES:
        problems.add(
            "features",
            f"{where} is taken for class numbers, but holds {len(numbers):,} different ones: are they of items?",
        )
        return None
    first = 0
    called = [f"class {number}" for number in numbers.tolist()]
    if names:
        found = _first_number(numbers.tolist(), names)
        if found is None:
            problems.add(
                "features",
                f"{FILE}: labels has {len(names)} names, but {where} holds class numbers from {numbers[0]} to"
                f" {numbers[-1]}",
            )
            return None
        first, called = found, names
        column = numbers[column] - first
    labels = np.zeros((len(values), len(called)), np.uint8)
    labels[np.arange(len(values)), column] = 1
    problems.note(_class_numbers(len(numbers), numbers.tolist(), names, first, where))
    return labels, called


def _first_number(numbers: Sequence[int], names: Sequence[str]) -> int | None:
    """The number that the first name has, 0 (as in Python) or 1 (as in MATLAB); None where neither fits."""
    if numbers[-1] < len(names):
        return 0
    return 1 if numbers[-1] == len(names) and numbers[0] > 0 else None


def _class_numbers(
    n: int, numbers: Sequence[int], names: Sequence[str] | None, first: int | None, where: str = "items"
) -> str:
    line = f"{where}: labels are class numbers; each of the {n:,} classes ({numbers[0]} … {numbers[-1]}) is a column"
    return line if not names else f"{line}; {first} is {names[0]!r}"


def _point_at_joined(said: set[str], problems: Problems) -> None:
    """A note where labels look like several labels in one text."""
    for sign in SIGNS:
        joined = [label for label in sorted(said) if sign in label]
        alone = said.difference(joined)
        parts = {label: [part.strip() for part in label.split(sign) if part.strip()] for label in joined}
        times = collections.Counter(part for some in parts.values() for part in set(some))
        if sign == " ":  # many labels have names of several words
            likely = [label for label in joined if all(part in alone for part in parts[label])]
        else:
            likely = [label for label in joined if any(part in alone or times[part] > 1 for part in parts[label])]
        if likely:
            listed = " and ".join(shown(label) for label in likely[:2])
            problems.note(
                f"{len(likely):,} labels look like several in one, such as {listed}: if they are, write"
                f" label_separator: {sign!r} in {FILE} for a table, and a list of labels in JSON Lines"
            )
            return
