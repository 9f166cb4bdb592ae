"""What a study of `soak.py` has kept: the storage, `trials.csv` and the trials' folders against each other."""

from __future__ import annotations

import collections
import csv
from pathlib import Path
from typing import Any

from cmh import study


def wrong(folder: Path, n_trials: int, n_broken: int) -> dict[str, int]:
    """What is wrong, by kind."""
    trials = study.open(folder).get_trials(deepcopy=False)
    with (folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    listed = collections.Counter(int(row["number"]) for row in rows)
    points = collections.Counter(
        (trial.user_attrs.get("origin"), *trial.params.items())
        for trial in trials
        if "copied_from" not in trial.user_attrs.get("result", {})
    )
    numbers, found = set(range(n_trials)), collections.Counter[str]()
    found["lost"] = len(numbers - {trial.number for trial in trials if trial.state.is_finished()})
    found["lost"] += len(numbers - set(listed))
    found["duplicated"] = sum(count - 1 for count in (*listed.values(), *points.values())) + len(trials) - n_trials
    found["left running"] = sum(not trial.state.is_finished() for trial in trials)
    for trial, row in zip(trials, rows, strict=False):
        stored, result = trial.intermediate_values, trial.user_attrs.get("result", {})
        expected = 8 if row["state"] == "complete" else result.get("rung", 1)
        found["wrongly failed"] += (trial.number < n_broken) != (row["state"] == "failed")
        if "copied_from" not in result:
            with (folder / "trials" / row["number"] / "curve.csv").open(newline="") as file:
                curve = [(int(line["epoch"]), float(line["val_map"])) for line in csv.DictReader(file)]
            right = sorted(stored.items()) == curve and [epoch for epoch, _ in curve] == [*range(1, expected + 1)]
            found["wrong curves"] += not right
    return dict(found)


def outcome(folder: Path) -> list[Any]:
    """What of the study does not depend on the clock."""
    return [
        (trial.number, trial.state, trial.params, trial.intermediate_values, trial.values)
        for trial in study.open(folder).get_trials(deepcopy=False)
    ]
