"""Confirmed test runs as typed, append-only records: one JSON line each in `records.jsonl`.

A leaderboard is a function of these lines (and of the per-query average precision beside them) alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import reprlib
import sys
import types
import typing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import files
from cmh.config import Value
from cmh.errors import RecordError

SCHEMA = 1
PROTOCOL = "cmh-1"  # the eight rules of the protocol, docs in README; a change of any makes a new name
SELECTIONS = ("validation", "paper", "fixed")
METRICS = ("map", "map_i2t", "map_t2i")  # at least these, of validation and test
_LOWEST = {"bits": 1, "search_trials": 0, "search_epochs": 0, "search_seconds": 0, "epochs": 0, "training_seconds": 0}


@dataclasses.dataclass(frozen=True)
class Record:
    """One training run whose codes met the test queries."""

    schema: int
    study: str  # folder name of the study or run
    method: str
    dataset: str
    dataset_sha256: str
    split_sha256: str
    features: str  # feature family, e.g. efficientnet-lite0
    protocol: str
    bits: int
    seed: int
    config: dict[str, Value]  # every hyperparameter of the method
    selection: str  # where the hyperparameters come from: validation | paper | fixed
    search_trials: int  # 0 where there was no search
    search_epochs: int  # spent by all trials of the search together
    search_seconds: float
    epochs: int  # length of this run
    training_seconds: float
    chosen_epoch: int  # the epoch with the best validation MAP, 1-based
    validation: dict[str, float]  # map, map_i2t, map_t2i
    test: dict[str, float]  # the same, and further named metrics
    tie_rule: str
    test_opened: int  # how often the test split had been opened for this study, this time included
    versions: dict[str, str]
    commit: str  # of cmh, empty where unknown
    host: str
    device: str
    date: str  # ISO 8601, UTC
    per_query: str  # file beside records.jsonl with arrays `i2t` and `t2i`, the AP of each test query


def append(folder: Path, record: Record, i2t: NDArray[np.float64], t2i: NDArray[np.float64]) -> None:
    """Write the per-query file, then the record: a record never points at nothing.

    Raises RecordError, and writes nothing, where `read` or `per_query` would refuse what was written.
    """
    line = json.dumps(dataclasses.asdict(record), sort_keys=True)
    try:
        _parse(line.encode())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{folder}: the record cannot be written: {error}") from error
    _inside(folder, record)
    if problem := _wrong_arrays(i2t, t2i):
        raise RecordError(f"{folder / record.per_query}: {problem}")
    folder.mkdir(parents=True, exist_ok=True)
    with files.new_file(folder / record.per_query) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, i2t=i2t, t2i=t2i)
    files.append_line(folder / "records.jsonl", line)


def read(folder: Path) -> list[Record]:
    """All records of a study or run folder, oldest first; empty where there are none.

    Raises RecordError that lists every bad line.
    """
    path = folder / "records.jsonl"
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    if lines[-1] == b"":  # what follows the last line's end is not a line
        lines.pop()
    records, problems = [], []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_parse(line))
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise RecordError(*problems, heading="these records cannot be read")
    return records


def moment(record: Record) -> datetime.datetime:
    """When the record was made, comparable with any other; a date without a zone is UTC."""
    when = datetime.datetime.fromisoformat(record.date)
    return when if when.tzinfo else when.replace(tzinfo=datetime.UTC)


def per_query(folder: Path, record: Record) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The AP of each test query, image to text and text to image.

    Raises RecordError where the file is missing or damaged, or leaves the folder.
    """
    path = _inside(folder, record)
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            i2t, t2i = (np.asarray(arrays[name], dtype=np.float64) for name in ("i2t", "t2i"))
    except Exception as error:  # foreign bytes fail in zipfile, zlib, struct or numpy, each with errors of its own
        raise RecordError(f"{path}: the per-query file cannot be read ({error})") from error
    if problem := _wrong_arrays(i2t, t2i):
        raise RecordError(f"{path}: {problem}")
    return i2t, t2i


def _inside(folder: Path, record: Record) -> Path:
    path = folder / record.per_query
    if record.per_query != path.name or path.is_symlink():
        raise RecordError(f"{folder}: per-query file {record.per_query!r} must lie in the folder of its record")
    return path


def _wrong_arrays(i2t: NDArray[np.float64], t2i: NDArray[np.float64]) -> str:
    fine = i2t.ndim == 1 and i2t.shape == t2i.shape and i2t.size and np.isfinite([i2t, t2i]).all()
    return "" if fine else "i2t and t2i must be two equally long rows of finite numbers"


def _parse(line: bytes) -> Record:
    values = json.loads(line.decode(), parse_constant=_no_constant)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if values.get("schema") != SCHEMA:
        raise ValueError(f"schema is {reprlib.repr(values.get('schema'))}, but this version reads {SCHEMA}")
    kinds = typing.get_type_hints(Record)
    if missing := sorted(kinds.keys() - values.keys()):
        raise ValueError(f"without {', '.join(missing)}")
    if extra := sorted(values.keys() - kinds.keys()):
        raise ValueError(f"unknown {', '.join(map(reprlib.repr, extra))}")
    for name, kind in kinds.items():
        if not _fits(values[name], kind):
            raise ValueError(f"{name} is {reprlib.repr(values[name])}, but must be {_words(kind)}")
    for name, lowest in _LOWEST.items():
        if values[name] < lowest:
            raise ValueError(f"{name} is {values[name]!r}, but must be >= {lowest}")
    if values["selection"] not in SELECTIONS:
        raise ValueError(f"selection is {values['selection']!r}, but must be one of {', '.join(SELECTIONS)}")
    for part in ("validation", "test"):
        for name in METRICS:
            if not 0 <= values[part].get(name, -1) <= 1:
                raise ValueError(f"{part} {name} is {values[part].get(name)!r}, but must be a number from 0 to 1")
    json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair could not be written to any table
    record = Record(**values)
    moment(record)
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _fits(value: object, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is dict:
        inner = typing.get_args(kind)[1]
        return isinstance(value, dict) and all(_fits(item, inner) for item in value.values())
    if kind is float:
        # the bound also keeps out whole numbers that are too large for a float, and infinity (1e999)
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _words(kind: Any) -> str:
    names = {int: "an integer", float: "a finite number", str: "a text"}
    return names.get(kind, "a mapping of " + ("numbers" if float in typing.get_args(kind) else "plain values"))
