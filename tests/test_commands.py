"""What all commands share: exit codes, and messages that are shown while a command runs and only then."""

from __future__ import annotations

import io
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tqdm import tqdm

from cmh import __main__, __version__, commands, files, records
from cmh.commands import ELSEWHERE
from cmh.errors import ConfigError
from cmh.files import NoLocksError

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
    "a disk": (OSError(30, "Read-only file system", "a/b"), 2, f"error: a/b: Read-only file system; {ELSEWHERE}\n"),
    "a disk that does not say": (OSError(28, "full"), 2, f"error: a file: full; {ELSEWHERE}\n"),
    "a disk without locks": (NoLocksError(37, "no locks", "a/b"), 2, f"error: a/b: no locks; {ELSEWHERE}\n"),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_a_command_ends(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    error, code, text = ENDS[name]

    def work() -> int:
        raise error

    assert commands.guarded(work) == code
    assert capsys.readouterr() == ("", text)


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        commands.guarded(lambda: len(Path("nowhere").read_text()))
    with pytest.raises(ZeroDivisionError):
        commands.guarded(lambda: 1 // 0)


# Signs


def printed(encoding: str, *arguments: str) -> bytes:
    """What a command shows where the terminal has this encoding."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-m", "cmh", *arguments], capture_output=True, check=False, env=environment, timeout=120
    )
    assert b"Traceback" not in done.stderr
    return done.stdout + done.stderr


SHOWN = {
    **{f"{name} --help": [name, "--help"] for name in __main__.COMMANDS},
    "all": [],
    "a method": ["methods", "dcmh"],
    "a board": ["leaderboard", str(Path(__file__).parent.parent / "experiments" / "boards")],
    "an error": ["reproduce", "nöwhere→"],
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_terminal_of_another_encoding_is_shown_other_signs(name: str) -> None:
    text = printed("ascii", *SHOWN[name])
    assert text.decode("ascii").strip()
    assert b"\\u" not in text
    if name == "a board":
        assert b"i->t" in text
        assert b"+/-" in text
        assert "i->t" in printed("latin-1", *SHOWN[name]).decode("latin-1")
        assert "±" in printed("latin-1", *SHOWN[name]).decode("latin-1")
        assert "i→t" in printed("utf-8", *SHOWN[name]).decode()


def test_every_sign_has_another() -> None:
    commands.any_terminal()
    signs = "→←±×…·−–‖√≤≥≠∈°½∘⟨⟩“”’∇²₂éüλθΣ好\udcff\u0302"
    text = signs.encode("ascii", "cmh.signs").decode()
    assert text == ('-><-+/-x...*--||sqrt<=>=!=in degrees1/2o<>""\'grad22eulambdathetasigma??')
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", "cmh.signs")


def test_a_stream_that_is_no_terminal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    commands.any_terminal()


# Commands that are printed


def test_paths_in_printed_commands_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plain/study", "my studies/it's", "$HOME", "a;b", "(1)"):
        assert shlex.split(f"cmd {files.quoted(tmp_path / name)} --more") == ["cmd", name, "--more"]
    place = tmp_path / "my study"
    place.mkdir()
    (place / "best.yml").write_text("")
    (place / "records.jsonl").write_text('{"schema": 1}\n')
    _, (note,) = records.read(place)
    assert "`python -m cmh.reproduce 'my study'` makes them again" in note


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--version"]) == __main__.main(["-V"]) == 0
    assert capsys.readouterr().out == f"cmh {__version__}\n" * 2


def test_the_image_network_has_one_name_and_an_older_one() -> None:
    for name in ("tune", "datasets prepare"):
        text = printed("utf-8", *name.split(), "--help").decode()
        assert "--features NETWORK, --backbone NETWORK" in text
