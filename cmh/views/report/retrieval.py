"""What the codes of the confirmed runs show: precision, recall, how the bits are used, how far relevant items are.

Everything is computed from the codes that the confirmation stored; the test split is not opened for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cmh import curves, protocols
from cmh.codes import Codes
from cmh.metrics import bit_balance, counted, unique_share
from cmh.study.figures import plain
from cmh.views.report.parts import Table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WAYS = ("image → text", "text → image")
LINES = ({"color": "#0072B2", "width": 3}, {"color": "#D55E00", "width": 3, "dash": "dash"})
SIDES = {
    "query_image": "pictures of the queries",
    "query_text": "texts of the queries",
    "database_image": "pictures of the database",
    "database_text": "texts of the database",
}
RADII, CUTS = (0, 1, 2, 3), (1, 10, 50, 100, 500, 1000)

Sides = Sequence[tuple[protocols.Direction, protocols.Direction]]  # of each seed


def recall_figure(sides: Sides) -> Figure:
    """Mean precision against mean recall by rank, ties as expected, a mean over seeds."""
    by_rank = next(
        curve for curve in curves.CURVES if curve.name.startswith("by rank, who has no relevant items counts")
    )
    lines = []
    for way in range(2):
        points = [by_rank.points(both[way].ranked) for both in sides]
        precision, recall = (np.mean([one[part] for one in points], axis=0) for part in (1, 2))
        lines.append((recall, precision, points[0][0], "precision %{y:.3f} at recall %{x:.3f}<br>first %{text} items"))
    return _two_lines(lines, "recall", "precision")


def cut_figure(sides: Sides) -> Figure:
    """Mean precision among the first N items."""
    lines = []
    for way in range(2):
        points = [counted.curve_by_rank(*both[way].ranked.counts, drop=False) for both in sides]
        precision = np.mean([one[1] for one in points], axis=0)
        lines.append((points[0][0], precision, points[0][0], "precision %{y:.3f} among the first %{text}"))
    figure = _two_lines(lines, "first N items", "precision")
    figure.update_xaxes(type="log")
    return figure


def radius_figure(sides: Sides) -> Figure:
    """Mean precision within each Hamming radius; a query that finds nothing counts 0."""
    lines = []
    for way in range(2):
        points = [curves.ZERO.points(both[way].ranked) for both in sides]
        precision, recall = (np.mean([one[part] for one in points], axis=0) for part in (1, 2))
        text = [f"{value:.3f}" for value in recall]
        lines.append((points[0][0], precision, text, "precision %{y:.3f} within radius %{x}<br>recall %{text}"))
    return _two_lines(lines, "Hamming radius", "precision")


def distance_figure(sides: Sides) -> Figure:
    """How far relevant and other items are from their queries: the share of all such pairs at each distance."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, subplot_titles=WAYS, shared_yaxes=True)
    for way in range(2):
        everything, relevant = (
            np.sum([both[way].ranked.counts[part].sum(axis=0) for both in sides], axis=0) for part in (0, 1)
        )
        for name, counts, colour in (("relevant", relevant, "#009E73"), ("other", everything - relevant, "#999999")):
            share = counts / max(1, counts.sum())
            hover = f"%{{y:.1%}} of {name} pairs at distance %{{x}}<extra></extra>"
            figure.add_bar(
                x=np.arange(len(share)).tolist(),
                y=share.tolist(),
                name=name,
                legendgroup=name,
                showlegend=way == 0,
                marker={"color": colour},
                opacity=0.7,
                hovertemplate=hover,
                row=1,
                col=way + 1,
            )
    figure.update_yaxes(tickformat=".0%", title_text="share of pairs", col=1)
    plain(figure, "Hamming distance", None)
    # the names of the two directions stand where the legend would
    return figure.update_layout(barmode="overlay", bargap=0, margin_t=70, legend_y=1.12)


def numbers(sides: Sides) -> Table:
    """MAP, precision at ranks and within radii, as the mean over seeds."""
    head = ["", *(f"P@{k}" for k in CUTS), *(f"P(H≤{radius})" for radius in RADII)]
    rows = []
    for way, name in enumerate(WAYS):
        values = []
        for both in sides:
            ranked = both[way].ranked
            at = [counted.mean(counted.found_at(*ranked.counts, k) / k) for k in CUTS]
            values.append([*at, *curves.ZERO.points(ranked)[1][list(RADII)]])
        rows.append([name, *(f"{value:.4f}" for value in np.mean(values, axis=0))])
    return Table(head, rows)


def use_of_bits(codes: Sequence[Codes]) -> Table:
    """Bit balance, distinct codes and the largest bucket of each set of codes, as the mean over seeds."""
    rows = []
    for name, called in SIDES.items():
        found = []
        for one in codes:
            packed: NDArray[np.uint8] = getattr(one, name)
            signs = np.unpackbits(packed, axis=1, count=one.bits, bitorder="little").astype(np.int8) * 2 - 1
            sizes = np.unique(packed, axis=0, return_counts=True)[1]
            found.append((bit_balance(signs), unique_share(signs), len(sizes), sizes.max()))
        balance, share, distinct, largest = np.mean(found, axis=0)
        n_items = len(getattr(codes[0], name))
        rows.append([called, f"{n_items:,}", f"{balance:.3f}", f"{distinct:,.0f} ({share:.1%})", f"{largest:,.0f}"])
    return Table(["codes of", "items", "bit balance", "distinct codes", "largest bucket"], rows)


def _two_lines(lines: Sequence[tuple[NDArray[np.generic], NDArray[np.float64], object, str]], x: str, y: str) -> Figure:
    """A line for each direction: x, y, the text of each point, and what is shown beside the pointer."""
    from plotly import graph_objects as go

    figure = go.Figure()
    for (at, values, text, hover), name, line in zip(lines, WAYS, LINES, strict=True):
        figure.add_scatter(
            x=at.tolist(),
            y=values.tolist(),
            text=list(map(str, np.asarray(text))),
            name=name,
            mode="lines+markers",
            line=line,
            hovertemplate=f"{hover}<extra>{name}</extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    return plain(figure, x, y)
