"""What is wrong with a dataset, gathered so that one error can name all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from cmh.errors import DatasetError

SHOWN = 100  # lines of one kind in a message; the rest is counted


@dataclasses.dataclass(frozen=True)
class Problem:
    """One line for people. `kind` is what the counts are of; `row` the item it is about, where it is about one."""

    kind: str
    text: str
    row: int | None = None
    optional: bool = False  # `--skip-bad` can go on without the thing


class Problems:
    """A list of problems that knows which items it spoils."""

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self.rows: set[int] = set()

    def add(self, kind: str, text: str) -> None:
        """Something that the whole dataset depends on."""
        self.found.append(Problem(kind, text))

    def item(self, row: int, kind: str, text: str) -> None:
        """Something about one item, which `--skip-bad` leaves out."""
        self.found.append(Problem(kind, text, row, True))
        self.rows.add(row)

    def spare(self, kind: str, text: str) -> None:
        """Something that is no item, and that `--skip-bad` leaves out."""
        self.found.append(Problem(kind, text, None, True))

    @property
    def fatal(self) -> bool:
        """Whether there is one that cannot be left out."""
        return any(not problem.optional for problem in self.found)

    def __bool__(self) -> bool:
        return bool(self.found)

    def counts(self) -> dict[str, int]:
        """How many of each kind, in the order in which they were met."""
        counts: dict[str, int] = {}
        for problem in self.found:
            counts[problem.kind] = counts.get(problem.kind, 0) + 1
        return counts

    def lines(self) -> Iterator[str]:
        """One line a problem, at most SHOWN of a kind."""
        shown: dict[str, int] = {}
        for problem in self.found:
            shown[problem.kind] = shown.get(problem.kind, 0) + 1
            if shown[problem.kind] <= SHOWN:
                yield problem.text
        for kind, count in shown.items():
            if count > SHOWN:
                yield f"… and {count - SHOWN:,} more: {kind}"

    def stop(self, where: str, *, skip_bad: bool = False) -> None:
        """Raises DatasetError with every problem, unless there is none or all can be left out as asked."""
        if not self.found or (skip_bad and not self.fatal):
            return
        counts = ", ".join(f"{kind} {count:,}" for kind, count in self.counts().items())
        heading = f"{where} cannot be used: {len(self.found):,} problems ({counts})"
        hint = "--skip-bad goes on without the bad items and says how many" if not self.fatal and not skip_bad else ""
        raise DatasetError(*self.lines(), *([hint] if hint else []), heading=heading)
