"""Write a study's TensorBoard files in full; a search writes them as it goes.

Then `tensorboard --logdir STUDY` shows the scalars of every trial and confirmation, and in HPARAMS what led to what;
`--logdir studies` shows all studies.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from pathlib import Path

from cmh import files
from cmh.errors import StudyError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `python -m cmh.studies tensorboard`."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="a study's folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where they go (default: STUDY/tensorboard)")


def run(arguments: argparse.Namespace) -> int:
    """The command; returns its exit code. Raises ConfigError for what is no study, StudyError where it cannot write."""
    from cmh.views import event_files, story

    found = story.read_study(arguments.study)
    for problem in found.problems:
        log.warning("note: %s", problem)
    place = arguments.out or arguments.study / event_files.FOLDER
    lock = files.locked(arguments.study / ".lock", wait=False) if arguments.out is None else contextlib.nullcontext()
    try:
        with lock:
            event_files.clear(place)
            n_runs = event_files.write(found, place)
    except BlockingIOError:
        raise StudyError(f"{arguments.study}: is being searched, which writes these files; or use --out") from None
    except OSError as error:
        raise StudyError(f"{place}: cannot be written ({error.strerror}); use --out for another folder") from error
    shown = arguments.study if arguments.out is None else place
    sys.stdout.write(f"{n_runs} runs; see them with: tensorboard --logdir {files.quoted(shown)}\n")
    return 0
