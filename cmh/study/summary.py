"""Studies on disk, in short: what state they are in, without touching them."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

from cmh import files, records
from cmh.config import load_yaml
from cmh.errors import CmhError, ConfigError
from cmh.study import aside, trial_row
from cmh.study.database import open_study
from cmh.study.folder import points_of, read_study, storage_of
from cmh.study.trial_row import TrialRow


@dataclasses.dataclass(frozen=True)
class Summary:
    """A study as a list shows it; `problem` says why nothing else is known."""

    folder: Path
    state: str = "unreadable"  # running, interrupted, searched, confirmed, measured (given points), or unreadable
    rows: tuple[TrialRow, ...] = ()  # of its trials, without their hyperparameters
    asked: int | None = None  # trials; None where an older cmh did not note it
    confirmed: int = 0  # seeds of the winner that have a record
    changed: datetime.datetime | None = None
    winner: TrialRow | None = None  # as it stands
    finalists: int = 0  # how many of the best trials get further seeds
    problem: str = ""

    @property
    def finished(self) -> int:
        """Trials that have ended and count."""
        return sum(row.state != "interrupted" and row.failure != "moved" for row in self.rows)


def find(roots: list[Path]) -> list[Path]:
    """The folders of all studies at or below `roots`, sorted, each once; hidden folders are not entered.

    Raises ConfigError that lists every root that is no folder.
    """
    if wrong := [f"{root}: is no folder" for root in roots if not root.is_dir()]:
        raise ConfigError(*wrong, "ROOT is the folder that holds studies: what `python -m cmh.tune` has as --out")
    found = {place.resolve(): place for root in roots for place in _below(root)}
    return sorted(found.values())


def _below(root: Path) -> Iterator[Path]:
    for place, inner, names in os.walk(root):
        inner[:] = [] if "study.yml" in names else sorted(name for name in inner if not name.startswith("."))
        if "study.yml" in names:
            yield Path(place)


def read(folder: Path) -> Summary:
    """What state the study is in."""
    try:
        study = open_study(*storage_of(folder))
        trials = study.get_trials(deepcopy=False)
        kept = study.user_attrs
        known, _ = records.read(folder)
    except CmhError as error:
        return Summary(folder, problem=" ".join(str(error).split()))
    rows = tuple(
        trial_row.from_stored(trial.number, trial.state.name, trial.intermediate_values, trial.user_attrs, {})
        for trial in trials
        if trial.state.name != "WAITING"
    )
    asked, standing = kept.get("asked"), aside.standing(rows, kept, read_study(folder).seed or 0)
    found = Summary(
        folder,
        "",
        rows,
        asked if isinstance(asked, int) else None,
        winner=standing.winner,
        finalists=aside.finalists_of(kept),
    )
    confirmed = len({record.identity.seed for record in known if record.identity.config == _winning(folder)})
    state = "running" if files.is_locked(folder / ".lock") else _state(found, confirmed)
    return dataclasses.replace(found, state=state, confirmed=confirmed, changed=_changed(folder))


def _state(found: Summary, confirmed: int) -> str:
    """Of a study that no process has."""
    left = found.asked is not None and found.finished < found.asked
    if left or any(row.state == "interrupted" for row in found.rows):
        return "interrupted"
    if points_of(found.folder):
        return "measured"
    if not (found.folder / "best.yml").is_file():
        return "interrupted"
    return "confirmed" if confirmed else "searched"


def _winning(folder: Path) -> object:
    """The winner's hyperparameters; None where there is no winner yet."""
    path = folder / "best.yml"
    document = load_yaml(path) if path.is_file() else None
    return document.get("config") if isinstance(document, dict) else None


def _changed(folder: Path) -> datetime.datetime:
    """When a file of the study was last written."""
    return datetime.datetime.fromtimestamp(max(path.stat().st_mtime for path in folder.glob("[!.]*")), datetime.UTC)
