"""Confirmed test runs as typed, append-only records: one JSON line each in `records.jsonl`.

A leaderboard is a function of these lines (and of the per-query average precision beside them) alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import re
import reprlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh import files, npz, typed_json
from cmh.errors import ContradictionError, RecordError
from cmh.identity import Identity

SCHEMA = 2
PROTOCOL = "cmh-1"  # the eight rules of the protocol, docs in README; a change of any makes a new name
SELECTIONS = ("validation", "paper", "fixed")
METRICS = ("map", "map_i2t", "map_t2i")  # at least these, of validation and test
AUDITS = ("leak", "dead")
NOT_NOTED = "not noted"  # the prior of a search in records that are older than the word
_LOWEST = {
    **{"bits": 1, "epochs": 0, "trials": 0, "passes": 0, "seconds": 0, "device_seconds": 0, "threads": 1},
    **{"chosen_epoch": 1, "test_opened": 1, "split_opened": 1},
}
MEAN_DIGITS = 1e-9  # how far the mean of a per-query file may be from its record's number, which it was computed from


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a search, or the training of one run, has cost."""

    trials: int = 0  # of a search; 0 where there was none
    epochs: int = 0
    passes: float = 0.0  # over the training items; a paper's epoch may make several
    seconds: float = 0.0  # by the clock
    device_seconds: float = 0.0  # of one GPU, or of one core where there was none


@dataclasses.dataclass(frozen=True)
class Record:
    """One training run whose codes met the test queries."""

    schema: int
    study: str  # folder name of the study or run
    identity: Identity  # of the run
    protocol: str
    selection: str  # where the hyperparameters come from: validation | paper | fixed
    label: str  # what was changed of the study or file it comes from; empty: nothing
    prior: str  # what the search was given beside the paper's point: defaults, warm start, …; empty: nothing
    search: Cost
    training: Cost
    chosen_epoch: int  # the epoch with the best validation MAP, 1-based
    validation: dict[str, float]  # map, map_i2t, map_t2i
    test: dict[str, float]  # the same, and further named metrics
    tie_rule: str
    test_opened: int  # how often this study or run had opened the test split, this time included
    split_opened: int  # the same of this split by all that this user did
    audits: dict[str, list[str]]  # leak, dead: what was found; empty lists where nothing was
    versions: dict[str, str]
    provenance: dict[str, str]  # with what the image features were made
    commit: str  # of cmh, empty where unknown
    host: str
    date: str  # ISO 8601, UTC
    per_query: str  # file beside records.jsonl: the AP of each test query
    codes: str  # file beside records.jsonl: codes of queries and database; empty where they were not kept


@dataclasses.dataclass(frozen=True)
class PerQuery:
    """The AP of each test query, image to text and text to image `(n_query,)`, and its group: near-duplicates share a
    number."""

    i2t: NDArray[np.float64]
    t2i: NDArray[np.float64]
    groups: NDArray[np.int64]


def append(folder: Path, record: Record, ap: PerQuery) -> None:
    """Write the per-query file, then the record: a record never points at nothing.

    Raises RecordError, and writes nothing, where `read` or `per_query` would refuse what was written.
    """
    line = json.dumps(dataclasses.asdict(record), sort_keys=True)
    try:
        _parse(line.encode())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{folder}: the record cannot be written: {error}") from error
    _inside(folder, record)
    if problem := _wrong_arrays(ap) or _wrong_means(ap, record):
        raise RecordError(f"{folder / record.per_query}: {problem}")
    folder.mkdir(parents=True, exist_ok=True)
    with files.new_file(folder / record.per_query) as temporary, temporary.open("wb") as file:
        np.savez(file, i2t=ap.i2t, t2i=ap.t2i, groups=ap.groups)
    files.append_line(folder / "records.jsonl", line)


def read(folder: Path) -> tuple[list[Record], list[str]]:
    """All records of a study or run folder, oldest first, and a line for each one that cannot be read.

    Raises RecordError where the file itself cannot be read.
    """
    path = folder / "records.jsonl"
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    if lines[-1] == b"":  # what follows the last line's end is not a line
        lines.pop()
    records, problems, old = [], [], 0
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_parse(line))
        except _OldSchemaError:
            old += 1
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}:{number}: left out: {error}")
    if old:
        problems.append(
            f"{path}: {old} record{'s' * (old > 1)} of schema 1 left out, which say too little about their runs;"
            f" {_again(folder)}"
        )
    return records, problems


def _again(folder: Path) -> str:
    if (folder / "best.yml").is_file():
        return f"`python -m cmh.reproduce {files.quoted(folder)}` makes them again"
    return "run the command that made them again"


def moment(record: Record) -> datetime.datetime:
    """When the record was made, comparable with any other; a date without a zone is UTC."""
    when = datetime.datetime.fromisoformat(record.date)
    return when if when.tzinfo else when.replace(tzinfo=datetime.UTC)


def per_query(folder: Path, record: Record) -> PerQuery:
    """The AP of each test query.

    Raises RecordError where the file is missing or damaged, or leaves the folder; ContradictionError where it is
    another run's: the mean of each direction must be the record's number.
    """
    path = _inside(folder, record)
    try:
        arrays = npz.read(path)
        i2t, t2i = (np.asarray(arrays[name], dtype=np.float64) for name in ("i2t", "t2i"))
        ap = PerQuery(i2t, t2i, np.asarray(arrays["groups"], dtype=np.int64))
    except Exception as error:  # foreign bytes fail in zipfile, zlib, struct or numpy, each with errors of its own
        raise RecordError(f"{path}: the per-query file cannot be read ({error})") from error
    if problem := _wrong_arrays(ap):
        raise RecordError(f"{path}: {problem}")
    if problem := _wrong_means(ap, record):
        raise ContradictionError(f"{path}: {problem}")
    return ap


def _inside(folder: Path, record: Record) -> Path:
    path = folder
    for name in filter(None, (record.codes, record.per_query or ".")):  # the last one is returned
        path = folder / name
        if name in (".", "..") or "/" in name or os.sep in name or path.is_symlink():
            raise RecordError(f"{folder}: the file {name!r} must lie in the folder of its record")
    return path


def _wrong_arrays(ap: PerQuery) -> str:
    fine = ap.i2t.ndim == 1 and ap.i2t.shape == ap.t2i.shape == ap.groups.shape
    fine = fine and bool(ap.i2t.size) and bool(np.isfinite(ap.i2t.sum() + ap.t2i.sum()))
    return "" if fine else "i2t, t2i and groups must be three equally long rows of finite numbers"


def _wrong_means(ap: PerQuery, record: Record) -> str:
    """A file of another run must not lend its queries to this record."""
    found = {"map_i2t": ap.i2t.sum() / ap.i2t.size, "map_t2i": ap.t2i.sum() / ap.t2i.size}
    wrong = [
        f"its mean {name} is {value:.6f}, but the record says {record.test[name]:.6f}"
        for name, value in found.items()
        if abs(value - record.test[name]) > MEAN_DIGITS
    ]
    return "; ".join(wrong) + ": it belongs to another run, or one of the two was edited" if wrong else ""


def _parse(line: bytes) -> Record:
    values = json.loads(line.decode(), parse_constant=_no_constant)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    _check_schema(values.get("schema"))
    # Searches started from the library's default where nobody said otherwise, and no record said that they did not.
    values.setdefault("prior", NOT_NOTED if values.get("selection") == "validation" else "")
    record: Record = typed_json.build(Record, values, _LOWEST)
    if record.selection not in SELECTIONS:
        raise ValueError(f"selection is {record.selection!r}, but must be one of {', '.join(SELECTIONS)}")
    for part in ("validation", "test"):
        for name in METRICS:
            if not 0 <= values[part].get(name, -1) <= 1:
                raise ValueError(f"{part} {name} is {values[part].get(name)!r}, but must be a number from 0 to 1")
    if missing := [name for name in AUDITS if name not in record.audits]:
        raise ValueError(f"audits are without {', '.join(missing)}")
    _check_name(record.per_query, values["identity"])
    if b"\\u" in line:  # half a surrogate pair could not be written to any table
        json.dumps(values, ensure_ascii=False).encode()
    moment(record)
    return record


def _check_name(per_query: str, made: dict[str, object]) -> None:
    """The per-query file is named by the identity: one that was edited is no longer that of the file."""
    named = re.fullmatch(r"per-query-([0-9a-f]{12})\.npz", per_query)
    found = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]  # Identity.digest, but fast
    if named and named[1] != found:
        raise ValueError(
            f"its identity ({found}) is not the one that {per_query} is named by: the record was edited, or is another"
            " run's"
        )


class _OldSchemaError(ValueError):
    """A record of schema 1."""


def _check_schema(found: object) -> None:
    if found == 1 and not isinstance(found, bool):
        raise _OldSchemaError
    if isinstance(found, int) and not isinstance(found, bool) and found > SCHEMA:
        raise ValueError(f"is of schema {found}, but this version of cmh reads {SCHEMA}: a newer cmh wrote it")
    if found != SCHEMA:
        raise ValueError(f"schema is {reprlib.repr(found)}, but this version reads {SCHEMA}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
