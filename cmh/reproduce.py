"""`python -m cmh.reproduce`: run a study's winner, one of its trials or an experiment file again, without Ray."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cmh import commands, files
from cmh.views import visdom

if TYPE_CHECKING:
    from cmh.training import Epoch

EPILOG = """\
examples:
  python -m cmh.reproduce experiments/jiang2017_dcmh_clipart.yml    the paper's settings on the built-in clip art
  python -m cmh.reproduce studies/dcmh-clipart-32                   the winner of a study, with its confirmed seeds
  python -m cmh.reproduce studies/dcmh-clipart-32 --check           … trained anew and compared with its records
  python -m cmh.reproduce studies/dcmh-clipart-32 --set gamma=0.5   … with a change (validation only)
  python -m cmh.reproduce studies/dcmh-clipart-32 --set gamma=0.5 --test     … tested: a row of its own on the board
  python -m cmh.reproduce studies/dcmh-clipart-32:7 --seeds 3       trial 7 with other seeds (validation only)
  python -m cmh.reproduce studies/dcmh-clipart-32 --bundle dcmh.zip numbers, split and models as one file
  python -m cmh.reproduce dcmh.zip                                  … trained anew, compared with what that says

Results go to OUT/NAME-IDENTITY: run.yml, records.jsonl (for cmh.leaderboard) and, for each seed, config, curve, log and
checkpoint. IDENTITY is the run's: code, data, settings, device and versions, so runs that differ never meet. A killed
run goes on where it stopped; one that is recorded already is shown, and says so; --fresh trains it again. Openings of
the test split are counted in the study, or for all runs of a file in OUT/NAME.openings.jsonl.

--check trains in a folder of its own that goes away, and compares validation MAP, chosen epoch, test MAP and the AP of
each query. With the device, threads and versions of the record all must be equal; otherwise MAP must lie within a
tolerance that is printed with its reason. Exit code 1: something differs, or nothing was compared.

--bundle trains nothing: it packs settings, split, hashes and versions, curve and metrics of each recorded seed, and the
models, with all that they need to encode. cmh.load, cmh.search and cmh.encode take the file, too. The same runs give
the same bytes, so that its hash can be published. Nothing in another's bundle is unpacked, unpickled or run; a method
of one's own is in it as a text, to be read: who trusts it says --method FILE.
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    commands.any_terminal()
    parser = _parser()
    arguments = parser.parse_args(argv)
    others = ("check", "fresh", "set", "base", "test", "seeds", "label", "split")
    if arguments.bundle is not None and any(getattr(arguments, name) for name in others):
        parser.error("--bundle packs what was recorded: without --check, --fresh, --set, --from, --test, --seeds, …")
    return commands.guarded(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmh.reproduce",
        description="Run a study's winner, one of its trials, or an experiment file again, in this process.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("target", metavar="TARGET", help="an experiment file, the folder of a study or run, STUDY:TRIAL, or a bundle")
    add("--seeds", type=commands.whole(1), metavar="N", help="run seeds 1 to N instead of the recorded ones")
    add("--check", action="store_true", help="train anew, compare with what was recorded; exit 1 where it differs")
    add("--bundle", type=Path, metavar="FILE", help="pack what was run, what came out and the models into FILE.zip")
    add("--fresh", action="store_true", help="train again what is trained already")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change hyperparameters, epochs, bits …",
    )
    add("--from", dest="base", type=Path, metavar="STUDY", help="with the hyperparameters of another study's winner")
    add("--test", action="store_true", help="test a winner that --set has changed, too: a row of its own on the board")
    add("--label", metavar="TEXT", help="what its row is called on the board (default: what was changed)")
    add("--method", metavar="NAME|FILE", help="where a method of one's own is now")
    add("--dataset", metavar="NAME|DIR", help="another dataset than the target's, or where it is now")
    add("--skip-bad", action="store_true", help="go on without the dataset's bad items, and say how many")
    add(
        "--split",
        metavar="ORDER",
        help="another split of a benchmark: torchcmh, file, dchmt, mith, dsph",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    visdom.add_option(parser)
    add("--out", type=Path, default=Path("runs"), metavar="DIR", help="where results go (default: runs)")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from cmh.study import changes, packing, rerun  # PyTorch comes in here

    request = changes.check(
        changes.Asked(
            target=arguments.target,
            method=arguments.method,
            dataset=arguments.dataset,
            skip_bad=arguments.skip_bad,
            split=arguments.split,
            settings=tuple(arguments.set),
            seeds=arguments.seeds,
            label=arguments.label,
            device=arguments.device,
            out=arguments.out,
            compare=arguments.check,
            fresh=arguments.fresh,
            test=arguments.test,
            base=arguments.base,
        )
    )
    if arguments.bundle is not None:
        for line in packing.write(arguments.target, request.target, arguments.bundle):
            _print(line)
        _print(f"bundle: {files.short(arguments.bundle)}, sha256 {files.sha256(arguments.bundle)}")
        return 0
    runner = rerun.Runner(request, _bar)
    with contextlib.ExitStack() as stack:
        if arguments.visdom is not None:
            from cmh.views import live

            visdom.check()
            view = live.visdom(arguments.visdom, runner.folder.name)
            stack.callback(view.close)
            runner = dataclasses.replace(runner, bar=live.bars_beside(_bar, view, runner.folder))
        if request.compare:
            verdict = runner.compare()
            for line in (*verdict.lines, "check: everything agrees" if verdict.agrees else "check: DIFFERS"):
                _print(line)
            return 0 if verdict.agrees else 1
        for line in runner.test() if request.tested else runner.validate():
            _print(line)
    return 0


def _bar(name: str, epochs: int) -> contextlib.AbstractContextManager[Callable[[Epoch], None]]:
    from cmh.views.progress import epochs_bar

    return epochs_bar(name, epochs, terminal=sys.stderr.isatty())


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
