"""All studies of a command while they run: which of Ray's trials does which piece of work. Knows nothing of Ray itself.

**Fair shares.** Of W places for work and N studies that are not over, each study may hold W/N, rounded up; earlier
studies come first, and what is left over goes to whoever has more work, so that no worker idles. So studies end one
after the other, yet each is searched by few trials at once, which know more of those before them. The time that passes
is shared out among the studies by what each of them holds: `--time-budget` is of a study's share.

An error of the harness is kept here, for Ray's loop would hide it; it ends the study that it came from, and the whole
run where that was the last one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from cmh.signals import Interrupts
from cmh.study.node import Task
from cmh.study.resources import Resources, fitting
from cmh.study.session import Session
from cmh.study.work import Budget, RunningConfirmation, RunningTrial, RunningValidation, Work

GRACE_SECONDS = 5.0  # after the end of a time budget, for a trial's running epoch
COUNT_SECONDS = 5.0  # how much of a search's time a kill may lose
ROOM_SECONDS = 5.0  # how old the count of a joined cluster's nodes may be


@dataclasses.dataclass
class Assignment:
    """A piece of work that Ray has: a trial of a search, a run beside it, or a confirmation run."""

    session: Session
    work: RunningTrial | RunningConfirmation | RunningValidation
    kill: Callable[[], None] = lambda: None  # its worker, where one has started
    heard: float | None = None  # when the worker started or reported

    @property
    def trial(self) -> RunningTrial | None:
        """None for any other run."""
        return self.work if isinstance(self.work, RunningTrial) else None

    @property
    def retried(self) -> bool:
        """Whether it ran out of memory before, or may have: of a confirmation it is only known that its worker died."""
        if isinstance(self.work, RunningTrial):
            return self.work.proposal.memory_retry
        return self.session.has_died(self.work)


class Dispatcher:
    """Hands out the studies' work, and hands reports, errors and deaths to the studies."""

    def __init__(
        self,
        works: Sequence[Work],
        resources: Resources,
        budget: Budget,
        trial_timeout: float | None,
        interrupts: Interrupts,
        key: str = "",
    ) -> None:
        self.key = key  # to the test queries, for confirmations
        self.sessions = [Session(work, budget) for work in works]
        self.resources, self.trial_timeout, self.interrupts = resources, trial_timeout, interrupts
        self.assigned: dict[str, Assignment] = {}  # by Ray's trial id
        self.errors: list[tuple[Session, Exception]] = []  # of the harness, at most one of a study
        self.counted = self.charged = time.monotonic()

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Ray pickles searcher, scheduler and callbacks at the start; nobody reads that, the storage is the truth."""
        return object, ()

    @contextlib.contextmanager
    def guarded(self, session: Session, reporting: str = "") -> Iterator[None]:
        """Within the block an error of the harness is kept: it ends the study, whose other workers are killed.

        `reporting` is Ray's trial that is heard now, which is not killed.
        """
        try:
            yield
        except Exception as error:
            if not session.broken:
                session.broken = True
                self.errors.append((session, error))
            for trial_id, assignment in list(self.assigned.items()):
                if assignment.session is session:
                    del self.assigned[trial_id]
                    if trial_id != reporting:
                        assignment.kill()

    @property
    def stopping(self) -> bool:
        """Whether the whole run is to end now: going on would lose what broken storages cannot write."""
        return self.interrupts.asked > 0 or all(session.broken for session in self.sessions)

    @property
    def finished(self) -> bool:
        """Whether there will be no more work."""
        return self.stopping or (not self.assigned and all(session.over for session in self.sessions))

    def next_task(self, trial_id: str) -> Task | None:
        """The next piece of work, for Ray's trial of that id; None where there is none now."""
        self.charge()
        for index in self._turns():
            session = self.sessions[index]
            if self.stopping or len(self.assigned) >= self.room():
                break
            if session.broken:
                continue
            with self.guarded(session):
                work = session.take()
                if work is not None:
                    self.assigned[trial_id] = Assignment(session, work)
                    return self._task(index, work)
        return None

    def _turns(self) -> list[int]:
        """The studies in the order in which they are asked for work: those that hold their share come last."""
        left = sum(not session.over for session in self.sessions)
        share = math.ceil(self.resources.concurrent / max(left, 1))
        held = [0] * len(self.sessions)
        for assignment in self.assigned.values():
            held[self.sessions.index(assignment.session)] += 1
        return sorted(range(len(held)), key=lambda index: (held[index] >= share, index))

    def charge(self) -> None:
        """Share out the time since this was last done among the studies, by the pieces of work that they hold."""
        now = time.monotonic()
        passed, self.charged = now - self.charged, now
        for assignment in self.assigned.values():
            if not isinstance(assignment.work, RunningConfirmation):  # which is not the search's
                assignment.session.now += passed / len(self.assigned)

    def room(self) -> int:
        """How many pieces of work may run at once; half as many around one that ran out of memory."""
        if self.resources.joined and time.monotonic() - self.counted > ROOM_SECONDS:
            self.counted = time.monotonic()
            self.resources = dataclasses.replace(self.resources, concurrent=fitting(self.resources))
        retried = any(assignment.retried for assignment in self.assigned.values())
        if retried or any(session.retry_waits() for session in self.sessions if not session.broken):
            return max(1, self.resources.concurrent // 2)
        return self.resources.concurrent

    def _task(self, index: int, work: RunningTrial | RunningConfirmation | RunningValidation) -> Task:
        if isinstance(work, RunningConfirmation):
            return {"study": index, "kind": "confirm", "key": self.key, "values": work.values}
        if isinstance(work, RunningValidation):
            return {"study": index, "kind": "validate", "key": "", "values": work.values}
        study = self.sessions[index].work
        folder = str((study.folder / "trials" / str(work.number)).resolve())
        values = {**work.proposal.config, **study.run, **work.proposal.run, "folder": folder}
        return {"study": index, "kind": "trial", "key": "", "values": values}

    def started(self, trial_id: str, kill: Callable[[], None]) -> None:
        """A worker has started on a piece of work; `kill` ends it."""
        assignment = self.assigned.get(trial_id)
        if assignment is not None:
            assignment.kill, assignment.heard = kill, time.monotonic()

    def reported(self, trial_id: str, result: Mapping[str, object]) -> bool:
        """A worker reported; true if Ray's trial is to be stopped."""
        assignment = self.assigned.get(trial_id)
        if assignment is None or self.stopping:
            # The last report of an ended trial comes twice. Where all is to end, no worker trains on: a trial that is
            # taken up again reports the last epoch of its checkpoint alone, and one before it would be lost.
            return self.stopping
        self.charge()
        assignment.heard = time.monotonic()
        session, trial, stops = assignment.session, assignment.trial, True
        with self.guarded(session, trial_id):
            if isinstance(assignment.work, RunningValidation):
                session.validated(assignment.work, result)
                stops = False
            elif trial is None:
                session.confirmed(result)
                stops = False
            else:
                stops = session.reported(trial, result)
            if trial is None or trial.number not in session.running:
                del self.assigned[trial_id]
            elif session.budget_is_spent():
                session.put_back(trial)
                del self.assigned[trial_id]
                stops = True
        return stops

    def died(self, trial_id: str, error: str) -> None:
        """The worker of a piece of work is gone: killed, crashed, or its node was lost."""
        self.charge()
        assignment = self.assigned.pop(trial_id, None)
        if assignment is not None and not self.stopping:
            with self.guarded(assignment.session):
                if isinstance(assignment.work, RunningTrial):
                    assignment.session.trial_died(assignment.work, error)
                else:
                    assignment.session.run_died(assignment.work)

    def look_at_the_clock(self) -> None:
        """Count the time of each study; stop what hangs, and what still runs some seconds after its time budget."""
        self.charge()
        now = time.monotonic()
        for session in self.sessions:
            if session.clock is not None and session.now - session.clock > COUNT_SECONDS and not session.broken:
                with self.guarded(session):
                    session.count_seconds()
        for trial_id, assignment in list(self.assigned.items()):
            session, trial, heard = assignment.session, assignment.trial, assignment.heard
            if trial is None:
                continue
            late = session.deadline is not None and session.now > session.deadline + GRACE_SECONDS
            hangs = self.trial_timeout is not None and heard is not None and now - heard > self.trial_timeout
            if not late and not hangs:
                continue
            del self.assigned[trial_id]
            with self.guarded(session):
                if late:
                    session.put_back(trial)
                else:
                    session.failed(trial, "error", f"no report for {self.trial_timeout:g} s (--trial-timeout)")
            assignment.kill()

    def kill_all(self) -> None:
        """End every worker at once: their trials stay in the storage as interrupted."""
        while self.assigned:
            self.assigned.popitem()[1].kill()
