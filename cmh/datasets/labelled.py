"""Items without labels: where nothing can be said about them, they are left out, and that is said."""

from __future__ import annotations

import functools
import logging

from cmh.interfaces import Arrays

log = logging.getLogger(__name__)


def evaluated(database: Arrays, called: str) -> Arrays:
    """The items of a database of which it is known whether they answer a query."""
    known = database.labelled()
    if known is not database:
        n = len(database.labels)
        say(f"{called}: evaluation leaves out {n - len(known.labels):,} of {n:,} database items: they have no label")
    return known


@functools.cache
def say(line: str) -> None:
    """To whoever listens, once a process: a command trains several times on the same items."""
    log.info("%s", line)
