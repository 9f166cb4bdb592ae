"""Views that are kept up to date while a search runs, each in a thread of its own, so that none hurts or slows it.

The driver only leaves word of what is new, the newest of a run in place of what waits already, so that nothing piles up
before a view that is slow. A view that fails is off for the rest of the command, with one warning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from cmh import files
from cmh.config import Value
from cmh.study import aside
from cmh.study.aside import Aside
from cmh.study.life import Screen, Watch
from cmh.study.request import StudyRequest
from cmh.study.rerun import Bar
from cmh.study.storage import Proposal, Store
from cmh.study.trial_row import TrialRow
from cmh.training import Epoch
from cmh.views import event_files, runs, story, windows
from cmh.views.curve_file import read_curve
from cmh.views.progress import Progress
from cmh.views.runs import Beside, Confirmation
from cmh.views.story import Trial

log = logging.getLogger(__name__)

LOOKED_AT = (f"{aside.CONTROLS}/*/curve.csv", f"{aside.FINALS}/*/curve.csv", "confirm/*/curve.csv", "records.jsonl")


class Sink(Protocol):
    """Where runs are shown. It is given each as far as it has come, again and again, and shows what is new."""

    def trial(self, trial: Trial) -> None:
        """A trial of the study."""

    def confirmation(self, run: Confirmation) -> None:
        """The winner with a fresh seed."""

    def beside(self, run: Beside) -> None:
        """A control, or one of the best trials with a further seed."""

    def flush(self, *, last: bool) -> None:
        """All that is new was given; `last`: there will be no more."""


class Background:
    """A sink in a thread.

    `every`: seconds between two looks at what is new. `patience`: for how many the end is waited for.
    `name` and `cure` are words for the warning.
    """

    def __init__(self, sink: Sink, name: str, cure: str, *, every: float, patience: float) -> None:
        self.sink, self._name, self._cure, self._every, self._patience = sink, name, cure, every, patience
        self._waiting: dict[str, Callable[[], None]] = {}
        self._warned = False
        self._changed, self._closing = threading.Condition(), threading.Event()
        self.looks: list[Callable[[], None]] = []  # what is called in every round, before the thread ends once more
        self._thread = threading.Thread(target=self._work, name=f"cmh {name}", daemon=True)
        self._thread.start()

    def leave(self, key: str, job: Callable[[], None]) -> None:
        """Leave a job, which takes the place of one of the same `key` that still waits."""
        if self._thread.is_alive():
            with self._changed:
                self._waiting[key] = job
                self._changed.notify()

    def close(self) -> None:
        """Have the rest done, and wait for it, but not for ever."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._warn(f"it did not take everything in {self._patience:g} s")

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._closing.is_set(), self._every)
                    closing = self._closing.is_set()  # before the jobs are taken: what is left later is another round's
                    jobs, self._waiting = self._waiting, {}
                for job in [*jobs.values(), *self.looks]:
                    job()
                self.sink.flush(last=closing)
                if closing:
                    break
                self._closing.wait(self._every)
        except Exception as error:  # whatever a view dies of stays its own
            text = " ".join(str(error).split())[:200] or type(error).__name__
            self._warn(f"switched off ({text}); the search goes on")

    def _warn(self, text: str) -> None:
        """Once: whoever was given up may still fail."""
        with self._changed:
            first, self._warned = not self._warned, True
        if first:
            log.warning("%s: %s; %s", self._name, text, self._cure)


class Follower:
    """Tells views of a search what its screen is told. `place` is the study's folder, `row_of` a trial's row."""

    def __init__(
        self, store: Store, place: Path, views: Sequence[Background], row_of: Callable[[int], TrialRow] | None = None
    ) -> None:
        self.place, self.views, self.row_of = place, views, row_of or store.row
        self.running: dict[int, Trial] = {}
        self.kept = store.kept()  # what the storage has of the runs that are no trials
        self.seen: dict[Background, object] = {}
        for row in store.rows():
            if row.state != "interrupted":
                self._show(story.trial_of(row), row.copied_from)
        for view in views:
            view.looks.append(lambda view=view: self._look(view))  # type: ignore[misc]

    def started(self, proposal: Proposal) -> None:
        """A trial was handed to a worker."""
        curve = {epoch: {"val_map": value} for epoch, value in proposal.curve.items()}
        self._note(Trial(proposal.number, "running", proposal.origin, proposal.config, curve))

    def reported(self, number: int, epoch: int, value: float) -> None:
        """An epoch's validation MAP was stored."""
        trial = self.running[number]
        self._note(dataclasses.replace(trial, curve={**trial.curve, epoch: {"val_map": value}}))

    def ended(self, number: int) -> None:
        """A trial is complete, pruned or failed."""
        self.running.pop(number, None)
        row = self.row_of(number)
        self._show(story.trial_of(row), row.copied_from)

    def validated(self, one: Aside) -> None:
        """A run beside the search has ended."""
        self.kept = aside.with_run(self.kept, one)

    def close(self) -> None:
        """The search has ended; its confirmation follows."""

    def _note(self, trial: Trial) -> None:
        self.running[trial.number] = trial
        self._show(trial, None)

    def _show(self, trial: Trial, twin: int | None) -> None:
        curve = self.place / "trials" / str(trial.number if twin is None else twin) / "curve.csv"
        for view in self.views:
            view.leave(f"trial {trial.number}", lambda view=view: view.sink.trial(story.written(trial, curve)))  # type: ignore[misc]

    def _look(self, view: Background) -> None:
        """Show the runs that are no trials, where something of them has changed."""
        kept, files = self.kept, [path for pattern in LOOKED_AT for path in self.place.glob(pattern)]
        with contextlib.suppress(OSError):  # a file is being exchanged
            state = kept, {path: (found.st_size, found.st_mtime_ns) for path in files for found in [path.stat()]}
            if self.seen.get(view) != state:
                self.seen[view] = state
                for beside in runs.besides(self.place, kept, []):
                    view.sink.beside(beside)
                for run in runs.confirmations(self.place, []):
                    view.sink.confirmation(run)


class Screens:
    """Several who watch a search, as one."""

    def __init__(self, *screens: Screen) -> None:
        self.screens = screens

    def started(self, proposal: Proposal) -> None:
        """A trial was handed to a worker."""
        for screen in self.screens:
            screen.started(proposal)

    def reported(self, number: int, epoch: int, value: float) -> None:
        """An epoch's validation MAP was stored."""
        for screen in self.screens:
            screen.reported(number, epoch, value)

    def ended(self, number: int) -> None:
        """A trial is complete, pruned or failed."""
        for screen in self.screens:
            screen.ended(number)

    def validated(self, one: Aside) -> None:
        """A run beside the search has ended."""
        for screen in self.screens:
            screen.validated(one)

    def close(self) -> None:
        """The search has ended."""
        for screen in self.screens:
            screen.close()


@contextlib.contextmanager
def beside(
    watch: Callable[[Store, StudyRequest, str], Progress], kinds: Sequence[Callable[[StudyRequest], Background]]
) -> Iterator[Watch]:
    """Within the block: what makes the screens of studies that `watch` makes, with views of these kinds beside them."""
    opened: list[Background] = []

    def both(store: Store, study: StudyRequest, name: str) -> Screen:
        views = [kind(study) for kind in kinds]
        opened.extend(views)
        screen = watch(store, study, name)
        return Screens(screen, Follower(store, study.folder, views, screen.row))

    try:
        yield both
    finally:
        for view in opened:
            view.close()


def tensorboard(study: StudyRequest) -> Background:
    """The TensorBoard files of a study."""
    about: dict[str, Value] = {"method": study.space.method, "dataset": study.dataset.name, "bits": study.bits}
    cure = f"`python -m cmh.studies tensorboard {files.quoted(study.folder)}` writes all later"
    sink = event_files.EventFiles(study.folder / event_files.FOLDER, about)
    return Background(sink, "tensorboard", cure, every=2.0, patience=30)


def visdom(server: tuple[str, int], name: str, cure: str = "") -> Background:
    """The windows of a study or run called `name` in a visdom server; `cure` says how they are had later."""
    host, port = server
    cure = f"{cure}docs/live.md says how to start a server"
    return Background(windows.Windows(host, port, name), f"visdom at {host}:{port}", cure, every=2.0, patience=5)


def bars_beside(bar: Bar, view: Background, place: Path) -> Bar:
    """Bars over the epochs of runs, which a view shows too; `place` is the folder that holds those of all seeds."""

    @contextlib.contextmanager
    def both(name: str, epochs: int) -> Iterator[Callable[[Epoch], None]]:
        seen: dict[int, Mapping[str, float]] = {}  # a run that goes on reports only its newest epochs
        path = place / name.replace(" ", "-") / "curve.csv"

        def job() -> None:
            curve = {**read_curve(path, []), **dict(seen)}
            view.sink.confirmation(Confirmation(name, 0, {}, dict(sorted(curve.items()))))

        with bar(name, epochs) as show:

            def shown(epoch: Epoch) -> None:
                show(epoch)
                row = {key: value for key, value in epoch.metrics().items() if isinstance(value, (int, float))}
                del row["epoch"]
                seen[epoch.epoch] = row
                view.leave(name, job)

            yield shown

    return both
