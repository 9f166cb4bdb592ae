"""What all commands share: one message for a user's error, exit codes, messages on the terminal, argument types."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

from cmh import files
from cmh.errors import CmhError
from cmh.signals import SIGNALS

SIGNS = {  # what stands for a sign that a terminal cannot show
    **{"→": "->", "←": "<-", "±": "+/-", "×": "x", "…": "...", "·": "*", "−": "-", "–": "-", "‖": "||", "√": "sqrt"},
    **{"≤": "<=", "≥": ">=", "≠": "!=", "∈": "in", "⟨": "<", "⟩": ">", "°": " degrees", "“": '"', "”": '"', "’": "'"},
    **{"∘": "o", "½": "1/2", "∇": "grad"},
}

REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)  # of a disk, not of this program
INTERRUPTED = "interrupted; the same command goes on from here"
WRITING_SECONDS = 5.0  # at an end at once, for what a study has not written yet
ELSEWHERE = "results go where --out says, features to $CMH_CACHE, and the ledger of test openings to $CMH_DATA"


def guarded(work: Callable[[], int]) -> int:
    """Run a command's body: 2 and one message for a user's error or a disk that refuses, 130 for an interrupt.

    Meanwhile what cmh logs is shown on stderr.
    """
    with messages_shown():
        try:
            return work()
        except CmhError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        except KeyboardInterrupt:
            sys.stderr.write(f"\n{INTERRUPTED}\n")
            # Within `exec` of a text (so dataclasses are made, while something is imported) an interrupt marks `python
            # -m` to die of SIGINT when it ends, though it was caught (CPython 3.11.7); the next text takes that away.
            eval("0")  # noqa: S307
            return 130
        except BrokenPipeError:
            return 1
        except OSError as error:
            if error.errno not in REFUSALS and not isinstance(error, files.NoLocksError):
                raise
            sys.stderr.write(f"error: {error.filename or 'a file'}: {error.strerror}; {ELSEWHERE}\n")
            return 2


def end(code: int) -> NoReturn:
    """End the process with a code, when all is done: a signal that comes now must not make another one of it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def any_terminal() -> None:
    """From here on stdout and stderr show other signs for those that their encoding has not, instead of failing."""
    codecs.register_error("cmh.signs", _in_other_signs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cmh.signs")


def _in_other_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):  # reading is no business of this
        raise error
    return "".join(map(_other_sign, error.object[error.start : error.end])), error.end


def _other_sign(sign: str) -> str:
    if sign in SIGNS:
        return SIGNS[sign]
    bare = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    if bare or unicodedata.combining(sign):
        return bare
    name = unicodedata.name(sign, "")
    return name.rpartition(" ")[2].lower().replace("lamda", "lambda") if name.startswith("GREEK") else "?"


def end_interrupted() -> NoReturn:
    """End the process now: the second interrupt. What was written is whole, so that nothing is lost by it."""
    os.write(2, b"\ninterrupted again: ended at once; the same command goes on from here\n")
    os._exit(130)


def end_at_once(reason: str, unwritten: Iterable[Callable[[], object]] = (), *, interrupted: bool = False) -> NoReturn:
    """End the process now, from whichever thread; what is `unwritten` has some seconds to be written.

    All else that was written is whole, so that nothing is lost by it.
    """

    def write() -> None:
        for one in unwritten:
            with contextlib.suppress(Exception):  # the storage, or the disk, may be gone, too
                one()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(WRITING_SECONDS)
    os.write(2, f"\n{INTERRUPTED if interrupted else f'error: {reason}'}\n".encode())
    os._exit(130 if interrupted else 2)


@contextlib.contextmanager
def messages_shown() -> Iterator[None]:
    """While the block runs, what cmh logs (from INFO on) stands on stderr, each message once, and nowhere else.

    Whatever was set up for the logger `cmh` before is as it was afterwards.
    """
    logger = logging.getLogger("cmh")
    if any(isinstance(handler, _Terminal) for handler in logger.handlers):
        yield
        return
    handler, before = _Terminal(), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler of the root logger, such as a notebook's, would show each message again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Terminal(logging.Handler):
    """Writes messages to stderr as they are, above the progress bars that stand there."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # late: most starts of a command say nothing

        tqdm.write(self.format(record), file=sys.stderr)


def whole(low: int) -> Callable[[str], int]:
    """An argparse type: an integer >= low."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,18}", text) or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} must be an integer >= {low}")
        return int(text)

    return parse


def number(text: str) -> float:
    """An argparse type: a number >= 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number >= 0")
    return value


def duration(text: str) -> float:
    """An argparse type: 90, 45s, 30m, 1.5h or 2d, in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a time like 45s, 30m or 1.5h")
    return seconds
