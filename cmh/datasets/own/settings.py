"""dataset.yml, checked: what a folder holds, how it is split, how its texts become vectors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from cmh import config
from cmh.config import param, shown, unknown
from cmh.datasets import arrays, scan
from cmh.datasets.catalogue import NAMES
from cmh.datasets.problems import Problems
from cmh.errors import CmhError, DatasetError
from cmh.features import text

FILE = "dataset.yml"
KEYS = ("name", "licence", "items", "features", "labels", "split", "text")
ARRAYS = ("image", "text", "labels", "split", "group")
NEEDED = ARRAYS[:3]
KINDS = (".npy", ".npz", ".mat")

Table = TypeVar("Table")


@dataclasses.dataclass(frozen=True)
class Draw:
    """The `split:` part of a dataset.yml."""

    query: int = param(0, "test queries", low=1, high=1_000_000_000)
    validation: int = param(0, "validation queries", low=1, high=1_000_000_000)
    train: int = param(0, "training items; 0: all the rest", low=0, high=1_000_000_000)
    seed: int = param(0, "seed of the draw", low=0, high=2**62)
    by: str = param("group", "what is never torn apart", choices=("group", "item"))
    stratify: bool = param(False, "nearly the same shares of labels and group sizes on every side")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A dataset.yml, checked; what is absent or wrong is empty."""

    name: str = ""
    items: Path | None = None
    features: Mapping[str, tuple[Path, str]] = dataclasses.field(default_factory=dict)  # array → (file, name in it)
    labels: list[str] | None = None
    draw: Draw | None = None
    text: text.Options = dataclasses.field(default_factory=text.Options)
    stop_words: frozenset[str] = frozenset()


def read(folder: Path, problems: Problems) -> Settings:
    """The dataset.yml of a folder; everything that is wrong with it goes to `problems`."""
    path = folder / FILE
    if not path.is_file():
        problems.add("file", f"{path}: does not exist; it must say what the folder holds (name, items or features)")
        return Settings()
    try:
        document = config.load_yaml(path)
    except CmhError as error:
        for line in error.problems:
            problems.add("dataset.yml", line)
        return Settings()
    if not isinstance(document, dict):
        _wrong(problems, f"holds {shown(document)}, but must be a mapping with {', '.join(KEYS)}")
        return Settings()
    for key in document:
        if key not in KEYS:
            _wrong(problems, f"key {unknown(key, KEYS)}")
    name = _name(document.get("name"), problems)
    if not isinstance(document.get("licence", ""), str):
        _wrong(problems, f"licence is {shown(document['licence'])}, but must be a text")
    items: Path | None = None
    features: dict[str, tuple[Path, str]] = {}
    if ("items" in document) == ("features" in document):
        _wrong(problems, "must have either items (pictures and texts) or features (arrays)")
    elif "items" in document:
        items = _file(folder, document["items"], "items", (".jsonl", ".csv"), problems)
    else:
        features = _feature_files(folder, document["features"], problems)
    labels = _labels(document.get("labels"), problems)
    draw = _built(Draw, document["split"], "split", problems) if "split" in document else None
    if draw is not None:
        for side, n in (("query", draw.query), ("validation", draw.validation)):
            if not n:
                _wrong(problems, f"split lacks {side}: how many {side} items to draw")
    options, stop_words = text.Options(), frozenset[str]()
    if "text" in document and "features" in document:
        _wrong(problems, "text goes with items; features bring their own text array")
    elif "text" in document:
        options, stop_words = _text(folder, document["text"], problems)
    return Settings(name, items, features, labels, draw, options, stop_words)


def _wrong(problems: Problems, line: str) -> None:
    problems.add("dataset.yml", f"{FILE}: {line}")


def _name(value: object, problems: Problems) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value):
        rule = "must be a short name of a-z, 0-9, '-', '_' and '.', as it names folders"
        _wrong(problems, f"name is {shown(value)}, but {rule}")
    elif value in NAMES:
        _wrong(problems, f"name is {value!r}, which is a built-in dataset; choose another")
    else:
        return value
    return ""


def _labels(value: object, problems: Problems) -> list[str] | None:
    if value is None:
        return None
    names = [name for name in value if isinstance(name, str) and name] if isinstance(value, list) else []
    if not isinstance(value, list) or not names or len(names) < len(value) or len(set(names)) < len(names):
        _wrong(problems, f"labels is {shown(value)}, but must be a list of different texts")
        return None
    return names


def _built(cls: type[Table], value: object, key: str, problems: Problems) -> Table | None:
    """A part of dataset.yml as the dataclass that has its rules."""
    try:
        if not isinstance(value, dict):
            raise DatasetError(f"is {shown(value)}, but must be a mapping")
        return config.build(cls, value)
    except CmhError as error:
        for line in error.problems:
            _wrong(problems, f"{key}: {line}")
        return None


def _text(folder: Path, value: object, problems: Problems) -> tuple[text.Options, frozenset[str]]:
    """The `text:` part, and its stop words."""
    nothing: tuple[text.Options, frozenset[str]] = text.Options(), frozenset()
    stop: object = "none"
    if isinstance(value, dict):
        stop = value.get("stop_words", "none")
        value = {key: one for key, one in value.items() if key != "stop_words"}
    options = _built(text.Options, value, "text", problems)
    if options is None:
        return nothing
    words = frozenset[str]()
    if stop == "english":
        words = text.ENGLISH
    elif isinstance(stop, list) and all(isinstance(word, str) for word in stop):
        words = frozenset(word.lower() for word in stop)
    elif stop != "none":
        _wrong(problems, f"text: stop_words is {shown(stop)}, but must be none, english or a list of words")
    if options.weights and (options.kind != "clip" or not Path(options.weights).is_file()):
        _wrong(problems, f"text: weights is {options.weights!r}, but must be a file, for kind: clip")
        return text.Options(), words
    if (options.kind == "matrix") != bool(options.file):
        _wrong(problems, "text: file and kind: matrix belong together")
    elif options.file:
        _file(folder, options.file, "text: file", KINDS, problems)
    return options, words


def _file(folder: Path, name: object, key: str, kinds: tuple[str, ...], problems: Problems) -> Path | None:
    """A file that dataset.yml names, inside the folder."""
    if not isinstance(name, str):
        _wrong(problems, f"{key} is {shown(name)}, but must be a file name")
    elif fault := scan.fault_of_name(name):
        _wrong(problems, f"{key} {shown(name)} {fault}")
    elif Path(name).suffix.lower() not in kinds:
        _wrong(problems, f"{key} is {shown(name)}, but must end in {' or '.join(kinds)}")
    elif not (folder / name).is_file():
        problems.add("file", f"{folder / name}: does not exist; {FILE} names it under {key}")
    elif not (folder / name).resolve().is_relative_to(folder.resolve()):
        _wrong(problems, f"{key} {shown(name)} is a link that leaves the folder")
    else:
        return folder / name
    return None


def _feature_files(folder: Path, value: object, problems: Problems) -> dict[str, tuple[Path, str]]:
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
        for name in NEEDED:
            if name not in found:
                problems.add("features", f"{path.name}: has no array {name}; found {', '.join(found) or 'none'}")
        return {name: (path, name) for name in ARRAYS if name in found}
    if not isinstance(value, dict):
        _wrong(problems, f"features is {shown(value)}, but must be a file or a mapping of files")
        return {}
    places: dict[str, tuple[Path, str]] = {}
    for key, name in value.items():
        if key not in ARRAYS:
            _wrong(problems, f"features: {unknown(key, ARRAYS)}")
        elif path := _file(folder, name, f"features: {key}", KINDS, problems):
            places[key] = (path, "" if path.suffix.lower() == ".npy" else key)
    for key in NEEDED:
        if key not in value:
            _wrong(problems, f"features lacks {key}")
    return places
