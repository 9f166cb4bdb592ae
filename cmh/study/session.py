"""One study while it is searched and confirmed: what its workers are to do next, and what becomes of their reports."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, SupportsFloat

from cmh.config import Value
from cmh.errors import StudyError
from cmh.interfaces import Dataset
from cmh.study.confirm import Confirmed
from cmh.study.rungs import Rungs
from cmh.study.storage import DEATHS, Proposal, Store
from cmh.study.weights import Keeper

HUGE, GROWN = 1e9, 1e3  # a loss at the last epoch that is so large, or so many times its smallest, has diverged
RESULT_KEYS = ("best_epoch", "best_i2t", "best_t2i", "seconds", "passes", "device_seconds", "device")


class View(Protocol):
    """Who watches a search."""

    def started(self, proposal: Proposal) -> None:
        """A trial was handed to a worker."""

    def reported(self, number: int, epoch: int, value: float) -> None:
        """An epoch's validation MAP was stored."""

    def ended(self, number: int) -> None:
        """A trial is complete, pruned or failed."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a study's search may spend, over all its starts; None is no limit."""

    seconds: float | None = None  # by the clock
    passes: float | None = None  # of all trials over the training items


@dataclasses.dataclass(frozen=True)
class Work:
    """A study that is to be searched, and what follows.

    `run` holds the settings that all its trials share (dataset, features, bits, epochs, seed); each trial writes to
    `folder/trials/<number>`, from where the `keeper` takes weights that nobody needs any more. When the search has
    ended, `ended` says which runs are to be confirmed, as flat mappings, and `tested` is given each that is done.
    """

    store: Store
    limit: int
    folder: Path
    run: Mapping[str, Value]
    dataset: Dataset
    view: View
    ended: Callable[[], list[dict[str, Value]]] = lambda: []
    tested: Callable[[Confirmed], None] = lambda _: None
    keeper: Keeper | None = None  # None keeps all weights


@dataclasses.dataclass
class RunningTrial:
    """A trial of the search that a worker has."""

    proposal: Proposal
    newest: Mapping[str, object] = dataclasses.field(default_factory=dict)  # what it reported last
    lowest: dict[str, float] = dataclasses.field(default_factory=dict)  # size of each loss since the worker began

    @property
    def number(self) -> int:
        """Of the trial in its study."""
        return self.proposal.number

    def note(self, result: Mapping[str, object]) -> None:
        """Take in what it reported."""
        self.newest = result
        for name in result:
            if name == "loss" or name.endswith("_loss"):
                size = abs(_number(result, name))
                self.lowest[name] = min(size, self.lowest.get(name, size))

    def diverged(self) -> str:
        """Which loss has become huge, in words; empty where none has."""
        sizes = {name: abs(_number(self.newest, name)) for name in self.lowest if name in self.newest}
        return ", ".join(
            f"{name} ended at {sizes[name]:.2g}"
            for name in sizes
            if sizes[name] >= HUGE or sizes[name] >= GROWN * max(1.0, self.lowest[name])
        )

    def summary(self) -> dict[str, object]:
        """What of the newest report the storage keeps."""
        return {key: self.newest[key] for key in RESULT_KEYS if key in self.newest}


@dataclasses.dataclass
class RunningConfirmation:
    """A confirmation run that a worker has: a flat mapping of hyperparameters and run settings."""

    values: dict[str, Value]


class Session:
    """A study from the first trial that this process hands out to its last confirmation run."""

    def __init__(self, work: Work, budget: Budget) -> None:
        self.work, self.store, self.budget = work, work.store, budget
        asha, self.epochs = work.store.space.asha, int(work.run["epochs"])
        self.rungs = None if asha is None else Rungs(asha, self.epochs, work.store.history())
        self.running: dict[int, RunningTrial] = {}  # by number
        self.confirmations: list[dict[str, Value]] = []  # runs that wait for a worker
        self.deaths: dict[str, int] = {}  # of workers, by the confirmation's folder
        self.passes = {row.number: row.passes for row in work.store.rows()}  # by trial
        self.search_ended = False
        self.deadline: float | None = None
        self.now = 0.0  # seconds that have passed for it: all, or its share of them where other studies ran beside it
        self.clock: float | None = None  # since when the search's time is not counted yet; None: it does not run
        self.broken = False  # its storage or disk: it hands out no more work
        self.problems: list[str] = []

    @property
    def over(self) -> bool:
        """Whether there will be no more work to hand out, unless a confirmation's worker dies."""
        return self.broken or (self.search_ended and not self.confirmations)

    def take(self) -> RunningTrial | RunningConfirmation | None:
        """The next piece of work that can start now; None where there is none."""
        if not self.search_ended:
            self._start_clock()
            if self.store.exhausted(self.work.limit) or self.budget_is_spent():
                self._end_search()
            elif proposal := self._propose():
                trial = self.running[proposal.number] = RunningTrial(proposal)
                return trial
        return RunningConfirmation(self.confirmations.pop(0)) if self.confirmations else None

    def _start_clock(self) -> None:
        """The search's time runs from here; what earlier starts took is part of its budget."""
        if self.clock is None:
            self.clock = self.now
            if self.budget.seconds is not None:
                self.deadline = self.clock + self.budget.seconds - self.store.seconds()

    def _propose(self) -> Proposal | None:
        proposal = self.store.propose(self.work.limit)
        for number in self.store.ended_without_run:
            self.work.view.ended(number)
        self.store.ended_without_run.clear()
        if proposal is not None:
            self.work.view.started(proposal)
        elif self.store.exhausted(self.work.limit):
            self._end_search()
        return proposal

    def budget_is_spent(self) -> bool:
        """Whether the search has spent its time or its passes."""
        spent = self.budget.passes is not None and sum(self.passes.values()) >= self.budget.passes
        return spent or (self.deadline is not None and self.now >= self.deadline)

    def _end_search(self) -> None:
        """Once nothing of the search runs any more: on to the confirmation."""
        if self.running or self.search_ended:
            return
        self.search_ended = True
        self.count_seconds()
        try:
            self.confirmations = self.work.ended()
        except StudyError as error:
            self.problems.extend(error.problems)

    def note_end(self, trial: RunningTrial) -> None:
        """A trial has ended, and the storage knows it."""
        del self.running[trial.number]
        self.count_seconds()
        if self.work.keeper is not None:
            self.work.keeper.ended(self.store.row(trial.number))
        self.work.view.ended(trial.number)

    def count_seconds(self) -> None:
        """Add the time since this was last done to the study's."""
        if self.clock is not None:
            self.store.add_seconds(self.now - self.clock)
            self.clock = None if self.search_ended else self.now

    def reported(self, trial: RunningTrial, result: Mapping[str, object]) -> bool:
        """Store what a trial reported; true if it is to be stopped.

        Raises StudyError where the trial's disk is full.
        """
        if "failed" in result:
            self.failed(trial, str(result["failed"]), str(result["reason"]))
            return False
        number, epoch, value = trial.number, int(_number(result, "epoch")), _number(result, "val_map")
        trial.note(result)
        stored = self.store.curve(number).get(epoch, value)
        if stored != value:
            self.store.replace(
                number,
                f"epoch {epoch} was {stored:.6f} and is now {value:.6f} ({result.get('device', 'another device')}): its"
                " first epochs were trained under other circumstances; a new trial has its configuration",
                trial.summary(),
            )
            self.note_end(trial)
            return True
        passes = _number(result, "passes", 0.0)
        self.passes[number] = max(passes, self.passes.get(number, 0.0))
        if self.store.report(number, epoch, value, passes):
            self.work.view.reported(number, epoch, value)
        # A closed-form method may need fewer epochs than asked for.
        if epoch >= int(_number(result, "epochs", self.epochs)):
            self.store.complete(number, {**trial.summary(), "diverged": trial.diverged()})
            self.note_end(trial)
            return False
        stops = self.rungs is not None and self.rungs.stops(number, epoch, self.store.curve(number))
        if stops and not trial.proposal.protected:
            self.store.prune(number, epoch, trial.summary())
            self.note_end(trial)
            return True
        return False

    def failed(self, trial: RunningTrial, kind: str, reason: str) -> None:
        """A trial failed; out of memory it is tried a second time.

        Raises StudyError where its disk is full: that is not the trial's fault.
        """
        if kind == "disk":
            raise StudyError(f"trial {trial.number}: {reason}; make room, then the same command goes on")
        if kind == "oom" and self.store.memory_failed(trial.number):
            del self.running[trial.number]
            return
        self.store.fail(trial.number, kind, reason, trial.summary())
        self.note_end(trial)

    def trial_died(self, trial: RunningTrial, error: str) -> None:
        """The worker of a trial is gone: killed, crashed, or its node was lost."""
        if re.search("OutOfMemory|low on memory", error):
            self.failed(trial, "oom", "the worker was killed because the node ran out of memory")
        elif self.store.worker_died(trial.number):
            del self.running[trial.number]
        else:
            reason = f"the worker process died {DEATHS} times at this epoch (killed, out of memory, or crashed)"
            self.store.fail(trial.number, "error", reason, trial.summary())
            self.note_end(trial)

    def put_back(self, trial: RunningTrial) -> None:
        """A trial is stopped without a verdict; it stays in the storage as interrupted."""
        self.store.put_back(trial.number)
        del self.running[trial.number]

    def confirmed(self, result: Mapping[str, object]) -> None:
        """A confirmation run reported: it is done, or it failed."""
        if "failed" in result:
            self.problems.append(f"the confirmation failed: {result['reason']}")
        else:
            tested = result["tested"]
            assert isinstance(tested, Confirmed)
            self.work.tested(tested)

    def has_died(self, confirmation: Mapping[str, Value]) -> bool:
        """Whether a worker of this confirmation run has died."""
        return str(confirmation["folder"]) in self.deaths

    def retry_waits(self) -> bool:
        """Whether something that ran out of memory, or a confirmation whose worker died, waits for its next try."""
        return self.store.memory_retry_waits() or any(map(self.has_died, self.confirmations))

    def confirmation_died(self, confirmation: RunningConfirmation) -> None:
        """The worker of a confirmation run is gone: it is to be run again, unless that was the third time."""
        folder = str(confirmation.values["folder"])
        self.deaths[folder] = self.deaths.get(folder, 0) + 1
        if self.deaths[folder] < DEATHS:
            self.confirmations.append(confirmation.values)
        else:
            self.problems.append("the confirmation failed: its worker died three times; the same command goes on")


def _number(result: Mapping[str, object], key: str, default: float | None = None) -> float:
    """A number of a report; the default where it is absent."""
    value = result[key] if default is None else result.get(key, default)
    assert isinstance(value, SupportsFloat)
    return float(value)
