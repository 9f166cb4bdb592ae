"""Boards as LaTeX: a file to `\\input`, which needs the package booktabs and plain pdfTeX only.

Of each board one table for each number of bits, and one of all of them where there are several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from cmh.board import across, render
from cmh.board.rows import Board
from cmh.board.tables import Row

_HEAD = r"""% Made by `python -m cmh.leaderboard --latex`; made anew, not edited.
% In the preamble: \usepackage{booktabs}
"""
_SIGNS = {
    **{"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_"},
    **{"^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{"|": r"\textbar{}", '"': "''", "`": "{}`{}", "'": "'{}"},  # {}: no ligatures
    **{"→": r"$\to$", "±": r"$\pm$", "×": r"$\times$", "–": r"\textendash{}", "…": r"\dots{}"},
}
_LETTERS = re.compile(r"[\x20-\x7e]|[À-ÿ](?<![ÐÞ×ðþ÷])")  # that every font and encoding of LaTeX has
_MARKS = {
    "leak": (r"\dagger", "a code depended on other items or on the other modality"),
    "dead": (r"\ddagger", "a loss term or a parameter was without effect"),
    "aged": (r"\ast", "code or data have changed since the row was made"),
}
_SIZES = (  # of tables with one or two, three, and more code lengths, which stay within 150 mm
    *[r"\small\setlength{\tabcolsep}{3pt}"] * 2,
    r"\footnotesize\setlength{\tabcolsep}{2.7pt}",
    r"\scriptsize\setlength{\tabcolsep}{2.2pt}",
)
_BEST = "Bold: best; underlined: second."
_LETTER = "Rows that share a letter cannot be told apart by their mean (all pairs tested together, 5\\,\\%)."


def escape(text: str) -> str:
    """Text that LaTeX sets as it is; letters that its default fonts have not stand there by their number."""
    return re.sub("-(?=-)", "-{}", "".join(map(_sign, render.printable(text))))  # else a dash


def text(boards: Sequence[Board]) -> str:
    """The tables of all boards."""
    return "\n".join([_HEAD, *(_tables(board, number) for number, board in enumerate(boards, start=1))])


def _tables(board: Board, number: int) -> str:
    label = f"tab:board-{number}"
    of_bits = list(render.sections(board))
    made = [_wide(board, label)] if len(of_bits) > 1 else []
    return "\n".join([*made, *(_table(board, bits, rows, f"{label}-{bits}") for bits, rows in of_bits)])


def _table(board: Board, bits: int, rows: Sequence[Row], label: str) -> str:
    """All columns of one number of bits."""
    budget, differs = _budget(rows)
    intervals = any(row.map_mean_ci95_high is not None for row in rows)
    columns: list[tuple[str, str, Callable[[Row], str]]] = [
        ("l", "method", _name),
        ("l", "selection", lambda row: row.selection if "selection" in differs else ""),
        (
            "r",
            r"trials $\times$ epochs",
            lambda row: rf"{row.trials} $\times$ {row.epochs}" if "length" in differs else "",
        ),
        ("r", "seeds", lambda row: str(row.n_seeds)),
        ("r", r"i$\to$t", _marked(rows, lambda row: row.map_i2t)),
        ("r", r"t$\to$i", _marked(rows, lambda row: row.map_t2i)),
        ("r", r"mean $\pm$ c.i." if intervals else "mean", _with_interval(rows)),
        ("r", "ranks", _span),
        ("l", "group", lambda row: row.letters),
    ]
    columns = [column for column in columns if any(column[2](row) for row in rows)]
    head = " & ".join(head for _, head, _ in columns)
    body = [" & ".join(cell(row) for *_, cell in columns) for row in rows]
    about = [f"MAP on {escape(board.dataset)} with {bits} bits.", budget, _protocol(board), _BEST]
    if intervals:
        about.append(r"$\pm$: half of the 95\,\% interval over seeds and groups of near-duplicate queries.")
    if any(row.letters for row in rows):
        about += [_LETTER, "Ranks: those that a row may have."]
    about += _what_marks_mean(rows)
    return _float("table", "".join(align for align, *_ in columns), [[head], body], " ".join(about), label)


def _wide(board: Board, label: str) -> str:
    """Methods × code lengths."""
    of_bits = dict(render.sections(board))
    series = across.series(board)
    cells: dict[int, list[Callable[[Row], str]]] = {}
    for bits, rows in of_bits.items():
        mean = _marked(rows, lambda row: row.map_mean)
        cells[bits] = [
            _marked(rows, lambda row: row.map_i2t),
            _marked(rows, lambda row: row.map_t2i),
            lambda row, mean=mean: mean(row) + (f"$^{{\\mathrm{{{row.letters}}}}}$" if row.letters else ""),  # type: ignore[misc]
        ]
    first, size = 2, _SIZES[min(len(of_bits), len(_SIZES)) - 1]
    rules = [rf"\cmidrule(lr){{{first + 3 * at}-{first + 3 * at + 2}}}" for at in range(len(of_bits))]
    head = [
        "".join(rf" & \multicolumn{{3}}{{c}}{{{bits} bits}}" for bits in of_bits),
        "method" + r" & i$\to$t & t$\to$i & mean" * len(of_bits),
    ]
    body = []
    for one in series:
        found = [[cell(one.rows[bits]) if bits in one.rows else "--" for cell in cells[bits]] for bits in of_bits]
        marks = dict.fromkeys(mark for row in one.rows.values() for mark in render.marks(row).split())
        body.append(" & ".join([escape(one.name) + _raised(marks), *(cell for three in found for cell in three)]))
    shared = across.shared_label(board)
    about = [
        f"MAP on {escape(board.dataset)}{escape(f' ({shared})' if shared else '')}.",
        _budget(board.rows)[0],
        _protocol(board),
        _BEST,
    ]
    if any(row.letters for row in board.rows):
        about.append(_LETTER.replace("Rows", "Rows of one code length"))
    about += _what_marks_mean(board.rows)
    return _float("table*", "l" + "r" * 3 * len(of_bits), [head, body], " ".join(about), label, rules, size)


def _float(
    kind: str,
    alignment: str,
    parts: Sequence[Sequence[str]],
    caption: str,
    label: str,
    rules: Sequence[str] = (),
    size: str = _SIZES[0],
) -> str:
    """`parts`: lines of the head, lines of the body; `rules` stand below the first line of the head."""
    head, body = ([f"{line} \\\\" for line in lines] for lines in parts)
    if rules:
        head.insert(1, "".join(rules))
    return "\n".join(
        [
            rf"\begin{{{kind}}}[tbp]",
            r"\centering",
            size,
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            r"\vspace{4pt}",
            rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
            *(r"\toprule", *head, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            rf"\end{{{kind}}}",
            "",
        ]
    )


def _sign(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    return sign if _LETTERS.fullmatch(sign) else f"U+{ord(sign):04X}"


def _protocol(board: Board) -> str:
    return escape(f"Features {board.features}; {render.about(board)}.")


def _budget(rows: Sequence[Row]) -> tuple[str, set[str]]:
    """What the rows were given, in words, and which of `selection`, `length` differ between them."""
    differs = set()
    if len({row.selection for row in rows}) > 1:
        differs.add("selection")
    if len({(row.trials, row.epochs) for row in rows}) > 1:
        differs.add("length")
    seeds = _range([row.n_seeds for row in rows])
    trials, epochs = _range([row.trials for row in rows]), _range([row.epochs for row in rows])
    search = f"trials {trials}" if any(row.trials for row in rows) else "no search"
    chosen = ", ".join(sorted({row.selection for row in rows}))
    words = f"{search}, epochs {epochs}, seeds {seeds}, hyperparameters {chosen}."
    return ("Budgets differ: " if differs else "Budget of each row: ") + words, differs


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _marked(rows: Sequence[Row], value: Callable[[Row], float]) -> Callable[[Row], str]:
    """The cell of a number: the best in bold, the second underlined; equal ones (as the CSV file has them) alike."""
    distinct = sorted({round(value(row), 6) for row in rows}, reverse=True)
    commands = dict(zip(distinct[:2] if len(rows) > 1 else (), (r"\textbf", r"\underline"), strict=False))

    def cell(row: Row) -> str:
        number, command = f"{value(row):.3f}", commands.get(round(value(row), 6))
        return f"{command}{{{number}}}" if command else number

    return cell


def _with_interval(rows: Sequence[Row]) -> Callable[[Row], str]:
    mean = _marked(rows, lambda row: row.map_mean)

    def cell(row: Row) -> str:
        high = row.map_mean_ci95_high
        return mean(row) + ("" if high is None else rf" $\pm$ {high - row.map_mean:.3f}")

    return cell


def _span(row: Row) -> str:
    return render.ranks(row).replace("–", "--")


def _name(row: Row) -> str:
    label = across.label(row)
    return escape(f"{row.method} ({label})" if label else row.method) + _raised(render.marks(row).split())


def _raised(marks: Sequence[str] | dict[str, None]) -> str:
    return f"$^{{{''.join(_MARKS[mark][0] for mark in marks)}}}$" if marks else ""


def _what_marks_mean(rows: Sequence[Row]) -> list[str]:
    found = {mark for row in rows for mark in render.marks(row).split()}
    return [f"${sign}$: {words}." for mark, (sign, words) in _MARKS.items() if mark in found]
