"""The matrices that hashing papers pass on: torchcmh's and the DCMH release's `.mat` files, of any version.

Their variables say what they are: picture names `FAll` or `imgs`, texts `YAll` or `tags`, labels `LAll` or `labels`;
the photos lie under `images/`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from cmh.datasets import arrays, mat, scan
from cmh.datasets.facts import Facts
from cmh.datasets.official import Parts
from cmh.errors import DatasetError

ROLES = {"pictures": ("FAll", "imgs"), "tags": ("YAll", "tags"), "labels": ("LAll", "labels")}
FILES = {"pictures": "imgList", "tags": "tagList", "labels": "labelList"}  # torchcmh's
RELEASE = {"pictures": "fall", "tags": "yall", "labels": "lall"}  # the DCMH release's, after the dataset's name
PHOTOS = ("images", "Flickr", "mirflickr")


def file_names(facts: Facts, role: str) -> str:
    return f"{facts.name}-{RELEASE[role]}.mat or {FILES[role]}.mat"


def layout(facts: Facts, role: str) -> str:
    what = {
        "pictures": f"names of the photos, {facts.items:,} × 1 or 2",
        "tags": f"tags, {facts.items:,} × {facts.tags:,}",
        "labels": f"labels, {facts.items:,} × {facts.labels}",
    }[role]
    return f"variable {' or '.join(ROLES[role])}, {what}"


@dataclasses.dataclass(frozen=True)
class _Found:
    places: dict[str, tuple[Path, str]]  # role → file, variable
    problems: list[str]
    seen: list[str]


def _find(root: Path) -> _Found:
    places: dict[str, tuple[Path, str]] = {}
    problems: list[str] = []
    seen: list[str] = []
    for path in sorted(root.glob("*.mat")):
        try:
            found = mat.variables(path)
        except DatasetError as error:
            problems += error.problems
            continue
        seen.append(f"{path.name} holds {', '.join(sorted(found)) or 'nothing'}")
        for role, variables in ROLES.items():
            for variable in variables:
                if variable not in found:
                    continue
                if role in places:
                    problems.append(
                        f"{path}: {variable} is in {places[role][0].name}, too; their rows may differ, so remove one"
                    )
                places.setdefault(role, (path, variable))
    return _Found(places, problems, seen)


def missing(facts: Facts, root: Path) -> list[str]:
    """What is not there of the matrices, with what is."""
    found = _find(root)
    lines = list(found.problems)
    for role in ROLES:
        if role not in found.places:
            lines.append(f"{root / file_names(facts, role)} ({layout(facts, role)})")
    if lines and found.seen:
        lines.append(f"there is: {'; '.join(found.seen)}")
    if not any((root / name).is_dir() for name in PHOTOS):
        lines.append(f"{root / 'images'}/ (the photos)")
    return lines


def read(facts: Facts, root: Path) -> Parts:
    places = _find(root).places
    problems: list[str] = []
    rows: list[list[str]] = []
    tags = labels = None
    path, variable = places["pictures"]
    try:
        rows = scan.remembered(path, f"texts {variable}", lambda: [list(row) for row in mat.texts(path, variable)])
    except DatasetError as error:
        problems += error.problems
    try:
        labels = arrays.numbers(*places["labels"])
        # Only its shape and its hash now: the matrix itself when texts are asked for.
        shape = mat.variables(places["tags"][0])[places["tags"][1]][0]
        tags = functools.partial(_tags, *places["tags"])
    except DatasetError as error:
        problems += error.problems
    if problems or labels is None or tags is None:
        raise DatasetError(*problems, heading=f"{facts.title} in {root} cannot be used")
    names = [os.path.join(*(cell.strip().replace("\\", "/") for cell in row)) for row in rows]  # noqa: PTH118 - as torchcmh
    for what, size, columns in (("tags", shape, facts.tags), ("labels", labels.shape, facts.labels)):
        if tuple(size) != (facts.items, columns):
            problems.append(f"{places[what][1]} is {tuple(size)}, but must be {(facts.items, columns)}")
    if len(names) != facts.items:
        problems.append(f"{path.name}: {variable} names {len(names):,} pictures, but must name {facts.items:,}")
    if problems:
        raise DatasetError(*problems, heading=f"{facts.title} in {root} cannot be used")
    values = labels.whole()
    if not ((values == 0) | (values == 1)).all():
        raise DatasetError(f"{labels.where} holds something else than 0 and 1")
    photos = next(root / name for name in PHOTOS if (root / name).is_dir())
    flat = not any((photos / name).exists() for name in names[:100])  # all in one folder, as torchcmh's author advises
    return Parts(
        n_all=len(names),
        pictures=[
            f"{photos.name}/{Path(name).name if flat and not scan.fault_of_name(name) else name}" for name in names
        ],
        labels=values.astype(np.uint8),
        label_names=[f"label {number}" for number in range(1, facts.labels + 1)],
        n_tags=shape[1],
        text=tags,
        digest=hashlib.sha256((scan.sha256(places["tags"][0]) + json.dumps(names)).encode()).hexdigest(),
    )


def _tags(path: Path, variable: str) -> arrays.Chosen:
    """The tag matrix `(n, n_tags)`. Raises DatasetError where a value is not finite."""
    given = arrays.numbers(path, variable)
    looked = arrays.inspect(given)
    if looked.not_finite:
        raise DatasetError(f"{given.where}: row {looked.not_finite[0]} holds NaN or infinite values")
    return arrays.Chosen(given.rows, np.arange(given.shape[0]), np.dtype(looked.dtype))
