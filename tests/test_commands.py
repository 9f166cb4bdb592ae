"""What all commands share: exit codes, and messages that are shown while a command runs and only then."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from tqdm import tqdm

from cmh import commands
from cmh.errors import ConfigError

log = logging.getLogger("cmh.some.room")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """No test leaves a handler, a level or a switch behind."""
    logger = logging.getLogger("cmh")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    assert (logger.handlers, logger.level, logger.propagate) == before


def said() -> int:
    log.debug("nobody needs this")
    log.info("a note")
    log.warning("a warning of %d things", 2)
    return 0


def test_messages_are_shown_as_they_are_while_a_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.guarded(said) == 0
    assert capsys.readouterr() == ("", "a note\na warning of 2 things\n")
    log.info("now it is silent")
    assert capsys.readouterr() == ("", "")


def test_a_message_is_shown_once(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """In a command inside a command, and where the root logger has a handler, as in a notebook."""
    caplog.set_level(logging.INFO)
    assert commands.guarded(lambda: commands.guarded(said)) == 0
    assert capsys.readouterr().err.count("a note") == 1
    assert caplog.records == []
    log.info("and outside a command it is whoever configured logging that says where it goes")
    assert len(caplog.records) == 1


def test_a_bar_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    with tqdm(total=2, file=stderr, ascii=True, ncols=40) as bar:
        commands.guarded(said)
        bar.update()
    lines = [part for part in stderr.getvalue().replace("\r", "\n").split("\n") if "note" in part]
    assert lines == ["a note"]


ENDS = {
    "error": (ConfigError("bits is 0"), 2, "error: bits is 0\n"),
    "errors": (ConfigError("one", "two", heading="run.yml"), 2, "error: run.yml:\n  - one\n  - two\n"),
    "interrupt": (KeyboardInterrupt(), 130, "\ninterrupted; the same command goes on from here\n"),
    "nobody reads": (BrokenPipeError(), 1, ""),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_a_command_ends(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    error, code, text = ENDS[name]

    def work() -> int:
        raise error

    assert commands.guarded(work) == code
    assert capsys.readouterr() == ("", text)


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        commands.guarded(lambda: 1 // 0)
