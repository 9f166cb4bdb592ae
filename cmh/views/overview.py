"""One bar over all studies of a command: what runs, what is done, how long the rest will take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from cmh import bars
from cmh.study.request import Request, StudyRequest
from cmh.study.trial_row import TrialRow

LAYOUT = "{desc} |{bar}| {n_fmt}/{total_fmt} trials [{elapsed}{postfix}]"
LINE = "{desc}: {n_fmt}/{total_fmt} trials [{elapsed}{postfix}]"
SHOWN = 3  # studies that run, by name


@contextlib.contextmanager
def over(request: Request, *, terminal: bool) -> Iterator[Overview | None]:
    """Within the block, the bar over all studies of a request; None for a single one, which has a bar of its own."""
    if len(request.studies) == 1:
        yield None
        return
    with contextlib.closing(Overview(request.studies, len(request.seeds), terminal=terminal)) as found:
        yield found


class Overview:
    """The bar over `studies`; `seeds` is how many runs follow each search.

    How long the rest takes is computed from the seconds that trials of each study have taken. One of which none has
    ended is thought to be like the other studies of its method, else like all. Every run of a winner is as long as the
    longest trial. `clock` gives seconds.
    """

    def __init__(
        self,
        studies: Sequence[StudyRequest],
        seeds: int,
        *,
        terminal: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.parts = {study.folder: Part(self, study) for study in studies}
        self.seeds, self.clock = seeds, clock
        self.most = 1  # trials at once so far
        total = sum(study.limit for study in studies)
        self.bar = bars.bar(total, "", "trials", terminal=terminal, leave=True, layout=LAYOUT, line=LINE)
        self.show()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def left(self) -> float | None:
        """Seconds that the rest will take, with as many trials at once as there were; None where none has ended."""
        parts = self.parts.values()
        every = [second for part in parts for second in part.seconds]
        if not every:
            return None
        rest = 0.0
        for part in (part for part in parts if not part.done):
            alike = [second for one in parts if one.method == part.method for second in one.seconds]
            like = part.seconds or alike or every
            trials = 0 if part.searched else max(part.limit - part.ended, 0)
            rest += trials * sum(like) / len(like) + self.seeds * max(like)
        return rest / self.most

    def show(self) -> None:
        """Draw the bar anew."""
        parts = list(self.parts.values())
        running = [part for part in parts if part.running]
        self.most = max(self.most, sum(len(part.running) for part in running))
        done = sum(part.done for part in parts)
        waiting = sum(not part.begun for part in parts)
        self.bar.set_description_str(f"{done} of {len(parts)} studies done, {waiting} wait", refresh=False)
        left = self.left()
        texts = [f"{part.name} {part.ended}/{part.limit}{part.best}" for part in running[:SHOWN]]
        texts += [f"{len(running) - SHOWN} more"] * (len(running) > SHOWN)
        self.bar.set_postfix_str("; ".join(["? left" if left is None else f"about {duration(left)} left", *texts]))


class Part:
    """A study's share of the bar."""

    def __init__(self, whole: Overview, study: StudyRequest) -> None:
        self.whole, self.name, self.method, self.limit = whole, study.folder.name, study.space.method, study.limit
        self.seconds: list[float] = []  # of each trial that was trained and has ended
        self.running: dict[int, float] = {}  # trials: since when
        self.ended, self.best = 0, ""
        self.searched = self.done = False

    @property
    def begun(self) -> bool:
        """Whether something of it has run."""
        return bool(self.ended or self.running or self.searched)

    def found(self, rows: Sequence[TrialRow]) -> None:
        """Trials that have ended in an earlier start."""
        self.seconds = [row.seconds for row in rows if row.seconds]
        self._count(len(rows))

    def trial_started(self, number: int) -> None:
        """A trial was handed to a worker."""
        self.running[number] = self.whole.clock()
        self.whole.show()

    def trial_ended(self, number: int, best: float | None) -> None:
        """A trial is complete, pruned or failed; `best` is the study's best validation MAP."""
        if number in self.running:  # one that another's curve stands for was not run
            self.seconds.append(self.whole.clock() - self.running.pop(number))
        self.best = "" if best is None else f" best {best:.4f}"
        self._count(1)

    def search_ended(self) -> None:
        """No trial runs any more; the winner is confirmed next."""
        self.searched = True
        self.running.clear()
        self.whole.show()

    def finished(self) -> None:
        """All is known."""
        self.done = True
        self.whole.show()

    def _count(self, trials: int) -> None:
        self.ended += trials
        self.whole.bar.n += trials
        self.whole.show()


def duration(seconds: float) -> str:
    """A time in words, of two units at most: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
