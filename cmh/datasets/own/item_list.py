"""Items files: JSON Lines (a mapping a line) or a table (`own.tables`)."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from cmh.config import shown
from cmh.datasets.own import tables
from cmh.datasets.own.tables import FIELDS, LISTS, Form
from cmh.datasets.problems import Problems
from cmh.datasets.split import SIDES, meant

TABLES = (".csv", ".tsv")
KINDS = (".jsonl", *TABLES)


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One item; `where` is its file and line, for messages."""

    where: str
    image: str
    text: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    group: str = ""
    split: str = ""


def read(path: Path, problems: Problems, form: Form | None = None) -> list[Item]:
    """All items in the file's order; what is wrong goes to `problems`, under the item's row."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        problems.add("file", f"{path}: cannot be read ({error.strerror})")
        return []
    kind = path.suffix.lower()
    if kind not in KINDS:
        problems.add("file", f"{path.name}: must be a {', '.join(KINDS)} file")
        return []
    form = form or Form()
    records = tables.read(raw, path.name, form, problems) if kind in TABLES else _json_lines(raw)
    reader, before = _Reader(problems), len(problems.found)
    items: list[Item] = []
    try:
        for line, record in records:
            items.append(reader.item(f"{path.name}:{line}", record, len(items)))
    except (csv.Error, UnicodeDecodeError) as error:
        problems.add("file", f"{path.name}: is no CSV file in UTF-8 ({error}); save it again as such")
    except tables.WrongHeaderError:
        return []
    if not items and len(problems.found) == before:
        problems.add("file", f"{path.name}: holds no items")
    reader.end(path.name)
    return items


def _json_lines(raw: bytes) -> Iterator[tuple[int, object]]:
    """(line number, mapping or the words for what is wrong)."""
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8"), object_pairs_hook=_pairs)
        except UnicodeDecodeError:
            yield number, ValueError("is not UTF-8; save the file as UTF-8")
        except (ValueError, RecursionError) as error:
            yield number, ValueError(f'is no JSON ({error}); a line must be a mapping, such as {{"image": …}}')


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


class _Reader:
    """Makes items of records, and keeps in mind what can only be said of all of them."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._ignored: dict[str, None] = {}  # keys, in order
        self._numbered: dict[int, str] = {}  # row → where, of items whose labels are numbers
        self._named = False  # others have names

    def end(self, file: str) -> None:
        """Say it."""
        if self._ignored:
            listed = ", ".join(shown(key) for key in list(self._ignored)[:20])
            self._problems.note(f"{file}: keys that cmh does not read are ignored: {listed}")
        if self._named:
            for row, where in self._numbered.items():
                self._problems.item(
                    row,
                    "label",
                    f"{where}: has class numbers as labels, but other items have names; use one of the two",
                )

    def item(self, where: str, record: object, row: int) -> Item:
        """The item of a record; a place holder, with its problems named, where it is none."""

        def wrong(kind: str, text: str, *, optional: bool = True) -> None:
            self._problems.item(row, kind, f"{where}: {text}", optional=optional)

        empty = Item(where, "")
        if isinstance(record, ValueError):
            wrong("line", str(record))
            return empty
        if not isinstance(record, dict):
            wrong("line", f"holds {shown(record)}, but must be a mapping with {', '.join(FIELDS)}")
            return empty
        record = {key: None if value != value else value for key, value in record.items()}  # pandas' NaN: nothing
        texts: dict[str, str] = {}
        lists: dict[str, tuple[str, ...]] = {}
        for key, value in record.items():
            if key not in FIELDS:
                if meant_key := tables.misspelt(key, record):
                    wrong("unknown key", f"key {shown(key)} is not known; did you mean {meant_key!r}?", optional=False)
                else:
                    self._ignored[key] = None
            elif value is None:
                continue
            elif key in LISTS or (key == "text" and isinstance(value, list)):
                parts = _parts(value, numbers=key == "labels")
                if parts is None:
                    either = "texts, or of class numbers" if key == "labels" else "texts"
                    wrong("wrong type", f"{key} is {shown(value)}, but must be a list of {either}")
                else:
                    lists[key] = tuple(part.strip() for part in parts if part.strip())
                    if key == "labels" and lists[key]:
                        self._note_labels(row, where, value)
            elif key == "group" and isinstance(value, int):
                texts[key] = str(value)
            elif not _is_text(value):
                wrong("wrong type", f"{key} is {shown(value)}, but must be a text")
            elif key == "text":
                lists[key] = (value,)
            else:
                texts[key] = value
        if not texts.get("image") and (record.get("image") is None or "image" in texts):
            absent = record.get("image") is None
            wrong(
                "no image",
                "image is missing; an item must name its picture" if absent else "image is '', but must be a path",
            )
        if texts.get("split", "train") not in SIDES:
            side = texts.pop("split")
            hint = f"; did you mean {meant(side)!r}?" if meant(side) else ""
            wrong("split", f"split is {shown(side)}, but must be one of {', '.join(SIDES)}{hint}", optional=not hint)
        labels = lists.get("labels", ())
        if len(set(labels)) < len(labels):
            wrong("label twice", f"labels {shown(list(labels))} hold one twice; name each once")
        readable = all(record.get(key) is None or key in lists for key in ("text", "tags"))
        if readable and not any(part.strip() for key in ("text", "tags") for part in lists.get(key, ())):
            wrong("no text", "has no text and no tags")
        return Item(
            where,
            image=texts.get("image", ""),
            text=lists.get("text", ()),
            tags=lists.get("tags", ()),
            labels=labels,
            group=texts.get("group", ""),
            split=texts.get("split", ""),
        )

    def _note_labels(self, row: int, where: str, value: object) -> None:
        first = value[0] if isinstance(value, list) else value
        if isinstance(first, str):
            self._named = True
        else:
            self._numbered[row] = where


def _parts(value: object, *, numbers: bool) -> list[str] | None:
    """Texts of a list, or of a single text; class numbers among labels as texts. None where it is something else."""
    parts = []
    for part in value if isinstance(value, list) else [value]:
        if _is_text(part):
            parts.append(part)
        elif numbers and isinstance(part, int | float) and not isinstance(part, bool) and part == part // 1:
            parts.append(str(int(part)))
        else:
            return None
    return parts


def _is_text(value: object) -> TypeGuard[str]:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write and no file can hold
        return False
