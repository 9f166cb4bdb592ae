"""The stylesheet of cmh's pages: what all of them share lies in `style.css`, what is a page's own beside that page."""

from __future__ import annotations

from pathlib import Path

SHARED = Path(__file__).with_name("style.css")


def sheet(own: Path) -> str:
    """The shared rules and those of one page, to stand in the page itself: it asks nobody for a file."""
    return SHARED.read_text(encoding="utf-8") + own.read_text(encoding="utf-8")
