"""Rows of one configuration at several code lengths, side by side: a row of a wide table, a line of a plot."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

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
            same = (row.method, label(row), row.selection, row.trials, row.epochs)
            seen[same] += 1
            found.setdefault((*same, seen[same]), {})[bits] = row  # equal ones of a table: the n-th with the n-th
    names = _names([(next(iter(rows.values())), key) for key, rows in found.items()])
    return [Series(name, rows) for name, rows in zip(names, found.values(), strict=True)]


def label(row: Row) -> str:
    """What was changed, but the number of bits, by which a row stands beside those of other lengths."""
    return ", ".join(part for part in row.label.split(", ") if part != f"bits={row.bits}")


def shared_label(board: Board) -> str:
    """The label that all rows have, which the names of `series` are without; empty where they differ."""
    labels = {label(row) for row in board.rows}
    return labels.pop() if len(labels) == 1 else ""


def _names(rows: list[tuple[Row, tuple[object, ...]]]) -> list[str]:
    """As short as tells them apart: method, label, selection, budget, a number."""
    several = len({label(row) for row, _ in rows}) > 1
    names = [
        render.printable(f"{row.method} ({label(row)})" if several and label(row) else row.method) for row, _ in rows
    ]
    more: tuple[Callable[[Row, tuple[object, ...]], str], ...] = (
        lambda row, _: row.selection,
        lambda row, _: f"{row.trials} × {row.epochs}",
        lambda _, key: f"#{key[-1]}",
    )
    for word in more:
        often = collections.Counter(names)
        names = [
            f"{name}, {word(row, key)}" if often[name] > 1 else name
            for name, (row, key) in zip(names, rows, strict=True)
        ]
    return names
