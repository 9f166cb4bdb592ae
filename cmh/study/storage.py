"""The one door to Optuna. Its storage is the only truth of a study: every ask, every epoch's value and every end
is written there as it happens, and each start rebuilds the searcher and the rungs from it.

What is proposed for a trial depends on (study seed, trial number, history) alone: the sampler is built anew for
each trial. So a study that was killed and goes on proposes what an uninterrupted one would have. A kill between any
two commits is survived: each end is one commit, and what stands before it is written again or found to be there.

A configuration that has run is not run again: the trial takes over the curve, the state and the value of the first
one (training is a function of the configuration and the study's seed).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
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
BUSY_SECONDS = 60.0  # SQLite: how long to wait for another process that holds the database
MOVED = "moved"  # the failure of a trial that was begun under other circumstances, and is trained anew as another
DEATHS = 3  # of the worker at one epoch of a trial, then it has failed


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study and every hyperparameter."""

    number: int
    origin: str  # paper, default, point N, warm N, or search
    config: dict[str, Value]
    curve: dict[int, float]  # epochs already stored, where the trial was interrupted
    careful: bool = False  # it ran out of memory once: now with fewer beside it

    @property
    def protected(self) -> bool:
        """Whether ASHA lets it run through: the known-good points are compared with the winner on equal epochs."""
        return self.origin != "search" and not self.origin.startswith("warm")


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial as `trials.csv` and the closing table show it."""

    number: int
    state: str  # complete | pruned | failed | interrupted
    origin: str
    epochs: int
    copied_from: int | None  # the trial with the same configuration that was trained
    val_map_best: float | None
    best_epoch: int | None
    val_map_i2t: float | None  # at the best epoch
    val_map_t2i: float | None
    rung: int | None  # where it was pruned
    seconds: float | None
    passes: float  # over the training items, that were trained for it
    device_seconds: float | None
    device: str
    failure: str  # nan | oom | error | moved, empty otherwise
    error: str
    config: dict[str, Value]
    curve: dict[int, float]

    @property
    def spent(self) -> int:
        """Epochs that were trained for it."""
        return self.epochs if self.copied_from is None else 0


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
        raise StudyError(f"the storage {without_password(url)} cannot be used: {line}") from error


class Store:
    """A study in its storage. `url` None keeps it in memory (for a plan).

    `owner` names the study folder: in a storage that many share, a study of the same name may be another's.
    """

    def __init__(
        self, url: str | None, name: str, space: Space, base: Mapping[str, Value], seed: int, owner: str = ""
    ) -> None:
        self.space, self.base, self.seed = space, dict(base), seed
        self.url = url or ""
        self._starts = dict(space.starts())
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
        self._own(owner, name)
        self.settled: list[int] = []  # trials that ended without being run, since somebody looked last
        self._live: dict[int, tuple[optuna.trial.Trial, dict[int, float]]] = {}
        self._interrupted: list[tuple[optuna.trial.Trial | FrozenTrial, dict[int, float]]] = []
        self._held: list[Proposal] = []  # each waits for the end of a running trial with the same configuration
        self._first: dict[_Key, int] = {}  # the trial that is trained for all of its configuration
        self._asked = 0
        trials = self.study.get_trials(deepcopy=False)
        known = {trial.user_attrs.get("origin") for trial in trials}
        for origin, point in space.starts():
            if origin not in known:
                active = {item.name: point[item.name] for item in space.ranges if item.active(point)}
                self.study.enqueue_trial(active, user_attrs={"origin": origin})
        for trial in sorted(trials, key=lambda trial: not trial.state.is_finished()):
            moved = trial.user_attrs.get("result", {}).get("failure") == MOVED
            self._asked += trial.state != TrialState.WAITING and not moved
            if trial.state == TrialState.RUNNING:
                self._interrupted.append((trial, dict(trial.intermediate_values)))
            if _trained(trial):
                self._first.setdefault(_key(self._config_of(trial)), trial.number)

    def _own(self, owner: str, name: str) -> None:
        found = self.study.user_attrs.get("owner", "")
        if not found and owner:
            self.study.set_user_attr("owner", owner)
        elif found != owner and owner:
            raise StudyError(
                f"the storage {without_password(self.url)} holds a study {name} of another folder;"
                " use another --out (its name is the study's), or another database"
            )

    def propose(self, limit: int) -> Proposal | None:
        """The next trial to run: first those that were interrupted, then new ones until there are `limit` of them.

        None where there is none, or none now (`exhausted` tells). What need not be run ends here.
        """
        self._settle()
        while self._interrupted or self._asked < limit:
            if self._interrupted:
                found, curve = self._interrupted.pop(0)
                trial = found if isinstance(found, optuna.trial.Trial) else self._again(found)
            else:
                trial, curve = self.study.ask(), {}
                self._asked += 1
            proposal = self._proposal(trial, curve)
            first = self._first.setdefault(_key(proposal.config), proposal.number)
            if first == proposal.number:
                return proposal
            self._held.append(proposal)
            self._settle()
        return None

    def exhausted(self, limit: int) -> bool:
        """Whether `propose` has nothing more, now and later."""
        return not self._interrupted and not self._held and self._asked >= limit

    def careful(self) -> bool:
        """Whether a trial that ran out of memory is waiting for its second try."""
        return any("memory" in trial.user_attrs for trial, _ in self._interrupted)

    def _again(self, frozen: FrozenTrial) -> optuna.trial.Trial:
        return optuna.trial.Trial(self.study, frozen._trial_id)

    def _proposal(self, trial: optuna.trial.Trial, curve: dict[int, float]) -> Proposal:
        origin = str(trial.user_attrs.get("origin", "search"))
        config = self._config(origin)
        for item in self.space.ranges:
            if item.active(config):
                config[item.name] = _suggest(trial, item)
        self._live[trial.number] = trial, curve
        return Proposal(trial.number, origin, config, dict(curve), "memory" in trial.user_attrs)

    def _settle(self) -> None:
        """End the held trials whose twin has ended; one whose twin failed by accident is to be run itself."""
        trials = self.study.get_trials(deepcopy=False) if self._held else []
        for proposal in list(self._held):
            key = _key(proposal.config)
            twin = trials[self._first.get(key, proposal.number)]
            if twin.number != proposal.number and not twin.state.is_finished():
                continue
            self._held.remove(proposal)
            if twin.number == proposal.number or (twin.state == TrialState.PRUNED and proposal.protected):
                self._first[key] = proposal.number
                self._interrupted.append(self._live[proposal.number])
            else:
                self._copy(proposal.number, twin)
                self.settled.append(proposal.number)

    def _copy(self, number: int, twin: FrozenTrial) -> None:
        for epoch, value in sorted(twin.intermediate_values.items()):
            self.report(number, epoch, value)
        nothing = {"seconds": 0.0, "device_seconds": 0.0, "passes": 0.0}
        result = {**twin.user_attrs.get("result", {}), **nothing, "copied_from": twin.number}
        self._end(number, twin.state, result, twin.value if twin.state == TrialState.COMPLETE else None)

    def _config(self, origin: str) -> dict[str, Value]:
        return self._starts.get(origin, self.base).copy()

    def _config_of(self, trial: FrozenTrial) -> dict[str, Value]:
        return {**self._config(str(trial.user_attrs.get("origin", "search"))), **trial.params}

    def report(self, number: int, epoch: int, value: float, passes: float = 0.0) -> bool:
        """Store an epoch's validation MAP; False where it is stored already.

        `passes`: over the training items so far. What an epoch makes is kept with the trial, so that those of one that
        a kill interrupts are known, too.
        """
        trial, curve = self._live[number]
        if passes and "passes_an_epoch" not in trial.user_attrs:
            trial.set_user_attr("passes_an_epoch", passes / epoch)
        if epoch in curve:
            return False
        trial.report(value, epoch)
        curve[epoch] = value
        return True

    def curve(self, number: int) -> Mapping[int, float]:
        """What is stored of a running trial."""
        return self._live[number][1]

    def memory_failed(self, number: int) -> bool:
        """The trial ran out of memory; true, and it waits for a second try, if this was its first time."""
        trial, _ = self._live[number]
        if "memory" in trial.user_attrs:
            return False
        trial.set_user_attr("memory", 1)
        self.put_back(number)
        return True

    def worker_died(self, number: int) -> bool:
        """The trial's worker died; true, and it waits to go on, unless that was the third time at one epoch."""
        trial, curve = self._live[number]
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
        self._interrupted.append(self._live.pop(number))

    def complete(self, number: int, result: dict[str, Any]) -> None:
        """The trial reached its last epoch; its value is the best of its curve."""
        self._end(number, TrialState.COMPLETE, result, max(self._live[number][1].values()))

    def prune(self, number: int, rung: int, result: dict[str, Any]) -> None:
        """ASHA stopped the trial at a rung; the sampler sees it as pruned, with its curve."""
        self._end(number, TrialState.PRUNED, {**result, "rung": rung})

    def fail(self, number: int, kind: str, reason: str, result: dict[str, Any]) -> None:
        """The trial died of something of its own."""
        if kind != "nan":  # that lies in the configuration; the others may not happen again
            self._first = {key: first for key, first in self._first.items() if first != number}
        self._end(number, TrialState.FAIL, {**result, "failure": kind, "error": reason})

    def replace(self, number: int, reason: str, result: dict[str, Any]) -> None:
        """End the trial, whose curve another run began; a new one with its configuration takes its place."""
        trial, _ = self._live[number]
        self._first = {key: first for key, first in self._first.items() if first != number}
        # In this order: killed in between, the trial is taken up again, and the new one finds it as its twin.
        self.study.enqueue_trial(dict(trial.params), user_attrs={"origin": trial.user_attrs.get("origin", "search")})
        self._end(number, TrialState.FAIL, {**result, "failure": MOVED, "error": reason})
        self._asked -= 1

    def _end(self, number: int, state: TrialState, result: dict[str, Any], value: float | None = None) -> None:
        trial, _ = self._live[number]
        trial.set_user_attr("result", result)
        self.study.tell(trial, value, state=state)
        del self._live[number]

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
            if trial.intermediate_values and "copied_from" not in trial.user_attrs.get("result", {})
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
            copied_from=result.get("copied_from"),
            val_map_best=best if curve else None,
            best_epoch=next((epoch for epoch, value in curve.items() if value == best), None),
            val_map_i2t=result.get("best_i2t"),
            val_map_t2i=result.get("best_t2i"),
            rung=result.get("rung"),
            seconds=result.get("seconds"),
            passes=result.get("passes", trial.user_attrs.get("passes_an_epoch", 0.0) * max(curve, default=0)),
            device_seconds=result.get("device_seconds"),
            device=result.get("device", ""),
            failure=result.get("failure", ""),
            error=result.get("error", ""),
            config=self._config_of(trial),
            curve=curve,
        )


_Key = tuple[tuple[str, Value], ...]


def _key(config: Mapping[str, Value]) -> _Key:
    return tuple(sorted(config.items()))


def _trained(trial: FrozenTrial) -> bool:
    """Whether it is the trial that is, or was, trained for all of its configuration."""
    result = trial.user_attrs.get("result", {})
    if "copied_from" in result or (trial.state == TrialState.FAIL and result.get("failure") != "nan"):
        return False
    return trial.state.is_finished() or bool(trial.state == TrialState.RUNNING and trial.intermediate_values)


class _Seeded(BaseSampler):
    """Builds the space's sampler anew for each trial, seeded by (study seed, trial number).

    A parameter that is drawn by itself has a stream of its own name: those that a killed process has stored already
    are not drawn again, and must not move the others.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self._relative = _sampler(space, 0)

    def _of(self, trial: FrozenTrial, *stream: str) -> BaseSampler:
        return _sampler(self.space, derive(self.seed, "sampler", trial.number, *stream) % 2**32)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._relative = self._of(trial)
        if self.space.sampler == "qmc":
            self._relative = _Sobol(derive(self.seed, "sampler") % 2**32, self.space, trial.number)
        return self._relative.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._relative.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)


class _Sobol(optuna.samplers.QMCSampler):
    """A Sobol sequence over all ranges of the space, whose point is the trial's number.

    Optuna counts its points in the storage, where a kill skips one; and its space is what the first trial had.
    """

    def __init__(self, seed: int, space: Space, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(seed=seed, scramble=True, warn_independent_sampling=False)
        self.space, self.number = space, number

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {item.name: _distribution(item) for item in self.space.ranges}

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.number


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
    "qmc": lambda seed: optuna.samplers.RandomSampler(seed=seed),  # what lies outside the sequence: nothing
    "grid": lambda seed: optuna.samplers.BruteForceSampler(seed=seed),
}


def _distribution(item: Range) -> BaseDistribution:
    if item.kind == "choice":
        return optuna.distributions.CategoricalDistribution(item.choices)
    if item.kind == "int":
        return optuna.distributions.IntDistribution(int(item.low), int(item.high), log=item.log)
    return optuna.distributions.FloatDistribution(item.low, item.high, log=item.log)


def _suggest(trial: optuna.trial.Trial, item: Range) -> Value:
    if item.kind == "choice":
        choice: Value = trial.suggest_categorical(item.name, item.choices)  # type: ignore[assignment]  # never None
        return choice
    if item.kind == "int":
        return trial.suggest_int(item.name, int(item.low), int(item.high), log=item.log)
    return trial.suggest_float(item.name, item.low, item.high, log=item.log)


def _engine(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):  # readers (a notebook, a dashboard) hold it for moments
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    return {"pool_pre_ping": True}  # a server may restart between two writes


def without_password(url: str) -> str:
    """A storage's address as it may be shown and kept; PostgreSQL's client takes a password from PGPASSWORD, too."""
    try:
        parts = sqlalchemy.engine.make_url(url)
        return sqlalchemy.URL.create(
            parts.drivername, parts.username, None, parts.host, parts.port, parts.database, parts.query
        ).render_as_string(hide_password=False)
    except sqlalchemy.exc.ArgumentError:
        return url


def open_study(url: str, name: str) -> optuna.Study:
    """A study as Optuna has it, to be read: writing to it raises."""
    parts = sqlalchemy.engine.make_url(url)
    kwargs = _engine(url)
    if parts.drivername.startswith("sqlite"):
        if not Path(parts.database or "").is_file():
            raise StudyError(f"the storage {parts.database} does not exist")
        parts = parts.set(database=f"file:{parts.database}", query={"mode": "ro", "uri": "true"})
    elif parts.drivername.startswith("postgresql"):
        kwargs["connect_args"] = {"options": "-c default_transaction_read_only=on"}
    url = parts.render_as_string(hide_password=False)
    with readable_errors(url), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = optuna.storages.RDBStorage(url, engine_kwargs=kwargs, skip_table_creation=True)
        try:
            return optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            raise StudyError(f"the storage {without_password(url)} holds no study {name}") from None


def best_points(study: optuna.Study, most: int) -> list[dict[str, Value]]:
    """The parameters of its best complete trials, best first, each set once."""
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    points: list[dict[str, Value]] = []
    for trial in sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.number)):
        if trial.params not in points:
            points.append(dict(trial.params))
    return points[:most]
