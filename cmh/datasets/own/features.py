"""An own dataset of arrays: image and text features and labels as they are given, rows read when they are asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from cmh.config import shown
from cmh.datasets import arrays, scan
from cmh.datasets.own.rows import VERSION, Rows, good
from cmh.datasets.own.settings import FILE, NEEDED, Settings
from cmh.datasets.problems import Problems
from cmh.datasets.source import Source
from cmh.datasets.split import SIDES
from cmh.errors import DatasetError


def source(folder: Path, wanted: Settings, problems: Problems) -> Source | None:
    """The dataset without its bad rows; None where there is nothing to go on with.

    Raises OSError where a file cannot be read.
    """
    opened = _opened(wanted, problems)
    if opened is None:
        return None
    given, columns = opened
    n = given["image"].shape[0]
    inspected = {key: arrays.inspect(given[key]) for key in ("image", "text")}
    for key, found in inspected.items():
        for number in found.not_finite:
            problems.item(number, "not finite", f"{given[key].where}: row {number} holds NaN or infinite values")
    labels = _labels(given["labels"], problems)
    label_names = wanted.labels or [f"label {number}" for number in range(1, labels.shape[1] + 1)]
    if len(label_names) != labels.shape[1]:
        problems.add("features", f"{FILE}: labels has {len(label_names)} names for {labels.shape[1]} columns of labels")
        return None
    sides = columns.get("split", [""] * n)
    for row, side in enumerate(sides):
        if side and side not in SIDES:
            problems.item(row, "split", f"split of row {row} is {shown(side)}, but must be {', '.join(SIDES)}")
    rows = Rows(_Numbered(given["image"].where, n), labels, label_names, columns.get("group", [""] * n), sides)
    found_good = good(rows, wanted.draw, problems)
    if found_good is None:
        return None
    kept = found_good.kept
    digests = sorted({str(path): scan.sha256(path) for path, _ in wanted.features.values()}.values())
    places = {key: [scan.sha256(path), name] for key, (path, name) in wanted.features.items()}
    about = {"version": VERSION, "labels": found_good.label_names, "arrays": places}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(kept.tobytes())

    def no_pictures() -> Iterator[bytes]:
        raise DatasetError(f"{wanted.name} is a dataset of feature arrays: there are no pictures to look at")

    def array(key: str) -> arrays.Chosen:
        return arrays.Chosen(given[key].rows, kept, np.dtype(inspected[key].dtype))

    return Source(
        name=wanted.name,
        sha256=digest.hexdigest(),
        label_names=tuple(found_good.label_names),
        split=found_good.split,
        labels=found_good.labels,
        text=lambda: array("text"),
        pictures=no_pictures,
        image=lambda: array("image"),
        features=f"given-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:8]}",
        skipped=tuple(problem.text for problem in problems.found),
        n_skipped=n - len(kept),
        groups=found_good.groups,
        inputs=(*(str(path) for path, _ in wanted.features.values()), f"{folder}/{FILE}"),
    )


def _opened(wanted: Settings, problems: Problems) -> tuple[dict[str, arrays.Given], dict[str, list[str]]] | None:
    """The arrays of numbers, and the columns of texts (split, group), all with the same number of rows."""
    given: dict[str, arrays.Given] = {}
    columns: dict[str, list[str]] = {}
    for key, (path, name) in wanted.features.items():
        try:
            if key in NEEDED:
                given[key] = arrays.numbers(path, name)
            else:
                columns[key] = arrays.texts(path, name)
        except DatasetError as error:
            problems.add("features", error.problems[0])
    if len(given) < len(NEEDED) or len(given) + len(columns) < len(wanted.features):
        return None
    for one in given.values():
        if len(one.shape) != 2 or not all(one.shape):
            problems.add("features", f"{one.where} is {one.shape}, but must be (items, columns)")
    sizes = {key: one.shape[0] for key, one in given.items()} | {key: len(value) for key, value in columns.items()}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{key} {size:,}" for key, size in sizes.items())
        problems.add("features", f"the numbers of rows disagree: {counts}")
    return None if problems.fatal else (given, columns)


def _labels(given: arrays.Given, problems: Problems) -> NDArray[np.uint8]:
    """Labels `(n, c)` as 0 and 1."""
    raw = given.whole()
    labels: NDArray[np.uint8] = (raw != 0).astype(np.uint8)
    for row in np.flatnonzero(((raw != 0) & (raw != 1)).any(1)).tolist():
        problems.item(row, "label", f"{given.where}: row {row} holds something else than 0 and 1")
    for row in np.flatnonzero(~labels.any(1)).tolist():
        problems.item(row, "no label", f"{given.where}: row {row} has no label")
    return labels


class _Numbered(Sequence[str]):
    """Names of rows, made when a message needs one."""

    def __init__(self, where: str, n: int) -> None:
        self._where, self._n = where, n

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[number] for number in range(self._n)[row]]
        return f"{self._where}: row {row}"
