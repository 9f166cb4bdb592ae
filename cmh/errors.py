"""Errors that a user can cause or cure. Anything else is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class CmhError(Exception):
    """Root of all errors that the commands show as one message (exit code 2, no traceback).

    Parameters
    ----------
    problems: one line each: the thing, the value received, the rule, the likely cure.
    heading: what was being done; shown above the problems.
    """

    def __init__(self, *problems: str, heading: str = "") -> None:
        self.problems = problems
        self.heading = heading
        super().__init__(*problems)

    def __str__(self) -> str:
        if not self.heading and len(self.problems) == 1:
            return self.problems[0]
        lines = [f"  - {problem}" for problem in self.problems]
        return "\n".join([f"{self.heading}:" if self.heading else "several problems:", *lines])

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive the way between Ray processes by themselves.
        return (_rebuild, (type(self), self.problems, self.heading))


def _rebuild(cls: type[CmhError], problems: tuple[str, ...], heading: str) -> CmhError:
    return cls(*problems, heading=heading)


class ConfigError(CmhError):
    """A setting, a space file or an experiment file breaks a rule."""


class DatasetError(CmhError):
    """A dataset is unknown, missing or broken."""


class StudyError(CmhError):
    """A study folder cannot be used as asked."""


class CheckpointError(CmhError):
    """A checkpoint cannot be read."""


class OtherRunError(CheckpointError):
    """A checkpoint is sound, but of another run."""


class RecordError(CmhError):
    """A records file cannot be read."""


class ContradictionError(RecordError):
    """A record's number is not what the files beside it give: one of the two was edited or exchanged."""


class LedgerError(CmhError):
    """An opening of the test split cannot be noted."""


class EncoderError(CmhError):
    """A study or run cannot be used to encode, or what is given cannot be encoded."""


class BundleError(CmhError):
    """A bundle cannot be packed, cannot be read, or is not what it says."""


class MetricError(CmhError):
    """Codes, labels or settings that a metric cannot be computed from."""


class ExportError(CmhError):
    """Codes that cannot be handed over to a search engine, or that it does not search as they are."""


class NotFiniteError(CmhError):
    """A loss or a code became NaN or infinite: the trial ends as failed (`nan`)."""


def collected(work: Callable[[], Result], problems: list[str]) -> Result | None:
    """What `work` returns; None where it raises CmhError, whose problems are added to `problems`.

    So whoever checks many things can name everything that is wrong at once.
    """
    try:
        return work()
    except CmhError as error:
        problems += [f"{error.heading}: {problem}" if error.heading else problem for problem in error.problems]
        return None
