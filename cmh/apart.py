"""Work in a process of its own: what it took, a part of a GPU above all, goes with it."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from cmh.errors import CmhError, StudyError
from cmh.signals import SIGNALS

P = ParamSpec("P")
R = TypeVar("R")


def call(work: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
    """What `work` returns, computed in a fresh process; all three travel by pickle, `work` by its name.

    Raises what `work` raises of CmhError, and StudyError where it raised something else or its process died. An
    interrupt ends it.
    """
    context = multiprocessing.get_context("spawn")  # a fork could not use a GPU that this process has asked about
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, work, given, named), daemon=True)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        process.join()
        raise StudyError(f"{work.__name__}: its process died (exit code {process.exitcode})") from None
    finally:
        process.kill()
        process.join()
    if isinstance(found, CmhError):
        raise found
    result: R = found
    return result


def _answer(
    answers: Connection, work: Callable[..., object], given: tuple[object, ...], named: dict[str, object]
) -> None:
    for number in SIGNALS:  # an interrupt of the whole process group: the caller ends this
        signal.signal(number, signal.SIG_IGN)
    try:
        answers.send(work(*given, **named))
    except CmhError as error:
        answers.send(error)
