"""What is wrong with a dataset, gathered so that one error can name all of it, a line for each cause."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from cmh.errors import DatasetError

EXAMPLES = 2  # of one cause in a message; the rest is counted
CAUSES = 10  # of one kind in a message

# What differs between two lines about the same thing: quoted values, figures, what a library said in brackets.
_PARTICULARS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\(.*?\)|\d[\d,.]*|; (?:did you mean|known:) .*")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One line for people. `kind` is what the counts are of; `row` the item it is about, where it is about one."""

    kind: str
    text: str
    row: int | None = None
    optional: bool = False  # `--skip-bad` can go on without the thing

    @property
    def cause(self) -> tuple[str, str]:
        """The same for all problems that differ in names and figures only."""
        return self.kind, _PARTICULARS.sub("…", self.text)


class Problems:
    """A list of problems that knows which items it spoils; and notes: what is no problem, but should be known.

    `skip_bad`: bad items are going to be left out, as the user has asked.
    """

    def __init__(self, *, skip_bad: bool = False) -> None:
        self.skip_bad = skip_bad
        self.found: list[Problem] = []
        self.rows: set[int] = set()
        self.notes: list[str] = []

    def add(self, kind: str, text: str) -> None:
        """Something that the whole dataset depends on."""
        self.found.append(Problem(kind, text))

    def item(self, row: int, kind: str, text: str, *, optional: bool = True) -> None:
        """Something about one item, which `--skip-bad` leaves out.

        With `optional=False` it does not: the item is sound, but said in another way than cmh reads.
        """
        self.found.append(Problem(kind, text, row, optional))
        self.rows.add(row)

    def note(self, text: str) -> None:
        """Something that was taken in one of several ways, or left aside: for `Source.notes`."""
        self.notes.append(text)

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
        """One or two problems as they are; more of one cause as one line, with their number and two examples."""
        causes: dict[tuple[str, str], list[str]] = {}
        for problem in self.found:
            causes.setdefault(problem.cause, []).append(problem.text)
        shown: dict[str, int] = {}
        for (kind, _), texts in causes.items():
            shown[kind] = shown.get(kind, 0) + 1
            if shown[kind] > CAUSES:
                continue
            if len(texts) <= EXAMPLES:
                yield from texts
            else:
                heads, cures = zip(*(text.partition("; ")[::2] for text in texts[:EXAMPLES]), strict=True)
                same = len(set(cures)) == 1 and cures[0]
                yield f"{len(texts):,} times {kind}: {'; '.join(heads if same else texts[:EXAMPLES])}; …" + (
                    f" ({cures[0]})" if same else ""
                )
        for kind, number in shown.items():
            if number > CAUSES:
                left = sum(len(texts) for _, texts in [one for one in causes.items() if one[0][0] == kind][CAUSES:])
                yield f"… and {left:,} more: {kind}"

    def stop(self, where: str, *, skip_bad: bool = False, with_notes: bool = False) -> None:
        """Raises DatasetError with every problem, unless there is none or all can be left out as asked.

        `with_notes`: they may be the cure, and nobody has shown them yet.
        """
        if not self.found or (skip_bad and not self.fatal):
            return
        counts = ", ".join(f"{kind} {count:,}" for kind, count in self.counts().items())
        heading = f"{where} cannot be used: {len(self.found):,} problems ({counts})"
        hint = []
        if not self.fatal and not skip_bad:
            hint = [f"--skip-bad goes on without the bad items ({len(self.rows):,}) and says how many"]
        notes = [f"note: {note}" for note in self.notes] if with_notes else []
        raise DatasetError(*self.lines(), *notes, *hint, heading=heading)
