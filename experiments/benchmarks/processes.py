"""Long work in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def as_they_come(work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int) -> Iterator[Result]:
    """What `work` gives for each task as soon as it is there, by so many processes; by this one where that is 1."""
    if jobs == 1:
        yield from map(work, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _end_with, (os.getpid(),)) as pool:
        yield from pool.imap_unordered(work, tasks)
        pool.close()
        pool.join()


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would train what it has, and then wait for ever for more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
