"""Interrupts: SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (what SLURM sends before the end) stop a command the same way."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """While the block runs, the first signal raises KeyboardInterrupt, or is only noted where somebody polls `asked`.

    The second ends the process at once: whatever was written is whole, so that nothing is lost by it.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._polled = False

    def __enter__(self) -> Interrupts:
        self._before = [signal.getsignal(number) for number in SIGNALS]
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals, again where a library (Ray, at its start) has taken them."""
        for number in SIGNALS:
            signal.signal(number, self._take)

    @contextlib.contextmanager
    def polled(self) -> Iterator[None]:
        """Within the block a signal only counts `asked` up; after it KeyboardInterrupt is raised."""
        self._polled = True
        try:
            yield
        finally:
            self._polled = False
        if self.asked:
            raise KeyboardInterrupt

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.asked += 1
        if self.asked > 1:
            os.write(2, b"\ninterrupted again: ended at once; the same command goes on from here\n")
            os._exit(130)
        if not self._polled:
            raise KeyboardInterrupt
