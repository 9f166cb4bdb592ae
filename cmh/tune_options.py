"""The options of `python -m cmh.tune`, and what they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cmh import commands
from cmh.config import INPUTS
from cmh.study.weights import KEEP
from cmh.views import changes, visdom

if TYPE_CHECKING:
    from cmh.study.request import Asked

EPILOG = """\
examples:
  python -m cmh.tune --method dcmh --space spaces/dcmh.yml             the main job, on the built-in clip art
  python -m cmh.tune --method dcmh ridge --bits 16 32 64               six studies, one after the other, no idle worker
  python -m cmh.tune --method ridge own/mine.py                        a method of one's own; its space is own/mine.yml
  python -m cmh.tune --method dcmh --space dcmh --trials 100           the same study again, with more trials
  python -m cmh.tune --method dcmh --space two.yml --from STUDY        search two.yml around the winner of a study
  python -m cmh.tune --method all --bits 16 32 64 --dataset clipart mine   every method, and one board at the end
  python -m cmh.tune --method dcmh --ablate gamma hidden_image=0       what each component is worth, searched alike
  python -m cmh.tune --method dcmh --sweep gamma=0.01:10:7 --from STUDY    the sensitivity curve around a winner
  python -m cmh.tune --method dcmh --space dcmh --plan                 check everything, start nothing

The same command again goes on where it stopped (after a kill, too). A study lives in OUT/METHOD-DATASET-BITS:
study.yml (the request), study.db (Optuna), trials.csv, trials/NUMBER/, best.yml (the winner, for cmh.reproduce),
records.jsonl (test results, for cmh.leaderboard). The search sees training and validation items only; the test
split is opened by the confirmation, and every opening is counted.

Several studies share one session: none idles a worker, each has its share of them, one that fails leaves the others
alone, and OUT/board.csv is the board at the end. An ablation searches METHOD-DATASET-BITS, then the same with KEY=VALUE
for each component (METHOD-DATASET-BITS-KEY=VALUE), and trains each winner with fresh seeds: ablation.csv in the first.
A curve is METHOD-DATASET-BITS-sweep-KEY with sweep.csv and, with the extra [report], sweep.pdf and .png; more values
or seeds are added to it. Both stay on the validation split unless --test asks.
"""


def parser() -> argparse.ArgumentParser:
    """What reads the command line."""
    made = argparse.ArgumentParser(
        prog="python -m cmh.tune",
        description="Search a method's hyperparameters with Ray Tune, Optuna and ASHA, then test the winner once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    about = "methods (`python -m cmh.methods`), or files; all, supervised, unsupervised, shallow: those of cmh"
    add("--method", required=True, nargs="+", metavar="NAME|FILE", help=about)
    add(
        "--space",
        nargs="+",
        default=[],
        metavar="FILE|DIR",
        help="search spaces: files, a folder of them, built-in names (default: beside the method's file, or built in)",
    )
    add("--dataset", nargs="+", default=["clipart"], metavar="NAME|DIR", help="default: clipart, which comes with cmh")
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
        help="end a study's search after 45s, 30m, 1.5h … of its share of the time, all its starts together",
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
    add(
        "--warm-start",
        nargs="+",
        default=[],
        metavar="STUDY|defaults",
        help="start with the best points of another study of the method, or with the library's default, which else is a"
        " control that the search does not know; the board names either as the search's prior",
    )
    add(
        "--from",
        dest="base",
        type=Path,
        metavar="STUDY",
        help="what is not searched has the values of another study's winner, which is a point to start from",
    )
    add("--seeds", type=commands.whole(1), default=3, metavar="N", help="seeds of the confirmation (default: 3)")
    add(
        "--finalists",
        type=commands.whole(0),
        metavar="N",
        help="the best N trials get further seeds on validation before the winner is named, the better half of them"
        " twice as many, and so on; these trainings are the last of --trials (default: the space's, else none: one seed"
        " decides)",
    )
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
    visdom.add_option(made)
    changes.add_options(made)
    add("--plan", action="store_true", help="check everything, print the first points and an estimate, and stop")
    return made


def asked(arguments: argparse.Namespace, dataset: str) -> Asked:
    """What is asked for, of one dataset."""
    from cmh.study.request import Asked, Limits

    return Asked(
        methods=tuple(arguments.method),
        spaces=tuple(arguments.space),
        dataset=dataset,
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
        warm_start=tuple(arguments.warm_start),
        finalists=arguments.finalists,
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
