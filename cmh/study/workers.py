"""Searches on Ray Tune: Ray runs the processes, the storages own the state.

Each start builds a fresh Tuner, whose searcher takes trials from the storages and whose rungs are refilled from
them. (`Tuner.restore` forgets the rungs.) One Tuner serves all studies of a command, and their confirmations too:
a worker takes the next piece of work, whichever study it is from, so that none idles while there is any. A worker
serves one trial after another; the trainer resets it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
import secrets
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cmh import cluster, files, methods, training
from cmh.cluster import ray, tune
from cmh.config import Value
from cmh.datasets import Dataset
from cmh.errors import StudyError
from cmh.features import cache
from cmh.signals import Interrupts
from cmh.study import confirm
from cmh.study.space import Asha
from cmh.study.storage import DEATHS, Proposal, Store, readable_errors

METRIC = "val_map_best"
RESULT_KEYS = ("best_epoch", "best_i2t", "best_t2i", "seconds", "passes", "device_seconds", "device")
CONTINUE, STOP = str(TrialScheduler.CONTINUE), str(TrialScheduler.STOP)
GRACE_SECONDS = 5.0  # after the end of a time budget, for a trial's running epoch
CONTEXT_BYTES = 600 * 2**20  # of GPU memory, that a process takes without allocating anything
MOST_ON_A_GPU = 8
COUNT_SECONDS = 5.0  # how much of a search's time a kill may lose
ROOM_SECONDS = 5.0  # how old the count of a joined cluster's nodes may be


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
    """What a trial takes, and how many run at once; `most` is what was asked for."""

    cpus: float
    gpus: float
    concurrent: int
    most: int | None = None
    joined: bool = False  # a cluster whose nodes come and go


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a study's search may spend, over all its starts; None is no limit."""

    seconds: float | None = None  # by the clock
    passes: float | None = None  # of all trials over the training items


@dataclasses.dataclass(frozen=True)
class Work:
    """A study that is to be searched, and what follows.

    `run` holds the settings that all its trials share (dataset, features, bits, epochs, seed); each trial writes to
    `folder/trials/<number>`. When the search has ended, `ended` says which runs are to be confirmed, as flat mappings,
    and `tested` is given each that is done.
    """

    store: Store
    limit: int
    folder: Path
    run: Mapping[str, Value]
    dataset: Dataset
    view: View
    ended: Callable[[], list[dict[str, Value]]] = lambda: []
    tested: Callable[[confirm.Confirmed], None] = lambda _: None


def search(
    works: list[Work],
    resources: Resources,
    *,
    budget: Budget = Budget(),
    trial_timeout: float | None = None,
    interrupts: Interrupts | None = None,
) -> None:
    """Run every study to its end: until its limit of trials was started and has ended, or its budget is spent.

    Earlier studies go first. Raises StudyError when a storage or a disk breaks, and, after everything else is done,
    when `ended` or a confirmation did; KeyboardInterrupt when it was interrupted. Then the same call goes on.
    """
    interrupts = interrupts or Interrupts()
    key = secrets.token_hex()
    places = _places(works, resources.joined, key)
    state = _Search(works, resources, budget, trial_timeout, interrupts, key)
    with tempfile.TemporaryDirectory(prefix="cmh-ray-") as scratch, interrupts.polled():
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_work, places=places), {"cpu": resources.cpus, "gpu": resources.gpus}
            ),
            tune_config=tune.TuneConfig(
                search_alg=_Proposals(state),
                scheduler=_Decisions(state),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="search", storage_path=scratch, verbose=0, stop=_End(state), callbacks=[_Watch(state)]
            ),
        )
        try:
            tuner.fit()
        finally:
            for session in state.sessions:
                with state.guarded(session):
                    session.count_seconds()
    if state.error is not None:
        with readable_errors(state.broken.store.url if state.broken is not None else ""):
            raise state.error
    if problems := [problem for session in state.sessions for problem in session.problems]:
        raise StudyError(*problems)


class _Rungs(ASHAScheduler):
    """ASHA over a study's own trial numbers: there a trial is the same after a resume."""

    def __init__(self, asha: Asha, epochs: int, history: list[tuple[int, dict[int, float], bool]]) -> None:
        super().__init__(
            time_attr="epoch",
            metric=METRIC,
            mode="max",
            max_t=epochs,
            grace_period=asha.first_rung,
            reduction_factor=asha.reduction,
            stop_last_trials=False,
        )
        if asha.strict:
            cutoff = functools.partial(_strict_cutoff, asha.reduction)
            self._brackets[0].cutoff = cutoff  # type: ignore[method-assign]  # Ray has no setting for it
        for number, curve, finished in history:
            # The last epoch of a trial that goes on is reported again, and decided then.
            self._note(number, curve, max(curve) + finished)

    def _note(self, number: int, curve: Mapping[int, float], before: int) -> None:
        for rung, recorded in self._brackets[0]._rungs:
            if rung < before and rung in curve:
                recorded.setdefault(number, max(value for epoch, value in curve.items() if epoch <= rung))

    def stops(self, number: int, epoch: int, curve: Mapping[int, float]) -> bool:
        """Whether the trial is among those that do not go on; notes it where it reached a rung.

        Earlier epochs of its curve were decided before a kill: the trial went on, and its checkpoint is ahead of them.
        """
        self._note(number, curve, epoch)
        trial, best = _Numbered(number), max(value for past, value in curve.items() if past <= epoch)
        if number not in self._trial_info:
            self.on_trial_add(None, trial)
        return bool(self.on_trial_result(None, trial, {"epoch": epoch, METRIC: best}) == TrialScheduler.STOP)


def _strict_cutoff(reduction: int, recorded: Mapping[int, float]) -> float:
    """What the next at a rung must reach to be one of its best floor(n / reduction), itself counted among the n."""
    passing = (len(recorded) + 1) // reduction
    return sorted(recorded.values(), reverse=True)[passing - 1] if passing else math.inf


@dataclasses.dataclass
class _Numbered:
    """Stands for a trial in the rungs."""

    trial_id: int


@dataclasses.dataclass
class _Live:
    """A piece of work that Ray has: a trial of the search, or a confirmation run."""

    session: _Session
    proposal: Proposal | None = None
    run: dict[str, Value] = dataclasses.field(default_factory=dict)
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the newest
    trial: Any = None  # Ray's
    heard: float | None = None  # when the worker started or reported

    @property
    def number(self) -> int:
        """Of the trial."""
        assert self.proposal is not None
        return self.proposal.number

    def summary(self) -> dict[str, Any]:
        """What of the newest report the storage keeps."""
        return {key: self.result[key] for key in RESULT_KEYS if key in self.result}


class _Session:
    """One study while it runs."""

    def __init__(self, index: int, work: Work, budget: Budget) -> None:
        self.index, self.work, self.store, self.budget = index, work, work.store, budget
        asha, self.epochs = work.store.space.asha, int(work.run["epochs"])
        self.rungs = None if asha is None else _Rungs(asha, self.epochs, work.store.history())
        self.live: dict[int, _Live] = {}  # trials, by number
        self.runs: list[dict[str, Value]] = []  # confirmation runs that wait
        self.deaths: dict[str, int] = {}  # of workers, by the confirmation's folder
        self.passes = {row.number: row.passes for row in work.store.rows()}  # by trial
        self.over = False  # the search has ended
        self.deadline: float | None = None
        self.clock: float | None = None
        self.problems: list[str] = []

    def take(self) -> _Live | None:
        """The next piece of work that can start now."""
        if not self.over:
            self.begin()
            if self.store.exhausted(self.work.limit) or self.late():
                self.finish()
            elif proposal := self.propose():
                live = self.live[proposal.number] = _Live(self, proposal)
                return live
        return _Live(self, run=self.runs.pop(0)) if self.runs else None

    def begin(self) -> None:
        """The search's time runs from here; what earlier starts took is part of its budget."""
        if self.clock is None:
            self.clock = time.monotonic()
            if self.budget.seconds is not None:
                self.deadline = self.clock + self.budget.seconds - self.store.seconds()

    def propose(self) -> Proposal | None:
        proposal = self.store.propose(self.work.limit)
        for number in self.store.settled:
            self.work.view.ended(number)
        self.store.settled.clear()
        if proposal is not None:
            self.work.view.started(proposal)
        elif self.store.exhausted(self.work.limit):
            self.finish()
        return proposal

    def late(self) -> bool:
        """Whether the search has spent its time or its passes."""
        spent = self.budget.passes is not None and sum(self.passes.values()) >= self.budget.passes
        return spent or (self.deadline is not None and time.monotonic() >= self.deadline)

    def finish(self) -> None:
        """Once nothing of the search runs any more: on to the confirmation."""
        if self.live or self.over:
            return
        self.over = True
        self.count_seconds()
        try:
            self.runs = self.work.ended()
        except StudyError as error:
            self.problems.extend(error.problems)

    def end(self, live: _Live) -> None:
        """A trial has ended, and the storage knows it."""
        del self.live[live.number]
        self.count_seconds()
        self.work.view.ended(live.number)

    def count_seconds(self) -> None:
        """Add the time since this was last done to the study's."""
        if self.clock is not None:
            now = time.monotonic()
            self.store.add_seconds(now - self.clock)
            self.clock = None if self.over else now

    def reported(self, live: _Live, result: Mapping[str, Any]) -> bool:
        """Store what a trial reported; true if it is to be stopped."""
        if "failed" in result:
            self.failed(live, str(result["failed"]), str(result["reason"]))
            return False
        number, epoch, value = live.number, int(result["epoch"]), float(result["val_map"])
        live.result = result
        stored = self.store.curve(number).get(epoch, value)
        if stored != value:
            self.store.replace(
                number,
                f"epoch {epoch} was {stored:.6f} and is now {value:.6f} ({result.get('device', 'another device')}): its"
                " first epochs were trained under other circumstances; a new trial has its configuration",
                live.summary(),
            )
            self.end(live)
            return True
        passes = float(result.get("passes", 0.0))
        self.passes[number] = max(passes, self.passes.get(number, 0.0))
        if self.store.report(number, epoch, value, passes):
            self.work.view.reported(number, epoch, value)
        # A closed-form method may need fewer epochs than asked for.
        if epoch >= int(result.get("epochs", self.epochs)):
            self.store.complete(number, live.summary())
            self.end(live)
            return False
        stops = self.rungs is not None and self.rungs.stops(number, epoch, self.store.curve(number))
        if stops and live.proposal is not None and not live.proposal.protected:
            self.store.prune(number, epoch, live.summary())
            self.end(live)
            return True
        return False

    def failed(self, live: _Live, kind: str, reason: str) -> None:
        """A trial failed; out of memory it is tried a second time."""
        if kind == "disk":
            raise StudyError(f"trial {live.number}: {reason}; make room, then the same command goes on")
        if kind == "oom" and self.store.memory_failed(live.number):
            del self.live[live.number]
            return
        self.store.fail(live.number, kind, reason, live.summary())
        self.end(live)

    def died(self, live: _Live, error: str) -> None:
        """The worker of a trial or of a confirmation is gone: killed, crashed, or its node was lost."""
        if live.proposal is None:
            key = str(live.run["folder"])
            self.deaths[key] = self.deaths.get(key, 0) + 1
            if self.deaths[key] < DEATHS:
                self.runs.append(live.run)
            else:
                self.problems.append("the confirmation failed: its worker died three times; the same command goes on")
        elif re.search("OutOfMemory|low on memory", error):
            self.failed(live, "oom", "the worker was killed because the node ran out of memory")
        elif self.store.worker_died(live.number):
            del self.live[live.number]
        else:
            reason = f"the worker process died {DEATHS} times at this epoch (killed, out of memory, or crashed)"
            self.store.fail(live.number, "error", reason, live.summary())
            self.end(live)

    def put_back(self, live: _Live) -> None:
        """A trial is stopped without a verdict; it stays in the storage as interrupted."""
        self.store.put_back(live.number)
        del self.live[live.number]

    def confirmed(self, result: Mapping[str, Any]) -> None:
        """A confirmation run reported: it is done, or it failed."""
        if "failed" in result:
            self.problems.append(f"the confirmation failed: {result['reason']}")
        else:
            self.work.tested(result["tested"])


class _Search:
    """What searcher, scheduler and watch share: which Ray trial is which piece of work."""

    def __init__(
        self,
        works: list[Work],
        resources: Resources,
        budget: Budget,
        trial_timeout: float | None,
        interrupts: Interrupts,
        key: str = "",
    ) -> None:
        self.key = key  # to the test queries, for confirmations
        self.sessions = [_Session(index, work, budget) for index, work in enumerate(works)]
        self.resources, self.trial_timeout, self.interrupts = resources, trial_timeout, interrupts
        self.live: dict[str, _Live] = {}  # by Ray's trial id
        self.error: Exception | None = None
        self.broken: _Session | None = None
        self.counted = time.monotonic()

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Ray pickles searcher, scheduler and callbacks at the start; nobody reads that, the storage is the truth."""
        return object, ()

    @contextlib.contextmanager
    def guarded(self, session: _Session) -> Iterator[None]:
        """An error of the harness must not die inside Ray's loop, which would hide it: it ends the whole run."""
        try:
            yield
        except Exception as error:
            if self.error is None:
                self.error, self.broken = error, session

    @property
    def stopping(self) -> bool:
        """Whether the whole run is to end now: going on would lose what a broken storage cannot write."""
        return self.error is not None or self.interrupts.asked > 0

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next piece of work as a Ray config; None where there is none now, FINISHED where there will be none."""
        for session in self.sessions:
            if self.stopping or len(self.live) >= self.room():
                break
            with self.guarded(session):
                live = session.take()
                if live is not None:
                    self.live[trial_id] = live
                    return self.task(live)
        done = all(session.over and not session.runs for session in self.sessions)
        return str(Searcher.FINISHED) if self.stopping or (done and not self.live) else None

    def room(self) -> int:
        """How many trials may run at once; half as many around one that ran out of memory."""
        if self.resources.joined and time.monotonic() - self.counted > ROOM_SECONDS:
            self.counted = time.monotonic()
            self.resources = dataclasses.replace(self.resources, concurrent=fitting(self.resources))
        careful = any(live.proposal is not None and live.proposal.careful for live in self.live.values())
        if careful or any(session.store.careful() for session in self.sessions):
            return max(1, self.resources.concurrent // 2)
        return self.resources.concurrent

    def task(self, live: _Live) -> dict[str, Any]:
        work = live.session.work
        if live.proposal is None:
            return {"study": live.session.index, "confirm": True, "key": self.key, "values": live.run}
        folder = str((work.folder / "trials" / str(live.number)).resolve())
        values = {**live.proposal.config, **work.run, "folder": folder}
        return {"study": live.session.index, "confirm": False, "values": values}

    def reported(self, trial_id: str, result: dict[str, Any]) -> str:
        """What is to become of the trial."""
        live = self.live.get(trial_id)
        if live is None or self.stopping:
            return CONTINUE  # the last report of an ended trial comes twice
        live.heard = time.monotonic()
        stops = True
        with self.guarded(live.session):
            if live.proposal is None:
                live.session.confirmed(result)
                stops = False
            else:
                stops = live.session.reported(live, result)
            if live.proposal is None or live.number not in live.session.live:
                del self.live[trial_id]
            elif live.session.late():
                live.session.put_back(live)
                del self.live[trial_id]
                stops = True
        return STOP if stops else CONTINUE

    def died(self, trial_id: str, error: str) -> None:
        """The worker of a piece of work is gone."""
        live = self.live.pop(trial_id, None)
        if live is not None and not self.stopping:
            with self.guarded(live.session):
                live.session.died(live, error)

    def look(self) -> None:
        """Stop what hangs, and what still runs some seconds after the end of the time budget."""
        now = time.monotonic()
        for session in self.sessions:
            if session.clock is not None and now - session.clock > COUNT_SECONDS:
                with self.guarded(session):
                    session.count_seconds()
        for trial_id, live in list(self.live.items()):
            if live.proposal is None:
                continue
            late = live.session.deadline is not None and now > live.session.deadline + GRACE_SECONDS
            hangs = self.trial_timeout is not None and live.heard is not None and now - live.heard > self.trial_timeout
            if not late and not hangs:
                continue
            del self.live[trial_id]
            with self.guarded(live.session):
                if late:
                    live.session.put_back(live)
                else:
                    live.session.failed(live, "error", f"no report for {self.trial_timeout:g} s (--trial-timeout)")
            _kill(live)

    def kill_all(self) -> None:
        """End every worker at once: their trials stay in the storage as interrupted."""
        while self.live:
            _kill(self.live.popitem()[1])


def _kill(live: _Live) -> None:
    actor = live.trial.temporary_state.ray_actor if live.trial is not None else None
    if actor is not None:
        ray.kill(actor)


class _Proposals(Searcher):
    """Hands the studies' work to Ray Tune."""

    def __init__(self, state: _Search) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.state = state

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self.state.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the report that ended the trial, or its error, said it all."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: every start reads the storage."""


class _Decisions(FIFOScheduler):
    """Writes each report to its study's storage, and stops whom the rungs stop."""

    def __init__(self, state: _Search) -> None:
        super().__init__()
        self.state = state

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.state.reported(trial.trial_id, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        error = Path(trial.error_file or "")
        self.state.died(trial.trial_id, error.read_text() if error.is_file() else "")


class _Watch(tune.Callback):
    """Looks at the clock in every round of Tune's loop, and keeps the signals ours."""

    def __init__(self, state: _Search) -> None:
        self.state, self.begun = state, False

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if not self.begun:  # Tune has taken SIGINT and SIGUSR1 when it started
            self.begun = True
            self.state.interrupts.install()
        if self.state.stopping:
            self.state.kill_all()
        else:
            self.state.look()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        live = self.state.live.get(trial.trial_id)
        if live is not None:
            live.trial, live.heard = trial, time.monotonic()


class _End(Stopper):
    """Ends the whole run when it is interrupted or broken."""

    def __init__(self, state: _Search) -> None:
        self.state = state

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.state.stopping


@dataclasses.dataclass(frozen=True)
class _Place:
    """What a worker must know to find a study's files and arrays, or to get them from the driver's node."""

    method: str
    dataset: Dataset
    entry: str  # of the dataset's arrays within a cache
    mark: Path
    marked: bytes
    depot: Any = None  # None in a session of one machine

    @classmethod
    def of(cls, work: Work, depot: Any) -> _Place:
        folder, mark = work.dataset.folder, (work.folder / "study.yml").resolve()
        entry = str(folder.relative_to(cache.root())) if folder.is_relative_to(cache.root()) else ""
        marked = mark.read_bytes() if depot is not None else b""
        return cls(methods.spec(work.store.space.method), work.dataset, entry, mark, marked, depot)

    def fetch(self, part: str, key: str = "") -> Any:
        """`dataset.search()` or `.test()`: mapped from this node's disk, else from the object store."""
        if self.depot is None:
            return self.dataset.part(part)
        pixels = self.dataset.pixel_folder
        for folder in (self.dataset.folder, cache.root() / self.entry):
            if (pixels is None or pixels.is_dir()) and self.same(folder):
                return dataclasses.replace(self.dataset, folder=folder).part(part)
        # Nobody writes to them; torch would say so at every tensor.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return ray.get(ray.get(self.depot.arrays.remote(self.dataset, part, key))[0])

    def same(self, folder: Path) -> bool:
        """Whether the arrays there are the driver's to the last digit: a node may have computed features of its own."""
        entries = [folder, *filter(None, [self.dataset.pixel_folder])]
        try:
            return cache.arrays_sha256(*entries) == self.dataset.arrays_sha256
        except (OSError, ValueError, KeyError):
            return False

    @contextlib.contextmanager
    def folder(self, wanted: str) -> Iterator[tuple[str, Callable[[], None]]]:
        """The trial's folder, and what takes its files to the driver's node if this node does not see that folder."""
        if self.depot is None or (self.mark.is_file() and self.mark.read_bytes() == self.marked):
            yield wanted, lambda: None
            return
        with tempfile.TemporaryDirectory(prefix="cmh-trial-") as name:
            local, sent = Path(name), dict[str, tuple[int, int]]()
            for path, data in ray.get(self.depot.read.remote(wanted)).items():
                files.write_atomic(local / path, data)

            def send() -> None:
                changed = {}
                for path in local.glob("[!.]*"):
                    state = path.stat().st_mtime_ns, path.stat().st_size
                    if sent.get(path.name) != state:
                        sent[path.name], changed[path.name] = state, path.read_bytes()
                if changed:
                    ray.get(self.depot.write.remote(wanted, changed))

            yield name, send


def _places(works: list[Work], joined: bool, key: str) -> list[_Place]:
    depot = cluster.depot(key, [work.folder.resolve() for work in works]) if joined else None
    return [_Place.of(work, depot) for work in works]


def _work(task: dict[str, Any], places: list[_Place]) -> None:
    """What a worker does with a piece of work."""
    place = places[task["study"]]
    with place.folder(task["values"]["folder"]) as (folder, send):
        values = {**task["values"], "folder": folder}
        if not task["confirm"]:
            module = methods.get(place.method).__name__
            training.train(module, values, fetch=lambda: place.fetch("search"), before_report=send)
            return
        try:
            tested = confirm.run(
                place.method,
                values,
                report=lambda _: send(),
                dataset=place.dataset,
                fetch=lambda part: place.fetch(part, task["key"]),
            )
            send()  # its codes
        except Exception as error:  # it must not take the worker with it
            cluster.report({"failed": "error", "reason": f"{type(error).__name__}: {error}"})
        else:
            cluster.report({"tested": dataclasses.replace(tested, folder=task["values"]["folder"])})


def measured_gpus(works: list[Work], cpus: float, joined: bool) -> tuple[float, str]:
    """GPUs a trial needs, from an epoch of the largest point of each space on one; and how that was found."""
    if not ray.cluster_resources().get("GPU", 0.0):
        return 0.0, "the session has no GPU, so trials run on CPUs"
    probe = ray.remote(num_cpus=cpus, num_gpus=1, max_calls=1)(_probe)
    places = _places(works, joined, secrets.token_hex())
    found = ray.get([probe.remote(place, _largest(work)) for place, work in zip(places, works, strict=True)])
    peak, total = max(peak for peak, _ in found), min(total for _, total in found)
    share = gpu_share(peak, total)
    return share, f"an epoch took {peak / 2**20:.0f} MiB of {total / 2**20:.0f}, so a trial gets {share:.3g} GPUs"


def gpu_share(peak: int, total: int) -> float:
    """1/k of a GPU so that k trials fit, each with a quarter of room and its own CUDA context."""
    return 1 / max(1, min(int(total / (1.25 * peak + CONTEXT_BYTES)), MOST_ON_A_GPU))


def _largest(work: Work) -> dict[str, Value]:
    """The point of the space that takes most memory, as far as its numbers say, for one epoch."""
    point = dict(work.store.base)
    for item in work.store.space.ranges:
        if item.kind == "int":
            point[item.name] = int(item.high)
        elif item.kind == "choice" and all(isinstance(choice, (int, float)) for choice in item.choices):
            point[item.name] = max(item.choices, key=float)
    return {**point, **work.run, "epochs": 1}


def _probe(place: _Place, values: dict[str, Value]) -> tuple[int, int]:
    """Bytes of GPU memory that a run took at most, and that there are."""
    import torch

    module = methods.get(place.method)
    training.fit(module, *training.parse(module, values), place.fetch("search"))
    return int(torch.cuda.max_memory_allocated()), int(torch.cuda.mem_get_info()[1])


def share(concurrent: int | None, cpus_per_trial: float, gpus_per_trial: float | None, joined: bool) -> Resources:
    """How many trials fit into the session at once; a GPU for each where there are any and nobody said otherwise.

    Raises StudyError where not even one fits.
    """
    have = ray.cluster_resources()
    have_cpus, have_gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    per_trial = gpus_per_trial if gpus_per_trial is not None else float(bool(have_gpus))
    resources = Resources(cpus_per_trial, per_trial, 1, concurrent, joined)
    room = fitting(resources)
    if room < 1:
        raise StudyError(
            f"a trial asks for {cpus_per_trial:g} CPUs and {per_trial:g} GPUs, but the session has"
            f" {have_cpus:g} and {have_gpus:g}; lower --cpus-per-trial or --gpus-per-trial"
        )
    return dataclasses.replace(resources, concurrent=room)


def fitting(resources: Resources) -> int:
    """How many trials fit into the session as it is now, within what was asked for."""
    have = ray.cluster_resources()
    needs = {"CPU": resources.cpus, "GPU": resources.gpus}
    room = min((int(have.get(name, 0.0) / need + 1e-6) for name, need in needs.items() if need), default=0)
    return min(room, resources.most or room)
