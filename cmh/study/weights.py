"""Which weights a study keeps on disk: its winner's, its confirmed runs', and those of trials that go on.

A trial that has ended is never taken up again: going on, `reproduce STUDY:TRIAL` and warm starts need its settings,
its curve and the storage alone. So its checkpoint goes as soon as it cannot be the winner's, unless all are to be kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from cmh.study.trial_row import TrialRow

KEEP = ("winner", "all")
PATTERN = "checkpoint.*"  # those that were set aside as well


def winner(rows: Iterable[TrialRow]) -> TrialRow | None:
    """The completed trial with the highest validation MAP, of equal ones the first; None where none is complete."""
    complete = (row for row in rows if row.completed)
    return max(complete, key=lambda row: (row.val_map_best or 0.0, -row.number), default=None)


def place(folder: Path, row: TrialRow) -> Path:
    """The folder of a trial's files; where it took over what another had made, of that one's."""
    return folder / "trials" / str(row.number if row.copied_from is None else row.copied_from)


def superfluous(folder: Path, rows: Iterable[TrialRow]) -> list[Path]:
    """The checkpoints of trials that have ended and are not the winner."""
    rows = list(rows)
    best = winner(rows)
    kept = {place(folder, row) for row in rows if row.state == "interrupted"} | (
        {place(folder, best)} if best else set()
    )
    ended = {place(folder, row) for row in rows} - kept
    return sorted(path for path in (folder / "trials").glob(f"*/{PATTERN}") if path.parent in ended)


def remove(paths: Iterable[Path]) -> None:
    """Delete files, those that are gone or cannot be deleted excepted: `cmh.studies clean` shows what is left."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


class Keeper:
    """While a search runs: as trials end, removes the checkpoint of each that cannot be the winner any more."""

    def __init__(self, folder: Path, rows: Iterable[TrialRow]) -> None:
        self.folder, self.best = folder, winner(rows)

    def ended(self, row: TrialRow) -> None:
        """A trial has ended, and the storage knows it."""
        before, self.best = self.best, winner([row, *([self.best] if self.best else [])])
        loser = row if self.best is not row else before
        if loser is not None and self.best is not None and place(self.folder, loser) == place(self.folder, self.best):
            return
        if loser is not None:
            remove(place(self.folder, loser).glob(PATTERN))
