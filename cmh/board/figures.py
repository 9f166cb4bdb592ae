"""Boards as figures of a paper: PDF with embedded fonts, and PNG, in one style (`figures.mplstyle`).

All numbers are the board's own, but the curves, which `cmh.metrics` computes from the codes that runs have kept.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from cmh import files, protocols, scores
from cmh.board import across, render
from cmh.board.find import Run
from cmh.board.rows import Board
from cmh.board.tables import Row
from cmh.errors import RecordError
from cmh.metrics import counted
from cmh.metrics.counted import Floats

STYLE = Path(__file__).parent / "figures.mplstyle"
ONE, TWO = 85 / 25.4, 178 / 25.4  # inches: one column of a two-column paper, both
_LONGEST = 28  # letters of a name
_WAYS = ("image → text", "text → image")
_Look = dict[str, Any]  # what of matplotlib's properties tells a line from the others
_Drawn = tuple[str, Figure]
_Curves = list[tuple[Floats, Floats, Floats]]  # of each direction: ranks, mean precision there, mean recall there


def write(boards: Sequence[Board], folder: Path) -> tuple[list[str], list[str]]:
    """Draw all boards into a folder, which is made: the files' names, and a line for each thing that is not drawn.

    Raises OSError where something cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    notes: list[str] = []
    taken: set[str] = set()
    with matplotlib.style.context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of a name, for which there is a box
        for board in filter(lambda board: board.rows, boards):
            start = _file_name(board, taken)
            for end, figure in _figures(board, notes):
                for kind, more in (("pdf", {"CreationDate": None}), ("png", {})):
                    name = f"{start}-{end}.{kind}"
                    with files.new_file(folder / name) as temporary:
                        figure.savefig(temporary, format=kind, metadata=more)
                    figure.set_layout_engine("none")  # what the first has found holds for the second
                    names.append(name)
    return names, notes


def _file_name(board: Board, taken: set[str]) -> str:
    """Of letters that LaTeX, shells and all file systems take, and of one board only."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{board.dataset}-{board.features}".lower()).strip("-")[:80] or "board"
    number = 1 + sum(other == name or other.startswith(f"{name}--") for other in taken)
    taken.add(name if number == 1 else f"{name}--{number}")
    return name if number == 1 else f"{name}--{number}"


def _figures(board: Board, notes: list[str]) -> Iterator[_Drawn]:
    where = f"{board.dataset}, {board.features}"
    series = across.series(board)
    looks = _looks(series, where, notes)
    names = {id(row): one.name for one in series for row in one.rows.values()}
    if len({row.bits for row in board.rows}) > 1:
        yield "map-bits", _by_bits(series, looks)
    else:
        notes.append(f"{where}: no figure of MAP against bits: all rows have {board.rows[0].bits}")
    runs = dict(zip(map(id, board.rows), board.runs, strict=True))
    for bits, rows in render.sections(board):
        called = [(names[id(row)], row) for row in rows if names[id(row)] in looks]
        here = f"{where}, {bits} bits"
        curves = _curves([(name, runs[id(row)]) for name, row in called], here, notes)
        if curves:
            yield f"pr-{bits}", _two_ways(curves, looks, ("recall", "precision"), lambda one: (one[2], one[1]))
            figure = _two_ways(curves, looks, ("first N items", "precision"), lambda one: (one[0], one[1]), log=True)
            yield f"precision-{bits}", figure
        if any(row.letters for _, row in called):
            yield f"ranks-{bits}", _rank_groups([(name, row) for name, row in called if row.letters])
        else:
            notes.append(f"{here}: no figure of rank groups: its rows were not compared")
        yield f"budget-{bits}", _by_budget(called, looks)


def _looks(series: Sequence[across.Series], where: str, notes: list[str]) -> dict[str, _Look]:
    """The look of each series, the same in all figures of a board; what finds none is not drawn."""
    fills = ("full", "none", "left", "top")
    cycle = [dict(one) for one in rcParams["axes.prop_cycle"]]
    same = len(cycle) // len(fills)
    looks = [{**look, "fillstyle": fills[at // same]} for at, look in enumerate(cycle)]
    if left := [one.name for one in series[len(looks) :]]:
        notes.append(f"{where}: {len(left)} rows beyond the {len(looks)}th are not drawn: {_listed(left)}")
    return {one.name: look for one, look in zip(series, looks, strict=False)}


def _by_bits(series: Sequence[across.Series], looks: dict[str, _Look]) -> Figure:
    """MAP with its intervals against the code length, both directions and their mean."""
    shown = [one for one in series if one.name in looks]
    figure, panels = _panels(TWO, 2.6, 3, [one.name for one in shown])
    for panel, (title, column) in zip(
        panels, ((_WAYS[0], "map_i2t"), (_WAYS[1], "map_t2i"), ("mean", "map_mean")), strict=True
    ):
        for at, one in enumerate(shown):
            bits = np.array(sorted(one.rows))
            aside = 2 ** (0.15 * (at / max(len(shown) - 1, 1) - 0.5))  # intervals beside each other
            values = [getattr(one.rows[n], column) for n in bits]
            panel.errorbar(bits * aside, values, _halves([one.rows[n] for n in bits], column), **looks[one.name])
        every = sorted({n for one in shown for n in one.rows})
        panel.set_xscale("log", base=2)
        panel.set_xticks(every, [str(n) for n in every])
        panel.set_xticks([], minor=True)
        panel.set(title=title, xlabel="bits")
    panels[0].set_ylabel("MAP")
    _legend(figure, panels[0], [one.name for one in shown])
    return figure


def _halves(rows: Sequence[Row], column: str) -> list[float]:
    """Half of each interval; NaN, which is not drawn, where there is none."""
    highs = [getattr(row, f"{column}_ci95_high") for row in rows]
    return [np.nan if high is None else high - getattr(row, column) for row, high in zip(rows, highs, strict=True)]


def _curves(rows: Sequence[tuple[str, tuple[Run, ...]]], where: str, notes: list[str]) -> dict[str, _Curves]:
    """By rank, ties as expected, a mean over the seeds: of each row whose runs have all kept their codes."""
    found: dict[str, _Curves] = {}
    lacking: dict[str, Path] = {}
    wrong: list[str] = []
    for name, runs in rows:
        if without := [run for run in runs if not run.record.codes or not (run.folder / run.record.codes).exists()]:
            lacking[name] = without[0].folder
            continue
        try:
            sides = [scores.ranked_of(run.folder, run.record)[1] for run in runs]
        except RecordError as error:
            wrong.append(f"{name} ({str(error).splitlines()[-1].strip()})")
            continue
        found[name] = [_mean_curve([both[way] for both in sides]) for way in range(2)]
    start = f"{where}: PR curves and precision@N are without"
    if lacking:
        cure = (
            f"`python -m cmh.reproduce {files.quoted(next(iter(lacking.values())))} --fresh` keeps those of the first"
        )
        notes.append(
            f"{start} {len(lacking)} of {len(rows)} rows, whose codes were not kept: {', '.join(lacking)}; {cure}"
        )
    if wrong:
        notes.append(f"{start} {len(wrong)} of {len(rows)} rows, whose codes cannot be used: {_listed(wrong, '; ')}")
    return found


def _mean_curve(seeds: Sequence[protocols.Direction]) -> tuple[Floats, Floats, Floats]:
    points = [counted.curve_by_rank(*one.ranked.counts, drop=False) for one in seeds]
    ranks, precision, recall = (np.mean([one[part] for one in points], axis=0) for part in range(3))
    return ranks, precision, recall


def _two_ways(
    curves: dict[str, _Curves],
    looks: dict[str, _Look],
    axes: tuple[str, str],
    points: Callable[[tuple[Floats, Floats, Floats]], tuple[Floats, Floats]],
    *,
    log: bool = False,
) -> Figure:
    """A curve of each row, one panel a direction."""
    figure, panels = _panels(TWO, 2.6, 2, list(curves))
    for way, panel in enumerate(panels):
        for name, one in curves.items():
            panel.plot(*points(one[way]), **looks[name])
        panel.set(title=_WAYS[way], xlabel=axes[0])
        if log:
            _scale(panel, points(next(iter(curves.values()))[way])[0])
    panels[0].set_ylabel(axes[1])
    _legend(figure, panels[0], list(curves))
    return figure


def _by_budget(rows: Sequence[tuple[str, Row]], looks: dict[str, _Look]) -> Figure:
    """Mean MAP with its interval against what the rows have cost."""
    costs: list[tuple[str, Callable[[Row], float]]] = [
        ("device seconds, search and all seeds", lambda row: row.search_device_seconds + row.training_device_seconds)
    ]
    if any(row.passes for _, row in rows):
        costs.append(("passes over the training items, search", lambda row: row.passes))
    figure, panels = _panels(ONE if len(costs) == 1 else TWO, 2.2, len(costs), [name for name, _ in rows])
    for panel, (title, cost) in zip(panels, costs, strict=True):
        for name, row in rows:
            panel.errorbar([cost(row)], [row.map_mean], _halves([row], "map_mean"), **looks[name] | {"linestyle": ""})
        _scale(panel, [cost(row) for _, row in rows])
        panel.set_xlabel(title)
    panels[0].set_ylabel("MAP, mean of both directions")
    _legend(figure, panels[0], [name for name, _ in rows])
    return figure


def _scale(panel: Axes, values: Sequence[float] | Floats) -> None:
    """The horizontal axis of costs or ranks: logarithmic where they are of several sizes, with 0 for none on it."""
    least, most = min((value for value in values if value > 0), default=1.0), max(values)
    if most < 3 * least:
        return
    if min(values) > 0:
        panel.set_xscale("log", subs=range(2, 10))
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 50 * least else (1,)))
    else:
        panel.set_xscale("symlog", linthresh=least)
    panel.autoscale(axis="x")
    panel.xaxis.set_major_formatter("{x:g}")  # by default they are formulas
    panel.xaxis.set_minor_formatter(NullFormatter())


def _rank_groups(rows: Sequence[tuple[str, Row]]) -> Figure:
    """The form of critical-difference diagrams: rows by their means, bars over those that share a letter."""
    letters = dict.fromkeys("".join(row.letters for _, row in rows))
    groups = [[row.map_mean for _, row in rows if letter in row.letters] for letter in letters]
    bars = [(letter, means) for letter, means in zip(letters, groups, strict=True) if len(means) > 1]
    half = (len(rows) + 1) // 2
    height = 0.5 + 0.1 * len(bars) + 0.15 * half
    figure = Figure(figsize=(TWO, height + 0.3))
    axes = figure.subplots()
    step, start = 0.15, 0.15 + 0.1 * len(bars)  # inches below the axis
    low, high = rows[-1][1].map_mean, rows[0][1].map_mean
    pad = 0.04 * (high - low) or 0.01
    for at, (letter, means) in enumerate(bars):
        y = -0.1 * (at + 1)
        axes.plot(means, [y] * len(means), color="black", linestyle="-", marker="o", markersize=2.5)
        axes.text(means[0], y, f"  {letter}", va="center", ha="left", fontsize=6)
    for at, (name, row) in enumerate(rows):
        best = at < half  # labelled on the right, where the best means are; no two leaders cross
        y = -start - step * (at if best else len(rows) - 1 - at)
        side = high + pad if best else low - pad
        axes.plot([row.map_mean, row.map_mean, side], [0, y, y], color="0.4", linestyle="-", linewidth=0.6, marker="")
        label = f"{_short(name)}  {row.map_mean:.3f}  ({render.ranks(row)})"
        axes.text(side, y, f" {label} ", va="center", ha="left" if best else "right", fontsize=7)
    axes.set(xlim=(low - pad, high + pad), ylim=(-start - step * half, 0.05))
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("MAP, mean of both directions (ranks that a row may have)")
    axes.spines[:].set_visible(False)
    axes.spines["top"].set(visible=True, position=("data", 0))
    axes.set_yticks([])
    axes.grid(visible=False)
    return figure


def _panels(width: float, height: float, n: int, names: Sequence[str]) -> tuple[Figure, Sequence[Axes]]:
    """`n` panels of one height, in inches, side by side, with room for a legend of `names` below."""
    rows = math.ceil(len(names) / _columns(width, names))
    figure = Figure(figsize=(width, height + 0.15 * rows))
    return figure, list(figure.subplots(1, n, sharey=True, squeeze=False)[0])


def _columns(width: float, names: Sequence[str]) -> int:
    """Of a legend, as many as fit into a width in inches."""
    return max(int(width / (0.5 + 0.055 * max(len(_short(name)) for name in names))), 1)


def _legend(figure: Figure, panel: Axes, names: Sequence[str]) -> None:
    """Below the panels, in the order in which `names` were drawn."""
    lines: list[Any] = [*panel.containers] or [*panel.lines]
    columns = min(_columns(figure.get_figwidth(), names), len(names))
    figure.legend(lines, [_short(name) for name in names], loc="outside lower center", ncols=columns)


def _short(name: str) -> str:
    text = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves those out of legends


def _listed(names: Sequence[str], sign: str = ", ") -> str:
    return sign.join(names[:2]) + (f"{sign}…" if len(names) > 2 else "")
