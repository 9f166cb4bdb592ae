"""Bars that show how far something is and how long it still takes: on a terminal, else a logged line every so often."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two lines where there is no terminal
LINE = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}{postfix}]"


def bar(
    total: int,
    what: str,
    unit: str,
    *,
    terminal: bool,
    initial: int = 0,
    leave: bool = False,
    layout: str = "",
    line: str = LINE,
) -> tqdm[NoReturn]:
    """A bar of tqdm over `total` units; with `leave` it stays on the terminal when it is closed.

    `layout` is tqdm's on a terminal, `line` where there is none.
    """
    from tqdm import tqdm  # late: most starts of a command show none

    if terminal:
        return tqdm(
            total=total,
            desc=what,
            unit=unit,
            initial=initial,
            leave=leave,
            bar_format=layout or None,
            dynamic_ncols=True,
        )
    return tqdm(total=total, desc=what, unit=unit, initial=initial, leave=leave, bar_format=line, file=_Lines())


class _Lines:
    """What tqdm writes a bar to: of all that it draws, a line every EVERY seconds goes to the log."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._last = time.monotonic()

    def write(self, text: str) -> int:
        """Take in what is drawn: a carriage return, and the bar."""
        line = text.strip()
        if line and time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            log.info("%s", line)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""
