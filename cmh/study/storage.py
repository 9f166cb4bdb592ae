"""A study in its storage, through Optuna. The storage is the only truth of a study: every ask, every epoch's value and
every end is written there as it happens, and each start rebuilds the searcher and the rungs from it.

What is proposed for a trial depends on (study seed, trial number, history) alone. So a study that was killed and goes
on proposes what an uninterrupted one would have. A kill between any two commits is survived: each end is one commit,
and what stands before it is written again or found to be there.

A configuration that has run is not run again: the trial takes over the curve, the state and the value of the first
one, its twin (training is a function of the configuration and the study's seed).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cmh.config import Value
from cmh.errors import StudyError
from cmh.study import trial_row
from cmh.study.database import Key, key_of, open_storage, origin_of, stands_for_its_configuration, without_password
from cmh.study.distributions import suggest
from cmh.study.ranges import outside
from cmh.study.samplers import OUTSIDE, SeededSampler
from cmh.study.space import Space
from cmh.study.trial_row import TrialRow

MOVED = "moved"  # the failure of a trial that was begun under other circumstances, and is trained anew as another
DEATHS = 3  # of the worker at one epoch of a trial, then it has failed

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study and every hyperparameter."""

    number: int
    origin: str  # paper, default, point N, warm N, or search
    config: dict[str, Value]
    curve: dict[int, float]  # epochs already stored, where the trial was interrupted
    memory_retry: bool = False  # it ran out of memory once: now with fewer beside it
    run: Mapping[str, Value] = dataclasses.field(default_factory=dict)  # settings in which it differs from the others

    @property
    def protected(self) -> bool:
        """Whether ASHA lets it run through: the known-good points are compared with the winner on equal epochs."""
        return self.origin != "search" and not self.origin.startswith("warm")


class Store:
    """A study in its storage. `url` None keeps it in memory (for a plan).

    `owner` names the study folder: in a storage that many share, a study of the same name may be another's. Raises
    StudyError where it is, where one that has `begun` is not there, and where the sampler's package is missing.
    """

    def __init__(
        self,
        url: str | None,
        name: str,
        space: Space,
        base: Mapping[str, Value],
        seed: int,
        owner: str = "",
        *,
        begun: bool = False,
    ) -> None:
        self.space, self.base, self.seed = space, dict(base), seed
        self.url = url or ""
        self._starts = dict(space.starts())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.study = optuna.create_study(
                storage=None if url is None else open_storage(url, name, begun=begun),
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                sampler=SeededSampler(space, seed),
            )
        self._claim(owner, name)
        self.ended_without_run: list[int] = []  # trials that did, since somebody looked last
        self._running: dict[int, tuple[optuna.trial.Trial, dict[int, float]]] = {}  # with curves, by number
        self._interrupted: list[tuple[optuna.trial.Trial | FrozenTrial, dict[int, float]]] = []
        self._waiting_for_twin: list[Proposal] = []  # for the end of a running trial with the same configuration
        self._trained: dict[Key, int] = {}  # the trial that is trained for all of its configuration
        self._n_asked = 0
        trials = self.study.get_trials(deepcopy=False)
        known = {trial.user_attrs.get("origin") for trial in trials}
        for origin, point in space.starts():
            if origin not in known:
                self._enqueue(origin, point)
        for trial in sorted(trials, key=lambda trial: not trial.state.is_finished()):
            moved = trial.user_attrs.get("result", {}).get("failure") == MOVED
            self._n_asked += trial.state != TrialState.WAITING and not moved
            if trial.state == TrialState.RUNNING:
                self._interrupted.append((trial, dict(trial.intermediate_values)))
            if stands_for_its_configuration(trial):
                key = key_of({**self._config_of(trial), **self.space.run_of(origin_of(trial))})
                self._trained.setdefault(key, trial.number)

    def _enqueue(self, origin: str, point: Mapping[str, Value]) -> None:
        """Have a point (all hyperparameters) tried next."""
        active = {item.name: point[item.name] for item in self.space.ranges if item.active(point)}
        marked = {OUTSIDE: True} if outside(self.space.ranges, point) else {}
        self.study.enqueue_trial(active, user_attrs={"origin": origin, **marked})

    def _claim(self, owner: str, name: str) -> None:
        found = self.study.user_attrs.get("owner", "")
        if not found and owner:
            self.study.set_user_attr("owner", owner)
        elif found != owner and owner:
            raise StudyError(
                f"the storage {without_password(self.url)} holds a study {name} of another folder; use another"
            )

    def propose(self, limit: int) -> Proposal | None:
        """The next trial to run: first those that were interrupted, then new ones until there are `limit` of them.

        None where there is none, or none now (`exhausted` tells). What need not be run ends here.
        """
        self._end_twins()
        while self._interrupted or self._n_asked < limit:
            if self._interrupted:
                found, curve = self._interrupted.pop(0)
                # Optuna takes up a trial by its number in the storage alone.
                trial = optuna.trial.Trial(self.study, found._trial_id) if isinstance(found, FrozenTrial) else found
            else:
                trial, curve = self.study.ask(), {}
                self._n_asked += 1
            proposal = self._proposal(trial, curve)
            trained = self._trained.setdefault(key_of({**proposal.config, **proposal.run}), proposal.number)
            if trained == proposal.number:
                return proposal
            self._waiting_for_twin.append(proposal)
            self._end_twins()
        return None

    def exhausted(self, limit: int) -> bool:
        """Whether `propose` has nothing more, now and later."""
        return not self._interrupted and not self._waiting_for_twin and self._n_asked >= limit

    def memory_retry_waits(self) -> bool:
        """Whether a trial that ran out of memory is waiting for its second try."""
        return any("memory" in trial.user_attrs for trial, _ in self._interrupted)

    def _proposal(self, trial: optuna.trial.Trial, curve: dict[int, float]) -> Proposal:
        origin = origin_of(trial)
        config = self._start_config(origin)
        for item in self.space.ranges:
            if item.active(config):
                wide = item.reaching(config[item.name]) if OUTSIDE in trial.user_attrs else item
                config[item.name] = suggest(trial, wide)
        self._running[trial.number] = trial, curve
        about = "memory" in trial.user_attrs, self.space.run_of(origin)
        return Proposal(trial.number, origin, config, dict(curve), *about)

    def _end_twins(self) -> None:
        """End the waiting trials whose twin has ended; one whose twin failed by accident is to be run itself."""
        trials = self.study.get_trials(deepcopy=False) if self._waiting_for_twin else []
        for proposal in list(self._waiting_for_twin):
            key = key_of({**proposal.config, **proposal.run})
            twin = trials[self._trained.get(key, proposal.number)]
            if twin.number != proposal.number and not twin.state.is_finished():
                continue
            self._waiting_for_twin.remove(proposal)
            if twin.number == proposal.number or (twin.state == TrialState.PRUNED and proposal.protected):
                self._trained[key] = proposal.number
                self._interrupted.append(self._running[proposal.number])
            else:
                self._copy(proposal.number, twin)
                self.ended_without_run.append(proposal.number)

    def _copy(self, number: int, twin: FrozenTrial) -> None:
        for epoch, value in sorted(twin.intermediate_values.items()):
            self.report(number, epoch, value)
        nothing = {"seconds": 0.0, "device_seconds": 0.0, "passes": 0.0}
        result = {**twin.user_attrs.get("result", {}), **nothing, "copied_from": twin.number}
        self._end(number, twin.state, result, twin.value if twin.state == TrialState.COMPLETE else None)

    def _start_config(self, origin: str) -> dict[str, Value]:
        return self._starts.get(origin, self.base).copy()

    def _config_of(self, trial: FrozenTrial) -> dict[str, Value]:
        return {**self._start_config(origin_of(trial)), **trial.params}

    def report(self, number: int, epoch: int, value: float, passes: float = 0.0) -> bool:
        """Store an epoch's validation MAP; False where it is stored already.

        `passes`: over the training items so far. What an epoch makes is kept with the trial, so that those of one that
        a kill interrupts are known, too.
        """
        trial, curve = self._running[number]
        if passes and "passes_an_epoch" not in trial.user_attrs:
            trial.set_user_attr("passes_an_epoch", passes / epoch)
        if epoch in curve:
            return False
        trial.report(value, epoch)
        curve[epoch] = value
        return True

    def curve(self, number: int) -> Mapping[int, float]:
        """What is stored of a running trial: validation MAP by epoch."""
        return self._running[number][1]

    def memory_failed(self, number: int) -> bool:
        """The trial ran out of memory; true, and it waits for a second try, if this was its first time."""
        trial, _ = self._running[number]
        if "memory" in trial.user_attrs:
            return False
        trial.set_user_attr("memory", 1)
        self.put_back(number)
        return True

    def worker_died(self, number: int) -> bool:
        """The trial's worker died; true, and it waits to go on, unless that was the third time at one epoch."""
        trial, curve = self._running[number]
        epoch, times = max(curve, default=0), 1
        before = trial.user_attrs.get("died", [0, 0])
        if before[0] == epoch:
            times += before[1]
        trial.set_user_attr("died", [epoch, times])
        if times >= DEATHS:
            return False
        self.put_back(number)
        return True

    def put_back(self, number: int) -> None:
        """The trial is not run any more, and goes on later."""
        self._interrupted.append(self._running.pop(number))

    def complete(self, number: int, result: Mapping[str, object]) -> None:
        """The trial reached its last epoch; its value is the best of its curve."""
        self._end(number, TrialState.COMPLETE, result, max(self._running[number][1].values()))

    def prune(self, number: int, rung: int, result: Mapping[str, object]) -> None:
        """ASHA stopped the trial at a rung; the sampler sees it as pruned, with its curve."""
        self._end(number, TrialState.PRUNED, {**result, "rung": rung})

    def fail(self, number: int, kind: str, reason: str, result: Mapping[str, object]) -> None:
        """The trial died of something of its own."""
        if kind != "nan":  # that lies in the configuration; the others may not happen again
            self._train_another_for(number)
        self._end(number, TrialState.FAIL, {**result, "failure": kind, "error": reason})

    def replace(self, number: int, reason: str, result: Mapping[str, object]) -> None:
        """End the trial, whose curve another run began; a new one with its configuration takes its place."""
        trial, _ = self._running[number]
        self._train_another_for(number)
        # In this order: killed in between, the trial is taken up again, and the new one finds it as its twin.
        self._enqueue(origin_of(trial), {**self._start_config(origin_of(trial)), **trial.params})
        self._end(number, TrialState.FAIL, {**result, "failure": MOVED, "error": reason})
        self._n_asked -= 1

    def _train_another_for(self, number: int) -> None:
        self._trained = {key: trained for key, trained in self._trained.items() if trained != number}

    def _end(self, number: int, state: TrialState, result: Mapping[str, object], value: float | None = None) -> None:
        trial, _ = self._running[number]
        trial.set_user_attr("result", dict(result))
        self.study.tell(trial, value, state=state)
        del self._running[number]

    def add_seconds(self, seconds: float) -> None:
        """Count wall-clock time spent on the search."""
        self.study.set_user_attr("seconds", self.seconds() + seconds)

    def kept(self) -> dict[str, Any]:
        """What is kept of the study beside its trials, by name."""
        return self.study.user_attrs

    def seconds(self) -> float:
        """Wall-clock time spent on the search so far, over all its starts."""
        return float(self.kept().get("seconds", 0.0))

    def history(self) -> list[tuple[int, dict[int, float], bool]]:
        """(number, curve, finished) of every trial that has reported, for the rungs."""
        trials = self.study.get_trials(deepcopy=False)
        return [
            (trial.number, dict(trial.intermediate_values), trial.state.is_finished())
            for trial in trials
            if trial.intermediate_values and "copied_from" not in trial.user_attrs.get("result", {})
        ]

    def rows(self) -> list[TrialRow]:
        """Every started trial, by number."""
        trials = self.study.get_trials(deepcopy=False)
        return [self._row(trial) for trial in trials if trial.state != TrialState.WAITING]

    def row(self, number: int) -> TrialRow:
        """One trial."""
        return self._row(self.study.get_trials(deepcopy=False)[number])

    def _row(self, trial: FrozenTrial) -> TrialRow:
        curve, attributes = trial.intermediate_values, trial.user_attrs
        return trial_row.from_stored(trial.number, trial.state.name, curve, attributes, self._config_of(trial))
