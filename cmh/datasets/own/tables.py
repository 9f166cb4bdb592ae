"""Tables of items as pandas, spreadsheets and caption lists write them: a line of column names, then a line an item.

Cells stand between commas, semicolons, tabs or vertical bars, whichever makes most names of the first line known ones.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import re
from collections.abc import Iterable, Iterator, Mapping

from cmh.config import shown
from cmh.datasets.problems import Problems

FIELDS = ("image", "text", "tags", "labels", "group", "split")
LISTS = ("tags", "labels")
BETWEEN_CELLS = (",", ";", "\t", "|")
SEPARATOR = ";"  # of several labels or tags in a cell, unless dataset.yml says otherwise
ALIKE = 0.8  # from here on an unknown name is taken for a misspelt one (difflib's ratio)

# What other tools call these columns: for messages alone.
OTHER_NAMES = {
    "image": ("file", "file_name", "filename", "image_name", "image_path", "img", "path", "photo", "picture"),
    "text": ("caption", "captions", "comment", "description", "sentence", "sentences", "title"),
    "tags": ("keywords", "tag"),
    "labels": ("categories", "category", "class", "classes", "concepts", "label", "target"),
}


@dataclasses.dataclass(frozen=True)
class Form:
    """How a table is written, as far as dataset.yml says it."""

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # field → name of its column
    label_separator: str = SEPARATOR


class WrongHeaderError(Exception):
    """The first line names no usable columns; the problems are said already."""


def read(raw: bytes, file: str, form: Form, problems: Problems) -> Iterator[tuple[int, object]]:
    """(line number, field → cell) of each item; in place of cells a ValueError with what is wrong with the line.

    Raises csv.Error and UnicodeDecodeError for what is no such table, WrongHeaderError.
    """
    text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    said = re.match(r'"?sep=(.)"?\r?\n', text)  # a line by which Excel knows the separator
    body = text[said.end() :] if said else text
    between = said[1] if said else max(BETWEEN_CELLS, key=lambda one: _n_known(body, one, form))
    reader = csv.reader(io.StringIO(body, newline=""), strict=True, delimiter=between)
    names = [name.strip() for name in next(reader, [])]
    if not names:
        return
    if any("\0" in name for name in names):
        raise csv.Error("its first line holds NULs, as UTF-16 does")
    fields = _fields(names, file, form, problems)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        number = reader.line_num + (1 if said else 0)
        if len(cells) < len(names) or any(cell.strip() for cell in cells[len(names) :]):
            cure = "quote cells that hold a separator"
            yield number, ValueError(f"has {len(cells)} cells under {len(names)} column names ({shown(names)}); {cure}")
            continue
        record: dict[str, object] = {}
        for field, cell in zip(fields, cells, strict=False):
            if field in LISTS:
                record[field] = [part.strip() for part in cell.split(form.label_separator) if part.strip()]
            elif field and cell.strip():
                record[field] = cell.strip()
        yield number, record


def misspelt(name: str, there: Iterable[str]) -> str:
    """The field that a name is probably meant to be, of those that are not there; empty where there is none."""
    absent = [field for field in FIELDS if field not in there]
    return (difflib.get_close_matches(name.strip().lower(), absent, n=1, cutoff=ALIKE) or [""])[0]


def _field(name: str, form: Form) -> str:
    """The field of a column; empty where it is none."""
    for field, column in form.columns.items():
        if name == column:
            return field
    lower = name.lower()
    return lower if lower in FIELDS and lower not in form.columns else ""


def _n_known(text: str, between: str, form: Form) -> int:
    """How many known columns the first line has if its cells stand between these signs."""
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=between), [])
    except csv.Error:
        return 0
    return len({_field(name.strip(), form) for name in header} - {""})


def _fields(names: list[str], file: str, form: Form, problems: Problems) -> list[str]:
    """The field of each column, empty for those that are left aside. Raises WrongHeaderError."""
    fields = [_field(name, form) for name in names]
    known = [field for field in fields if field]
    found = f"found {', '.join(shown(name) for name in names[:20])}"
    wrong = [f"column {field} stands twice" for field in sorted(set(known)) if known.count(field) > 1]
    wrong += [
        f"has no column {shown(column)}, which dataset.yml names under columns; {found}"
        for field, column in form.columns.items()
        if field not in known
    ]
    for name, field in zip(names, fields, strict=True):
        if not field and (meant := misspelt(name, known)):
            wrong.append(f"column {shown(name)} is not known; did you mean {meant!r}?")
    if not wrong:
        for absent, needed in (("image", ("image",)), ("text and no column tags", ("text", "tags"))):
            if not set(needed).intersection(known):
                candidates = [name for name in names if name.lower() in OTHER_NAMES[needed[0]]]
                cure = f"columns: {{{needed[0]}: {candidates[0] if candidates else 'NAME'}}}"
                wrong.append(f"has no column {absent}; {found}; rename it, or write {cure} in dataset.yml")
    for line in wrong:
        problems.add("column", f"{file}: {line}")
    if wrong:
        raise WrongHeaderError
    if aside := [name for name, field in zip(names, fields, strict=True) if not field]:
        listed = ", ".join(shown(name) if name else "one without a name" for name in aside)
        problems.note(f"{file}: columns that cmh does not read are ignored: {listed}")
    return fields
