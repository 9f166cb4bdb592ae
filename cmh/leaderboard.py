"""`python -m cmh.leaderboard`: the confirmed records of all studies and runs as leaderboards."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cmh import commands, files
from cmh.board import current, find, latex, page, papers, render, rows
from cmh.errors import CmhError

_ROOTS = ("studies", "runs")
_MAKE = "python -m cmh.tune --method dcmh --space spaces/dcmh.yml"

_Text = Callable[[list[rows.Board]], str]
_TEXTS: dict[str, _Text] = {  # options that write one file
    **{"csv": render.csv_text, "markdown": render.markdown, "latex": latex.text, "html": page.html},
}
_EXTRA = {"html": "jinja2", "figures": "matplotlib"}

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
  python -m cmh.leaderboard studies --latex t.tex --figures figs         tables and figures of a paper
  python -m cmh.leaderboard studies --html board.html         a page to sort and filter

figures (DIR/BOARD-NAME.pdf and .png; in a column of 85 mm, or two of 178 mm):
  map-bits          MAP against code length, with intervals; needs two lengths
  pr-BITS           mean precision against mean recall by rank, ties as expected, of the codes that runs have kept
  precision-BITS    mean precision among the first N items, of the same
  ranks-BITS        rows by their mean; a bar joins those that cannot be told apart
  budget-BITS       MAP against device seconds, and against the passes of the search where there was one

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
    _check_targets(arguments)
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
    _write(boards, {getattr(arguments, name): text for name, text in _TEXTS.items()}, arguments.figures)
    sys.stdout.write(render.terminal(boards))


def _check_targets(arguments: argparse.Namespace) -> None:
    """Before anything is read: no two options may name one file, and what draws must be installed."""
    problems = []
    targets: dict[str, str] = {}  # resolved → option
    for name in (*_TEXTS, "figures"):
        path = getattr(arguments, name)
        if path is None:
            continue
        other = targets.setdefault(os.path.realpath(path), name)
        if other != name:
            problems.append(f"--{other} and --{name} both name {path}; one would overwrite the other")
        package = _EXTRA.get(name)
        if package and importlib.util.find_spec(package) is None:
            problems.append(f"--{name} needs {package}, of the extra [report]: pip install 'cmh[report]'")
    if problems:
        raise CmhError(*problems)


def _write(boards: list[rows.Board], texts: dict[Path | None, _Text], figures: Path | None) -> None:
    problems, written = [], []
    if not any(board.rows for board in boards) and (figures or any(texts)):
        raise CmhError("there is no row to write: all runs were left out, see the notes")
    for path, text in texts.items():
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomic(path, text(boards))
        except OSError as error:
            problems.append(f"{path}: cannot be written ({error.strerror})")
        else:
            written.append(str(path))
    if figures:
        from cmh.board import figures as drawn  # late: with this option alone matplotlib and the metrics come in

        try:
            names, notes = drawn.write(boards, figures)
        except OSError as error:
            problems.append(f"{figures}: figures cannot be written there ({error.strerror})")
        else:
            written += [str(figures / name) for name in names]
            sys.stderr.write("".join(f"note: {render.printable(note)}\n" for note in notes))
    sys.stderr.write("".join(f"wrote {name}\n" for name in written))
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
    parser.add_argument("--latex", type=Path, metavar="FILE", help="also write them as tables for LaTeX (booktabs)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write them as a page to sort and filter")
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="also draw them there, each figure as PDF and PNG (one folder)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
