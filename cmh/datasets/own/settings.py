"""dataset.yml, checked: what a folder holds, how it is split, how its texts become vectors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from cmh import config
from cmh.config import param, shown, unknown
from cmh.datasets import arrays, convert, scan
from cmh.datasets.catalogue import GIVEN, NAMES
from cmh.datasets.own import item_list
from cmh.datasets.own.tables import FIELDS, SEPARATOR, Form
from cmh.datasets.problems import Problems
from cmh.datasets.split import meant
from cmh.errors import CmhError, DatasetError
from cmh.features import text

FILE = "dataset.yml"
KEYS: tuple[str, ...] = (
    "name",
    "licence",
    "items",
    "features",
    "images",
    "links",
    "columns",
    "label_separator",
    "labels",
    "split",
)
KEYS += ("text",)
ARRAYS = ("image", "text", "labels", "split", "group")
NEEDED = ARRAYS[:3]
KINDS = (".npy", ".npz", ".mat")
LINKS = ("inside", "follow")  # which links in the folder are followed: those that stay in it, or all
FOLLOW = f"links: follow in {FILE} follows it, or put the file there itself"

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
    form: Form = dataclasses.field(default_factory=Form)  # of items that are a table
    images: Path | None = None  # the folder of the pictures, where it is not the dataset's
    links: bool = False  # links are followed out of the folder
    features: Mapping[str, tuple[Path, str]] = dataclasses.field(default_factory=dict)  # array → (file, name in it)
    labels: list[str] | None = None
    draw: Draw | None = None
    text: text.Options = dataclasses.field(default_factory=text.Options)
    stop_words: frozenset[str] = frozenset()


def read(folder: Path, problems: Problems, captions: str = GIVEN) -> Settings:
    """The dataset.yml of a folder, with its captions as it says or in another way; everything that is wrong with it
    goes to `problems`."""
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
    links = _choice(document, "links", LINKS, problems) == "follow"
    items: Path | None = None
    form, images = Form(), None
    features: dict[str, tuple[Path, str]] = {}
    if ("items" in document) == ("features" in document):
        _wrong(problems, "must have either items (pictures and texts) or features (arrays)")
    elif "items" in document:
        items = _file(folder, document["items"], "items", item_list.KINDS, problems, links)
        form = _form(document, items, problems)
        images = _images(folder, document["images"], problems) if "images" in document else None
    else:
        features = _feature_files(folder, document["features"], problems, links)
        for key in ("images", "columns", "label_separator"):
            if key in document:
                _wrong(problems, f"{key} goes with items; features are arrays")
    labels = _labels(document.get("labels"), problems)
    draw = _draw(document["split"], problems) if "split" in document else None
    if draw is not None:
        for side, n in (("query", draw.query), ("validation", draw.validation)):
            if not n:
                _wrong(problems, f"split lacks {side}: how many {side} items to draw")
    options, stop_words = text.Options(), frozenset[str]()
    if "text" in document and "features" in document:
        _wrong(problems, "text goes with items; features bring their own text array")
    elif "text" in document:
        options, stop_words = _text(folder, document["text"], problems, links)
    if captions != GIVEN:
        options = dataclasses.replace(options, captions=captions)
    if options.captions != "all" and ("features" in document or options.kind == "matrix"):
        _wrong(problems, f"captions: {options.captions} is of texts, but here an item has one row of numbers")
    return Settings(name, items, form, images, links, features, labels, draw, options, stop_words)


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
    names: list[str] = []
    if isinstance(value, list):  # YAML reads 1 as a number
        names = [str(name) for name in value if (isinstance(name, str) and name) or type(name) is int]
    if not isinstance(value, list) or not names or len(names) < len(value) or len(set(names)) < len(names):
        _wrong(problems, f"labels is {shown(value)}, but must be a list of different texts")
        return None
    return names


def _choice(document: Mapping[object, object], key: str, choices: tuple[str, ...], problems: Problems) -> str:
    """One of some words; the first is the default."""
    value = document.get(key, choices[0])
    if value not in choices:
        _wrong(problems, f"{key} is {shown(value)}, but must be one of {', '.join(choices)}")
    return str(value)


def _form(document: Mapping[object, object], items: Path | None, problems: Problems) -> Form:
    """How the table of items is written."""
    separator, columns = document.get("label_separator", SEPARATOR), document.get("columns", {})
    if items is not None and items.suffix.lower() not in item_list.TABLES:
        for key in [
            key for key, one in (("columns", {}), ("label_separator", SEPARATOR)) if document.get(key, one) != one
        ]:
            _wrong(problems, f"{key} goes with tables ({', '.join(item_list.TABLES)}); {items.name} names its keys")
        return Form()
    if not isinstance(separator, str) or not separator or len(separator) > 9 or set(separator) & set('"\r\n'):
        _wrong(problems, f"label_separator is {shown(separator)}, but must be a text of 1 to 9 signs, such as ','")
        separator = SEPARATOR
    if not isinstance(columns, dict):
        _wrong(problems, f"columns is {shown(columns)}, but must be a mapping such as {{text: caption}}")
        columns = {}
    good: dict[str, str] = {}
    for field, column in columns.items():
        if field not in FIELDS:
            _wrong(problems, f"columns: {unknown(field, FIELDS)}")
        elif not isinstance(column, str) or not column.strip():
            _wrong(problems, f"columns: {field} is {shown(column)}, but must be the name of a column")
        else:
            good[field] = column.strip()
    return Form(good, separator)


def _images(folder: Path, value: object, problems: Problems) -> Path | None:
    """The folder of the pictures, inside the dataset's or wherever its owner says."""
    if not isinstance(value, str) or not value or "\0" in value:
        _wrong(problems, f"images is {shown(value)}, but must be a folder, absolute or seen from {FILE}")
        return None
    if not (folder / value).is_dir():
        problems.add("file", f"{folder / value}: is no folder; {FILE} names it under images")
    return folder / value


def _draw(value: object, problems: Problems) -> Draw | None:
    """The `split:` part."""
    wrong = {key: meant(key) for key in value if isinstance(key, str)} if isinstance(value, dict) else {}
    wrong = {key: side for key, side in wrong.items() if side and key != side}
    for key, side in wrong.items():
        _wrong(problems, f"split: {key!r} is not known; did you mean {side!r}?")
    if isinstance(value, dict):
        value = {wrong.get(key, key) if isinstance(key, str) else key: one for key, one in value.items()}
    return _built(Draw, value, "split", problems)


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


def _text(folder: Path, value: object, problems: Problems, links: bool) -> tuple[text.Options, frozenset[str]]:
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
    if options.weights and (options.kind not in ("clip", "clip-tokens") or not Path(options.weights).is_file()):
        _wrong(problems, f"text: weights is {options.weights!r}, but must be a file, for kind: clip or clip-tokens")
        return text.Options(), words
    if (options.kind == "matrix") != bool(options.file):
        _wrong(problems, "text: file and kind: matrix belong together")
    elif options.file:
        _file(folder, options.file, "text: file", KINDS, problems, links)
    return options, words


def _file(folder: Path, name: object, key: str, kinds: tuple[str, ...], problems: Problems, links: bool) -> Path | None:
    """A file that dataset.yml names, inside the folder; `links` may lead out of it."""
    if not isinstance(name, str):
        _wrong(problems, f"{key} is {shown(name)}, but must be a file name")
    elif fault := scan.fault_of_name(name):
        _wrong(problems, f"{key} {shown(name)} {fault}; link it into the folder, and write links: follow")
    elif Path(name).suffix.lower() not in kinds:
        _wrong(problems, f"{key} is {shown(name)}, but must end in {' or '.join(kinds)}")
    elif not (folder / name).is_file():
        problems.add("file", f"{folder / name}: does not exist; {FILE} names it under {key}")
    elif not links and not (folder / name).resolve().is_relative_to(folder.resolve()):
        _wrong(problems, f"{key} {shown(name)} is a link that leaves the folder; {FOLLOW}")
    else:
        return folder / name
    return None


def _feature_files(folder: Path, value: object, problems: Problems, links: bool) -> dict[str, tuple[Path, str]]:
    """Which array is where. Empty where something is wrong."""
    if isinstance(value, str):
        path = _file(folder, value, "features", (".npz", ".mat"), problems, links)
        if path is None:
            return {}
        try:
            found = arrays.names(path)
        except DatasetError as error:
            problems.add("features", error.problems[0])
            return {}
        for name in NEEDED:
            if name not in found:
                held = f"found {', '.join(found) or 'none'}{convert.known_as(found)}"
                problems.add("features", f"{path.name}: has no array {name}; {held}")
        return {name: (path, name) for name in ARRAYS if name in found}
    if not isinstance(value, dict):
        _wrong(problems, f"features is {shown(value)}, but must be a file or a mapping of files")
        return {}
    places: dict[str, tuple[Path, str]] = {}
    for key, name in value.items():
        if key not in ARRAYS:
            _wrong(problems, f"features: {unknown(key, ARRAYS)}")
        elif path := _file(folder, name, f"features: {key}", KINDS, problems, links):
            places[key] = (path, "" if path.suffix.lower() == ".npy" else key)
    for key in NEEDED:
        if key not in value:
            _wrong(problems, f"features lacks {key}")
    return places
