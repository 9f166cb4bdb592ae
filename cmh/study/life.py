"""The life of a study: its folder is taken, its trials are searched, its winner confirmed, its outcome shown.

All studies of a request live in one session of Ray. Who watches them and where an outcome is shown is the caller's to
say.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from cmh import config, files, ledger, methods, records
from cmh.config import Value
from cmh.errors import StudyError, collected
from cmh.records import Record
from cmh.signals import Interrupts
from cmh.study import aside, beside, confirm, folder, resources, tuner, weights
from cmh.study.aside import Aside
from cmh.study.confirm import Confirmed
from cmh.study.opening import opened
from cmh.study.outcome import Outcome, Scores, cost, no_winner, nothing_learned, write_winner
from cmh.study.request import Request, StudyRequest
from cmh.study.storage import Store
from cmh.study.trial_row import TrialRow
from cmh.study.work import Budget, RunningValidation, View, Work

log = logging.getLogger(__name__)


class Screen(View, Protocol):
    """Who watches a search, until it is closed."""

    def validated(self, one: Aside) -> None:
        """A run beside the search has ended, which the storage knows; that may be after it was closed."""

    def close(self) -> None:
        """The search has ended; called once or more."""


Watch = Callable[[Store, StudyRequest, str], Screen]  # of a study and its store; named, where there are several
Show = Callable[[Outcome], None]


def search(
    request: Request,
    controls: Sequence[Mapping[str, Scores]],
    interrupts: Interrupts,
    *,
    watch: Watch,
    show: Show,
    unwritten: list[Callable[[], None]] | None = None,
    kind: type[Life] | None = None,
) -> None:
    """Search and confirm all studies in the session of Ray that runs; `kind` is what each goes through, if not `Life`.

    `controls` has those of each study. `show` is called with the outcome of each study as soon as that is known. To
    `unwritten` is added what whoever ends the process at once should call, from any thread. Raises StudyError where a
    storage, a disk or a study failed (after the others have ended) or no trial fits into the session; KeyboardInterrupt
    where it was interrupted. Then the same call goes on.
    """
    problems: list[str] = []
    with contextlib.ExitStack() as stack:
        lives = []
        for study, values in zip(request.studies, controls, strict=True):
            store = collected(functools.partial(opened, study, values), problems)
            if store is None:
                continue
            name = study.folder.name if len(request.studies) > 1 else ""
            life = (kind or Life)(study, store, request, values, name, watch(store, study, name), show)
            stack.callback(life.tidy)  # last, when no worker can write any more
            stack.callback(life.close)
            if unwritten is not None:
                unwritten.append(life.close)
            lives.append(life)
        if not lives:
            raise StudyError(*problems)
        works = [life.work() for life in lives]
        trial = resources.of_a_trial(works, request.limits)
        for study in (life.study for life in lives):
            log.info(
                "%s: %d trials of up to %d epochs, %d at once; rungs %s",
                files.short(study.folder),
                study.limit,
                study.space.epochs,
                trial.concurrent,
                ", ".join(map(str, study.rungs)) or "none",
            )
        search_all = functools.partial(
            tuner.search,
            works,
            trial,
            budget=Budget(request.limits.time_budget, request.limits.budget_passes),
            trial_timeout=request.limits.trial_timeout,
            interrupts=interrupts,
        )
        collected(search_all, problems)
    if problems:
        raise StudyError(*problems)


class Life:
    """One study from its first trial to its outcome."""

    def __init__(
        self,
        study: StudyRequest,
        store: Store,
        request: Request,
        controls: Mapping[str, Scores],
        name: str,
        screen: Screen,
        show: Show,
    ) -> None:
        self.study, self.store, self.seeds, self.limits = study, store, request.seeds, request.limits
        self.controls, self.name, self.screen, self.show = controls, name, screen, show
        self.rows: list[TrialRow] = []
        self.best: TrialRow | None = None
        self.opened = 0, 0  # how often the test split was, by this study and by all
        self.records: dict[int, Record] = {}  # of the confirmation, by seed
        self.closed = False
        self.over = False  # the winner is known, and confirmed where it is to be

    def work(self) -> Work:
        """What the workers need."""
        study = self.study
        return Work(
            store=self.store,
            limit=study.limit,
            folder=study.folder,
            run=study.noted_run,
            dataset=study.dataset,
            view=self.screen,
            ended=self.ended,
            tested=self.tested,
            keeper=beside.keeper(study, self.store),
            control=beside.control(study, self.store),
            finals=self.finals,
            share=beside.share(study),
            validated=self.validated,
        )

    def close(self) -> None:
        """Write `trials.csv` with what is there of the trials; once."""
        if not self.closed:
            self.closed = True
            self.screen.close()
            self.rows = self.store.rows()
            names = list(config.params(methods.get(self.study.space.method).Config))
            folder.write_trials(self.study.folder, self.rows, names)

    def tidy(self) -> None:
        """Remove the weights that nobody needs, also where a kill or a worker in its last epoch left them."""
        if self.study.keep == "winner":
            weights.remove(weights.superfluous(self.study.folder, self.rows, self.study.space.finalists))

    def ended(self) -> list[dict[str, Value]]:
        """The search has ended: write its files; the winner with each seed that is still to be confirmed.

        Raises StudyError where no trial was completed.
        """
        self.close()
        self.tell_spent_budget()
        study = self.study
        best = self.best = aside.standing(self.rows, self.store.kept(), study.seed).winner
        if best is None:
            raise no_winner(study, self.rows)
        spent, identity = cost(self.rows, self.store), study.identity(best.config, best.origin)
        write_winner(study, best, spent)
        if nothing := nothing_learned(self.rows, self.controls):
            self.tell(f"{nothing}; the test split stays closed")
            self.finish()
            return []
        if self.seeds:
            found = confirm.of_identity(records.read(study.folder)[0], identity)
            self.records = {
                seed: confirm.with_search(study.folder, found[seed], spent) for seed in self.seeds if seed in found
            }
        missing = [seed for seed in self.seeds if seed not in self.records]
        if not missing:
            self.finish()
            return []
        self.opened = ledger.open_test(
            study.dataset.name,
            study.dataset.split_sha256,
            "cmh.tune",
            identity=identity,
            seeds=list(self.seeds),
            folder=study.folder,
        )
        seeds = ", ".join(map(str, missing))
        self.tell(f"confirming trial {best.number} with seeds {seeds}: training, then the test split")
        if self.opened[0] > 1:
            self.tell(f"this is opening {self.opened[0]} of this study's test split, and its records say so")
        own = {**study.space.run_of(best.origin), "validation_database": 0}  # the search may have ranked a sample
        shared = {**best.config, **study.noted_run, **own}
        folders = {seed: (study.folder / "confirm" / f"{best.number}-{seed}").resolve() for seed in missing}
        return [{**shared, "seed": seed, "folder": str(folders[seed])} for seed in missing]

    def tested(self, tested: Confirmed) -> None:
        """A seed of the winner was trained and tested."""
        record = confirm.write_record(
            self.study.folder,
            tested,
            selection="validation",
            search=cost(self.rows, self.store),
            opened=self.opened,
            label=self.study.label,
            prior=self.study.prior,
            dataset=self.study.dataset,
        )
        seed = record.identity.seed
        self.records[seed] = record
        self.tell(
            f"seed {seed}: test MAP i→t {record.test['map_i2t']:.4f}, t→i {record.test['map_t2i']:.4f},"
            f" mean {record.test['map']:.4f}"
        )
        for line in confirm.audit_lines(record):
            self.tell(f"seed {seed}: {line}")
        if len(self.records) == len(self.seeds):
            self.finish()

    def finals(self) -> list[RunningValidation]:
        """The best trials with further seeds, as far as the next round lacks them; none: the winner is known."""
        rows = self.store.rows()
        missing = aside.standing(rows, self.store.kept(), self.study.seed).missing
        if not missing or nothing_learned(rows, self.controls):
            return []
        self.tell(beside.announced(missing))
        by_number = {row.number: row for row in rows}
        return [beside.seed(self.study, by_number[number], one) for number, one in missing]

    def validated(self, one: Aside) -> None:
        """A run beside the search has ended."""
        if self.study.keep == "winner":
            weights.remove(beside.place(self.study, one).glob(weights.PATTERN))
        self.tell(beside.line(one))
        self.screen.validated(one)
        if self.over:
            self.finish()

    def finish(self) -> None:
        """All is known, unless the control still runs: show it."""
        assert self.best is not None
        self.over = True
        if beside.control(self.study, self.store):
            return
        found = [self.records[seed] for seed in sorted(self.records)]
        self.show(Outcome(self.study, self.rows, self.best, self.controls, found, aside.kept(self.store.kept())))

    def tell_spent_budget(self) -> None:
        """Say whether the search ended because its budget was spent."""
        seconds, passes = self.store.seconds(), sum(row.passes for row in self.rows)
        left = self.study.limit - sum(row.failure != "moved" for row in self.rows)
        waiting = left > 0 or any(row.state == "interrupted" for row in self.rows)
        for option, wanted, spent in (
            ("--time-budget", self.limits.time_budget, seconds),
            ("--budget-passes", self.limits.budget_passes, passes),
        ):
            if waiting and wanted is not None and spent >= wanted * (1 - beside.share(self.study)):
                self.tell(
                    f"the search has spent its {option}: {spent:.0f} of {wanted:g}, all its starts together;"
                    " the same command with more goes on"
                )

    def tell(self, text: str) -> None:
        """Log a line, with the study's name where there are several."""
        log.info("%s", f"{self.name}  {text}" if self.name else text)
