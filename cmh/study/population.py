"""Many studies in one command: datasets × methods × code lengths, or a method and what it is without a part of it.

Their datasets are read and prepared once; a study that cannot be begun does not take the others along.

The arrays of all datasets lie in the cache, and each process maps those of the piece of work that it has: no number of
datasets needs more memory than the largest of them does.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence

from cmh import files, training
from cmh.datasets import Source
from cmh.errors import ConfigError, StudyError, collected
from cmh.interfaces import Dataset
from cmh.study import opening, preflight, request
from cmh.study.request import Asked, Request, StudyRequest

log = logging.getLogger(__name__)


def check(wanted: Sequence[Asked], known_problems: Sequence[str] = (), *, progress: bool = False) -> Request:
    """The studies of several requests as one request, with the limits and the seeds of the first.

    `known_problems` are those of what is asked beside, for one message; `progress` shows a bar while pictures are
    looked at. Raises what `request.check` does, with the problems of all at once, and ConfigError where two studies
    would have one folder.
    """
    problems = list(known_problems)
    read = functools.cache(functools.partial(training.read, progress=progress))
    looked = [request.looked(asked, read, problems) for asked in wanted]
    if problems := list(dict.fromkeys(problems)):
        raise ConfigError(*problems, heading="" if len(problems) == 1 else "nothing was started")
    known: dict[training.Run, Dataset] = {}

    def load(arrays: training.Run, source: Source | None) -> Dataset:
        if arrays not in known:
            known[arrays] = training.load(arrays, source)
        return known[arrays]

    studies = [study for one in looked for study in one(load)]
    folders = collections.Counter(study.folder for study in studies)
    if twice := [str(folder) for folder, number in folders.items() if number > 1]:
        raise ConfigError(
            f"{len(twice)} folders ({', '.join(twice[:2])}{', …' * (len(twice) > 2)}) would hold two studies each: as"
            " two datasets have one name, or one is asked for twice; studies go by method, dataset and bits"
        )
    return request.together(wanted[0], studies)


def tried(wanted: Request, problems: list[str]) -> Request:
    """The request without the studies of methods that fail on a batch of their dataset, which are `problems`.

    A method is tried once on each dataset. A study that has begun before is not tried. Raises ConfigError where none is
    left.
    """
    verdicts: dict[tuple[object, ...], bool] = {}

    def works(study: StudyRequest) -> None:
        if (study.folder / "study.yml").exists():
            return
        kind = study.space.method, study.dataset.arrays_sha256, *study.fixed.items()
        if kind not in verdicts:
            verdicts[kind] = False
            preflight.try_on_its_device(study, wanted.limits.gpus_per_trial)
            verdicts[kind] = True
        elif not verdicts[kind]:
            raise ConfigError(f"{files.short(study.folder)}: left out, as its method fails on another code length")

    return _those_that(works, wanted, problems)


def begun(wanted: Request, problems: list[str], stack: contextlib.ExitStack) -> Request:
    """The request without the studies whose folders cannot be taken, which are `problems`; the others' are ours for as
    long as the `stack` is open.

    Raises StudyError where none is left.
    """
    return _those_that(lambda study: stack.enter_context(opening.begun(study)), wanted, problems)


def _those_that(does: Callable[[StudyRequest], object], wanted: Request, problems: list[str]) -> Request:
    """The request with the studies for which `does` raises nothing."""
    if len(wanted.studies) == 1:  # its error is the command's, as it is
        does(wanted.studies[0])
        return wanted
    kept, new = [], list[str]()
    for study in wanted.studies:
        before = len(new)
        collected(functools.partial(does, study), new)
        if len(new) == before:
            kept.append(study)
    if not kept:
        raise StudyError(*new)
    for problem in new:
        log.warning("left out: %s", problem)
    problems += new
    return dataclasses.replace(wanted, studies=tuple(kept))
