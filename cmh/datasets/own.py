"""Your own dataset: a folder with `dataset.yml`, and items with pictures or arrays of features.

    name: holiday
    licence: CC0-1.0
    items: items.jsonl   # or .csv: image, text and/or tags, labels; optional group, split (`cmh.datasets.items`)
    features: data.npz   # or, in place of items: image (n, d), text (n, d), labels (n, c) 0/1; optional split, group;
                         # also one .mat file, or {image: image.npy, text: text.npy, labels: labels.npy}
    labels: [sea, city]  # optional: their names and order
    split: {query: 500, validation: 300, train: 2000, seed: 0, by: group, stratify: false}  # where items carry no split
    text: {size: 2000, min_count: 2, stop_words: none, label_words: keep, weight: binary}  # optional; label_words:
                         # keep, drop (forms and compounds of label names), telling (also what stands for a label)

`split` of an item is query (test), validation (queries for selection), train, or database (searched, not trained
on). Items of one group never fall on two sides. Everything that is wrong is named in one error.

What the arrays are computed from is known by content: pictures and files are hashed, once for as long as a file does
not change (`cmh.datasets.scan`), so that a dataset which changes never meets its old features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import config
from cmh.config import param, shown, unknown
from cmh.datasets import NAMES, Source, arrays, items, scan
from cmh.datasets.problems import Problems
from cmh.datasets.split import Split, by_groups, stratified
from cmh.errors import CmhError, DatasetError
from cmh.features import labelwords, text

FILE = "dataset.yml"
KEYS = ("name", "licence", "items", "features", "labels", "split", "text")
ARRAYS = ("image", "text", "labels", "split", "group")
KINDS = (".npy", ".npz", ".mat")
VERSION = 2  # of how texts and arrays are made


@dataclasses.dataclass(frozen=True)
class Draw:
    """The `split:` part of a dataset.yml."""

    query: int = param(0, "test queries", low=1, high=1_000_000_000)
    validation: int = param(0, "validation queries", low=1, high=1_000_000_000)
    train: int = param(0, "training items; 0: all the rest", low=0, high=1_000_000_000)
    seed: int = param(0, "seed of the draw", low=0, high=2**62)
    by: str = param("group", "what is never torn apart", choices=("group", "item"))
    stratify: bool = param(False, "nearly the same shares of labels and group sizes on every side")


@dataclasses.dataclass
class Settings:
    """A dataset.yml, checked."""

    name: str = ""
    licence: str = ""
    items: Path | None = None
    features: dict[str, tuple[Path, str]] = dataclasses.field(default_factory=dict)  # array → (file, name in it)
    labels: list[str] | None = None
    draw: Draw | None = None
    text: text.Options = dataclasses.field(default_factory=text.Options)
    stop_words: frozenset[str] = frozenset()


@dataclasses.dataclass
class _Rows:
    """What both kinds of dataset come to, before the bad rows are left out. `names` are for messages."""

    names: Sequence[str]
    labels: NDArray[np.uint8]
    label_names: list[str]
    groups: list[str]
    split: list[str]  # "" where an item carries none


def read(folder: Path, *, skip_bad: bool = False, progress: bool = False) -> Source:
    """The dataset in a folder. Raises DatasetError that names everything wrong with it."""
    problems = Problems()
    source = inspect(folder, problems, progress=progress)
    problems.stop(str(folder), skip_bad=skip_bad)
    assert source is not None  # nothing fatal was found
    return source


def inspect(folder: Path, problems: Problems, *, progress: bool = False) -> Source | None:
    """The dataset without its bad items, and everything that is wrong with it in `problems`.

    None where there is nothing to go on with.
    """
    wanted = _settings(folder, problems)
    if wanted.items is None and not wanted.features:
        return None
    try:
        if wanted.items is not None:
            return _of_items(folder, wanted, problems, progress)
        return _of_arrays(folder, wanted, problems)
    except OSError as error:  # no right to read it, or gone while we looked
        problems.add("file", f"{error.filename or folder}: cannot be read ({error.strerror or error})")
        return None


# dataset.yml


def _settings(folder: Path, problems: Problems) -> Settings:
    wanted = Settings()
    path = folder / FILE
    if not path.is_file():
        problems.add("file", f"{path}: does not exist; it must say what the folder holds (name, items or features)")
        return wanted
    try:
        document = config.load_yaml(path)
    except CmhError as error:
        for line in error.problems:
            problems.add("dataset.yml", line)
        return wanted

    def wrong(line: str) -> None:
        problems.add("dataset.yml", f"{FILE}: {line}")

    if not isinstance(document, dict):
        wrong(f"holds {shown(document)}, but must be a mapping with {', '.join(KEYS)}")
        return wanted
    for key in document:
        if key not in KEYS:
            wrong(f"key {unknown(key, KEYS)}")
    name = document.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        wrong(f"name is {shown(name)}, but must be a short name of a-z, 0-9, '-', '_' and '.', as it names folders")
    elif name in NAMES:
        wrong(f"name is {name!r}, which is a built-in dataset; choose another")
    else:
        wanted.name = name
    if not isinstance(document.get("licence", ""), str):
        wrong(f"licence is {shown(document['licence'])}, but must be a text")
    else:
        wanted.licence = document.get("licence", "")
    if ("items" in document) == ("features" in document):
        wrong("must have either items (pictures and texts) or features (arrays)")
    elif "items" in document:
        wanted.items = _file(folder, document["items"], "items", (".jsonl", ".csv"), problems)
    else:
        wanted.features = _feature_files(folder, document["features"], problems)
    wanted.labels = _names(document.get("labels"), wrong)
    wanted.draw = _built(Draw, document.get("split"), "split", problems) if "split" in document else None
    if wanted.draw is not None:
        for key in ("query", "validation"):
            if not getattr(wanted.draw, key):
                wrong(f"split lacks {key}: how many {key} items to draw")
    _text_options(folder, document, wanted, problems)
    return wanted


def _names(value: Any, wrong: Any) -> list[str] | None:
    if value is None:
        return None
    fine = isinstance(value, list) and value and all(isinstance(name, str) and name for name in value)
    if not fine or len(set(value)) < len(value):
        wrong(f"labels is {shown(value)}, but must be a list of different texts")
        return None
    names: list[str] = value
    return names


def _built(cls: type[Any], value: Any, key: str, problems: Problems) -> Any:
    try:
        if not isinstance(value, dict):
            raise DatasetError(f"is {shown(value)}, but must be a mapping")
        return config.build(cls, value)
    except CmhError as error:
        for line in error.problems:
            problems.add("dataset.yml", f"{FILE}: {key}: {line}")
        return None


def _text_options(folder: Path, document: dict[Any, Any], wanted: Settings, problems: Problems) -> None:
    if "text" not in document:
        return
    if "features" in document:
        problems.add("dataset.yml", f"{FILE}: text goes with items; features bring their own text array")
        return
    value = document["text"]
    stop: Any = "none"
    if isinstance(value, dict):
        value = dict(value)
        stop = value.pop("stop_words", "none")
    options = _built(text.Options, value, "text", problems)
    if options is None:
        return
    if stop == "english":
        wanted.stop_words = text.ENGLISH
    elif isinstance(stop, list) and all(isinstance(word, str) for word in stop):
        wanted.stop_words = frozenset(word.lower() for word in stop)
    elif stop != "none":
        problems.add(
            "dataset.yml", f"{FILE}: text: stop_words is {shown(stop)}, but must be none, english or a list of words"
        )
    if options.weights and (options.kind != "clip" or not Path(options.weights).is_file()):
        problems.add("dataset.yml", f"{FILE}: text: weights is {options.weights!r}, but must be a file, for kind: clip")
        return
    if (options.kind == "matrix") != bool(options.file):
        problems.add("dataset.yml", f"{FILE}: text: file and kind: matrix belong together")
    elif options.file:
        _file(folder, options.file, "text: file", KINDS, problems)
    wanted.text = options


def _file(folder: Path, name: Any, key: str, kinds: tuple[str, ...], problems: Problems) -> Path | None:
    """A file that dataset.yml names, inside the folder."""
    if not isinstance(name, str):
        problems.add("dataset.yml", f"{FILE}: {key} is {shown(name)}, but must be a file name")
    elif fault := scan.fault_of_name(name):
        problems.add("dataset.yml", f"{FILE}: {key} {shown(name)} {fault}")
    elif Path(name).suffix.lower() not in kinds:
        problems.add("dataset.yml", f"{FILE}: {key} is {shown(name)}, but must end in {' or '.join(kinds)}")
    elif not (folder / name).is_file():
        problems.add("file", f"{folder / name}: does not exist; {FILE} names it under {key}")
    elif not (folder / name).resolve().is_relative_to(folder.resolve()):
        problems.add("dataset.yml", f"{FILE}: {key} {shown(name)} is a link that leaves the folder")
    else:
        return folder / name
    return None


def _feature_files(folder: Path, value: Any, problems: Problems) -> dict[str, tuple[Path, str]]:
    """Which array is where. Empty where something is wrong."""
    if isinstance(value, str):
        path = _file(folder, value, "features", (".npz", ".mat"), problems)
        if path is None:
            return {}
        try:
            found = arrays.names(path)
        except DatasetError as error:
            problems.add("features", error.problems[0])
            return {}
        for name in ("image", "text", "labels"):
            if name not in found:
                problems.add("features", f"{path.name}: has no array {name}; found {', '.join(found) or 'none'}")
        return {name: (path, name) for name in ARRAYS if name in found}
    if not isinstance(value, dict):
        problems.add("dataset.yml", f"{FILE}: features is {shown(value)}, but must be a file or a mapping of files")
        return {}
    places: dict[str, tuple[Path, str]] = {}
    for key, name in value.items():
        if key not in ARRAYS:
            problems.add("dataset.yml", f"{FILE}: features: {unknown(key, ARRAYS)}")
        elif path := _file(folder, name, f"features: {key}", KINDS, problems):
            places[key] = (path, "" if path.suffix.lower() == ".npy" else key)
    for key in ("image", "text", "labels"):
        if key not in value:
            problems.add("dataset.yml", f"{FILE}: features lacks {key}")
    return places


# Items with pictures


def _of_items(folder: Path, wanted: Settings, problems: Problems, progress: bool) -> Source | None:
    assert wanted.items is not None
    found = items.read(wanted.items, problems)
    if not found:
        return None
    first: dict[str, int] = {}
    for row, item in enumerate(found):
        name = os.path.normpath(item.image) if item.image else ""
        if name and first.setdefault(name, row) != row:
            where = found[first[name]].where.rpartition(":")[2]
            problems.item(row, "duplicate", f"{item.where}: image {shown(item.image)} stands in line {where} already")
    seen = scan.pictures(folder, [item.image or "\0" for item in found], called=wanted.name, progress=progress)
    for row, (item, one) in enumerate(zip(found, seen, strict=True)):
        if one.problem and item.image:
            problems.item(row, "picture", f"{item.where}: image {shown(item.image)}: {one.problem}")
    label_names = wanted.labels or sorted({label for item in found for label in item.labels})
    column = {label: number for number, label in enumerate(label_names)}
    labels = np.zeros((len(found), len(label_names)), np.uint8)
    for row, item in enumerate(found):
        for label in item.labels:
            if label in column:
                labels[row, column[label]] = 1
            else:
                problems.item(row, "label", f"{item.where}: label {unknown(label, label_names)}")
    rows = _Rows(
        [item.where for item in found], labels, label_names, [item.group for item in found], [i.split for i in found]
    )
    finished = _finish(rows, wanted, problems)
    if finished is None:
        return None
    kept, split, labels, label_names = finished
    chosen = [found[row] for row in kept]
    matrix = _text_matrix(folder, wanted, len(found), problems) if wanted.text.kind == "matrix" else None
    if wanted.text.kind == "matrix" and matrix is None:
        return None
    about = {
        "version": VERSION,
        "labels": label_names,
        "text": [dataclasses.asdict(wanted.text), sorted(wanted.stop_words)],
        "matrix": scan.sha256(folder / wanted.text.file) if matrix is not None else "",
        "weights": scan.sha256(Path(wanted.text.weights)) if wanted.text.weights else "",
    }
    digest = hashlib.sha256(json.dumps(about).encode())
    for item in chosen:
        digest.update(json.dumps([item.text, item.tags, item.labels]).encode())
    pictures_sha256 = scan.digest(seen[row] for row in kept)
    digest.update(pictures_sha256.encode())
    paths = tuple(folder / item.image for item in chosen)

    def words() -> list[list[str]]:
        some = documents(chosen, wanted.stop_words)
        how = wanted.text.label_words
        if how == "keep":
            return some
        if how == "drop":
            dropped = labelwords.by_stem({word for document in some for word in document}, label_names)
        else:
            dropped = labelwords.telling(some, label_names, labels, split.train)
        return [[word for word in document if word not in dropped] for document in some]

    def pictures() -> Iterator[bytes]:
        for path in paths:
            yield path.read_bytes()

    return Source(
        name=wanted.name,
        sha256=digest.hexdigest(),
        label_names=tuple(label_names),
        split=split,
        labels=labels,
        text=lambda: (
            _words(chosen, wanted, words, split, progress)
            if matrix is None
            else arrays.Chosen(matrix.rows, kept, np.dtype(arrays.look(matrix).dtype))
        ),
        pictures=pictures,
        files=paths,
        pictures_sha256=pictures_sha256,
        digests=tuple(seen[row].digest for row in kept),
        words=None if matrix is not None else words,
        groups=_groups(rows, kept),
        skipped=tuple(problem.text for problem in problems.found),
        n_skipped=len(found) - len(kept),
        inputs=_inputs(folder, wanted, [item.image for item in found]),
    )


def documents(chosen: Sequence[items.Item], without: Collection[str] = ()) -> list[list[str]]:
    """The words of each item, but for some."""
    return [
        [word for part in (*item.text, *item.tags) for word in text.tokens(part) if word not in without]
        for item in chosen
    ]


def _words(
    chosen: Sequence[items.Item],
    wanted: Settings,
    documents: Callable[[], list[list[str]]],
    split: Split,
    progress: bool,
) -> Any:
    """Vectors of the texts, as the `text:` part of dataset.yml asks for."""
    options = wanted.text
    if options.kind in ("sentences", "clip"):
        whole = [". ".join((*item.text, *item.tags)) for item in chosen]
        return text.embeddings(whole, wanted.name, progress, kind=options.kind, weights=options.weights)
    words = documents()
    known = text.vocabulary((words[row] for row in split.train), min_count=options.min_count, size=options.size)
    if not known:
        raise DatasetError(
            f"{wanted.name}: the vocabulary is empty: no word is in {options.min_count} training items;"
            " lower text: min_count, or look at stop_words and label_words"
        )
    return text.sparse_bag(words, known, options.weight, split.train)


def _text_matrix(folder: Path, wanted: Settings, n: int, problems: Problems) -> arrays.Given | None:
    """A given tag matrix, a row an item."""
    path = folder / wanted.text.file
    if not path.is_file():
        return None  # said already
    try:
        given = arrays.numbers(path, "" if path.suffix.lower() == ".npy" else "text")
        if len(given.shape) != 2 or given.shape[0] != n or not given.shape[1]:
            raise DatasetError(
                f"{given.where} is {given.shape}, but must be ({n}, d): a row for each line of the items"
            )
        if bad := arrays.look(given).not_finite:
            raise DatasetError(f"{given.where}: {len(bad):,} rows are not finite, the first is row {bad[0]}")
    except DatasetError as error:
        problems.add("text", error.problems[0])
        return None
    return given


# Arrays


def _of_arrays(folder: Path, wanted: Settings, problems: Problems) -> Source | None:
    given: dict[str, arrays.Given] = {}
    columns: dict[str, list[str]] = {}
    for key, (path, name) in wanted.features.items():
        try:
            if key in ("split", "group"):
                columns[key] = arrays.texts(path, name)
            else:
                given[key] = arrays.numbers(path, name)
        except DatasetError as error:
            problems.add("features", error.problems[0])
    if len(given) < 3 or len(given) + len(columns) < len(wanted.features):
        return None
    for one in given.values():
        if len(one.shape) != 2 or not all(one.shape):
            problems.add("features", f"{one.where} is {one.shape}, but must be (items, columns)")
    sizes = {key: one.shape[0] for key, one in given.items()} | {key: len(value) for key, value in columns.items()}
    if len(set(sizes.values())) > 1:
        rows = ", ".join(f"{key} {size:,}" for key, size in sizes.items())
        problems.add("features", f"the numbers of rows disagree: {rows}")
    if problems.fatal:
        return None
    n = sizes["image"]
    looked = {key: arrays.look(given[key]) for key in ("image", "text")}
    for key, found in looked.items():
        for number in found.not_finite:
            problems.item(number, "not finite", f"{given[key].where}: row {number} holds NaN or infinite values")
    raw = given["labels"].whole()
    labels = (raw != 0).astype(np.uint8)
    for row in np.flatnonzero(((raw != 0) & (raw != 1)).any(1)).tolist():
        problems.item(row, "label", f"{given['labels'].where}: row {row} holds something else than 0 and 1")
    for row in np.flatnonzero(~labels.any(1)).tolist():
        problems.item(row, "no label", f"{given['labels'].where}: row {row} has no label")
    label_names = wanted.labels or [f"label {number}" for number in range(1, labels.shape[1] + 1)]
    if len(label_names) != labels.shape[1]:
        problems.add("features", f"{FILE}: labels has {len(label_names)} names for {labels.shape[1]} columns of labels")
        return None
    sides = columns.get("split", [""] * n)
    for row, side in enumerate(sides):
        if side and side not in items.SPLITS:
            problems.item(row, "split", f"split of row {row} is {shown(side)}, but must be {', '.join(items.SPLITS)}")
    where = given["image"].where
    found_rows = _Rows(_Numbered(where, n), labels, label_names, columns.get("group", [""] * n), sides)
    finished = _finish(found_rows, wanted, problems)
    if finished is None:
        return None
    kept, split, labels, label_names = finished
    digests = sorted({str(path): scan.sha256(path) for path, _ in wanted.features.values()}.values())
    places = {key: [scan.sha256(path), name] for key, (path, name) in wanted.features.items()}
    about = {"version": VERSION, "labels": label_names, "arrays": places}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(kept.tobytes())

    def no_pictures() -> Iterator[bytes]:
        raise DatasetError(f"{wanted.name} is a dataset of feature arrays: there are no pictures to look at")

    def array(key: str) -> Any:
        return arrays.Chosen(given[key].rows, kept, np.dtype(looked[key].dtype))

    return Source(
        name=wanted.name,
        sha256=digest.hexdigest(),
        label_names=tuple(label_names),
        split=split,
        labels=labels,
        text=lambda: array("text"),
        pictures=no_pictures,
        image=lambda: array("image"),
        features=f"given-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:8]}",
        skipped=tuple(problem.text for problem in problems.found),
        n_skipped=n - len(kept),
        groups=_groups(found_rows, kept),
        inputs=_inputs(folder, wanted, ()),
    )


def _inputs(folder: Path, wanted: Settings, pictures: Iterable[str]) -> tuple[str, ...]:
    """Every file that a change of would change the dataset."""
    own = [FILE, wanted.text.file] if wanted.text.file else [FILE]
    other = [str(path) for path, _ in wanted.features.values()] + ([str(wanted.items)] if wanted.items else [])
    return (*other, *(f"{folder}/{name}" for name in own), *(f"{folder}/{name}" for name in pictures))


class _Numbered(Sequence[str]):
    """Names of rows, made when a message needs one."""

    def __init__(self, where: str, n: int) -> None:
        self._where, self._n = where, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, row: Any) -> Any:
        return f"{self._where}: row {row}"


# Both


def _finish(
    rows: _Rows, wanted: Settings, problems: Problems
) -> tuple[NDArray[np.int64], Split, NDArray[np.uint8], list[str]] | None:
    """Good rows, their split, and labels that occur; None where nothing can be made of it."""
    carried = [bool(side) for side in rows.split]
    if any(carried):
        if wanted.draw is not None:
            problems.add("split", f"{FILE}: split draws, but the items carry their own split: remove one of the two")
        for row in (row for row, has in enumerate(carried) if not has and row not in problems.rows):
            problems.item(row, "split", f"{rows.names[row]}: has no split, but other items have")
        _groups_apart(rows, problems)
    elif wanted.draw is None and not problems.fatal:
        problems.add(
            "split",
            f"there is no split: give items a split, or write split: {{query: N, validation: N}} in {FILE}",
        )
    kept = np.array([row for row in range(len(rows.labels)) if row not in problems.rows], np.int64)
    labels = rows.labels[kept]
    used: NDArray[np.bool_] = np.asarray(labels.any(0))
    _unused_labels(rows, used, problems)
    if not len(kept):
        problems.add("items", "no item is left without a problem")
    if problems.fatal:
        return None
    split = _split(rows, wanted.draw, kept, problems)
    if split is None:
        return None
    names = [name for name, has in zip(rows.label_names, used, strict=True) if has]
    return kept, split, np.ascontiguousarray(labels[:, used]), names


def _groups(rows: _Rows, kept: NDArray[np.int64]) -> tuple[str, ...]:
    """The group of each good item; empty where no item has one."""
    groups = tuple(rows.groups[row] for row in kept)
    return groups if any(groups) else ()


def _unused_labels(rows: _Rows, used: NDArray[np.bool_], problems: Problems) -> None:
    """Labels that no item has; one that only bad items have is said by those."""
    for column in np.flatnonzero(~used & ~rows.labels.any(0)).tolist():
        problems.spare("label without items", f"label {shown(rows.label_names[column])} belongs to no item")


def _groups_apart(rows: _Rows, problems: Problems) -> None:
    """A group has one side: query, validation, or the database with the training items in it."""
    sides: dict[str, str] = {}
    for row, (group, side) in enumerate(zip(rows.groups, rows.split, strict=True)):
        side = "database" if side == "train" else side
        if group and side and sides.setdefault(group, side) != side:
            first = sides[group]
            problems.item(row, "group", f"{rows.names[row]}: group {shown(group)} is in {first} and in {side}")


def _split(rows: _Rows, draw: Draw | None, kept: NDArray[np.int64], problems: Problems) -> Split | None:
    if draw is None:
        sides = np.array([rows.split[row] for row in kept])
        split = Split(*(np.flatnonzero(sides == side) for side in items.SPLITS))
    else:
        if draw.query + draw.validation + max(draw.train, 1) > len(kept):
            problems.add(
                "split",
                f"{FILE}: split asks for {draw.query + draw.validation + draw.train:,} items and at least one to train"
                f" on, but there are {len(kept):,}",
            )
            return None
        by_group = draw.by == "group" and any(rows.groups)
        if draw.by == "item" and any(rows.groups):
            problems.add("split", f"{FILE}: split: by item tears groups apart, but the items have groups")
            return None
        names = [(rows.groups[row] if by_group else "") or f"\0{row}" for row in kept]
        numbers = draw.query, draw.validation, draw.seed, draw.train or None
        split = stratified(names, rows.labels[kept], *numbers) if draw.stratify else by_groups(names, *numbers)
    for side, part in zip(items.SPLITS[:3], split.parts()[:3], strict=True):
        if not len(part):
            cure = "smaller groups or a larger number would do" if draw is not None else "no item has this split"
            problems.add("split", f"no {side} items: {cure}")
    return None if problems.fatal else split
