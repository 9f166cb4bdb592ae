"""Interrupts: SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (what SLURM sends before the end) stop a command the same way."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """While the block runs, the first signal raises KeyboardInterrupt, or is only noted where somebody polls `asked`.

    The second calls `at_second`, by which a command ends its process at once: whatever was written is whole, so that
    nothing is lost by it. Without `at_second`, or where it returns, the second raises KeyboardInterrupt.
    """

    def __init__(self, at_second: Callable[[], object] = lambda: None) -> None:
        self.asked = 0
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
        self.asked += 1
        if self.asked > 1:
            self._at_second()
        if self.asked > 1 or not self._polled:
            raise KeyboardInterrupt


@contextlib.contextmanager
def signals_kept(services: Any) -> Iterator[None]:
    """Within the block Ray starts, and a signal that stops a command still means this process alone.

    `services` is the module by whose `ConsolePopen` Ray starts its servers. These, and so their workers, get process
    groups of their own: without its raylet, which a signal to our group (of a shell, `timeout`, a batch system) would
    end, Ray ends this process before its files are written. And Ray takes SIGTERM, to abort at it: that waits until the
    block ends, and is then handled as before.
    """
    term, popen, handler = {signal.SIGTERM}, services.ConsolePopen, signal.getsignal(signal.SIGTERM)

    def start(*command: Any, preexec_fn: Callable[[], object], **how: Any) -> subprocess.Popen[bytes]:
        def prepare() -> None:
            preexec_fn()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, term)  # a server ends by it

        process: subprocess.Popen[bytes] = popen(*command, preexec_fn=prepare, process_group=0, **how)
        return process

    services.ConsolePopen = start
    signal.pthread_sigmask(signal.SIG_BLOCK, term)
    try:
        yield
    finally:
        services.ConsolePopen = popen
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, term)
