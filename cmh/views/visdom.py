"""Show a study in the windows of a visdom server; `cmh.tune --visdom` shows it while it runs.

Each run has an environment of its own with its losses and MAPs, the study one with the best so far and all trials.
docs/live.md says how to start a server.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import re
import sys
from pathlib import Path

from cmh.errors import ConfigError, StudyError

log = logging.getLogger(__name__)

SERVER = "localhost:8097"
EXTRA = (
    'is not installed; pip install "setuptools<81" wheel "tornado<6.6" && pip install --no-build-isolation visdom (the'
    " extra [visdom])"
)


def address(text: str) -> tuple[str, int]:
    """An argparse type: HOST:PORT."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):(\d{1,5})", text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} must be HOST:PORT, like {SERVER}")
    return match[1], int(match[2])


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--visdom` of a command that trains."""
    parser.add_argument(
        "--visdom",
        type=address,
        nargs="?",
        const=address(SERVER),
        metavar="HOST:PORT",
        help=f"show losses and MAPs in a visdom server that runs (default: {SERVER}; docs/live.md)",
    )


def check() -> None:
    """Raises ConfigError where the package is missing."""
    if importlib.util.find_spec("visdom") is None:
        raise ConfigError(f"--visdom: visdom {EXTRA}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `python -m cmh.studies visdom`."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="a study's folder")
    parser.add_argument(
        "--server", type=address, default=address(SERVER), metavar="HOST:PORT", help=f"default: {SERVER}"
    )


def run(arguments: argparse.Namespace) -> int:
    """The command; returns its exit code.

    Raises ConfigError for what is no study or without visdom, StudyError where the server does not take it.
    """
    check()
    from cmh.views import story, windows

    found = story.read_study(arguments.study)
    for problem in found.problems:
        log.warning("note: %s", problem)
    host, port = arguments.server
    shown = windows.Windows(host, port, found.name)
    try:
        for trial in found.trials:
            shown.trial(trial)
        for beside in found.besides:
            shown.beside(beside)
        for confirmed in found.confirmations:
            shown.confirmation(confirmed)
        shown.flush(last=True)
    except OSError as error:
        raise StudyError(f"visdom at {host}:{port}: {error}; docs/live.md says how to start a server") from error
    sys.stdout.write(f"{len(shown.environments)} environments at http://{host}:{port}, the first: {shown.study}\n")
    return 0
