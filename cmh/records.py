"""Confirmed test runs as typed, append-only records: one JSON line each in `records.jsonl`.

A leaderboard is a function of these lines (and of the per-query average precision beside them) alone.
"""

from __future__ import annotations

import dataclasses
import json
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
    """Write the per-query file, then the record: a record never points at nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.new_file(folder / record.per_query) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, i2t=i2t, t2i=t2i)
    files.append_line(folder / "records.jsonl", json.dumps(dataclasses.asdict(record), sort_keys=True))


def read(folder: Path) -> list[Record]:
    """All records of a study or run folder, oldest first; empty where there are none.

    Raises RecordError that lists every bad line.
    """
    path = folder / "records.jsonl"
    if not path.exists():
        return []
    records, problems = [], []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            records.append(_parse(line))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise RecordError(*problems, heading="these records cannot be read")
    return records


def per_query(folder: Path, record: Record) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The AP of each test query, image to text and text to image.

    Raises RecordError where the file is missing or damaged, or leaves the folder.
    """
    path = folder / record.per_query
    if path.parent.resolve() != folder.resolve():
        raise RecordError(f"{folder}: per-query file {record.per_query!r} must lie in the folder of its record")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["i2t"], arrays["t2i"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise RecordError(f"{path}: the per-query file cannot be read ({error})") from error
    except Exception as error:  # zipfile has its own error class, which np.load lets through
        if type(error).__name__ != "BadZipFile":
            raise
        raise RecordError(f"{path}: the per-query file is damaged ({error})") from error


def _parse(line: str) -> Record:
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if values.get("schema") != SCHEMA:
        raise ValueError(f"schema is {values.get('schema')!r}, but this version reads {SCHEMA}")
    types = typing.get_type_hints(Record)
    if missing := sorted(types.keys() - values.keys()):
        raise ValueError(f"without {', '.join(missing)}")
    if extra := sorted(values.keys() - types.keys()):
        raise ValueError(f"unknown {', '.join(extra)}")
    for name, kind in types.items():
        if not _fits(values[name], kind):
            raise ValueError(f"{name} is {values[name]!r}, but must be {getattr(kind, '__name__', kind)}")
    if values["selection"] not in SELECTIONS:
        raise ValueError(f"selection is {values['selection']!r}, but must be one of {', '.join(SELECTIONS)}")
    return Record(**values)


def _fits(value: object, kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if origin is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, origin) and not (origin is int and isinstance(value, bool))
