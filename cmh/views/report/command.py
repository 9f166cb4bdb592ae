"""Write a study's `report.html`: one file that shows all of it, opens anywhere and asks no network for anything.

`tune` writes it at the end of each study; this makes it again, also of a study that is half done. Closing table with
its words explained, best so far against budget, every trial's curve, slices, importance of hyperparameters (from 20
trials on, by their value at the first rung), paper, default and tuned side by side, the winner's optimism, precision
and recall, how the bits are used, and test queries with what they found. Needs the extra [report].

example:
  python -m cmh.studies report studies/dcmh-clipart-32
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study, and where its report goes."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="folder of a study")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the study's folder")


def run(arguments: argparse.Namespace) -> int:
    """Write it, and say where it is."""
    from cmh import files
    from cmh.views import report

    sys.stdout.write(f"{files.short(report.write(arguments.study, arguments.out))}\n")
    return 0
