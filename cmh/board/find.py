"""The records below some folders."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from cmh import records
from cmh.errors import CmhError, RecordError
from cmh.records import Record


@dataclasses.dataclass(frozen=True)
class Run:
    """A record and the folder that it was read from."""

    folder: Path
    record: Record


def find(roots: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The records of all studies and runs below `roots`, and a line for each one that cannot be read.

    A folder that two roots share is read once; symbolic links below a root and hidden folders (half-written ones) are
    not entered. Raises RecordError that lists every root that is no folder.
    """
    wrong: list[str] = []
    problems: list[str] = []
    folders: dict[Path, Path] = {}  # resolved → as the user named it
    for root in roots:
        try:
            mode = root.stat().st_mode
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            cause = "does not exist" if missing else f"cannot be read ({getattr(error, 'strerror', None) or error})"
            wrong.append(f"{root}: {cause}")
            continue
        if not stat.S_ISDIR(mode):
            wrong.append(f"{root}: is a file; name the folder that holds it")
            continue

        def unreadable(error: OSError) -> None:
            problems.append(f"{error.filename}: left out: cannot be read ({error.strerror})")

        for place, inner, names in os.walk(root, onerror=unreadable):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            folder = Path(place)
            if "records.jsonl" in names and not (folder / "records.jsonl").is_symlink():
                folders.setdefault(folder.resolve(), folder)
    if wrong:
        raise RecordError(*wrong, heading="the records cannot be read")
    runs: list[Run] = []
    for folder in sorted(folders.values()):
        try:
            found, bad = records.read(folder)
        except RecordError as error:
            problems += error.problems
        else:
            runs += [Run(folder, record) for record in found]
            problems += bad
    return runs, problems


def only(runs: Sequence[Run], dataset: str) -> list[Run]:
    """The runs on one dataset; CmhError that lists the datasets where there are none."""
    known = sorted({run.record.identity.dataset for run in runs})
    if dataset not in known:
        raise CmhError(f"no records of dataset {dataset!r}; there are records of: {', '.join(known)}")
    return [run for run in runs if run.record.identity.dataset == dataset]
