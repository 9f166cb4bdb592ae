"""Boards as text: CSV for programs, Markdown for pages, an aligned table for the terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence

from cmh.board.rows import Board, Row

_HEADER = (
    "rank",
    "method",
    "selection",
    "seeds",
    "i→t",
    "t→i",
    "mean ± ci95",
    "p vs best",
    "trials × epochs",
    "seconds",
    "test opened",
    "reported i→t / t→i",
)
_SHORT_HEADER = (
    "#",
    "method",
    "selection",
    "n",
    "i→t",
    "t→i",
    "mean ± ci95",
    "p",
    "budget",
    "sec.",
    "open",
    "reported",
)
_WORDS = (1, 2)  # these columns are words, all others numbers
_WIDEST = 16  # name in the terminal's table, which has to fit about 110 columns


def csv_text(boards: Iterable[Board]) -> str:
    """All rows of all boards under one header; the columns are the fields of `Row`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Row)])
    for board in boards:
        for row in board.rows:
            # None becomes an empty cell, a float its shortest exact text
            writer.writerow([round(cell, 6) if isinstance(cell, float) else cell for cell in dataclasses.astuple(row)])
    return text.getvalue()


def markdown(boards: Iterable[Board]) -> str:
    """A section for each board, a table for each number of bits."""
    lines = ["# Leaderboards", "", "Only rows of one table may be compared.", ""]
    for board in boards:
        lines += [f"## {_escape(board.dataset)}, {_escape(board.features)}", "", _escape(_about(board)), ""]
        for bits, rows in _sections(board):
            sources = _sources(rows)
            table = [
                _HEADER,
                ["---" if place in _WORDS else "---:" for place in range(len(_HEADER))],
                *([_escape(cell) for cell in _cells(row, sources)] for row in rows),
            ]
            lines += [f"### {bits} bits", "", *(f"| {' | '.join(cells)} |" for cells in table), ""]
            if sources:
                lines += ["Reported by papers with other protocols, not comparable:", ""]
                lines += [f"- [{number}] {_escape(source)}" for source, number in sources.items()]
                lines += [""]
    return "\n".join(lines[:-1]) + "\n"


def terminal(boards: Iterable[Board]) -> str:
    """The same, aligned for reading where it was asked for."""
    lines: list[str] = []
    for board in boards:
        lines += [printable(f"{board.dataset}, {board.features}"), printable(f"  {_about(board)}")]
        for bits, rows in _sections(board):
            sources = _sources(rows)
            table = [_SHORT_HEADER, *(_shortened(_cells(row, sources)) for row in rows)]
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            lines += ["", f"  {bits} bits"]
            for cells in table:
                aligned = [
                    cell.ljust(width) if place in _WORDS else cell.rjust(width)
                    for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
                ]
                lines.append(f"  {'  '.join(aligned)}".rstrip())
            lines += [f"  [{number}] {printable(source)}" for source, number in sources.items()]
        lines += [""]
    return "\n".join(lines)


def _about(board: Board) -> str:
    queries = "" if board.n_queries is None else f"{board.n_queries} test queries, "
    runs = f"{board.n_runs} test run{'s' * (board.n_runs != 1)}"
    data, split = board.dataset_sha256[:12], board.split_sha256[:12]
    return f"data {data}, split {split}, protocol {board.protocol}, ties {board.tie_rule}; {queries}{runs}"


def _sections(board: Board) -> Iterator[tuple[int, list[Row]]]:
    for bits, rows in itertools.groupby(board.rows, key=lambda row: row.bits):
        yield bits, list(rows)


def _sources(rows: Sequence[Row]) -> dict[str, int]:
    """Footnote numbers of the papers in one table, in the order in which it names them."""
    named = dict.fromkeys(row.reported_source for row in rows if row.reported_source is not None)
    return {source: number for number, source in enumerate(named, start=1)}


def _cells(row: Row, sources: dict[str, int]) -> list[str]:
    mean = _map(row.map_mean)
    if row.map_mean_ci95_high is not None:
        mean += f" ± {_map(row.map_mean_ci95_high - row.map_mean)}"
    reported = ""
    if row.reported_source is not None:
        reported = f"{_map(row.reported_i2t)} / {_map(row.reported_t2i)} [{sources[row.reported_source]}]"
    return [
        str(row.rank),
        row.method,
        row.selection,
        str(row.n_seeds),
        _map(row.map_i2t),
        _map(row.map_t2i),
        mean,
        "" if row.p_vs_best is None else f"{row.p_vs_best:.4f}",
        f"{row.trials} × {row.epochs}",
        f"{row.seconds:.0f}",
        str(row.test_opened),
        reported,
    ]


def _map(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _shortened(cells: Sequence[str]) -> list[str]:
    short = [printable(cell).replace(" / ", "/") for cell in cells]
    for place in _WORDS:
        if len(short[place]) > _WIDEST:
            short[place] = short[place][: _WIDEST - 1] + "…"
    return short


def printable(text: str) -> str:
    """Names come from files: they must not break a line or steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _escape(text: str) -> str:
    for sign in "\\|<*_`[":
        text = text.replace(sign, f"\\{sign}")
    return printable(text)
