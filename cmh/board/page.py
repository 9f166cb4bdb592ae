"""Boards as one page to sort and filter, which asks no network for anything and reads without its script."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cmh import style
from cmh.board import render
from cmh.board.rows import Board
from cmh.board.tables import Row

_FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class _Table:
    bits: int
    columns: list[render.Column]
    rows: list[tuple[Row, list[str]]]  # with its cells
    sources: dict[str, int]
    found: list[tuple[str, str]]  # row, what its audits found


def html(boards: Sequence[Board]) -> str:
    """The page, whose template escapes every name. Raises ImportError where the extra [report] is not installed."""
    import jinja2  # late: of an extra

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        finalize=lambda value: render.printable(value) if type(value) is str else value,  # but style and script
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        boards=[
            (board, render.about(board), [_table(bits, rows) for bits, rows in render.sections(board)])
            for board in boards
        ],
        marks=render.marks,
        legend=list(dict.fromkeys(line for board in boards for line in render.legend(board))),
        bits=sorted({row.bits for board in boards for row in board.rows}),
        selections=sorted({row.selection for board in boards for row in board.rows}),
        style=style.sheet(_FOLDER / "page.css"),
        script=(_FOLDER / "page.js").read_text(encoding="utf-8"),
    )


def _table(bits: int, rows: list[Row]) -> _Table:
    columns, sources = render.filled(rows)
    columns = [column for column in columns if column.head != "method"]
    cells = [(row, [column.cell(row) for column in columns]) for row in rows]
    found = [
        (f"{render.method(row)} (rank {row.rank})", f"{mark}: {getattr(row, mark)}")
        for row in rows
        for mark in ("leak", "dead")
        if getattr(row, mark)
    ]
    return _Table(bits, columns, cells, sources, found)
