"""`python -m cmh.tune`: search hyperparameters on the validation split, confirm the winner, test it once."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cmh import commands, files
from cmh.config import INPUTS
from cmh.errors import CmhError
from cmh.signals import Interrupts
from cmh.study.weights import KEEP
from cmh.views import visdom

if TYPE_CHECKING:
    from types import TracebackType

    from cmh.study.life import Watch
    from cmh.study.outcome import Outcome
    from cmh.study.request import Asked, StudyRequest
    from cmh.study.storage import Store
    from cmh.views.progress import Progress

log = logging.getLogger("cmh.tune")  # this module's own name is __main__

EPILOG = """\
examples:
  python -m cmh.tune --method dcmh --space spaces/dcmh.yml             the main job, on the built-in clip art
  python -m cmh.tune --method dcmh ridge --bits 16 32 64               six studies, one after the other, no idle worker
  python -m cmh.tune --method ridge own/mine.py                        a method of one's own; its space is own/mine.yml
  python -m cmh.tune --method dcmh --space dcmh --trials 100           the same study again, with more trials
  python -m cmh.tune --method dcmh --space two.yml --from STUDY        search two.yml around the winner of a study
  python -m cmh.tune --method dcmh --space dcmh --plan                 check everything, start nothing

The same command again goes on where it stopped (after a kill, too). A study lives in OUT/METHOD-DATASET-BITS:
study.yml (the request), study.db (Optuna), trials.csv, trials/NUMBER/, best.yml (the winner, for cmh.reproduce),
records.jsonl (test results, for cmh.leaderboard). The search sees training and validation items only; the test
split is opened by the confirmation, and every opening is counted.
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    commands.any_terminal()
    arguments = _parser().parse_args(argv)
    return commands.guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts(commands.end_interrupted))
        from cmh.study import preflight  # PyTorch and Optuna come in here
        from cmh.study import request as requests

        if arguments.visdom is not None:
            visdom.check()
        request = requests.check(_asked(arguments), progress=sys.stderr.isatty())
        if arguments.plan:
            from cmh.views import plan

            for study in request.studies:
                sys.stdout.write(plan.text(study))
            return 0
        for study in request.studies:
            if not (study.folder / "study.yml").exists():
                preflight.try_on_its_device(study, request.limits.gpus_per_trial)
        from cmh import cluster  # Ray comes in here
        from cmh.study import controls, life

        ended: list[Outcome] = []
        stack.push(functools.partial(_write_reports, ended))
        for study in request.studies:
            stack.enter_context(life.begun(study))
        values = controls.of_studies(request.studies)
        unwritten: list[Callable[[], None]] = []

        def end(reason: str) -> NoReturn:
            commands.end_at_once(reason, unwritten, interrupted=interrupts.asked > 0)

        with interrupts.polled():  # raised in the middle of Ray's start, it may be lost or leave a server
            stack.enter_context(cluster.session(request.limits.address, on_server_death=end))
        show = functools.partial(_show, ended)
        watch = stack.enter_context(_views(arguments))
        life.search(request, values, interrupts, watch=watch, show=show, unwritten=unwritten)
    log.info("done in %.0f s", time.monotonic() - started)
    return 0


def _asked(arguments: argparse.Namespace) -> Asked:
    from cmh.study.request import Asked, Limits

    return Asked(
        methods=tuple(arguments.method),
        spaces=tuple(arguments.space),
        dataset=arguments.dataset,
        skip_bad=arguments.skip_bad,
        split=arguments.split,
        captions=arguments.captions,
        features=arguments.features,
        weights=arguments.weights,
        bits=tuple(arguments.bits),
        settings=tuple(arguments.set),
        trials=arguments.trials,
        epochs=arguments.epochs,
        seed=arguments.seed,
        seeds=0 if arguments.no_confirm else arguments.seeds,
        warm_start=arguments.warm_start,
        base=arguments.base,
        out=arguments.out,
        storage=arguments.storage,
        keep=arguments.keep,
        limits=Limits(
            cpus_per_trial=arguments.cpus_per_trial,
            gpus_per_trial=arguments.gpus_per_trial,
            max_concurrent=arguments.max_concurrent,
            address=arguments.address,
            time_budget=arguments.time_budget,
            budget_passes=arguments.budget_passes,
            trial_timeout=arguments.trial_timeout,
        ),
    )


def _watch(store: Store, study: StudyRequest, name: str) -> Progress:
    from cmh.views.progress import Progress

    return Progress(store, study.limit, name, terminal=sys.stderr.isatty())


def _views(arguments: argparse.Namespace) -> AbstractContextManager[Watch]:
    """What is kept up to date beside the terminal."""
    from cmh.views import live

    kinds: list[Callable[[StudyRequest], live.Background]] = [] if arguments.no_tensorboard else [live.tensorboard]
    if arguments.visdom is not None:
        kinds.append(
            lambda study: live.visdom(
                arguments.visdom,
                study.folder.name,
                f"`python -m cmh.studies visdom {files.quoted(study.folder)}` shows it later; ",
            )
        )
    return live.beside(_watch, kinds)


def _show(ended: list[Outcome], outcome: Outcome) -> None:
    from tqdm import tqdm

    from cmh.views import closing

    ended.append(outcome)
    tqdm.write(closing.table(outcome), file=sys.stdout, end="")  # above the bars of the studies that still run
    sys.stdout.flush()


def _write_reports(
    ended: list[Outcome], kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
    """After all searches, as it takes seconds, for which workers would wait; not where somebody has interrupted."""
    if ended and (kind is None or issubclass(kind, CmhError)):
        from cmh.views import report

        for outcome in ended:
            report.write_softly(outcome.study.folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmh.tune",
        description="Search a method's hyperparameters with Ray Tune, Optuna and ASHA, then test the winner once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--method", required=True, nargs="+", metavar="NAME|FILE", help="methods (`python -m cmh.methods`) or files")
    add(
        "--space",
        nargs="+",
        default=[],
        metavar="FILE|DIR",
        help="search spaces: files, a folder of them, built-in names (default: beside the method's file, or built in)",
    )
    add("--dataset", default="clipart", metavar="NAME|DIR", help="default: %(default)s, which comes with cmh")
    add("--skip-bad", action="store_true", help="go on without the dataset's bad items, and say how many")
    add(
        "--split",
        default="torchcmh",
        metavar="ORDER",
        help="split of a benchmark: torchcmh (its seed; default), file (the order of the files), or a release's of the"
        " CLIP era: dchmt, mith, dsph (`python -m cmh.datasets show NAME`)",
    )
    add(
        "--captions",
        default="given",
        metavar="WHICH",
        help="of items with several: all (as one text), first, or draw (one in each epoch of training, the mean of the"
        " outputs on all of them to be ranked); default: as the dataset says, all if it says nothing",
    )
    add(
        *("--features", "--backbone"),
        default="efficientnet-lite0",
        metavar="NETWORK",
        help="image network, frozen unless finetune is set (default: %(default)s); --backbone is the same",
    )
    add("--weights", type=Path, metavar="FILE", help="weights for it (default: its own)")
    add("--bits", nargs="+", type=commands.whole(1), default=[32], metavar="N", help="code lengths (default: 32)")
    add(
        "--trials",
        type=commands.whole(1),
        metavar="N",
        help="trials in all, earlier ones included (default: the space's)",
    )
    add("--epochs", type=commands.whole(1), metavar="N", help="epochs of a full trial (default: the space's)")
    add(
        "--time-budget",
        type=commands.duration,
        metavar="TIME",
        help="end a study's search after 45s, 30m, 1.5h …, all its starts together",
    )
    add(
        "--budget-passes",
        type=commands.number,
        metavar="N",
        help="end a study's search after N passes of its trials over the training items (an epoch may be several)",
    )
    add("--trial-timeout", type=commands.duration, metavar="TIME", help="fail a trial that reports nothing for so long")
    add("--seed", type=commands.whole(0), default=0, metavar="N", help="seed of sampler and training (default: 0)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"fix hyperparameters, or how items are taken: {', '.join(INPUTS)}",
    )
    add("--warm-start", type=Path, metavar="STUDY", help="start with the best points of another study of the method")
    add(
        "--from",
        dest="base",
        type=Path,
        metavar="STUDY",
        help="what is not searched has the values of another study's winner, which is a point to start from",
    )
    add("--seeds", type=commands.whole(1), default=3, metavar="N", help="seeds of the confirmation (default: 3)")
    add("--no-confirm", action="store_true", help="leave the test split closed")
    add("--out", type=Path, default=Path("studies"), metavar="DIR", help="where studies go (default: studies)")
    add("--storage", metavar="URL", help="Optuna storage (default: SQLite in the study's folder)")
    add(
        "--keep",
        choices=KEEP,
        help="whose weights stay on disk: the winner's and the confirmed runs' (default), or those of all trials, too",
    )
    add("--address", metavar="HOST:PORT", help="join a running Ray cluster (auto: the one of this machine)")
    add("--cpus-per-trial", type=commands.number, default=1.0, metavar="N", help="default: 1")
    add(
        "--gpus-per-trial",
        type=lambda text: text if text == "auto" else commands.number(text),
        metavar="N",
        help="may be a fraction; auto: as much as an epoch was measured to need (default: 1 where there are GPUs)",
    )
    add("--max-concurrent", type=commands.whole(1), metavar="N", help="trials at once (default: as many as fit)")
    add("--no-tensorboard", action="store_true", help="leave out the files for TensorBoard (STUDY/tensorboard)")
    visdom.add_option(parser)
    add("--plan", action="store_true", help="check everything, print the first points and an estimate, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
