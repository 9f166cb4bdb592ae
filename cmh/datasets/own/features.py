"""An own dataset of arrays: image and text features and labels as they are given, rows read when they are asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from cmh.config import shown
from cmh.datasets import arrays, scan
from cmh.datasets.own import labels
from cmh.datasets.own.rows import VERSION, Rows, good
from cmh.datasets.own.settings import FILE, NEEDED, Settings
from cmh.datasets.problems import Problems
from cmh.datasets.source import Source
from cmh.datasets.split import SIDES, meant
from cmh.errors import DatasetError


def source(folder: Path, wanted: Settings, problems: Problems) -> Source | None:
    """The dataset without its bad rows; None where there is nothing to go on with.

    Raises OSError where a file cannot be read.
    """
    given, columns = _opened(wanted, problems)
    inspected = {key: arrays.inspect(given[key]) for key in NEEDED[:2] if key in given}
    for key, found in inspected.items():
        for number in found.not_finite:
            problems.item(number, "not finite", f"{given[key].where}: row {number} holds NaN or infinite values")
    labelled = None
    if "labels" in given:
        labelled = labels.of_array(
            given["labels"], given.get("image", given["labels"]).shape[0], wanted.labels, problems
        )
    elif "labels" in columns:
        path, name = wanted.features["labels"]
        labelled = labels.of_names(columns["labels"], f"{path.name}: {name}".rstrip(": "), wanted.labels, problems)
    if labelled is None or problems.fatal:
        return None
    matrix, label_names = labelled
    n = len(matrix)
    sides = columns.get("split", [""] * n)
    for row, side in enumerate(sides):
        if side and side not in SIDES:
            hint = f"; did you mean {meant(side)!r}?" if meant(side) else ""
            line = f"split of row {row} is {shown(side)}, but must be {', '.join(SIDES)}{hint}"
            problems.item(row, "split", line, optional=not hint)
    rows = Rows(_Numbered(given["image"].where, n), matrix, label_names, columns.get("group", [""] * n), sides)
    found_good = good(rows, wanted.draw, problems)
    if found_good is None:
        return None
    kept = found_good.kept
    digests = sorted({str(path): scan.sha256(path) for path, _ in wanted.features.values()}.values())
    places = {key: [scan.sha256(path), name] for key, (path, name) in wanted.features.items()}
    about = {"version": VERSION, "labels": found_good.label_names, "arrays": places}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(kept.tobytes())

    def no_picture(_row: int) -> bytes:
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
        picture=no_picture,
        image=lambda: array("image"),
        features=f"given-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:8]}",
        skipped=tuple(problem.text for problem in problems.found),
        n_skipped=n - len(kept),
        notes=tuple(problems.notes),
        groups=found_good.groups,
        inputs=(*(str(path) for path, _ in wanted.features.values()), f"{folder}/{FILE}"),
    )


def _opened(wanted: Settings, problems: Problems) -> tuple[dict[str, arrays.Given], dict[str, list[str]]]:
    """The arrays of numbers that can be read, and the columns of texts (split, group).

    That they have not the same number of rows is a problem.
    """
    given: dict[str, arrays.Given] = {}
    columns: dict[str, list[str]] = {}
    for key, (path, name) in wanted.features.items():
        try:
            if key in NEEDED and not (key == "labels" and arrays.holds_texts(path, name)):
                given[key] = arrays.numbers(path, name)
            else:
                columns[key] = arrays.texts(path, name)
        except DatasetError as error:
            problems.add("features", error.problems[0])
    for key, one in list(given.items()):
        if not all(one.shape) or len(one.shape) not in ((1, 2) if key == "labels" else (2, 3)):
            problems.add(
                "features",
                f"{one.where} is {one.shape}, but must be (items, columns)"
                + ("" if key == "labels" else ", or (items, 1 + parts, columns) of wholes and their parts"),
            )
            del given[key]
        elif one.columns_first and one.shape == one.shape[::-1] != one.shape[:1]:
            problems.note(
                f"{one.where} is square, and its file does not say that MATLAB wrote it: cmh takes its columns for"
                " rows, as MATLAB stores them; if rows are items there, save it as .npz"
            )
    rows = {key: one.shape[0] for key, one in given.items()} | {key: len(some) for key, some in columns.items()}
    if "labels" in given and given["labels"].shape == (1, rows.get("image", rows.get("text"))):
        del rows["labels"]  # class numbers in a row, as MATLAB has lists
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{key} {size:,}" for key, size in rows.items())
        problems.add("features", f"the numbers of rows disagree: {counts}{_transposed(given, rows)}")
    return given, columns


def _transposed(given: Mapping[str, arrays.Given], rows: Mapping[str, int]) -> str:
    """A question where the numbers of rows would agree if some arrays were turned round; else the rule."""
    for n in sorted({side for one in given.values() for side in one.shape}, reverse=True):
        fit = {key: n in (given[key].shape if key in given else (size,)) for key, size in rows.items()}
        turned = [key for key, one in given.items() if one.shape[0] != n]
        if all(fit.values()) and turned:
            how = " (MATLAB would have written it column by column; NumPy did not)" * given[turned[0]].columns_first
            shapes = ", ".join(f"{key} is {' × '.join(map(str, given[key].shape))}" for key in turned)
            return f"; {shapes}: transposed{how}? A row must be an item"
    return "; a row of each must be the same item"


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
