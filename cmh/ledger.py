"""Every opening of a test split, written down before it happens: append-only, one JSON line an opening.

The ledger of a split is `$CMH_DATA/openings/DATASET-SPLIT.jsonl` (CMH_DATA defaults to `~/cmh-data`): all that this
user has looked at, whichever study, run or program it was. A study's folder keeps the same lines of its own in
`openings.jsonl`, which travel with it; the runs of an experiment file share `NAME.openings.jsonl` beside their folders.

What was shown is a configuration with some seeds: showing the same again (`identity.OPENING` says what that leaves
out) is no further opening.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import TypedDict, cast

from cmh import files, machine
from cmh.errors import LedgerError
from cmh.identity import OPENING, Identity


class Opening(TypedDict, total=False):
    """A line of a ledger: why, when and where, and what was shown (`identity` and `seeds`), where that is known."""

    purpose: str
    date: str  # ISO 8601, UTC
    host: str
    folder: str  # name of the study's or run's folder
    identity: dict[str, object]  # without `OPENING`
    seeds: list[int]
    machine: dict[str, object]


OWN = "openings.jsonl"  # in the folder of a study or run


def path(dataset: str, split_sha256: str) -> Path:
    """Where the openings of a split are written. Raises LedgerError where no folder for it is named."""
    return _root() / "openings" / f"{dataset}-{split_sha256[:12]}.jsonl"


def _root() -> Path:
    """The user's data folder; `$CMH_CACHE` where that is all that a container without a home has."""
    if given := os.environ.get("CMH_DATA"):
        return Path(given)
    home = machine.home()
    if home is not None and machine.can_write(home / "cmh-data"):
        return home / "cmh-data"
    if cache := os.environ.get("CMH_CACHE"):
        return Path(cache)
    where = "no home folder is known" if home is None else f"{home / 'cmh-data'} cannot be written"
    raise LedgerError(f"{where} for the ledger of test openings; set CMH_DATA to a folder")


def open_test(
    dataset: str,
    split_sha256: str,
    purpose: str,
    *,
    identity: Identity | None = None,
    seeds: list[int] | None = None,
    folder: Path | None = None,
    own: str = OWN,
) -> tuple[int, int]:
    """Note that the test split is about to be opened: (openings by `folder`, openings by all), this one included.

    `own` is the file in `folder`, where that holds the runs of several.

    Without an identity (`dataset.test()` in Python) nobody knows what is shown, and each call is a further opening.
    Raises LedgerError where it cannot be noted: then nothing may be opened.
    """
    entry: Opening = {
        "purpose": purpose,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "folder": folder.resolve().name if folder is not None else "",
        "machine": {} if identity is None else {key: getattr(identity, key) for key in OPENING[1:]},
    }
    if identity is not None:
        entry |= {"identity": identity.without(*OPENING), "seeds": sorted(seeds or [])}
    by_all = _note(path(dataset, split_sha256), entry)
    return (by_all if folder is None else _note(folder / own, entry)), by_all


def openings(file: Path, split: tuple[str, str] | None = None) -> list[Opening]:
    """The openings that a file names, oldest first; a line that cannot be read counts as one of which nothing is known.

    `split`: only those of this dataset and split hash. A study's own file may name others, too: of its winner on other
    data. Of what is not known, nobody can say that it was another one.

    Raises LedgerError where the file cannot be read.
    """
    try:
        lines = file.read_bytes().splitlines() if file.exists() else []
    except OSError as error:
        raise _unusable(file, error) from error
    found = [_parsed(line) for line in lines if line.strip()]
    return [line for line in found if split is None or _split(line) in (None, split)]


def _note(file: Path, entry: Opening) -> int:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(file.with_name(f".{file.name}.lock")):
            past = openings(file, _split(entry))
            shown = {
                seed for line in past if line.get("identity") == entry.get("identity") for seed in line.get("seeds", [])
            }
            if "identity" in entry and set(entry["seeds"]) <= shown:
                return len(past)
            with file.open("ab") as out:
                if file.stat().st_size and not file.read_bytes().endswith(b"\n"):  # a writer was killed in mid-line
                    out.write(b"\n")
                out.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
                out.flush()
                os.fsync(out.fileno())
            return len(past) + 1
    except OSError as error:
        raise _unusable(file, error) from error


def _split(line: Opening) -> tuple[str, str] | None:
    shown = line.get("identity")
    return (str(shown.get("dataset")), str(shown.get("split_sha256"))) if isinstance(shown, dict) else None


def _unusable(file: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"{file}: the ledger of test openings cannot be used ({error.strerror or error}), and the test split is not"
        " opened uncounted; set CMH_DATA to a folder that can be written, on another disk"
    )


def _parsed(line: bytes) -> Opening:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("date", ""), str):
        return {"purpose": "unreadable"}
    seeds = entry.get("seeds", [])
    fine = isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds)
    return cast(Opening, entry) if fine else {"purpose": "unreadable"}  # its other keys are only shown
