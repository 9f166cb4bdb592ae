"""A log-log plot as SVG, panel beside panel: all that plots of growth need, without a plotting library."""

from __future__ import annotations

import dataclasses
import html
import math
from pathlib import Path

COLOURS = ("#1f6fb4", "#c8521a", "#2e8b57", "#7a4fa3", "#a08000")
WIDTH, HEIGHT = 360, 300  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 46  # around its axes


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes. `lines` maps a name to its points (x, y), all above 0; `x` and `y` name the axes with their
    units. A dashed line shows what growth in proportion to x would be, from the first point of the first line on.
    """

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]


def save(panels: list[Panel], path: Path) -> None:
    """Write the panels, from left to right."""
    parts = [part for number, panel in enumerate(panels) for part in _draw(panel, number * WIDTH)]
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    path.write_text("\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"]))


def _draw(panel: Panel, offset: float) -> list[str]:
    lines = list(panel.lines.values())
    xs = [x for line in lines for x, _ in line]
    ys = [y for line in lines for _, y in line]
    x_low, x_high = _range(xs)
    y_low, y_high = _range(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        across = offset + LEFT + right * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [_text(offset + LEFT, 18, panel.title, weight="bold")]
    for power in range(math.ceil(x_low), math.floor(x_high) + 1):
        x, bottom = place(10**power, 10**y_low)
        parts += [_line(x, bottom, x, TOP), _text(x, bottom + 15, _number(power), anchor="middle")]
    for power in range(math.ceil(y_low), math.floor(y_high) + 1):
        x, y = place(10**x_low, 10**power)
        parts += [_line(x, y, offset + WIDTH - RIGHT, y), _text(x - 6, y + 4, _number(power), anchor="end")]
    parts.append(_text(offset + (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, panel.x, anchor="middle"))
    middle = (HEIGHT - BOTTOM + TOP) / 2
    turned = f'transform="rotate(-90 {offset + 14:.1f} {middle:.1f})"'
    parts.append(_text(offset + 14, middle, panel.y, anchor="middle", more=turned))
    (first_x, first_y), last_x = lines[0][0], lines[0][-1][0]
    last_x = min(last_x, first_x * 10**y_high / first_y)
    parts.append(
        _polyline([place(first_x, first_y), place(last_x, first_y * last_x / first_x)], "#999999", dashed=True)
    )
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [place(x, y) for x, y in line]
        parts.append(_polyline(points, colour))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        parts.append(_text(offset + LEFT + 8, TOP + 14 * (number + 1), name, colour=colour))
    return parts


def _range(values: list[float]) -> tuple[float, float]:
    """Logarithms a little beyond the values, and never an empty range."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.1, (high - low) * 0.06)
    return low - margin, high + margin


def _number(power: int) -> str:
    return f"{10.0**power:g}"


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _polyline(points: list[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{listed}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>'


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = "#222222",
    more: str = "",
) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{colour}" {more}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{html.escape(words)}</text>'
