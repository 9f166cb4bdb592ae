"""The benchmarks of the field, from files that papers pass on or from the official distributions.

Each lies in `$CMH_DATA/NAME` (default `~/cmh-data/NAME`), with the photos under `images/`: torchcmh's or the DCMH
release's matrices (`matrices`), or the official distribution (`mirflickr`, `nuswide`, `coco`, `iapr`). For the splits
of releases on CLIP (`releases`) their own files may lie in a folder that is called like the split (`toolbox`); without
them the split is drawn of what there is. Counts are checked against `cmh.datasets.facts`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from cmh import machine
from cmh.cache import RowArray
from cmh.datasets import arrays, drawn, matrices, releases, scan, toolbox
from cmh.datasets.catalogue import GIVEN
from cmh.datasets.facts import Facts
from cmh.datasets.official import Parts
from cmh.datasets.problems import Problems
from cmh.datasets.source import Source
from cmh.datasets.split import Split, published
from cmh.errors import DatasetError
from cmh.features import text, wording


def folder(facts: Facts) -> Path:
    """`$CMH_DATA/NAME`; CMH_DATA defaults to `~/cmh-data`, and without a home to a folder of the cache."""
    return machine.data() / facts.name


def missing(facts: Facts, root: Path | None = None, order: str = "torchcmh") -> list[str]:
    """What is not there, for the way of which something is there; empty where all is.

    Raises DatasetError where the benchmark has no such split.
    """
    root = root or folder(facts)
    wanted, of_release = releases.under(facts, order), order in releases.RELEASES
    if of_release and toolbox.there(root / order):
        return toolbox.missing(root / order)
    official: list[str] = _official(facts).missing(root, facts)
    if not official:
        return []
    given = matrices.missing(facts, root) if _matrices_do(wanted) else [f"{root}: matrices hold other items"]
    if not given:
        return []
    if any(root.glob("*.mat")) and _matrices_do(wanted):
        return given
    if 0 < len(official) < len(_official(facts).missing(root / "nowhere", facts)):
        return official
    return [
        *(f"either {line}" for line in (toolbox.missing(root / order) if of_release else ())),
        *(f"either {line}" for line in (given if _matrices_do(wanted) else ())),
        *(f"or {line}" for line in official),
    ]


def about(facts: Facts) -> str:
    """What it is, where to get it, what goes where."""
    root = folder(facts)
    tags = f"{facts.tags:,} tags" if facts.tags_official else f"{facts.tags:,} tags (matrices) or captions (official)"
    own = releases.about(facts.name)
    lines = [
        f"{facts.title}: {facts.items:,} items, {facts.labels} labels, {tags}",
        f"source: {facts.source}",
        f"counts: {facts.counts}",
        f"split: {facts.query:,} queries, {facts.train:,} training items, {facts.database:,} in the database (training"
        f" items included); torchcmh's seed {facts.seed}, or --split file for the order of the files (DCMH release);"
        f" {facts.validation:,} validation queries from database items that are not trained on",
        *own,
        "",
        "where to get it:",
        *(f"  {line}" for line in facts.where),
        *(f"  {line}" for line in releases.where(facts.name)),
        f"what goes where, under {root} (CMH_DATA moves it):",
        *(f"  {matrices.file_names(facts, role)}: {matrices.layout(facts, role)}" for role in matrices.ROLES),
        "  images/: the photos, under the names that the matrices give",
        *(f"  or {line}" for line in _official(facts).missing(root / "nowhere", facts)),
        *(f"  or, for --split SPLIT, {line}" for line in (toolbox.missing(root / "SPLIT") if own else ())),
    ]
    return "\n".join(line.replace(str(root / "nowhere"), str(root)) for line in lines)


def read(
    facts: Facts,
    root: Path | None = None,
    *,
    order: str = "torchcmh",
    captions: str = GIVEN,
    skip_bad: bool = False,
    progress: bool = False,
) -> Source:
    """Texts, labels and split; photos when they are asked for. Raises DatasetError that names everything wrong."""
    root = root or folder(facts)
    wanted = releases.under(facts, order)
    if absent := missing(facts, root, order):
        cure = "python -m cmh.datasets show " + facts.name
        raise DatasetError(
            *absent, f"{cure} says where to get it", heading=f"{facts.title} is not complete here; missing"
        )
    parts, official, inputs = _parts(facts, wanted, root, order)
    problems = Problems()
    for line in _against(wanted, parts, official=official):
        problems.add("count", line)
    taken = "all" if captions == GIVEN else captions
    if taken != "all" and not any(len(some) > 1 for some in parts.captions or ()):
        problems.add("captions", f"captions {taken}: an item of {facts.title} has one text here; leave --captions out")
    problems.stop(f"{facts.title} in {root}")  # before a hundred thousand pictures are looked at
    seen = scan.pictures(root, parts.pictures, called=facts.name, progress=progress, links=True)
    for row, one in enumerate(seen):
        if one.problem:
            problems.item(row, "picture", f"{parts.pictures[row]}: {one.problem}")
    problems.stop(f"{facts.title} in {root}", skip_bad=skip_bad)
    kept = np.array([row for row in range(len(seen)) if row not in problems.rows], np.int64)
    split = published(
        len(seen),
        n_query=wanted.query,
        n_train=wanted.train,
        n_validation=wanted.validation,
        seed=None if order == "file" else wanted.seed,
    ).only(kept)
    pictures_sha256 = scan.digest(seen[row] for row in kept)
    labels = np.ascontiguousarray(parts.labels[kept])
    digest = hashlib.sha256(
        json.dumps([parts.digest, list(parts.label_names), pictures_sha256, labels.shape]).encode() + labels.tobytes()
    )
    digest.update(kept.tobytes() if len(kept) < len(seen) else b"")
    digest.update(taken.encode() if taken != "all" else b"")
    paths = tuple(root / parts.pictures[row] for row in kept)
    said = None
    if parts.captions is not None:
        said = [parts.captions[row][: 1 if taken == "first" else None] for row in kept.tolist()]
    starts = drawn.starts(said) if said is not None and taken == "draw" else None
    notes = list(parts.notes)
    if short := max(0, wanted.validation - (wanted.items - wanted.query - wanted.train)):
        notes.append(
            f"{short:,} validation queries were taken from the training items: the database has too few others"
        )
    return Source(
        name=facts.name,
        sha256=digest.hexdigest(),
        label_names=tuple(parts.label_names),
        split=split,
        labels=labels,
        text=functools.partial(_vectors, parts, kept, said, split, each=starts is not None),
        picture=lambda row: paths[row].read_bytes(),
        files=paths,
        pictures_sha256=pictures_sha256,
        digests=tuple(seen[row].digest for row in kept),
        words=_words(parts, kept, said),
        captions=None if said is None else lambda: [". ".join(some) for some in said],
        taken=taken,
        starts=starts,
        skipped=tuple(problem.text for problem in problems.found),
        n_skipped=len(seen) - len(kept),
        notes=tuple(notes),
        inputs=(*inputs, *(f"{root}/{name}" for name in parts.pictures)) if inputs else (),
    )


def _parts(facts: Facts, wanted: Facts, root: Path, order: str) -> tuple[Parts, bool, tuple[str, ...]]:
    """What there is, read; whether it is the official distribution; and the files, where they are known."""
    if order in releases.RELEASES and toolbox.there(root / order):
        return toolbox.parts(root / order, root, wanted), False, ()
    if not _matrices_do(wanted) or matrices.missing(facts, root):
        return _official(facts).read(root, wanted), True, ()
    parts = matrices.read(facts, root)
    if wanted.tagged and wanted.items < facts.items and parts.text is not None:
        rows = parts.text()
        tagged = arrays.with_some(rows, np.arange(facts.items))
        parts = dataclasses.replace(
            parts,
            pictures=[parts.pictures[row] for row in tagged.tolist()],
            labels=parts.labels[tagged],
            text=lambda: arrays.Chosen(rows, tagged, rows.dtype),
        )
    return parts, False, tuple(map(str, root.glob("*.mat")))


def _matrices_do(wanted: Facts) -> bool:
    """Whether the matrices hold the items of a split, in its order."""
    return not wanted.order


def _vectors(
    parts: Parts, kept: NDArray[np.int64], said: Sequence[Sequence[str]] | None, split: Split, *, each: bool
) -> RowArray:
    """Vectors of the texts of the items `kept` `(n_kept, d)`, or of `each` of their captions `(m, d)`; what is made of
    captions is a bag of words, whose vocabulary is of the training items."""
    if parts.text is not None:
        rows = parts.text()
        return arrays.Chosen(rows, kept, rows.dtype)
    assert said is not None
    items = _documents(parts, said)
    known = text.vocabulary(items[row] for row in split.train)
    return wording.bag([parts.words_of(one) for some in said for one in some] if each else items, known)


def _documents(parts: Parts, said: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[word for one in some for word in parts.words_of(one)] for some in said]


def _words(
    parts: Parts, kept: NDArray[np.int64], said: Sequence[Sequence[str]] | None
) -> Callable[[], Sequence[Sequence[str]]] | None:
    """The words of each of the items `kept` `(n_kept,)`; None where they are not known."""
    words = parts.words
    if words is not None:
        return lambda: [every[row] for every in [words()] for row in kept.tolist()]
    return None if said is None else lambda: _documents(parts, said)


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
