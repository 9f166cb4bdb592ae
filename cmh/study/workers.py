"""A search on Ray Tune: Ray runs the processes, the storage owns the state.

Each start builds a fresh Tuner, whose searcher takes trials from the storage and whose ASHA refills its rungs
from it. (`Tuner.restore` forgets the rungs.) A worker serves one trial after another; the trainer resets it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from cmh import methods
from cmh.cluster import ray, tune
from cmh.config import Value
from cmh.errors import StudyError
from cmh.study import confirm
from cmh.study.storage import Proposal, Store

METRIC = "val_map_best"
RESULT_KEYS = ("best_epoch", "best_i2t", "best_t2i", "seconds", "device")


class View(Protocol):
    """Who watches a search."""

    def started(self, proposal: Proposal) -> None:
        """A trial was handed to a worker."""

    def reported(self, number: int, epoch: int, value: float) -> None:
        """An epoch's validation MAP was stored."""

    def ended(self, number: int) -> None:
        """A trial is complete, pruned or failed."""


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a trial takes, and how many run at once."""

    cpus: float
    gpus: float
    concurrent: int


def search(
    store: Store,
    *,
    limit: int,
    folder: Path,
    run: Mapping[str, Value],
    resources: Resources,
    time_budget: float | None,
    view: View,
) -> bool:
    """Run trials until `limit` were started and have ended; False if it was stopped before.

    `run` holds the settings all trials share (dataset, features, bits, epochs, seed). Each trial writes to
    `folder/trials/<number>`. Raises StudyError when the storage or Ray breaks.
    """
    session = _Session(store, limit, folder, dict(run), view)
    asha = store.space.asha
    scheduler = _Rungs(session, asha.first_rung, asha.reduction) if asha is not None else _Rungs(session, None, 2)
    with tempfile.TemporaryDirectory(prefix="cmh-ray-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(
                _trainable(methods.spec(store.space.method)), {"cpu": resources.cpus, "gpu": resources.gpus}
            ),
            tune_config=tune.TuneConfig(
                search_alg=_Proposals(session),
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=resources.concurrent,
                time_budget_s=time_budget,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                stop=session.should_stop,
                # A worker that the kernel killed is replaced, and its trial goes on from its own checkpoint.
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        )
        tuner.fit()
    if session.error is not None:
        raise session.error
    return session.exhausted and not session.live


def _trainable(method: str) -> Callable[[dict[str, Any]], None]:
    """The method's `trainable` by name or path: a worker cannot import a file of one's own, so it loads it itself."""

    def trainable(config: dict[str, Any]) -> None:
        methods.get(method).trainable(config)

    return trainable


class _Session:
    """What searcher and scheduler share: which Ray trial is which trial of the study."""

    def __init__(self, store: Store, limit: int, folder: Path, run: dict[str, Value], view: View) -> None:
        self.store, self.limit, self.folder, self.run, self.view = store, limit, folder, run, view
        self.live: dict[str, Proposal] = {}  # by Ray's trial id
        self.results: dict[int, dict[str, Any]] = {}  # newest report of each live trial
        self.exhausted = False
        self.error: Exception | None = None

    def should_stop(self, _trial_id: str, _result: dict[str, Any]) -> bool:
        """Ends the whole run once the storage has failed: going on would lose what it cannot write."""
        return self.error is not None

    def propose(self, trial_id: str) -> dict[str, Value] | None:
        proposal = self.store.propose(self.limit)
        if proposal is None:
            self.exhausted = True
            return None
        self.live[trial_id] = proposal
        self.view.started(proposal)
        trial_folder = self.folder / "trials" / str(proposal.number)
        return {**proposal.config, **self.run, "folder": str(trial_folder.resolve())}

    def end(self, trial_id: str) -> None:
        number = self.live.pop(trial_id).number
        self.results.pop(number, None)
        self.view.ended(number)

    def summary(self, number: int) -> dict[str, Any]:
        newest = self.results.get(number, {})
        return {key: newest[key] for key in RESULT_KEYS if key in newest}


class _Proposals(Searcher):
    """Hands the storage's proposals to Ray Tune."""

    def __init__(self, session: _Session) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.session = session

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        session = self.session
        if session.error is not None:
            return str(Searcher.FINISHED)
        try:
            return session.propose(trial_id) or str(Searcher.FINISHED)
        except Exception as error:  # it must not die inside Ray's loop, which would hide it
            session.error = error
            return str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        proposal = self.session.live.get(trial_id)
        if proposal is None or not error or self.session.error is not None:
            return  # ended by its own report, or interrupted: then it stays in the storage as it is
        reason = "the worker process died three times (killed, out of memory, or crashed)"
        try:
            self.session.store.fail(proposal.number, "error", reason, self.session.summary(proposal.number))
            self.session.end(trial_id)
        except Exception as failure:
            self.session.error = failure

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: every start reads the storage."""


@dataclasses.dataclass
class _Numbered:
    """Stands for a trial in the rungs, under its number in the study: there it is the same after a resume."""

    trial_id: int


class _Rungs(ASHAScheduler):
    """ASHA whose rungs are the storage's; it writes each epoch and each end there. Without rungs it only writes."""

    def __init__(self, session: _Session, first_rung: int | None, reduction: int) -> None:
        self.session = session
        self.epochs = int(session.run["epochs"])
        self.halving = first_rung is not None
        super().__init__(
            time_attr="epoch",
            metric=METRIC,
            mode="max",
            max_t=self.epochs,
            grace_period=first_rung or self.epochs,
            reduction_factor=reduction,
            stop_last_trials=False,
        )
        for number, curve, finished in session.store.history():
            epochs = sorted(curve)
            # The last epoch of a trial that goes on is reported again, and decided then.
            self._refill(number, {epoch: curve[epoch] for epoch in (epochs if finished else epochs[:-1])})

    def _refill(self, number: int, curve: Mapping[int, float]) -> None:
        stand_in = _Numbered(number)
        super().on_trial_add(None, stand_in)
        best = float("-inf")
        for epoch, value in sorted(curve.items()):
            best = max(best, value)
            if epoch < self.epochs:
                super().on_trial_result(None, stand_in, {"epoch": epoch, METRIC: best})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        proposal = self.session.live[trial.trial_id]
        super().on_trial_add(tune_controller, _Numbered(proposal.number))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        proposal = self.session.live.get(trial.trial_id)
        if proposal is None or self.session.error is not None:
            return str(TrialScheduler.CONTINUE)  # the last report of an ended trial comes twice
        try:
            return self._decide(tune_controller, trial.trial_id, proposal, result)
        except Exception as error:
            self.session.error = error
            return str(TrialScheduler.STOP)

    def _decide(self, tune_controller: Any, trial_id: str, proposal: Proposal, result: dict[str, Any]) -> str:
        session, number = self.session, proposal.number
        if "failed" in result:
            session.store.fail(number, result["failed"], result["reason"], session.summary(number))
            session.end(trial_id)
            return str(TrialScheduler.CONTINUE)
        epoch = int(result["epoch"])
        session.results[number] = result
        if session.store.report(number, epoch, float(result["val_map"])):
            session.view.reported(number, epoch, float(result["val_map"]))
        if epoch >= self.last_epoch(result):
            session.store.complete(number, session.summary(number))
            session.end(trial_id)
            return str(TrialScheduler.CONTINUE)
        if not self.halving:
            return str(TrialScheduler.CONTINUE)
        decision = super().on_trial_result(tune_controller, _Numbered(number), result)
        # The known-good points are compared with the winner at the end: on equal epochs, so they run through.
        if decision == TrialScheduler.STOP and proposal.origin == "search":
            session.store.prune(number, epoch, session.summary(number))
            session.end(trial_id)
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def last_epoch(self, result: Mapping[str, Any]) -> int:
        """The epoch with which a trial ends: a closed-form method may need fewer than asked for."""
        return int(result.get("epochs", self.epochs))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the report that ended the trial said it all."""

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: the searcher is told, and writes it."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: rungs keep what was reported."""


def confirm_all(
    method: str, values: list[dict[str, Value]], cpus: float, gpus_per_run: float, concurrent: int
) -> Iterator[confirm.Tested]:
    """Train and test each mapping on a worker, at most `concurrent` at once; yields as they finish.

    A run whose worker dies is started again and goes on from its checkpoint.
    """
    task = ray.remote(num_cpus=cpus, num_gpus=gpus_per_run, max_retries=2)(_confirm_one)
    waiting = list(reversed(values))
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < concurrent:
            running.append(task.remote(method, {"threads": threads(cpus), **waiting.pop()}))
        done, running = ray.wait(running, num_returns=1)
        try:
            yield ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            raise StudyError(f"the confirmation failed: {error.cause}") from error
        except ray.exceptions.RayError as error:
            raise StudyError(
                f"the confirmation failed: {type(error).__name__}; the same command tries again"
            ) from error


def _confirm_one(method: str, values: dict[str, Value]) -> confirm.Tested:
    return confirm.run(method, values)


def threads(cpus: float) -> int:
    """Torch threads of a run that was given so many CPUs."""
    return max(1, int(cpus))


def gpus(per_trial: float | None) -> float:
    """GPUs a trial takes: as asked for, else one where the session has any."""
    if per_trial is not None:
        return per_trial
    return 1.0 if ray.cluster_resources().get("GPU", 0.0) else 0.0


def share(concurrent: int | None, cpus_per_trial: float, gpus_per_trial: float | None) -> Resources:
    """How many trials fit into the session at once.

    Raises StudyError where not even one does.
    """
    total = ray.cluster_resources()
    per_trial = gpus(gpus_per_trial)
    have_cpus, have_gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    fit = [have_cpus / cpus_per_trial] if cpus_per_trial else []
    fit += [have_gpus / per_trial] if per_trial else []
    room = int(min(fit))
    if room < 1:
        raise StudyError(
            f"a trial asks for {cpus_per_trial:g} CPUs and {per_trial:g} GPUs, but the session has"
            f" {have_cpus:g} and {have_gpus:g}; lower --cpus-per-trial or --gpus-per-trial"
        )
    return Resources(cpus_per_trial, per_trial, min(room, concurrent or room))
