"""The benchmarks of the field, from the matrices that hashing papers pass on or from the official distributions.

Each lies in `$CMH_DATA/NAME` (default `~/cmh-data/NAME`). Matrices are `.mat` files of any version, whose variables say
what they are: picture names `FAll` or `imgs`, texts `YAll` or `tags`, labels `LAll` or `labels`, and the photos lie
under `images/`. Without matrices the official distribution is read. Counts are checked against `cmh.datasets.facts`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from cmh import machine
from cmh.datasets import arrays, mat, scan
from cmh.datasets.facts import Facts
from cmh.datasets.official import Parts
from cmh.datasets.problems import Problems
from cmh.datasets.source import Source
from cmh.datasets.split import published
from cmh.errors import DatasetError

ROLES = {"pictures": ("FAll", "imgs"), "tags": ("YAll", "tags"), "labels": ("LAll", "labels")}
FILES = {"pictures": "imgList", "tags": "tagList", "labels": "labelList"}  # torchcmh's
RELEASE = {"pictures": "fall", "tags": "yall", "labels": "lall"}  # the DCMH release's, after the dataset's name
PHOTOS = ("images", "Flickr", "mirflickr")


def folder(facts: Facts) -> Path:
    """`$CMH_DATA/NAME`; CMH_DATA defaults to `~/cmh-data`, and without a home to a folder of the cache."""
    return machine.data() / facts.name


def missing(facts: Facts, root: Path | None = None) -> list[str]:
    """What is not there, for the way (matrices or official) of which something is there; empty where all is."""
    root = root or folder(facts)
    official = _official(facts).missing(root, facts)
    if not official:
        return []
    matrices = _missing_matrices(facts, root)
    if not matrices:
        return []
    if any(root.glob("*.mat")):
        return matrices
    return (
        official
        if 0 < len(official) < len(_official(facts).missing(root / "nowhere", facts))
        else [
            *(f"either {line}" for line in matrices),
            *(f"or {line}" for line in official),
        ]
    )


def about(facts: Facts) -> str:
    """What it is, where to get it, what goes where."""
    root = folder(facts)
    tags = f"{facts.tags:,} tags" if facts.tags_official else f"{facts.tags:,} tags (matrices) or captions (official)"
    lines = [
        f"{facts.title}: {facts.items:,} items, {facts.labels} labels, {tags}",
        f"source: {facts.source}",
        f"counts: {facts.counts}",
        f"split: {facts.query:,} queries, {facts.train:,} training items, {facts.database:,} in the database (training"
        f" items included); torchcmh's seed {facts.seed}, or --split file for the order of the files (DCMH release);"
        f" {facts.validation:,} validation queries from database items that are not trained on",
        "",
        "where to get it:",
        *(f"  {line}" for line in facts.where),
        f"what goes where, under {root} (CMH_DATA moves it):",
        *(f"  {_file_names(facts, role)}: {_shape(facts, role)}" for role in ROLES),
        "  images/: the photos, under the names that the matrices give",
        *(f"  or {line}" for line in _official(facts).missing(root / "nowhere", facts)),
    ]
    return "\n".join(line.replace(str(root / "nowhere"), str(root)) for line in lines)


def read(
    facts: Facts,
    root: Path | None = None,
    *,
    order: str = "torchcmh",
    skip_bad: bool = False,
    progress: bool = False,
) -> Source:
    """Texts, labels and split; photos when they are asked for. Raises DatasetError that names everything wrong."""
    root = root or folder(facts)
    if absent := missing(facts, root):
        cure = "python -m cmh.datasets show " + facts.name
        raise DatasetError(
            *absent, f"{cure} says where to get it", heading=f"{facts.title} is not complete here; missing"
        )
    use_matrices = not _missing_matrices(facts, root)
    parts = _matrices(facts, root) if use_matrices else _official(facts).read(root, facts)
    problems = Problems()
    for line in _against(facts, parts, official=not use_matrices):
        problems.add("count", line)
    problems.stop(f"{facts.title} in {root}")  # before a hundred thousand pictures are looked at
    seen = scan.pictures(root, parts.pictures, called=facts.name, progress=progress, links=True)
    for row, one in enumerate(seen):
        if one.problem:
            problems.item(row, "picture", f"{parts.pictures[row]}: {one.problem}")
    problems.stop(f"{facts.title} in {root}", skip_bad=skip_bad)
    kept = np.array([row for row in range(len(seen)) if row not in problems.rows], np.int64)
    whole = published(
        len(seen),
        n_query=facts.query,
        n_train=facts.train,
        n_validation=facts.validation,
        seed=facts.seed if order == "torchcmh" else None,
    )
    split = whole.only(kept)
    pictures_sha256 = scan.digest(seen[row] for row in kept)
    labels = np.ascontiguousarray(parts.labels[kept])
    digest = hashlib.sha256(
        json.dumps([parts.digest, list(parts.label_names), pictures_sha256, labels.shape]).encode() + labels.tobytes()
    )
    digest.update(kept.tobytes() if len(kept) < len(seen) else b"")
    paths = tuple(root / parts.pictures[row] for row in kept)

    def text() -> arrays.Chosen:
        # The vocabulary of captions is of the training rows; the whole split numbers all rows.
        known = dataclasses.replace(whole, train=whole.train[np.isin(whole.train, kept)])
        rows = parts.text(known)
        return arrays.Chosen(rows, kept, rows.dtype)

    notes = list(parts.notes)
    if short := max(0, facts.validation - (facts.items - facts.query - facts.train)):
        notes.append(
            f"{short:,} validation queries were taken from the training items: the database has too few others"
        )
    words = parts.words
    return Source(
        name=facts.name,
        sha256=digest.hexdigest(),
        label_names=tuple(parts.label_names),
        split=split,
        labels=labels,
        text=text,
        picture=lambda row: paths[row].read_bytes(),
        files=paths,
        pictures_sha256=pictures_sha256,
        digests=tuple(seen[row].digest for row in kept),
        words=None if words is None else functools.partial(_words, words, kept),
        skipped=tuple(problem.text for problem in problems.found),
        n_skipped=len(seen) - len(kept),
        notes=tuple(notes),
        inputs=(*map(str, root.glob("*.mat")), *(f"{root}/{name}" for name in parts.pictures)) if use_matrices else (),
    )


def _words(words: Callable[[], Sequence[Sequence[str]]], kept: NDArray[np.int64]) -> list[Sequence[str]]:
    """Of the items `kept` `(n_kept,)` alone."""
    every = words()
    return [every[row] for row in kept]


def _official(facts: Facts) -> ModuleType:
    return importlib.import_module(f"cmh.datasets.{facts.reader}")


def _against(facts: Facts, parts: Parts, *, official: bool) -> Iterator[str]:
    """Where a distribution is not as published."""
    found: list[tuple[str, int, int | None]] = [
        ("items", len(parts.pictures), facts.items),
        ("labels", parts.labels.shape[1], facts.labels),
    ]
    if official:
        found.insert(0, ("items of the distribution", parts.n_all, facts.n_official))
    if parts.n_tags is not None:
        found.append(("tags", parts.n_tags, facts.tags_official if official else facts.tags))
    for what, here, wanted in found:
        if wanted is not None and here != wanted:
            yield f"{what}: {here:,} here, but {wanted:,} are published ({facts.counts})"


# Matrices


def _file_names(facts: Facts, role: str) -> str:
    return f"{facts.name}-{RELEASE[role]}.mat or {FILES[role]}.mat"


def _shape(facts: Facts, role: str) -> str:
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


def _missing_matrices(facts: Facts, root: Path) -> list[str]:
    """What is not there of the matrices, with what is."""
    found = _find(root)
    lines = list(found.problems)
    for role in ROLES:
        if role not in found.places:
            lines.append(f"{root / _file_names(facts, role)} ({_shape(facts, role)})")
    if lines and found.seen:
        lines.append(f"there is: {'; '.join(found.seen)}")
    if not any((root / name).is_dir() for name in PHOTOS):
        lines.append(f"{root / 'images'}/ (the photos)")
    return lines


def _matrices(facts: Facts, root: Path) -> Parts:
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
        text=lambda _split: tags(),
        digest=hashlib.sha256((scan.sha256(places["tags"][0]) + json.dumps(names)).encode()).hexdigest(),
    )


def _tags(path: Path, variable: str) -> arrays.Chosen:
    """The tag matrix `(n, n_tags)`. Raises DatasetError where a value is not finite."""
    given = arrays.numbers(path, variable)
    looked = arrays.inspect(given)
    if looked.not_finite:
        raise DatasetError(f"{given.where}: row {looked.not_finite[0]} holds NaN or infinite values")
    return arrays.Chosen(given.rows, np.arange(given.shape[0]), np.dtype(looked.dtype))
