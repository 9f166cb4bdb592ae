"""Items files: JSON Lines (a mapping a line) or CSV (a header; several tags or labels in a cell stand between `;`)."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from cmh.config import shown, unknown
from cmh.datasets.problems import Problems
from cmh.datasets.split import SIDES

FIELDS = ("image", "text", "tags", "labels", "group", "split")
LISTS = ("tags", "labels")


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


def read(path: Path, problems: Problems) -> list[Item]:
    """All items in the file's order; what is wrong goes to `problems`, under the item's row."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        problems.add("file", f"{path}: cannot be read ({error.strerror})")
        return []
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".csv"):
        problems.add("file", f"{path.name}: must be a .jsonl or a .csv file")
        return []
    records = _json_lines(raw) if kind == ".jsonl" else _csv(raw)
    items: list[Item] = []
    try:
        for line, record in records:
            items.append(_item(f"{path.name}:{line}", record, len(items), problems))
    except (csv.Error, UnicodeDecodeError) as error:
        problems.add("file", f"{path.name}: is no CSV file in UTF-8 ({error})")
    if not items and not problems:
        problems.add("file", f"{path.name}: holds no items")
    return items


def _json_lines(raw: bytes) -> Iterator[tuple[int, object]]:
    """(line number, mapping or the words for what is wrong)."""
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8"), object_pairs_hook=_pairs)
        except UnicodeDecodeError:
            yield number, ValueError("is not UTF-8")
        except (ValueError, RecursionError) as error:
            yield number, ValueError(f"is no JSON ({error})")


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _csv(raw: bytes) -> Iterator[tuple[int, object]]:
    text = raw.decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    names = [name.strip() for name in header]
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(names) or len(set(names)) < len(names):
            yield (
                reader.line_num,
                ValueError(f"has {len(cells)} cells under {len(names)} column names ({shown(names)})"),
            )
            continue
        record: dict[str, object] = {}
        for name, cell in zip(names, cells, strict=True):
            if name in LISTS:
                record[name] = [part.strip() for part in cell.split(";") if part.strip()]
            elif cell.strip() or name not in FIELDS:
                record[name] = cell.strip()
        yield reader.line_num, record


def _item(where: str, record: object, row: int, problems: Problems) -> Item:
    """The item of a record; a place holder, with its problems named, where it is none."""

    def wrong(kind: str, text: str) -> None:
        problems.item(row, kind, f"{where}: {text}")

    empty = Item(where, "")
    if isinstance(record, ValueError):
        wrong("line", str(record))
        return empty
    if not isinstance(record, dict):
        wrong("line", f"holds {shown(record)}, but must be a mapping with {', '.join(FIELDS)}")
        return empty
    texts: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for key, value in record.items():
        if key not in FIELDS:
            wrong("unknown key", f"key {unknown(key, FIELDS)}")
        elif value is None:
            continue
        elif key in LISTS or (key == "text" and isinstance(value, list)):
            if not isinstance(value, list) or not all(_is_text(part) for part in value):
                wrong("wrong type", f"{key} is {shown(value)}, but must be a list of texts")
            else:
                lists[key] = tuple(part.strip() for part in value if part.strip())
        elif key == "group" and isinstance(value, int):
            texts[key] = str(value)
        elif not _is_text(value):
            wrong("wrong type", f"{key} is {shown(value)}, but must be a text")
        elif key == "text":
            lists[key] = (value,)
        else:
            texts[key] = value
    if not texts.get("image") and (record.get("image") is None or "image" in texts):
        wrong("no image", "image is missing" if record.get("image") is None else "image is '', but must be a path")
    if texts.get("split", "train") not in SIDES:
        wrong("split", f"split is {shown(texts.pop('split'))}, but must be one of {', '.join(SIDES)}")
    labels = lists.get("labels", ())
    if "labels" in lists or record.get("labels") is None:
        if not labels:
            wrong("no label", "has no label")
        elif len(set(labels)) < len(labels):
            wrong("label twice", f"labels {shown(list(labels))} hold one twice")
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


def _is_text(value: object) -> TypeGuard[str]:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write and no file can hold
        return False
