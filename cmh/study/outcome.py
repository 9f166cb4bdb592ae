"""What a search has found and what it has cost: the value that the closing table shows, and the winner's file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cmh.config import INPUTS
from cmh.errors import StudyError
from cmh.records import Cost, Record
from cmh.study import aside, folder
from cmh.study.aside import Aside
from cmh.study.request import StudyRequest
from cmh.study.storage import Store
from cmh.study.trial_row import TrialRow

CHANCE_DIGITS = 1e-9  # how far equal codes' MAP may be from chance's by rounding

TAKEN = ("split", "captions", "skip_bad")  # how the dataset is read: named where they are not at their defaults

Scores = tuple[float | None, float | None, float | None]  # validation MAP: i→t, t→i, and their mean


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A study that has ended."""

    study: StudyRequest
    rows: Sequence[TrialRow]  # of all its trials
    best: TrialRow
    controls: Mapping[str, Scores]  # by name, in the order in which they are shown
    records: Sequence[Record]  # of the confirmation, by seed; none where the test split stays closed
    asides: Mapping[str, Aside] = dataclasses.field(default_factory=dict)  # runs beside the search, by name


def cost(rows: Sequence[TrialRow], store: Store) -> Cost:
    """What the search of these trials has cost by now, further seeds of the best ones included.

    The library's default is a control, trained beside the search: it is no part of the cost.
    """
    further = aside.of_seeds(aside.kept(store.kept()).values()).values()
    return Cost(
        trials=len(rows) + len(further),
        epochs=sum(row.spent for row in rows) + sum(one.epochs for one in further),
        passes=sum(row.passes for row in rows) + sum(one.passes for one in further),
        seconds=store.seconds(),
        device_seconds=sum(row.device_seconds or 0.0 for row in rows) + sum(one.device_seconds for one in further),
    )


def write_winner(study: StudyRequest, best: TrialRow, spent: Cost) -> None:
    """`best.yml` in the study's folder: the trial `best` as an experiment file, for `cmh.reproduce`."""
    run, places = {**study.run, **study.space.run_of(best.origin)}, study.places()
    folder.write_yaml(
        study.folder / "best.yml",
        {
            "method": places["method_file"],
            "dataset": places["dataset"],
            **{key: run[key] for key in TAKEN if run[key] not in ("torchcmh", "given", False)},
            "features": run["features"],
            **({"weights": places["weights"]} if "weights" in places else {}),
            "bits": run["bits"],
            "epochs": study.space.epochs,
            **{key: run[key] for key in INPUTS if key in run and key != "validation_database"},
            "seeds": [study.seed],
            "threads": run["threads"],
            "selection": "validation",
            **({"label": study.label} if study.label else {}),
            "config": best.config,
            "search": {
                "study": study.folder.name,
                "trial": best.number,
                "trials": spent.trials,
                "epochs": spent.epochs,
                "passes": round(spent.passes, 3),
                "seconds": round(spent.seconds, 1),
                "device_seconds": round(spent.device_seconds, 1),
                "val_map": best.val_map_best,
                "prior": study.prior,
            },
        },
    )


def nothing_learned(rows: Sequence[TrialRow], controls: Mapping[str, Scores]) -> str:
    """In words, that no epoch of any trial was better than chance or another one; empty where one was."""
    values = {value for row in rows for value in row.curve.values()}
    floor = controls.get("chance", (None, None, 0.0))[2] or 0.0
    if len(values) != 1 or max(values) > floor + CHANCE_DIGITS:
        return ""
    return (
        f"nothing was learned: each epoch of all {len(rows)} trials has the validation MAP {max(values):.4f},"
        f" and chance has {floor:.4f}"
    )


def no_winner(study: StudyRequest, rows: Sequence[TrialRow]) -> StudyError:
    """That no trial was completed, why, and what helps."""
    cures = {"pruned": "more --trials", "interrupted": "a longer --time-budget or --budget-passes"}
    counts = {state: sum(row.state == state for row in rows) for state in cures}
    return StudyError(
        f"{study.folder}: no trial was completed, so there is no winner; see {study.folder / 'trials.csv'}",
        *[
            f"trials {state}: {count}; the same command with {cures[state]} goes on"
            for state, count in counts.items()
            if count
        ],
        *[f"trial {row.number}: {row.error}" for row in rows if row.state == "failed"][:3],
    )
