"""`python -m cmh.tune`: search hyperparameters on the validation split, confirm the winner, test it once."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NoReturn

from cmh import commands, files, tune_options
from cmh.errors import CmhError, StudyError, collected
from cmh.signals import Interrupts
from cmh.views import changes, visdom

if TYPE_CHECKING:
    from types import TracebackType

    from cmh.study.life import Watch
    from cmh.study.outcome import Outcome, Scores
    from cmh.study.request import Request, StudyRequest
    from cmh.study.storage import Store
    from cmh.views.overview import Overview

log = logging.getLogger("cmh.tune")  # this module's own name is __main__


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    commands.any_terminal()
    arguments = tune_options.parser().parse_args(argv)
    return commands.guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts(commands.end_interrupted))
        from cmh.study import population  # PyTorch and Optuna come in here

        if arguments.visdom is not None:
            visdom.check()
        todo = changes.Plan(
            [tune_options.asked(arguments, dataset) for dataset in dict.fromkeys(arguments.dataset)], arguments
        )
        request = todo.first(population.check(todo.asked, todo.problems, progress=sys.stderr.isatty()))
        if arguments.plan:
            from cmh.views import plan

            for study in request.studies:
                sys.stdout.write(plan.text(study))
            return 0
        problems: list[str] = []
        request = population.tried(request, problems)
        from cmh import cluster, leaderboard  # Ray comes in here
        from cmh.study import controls, life, points
        from cmh.views import overview

        ended: list[Outcome] = []
        fresh: list[Outcome] = []  # their winners with fresh seeds
        stack.push(functools.partial(_write_reports, ended))
        request = population.begun(request, problems, stack)
        values = controls.of_studies(request.studies)
        unwritten: list[Callable[[], None]] = []

        def end(reason: str) -> NoReturn:
            commands.end_at_once(reason, unwritten, interrupted=interrupts.asked > 0)

        with interrupts.polled():  # raised in the middle of Ray's start, it may be lost or leave a server
            stack.enter_context(cluster.session(request.limits.address, on_server_death=end))

        def search(wanted: Request, scores: Sequence[Mapping[str, Scores]], found: list[Outcome]) -> None:
            with overview.over(wanted, terminal=sys.stderr.isatty()) as whole, _views(arguments, whole) as watch:
                show = functools.partial(_show, found, whole)
                kind = points.Points if points.is_one(wanted.studies[0]) else None
                life.search(wanted, scores, interrupts, watch=watch, show=show, unwritten=unwritten, kind=kind)

        collected(lambda: search(request, values, ended), problems)
        if again := todo.second(ended):
            again = population.begun(again, problems, stack)
            collected(lambda: search(again, [{}] * len(again.studies), fresh), problems)
        sys.stdout.write("".join(todo.texts(ended, fresh)))
        if len(request.studies) > 1 and any(outcome.records for outcome in ended):
            leaderboard.main([str(arguments.out), "--csv", str(arguments.out / "board.csv")])
        if problems:
            raise StudyError(*problems)
    log.info("done in %.0f s", time.monotonic() - started)
    return 0


def _views(arguments: argparse.Namespace, whole: Overview | None) -> AbstractContextManager[Watch]:
    """What is kept up to date beside the terminal."""
    from cmh.views import live
    from cmh.views.progress import Progress

    def watch(store: Store, study: StudyRequest, name: str) -> Progress:
        part = None if whole is None else whole.parts[study.folder]
        return Progress(store, study.limit, name, terminal=sys.stderr.isatty(), part=part)

    kinds: list[Callable[[StudyRequest], live.Background]] = [] if arguments.no_tensorboard else [live.tensorboard]
    if arguments.visdom is not None:
        kinds.append(
            lambda study: live.visdom(
                arguments.visdom,
                study.folder.name,
                f"`python -m cmh.studies visdom {files.quoted(study.folder)}` shows it later; ",
            )
        )
    return live.beside(watch, kinds)


def _show(ended: list[Outcome], whole: Overview | None, outcome: Outcome) -> None:
    from tqdm import tqdm

    from cmh.study import points
    from cmh.views import closing

    ended.append(outcome)
    if whole is not None:
        whole.parts[outcome.study.folder].finished()
    if points.is_one(outcome.study):  # its table is shown when all is done
        return
    tqdm.write(closing.table(outcome), file=sys.stdout, end="")  # above the bars of the studies that still run
    sys.stdout.flush()


def _write_reports(
    ended: list[Outcome], kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
    """After all searches, as it takes seconds, for which workers would wait; not where somebody has interrupted."""
    if ended and (kind is None or issubclass(kind, CmhError)):
        from cmh.study import points
        from cmh.views import report

        for outcome in ended:
            if not points.is_one(outcome.study):
                report.write_softly(outcome.study.folder)


if __name__ == "__main__":
    commands.end(main())
