"""Show what a search was worth: the verdict with next steps, what mattered, what fewer trials would have found.

Reads what is there, also of a study that runs; nothing is written, and no extra is needed. The report (`python -m
cmh.studies report STUDY`) has the same, with pictures.

  importance     how much each hyperparameter decides whether a trial is among the best (PED-ANOVA), from 20 trials on
  slices         what trials scored in each part of each range
  expected best  what the best of 1, 2, 4 … of these trials in random order has (Dodge et al., 2019; unbiased)
  told nothing   trials that were copies, failed, or stayed near chance
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmh.views.report.parts import Table
    from cmh.views.worth import Worth

WIDTH = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the subcommand takes."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="folder of a study, such as studies/dcmh-clipart-32")


def run(arguments: argparse.Namespace) -> int:
    """Print it; the exit code. Raises ConfigError where the folder holds no study."""
    from cmh.views import story, worth  # late: they bring Optuna

    found = story.read_study(arguments.study)
    sys.stdout.write("\n".join([*text(worth.read(found)), ""]))
    for problem in found.problems:
        sys.stderr.write(f"could not be read: {problem}\n")
    return 0


def text(found: Worth) -> Iterator[str]:
    """The lines."""
    from cmh.views import verdict, worth

    about, best = found.story, found.story.best
    yield f"{about.name}: {about.method} on {about.dataset}, {about.bits} bits, {len(found.rows)} trials"
    if best is not None and best.best_val_map is not None:
        yield f"best: trial {best.number}, validation MAP {best.best_val_map:.4f}"
    yield from ("", "verdict")
    for one in verdict.findings(found):
        yield from _wrapped(f"- {one.text}")
        if one.step:
            yield f"    → {one.step}"
    for title, table in (
        ("importance", worth.importance_table(found)),
        ("slices", worth.slices_table(found)),
        ("expected best", worth.expected_table(found)),
    ):
        if table is not None:
            yield from ("", title, *_rows(table), *_wrapped(f"({table.caption})"))
    if lines := worth.silent(found):
        yield from ("", "told nothing")
        for line in lines:
            yield from _wrapped(line)


def _rows(table: Table) -> Iterator[str]:
    cells = [table.head, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.head))]
    for row in cells:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
