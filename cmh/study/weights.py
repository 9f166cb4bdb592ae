"""Which weights a study keeps on disk: its winner's (and those of who may still win), its confirmed runs', and those of
trials that go on.

A trial that has ended is never taken up again: going on, `reproduce STUDY:TRIAL` and warm starts need its settings,
its curve and the storage alone. So its checkpoint goes as soon as it cannot be the winner's, unless all are to be kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from cmh.study import finals
from cmh.study.trial_row import TrialRow

KEEP = ("winner", "all")
PATTERN = "checkpoint.*"  # those that were set aside as well


def winner(rows: Iterable[TrialRow]) -> TrialRow | None:
    """The completed trial with the highest validation MAP, of equal ones the first; None where none is complete.

    (Where the best trials get further seeds, `aside.standing` has the last word.)
    """
    return next(iter(finals.best(rows, 1)), None)


def place(folder: Path, row: TrialRow) -> Path:
    """The folder of a trial's files; where it took over what another had made, of that one's."""
    return folder / "trials" / str(row.number if row.copied_from is None else row.copied_from)


def superfluous(folder: Path, rows: Iterable[TrialRow], finalists: int = 0) -> list[Path]:
    """The checkpoints of trials that have ended and are neither the winner nor among the `finalists` best."""
    rows = list(rows)
    kept = {place(folder, row) for row in rows if row.state == "interrupted"}
    kept |= {place(folder, row) for row in finals.best(rows, max(finalists, 1))}
    ended = {place(folder, row) for row in rows} - kept
    return sorted(path for path in (folder / "trials").glob(f"*/{PATTERN}") if path.parent in ended)


def remove(paths: Iterable[Path]) -> None:
    """Delete files, those that are gone or cannot be deleted excepted: `cmh.studies clean` shows what is left."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


class Keeper:
    """While a search runs: as trials end, removes the checkpoint of each that cannot be the winner any more."""

    def __init__(self, folder: Path, rows: Iterable[TrialRow], finalists: int = 0) -> None:
        self.folder, self.most = folder, max(finalists, 1)
        self.best = finals.best(rows, self.most)

    def ended(self, row: TrialRow) -> None:
        """A trial has ended, and the storage knows it."""
        before, self.best = [row, *self.best], finals.best([row, *self.best], self.most)
        kept = {place(self.folder, one) for one in self.best}
        for lost in {place(self.folder, one) for one in before} - kept:
            remove(lost.glob(PATTERN))
