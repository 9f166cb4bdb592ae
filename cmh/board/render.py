"""Boards as text: CSV for programs, Markdown for pages, an aligned table for the terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence

from cmh.board.rows import Board
from cmh.board.tables import Row

_WIDEST = 22  # name in the terminal's table, which has to fit about 120 columns
_PLUS_MINUS = (
    "±: half of the 95 % interval of the mean, by a two-level bootstrap over seeds and groups of near-duplicate"
    " queries. Rows share the queries, so that two may differ although their intervals overlap."
)
_GROUPS = (
    "ranks, group: rows that share a letter cannot be told apart (all pairs of the table tested together, 5 %), and"
    " ranks are those that a row may have. p: against the first row, adjusted for all pairs."
)
_OPENED = (
    "opened: how often the test split had been opened when the row was made, by its study or run / by all studies and"
    " runs of the user."
)
_PRIOR = (
    "prior: what the search was given beside the paper's point: the library's defaults, another study's points (warm"
    " start, from) or points by hand; not noted: by an older cmh, which started from the defaults."
)
_MARKS = (
    "marks: leak: a code depended on other items or on the other modality; dead: a loss term or a parameter without"
    " effect; aged: code or data are no longer those of the row."
)


@dataclasses.dataclass(frozen=True)
class Column:
    """How one column of a table is headed and filled; columns of which no cell is filled are left out."""

    head: str
    short: str  # in the terminal; empty: not there
    cell: Callable[[Row], str]
    word: bool = False  # left aligned; all others are numbers


def csv_text(boards: Iterable[Board]) -> str:
    """All rows of all boards under one header; the columns are the fields of `Row`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(Row)]
    writer.writerow(names)
    for board in boards:
        for row in board.rows:
            cells = [getattr(row, name) for name in names]
            # None becomes an empty cell, a float its shortest exact text
            writer.writerow([round(cell, 6) if isinstance(cell, float) else cell for cell in cells])
    return text.getvalue()


def markdown(boards: Iterable[Board]) -> str:
    """A section for each board, a table for each number of bits."""
    lines = ["# Leaderboards", "", "Only rows of one table may be compared.", ""]
    for board in boards:
        lines += [f"## {_escape(board.dataset)}, {_escape(board.features)}", "", _escape(about(board)), ""]
        for bits, rows in sections(board):
            columns, sources = filled(rows)
            table = [
                [column.head for column in columns],
                ["---" if column.word else "---:" for column in columns],
                *([_escape(column.cell(row)) for column in columns] for row in rows),
            ]
            lines += [f"### {bits} bits", "", *(f"| {' | '.join(cells)} |" for cells in table), ""]
            if sources:
                lines += ["Reported by papers with other protocols, not comparable:", ""]
                lines += [f"- [{number}] {_escape(source)}" for source, number in sources.items()]
                lines += [""]
        lines += [*(f"- {_escape(line)}" for line in legend(board)), ""]
    return "\n".join(lines[:-1]) + "\n"


def terminal(boards: Iterable[Board]) -> str:
    """The same, aligned for reading where it was asked for. What papers report stands below a table."""
    lines: list[str] = []
    for board in boards:
        lines += [printable(f"{board.dataset}, {board.features}"), printable(f"  {about(board)}")]
        for bits, rows in sections(board):
            columns = [column for column in filled(rows)[0] if column.short]
            cells = [
                [column.short for column in columns],
                *([_short(column, row) for column in columns] for row in rows),
            ]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            lines += ["", f"  {bits} bits"]
            for line in cells:
                aligned = [
                    cell.ljust(width) if column.word else cell.rjust(width)
                    for column, cell, width in zip(columns, line, widths, strict=True)
                ]
                lines.append(f"  {'  '.join(aligned)}".rstrip())
            papers = {(row.method, _pair(row), row.reported_source) for row in rows if row.reported_source is not None}
            lines += [
                printable(f"  reported of {method}: {pair} ({source})") for method, pair, source in sorted(papers)
            ]
        lines += ["", *(f"  {part}" for line in legend(board) for part in _wrapped(line)), ""]
    return "\n".join(lines)


def about(board: Board) -> str:
    """What all rows of a board have in common."""
    queries = "" if board.n_queries is None else f"{board.n_queries} test queries in {board.n_groups} groups, "
    runs = f"{board.n_runs} test run{'s' * (board.n_runs != 1)}"
    data, split = board.dataset_sha256[:12], board.split_sha256[:12]
    return f"data {data}, split {split}, protocol {board.protocol}, ties {board.tie_rule}; {queries}{runs}"


def sections(board: Board) -> Iterator[tuple[int, list[Row]]]:
    """The tables of a board: number of bits, rows."""
    for bits, rows in itertools.groupby(board.rows, key=lambda row: row.bits):
        yield bits, list(rows)


def _sources(rows: Sequence[Row]) -> dict[str, int]:
    """Footnote numbers of the papers in one table, in the order in which it names them."""
    named = dict.fromkeys(row.reported_source for row in rows if row.reported_source is not None)
    return {source: number for number, source in enumerate(named, start=1)}


def legend(board: Board) -> list[str]:
    """What the signs of this board's tables mean."""
    rows = board.rows
    shown = [
        (_PLUS_MINUS, any(row.map_mean_ci95_low is not None for row in rows)),
        (_GROUPS, any(row.letters for row in rows)),
        (_OPENED, True),
        (_PRIOR, any(row.prior for row in rows)),
        (_MARKS, any(marks(row) for row in rows)),
    ]
    return [line for line, wanted in shown if wanted]


def _columns() -> list[Column]:
    """The columns in their order."""
    return [
        Column("rank", "#", lambda row: str(row.rank)),
        Column("ranks", "ranks", ranks),
        Column("group", "group", lambda row: row.letters, word=True),
        Column("method", "method", method, word=True),
        Column("selection", "selection", lambda row: row.selection, word=True),
        Column("prior", "prior", lambda row: row.prior, word=True),
        Column("seeds", "n", lambda row: str(row.n_seeds)),
        Column("i→t", "i→t", lambda row: _map(row.map_i2t)),
        Column("t→i", "t→i", lambda row: _map(row.map_t2i)),
        Column("mean ± ci95", "mean ± ci95", _mean),
        Column("p vs best", "p", lambda row: "" if row.p_vs_best is None else f"{row.p_vs_best:.4f}"),
        Column("queries to next", "", lambda row: "" if row.queries_to_next is None else str(row.queries_to_next)),
        Column("trials × epochs", "budget", lambda row: f"{row.trials} × {row.epochs}"),
        Column("passes", "", lambda row: f"{row.passes:.0f}"),
        Column("seconds", "", lambda row: f"{row.seconds:.0f}"),
        Column("device seconds", "dev. s", _device_seconds),
        Column("test opened", "opened", lambda row: f"{row.test_opened} / {row.split_opened}"),
        Column("marks", "marks", marks, word=True),
    ]


def _reported(sources: dict[str, int]) -> Column:
    def cell(row: Row) -> str:
        return "" if row.reported_source is None else f"{_pair(row)} [{sources[row.reported_source]}]"

    return Column("reported i→t / t→i", "", cell)


def filled(rows: Sequence[Row]) -> tuple[list[Column], dict[str, int]]:
    """The columns of a table of which a cell is filled, and the numbers of the papers that the last one names."""
    sources = _sources(rows)
    columns = [*_columns(), _reported(sources)]
    return [column for column in columns if any(column.cell(row) for row in rows)], sources


def ranks(row: Row) -> str:
    """The ranks that a row may have; empty where that is unknown."""
    if row.rank_low is None:
        return ""
    return str(row.rank_low) if row.rank_low == row.rank_high else f"{row.rank_low}–{row.rank_high}"


def method(row: Row) -> str:
    """What a row is called."""
    return f"{row.method} ({row.label})" if row.label else row.method


def _mean(row: Row) -> str:
    high = row.map_mean_ci95_high
    return _map(row.map_mean) + ("" if high is None else f" ± {_map(high - row.map_mean)}")


def _device_seconds(row: Row) -> str:
    return f"{row.search_device_seconds + row.training_device_seconds:.0f}"


def marks(row: Row) -> str:
    """The words of what is wrong with a row."""
    return " ".join(name for name in ("leak", "dead", "aged") if getattr(row, name))


def _pair(row: Row) -> str:
    return f"{_map(row.reported_i2t)} / {_map(row.reported_t2i)}"


def _map(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _short(column: Column, row: Row) -> str:
    text = printable(column.cell(row))
    for sign in "/×±":
        text = text.replace(f" {sign} ", sign)
    return f"{text[: _WIDEST - 1]}…" if column.word and len(text) > _WIDEST else text


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 110, subsequent_indent="  ")


def printable(text: str) -> str:
    """Names come from files: they must not break a line or steer a terminal."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def _escape(text: str) -> str:
    for sign in "\\|<*_`[":
        text = text.replace(sign, f"\\{sign}")
    return printable(text)
