"""The one door to Optuna. Its storage is the only truth of a study: every ask, every epoch's value and every end
is written there as it happens, and each start rebuilds the searcher and the rungs from it.

What is proposed for a trial depends on (study seed, trial number, history) alone: the sampler is built anew for
each trial. So a study that was killed and goes on proposes what an uninterrupted one would have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from cmh.config import Value
from cmh.errors import StudyError
from cmh.seeding import derive
from cmh.study.space import Range, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)

STARTUP_TRIALS = 8  # trials before TPE models the history; start points count


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study and every hyperparameter."""

    number: int
    origin: str  # paper, default, point N, or search
    config: dict[str, Value]
    curve: dict[int, float]  # epochs already stored, where the trial was interrupted


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial as `trials.csv` and the closing table show it."""

    number: int
    state: str  # complete | pruned | failed | interrupted
    origin: str
    epochs: int
    val_map_best: float | None
    best_epoch: int | None
    val_map_i2t: float | None  # at the best epoch
    val_map_t2i: float | None
    rung: int | None  # where it was pruned
    seconds: float | None
    device: str
    failure: str  # nan | oom | error, empty otherwise
    error: str
    config: dict[str, Value]
    curve: dict[int, float]


@contextlib.contextmanager
def readable_errors(url: str) -> Iterator[None]:
    """Storage failures (no such server, locked, read-only, full) as one message."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        cause: BaseException = error.__cause__ or error
        line = (str(getattr(cause, "orig", cause)).splitlines() or [type(cause).__name__])[0]
        if isinstance(cause, ModuleNotFoundError):
            line += "; install the driver of that database with pip"
        raise StudyError(f"the storage {_without_password(url)} cannot be used: {line}") from error


class Store:
    """A study in its storage. `url` None keeps it in memory (for a plan)."""

    def __init__(self, url: str | None, name: str, space: Space, base: Mapping[str, Value], seed: int) -> None:
        self.space, self.base, self.seed = space, dict(base), seed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storage = None if url is None else optuna.storages.RDBStorage(url, engine_kwargs=_engine(url))
            self.study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                sampler=_Seeded(space, seed),
            )
        self._live: dict[int, tuple[optuna.trial.Trial, dict[int, float]]] = {}
        trials = self.study.get_trials(deepcopy=False)
        known = {trial.user_attrs.get("origin") for trial in trials}
        for origin, point in space.starts():
            if origin not in known:
                active = {item.name: point[item.name] for item in space.ranges if item.active(point)}
                self.study.enqueue_trial(active, user_attrs={"origin": origin})
        self._interrupted = [trial for trial in trials if trial.state == TrialState.RUNNING]

    def propose(self, limit: int) -> Proposal | None:
        """The next trial: first those that were interrupted, then new ones until there are `limit` of them."""
        if self._interrupted:
            frozen = self._interrupted.pop(0)
            trial = optuna.trial.Trial(self.study, frozen._trial_id)
            return self._proposal(trial, dict(frozen.intermediate_values))
        if self.n_asked() >= limit:
            return None
        return self._proposal(self.study.ask(), {})

    def _proposal(self, trial: optuna.trial.Trial, curve: dict[int, float]) -> Proposal:
        origin = str(trial.user_attrs.get("origin", "search"))
        config = self._config(origin)
        for item in self.space.ranges:
            if item.active(config):
                config[item.name] = _suggest(trial, item)
        self._live[trial.number] = trial, curve
        return Proposal(trial.number, origin, config, dict(curve))

    def _config(self, origin: str) -> dict[str, Value]:
        return dict(self.space.starts()).get(origin, self.base).copy()

    def n_asked(self) -> int:
        """Trials that were started, whatever became of them."""
        return sum(trial.state != TrialState.WAITING for trial in self.study.get_trials(deepcopy=False))

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Store an epoch's validation MAP; False where it is stored already."""
        trial, curve = self._live[number]
        if epoch in curve:
            return False
        trial.report(value, epoch)
        curve[epoch] = value
        return True

    def running(self, number: int) -> bool:
        """Whether the trial was proposed and has not ended."""
        return number in self._live

    def complete(self, number: int, result: dict[str, Any]) -> None:
        """The trial reached its last epoch; its value is the best of its curve."""
        trial, curve = self._live.pop(number)
        trial.set_user_attr("result", result)
        self.study.tell(trial, max(curve.values()))

    def prune(self, number: int, rung: int, result: dict[str, Any]) -> None:
        """ASHA stopped the trial at a rung; the sampler sees it as pruned, with its curve."""
        trial, _ = self._live.pop(number)
        trial.set_user_attr("result", {**result, "rung": rung})
        self.study.tell(trial, state=TrialState.PRUNED)

    def fail(self, number: int, kind: str, reason: str, result: dict[str, Any]) -> None:
        """The trial died of something of its own."""
        trial, _ = self._live.pop(number)
        trial.set_user_attr("result", {**result, "failure": kind, "error": reason})
        self.study.tell(trial, state=TrialState.FAIL)

    def add_seconds(self, seconds: float) -> None:
        """Count wall-clock time spent on the search."""
        self.study.set_user_attr("seconds", self.seconds() + seconds)

    def seconds(self) -> float:
        """Wall-clock time spent on the search so far, over all its starts."""
        return float(self.study.user_attrs.get("seconds", 0.0))

    def history(self) -> list[tuple[int, dict[int, float], bool]]:
        """(number, curve, finished) of every trial that has reported, for the rungs."""
        trials = self.study.get_trials(deepcopy=False)
        return [
            (trial.number, dict(trial.intermediate_values), trial.state.is_finished())
            for trial in trials
            if trial.intermediate_values
        ]

    def rows(self) -> list[Row]:
        """Every started trial, by number."""
        trials = self.study.get_trials(deepcopy=False)
        return [self._row(trial) for trial in trials if trial.state != TrialState.WAITING]

    def row(self, number: int) -> Row:
        """One trial."""
        return self._row(self.study.get_trials(deepcopy=False)[number])

    def _row(self, trial: FrozenTrial) -> Row:
        states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        origin = str(trial.user_attrs.get("origin", "search"))
        curve = dict(sorted(trial.intermediate_values.items()))
        result = trial.user_attrs.get("result", {})
        best = max(curve.values(), default=math.nan)
        return Row(
            number=trial.number,
            state=states.get(trial.state, "interrupted"),
            origin=origin,
            epochs=max(curve, default=0),
            val_map_best=best if curve else None,
            best_epoch=next((epoch for epoch, value in curve.items() if value == best), None),
            val_map_i2t=result.get("best_i2t"),
            val_map_t2i=result.get("best_t2i"),
            rung=result.get("rung"),
            seconds=result.get("seconds"),
            device=result.get("device", ""),
            failure=result.get("failure", ""),
            error=result.get("error", ""),
            config={**self._config(origin), **trial.params},
            curve=curve,
        )


class _Seeded(BaseSampler):
    """Builds the space's sampler anew for each trial, seeded by (study seed, trial number)."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self._number, self._sampler = -1, _sampler(space, 0)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            self._number = trial.number
            # A QMC sequence is one sequence: its points are told apart by the trial, not by the seed.
            stream = 0 if self.space.sampler in ("qmc", "grid") else trial.number
            self._sampler = _sampler(self.space, derive(self.seed, "sampler", stream) % 2**32)
        return self._sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)


def _sampler(space: Space, seed: int) -> BaseSampler:
    with warnings.catch_warnings():  # multivariate TPE, GP and QMC are marked experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _SAMPLERS[space.sampler](seed)


def _tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=STARTUP_TRIALS,
        multivariate=True,
        group=True,  # conditional parameters are modelled in groups that occur together
        constant_liar=True,
    )


def _cmaes(seed: int) -> BaseSampler:
    try:
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    except ImportError as error:
        raise StudyError("search.sampler is 'cmaes', which needs the package cmaes: pip install cmaes") from error


_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "cmaes": _cmaes,
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
    "grid": lambda seed: optuna.samplers.BruteForceSampler(seed=seed),
}


def _suggest(trial: optuna.trial.Trial, item: Range) -> Value:
    if item.kind == "choice":
        choice: Value = trial.suggest_categorical(item.name, item.choices)  # type: ignore[assignment]  # never None
        return choice
    if item.kind == "int":
        return trial.suggest_int(item.name, int(item.low), int(item.high), log=item.log)
    return trial.suggest_float(item.name, item.low, item.high, log=item.log)


def _engine(url: str) -> dict[str, Any]:
    return {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}


def _without_password(url: str) -> str:
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url
