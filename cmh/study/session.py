"""One study while it is searched and confirmed: what its workers are to do next, and what becomes of their reports."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from cmh.errors import StudyError
from cmh.study import aside
from cmh.study.aside import Aside
from cmh.study.confirm import Confirmed
from cmh.study.rungs import Rungs
from cmh.study.storage import DEATHS, Proposal
from cmh.study.work import Budget, RunningConfirmation, RunningTrial, RunningValidation, Work, number_of


class Session:
    """A study from the first trial that this process hands out to its last confirmation run."""

    def __init__(self, work: Work, budget: Budget) -> None:
        self.work, self.store, self.budget = work, work.store, budget
        asha, self.epochs = work.store.space.asha, int(work.run["epochs"])
        self.rungs = None if asha is None else Rungs(asha, self.epochs, work.store.history())
        self.running: dict[int, RunningTrial] = {}  # by number
        # Runs that wait for a worker: those of the finals and confirmations first, those beside the search last.
        self.waiting: list[RunningConfirmation | RunningValidation] = [*work.control]
        self.finals: set[str] = set()  # folders of the round that runs
        self.deaths: dict[str, int] = {}  # of workers, by the folder of such a run
        further = aside.of_seeds(aside.kept(work.store.kept()).values()).values()
        self.passes: dict[int | str, float] = {row.number: row.passes for row in work.store.rows()}  # by trial
        self.passes |= {one.name: one.passes for one in further}
        self.trials_ended = False  # the winner may have to be found among the best
        self.search_ended = False
        self.deadline: float | None = None
        self.now = 0.0  # seconds that have passed for it: all, or its share of them where other studies ran beside it
        self.clock: float | None = None  # since when the search's time is not counted yet; None: it does not run
        self.broken = False  # its storage or disk: it hands out no more work
        self.problems: list[str] = []

    @property
    def over(self) -> bool:
        """Whether there will be no more work to hand out, unless a confirmation's worker dies."""
        return self.broken or (self.trials_ended and not self.waiting)

    def take(self) -> RunningTrial | RunningConfirmation | RunningValidation | None:
        """The next piece of work that can start now; None where there is none."""
        if not self.trials_ended:
            self._start_clock()
            if self.store.exhausted(self.work.limit) or self.budget_is_spent():
                self._end_trials()
            elif proposal := self._propose():
                trial = self.running[proposal.number] = RunningTrial(proposal)
                return trial
        return self.waiting.pop(0) if self.waiting else None

    def _start_clock(self) -> None:
        """The search's time runs from here; what earlier starts took is part of its budget."""
        if self.clock is None:
            self.clock = self.now
            if self.budget.seconds is not None:
                left = self.budget.seconds * (1 - self.work.share) - self.store.seconds()
                self.deadline = self.clock + left

    def _propose(self) -> Proposal | None:
        proposal = self.store.propose(self.work.limit)
        for number in self.store.ended_without_run:
            self.work.view.ended(number)
        self.store.ended_without_run.clear()
        if proposal is not None:
            self.work.view.started(proposal)
        elif self.store.exhausted(self.work.limit):
            self._end_trials()
        return proposal

    def budget_is_spent(self) -> bool:
        """Whether the trials have spent their time or their passes; what is kept for further seeds is not theirs."""
        passes = self.budget.passes
        spent = passes is not None and sum(self.passes.values()) >= passes * (1 - self.work.share)
        return spent or (self.deadline is not None and self.now >= self.deadline)

    def _end_trials(self) -> None:
        """Once no trial runs any more: on to the finals."""
        if not self.running and not self.trials_ended:
            self.trials_ended = True
            self._next_round()

    def _next_round(self) -> None:
        """Further seeds for the best trials, a round at a time while the budget lasts; then the confirmation."""
        self.count_seconds()
        spent = self.budget.passes is not None and sum(self.passes.values()) >= self.budget.passes
        spent = spent or (self.budget.seconds is not None and self.store.seconds() >= self.budget.seconds)
        runs = [] if spent else self.work.finals()
        if runs:
            self.finals = {str(run.values["folder"]) for run in runs}
            self.waiting[:0] = runs
            return
        self.search_ended, self.clock = True, None
        try:
            self.waiting[:0] = [RunningConfirmation(values) for values in self.work.ended()]
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
        number, epoch, value = trial.number, int(number_of(result, "epoch")), number_of(result, "val_map")
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
        passes = number_of(result, "passes", 0.0)
        self.passes[number] = max(passes, self.passes.get(number, 0.0))
        if self.store.report(number, epoch, value, passes):
            self.work.view.reported(number, epoch, value)
        # A closed-form method may need fewer epochs than asked for.
        if epoch >= int(number_of(result, "epochs", self.epochs)):
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

    def validated(self, run: RunningValidation, result: Mapping[str, object]) -> None:
        """A run beside the search reported: what came out is kept. Out of memory it is tried again.

        Raises StudyError where its disk is full.
        """
        name = Path(str(run.values["folder"])).name
        if "failed" not in result:
            found = result["validated"]
            assert isinstance(found, Aside)
            self._keep(dataclasses.replace(found, name=name, trial=run.trial))
        elif result["failed"] == "disk":
            raise StudyError(f"{name}: {result['reason']}; make room, then the same command goes on")
        elif result["failed"] != "oom" or not self._again(run):
            self._keep(aside.failed(name, run.trial, int(run.values["seed"]), str(result["reason"])))

    def _keep(self, one: Aside) -> None:
        aside.keep(self.store.study, one)
        if one.trial is not None:
            self.passes[one.name] = one.passes
            self.finals = {folder for folder in self.finals if Path(folder).name != one.name}
        self.work.validated(one)
        if one.trial is not None and not self.finals:
            self._next_round()

    def confirmed(self, result: Mapping[str, object]) -> None:
        """A confirmation run reported: it is done, or it failed."""
        if "failed" in result:
            self.problems.append(f"the confirmation failed: {result['reason']}")
        else:
            tested = result["tested"]
            assert isinstance(tested, Confirmed)
            self.work.tested(tested)

    def has_died(self, run: RunningConfirmation | RunningValidation) -> bool:
        """Whether a worker of this run has died, or it ran out of memory."""
        return str(run.values["folder"]) in self.deaths

    def retry_waits(self) -> bool:
        """Whether something that ran out of memory, or whose worker died, waits for its next try."""
        return self.store.memory_retry_waits() or any(map(self.has_died, self.waiting))

    def _again(self, run: RunningConfirmation | RunningValidation) -> bool:
        """Have it run once more, unless that was the third time."""
        folder = str(run.values["folder"])
        self.deaths[folder] = self.deaths.get(folder, 0) + 1
        if self.deaths[folder] < DEATHS:
            self.waiting.append(run)
        return self.deaths[folder] < DEATHS

    def run_died(self, run: RunningConfirmation | RunningValidation) -> None:
        """The worker of a run that is no trial is gone: it is to be run again, unless that was the third time."""
        if self._again(run):
            return
        if isinstance(run, RunningValidation):
            name, seed = Path(str(run.values["folder"])).name, int(run.values["seed"])
            self._keep(aside.failed(name, run.trial, seed, "its worker died three times"))
        else:
            self.problems.append("the confirmation failed: its worker died three times; the same command goes on")
