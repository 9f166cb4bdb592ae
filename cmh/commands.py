"""What all commands share: one message for a user's error, exit codes, and argument types."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from cmh.config import Value
from cmh.errors import CmhError, ConfigError


def guarded(work: Callable[[], int]) -> int:
    """Run a command's body: 2 and one message for a user's error, 130 for an interrupt."""
    try:
        return work()
    except CmhError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command goes on from here\n")
        return 130
    except BrokenPipeError:
        return 1


def end_interrupted() -> NoReturn:
    """End the process now: the second interrupt. What was written is whole, so that nothing is lost by it."""
    os.write(2, b"\ninterrupted again: ended at once; the same command goes on from here\n")
    os._exit(130)


def end_at_once(reason: str) -> NoReturn:
    """End the process now, from whichever thread. What was written is whole, so that nothing is lost by it."""
    os.write(2, f"\nerror: {reason}\n".encode())
    os._exit(2)


def settings(pairs: Iterable[str]) -> dict[str, Value]:
    """`KEY=VALUE` arguments; values are checked later, by the Config they belong to.

    Raises ConfigError that lists every pair without `=`.
    """
    if bad := [pair for pair in pairs if "=" not in pair or pair.startswith("=")]:
        raise ConfigError(*(f"--set {pair}: must be KEY=VALUE" for pair in bad))
    values: dict[str, Value] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        values[key.strip()] = {"true": True, "false": False}.get(text.strip().lower(), text.strip())
    return values


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


def short(path: Path) -> str:
    """A path as a person would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
