"""What a page is made of: tables and figures, as the template takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of text; the first one of a row names it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure with what is said below it, and what it shows in words for those who cannot see it."""

    name: str  # in the page's anchors
    json: str  # as plotly.js takes it
    title: str
    caption: str
    height: int  # in pixels
    width: int  # below which it is scrolled to the side


def chart(name: str, title: str, figure: Figure | None, caption: str, height: int = 380) -> Chart | None:
    """The chart of a figure, where there is one."""
    if figure is None:
        return None
    columns = sum(key.startswith("xaxis") for key in figure.to_plotly_json()["layout"])
    return Chart(name, str(figure.to_json()), title, caption, height, width=300 if columns < 3 else 150 * columns)
