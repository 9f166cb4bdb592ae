"""List studies: state, trials, best validation MAP, winner, last change, what to do next.

Nothing is written, also while a study runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmh import files

if TYPE_CHECKING:
    from cmh.study.summary import Summary

HEADER = ("study", "state", "trials", "best MAP", "winner", "changed (UTC)", "next")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the subcommand takes."""
    parser.add_argument(
        "roots",
        nargs="*",
        type=Path,
        default=[Path("studies")],
        metavar="ROOT",
        help="folder of studies, or a study (default: studies)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the table; the exit code. Raises ConfigError where a root is no folder."""
    from cmh.study import summary  # late: it brings PyTorch and Optuna

    found = [summary.read(folder) for folder in summary.find(arguments.roots)]
    sys.stdout.write(table(found) if found else f"no studies in {', '.join(map(str, arguments.roots))}\n")
    return 0


def table(found: Sequence[Summary]) -> str:
    """One line a study."""
    cells = [HEADER, *map(_cells, found)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines) + "\n"


def _cells(one: Summary) -> tuple[str, ...]:
    best, none = one.winner, "-"
    trials = f"{one.finished}/{one.asked}" if one.asked is not None else str(one.finished)
    return (
        files.short(one.folder),
        one.state,
        none if one.problem else trials,
        none if best is None else f"{best.val_map_best:.4f}",
        none if best is None else f"trial {best.number}",
        none if one.changed is None else f"{one.changed:%Y-%m-%d %H:%M}",
        _next(one),
    )


def _next(one: Summary) -> str:
    """What its owner would do now."""
    folder = files.quoted(one.folder)
    return {
        "running": "wait for it",
        "interrupted": "the command that began it goes on",
        "measured": "the command that began it shows it",
        "searched": f"python -m cmh.reproduce {folder}",
        "confirmed": f"python -m cmh.leaderboard {folder}",
    }.get(one.state, one.problem)
