"""Which runs a study makes beside its search, and what is said of each (`aside.py` has what came out of them)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmh.study import aside, finals, folder, weights
from cmh.study.aside import Aside
from cmh.study.request import StudyRequest
from cmh.study.storage import Store
from cmh.study.trial_row import TrialRow
from cmh.study.work import RunningValidation


def control(study: StudyRequest, store: Store) -> list[RunningValidation]:
    """The library's default, trained as a trial is, where it has not been yet; none where the search starts from it, or
    where nothing is searched (`points`)."""
    if study.space.starts_from("default") or folder.POINTS in study.notes or aside.CONTROL in aside.kept(store.kept()):
        return []
    place = (study.folder / aside.CONTROLS / aside.CONTROL).resolve()
    return [RunningValidation({**study.base, **study.noted_run, "folder": str(place)})]


def seed(study: StudyRequest, row: TrialRow, number: int) -> RunningValidation:
    """A trial's configuration with another seed."""
    place = (study.folder / aside.FINALS / aside.name_of(row.number, number)).resolve()
    values = {**row.config, **study.noted_run, **study.space.run_of(row.origin), "seed": number}
    return RunningValidation({**values, "folder": str(place)}, row.number)


def place(study: StudyRequest, one: Aside) -> Path:
    """The folder of a run."""
    return study.folder / (aside.CONTROLS if one.trial is None else aside.FINALS) / one.name


def keeper(study: StudyRequest, store: Store) -> weights.Keeper | None:
    """Who removes weights while the search runs; None where all stay."""
    return weights.Keeper(study.folder, store.rows(), study.space.finalists) if study.keep == "winner" else None


def share(study: StudyRequest) -> float:
    """The last part of the study's budget, that is kept for further seeds."""
    kept = finals.runs(study.space.finalists)
    return kept / (kept + study.limit)


def announced(missing: Sequence[tuple[int, int]]) -> str:
    """A round of (trial, seed) runs, for people."""
    by_trial = {number: [str(seed) for trial, seed in missing if trial == number] for number, _ in missing}
    further = "; ".join(f"trial {number}: {', '.join(seeds)}" for number, seeds in by_trial.items())
    return f"the best trials get further seeds on validation ({further})"


def line(one: Aside) -> str:
    """What came out of a run, for people."""
    what = "library default (control)" if one.trial is None else f"trial {one.trial} with seed {one.seed}"
    if one.val_map is None:
        return f"{what}: failed: {one.error}"
    epoch = f"epoch {one.best_epoch}/{one.epochs}"
    return f"{what}: validation MAP {one.val_map:.4f}, {epoch}, {one.seconds:.0f} s"
