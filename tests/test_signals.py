"""The first signal stops a command in an orderly way, the second at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest

from cmh.cluster import ray
from cmh.signals import SIGNALS, Interrupts, signals_kept

COMMAND = """
import os, signal, time
from cmh import commands
from cmh.signals import Interrupts

with Interrupts(commands.end_interrupted) as interrupts, interrupts.polled():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        print(interrupts.asked, flush=True)
"""


def test_the_second_ends_a_command_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n"
    assert done.stderr == "\ninterrupted again: ended at once; the same command goes on from here\n"
    assert done.returncode == 130


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_raised_where_nobody_polls(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_who_polls_sees_the_first_and_gets_the_second() -> None:
    interrupts, seen = Interrupts(), list[int]()

    def work() -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            seen.append(interrupts.asked)

    with interrupts, pytest.raises(KeyboardInterrupt), interrupts.polled():
        work()
    assert (seen, interrupts.asked) == ([1], 2)


def test_a_signal_while_ray_starts_waits_for_its_end() -> None:
    """Ray's handler aborts the process."""
    seen: list[int] = []

    def start() -> None:
        with signals_kept(ray._private.services):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray takes it
            signal.raise_signal(signal.SIGTERM)
            seen.append(interrupts.asked)

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        start()
    assert (seen, interrupts.asked) == ([0], 1)


SERVER = "import os, signal; print(os.getpgid(0) == os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def test_a_server_of_ray_is_in_a_group_of_its_own_and_ends_by_sigterm() -> None:
    before, services = signal.getsignal(signal.SIGTERM), ray._private.services
    popen: Any = services.ConsolePopen
    with signals_kept(services):
        start: Any = services.ConsolePopen
        server = start([sys.executable, "-c", SERVER], preexec_fn=lambda: None, stdout=subprocess.PIPE, text=True)
        assert server.communicate()[0] == "True set()\n"
    assert services.ConsolePopen is popen
    assert signal.getsignal(signal.SIGTERM) is before
