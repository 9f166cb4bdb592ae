"""Rows of one configuration at several code lengths, side by side: a row of a wide table, a line of a plot."""

from __future__ import annotations

import collections
import dataclasses

from cmh.board import render
from cmh.board.rows import Board
from cmh.board.tables import Row


@dataclasses.dataclass(frozen=True)
class Series:
    """What is called the same and was chosen with the same budget, at each number of bits at which there is a row."""

    name: str  # of one series only
    rows: dict[int, Row]


def series(board: Board) -> list[Series]:
    """In the order of the shortest codes' table; what it has not follows in that of the next."""
    found: dict[tuple[object, ...], dict[int, Row]] = {}
    for bits, rows in render.sections(board):
        seen = collections.Counter[tuple[object, ...]]()
        for row in rows:
            same = (row.method, row.label, row.selection, row.trials, row.epochs)
            found.setdefault((*same, seen[same]), {})[bits] = row  # equal ones of a table: the n-th with the n-th
            seen[same] += 1
    names = _names([(next(iter(rows.values())), key[-1]) for key, rows in found.items()])
    return [Series(name, rows) for name, rows in zip(names, found.values(), strict=True)]


def _names(rows: list[tuple[Row, object]]) -> list[str]:
    """As short as tells them apart: method and label, then selection, then budget, then a number."""
    names = [render.printable(render.method(row)) for row, _ in rows]
    for more in (
        lambda row, _: row.selection,
        lambda row, _: f"{row.trials} × {row.epochs}",
        lambda _, number: f"#{number + 1}",
    ):
        often = collections.Counter(names)
        names = [
            f"{name}, {more(row, number)}" if often[name] > 1 else name
            for name, (row, number) in zip(names, rows, strict=True)
        ]
    return names
