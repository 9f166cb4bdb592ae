"""Free disk space: remove the weights of trials that have ended and did not win.

What stays: the winner's weights and those of the confirmed runs, codes, settings, curves, logs and the storage. So the
study goes on as before, and `cmh.reproduce STUDY:TRIAL` trains any trial again. Nothing is removed without --delete; a
study that runs is left alone (it cleans up by itself).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from cmh import files
from cmh.errors import CmhError, StudyError
from cmh.views import listing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the subcommand takes."""
    listing.add_arguments(parser)
    parser.add_argument("--delete", action="store_true", help="remove what is shown (default: only show it)")


def run(arguments: argparse.Namespace) -> int:
    """Show, or remove, what nobody needs; the exit code. Raises StudyError for the studies that cannot be cleaned."""
    from cmh.study import summary  # late: it brings PyTorch and Optuna

    problems: list[str] = []
    total = 0
    for folder in summary.find(arguments.roots):
        try:
            freed = clean(folder, delete=arguments.delete)
        except CmhError as error:
            problems += error.problems
            continue
        total += sum(freed.values())
        sys.stdout.write("".join(f"{_size(size)}  {files.short(path)}\n" for path, size in freed.items()))
    done = "freed" if arguments.delete else "would be freed; --delete frees them"
    sys.stdout.write(f"{_size(total)}  {done}\n")
    if problems:
        raise StudyError(*problems)
    return 0


def clean(folder: Path, *, delete: bool) -> dict[Path, int]:
    """The files of a study that nobody needs, with their bytes; they are removed if `delete` says so.

    Raises StudyError where the study runs, or cannot be read or written.
    """
    from cmh.study import summary, weights

    with _unused(folder, writes=delete):
        found = summary.read(folder)
        if found.problem:
            raise StudyError(f"{folder}: {found.problem}")
        sizes = {path: path.lstat().st_size for path in weights.superfluous(folder, found.rows, found.finalists)}
        if delete:
            weights.remove(sizes)
    return {path: size for path, size in sizes.items() if not (delete and path.exists())}


@contextlib.contextmanager
def _unused(folder: Path, *, writes: bool) -> Iterator[None]:
    """Within the block no search has the folder. Looking needs no right to write there, nor room on the disk."""
    lock = folder / ".lock"
    try:
        if files.is_locked(lock):
            raise BlockingIOError
        with files.locked(lock, wait=False) if writes else contextlib.nullcontext():
            yield
    except BlockingIOError:
        raise StudyError(f"{folder}: is running, and cleans up by itself; interrupt it first") from None
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written ({error.strerror}); only its owner can clean it") from error


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:>9,.1f} MiB"
