"""Interrupts: SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (what SLURM sends before the end) stop a command the same way."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ONE_EVENT = 1.0  # seconds, in which further signals are the same interrupt: of scancel, of srun, of the script


class Interrupts:
    """While the block runs, the first signal raises KeyboardInterrupt, or is only noted where somebody polls `asked`.

    Those that follow within a second are the same one, sent twice. The second calls `at_second`, by which a command
    ends its process at once: whatever was written is whole, so that nothing is lost by it. Without `at_second`, or
    where it returns, the second raises KeyboardInterrupt.
    """

    def __init__(self, at_second: Callable[[], object] = lambda: None) -> None:
        self.asked, self._begun = 0, float("-inf")
        self._polled, self._at_second = False, at_second

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
        """Within the block a first signal only counts `asked` up; after it KeyboardInterrupt is raised."""
        self._polled = True
        try:
            yield
        finally:
            self._polled = False
        if self.asked:
            raise KeyboardInterrupt

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._begun < ONE_EVENT:
            return
        self._begun = now
        self.asked += 1
        if self.asked > 1:
            self._at_second()
        if self.asked > 1 or not self._polled:
            raise KeyboardInterrupt


@contextlib.contextmanager
def signals_kept(private: Any) -> Iterator[None]:
    """Within the block Ray starts, and a signal that stops a command still means this process alone.

    `private` is `ray._private`. Ray's servers, and so their workers, get process groups of their own: without its
    raylet, which a signal to our group (of a shell, `timeout`, a batch system) would end, Ray ends this process before
    its files are written. And SIGTERM stays ours, which Ray would take.
    """
    services, utils = private.services, private.utils
    start, take = services.ConsolePopen, utils.set_sigterm_handler
    services.ConsolePopen = functools.partial(start, process_group=0)
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        services.ConsolePopen, utils.set_sigterm_handler = start, take
