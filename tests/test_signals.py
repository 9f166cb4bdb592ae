"""The first signal stops a command in an orderly way, the second at once."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cmh import cluster, signals, tune
from cmh.cluster import ray
from cmh.signals import SIGNALS, Interrupts, signals_kept
from cmh.study import request

COMMAND = """
import os, signal, time
from cmh import commands, signals

signals.ONE_EVENT = .2
with signals.Interrupts(commands.end_interrupted) as interrupts, interrupts.polled():
    for pause in (0, 0, .3):
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)
        print(interrupts.asked, flush=True)
"""


def test_the_second_ends_a_command_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n1\n"
    assert done.stderr == "\ninterrupted again: ended at once; the same command goes on from here\n"
    assert done.returncode == 130


def test_an_interrupt_in_an_import_ends_a_command_with_its_code(tmp_path: Path) -> None:
    """A dataclass is made of a text that is executed: an interrupt in it marks `python -m` to die of SIGINT."""
    (tmp_path / "command.py").write_text(
        "import sys\nfrom cmh import commands\n"
        "if __name__ == '__main__':\n    sys.exit(commands.guarded(lambda: exec('raise KeyboardInterrupt')))\n"
    )
    command = [sys.executable, "-m", "command"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "interrupted" in done.stderr
    assert done.returncode == 130


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_end_changes_no_code(number: signal.Signals) -> None:
    program = f"import atexit, signal\nfrom cmh import commands\natexit.register(signal.raise_signal, {int(number)})\n"
    done = subprocess.run([sys.executable, "-c", f"{program}commands.end(2)"], check=False)
    assert done.returncode == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_raised_where_nobody_polls(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_who_polls_sees_the_first_and_gets_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ONE_EVENT", 0.0)
    interrupts, seen = Interrupts(), list[int]()

    def work() -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            seen.append(interrupts.asked)

    with interrupts, pytest.raises(KeyboardInterrupt), interrupts.polled():
        work()
    assert (seen, interrupts.asked) == ([1], 2)


@pytest.mark.parametrize("polled", [True, False])
def test_one_event_that_comes_as_several_signals_is_one(polled: bool) -> None:
    """scancel signals the search, and a script, srun or `uv run` above it passes the same on."""
    interrupts = Interrupts(lambda: pytest.fail("the second"))

    def signalled() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:  # while it ends, too
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGUSR1)

    with interrupts, pytest.raises(KeyboardInterrupt), interrupts.polled() if polled else contextlib.nullcontext():
        signalled()
    assert interrupts.asked == 1


ENDS = """
import time
from cmh import commands

def written(): print("written", flush=True)
def breaks(): raise OSError("disk")
def hangs(): time.sleep(100)

commands.WRITING_SECONDS = .5
commands.end_at_once("Ray has died", [breaks, written, hangs, written], interrupted=INTERRUPTED)
"""


@pytest.mark.parametrize(
    ("interrupted", "code", "said"),
    [(True, 130, "interrupted; the same command goes on from here"), (False, 2, "error: Ray has died")],
)
def test_an_end_at_once_writes_what_it_can(interrupted: bool, code: int, said: str) -> None:
    command = [sys.executable, "-c", ENDS.replace("INTERRUPTED", str(interrupted))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "written\n", f"\n{said}\n")


SERVER = "import os; print(os.getpgid(0) == os.getpid())"


def test_while_ray_starts_sigterm_stays_ours_and_its_servers_are_in_groups_of_their_own() -> None:
    services, utils = ray._private.services, ray._private.utils
    before: Any = services.ConsolePopen, utils.set_sigterm_handler
    with Interrupts():
        ours = signal.getsignal(signal.SIGTERM)
        with signals_kept(ray._private):
            utils.set_sigterm_handler(signal.SIG_DFL)
            start: Any = services.ConsolePopen
            server = start([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
            assert server.communicate()[0] == "True\n"
        assert signal.getsignal(signal.SIGTERM) == ours
    assert (services.ConsolePopen, utils.set_sigterm_handler) == before


def test_a_signal_while_ray_starts_is_raised_when_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In the middle it may be lost, in code of Ray's that ignores exceptions."""
    monkeypatch.chdir(tmp_path)
    done: list[str] = []

    @contextlib.contextmanager
    def session(address: str | None, **_: object) -> Iterator[None]:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
            done.append("started")
        yield
        done.append("ended")

    asked = SimpleNamespace(studies=[], limits=SimpleNamespace(address=None))
    monkeypatch.setattr(request, "check", lambda *_, **__: asked)
    monkeypatch.setattr(cluster, "session", session)
    assert tune.main(["--method", "ridge"]) == 130
    assert done == ["started"]
    assert capsys.readouterr().err == "\ninterrupted; the same command goes on from here\n"
