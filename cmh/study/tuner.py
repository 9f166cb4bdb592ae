"""Searches on Ray Tune: Ray runs the processes, the storages own the state.

Each start builds a fresh Tuner, whose searcher takes trials from the storages and whose rungs are refilled from
them. (`Tuner.restore` forgets the rungs.) One Tuner serves all studies of a command, and their confirmations too:
a worker takes the next piece of work, whichever study it is from, so that none idles while there is any. A worker
serves one trial after another; the trainer resets it.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cmh import files
from cmh.cluster import FIFOScheduler, Searcher, Stopper, TrialScheduler, ray, tune
from cmh.errors import CmhError, StudyError
from cmh.signals import Interrupts
from cmh.study import node
from cmh.study.database import readable_errors
from cmh.study.dispatcher import Dispatcher
from cmh.study.resources import Resources
from cmh.study.rungs import METRIC
from cmh.study.work import Budget, Work


def search(
    works: Sequence[Work],
    resources: Resources,
    *,
    budget: Budget | None = None,
    trial_timeout: float | None = None,
    interrupts: Interrupts | None = None,
) -> None:
    """Run every study to its end: until its limit of trials was started and has ended, or its budget is spent.

    The dispatcher shares the places for work out among the studies. Raises StudyError, after everything else is done,
    when a study's storage or disk, its `ended` or a confirmation broke; KeyboardInterrupt when it was interrupted. Then
    the same call goes on.
    """
    interrupts = interrupts or Interrupts()
    key = secrets.token_hex()
    places = node.places(works, resources.joined, key)
    dispatcher = Dispatcher(works, resources, budget or Budget(), trial_timeout, interrupts, key)
    with files.passing_folder("cmh-ray-") as scratch, interrupts.polled(), _memory_kills_are_deaths():
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(node.do_task, places=places), {"cpu": resources.cpus, "gpu": resources.gpus}
            ),
            tune_config=tune.TuneConfig(
                search_alg=_Tasks(dispatcher),
                scheduler=_Reports(dispatcher),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(scratch),
                verbose=0,
                stop=_Stops(dispatcher),
                callbacks=[_Rounds(dispatcher)],
            ),
        )
        try:
            tuner.fit()
            if not dispatcher.finished:  # a signal came after Tune has taken them and before its first round
                interrupts.asked += 1
        finally:
            dispatcher.charge()
            for session in dispatcher.sessions:
                with dispatcher.guarded(session):
                    session.count_seconds()
    if problems := _problems(dispatcher):
        raise StudyError(*problems)


def _problems(dispatcher: Dispatcher) -> list[str]:
    """What went wrong, with the study's name where there are several. An error that is no user's is raised."""
    found: list[str] = []
    for session in dispatcher.sessions:
        problems = list(session.problems)
        for broken, error in dispatcher.errors:
            if broken is session:
                try:
                    with readable_errors(session.store.url):
                        raise error
                except CmhError as known:
                    problems += known.problems
        name = session.work.folder.name if len(dispatcher.sessions) > 1 else ""
        found += [problem if name in problem else f"{name}: {problem}" for problem in problems]
    return found


@contextlib.contextmanager
def _memory_kills_are_deaths() -> Iterator[None]:
    """Within the block a worker that Ray's memory monitor killed is to Ray Tune one that died, as by any other hand.

    Tune does not know the monitor's error: it would come out of `fit()`, whatever else still runs.
    """
    workers: Any = ray.air.execution._internal.actor_manager.RayActorManager
    task_failed = workers._actor_task_failed

    def _actor_task_failed(self: object, tracked_actor_task: object, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            exception = ray.exceptions.RayActorError(error_msg=f"OutOfMemory: {exception}")
        task_failed(self, tracked_actor_task, exception)

    workers._actor_task_failed = _actor_task_failed
    try:
        yield
    finally:
        workers._actor_task_failed = task_failed


class _Actor(Protocol):
    """What a trial of Ray has while its worker lives."""

    ray_actor: ray.actor.ActorHandle[object] | None


class RayTrial(Protocol):
    """What is used of `ray.tune.experiment.Trial`."""

    trial_id: str

    @property
    def error_file(self) -> str | None: ...
    @property
    def temporary_state(self) -> _Actor: ...


def _kill(trial: RayTrial) -> None:
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)


class _Tasks(Searcher):
    """Hands the studies' work to Ray Tune."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.dispatcher = dispatcher

    def suggest(  # type: ignore[override]  # Ray's annotation forgets FINISHED
        self, trial_id: str
    ) -> Mapping[str, object] | str | None:
        task = self.dispatcher.next_task(trial_id)
        return str(Searcher.FINISHED) if task is None and self.dispatcher.finished else task

    def on_trial_complete(self, trial_id: str, result: object = None, error: bool = False) -> None:
        """Nothing: the report that ended the trial, or its error, said it all."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: every start reads the storage."""


class _Reports(FIFOScheduler):
    """Takes each report to its study, and stops whom that stops."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray has no types there
        self.dispatcher = dispatcher

    def on_trial_result(self, tune_controller: object, trial: RayTrial, result: Mapping[str, object]) -> str:
        stops = self.dispatcher.reported(trial.trial_id, result)
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: object, trial: RayTrial) -> None:
        error = Path(trial.error_file or "")
        self.dispatcher.died(
            trial.trial_id, error.read_text(encoding="utf-8", errors="replace") if error.is_file() else ""
        )


class _Rounds(tune.Callback):
    """Looks at the clock in every round of Tune's loop, and keeps the signals ours."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher, self.begun = dispatcher, False

    def on_step_begin(self, iteration: int, trials: Sequence[RayTrial], **_: object) -> None:
        if not self.begun:  # Tune has taken SIGINT and SIGUSR1 when it started
            self.begun = True
            self.dispatcher.interrupts.install()
        if self.dispatcher.stopping:
            self.dispatcher.kill_all()
        else:
            self.dispatcher.look_at_the_clock()

    def on_trial_start(self, iteration: int, trials: Sequence[RayTrial], trial: RayTrial, **_: object) -> None:
        self.dispatcher.started(trial.trial_id, functools.partial(_kill, trial))


class _Stops(Stopper):
    """Ends the whole run when it is interrupted or broken."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher

    def __call__(self, trial_id: str, result: Mapping[str, object]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.dispatcher.stopping
