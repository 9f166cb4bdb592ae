"""What is still true of a record: is it its study's last word, and would today's code and data make it?"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cmh
from cmh import files, identity, records
from cmh.board.find import Run
from cmh.records import Cost

Aged = Callable[[Run], tuple[str, ...]]
_AGAIN = re.compile(r"-[0-9a-f]{12}$")


def age(run: Run) -> tuple[datetime.datetime, str, str, float, float]:
    """Sorts by date; the rest only settles equal dates without looking at the order of files."""
    record = run.record
    return records.moment(record), str(run.folder), record.per_query, record.test["map_i2t"], record.test["map_t2i"]


def board_key(run: Run) -> str:
    """What may stand on one board: same data, split, features, protocol and tie rule."""
    record, made = run.record, run.record.identity
    about = (made.dataset, made.features, record.protocol, made.split_sha256, record.tie_rule, made.dataset_sha256)
    return repr(about)


def configuration(run: Run) -> str:
    """What was trained, whatever it was trained with: everything but seed, code and machine."""
    made = run.record.identity
    return repr((made.method, made.bits, made.epochs, sorted(made.config.items()), sorted(made.settings.items())))


def by(runs: Iterable[Run], key: Callable[[Run], str]) -> list[list[Run]]:
    """The groups in order of their keys, the members in the given order."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return [groups[name] for name in sorted(groups)]


def without_earlier_winners(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """A study that went on after its test may have a new winner: only the latest one speaks for the search.

    What `reproduce` trained again of a study goes with it, wherever it lies: its folder has the study's name. The rest
    in order of age; what is left of a study has the costs of its latest search.
    """
    runs = sorted(runs, key=age)
    kept = [run for run in runs if run.record.selection != "validation"]
    winners: dict[str, dict[str, Cost]] = {}  # a study's name → its winner's configuration → the search
    studies = by((run for run in runs if run.record.selection == "validation"), _study)
    for study in sorted(studies, key=lambda study: _trained_again(study[-1])):  # the studies themselves first
        last = study[-1]
        found = {configuration(last): last.record.search}
        if _trained_again(last):
            found = winners.get(_named(last), found)  # its study may not be on this board
        else:
            winners.setdefault(_named(last), {}).update(found)
        latest = [run for run in study if configuration(run) in found]
        kept += [Run(run.folder, dataclasses.replace(run.record, search=found[configuration(run)])) for run in latest]
        if left := len(study) - len(latest):
            notes.append(f"{last.folder}: {left} test run{'s' * (left > 1)} of an earlier winner left out")
    return sorted(kept, key=age)


def _trained_again(run: Run) -> bool:
    """Whether `reproduce` may have made it: its folders are called NAME-IDENTITY."""
    return _AGAIN.search(run.record.study) is not None


def _named(run: Run) -> str:
    made = run.record.identity
    return board_key(run) + repr((_AGAIN.sub("", run.record.study), made.method, made.bits))


@functools.cache
def _resolved(folder: Path) -> str:
    return str(folder.resolve())


def _study(run: Run) -> str:
    # With the folder: two searches that happen to have one name are two results, and neither hides the other.
    # With the label: what was changed of a winner does not replace it.
    record = run.record
    about = (_resolved(run.folder), record.study, record.identity.method, record.identity.bits, record.label)
    return board_key(run) + repr(about)


def aged(run: Run) -> tuple[str, ...]:
    """Which of `code`, `data` are no longer those that made the record, as far as this installation knows them.

    The code of a method of one's own, and data other than the built-in clip art, may lie anywhere: nothing is said.
    """
    made = run.record.identity
    code = _code(made.method)
    data = _clipart() if made.dataset == "clipart" else None
    old = ("code",) * (code is not None and code != made.code)
    return old + ("data",) * (data is not None and data != (made.dataset_sha256, made.split_sha256))


@functools.cache
def _code(method: str) -> str | None:
    file = Path(cmh.__file__).parent / "methods" / f"{method}.py"
    return identity.code_hash(file) if method.isidentifier() and method[0] != "_" and file.is_file() else None


@functools.cache
def _clipart() -> tuple[str, str]:
    from cmh.datasets import clipart  # late: only boards of it have to wait

    source = clipart.read()
    return source.sha256, source.split.sha256()


def again(run: Run) -> str:
    """The command that makes a run again."""
    if any((run.folder / name).is_file() for name in ("best.yml", "run.yml")):
        return f"`python -m cmh.reproduce {files.quoted(run.folder)}` makes it again"
    return f"{run.folder} has no best.yml or run.yml to make it again from"
