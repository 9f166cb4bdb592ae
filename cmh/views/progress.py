"""Progress on a terminal: a bar over the trials of a search, with a logged line for each that has ended; a bar over
the epochs of a run. Bars stand on stderr."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

from cmh import bars
from cmh.study.aside import Aside
from cmh.study.storage import Proposal, Store
from cmh.study.trial_row import TrialRow
from cmh.training import Epoch
from cmh.views.overview import Part

log = logging.getLogger(__name__)


@contextlib.contextmanager
def epochs_bar(name: str, epochs: int, *, terminal: bool) -> Iterator[Callable[[Epoch], None]]:
    """A bar over the epochs of a run, plain lines where there is no `terminal`: gives what each epoch is told to."""
    with bars.bar(epochs, name, "epochs", terminal=terminal, leave=True) as bar:

        def show(epoch: Epoch) -> None:
            bar.update(epoch.epoch - bar.n)
            bar.set_postfix_str(f"val_map {epoch.val_map:.4f}, best {epoch.val_map_best:.4f}")

        yield show


class Progress:
    """Follows a search, with plain lines where there is no `terminal`. `name` tells several studies apart.

    With a `part` of the bar over all studies there is no bar of its own.
    """

    def __init__(self, store: Store, limit: int, name: str = "", *, terminal: bool, part: Part | None = None) -> None:
        self.store, self.name, self.part = store, name, part
        self.row = functools.lru_cache(maxsize=1)(store.row)  # of a trial that has ended: read once for all who show it
        rows = [row for row in store.rows() if row.state != "interrupted"]
        asha = store.space.asha
        self.rungs = dict.fromkeys(asha.rungs(store.space.epochs) if asha is not None else [], 0)
        for row in rows:
            self._count(row.curve)
        self.best = max((row for row in rows if row.val_map_best is not None), key=_value, default=None)
        self.running: dict[int, int] = {}
        self.headed = False
        layout = "{desc} |{bar}| {n_fmt}/{total_fmt} trials [{elapsed}<{remaining}{postfix}]"
        self.bar = None
        if part is not None:
            part.found(rows)
        else:
            self.bar = bars.bar(
                limit, name or "search", "trials", initial=len(rows), terminal=terminal, leave=True, layout=layout
            )
        self._show()

    def started(self, proposal: Proposal) -> None:
        """A trial was handed to a worker."""
        self.running[proposal.number] = max(proposal.curve, default=0)
        if self.part is not None:
            self.part.trial_started(proposal.number)
        self._show()

    def reported(self, number: int, epoch: int, value: float) -> None:
        """An epoch's validation MAP was stored."""
        self.running[number] = epoch
        if epoch in self.rungs:
            self.rungs[epoch] += 1
        self._show()

    def ended(self, number: int) -> None:
        """A trial is complete, pruned or failed."""
        self.running.pop(number, None)
        row = self.row(number)
        if row.val_map_best is not None and (self.best is None or _value(row) > _value(self.best)):
            self.best = row
        if not self.headed:
            self.headed = True
            log.info("%s", f"{self.name}  {HEADER}" if self.name else HEADER)
        text = line(row, searched=[item.name for item in self.store.space.ranges])
        log.info("%s", f"{self.name}  {text}" if self.name else text)
        if self.part is not None:
            self.part.trial_ended(number, None if self.best is None else self.best.val_map_best)
        if self.bar is not None:
            self.bar.update()
        self._show()

    def validated(self, one: Aside) -> None:
        """Nothing: whoever searches says so in a line."""

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.part is not None:
            self.part.search_ended()
        if self.bar is not None:
            self.bar.close()

    def _count(self, curve: dict[int, float]) -> None:
        for epoch in curve:
            if epoch in self.rungs:
                self.rungs[epoch] += 1

    def _show(self) -> None:
        if self.bar is None:
            return
        best = f"best {_value(self.best):.4f} (trial {self.best.number})" if self.best is not None else "best -"
        running = " ".join(f"{number}@{epoch}" for number, epoch in sorted(self.running.items())) or "-"
        rungs = " ".join(f"{rung}:{count}" for rung, count in self.rungs.items()) or "-"
        self.bar.set_postfix_str(f"{best}, running {running}, rungs {rungs}")


HEADER = f"{'trial':<9}  {'state':<13} {'MAP':<6}  {'best epoch':<12} {'time':<5}  settings"


def line(row: TrialRow, searched: list[str]) -> str:
    """One line for an ended trial, below HEADER: MAP on validation, the best epoch of how many, seconds."""
    state = {"pruned": f"pruned at {row.rung}", "failed": f"failed ({row.failure})"}.get(row.state, row.state)
    score = "     -" if row.val_map_best is None else f"{row.val_map_best:.4f}"
    if row.state == "failed":
        detail = row.error
    elif row.state == "diverged":
        detail = row.error if row.origin == "search" else f"{row.origin}: {row.error}"
    elif row.copied_from is not None:
        detail = f"the same as trial {row.copied_from}, not run again"
    else:
        values = [f"{name}={_short(row.config[name])}" for name in searched]
        detail = row.origin if row.origin != "search" else " ".join(values)
    seconds = "" if row.seconds is None else f"{row.seconds:.0f} s"
    epochs = f"epoch {row.best_epoch or 0:>2}/{row.epochs:<3}"
    return f"trial {row.number:>3}  {state:<13} {score}  {epochs} {seconds:>5}  {detail}"


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _value(row: TrialRow) -> float:
    return row.val_map_best if row.val_map_best is not None else float("-inf")
