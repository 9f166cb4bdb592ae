"""`python -m cmh.leaderboard`: the confirmed records of all studies and runs as leaderboards."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cmh import commands, files
from cmh.board import current, find, papers, render, rows
from cmh.errors import CmhError

_ROOTS = ("studies", "runs")
_MAKE = "python -m cmh.tune --method dcmh --space spaces/dcmh.yml"

_DESCRIPTION = """\
Collect the confirmed test runs (records.jsonl) below each ROOT and rank them. Runs are compared only within
one dataset, split, feature family, protocol, tie rule and number of bits. The seeds of one configuration make
one row if they were run by the same code, with the same versions and on the same kind of device. Search trials
never become rows. What cannot be read is left out, with a note.
"""

_EPILOG = f"""\
examples:
  python -m cmh.leaderboard                                   all of studies/ and runs/
  python -m cmh.leaderboard studies/dcmh-clipart-32           one study
  python -m cmh.leaderboard --dataset clipart --csv board.csv --markdown board.md
  {_MAKE}     makes records

columns (those that are empty are not shown):
  rank (#)          by mean; equal numbers have equal ranks
  ranks             those that the row may have: below all rows that are better, above all that are worse
  group             rows that share a letter cannot be told apart
  method            with what was changed of the study or file that it comes from
  selection         where the hyperparameters come from: validation (tuned), paper, fixed
  seeds (n)         training runs in the row; the latest run of a seed counts
  i→t, t→i          MAP of image queries over texts and of text queries over images, mean over seeds
  mean ± ci95       of both directions; ± half the 95 % interval, from a bootstrap over seeds and query groups
  p vs best (p)     against the first row of the table, adjusted for all pairs of the table
  queries to next   how many test queries would tell it from the next row in 8 of 10 tests, if the difference is
                    what it seems; "more seeds" where no number of queries would
  trials × epochs   budget: trials of the search (0: none) and length of one run
  passes            over the training items that the search made (Markdown and CSV only)
  seconds           spent on the search and on training all seeds; device seconds: of one GPU, or core
  test opened       how often the test split had been opened, by this study or run / by all of its user
  marks             leak: a code depended on other items or the other modality; dead: loss terms or parameters
                    without effect; aged: today's code or data would not make this row
  reported          numbers of papers; their protocols differ, so they are neither ranked nor comparable

The CSV file also has standard deviations over seeds, interval ends, what the audits found, tie rule, split,
commit and date.
"""


def main(argv: list[str] | None = None) -> int:
    """Print the boards, write them where asked; the exit code."""
    commands.any_terminal()
    arguments = _parser().parse_args(argv)
    collecting = gc.isenabled()
    gc.disable()  # of 10,000 records nothing is garbage, but looking for it takes a tenth of the time
    try:
        _run(arguments)
        sys.stdout.flush()
    except CmhError as error:
        lines = str(error).split("\n")
        sys.stderr.write("".join(f"{render.printable(line)}\n" for line in lines))  # names from files, as in the table
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has read enough; python must not complain when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        if collecting:
            gc.enable()
    return 0


def _run(arguments: argparse.Namespace) -> None:
    if arguments.csv and arguments.markdown and os.path.realpath(arguments.csv) == os.path.realpath(arguments.markdown):
        raise CmhError(f"--csv and --markdown both name {arguments.csv}; one would overwrite the other")
    roots = arguments.roots or [Path(name) for name in _ROOTS if Path(name).is_dir()]
    runs, problems = find.find(roots)
    if not runs and problems:
        raise CmhError(*problems, heading="no record can be read")
    if not runs:
        where = ", ".join(str(root) for root in roots or map(Path, _ROOTS))
        missing = "" if roots else f" (there are no such folders in {Path.cwd()})"
        raise CmhError(f"no records in {where}{missing}; this makes some: {_MAKE}")
    if arguments.dataset is not None:
        runs = find.only(runs, arguments.dataset)
    boards, notes = rows.boards(runs, papers.reported(papers.experiments()), current.aged)
    for note in problems + notes:
        sys.stderr.write(f"note: {render.printable(note)}\n")
    # the files first: the reader of the table may be gone before its end (`| head`)
    _write(boards, {arguments.csv: render.csv_text, arguments.markdown: render.markdown})
    sys.stdout.write(render.terminal(boards))


def _write(boards: list[rows.Board], texts: dict[Path | None, Callable[[list[rows.Board]], str]]) -> None:
    problems = []
    for path, text in texts.items():
        if path is None:
            continue
        try:
            files.write_atomic(path, text(boards))
        except OSError as error:
            problems.append(f"{path}: cannot be written ({error.strerror})")
        else:
            sys.stderr.write(f"wrote {path}\n")
    if problems:
        raise CmhError(*problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmh.leaderboard",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "roots",
        nargs="*",
        type=Path,
        metavar="ROOT",
        help="folder of studies or runs, or one of them (default: studies and runs, where they exist)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="only the boards of this dataset")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the rows as CSV")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the boards as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
